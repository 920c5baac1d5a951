//! The corpus of request queues.

use std::path::Path;

use spillway_agent::engine::HostInfo;
use spillway_tests::{
    corpus::{Compared, Part},
    queues::requests::{
        Entry, FAMILIES, HELD_OUT_FROM, Report, Scored, Stream, entry, load, score_run,
    },
};

use crate::command::{About, Corpus, Observations};

/// The corpus of request queues.
pub(crate) struct Requests;

impl Corpus for Requests {
    type Entry = Entry;
    type Scored = Scored;
    type Report = Report;

    const DIR: &str = "requests";

    fn families() -> Vec<(&'static str, Part, u64, &'static str)> {
        let of = |part: Part| {
            FAMILIES.iter().map(move |family| (family.name, part, family.runs, family.why))
        };
        of(Part::Tuning).chain(of(Part::HeldOut)).collect()
    }

    fn first_seed(part: Part) -> u64 {
        if part == Part::HeldOut { HELD_OUT_FROM } else { 0 }
    }

    fn load(manifest: &Path) -> anyhow::Result<Vec<Entry>> {
        load(manifest)
    }

    fn make(family: &str, seed: u64) -> Option<Entry> {
        FAMILIES.iter().find(|one| one.name == family).map(|family| entry(family, seed))
    }

    fn about(entry: &Entry) -> About<'_> {
        let Entry { run, family, part, interval_secs, .. } = entry;
        // The name of a recording says what it is: a server, and a scene.
        let recorded = entry.trace.as_deref();
        About { run, family, part: *part, recorded, interval_secs: *interval_secs }
    }

    fn observations(entry: &Entry, dir: &Path) -> anyhow::Result<(HostInfo, Observations)> {
        let stream = Stream::open(entry, dir)?;
        Ok((stream.host(), Box::new(stream)))
    }

    /// Always scores the usual alerts too, which cost nothing.
    fn score(entry: &Entry, dir: &Path, _compared: Compared) -> anyhow::Result<Scored> {
        score_run(entry, dir)
    }
}
