//! Keeps a recording: its trace, compressed, and its line of the manifest; or reports why not. Of
//! the host it keeps its size, and what the sensors could not see; the cgroup of the recorder is
//! left out.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, bail, ensure};
use spillway_agent::sense::{Fact, Observation};
use spillway_tests::{
    corpus::Source,
    queues::{Entry, put},
    recorder::write_trace,
};

use crate::{label, plays::Play, set::Played};

/// Maximum gap in the truth, which bounds the error of labels: half of the agent's interval.
const BLIND_MAX: Duration = Duration::from_millis(50);
/// Maximum size of a trace in bytes, so that checkouts stay small.
const BYTES_MAX: u64 = 100_000;

/// Cgroup named in traces.
const CGROUP: &str = "/spillway-record";

/// Writes the trace and its label below the corpus.
pub(crate) fn keep(play: &Play, played: &Played, corpus: &Path) -> anyhow::Result<()> {
    let Played { head, observations, history, addr, did, target } = played;
    let blind = history.longest_gap();
    ensure!(
        blind <= BLIND_MAX,
        "the truth had a gap of {} ms\n  hint: other processes use the machine",
        blind.as_millis()
    );
    let mut overloads = label::overloads(history, *did, (head.origin, *target), play.scarce);
    let (deepest, longest) = (history.deepest(), history.longest_stand(*target));
    let seen = format!("the deepest queue {deepest}, the longest stand {} ms", longest.as_millis());
    label::check(&overloads, *did, head.origin).with_context(|| seen.clone())?;
    let addr = addr.to_string();
    let own = |fact: &Fact| matches!(fact, Fact::Listener(listener) if *listener.addr == *addr);
    let first = observations.iter().position(|observation| own(&observation.fact));
    let (Some(_), Some(last)) = (first, observations.last()) else {
        bail!("the sensors never saw {addr}")
    };
    // The truth sampled for a moment longer.
    overloads.iter_mut().for_each(|overload| overload.end_secs = overload.end_secs.min(last.t));
    let name = format!("recorded/{}.jsonl.gz", play.name);
    let is_kept = |observation: &&Observation| {
        own(&observation.fact) || matches!(observation.fact, Fact::Sensing(_))
    };
    let cgroup: Arc<str> = CGROUP.into();
    let kept = observations.iter().filter(is_kept).cloned().map(|mut observation| {
        if let Fact::Listener(listener) = &mut observation.fact {
            listener.cgroup = cgroup.clone();
        }
        observation
    });
    let bytes = write_trace(head, kept, &corpus.join(&name))?;
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
        interval_secs: head.pace.listeners.as_secs_f64(),
        why: play.why.to_owned(),
    };
    put(&corpus.join("recorded/manifest.jsonl"), entry)
}
