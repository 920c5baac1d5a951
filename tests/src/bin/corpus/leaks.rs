//! The corpus of leaks and of healthy processes.

use std::path::Path;

use spillway_agent::engine::HostInfo;
use spillway_tests::corpus::{
    Compared, Entry, FAMILIES, Part, Report, Run, Scored, Source, Stream, load, score_run,
};

use crate::command::{About, Corpus, Observations};

/// The corpus of leaks.
pub(crate) struct Leaks;

impl Corpus for Leaks {
    type Entry = Entry;
    type Scored = Scored;
    type Report = Report;

    const DIR: &str = "";

    fn families() -> Vec<(&'static str, Part, u64, &'static str)> {
        FAMILIES.iter().map(|family| (family.name, family.part, family.runs, family.why)).collect()
    }

    fn load(manifest: &Path) -> anyhow::Result<Vec<Entry>> {
        load(manifest)
    }

    fn make(family: &str, seed: u64) -> Option<Entry> {
        let family = FAMILIES.iter().find(|one| one.name == family)?;
        Some(Run::new(family, seed).entry)
    }

    fn about(entry: &Entry) -> About<'_> {
        let recorded = (entry.source == Source::Recorded).then_some(entry.why.as_str());
        let Entry { run, family, part, interval_secs, .. } = entry;
        About { run, family, part: *part, recorded, interval_secs: *interval_secs }
    }

    fn observations(entry: &Entry, dir: &Path) -> anyhow::Result<(HostInfo, Observations)> {
        let stream = Stream::open(entry, dir)?;
        Ok((stream.host, Box::new(stream.observations())))
    }

    fn score(entry: &Entry, dir: &Path, compared: Compared) -> anyhow::Result<Scored> {
        score_run(entry, dir, compared)
    }
}
