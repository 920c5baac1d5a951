//! Plays one scene, and notes the truth about its requests as its clients see it.

use std::{
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, ensure};
use tokio::{runtime, task::LocalSet, time::sleep};

use super::{
    clients::{Clients, Connections, Counts},
    dependency::Dependency,
    scene::{Expected, Family, Fault, Load, Scene},
    stage::{Faults, Stage},
    wire::Target,
};
use crate::{
    Program, Servers, now, own_network,
    queues::{
        plan::Scarce,
        requests::truth::{Overload, Truth, Waits},
    },
};

/// Time of half the load before anything happens. The agent looks for new UNIX listeners every ten
/// seconds, and takes a new one for starting for ten more.
const BEFORE: Duration = Duration::from_secs(8);
const BEFORE_UNIX: Duration = Duration::from_secs(21);

/// Requests, one after another, until the server has started: one that forks listens before.
const FIRST: u32 = 20;
const FIRST_WITHIN: Duration = Duration::from_secs(10);

/// Time in which a server warms up, before anything is known of its waits.
const WARMS: Duration = Duration::from_secs(3);

/// Time that matters.
const LASTS: Duration = Duration::from_secs(9);

/// Load afterwards, as a share of capacity, and its duration after the last request of before has
/// been answered. It ends earlier once the claim has been cleared.
const AFTER: f64 = 0.2;
const AFTER_LASTS: Duration = Duration::from_secs(15);
/// Duration of that load if nothing has been claimed.
const AFTER_CALM: Duration = Duration::from_secs(5);

/// Maximum duration of all that comes afterwards.
const AFTER_MAX: Duration = Duration::from_secs(45);

/// Time for which a claim has to stay cleared, at least.
const SETTLES: Duration = Duration::from_secs(3);

/// Interval at which the truth is noted.
const STEP: Duration = Duration::from_millis(20);

/// Age beyond its service from which a request has waited, whatever the clocks' grain is.
const GRAIN: Duration = Duration::from_millis(20);

/// Returns whether the last claim about these addresses in a network namespace has been cleared;
/// `None` if nothing has been claimed.
pub(super) type IsCleared<'a> = dyn Fn(u32, &[String]) -> Option<bool> + Sync + 'a;

/// Server that runs.
pub struct Started {
    /// Address that clients use.
    pub target: Target,
    /// Addresses whose claims are about this server, as the agent writes them.
    pub watched: Vec<String>,
    /// Begins and ends a fault.
    pub fault: Faults,
    /// Programs of the server, which end with this.
    pub programs: Vec<Program>,
}

impl Started {
    /// Creates a server of one program at one address.
    pub fn at(addr: SocketAddr, fault: Faults, program: Program) -> Self {
        let (target, watched) = (Target::Tcp(addr), vec![addr.to_string()]);
        Self { target, watched, fault, programs: vec![program] }
    }
}

/// Scene that was played.
pub struct Played {
    /// Network namespace.
    pub netns: u32,
    /// Addresses whose claims are about the server.
    pub watched: Vec<String>,
    /// Address of the dependency.
    pub dependency: Option<String>,
    /// Beginning of the first request.
    pub origin: Instant,
    /// Beginning of the time that matters, in seconds after the origin, and its end.
    pub matters: (f64, f64),
    /// End of the scene.
    pub end_secs: f64,
    /// Overloads, by the waits that clients saw.
    pub overloads: Vec<Overload>,
    /// Times in which requests wait noticeably.
    pub tolerated: Vec<(f64, f64)>,
    /// Requests before the time that matters.
    pub before: Counts,
    /// All requests.
    pub counts: Counts,
    /// First error that a client saw.
    pub error: Option<String>,
}

/// Asks a server that listens until it has started.
pub(super) async fn until_started(family: &Family, target: &Target) {
    let first = Clients::new(target.clone(), (family.wire)(), Some(FIRST_WITHIN));
    for _ in 0..FIRST {
        first.ask(Connections::New).await;
    }
}

/// Plays a scene in a thread and a network namespace of its own. It ends soon after its claim has
/// been cleared.
///
/// # Errors
///
/// Returns an error if its server cannot be started, or the scene is stopped.
pub(super) fn play(
    family: &Family,
    scene: &Scene,
    servers: &Servers,
    port: u16,
    (is_cleared, stop): (&IsCleared<'_>, &AtomicBool),
) -> anyhow::Result<Played> {
    let played = || {
        let netns = own_network().context("a network namespace cannot be made")?;
        let name = format!("{}-{}", family.name, scene.name);
        let stage = Stage::make(servers.clone(), &name, port, scene.has_dependency());
        let started = (family.start)(&stage)?;
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let target = started.target.clone();
        let patience = scene.patience_secs.map(Duration::from_secs_f64);
        let clients = Clients::new(target, (family.wire)(), patience);
        let play = Play { family, scene, clients, origin: now(), truth: truth(family), stop };
        let local = LocalSet::new();
        local.block_on(&runtime, play.run(netns, &stage, started, is_cleared))
    };
    let caught = std::thread::scope(|scope| {
        scope.spawn(|| catch_unwind(AssertUnwindSafe(played))).join().unwrap_or_else(Err)
    });
    caught.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(anyhow!("panicked: {}", text.unwrap_or("without a message")))
    })
}

fn truth(family: &Family) -> Truth {
    // Clients cannot tell waiting from service.
    Truth::new(Scarce::Workers, Some(family.service_secs))
}

struct Play<'a> {
    family: &'a Family,
    scene: &'a Scene,
    clients: Clients,
    origin: Instant,
    truth: Truth,
    stop: &'a AtomicBool,
}

impl Play<'_> {
    async fn run(
        mut self,
        netns: u32,
        stage: &Stage,
        mut started: Started,
        is_cleared: &IsCleared<'_>,
    ) -> anyhow::Result<Played> {
        let dependency = stage.dependency.map(Dependency::start).transpose()?;
        let scene = self.scene;
        until_started(self.family, &started.target).await;
        self.origin = now();
        let connections = match scene.load {
            Load::Open(_, connections) => connections,
            Load::Closed(_) => Connections::Pooled,
        };
        let is_unix = started.watched.iter().any(|addr| addr.starts_with("unix:"));
        let before = if is_unix { BEFORE_UNIX } else { BEFORE };
        self.offer(0.5, connections, before, || false).await;
        let counts_before = self.clients.counts();

        let from = self.elapsed();
        (started.fault)(scene.fault, true)?;
        let depends = |fault| {
            if let Some(dependency) = &dependency {
                dependency.set(fault);
            }
        };
        depends(scene.fault);
        match scene.load {
            Load::Open(over, connections) => self.offer(over, connections, LASTS, || false).await,
            Load::Closed(count) => {
                let closed = self.clients.closed(count);
                self.rest(LASTS, || false).await;
                closed.iter().for_each(tokio::task::AbortHandle::abort);
            }
        }
        let to = self.elapsed();
        (started.fault)(scene.fault, false)?;
        depends(Fault::None);

        let (clients, begun) = (self.clients.clone(), now());
        let mut answered = None;
        let watched = started.watched.clone();
        self.offer(AFTER, connections, AFTER_MAX, || {
            let oldest = clients.ages().first().copied().unwrap_or_default();
            if oldest > Duration::from_secs(1) {
                answered = None;
                return false;
            }
            let since = *answered.get_or_insert_with(now);
            let (calm, cleared) = (since.elapsed(), is_cleared(netns, &watched));
            let is_healthy = scene.expected == Expected::Healthy && cleared.is_none();
            let is_over = cleared == Some(true) && begun.elapsed() >= SETTLES;
            calm >= AFTER_LASTS || is_over || (is_healthy && calm >= AFTER_CALM)
        })
        .await;
        ensure!(!self.stop.load(Ordering::Relaxed), "stopped by a signal");
        let end_secs = self.elapsed().as_secs_f64();
        self.truth.finish();
        Ok(Played {
            netns,
            watched: started.watched,
            dependency: stage.dependency.map(|addr| addr.to_string()),
            origin: self.origin,
            matters: (from.as_secs_f64(), to.as_secs_f64()),
            end_secs,
            overloads: self.truth.overloads,
            tolerated: self.truth.tolerated,
            before: counts_before,
            counts: self.clients.counts(),
            error: self.clients.error(),
        })
    }

    fn elapsed(&self) -> Duration {
        self.origin.elapsed()
    }

    /// Sends requests at a multiple of capacity for so long, or until it is over.
    async fn offer(
        &mut self,
        over: f64,
        connections: Connections,
        lasts: Duration,
        is_over: impl FnMut() -> bool,
    ) {
        let rate = over * self.family.capacity();
        // By chance alone, requests would wait for long just below capacity.
        let is_even = over <= 1.0;
        let clients = self.clients.clone();
        let sending = tokio::task::spawn_local(async move {
            let mut due = now();
            loop {
                due += clients.gap(rate, is_even);
                sleep(due.saturating_duration_since(now())).await;
                clients.send(connections);
            }
        });
        self.rest(lasts, is_over).await;
        sending.abort();
    }

    /// Notes the truth for so long, or until it is over.
    async fn rest(&mut self, lasts: Duration, mut is_over: impl FnMut() -> bool) {
        let begun = now();
        while begun.elapsed() < lasts && !is_over() && !self.stop.load(Ordering::Relaxed) {
            sleep(STEP).await;
            let service = Duration::from_secs_f64(self.family.service_secs);
            let ages = self.clients.ages();
            let count = ages.iter().filter(|age| **age > service + GRAIN).count() as u32;
            let longest = ages.first().map_or(Duration::ZERO, |age| age.saturating_sub(service));
            let waits = Waits { count, longest: longest.as_nanos() as u64 };
            if self.elapsed() < WARMS {
                continue;
            }
            self.truth.poll(self.elapsed().as_nanos() as u64, waits);
        }
    }
}
