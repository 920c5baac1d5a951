//! Runs scenes beside each other, with one agent that watches them all.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use super::{
    corpus,
    families::FAMILIES,
    judge::{Judged, judge},
    play::{Played, play},
    scene::{Family, Scene},
    stage::find,
    watching::{Claim, Watching},
};
use crate::{Servers, recorder::write_trace};

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
    /// Directory of the corpus of request queues, for which scenes are recorded.
    pub corpus: Option<PathBuf>,
    /// Ends all scenes once it is set.
    pub stop: Arc<AtomicBool>,
}

/// Result of a scene.
pub struct Outcome {
    /// Name of the scene.
    pub name: String,
    /// The server.
    pub family: &'static Family,
    /// The scene.
    pub scene: Scene,
    /// Outcome, or the reason why it could not run.
    pub seen: Result<Seen, String>,
}

/// Scene that was seen.
pub struct Seen {
    /// Course of the scene.
    pub played: Played,
    /// Claims of the agent.
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

/// Returns every scene that is recorded for the corpus of request queues and whose name contains
/// one of these.
pub fn recordings(filters: &[String]) -> Vec<(&'static Family, Scene)> {
    let mut scenes = named(filters);
    scenes.retain(|(family, scene)| corpus::part(family.name, scene.name).is_some());
    scenes
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
    allow_files();
    let port = |index: usize| FIRST_PORT + PORTS_EACH * index as u16;
    let records = options.traces.is_some() || options.corpus.is_some();
    let watching = Watching::start("scenes", records);
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let lane = || loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        let Some((family, scene)) = scenes.get(index) else { return };
        if options.stop.load(Ordering::Relaxed) {
            return;
        }
        let seen = see((family, scene), servers, port(index), &watching, &options.stop);
        let outcome = Outcome { name: name(family, scene), family, scene: *scene, seen };
        keep(&outcome, &watching, options);
        report(&outcome);
        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(dir) = &options.corpus
            && let Err(error) = corpus::keep(&outcome, &watching, dir)
        {
            eprintln!("{}: not kept: {error:#}", outcome.name);
        }
        done.push((index, outcome));
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

/// Raises the limit of open files of this process as far as it may: clients hold many connections.
pub(super) fn allow_files() {
    // SAFETY: rlimit is plain data, which both calls read or write, and lives here.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

fn see(
    (family, scene): (&Family, &Scene),
    servers: &Servers,
    port: u16,
    watching: &Watching,
    stop: &AtomicBool,
) -> Result<Seen, String> {
    for path in family.needs {
        find(servers, path).map_err(|error| error.to_string())?;
    }
    let is_cleared = |netns, watched: &[String]| watching.is_cleared(netns, watched);
    let played = play(family, scene, servers, port, (&is_cleared, stop));
    let played = played.map_err(|error| format!("{error:#}"))?;
    let claims = watching.claims(played.netns, &played.watched, played.dependency.as_deref());
    let judged = judge(family, scene, &played, &claims);
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
    let kept = fs::create_dir_all(dir).map_err(anyhow::Error::from).and_then(|()| {
        let (head, facts) = watching.recorded(played.origin, played.netns, &addresses)?;
        write_trace(&head, facts, &file)
    });
    if let Err(error) = kept {
        eprintln!("{}: no trace: {error:#}", outcome.name);
    }
}
