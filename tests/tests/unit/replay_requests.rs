//! Replays of servers that accept at once and let requests wait inside: an executor of four
//! threads, and goroutines behind a semaphore, each with 26 requests a second for 20 that they can
//! answer.
//!
//! The traces are committed; [`generated`] says how each came about, and `replay::write_traces`
//! writes them anew.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{collections::VecDeque, sync::Arc};

use serde_json::Value;
use spillway_agent::{
    commands::replay::{ReplayOptions, replay},
    config::Config,
    sense::{Fact, HostFact, ListenerFact, Observation, RequestsFact},
};

use crate::replay::path;

/// When load rises from 10 to 26 a second, and when it ends.
const RISES_SECS: f64 = 9.0;
const ENDS_SECS: f64 = 34.0;

/// Time after which clients give up.
const PATIENCE_SECS: f64 = 4.0;

const STEP_SECS: f64 = 0.005;

/// A first-in first-out queue before four workers of 200 ms, each request on a connection of its
/// own. A response to a client that has gone is none.
struct Server {
    addr: &'static str,
    comm: &'static str,
    /// Set if requests are read at once.
    reads_early: bool,
    waiting: VecDeque<f64>,
    served: Vec<(f64, f64)>,
    arrived: u64,
    answered: u64,
    abandoned: u64,
}

impl Server {
    fn step(&mut self, t: f64, arrives: bool) {
        if arrives {
            self.arrived += 1;
            self.waiting.push_back(t);
        }
        let stays = |arrived: f64| t - arrived < PATIENCE_SECS;
        let done = self.served.iter().filter(|one| one.1 <= t && stays(one.0)).count();
        self.answered += done as u64;
        self.served.retain(|one| one.1 > t);
        while self.served.len() < 4 {
            let Some(arrived) = self.waiting.pop_front() else { break };
            self.served.push((arrived, t + 0.2));
        }
        let leaves = |arrived: f64| !stays(arrived) && t - arrived < PATIENCE_SECS + STEP_SECS;
        let all = self.waiting.iter().copied().chain(self.served.iter().map(|one| one.0));
        self.abandoned += all.filter(|arrived| leaves(*arrived)).count() as u64;
    }

    fn facts(&self, t: f64) -> [Fact; 3] {
        let us = |arrived: f64| ((t - arrived) * 1e6).round() as u64;
        let stays = |arrived: &f64| t - arrived < PATIENCE_SECS;
        let waiting: Vec<_> = self.waiting.iter().copied().filter(stays).collect();
        let served = self.served.iter().map(|one| one.0).filter(stays);
        let all: Vec<_> = waiting.iter().copied().chain(served).collect();
        let oldest = all.iter().copied().reduce(f64::min);
        let unread = if self.reads_early { 0 } else { waiting.len() };
        let listener = ListenerFact {
            netns: 4_026_531_840,
            addr: Arc::from(self.addr),
            socket: 2,
            cgroup: Arc::from("/app.service"),
            pid: Some(1_951),
            comm: Arc::from(self.comm),
            backlog_max: 50,
            accepted_total: Some(self.arrived),
            arrived_total: Some(self.arrived),
            overflows_total: Some(0),
            oldest_wait_us: Some(0),
            ..ListenerFact::default()
        };
        let requests = RequestsFact {
            netns: 4_026_531_840,
            addr: Arc::from(self.addr),
            unread: unread as u32,
            in_flight: all.len() as u32,
            oldest_unread_us: waiting.first().filter(|_| unread > 0).map(|arrived| us(*arrived)),
            oldest_in_flight_us: oldest.map(us),
            answered_total: Some(self.answered),
            abandoned_total: Some(self.abandoned),
            ..RequestsFact::default()
        };
        let host =
            HostFact { mem_available_bytes: 9_000_000_000, psi_memory_some_avg10: Some(0.0) };
        [Fact::Host(host), Fact::Listener(Box::new(listener)), Fact::Requests(requests)]
    }
}

fn overloaded(addr: &'static str, comm: &'static str, interval_secs: f64) -> Vec<Observation> {
    let mut server = Server {
        addr,
        comm,
        reads_early: true,
        waiting: VecDeque::new(),
        served: Vec::new(),
        arrived: 0,
        answered: 0,
        abandoned: 0,
    };
    let (mut all, mut due) = (Vec::new(), 0.0);
    for step in 1..=(55.0 / STEP_SECS) as u32 {
        let t = f64::from(step) * STEP_SECS;
        let per_sec = match t {
            t if t < RISES_SECS => 10.0,
            t if t < ENDS_SECS => 26.0,
            _ => 0.0,
        };
        due += per_sec * STEP_SECS;
        let arrives = due >= 1.0;
        due -= f64::from(u8::from(arrives));
        server.step(t, arrives);
        if step.is_multiple_of((interval_secs / STEP_SECS) as u32) {
            let t = (t * 1e3).round() / 1e3;
            all.extend(server.facts(t).map(|fact| Observation { t, fact }));
        }
    }
    all
}

/// Interval and observations of both traces.
pub(crate) fn generated() -> Vec<(&'static str, f64, Vec<Observation>)> {
    vec![
        ("executor-queue", 0.5, overloaded("10.0.0.5:8080", "java", 0.5)),
        ("go-queue", 0.25, overloaded("10.0.0.5:8081", "gsrv", 0.25)),
    ]
}

fn verdicts(name: &str) -> Vec<Value> {
    let trace = std::fs::read(path(name)).unwrap();
    let mut out = Vec::new();
    let summary =
        replay(&trace[..], &Config::default(), &mut out, ReplayOptions::default()).unwrap();
    assert_eq!(summary.skipped, 0);
    let lines = String::from_utf8(out).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn early_accepts_are_an_overload_until_load_ends() {
    for (name, addr) in [("executor-queue", "10.0.0.5:8080"), ("go-queue", "10.0.0.5:8081")] {
        let lines = verdicts(name);
        let t = |line: &Value| line["t"].as_f64().unwrap();
        let (raised, cleared) = (&lines[0], &lines[lines.len() - 1]);
        assert_eq!((&raised["state"], &cleared["state"]), (&"raised".into(), &"cleared".into()));
        let between = &lines[1..lines.len() - 1];
        assert!(between.iter().all(|line| line["state"] == "updated"), "{name}: {lines:#?}");
        // Half a second of waiting is there at 11 s; the clients' patience ends at 22 s.
        assert!((10.0..=14.0).contains(&t(raised)), "{name}: {raised}");
        assert!((ENDS_SECS..50.0).contains(&t(cleared)), "{name}: {cleared}");
        for line in [raised, cleared] {
            assert_eq!(line["verdict"], "overload");
            assert_eq!((&line["addr"], &line["scarce"]), (&addr.into(), &"workers".into()));
        }
        assert!(raised["in_flight"].as_u64().unwrap() >= 8, "{raised}");
        assert!((15.0..=21.0).contains(&raised["answered_per_sec"].as_f64().unwrap()));
    }
}
