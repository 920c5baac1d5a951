//! Runs scenes beside each other, with one agent that watches them all.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::{
    families::FAMILIES,
    judge::{Judged, judge},
    play::{Played, play},
    scene::{Family, Scene},
    stage::find,
    watching::{Claim, Watching},
};
use crate::Servers;

/// First port; each scene has ten.
const FIRST_PORT: u16 = 20_000;
const PORTS_EACH: u16 = 10;

/// Way to run scenes.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Scenes at once.
    pub lanes: usize,
    /// Directory for traces of scenes that are judged wrongly.
    pub traces: Option<PathBuf>,
    /// Keeps the traces of all scenes.
    pub all_traces: bool,
}

/// Result of a scene.
pub struct Outcome {
    /// Name of the scene.
    pub name: String,
    /// The server.
    pub family: &'static Family,
    /// The scene.
    pub scene: Scene,
    /// What was seen, or the reason why it could not run.
    pub seen: Result<Seen, String>,
}

/// Scene that was seen.
pub struct Seen {
    /// What happened.
    pub played: Played,
    /// What the agent claimed.
    pub claims: Vec<Claim>,
    /// Judgement.
    pub judged: Judged,
}

/// Returns every scene whose name contains one of these; all without a filter.
pub fn named(filters: &[String]) -> Vec<(&'static Family, Scene)> {
    let all = FAMILIES
        .iter()
        .copied()
        .flat_map(|family| (family.scenes)().into_iter().map(move |scene| (family, scene)));
    let fits = |(family, scene): &(&'static Family, Scene)| {
        let name = name(family, scene);
        filters.is_empty() || filters.iter().any(|filter| name.contains(filter))
    };
    all.filter(fits).collect()
}

fn name(family: &Family, scene: &Scene) -> String {
    format!("{}/{}", family.name, scene.name)
}

/// Runs scenes and reports each when it has ended; returns them in their order.
pub fn run(
    scenes: &[(&'static Family, Scene)],
    servers: &Servers,
    options: &Options,
    report: &(dyn Fn(&Outcome) + Sync),
) -> Vec<Outcome> {
    let port = |index: usize| FIRST_PORT + PORTS_EACH * index as u16;
    let watching = Watching::start("scenes", options.traces.is_some());
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let lane = || loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        let Some((family, scene)) = scenes.get(index) else { return };
        let seen = see(family, scene, servers, port(index), &watching);
        let outcome = Outcome { name: name(family, scene), family, scene: *scene, seen };
        keep(&outcome, &watching, options);
        report(&outcome);
        done.lock().unwrap_or_else(PoisonError::into_inner).push((index, outcome));
    };
    thread::scope(|scope| {
        for _ in 0..options.lanes.max(1) {
            scope.spawn(lane);
        }
    });
    watching.stop();
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, outcome)| outcome).collect()
}

fn see(
    family: &Family,
    scene: &Scene,
    servers: &Servers,
    port: u16,
    watching: &Watching,
) -> Result<Seen, String> {
    for path in family.needs {
        find(servers, path).map_err(|error| error.to_string())?;
    }
    let is_cleared = |netns, watched: &[String]| watching.is_cleared(netns, watched);
    let played = play(family, scene, servers, port, &is_cleared);
    let played = played.map_err(|error| format!("{error:#}"))?;
    let claims = watching.claims(played.netns, &played.watched, played.dependency.as_deref());
    let judged = judge(scene, &played, &claims);
    Ok(Seen { played, claims, judged })
}

fn keep(outcome: &Outcome, watching: &Watching, options: &Options) {
    let (Some(dir), Ok(seen)) = (&options.traces, &outcome.seen) else { return };
    if seen.judged.is_right != Some(false) && !options.all_traces {
        return;
    }
    let played = &seen.played;
    let addresses: Vec<_> = played.watched.iter().chain(&played.dependency).cloned().collect();
    let file = dir.join(format!("{}.jsonl.gz", outcome.name.replace('/', "-")));
    let kept = fs::create_dir_all(dir)
        .map_err(anyhow::Error::from)
        .and_then(|()| watching.cut(played.netns, &addresses, &file));
    if let Err(error) = kept {
        eprintln!("{}: no trace: {error:#}", outcome.name);
    }
}
