//! Keeps a recording: its trace, compressed, and its line of the manifest; or reports why not. Of
//! the host it keeps its size, and what the sensors could not see; the cgroup of the recorder is
//! left out.

use std::{fs::File, io::Write as _, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, bail, ensure};
use flate2::{Compression, write::GzEncoder};
use spillway_agent::{sense::Fact, trace::TraceWriter};
use spillway_tests::{
    corpus::Source,
    queues::{Entry, put},
};

use crate::{label, plays::Play, recorder::Recorded, set::Played};

/// Maximum gap in the truth, which bounds the error of labels: half of the agent's interval.
const BLIND_MAX: Duration = Duration::from_millis(50);
/// Maximum size of a trace in bytes, so that checkouts stay small.
const BYTES_MAX: u64 = 100_000;

/// Cgroup named in traces.
const CGROUP: &str = "/spillway-record";

/// Writes the trace and its label below the corpus.
pub(crate) fn keep(play: &Play, played: &Played, corpus: &Path) -> anyhow::Result<()> {
    let Played { recorded, history, addr, did, target } = played;
    let blind = history.longest_gap();
    ensure!(
        blind <= BLIND_MAX,
        "the truth had a gap of {} ms\n  hint: other processes use the machine",
        blind.as_millis()
    );
    let mut overloads = label::overloads(history, *did, (recorded.origin, *target), play.scarce);
    let (deepest, longest) = (history.deepest(), history.longest_stand(*target));
    let seen = format!("the deepest queue {deepest}, the longest stand {} ms", longest.as_millis());
    label::check(&overloads, *did, recorded.origin).with_context(|| seen.clone())?;
    let addr = addr.to_string();
    let own = |fact: &Fact| matches!(fact, Fact::Listener(listener) if *listener.addr == *addr);
    let first = recorded.observations.iter().position(|observation| own(&observation.fact));
    let (Some(_), Some(last)) = (first, recorded.observations.last()) else {
        bail!("the sensors never saw {addr}")
    };
    // The truth sampled for a moment longer.
    overloads.iter_mut().for_each(|overload| overload.end_secs = overload.end_secs.min(last.t));
    let name = format!("recorded/{}.jsonl.gz", play.name);
    let bytes =
        write(recorded, |fact| own(fact) || matches!(fact, Fact::Sensing(_)), &corpus.join(&name))?;
    ensure!(bytes <= BYTES_MAX, "its trace takes {bytes} bytes");
    eprintln!(
        "  kept: {:<28} {bytes:>6} bytes; {seen}, longest gap {} ms",
        play.name,
        blind.as_millis()
    );
    for overload in &overloads {
        eprintln!("        {overload:?}");
    }
    let entry = Entry {
        run: format!("{}/recorded", play.name),
        family: play.name.to_owned(),
        part: play.part,
        source: Source::Recorded,
        seed: None,
        trace: Some(name),
        addr,
        overloads,
        tolerated: Vec::new(),
        secs: last.t,
        interval_secs: recorded.pace.listeners.as_secs_f64(),
        why: play.why.to_owned(),
    };
    put(&corpus.join("recorded/manifest.jsonl"), entry)
}

fn write(recorded: &Recorded, wanted: impl Fn(&Fact) -> bool, path: &Path) -> anyhow::Result<u64> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut writer = TraceWriter::new(
        GzEncoder::new(file, Compression::best()),
        recorded.host,
        recorded.pace.processes.as_secs_f64(),
    )?;
    let cgroup: Arc<str> = CGROUP.into();
    for observation in recorded.observations.iter().filter(|observation| wanted(&observation.fact))
    {
        let mut observation = observation.clone();
        if let Fact::Listener(listener) = &mut observation.fact {
            listener.cgroup = cgroup.clone();
        }
        writer.write(&observation)?;
    }
    let mut file = writer.finish()?.finish()?;
    file.flush()?;
    Ok(file.metadata()?.len())
}
