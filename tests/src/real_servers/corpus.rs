//! Recordings of scenes for the corpus of request queues, labelled by the waits of their clients.

use std::{fs, path::Path, sync::Arc};

use anyhow::ensure;
use spillway_agent::sense::Fact;

use super::{run::Outcome, watching::Watching};
use crate::{
    corpus::Part,
    queues::requests::{Entry, RECORDED, put},
    recorder::write_trace,
};

/// Servers that are recorded, each at eight tenths and at 1.3 times of its capacity. Chosen before
/// anything was scored; those of one language are in one part.
const TUNING: [&str; 4] = ["gunicorn-gthread", "uvicorn", "node", "node-cluster"];
const HELD_OUT: [&str; 4] = ["go-net-http", "java-httpserver", "redis", "postgres"];
const SCENES: [&str; 2] = ["four-fifths-pooled", "over-pooled"];

/// Maximum size of a trace in bytes, so that checkouts stay small.
const BYTES_MAX: u64 = 60_000;

/// Cgroup named in traces.
const CGROUP: &str = "/scene";

/// Returns the part that a scene is recorded for.
pub(super) fn part(family: &str, scene: &str) -> Option<Part> {
    if !SCENES.contains(&scene) {
        return None;
    }
    let of = |part, servers: &[&str]| servers.contains(&family).then_some(part);
    of(Part::Tuning, &TUNING).or_else(|| of(Part::HeldOut, &HELD_OUT))
}

/// Writes the trace and the label of a scene below the corpus's directory. A scene that its clients
/// contradict is not kept, whatever has been claimed about it.
///
/// # Errors
///
/// Returns an error if the scene is not one that is recorded, could not be played as it should be,
/// or cannot be written.
pub(super) fn keep(outcome: &Outcome, watching: &Watching, dir: &Path) -> anyhow::Result<()> {
    let Some(part) = part(outcome.family.name, outcome.scene.name) else { return Ok(()) };
    let seen = outcome.seen.as_ref().map_err(|reason| anyhow::anyhow!("{reason}"))?;
    ensure!(seen.judged.is_right.is_some(), "its clients contradict it");
    let played = &seen.played;
    let (head, facts) = watching.recorded(played.origin, played.netns, &played.watched)?;
    let name = outcome.name.replace('/', "-");
    let trace = format!("recorded/{name}.jsonl.gz");
    fs::create_dir_all(dir.join("recorded"))?;
    let cgroup: Arc<str> = CGROUP.into();
    let facts = facts.into_iter().filter(|one| one.t <= played.end_secs).map(|mut one| {
        if let Fact::Listener(listener) = &mut one.fact {
            listener.cgroup = cgroup.clone();
        }
        one
    });
    let bytes = write_trace(&head, facts, &dir.join(&trace))?;
    ensure!(bytes <= BYTES_MAX, "its trace takes {bytes} bytes");
    let entry = Entry {
        run: format!("{name}/recorded"),
        family: RECORDED.to_owned(),
        part,
        seed: None,
        trace: Some(trace),
        addr: played.watched[0].clone(),
        overloads: played.overloads.clone(),
        tolerated: played.tolerated.clone(),
        secs: (played.end_secs * 1e3).round() / 1e3,
        interval_secs: head.pace.listeners.as_secs_f64(),
    };
    put(&dir.join("recorded/manifest.jsonl"), vec![entry])
}
