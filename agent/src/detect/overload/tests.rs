//! The overload rule against accept queues that stand and queues that do not, under the default configuration.

use super::*;
use crate::{
    config::Config,
    core::Core,
    detect::{HostInfo, State, Verdict},
    sense::{HostFact, Observation},
};

struct Run {
    core: Core,
    verdicts: Vec<Verdict>,
}

fn fact(backlog: u32, oldest_wait_us: Option<u64>) -> ListenerFact {
    ListenerFact {
        netns: 1,
        addr: Arc::from("0.0.0.0:8080"),
        cgroup: Arc::from("/api.service"),
        pid: Some(812),
        backlog,
        backlog_max: 128,
        oldest_wait_us,
        ..ListenerFact::default()
    }
}

impl Run {
    fn new() -> Self {
        let info = HostInfo { mem_total_bytes: 1 << 34, cpus: 2 };
        Self { core: Core::new(&Config::default(), info), verdicts: Vec::new() }
    }

    fn look(&mut self, t: f64, fact: ListenerFact) {
        self.verdicts.extend(self.core.apply(&Observation { t, fact: Fact::Listener(fact) }).verdicts);
    }

    fn host(&mut self, t: f64, psi: Option<f64>) {
        let host = HostFact { mem_available_bytes: 1 << 33, psi_memory_some_avg10: psi };
        self.verdicts.extend(self.core.apply(&Observation { t, fact: Fact::Host(host) }).verdicts);
    }

    /// Looks ten times a second.
    fn looks(&mut self, from: f64, secs: f64, fact: impl Fn(f64) -> ListenerFact) {
        for step in 0..(secs * 10.0) as u32 {
            let since = f64::from(step) / 10.0;
            self.look(from + since, fact(since));
        }
    }

    fn states(&self) -> Vec<(State, f64)> {
        self.verdicts.iter().map(|v| (v.state, (v.t * 10.0).round() / 10.0)).collect()
    }
}

fn wait_us(secs: f64) -> Option<u64> {
    Some((secs * 1e6) as u64)
}

#[test]
fn a_stopped_acceptor_is_seen_within_a_second_and_forgiven_when_it_works_again() {
    let mut run = Run::new();
    run.looks(0.0, 5.0, |_| fact(1, Some(100)));
    run.looks(5.0, 4.0, |since| fact((since * 20.0) as u32, wait_us((since - 0.05).max(0.0))));
    run.looks(9.0, 8.0, |_| fact(0, Some(0)));
    assert_eq!(run.states(), [(State::Raised, 6.1), (State::Cleared, 14.0)]);
    let raised = &run.verdicts[0];
    assert_eq!(
        raised.why,
        "0.0.0.0:8080 (pid 812) has not accepted for 1.0 s: 22 of 128 connections wait, growing 20/s; the queue overflows in 5.3 s"
    );
    assert!((raised.exhaustion_secs.unwrap() - 5.4).abs() < 0.11, "{raised:?}");
    assert_eq!(raised.confidence, 0.95);
    let cleared = "the accept queue of 0.0.0.0:8080 (pid 812) has not stood for 5.0 s, after 7.9 s of overload";
    assert_eq!(run.verdicts[1].why, cleared);
}

#[test]
fn bursts_and_short_pauses_are_healthy() {
    let mut run = Run::new();
    // A burst that fills the queue within an interval, and a pause of 200 ms every two seconds.
    run.looks(0.0, 60.0, |since| match (since * 10.0).round() as u32 % 20 {
        0 => fact(129, Some(900)),
        7 => fact(30, wait_us(0.1)),
        8 => fact(60, wait_us(0.2)),
        _ => fact(2, Some(300)),
    });
    assert_eq!(run.states(), []);
}

#[test]
fn a_queue_that_never_drains_is_an_overload_however_short_the_wait() {
    let mut run = Run::new();
    run.looks(0.0, 3.0, |since| {
        let accepted_total = Some((since * 500.0) as u64);
        ListenerFact { accepted_total, sojourn_min_us: Some(6_000), ..fact(9, Some(8_000)) }
    });
    assert_eq!(run.states(), [(State::Raised, 1.0)]);
    let why = "0.0.0.0:8080 (pid 812) accepts too slowly: its queue has stood for 1.0 s: 9 of 128 connections wait, the oldest for 8 ms";
    assert_eq!(run.verdicts[0].why, why);
    assert_eq!((run.verdicts[0].confidence, run.verdicts[0].exhaustion_secs), (0.9, None));
}

#[test]
fn a_queue_that_drained_between_looks_does_not_stand() {
    let mut run = Run::new();
    run.looks(0.0, 30.0, |_| ListenerFact { sojourn_min_us: Some(40), ..fact(9, Some(8_000)) });
    assert_eq!(run.states(), []);
}

#[test]
fn without_head_age_depth_takes_longer_and_says_so() {
    let mut run = Run::new();
    run.looks(0.0, 5.0, |_| fact(31, None));
    assert_eq!(run.states(), []);
    run.looks(5.0, 5.0, |_| fact(32, None));
    assert_eq!(run.states(), [(State::Raised, 7.0)]);
    assert!(run.verdicts[0].confidence < 0.7);
    assert!(run.verdicts[0].why.ends_with("is not visible here, so this rests on its depth"));
}

#[test]
fn without_head_age_a_full_queue_that_drops_is_enough() {
    let mut run = Run::new();
    run.host(0.0, Some(40.0));
    // The kernel's counter wraps on the way.
    let start = u64::from(u32::MAX) - 5;
    run.looks(0.0, 3.0, |since| {
        let overflows_total = Some((start + (since * 10.0).round() as u64) % (1 << 32));
        ListenerFact { overflows_total, ..fact(129, None) }
    });
    assert_eq!(run.states(), [(State::Raised, 1.0)]);
    assert_eq!(run.verdicts[0].exhaustion_secs, Some(0.0));
    let why = &run.verdicts[0].why;
    assert!(why.contains("the queue is full; 10 connections were dropped meanwhile"), "{why}");
    assert!(why.contains("stalls on memory 40 % of the time"), "{why}");
}

#[test]
fn gaps_restart_the_run() {
    let mut run = Run::new();
    for t in [0.0, 0.1, 0.2, 0.3, 5.0, 5.1, 5.2, 10.0, 10.1, 10.2] {
        run.look(t, fact(9, Some(8_000)));
    }
    assert_eq!(run.states(), []);
}

#[test]
fn coarse_looks_suffice_where_the_head_proves_it() {
    let mut run = Run::new();
    run.look(0.0, fact(1, Some(90)));
    run.look(5.0, fact(40, wait_us(4.0)));
    assert_eq!(run.states(), [(State::Raised, 5.0)]);
    let mut run = Run::new();
    for t in [0.0, 5.0, 10.0] {
        assert_eq!(run.states(), []);
        run.look(t, fact(4, Some(8_000)));
    }
    assert_eq!(run.states(), [(State::Raised, 10.0)]);
}

#[test]
fn sockets_that_share_an_address_stand_if_one_does_in_any_order() {
    for order in [[0, 1], [1, 0]] {
        let mut run = Run::new();
        for step in 0..20 {
            let t = f64::from(step) / 10.0;
            let both = [fact(9, wait_us(t)), fact(0, Some(0))];
            order.into_iter().for_each(|i| run.look(t, both[i].clone()));
        }
        assert_eq!(run.states(), [(State::Raised, 1.0)], "{order:?}");
    }
}

#[test]
fn a_listener_that_vanishes_takes_its_claim_with_it() {
    let mut run = Run::new();
    run.host(0.0, None);
    run.looks(0.0, 2.0, |since| fact(9, wait_us(since)));
    (1..=8).for_each(|t| run.host(1.0 + f64::from(t), None));
    assert_eq!(run.states(), [(State::Raised, 1.0), (State::Cleared, 7.0)]);
    assert_eq!(run.verdicts[1].why, "0.0.0.0:8080 (pid 812) vanished: the last scans do not show it");
    assert_eq!(run.core.tracked().listeners, 0);
}
