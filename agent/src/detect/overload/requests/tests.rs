//! The rule for request queues against servers whose requests wait and servers that only look so,
//! under the default configuration.

use std::{collections::VecDeque, sync::Arc};

use crate::{
    config::Config,
    detect::{Bottleneck, Claim, ClaimState, HostInfo, OverloadClaim, Verdict},
    engine::Engine,
    sense::{
        Fact, HostFact, ListenerFact, Observation, OutboundFact, RequestsFact, ServicePressureFact,
    },
};

const STEP_SECS: f64 = 0.005;

/// A first-in first-out server, and what a sensor sees of it twice a second.
struct Scene {
    engine: Engine,
    verdicts: Vec<Verdict>,
    t: f64,
    workers: usize,
    service_secs: f64,
    /// Set if requests are read at once rather than when a worker begins.
    reads_early: bool,
    /// Time after which clients leave.
    patience_secs: f64,
    /// Requests that no worker has begun, by arrival, and those begun: arrival and end.
    queue: VecDeque<f64>,
    busy: Vec<(f64, f64)>,
    arrivals: f64,
    answered: u64,
    abandoned: u64,
    /// Clients that ask again as soon as they are answered.
    clients: usize,
    /// Requests that are never answered: how many, and since when.
    silent: (u32, f64),
    strain: Option<ServicePressureFact>,
    pending: u32,
}

impl Scene {
    fn new(workers: usize, service_secs: f64, reads_early: bool) -> Self {
        let info = HostInfo { mem_total_bytes: 1 << 34, cpus: 2 };
        Self {
            engine: Engine::new(&Config::default(), info),
            verdicts: Vec::new(),
            t: 0.0,
            workers,
            service_secs,
            reads_early,
            patience_secs: f64::INFINITY,
            queue: VecDeque::new(),
            busy: Vec::new(),
            arrivals: 0.0,
            answered: 0,
            abandoned: 0,
            clients: 0,
            silent: (0, 0.0),
            strain: None,
            pending: 0,
        }
    }

    /// Runs for `secs` at so many requests a second.
    fn run(&mut self, secs: f64, per_sec: f64) {
        for step in 1..=(secs / STEP_SECS).round() as u32 {
            self.t += STEP_SECS;
            self.arrivals += per_sec * STEP_SECS;
            while self.arrivals >= 1.0 {
                self.arrivals -= 1.0;
                self.queue.push_back(self.t);
            }
            let t = self.t;
            let done = self.busy.iter().filter(|(_, end)| *end <= t).count();
            let late = |arrived: f64, patience_secs: f64| t - arrived > patience_secs;
            let seen = self
                .busy
                .iter()
                .filter(|(arrived, end)| *end <= t && !late(*arrived, self.patience_secs))
                .count();
            self.busy.retain(|(_, end)| *end > t);
            self.answered += seen as u64;
            for _ in 0..done.min(self.clients) {
                self.queue.push_back(t);
            }
            while self.busy.len() < self.workers {
                let Some(arrived) = self.queue.pop_front() else { break };
                self.busy.push((arrived, t + self.service_secs));
            }
            let leaves = |arrived: f64| {
                (self.patience_secs..self.patience_secs + STEP_SECS).contains(&(t - arrived))
            };
            let all = self.queue.iter().copied().chain(self.busy.iter().map(|one| one.0));
            self.abandoned += all.filter(|arrived| leaves(*arrived)).count() as u64;
            if step.is_multiple_of(100) {
                self.sample();
            }
        }
    }

    /// Lets clients without a pause connect at once.
    fn connect(&mut self, clients: usize) {
        self.clients = clients;
        self.queue.extend(std::iter::repeat_n(self.t, clients));
    }

    fn apply(&mut self, fact: Fact) {
        let observation = Observation { t: self.t, fact };
        self.verdicts.extend(self.engine.apply(&observation).verdicts);
    }

    fn sample(&mut self) {
        let t = self.t;
        let us = |arrived: f64| ((t - arrived) * 1e6) as u64;
        let stays = |arrived: &f64| t - arrived < self.patience_secs;
        let queued: Vec<_> = self.queue.iter().copied().filter(stays).collect();
        let begun: Vec<_> = self.busy.iter().map(|one| one.0).filter(stays).collect();
        let unread = if self.reads_early { &[][..] } else { &queued };
        let (silent, since_t) = self.silent;
        let oldest = queued.iter().chain(&begun).copied().fold(f64::INFINITY, f64::min);
        let oldest = if silent > 0 { oldest.min(since_t) } else { oldest };
        let fact = RequestsFact {
            netns: 1,
            addr: Arc::from("0.0.0.0:8080"),
            unread: unread.len() as u32,
            in_flight: (queued.len() + begun.len()) as u32 + silent,
            oldest_unread_us: unread.first().map(|arrived| us(*arrived)),
            oldest_in_flight_us: oldest.is_finite().then(|| us(oldest)),
            answered_total: Some(self.answered),
            abandoned_total: Some(self.abandoned),
            ..RequestsFact::default()
        };
        let listener = ListenerFact {
            netns: 1,
            addr: Arc::from("0.0.0.0:8080"),
            socket: 1,
            cgroup: Arc::from("/api.service"),
            pid: Some(812),
            comm: Arc::from("api"),
            backlog_max: 128,
            accepted_total: Some(200),
            arrived_total: Some(200),
            oldest_wait_us: Some(0),
            strain: self.strain,
            ..ListenerFact::default()
        };
        let host = HostFact { mem_available_bytes: 1 << 33, psi_memory_some_avg10: None };
        self.apply(Fact::Host(host));
        if self.pending > 0 {
            self.apply(Fact::Outbound(OutboundFact {
                netns: 1,
                addr: Arc::from("10.0.0.7:5432"),
                cgroup: Arc::from("/api.service"),
                pid: 812,
                comm: Arc::from("api"),
                pending: self.pending,
                ..OutboundFact::default()
            }));
        }
        self.apply(Fact::Listener(Box::new(listener)));
        self.apply(Fact::Requests(fact));
    }

    fn states(&self) -> Vec<(ClaimState, f64)> {
        let changed = self.verdicts.iter().filter(|verdict| verdict.state != ClaimState::Updated);
        changed.map(|verdict| (verdict.state, (verdict.t * 10.0).round() / 10.0)).collect()
    }

    fn claim(&self) -> &OverloadClaim {
        match &self.verdicts[0].claim {
            Claim::Overload(claim) => claim,
            other => panic!("{other:?}"),
        }
    }
}

fn pressure(busiest_thread_percent: f64) -> Option<ServicePressureFact> {
    Some(ServicePressureFact {
        secs: 0.5,
        psi_cpu_some_percent: Some(1.0),
        psi_memory_some_percent: Some(0.0),
        busiest_thread_percent: Some(busiest_thread_percent),
        ..ServicePressureFact::default()
    })
}

#[test]
fn keep_alive_connections_at_capacity_are_an_overload() {
    // The case that was seen live: 200 connections, an event loop of 50 requests a second, so that
    // each waits for four seconds, and an empty accept queue.
    let mut scene = Scene::new(1, 0.02, false);
    scene.run(10.0, 5.0);
    scene.connect(200);
    scene.strain = pressure(99.0);
    scene.run(25.0, 0.0);
    assert_eq!(scene.states(), [(ClaimState::Raised, 11.5)]);
    scene.clients = 0;
    // The last is answered after four seconds, and the claim is open for five more.
    scene.run(16.0, 5.0);
    assert_eq!(scene.states(), [(ClaimState::Raised, 11.5), (ClaimState::Cleared, 44.5)]);
    let claim = scene.claim();
    assert_eq!(claim.scarce, Some(Bottleneck::Cpu));
    let requests = claim.requests.as_ref().expect("it is about requests");
    assert!(requests.unread >= 190 && requests.oldest_request_us >= Some(1_400_000));
    let why = &scene.verdicts[0].why;
    assert!(
        why.starts_with(
            "0.0.0.0:8080 (api, pid 812) reads requests more slowly than they arrive; "
        ),
        "{why}"
    );
    assert!(why.contains("/s are answered") && why.contains("unread, the oldest for 1."), "{why}");
    assert!(why.ends_with("its busiest thread uses 99 % of a CPU, as much as one can"), "{why}");
    let cleared = &scene.verdicts.last().expect("there is one").why;
    assert!(cleared.ends_with("after 33 s of overload"), "{cleared}");
}

#[test]
fn executor_that_accepts_early_is_an_overload_for_workers() {
    let mut scene = Scene::new(4, 0.2, true);
    scene.run(10.0, 10.0);
    scene.run(20.0, 26.0);
    let (state, t) = scene.states()[0];
    assert!(state == ClaimState::Raised && (12.0..17.0).contains(&t), "{:?}", scene.states());
    assert_eq!(scene.states().len(), 1);
    assert_eq!(scene.claim().scarce, Some(Bottleneck::Workers));
    let why = &scene.verdicts[0].why;
    assert!(why.contains(" answers requests more slowly than they arrive; "), "{why}");
    assert!(why.contains("it has read them, and they wait for its workers"), "{why}");
}

#[test]
fn clients_that_give_up_keep_the_claim_open_and_are_told() {
    let mut scene = Scene::new(4, 0.2, true);
    scene.patience_secs = 2.0;
    scene.run(10.0, 10.0);
    scene.run(60.0, 26.0);
    assert_eq!(scene.states().len(), 1, "{:?}", scene.states());
    let open = scene.engine.raised().next().expect("it is open");
    assert!(
        open.why.contains("the clients of 100 % gave up before their answer"),
        "all answers come too late: {}",
        open.why
    );
    let Claim::Overload(claim) = &open.claim else { panic!("{open:?}") };
    let share = claim.requests.as_ref().and_then(|requests| requests.abandoned_share);
    assert_eq!(share, Some(1.0));
}

#[test]
fn stuck_server_is_an_overload_before_anybody_connects() {
    let mut scene = Scene::new(4, 0.02, false);
    scene.run(20.0, 20.0);
    (scene.service_secs, scene.busy) = (1e6, vec![(20.0, 1e6); 4]);
    scene.strain = pressure(0.0);
    scene.run(5.0, 20.0);
    let (state, t) = scene.states()[0];
    assert!(state == ClaimState::Raised && t <= 22.5, "{:?}", scene.states());
    // It accepts every connection, so it is not its accept loop.
    let why = &scene.verdicts[0].why;
    assert!(
        why.ends_with("; its loop, or every worker, is stuck, waiting for something else"),
        "{why}"
    );
    let headline = scene.verdicts[0].claim.headline("node1", None);
    assert!(headline.contains(" are waiting, unread by a stuck server"), "{headline}");
}

#[test]
fn slow_dependency_is_named() {
    let mut scene = Scene::new(1_000, 0.02, true);
    scene.run(20.0, 40.0);
    (scene.service_secs, scene.pending, scene.strain) = (5.0, 3, pressure(2.0));
    scene.run(10.0, 40.0);
    let claim = scene.claim();
    assert_eq!(claim.scarce, Some(Bottleneck::Dependency));
    let peer = claim.dependency.as_deref();
    assert_eq!(peer, Some("10.0.0.7:5432"));
    let why = &scene.verdicts[0].why;
    assert!(why.ends_with("it waits for 10.0.0.7:5432, which does not answer in time"), "{why}");
    let json = serde_json::to_value(&scene.verdicts[0]).expect("it has a form");
    assert_eq!((&json["scarce"], &json["dependency"]), (&"dependency".into(), &peer.into()));
    assert!(json["in_flight"].as_u64() >= Some(4), "{json}");
}

#[test]
fn requests_never_answered_beside_others_are_none() {
    let mut scene = Scene::new(4, 0.02, true);
    scene.run(30.0, 50.0);
    for polls in 1..=200 {
        // Long polls, or messages over WebSockets: more and more, and ever older.
        scene.silent = (polls, 30.0);
        scene.run(0.5, 50.0);
    }
    assert_eq!(scene.states(), []);
}

#[test]
fn long_polls_from_the_beginning_are_none() {
    let mut scene = Scene::new(0, 1.0, true);
    for polls in 1..=120 {
        scene.silent = (polls, 0.0);
        scene.run(0.5, 0.0);
    }
    assert_eq!(scene.states(), []);
}

#[test]
fn pause_and_burst_that_are_over_soon_are_none() {
    let mut scene = Scene::new(1, 0.01, false);
    for _ in 0..20 {
        scene.run(3.0, 40.0);
        // Half a second's work at once, and a pause of 400 ms.
        scene.queue.extend(std::iter::repeat_n(scene.t, 40));
        scene.run(3.0, 40.0);
        scene.busy = vec![(scene.t, scene.t + 0.4)];
    }
    assert_eq!(scene.states(), []);
}

#[test]
fn accept_queue_and_requests_are_one_incident() {
    let mut scene = Scene::new(1, 0.02, false);
    scene.run(10.0, 5.0);
    scene.connect(200);
    scene.run(5.0, 5.0);
    assert_eq!(scene.states().len(), 1);
    for step in 0..50 {
        // The accept queue stands as well.
        let t = scene.t + f64::from(step) / 10.0;
        let fact = Fact::Listener(Box::new(ListenerFact {
            netns: 1,
            addr: Arc::from("0.0.0.0:8080"),
            socket: 1,
            pid: Some(812),
            backlog: 120,
            backlog_max: 128,
            oldest_wait_us: Some(2_000_000),
            ..ListenerFact::default()
        }));
        scene.verdicts.extend(scene.engine.apply(&Observation { t, fact }).verdicts);
    }
    assert_eq!(scene.states().len(), 1, "{:?}", scene.states());
    let ids: std::collections::BTreeSet<_> =
        scene.verdicts.iter().map(|verdict| verdict.claim.id()).collect();
    assert_eq!(ids.len(), 1);
}

#[test]
fn requests_alone_raise_and_clear_without_a_listener() {
    let info = HostInfo { mem_total_bytes: 1 << 34, cpus: 2 };
    let mut engine = Engine::new(&Config::default(), info);
    let mut states = Vec::new();
    let mut answered = 0;
    for second in 0..60_u32 {
        let host = HostFact { mem_available_bytes: 1, psi_memory_some_avg10: None };
        let waits = if (20..40).contains(&second) { (second - 19) * 10 } else { 0 };
        answered += 20;
        let age_us = u64::from(waits) * 50_000;
        let fact = RequestsFact {
            addr: Arc::from("[::]:80"),
            unread: waits,
            in_flight: waits + 1,
            oldest_unread_us: (waits > 0).then_some(age_us),
            oldest_in_flight_us: Some(age_us.max(1_000)),
            answered_total: Some(answered),
            ..RequestsFact::default()
        };
        for fact in [Fact::Host(host), Fact::Requests(fact)] {
            let output = engine.apply(&Observation { t: f64::from(second), fact });
            states.extend(output.verdicts.iter().map(|verdict| (verdict.state, verdict.t)));
        }
    }
    states.retain(|(state, _)| *state != ClaimState::Updated);
    assert_eq!(states, [(ClaimState::Raised, 21.0), (ClaimState::Cleared, 44.0)]);
}

/// Feeds facts about requests that share a CPU: any of them may be the next that is answered.
fn share_a_cpu(strain: Option<ServicePressureFact>) -> Vec<ClaimState> {
    let mut scene = Scene::new(0, 1.0, true);
    scene.strain = strain;
    let mut answered = 0;
    for second in 0..60_u32 {
        let over = second.saturating_sub(30);
        answered += if over > 0 { 100 } else { 70 };
        scene.answered = answered;
        // 70 a second come, then 140, of which 100 are answered; the first is among the last.
        let since_t = scene.t + 1.0 - if over > 0 { f64::from(over) } else { 0.02 };
        scene.silent = (2 + 40 * over, since_t);
        scene.t += 1.0;
        scene.sample();
    }
    scene.states().into_iter().map(|(state, _)| state).collect()
}

#[test]
fn requests_that_share_a_cpu_wait_if_it_is_short() {
    assert_eq!(share_a_cpu(pressure(99.0)), [ClaimState::Raised]);
    assert_eq!(share_a_cpu(pressure(5.0)), [], "others overtake the oldest");
}

#[test]
fn samples_that_stop_end_the_claim_and_say_so() {
    let mut scene = Scene::new(1, 0.02, false);
    scene.run(10.0, 5.0);
    scene.connect(200);
    scene.run(5.0, 5.0);
    for step in 1..=300 {
        let t = scene.t + f64::from(step) / 10.0;
        let fact = Fact::Listener(Box::new(ListenerFact {
            netns: 1,
            addr: Arc::from("0.0.0.0:8080"),
            socket: 1,
            backlog_max: 128,
            oldest_wait_us: Some(0),
            ..ListenerFact::default()
        }));
        scene.verdicts.extend(scene.engine.apply(&Observation { t, fact }).verdicts);
    }
    let last = scene.verdicts.last().expect("there is one");
    assert_eq!(last.state, ClaimState::Cleared);
    assert!(last.why.starts_with("the requests of 0.0.0.0:8080"), "{}", last.why);
}

/// Feeds a goroutine server at 25 requests a second, which answers none from the tenth second on.
/// Each request has a connection of its own, or samples see only seven of the responses a second.
fn stops_answering(own_connections: bool) -> Vec<(ClaimState, f64)> {
    let mut scene = Scene::new(0, 1.0, true);
    for step in 1..=180_u32 {
        let t = f64::from(step) / 10.0;
        let silent_secs = (t - 10.0).max(0.0);
        let waiting = (silent_secs * 25.0) as u32;
        let (arrived, answered) = match own_connections {
            true => ((t * 25.0) as u64, 0),
            false => (40, (t.min(10.0) * 7.0) as u64),
        };
        let listener = ListenerFact {
            netns: 1,
            addr: Arc::from("0.0.0.0:8080"),
            socket: 1,
            backlog_max: 128,
            accepted_total: Some(arrived),
            arrived_total: Some(arrived),
            oldest_wait_us: Some(0),
            ..ListenerFact::default()
        };
        let open = if own_connections { waiting } else { 40 + waiting };
        let age_us = (waiting > 0).then_some((silent_secs * 1e6) as u64);
        let requests = RequestsFact {
            netns: 1,
            addr: Arc::from("0.0.0.0:8080"),
            connections: Some(open),
            in_flight: waiting,
            oldest_in_flight_us: age_us,
            answered_total: Some(answered),
            abandoned_total: Some(0),
            ..RequestsFact::default()
        };
        scene.t = t;
        scene.apply(Fact::Listener(Box::new(listener)));
        scene.apply(Fact::Requests(requests));
    }
    scene.states()
}

#[test]
fn answers_that_samples_miss_hide_no_overload() {
    for own_connections in [false, true] {
        let states = stops_answering(own_connections);
        let [(ClaimState::Raised, t)] = states[..] else { panic!("{own_connections}: {states:?}") };
        assert!((11.0..12.0).contains(&t), "{own_connections}: {t}");
    }
}

#[test]
fn stuck_workers_whose_dependency_is_silent_name_it() {
    let mut scene = Scene::new(4, 0.02, false);
    scene.strain = pressure(3.0);
    scene.pending = 1;
    scene.run(5.0, 20.0);
    // From now on connects succeed at once, until the
    // dependency has four requests that it does not answer.
    scene.pending = 0;
    scene.run(15.0, 20.0);
    (scene.service_secs, scene.busy) = (1e6, vec![(scene.t, 1e6); 4]);
    let from_t = scene.t;
    for _ in 0..8 {
        scene.run(0.5, 20.0);
        let age_us = Some(((scene.t - from_t) * 1e6) as u64);
        scene.apply(Fact::Requests(RequestsFact {
            netns: 1,
            addr: Arc::from("10.0.0.7:5432"),
            in_flight: 4,
            oldest_in_flight_us: age_us,
            answered_total: Some(1),
            abandoned_total: Some(0),
            ..RequestsFact::default()
        }));
    }
    let claim = scene.claim();
    assert_eq!(claim.scarce, Some(Bottleneck::Dependency), "{}", scene.verdicts[0].why);
    assert_eq!(claim.dependency.as_deref(), Some("10.0.0.7:5432"));
}

/// Feeds samples of processes with a queue each, five times a second, in which the oldest request
/// has waited longer than its share of the arrivals explains. Returns whether they were claimed.
fn uneven_queues_are_claimed(unread: impl Fn(f64) -> f64, secs: f64) -> bool {
    let mut scene = Scene::new(4, 0.05, false);
    scene.run(10.0, 20.0);
    let (start, answered) = (scene.t, scene.answered);
    for step in 1..=(5.0 * secs) as u32 {
        let elapsed = f64::from(step) / 5.0;
        scene.t = start + elapsed;
        let (unread, oldest_us) = (unread(elapsed) as u32, Some((0.65 * elapsed * 1e6) as u64));
        scene.apply(Fact::Requests(RequestsFact {
            netns: 1,
            addr: Arc::from("0.0.0.0:8080"),
            connections: Some(unread + 40),
            unread,
            in_flight: unread + 4,
            oldest_unread_us: oldest_us,
            oldest_in_flight_us: oldest_us,
            answered_total: Some(answered + u64::from(16 * step)),
            abandoned_total: Some(0),
            ..RequestsFact::default()
        }));
    }
    !scene.verdicts.is_empty()
}

#[test]
fn uneven_queues_of_processes_are_claimed_by_mean_wait() {
    // 80 requests/s are answered, and 24 more arrive.
    assert!(uneven_queues_are_claimed(|elapsed| 24.0 * elapsed, 4.5));
    assert!(!uneven_queues_are_claimed(|_| 12.0, 20.0), "few wait, in one of the queues");
}
