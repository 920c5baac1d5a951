//! The overload rule against accept queues that stand and queues that do not, under the default
//! configuration.

use super::*;
use crate::{
    config::Config,
    detect::{Bottleneck, Claim, ClaimState, HostInfo, Sign, Verdict},
    engine::Engine,
    sense::{HostFact, Observation, ProcessResourcesFact, ServicePressureFact},
};

struct Run {
    core: Engine,
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
        Self { core: Engine::new(&Config::default(), info), verdicts: Vec::new() }
    }

    fn look(&mut self, t: f64, fact: ListenerFact) {
        self.verdicts.extend(
            self.core.apply(&Observation { t, fact: Fact::Listener(Box::new(fact)) }).verdicts,
        );
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

    fn states(&self) -> Vec<(ClaimState, f64)> {
        self.verdicts.iter().map(|v| (v.state, (v.t * 10.0).round() / 10.0)).collect()
    }
}

fn wait_us(secs: f64) -> Option<u64> {
    Some((secs * 1e6) as u64)
}

/// A server that accepts `capacity` connections a second, in order, unless it pauses; looked at ten
/// times a second. Its own arithmetic, so that a queue, its head's age and its counters fit each
/// other.
struct Server {
    capacity: f64,
    backlog_max: u32,
    depth: f64,
    arrived: f64,
    accepted: f64,
    /// When each thousandth of a second's arrivals had come in all, to find the head's.
    history: Vec<f64>,
    exact: bool,
    overflows: u64,
}

impl Server {
    fn new(capacity: f64, backlog_max: u32) -> Self {
        let (depth, arrived, accepted) = (0.0, 0.0, 0.0);
        Self {
            capacity,
            backlog_max,
            depth,
            arrived,
            accepted,
            history: Vec::new(),
            exact: false,
            overflows: 0,
        }
    }

    /// Runs for `secs` under a load of so many a second, looked at every 100 ms; pauses while
    /// `pause` says so.
    fn run(
        &mut self,
        run: &mut Run,
        secs: f64,
        load: impl Fn(f64) -> f64,
        pauses: impl Fn(f64) -> bool,
    ) {
        let start_ms = self.history.len();
        for ms in 0..(secs * 1e3).round() as usize {
            let since = ms as f64 / 1e3;
            let room = (f64::from(self.backlog_max) + 1.0 - self.depth).max(0.0);
            let came = load(since) / 1e3;
            self.overflows += u64::from(came > room);
            let (came, serves) =
                (came.min(room), if pauses(since) { 0.0 } else { self.capacity / 1e3 });
            self.depth += came;
            let served = serves.min(self.depth);
            self.depth -= served;
            self.arrived += came;
            self.accepted += served;
            self.history.push(self.arrived);
            if (start_ms + ms + 1).is_multiple_of(100) {
                run.look((start_ms + ms + 1) as f64 / 1e3, self.fact());
            }
        }
    }

    fn fact(&self) -> ListenerFact {
        let backlog = self.depth as u32;
        let established_ms = self.history.partition_point(|arrived| *arrived <= self.accepted);
        let head_ms = self.history.len().saturating_sub(established_ms);
        ListenerFact {
            socket: 1,
            backlog_max: self.backlog_max,
            accepted_total: Some(self.arrived as u64 - u64::from(backlog)),
            arrived_total: Some(self.arrived as u64),
            overflows_total: Some(self.overflows),
            sojourn_min_us: self.exact.then_some(head_ms as u64 * 1_000),
            ..fact(backlog, Some(if backlog == 0 { 0 } else { head_ms as u64 * 1_000 }))
        }
    }
}

#[test]
fn stopped_acceptor_is_claimed_within_a_second_and_cleared() {
    let mut run = Run::new();
    run.looks(0.0, 5.0, |_| fact(1, Some(100)));
    run.looks(5.0, 4.0, |since| fact((since * 20.0) as u32, wait_us((since - 0.05).max(0.0))));
    run.looks(9.0, 8.0, |_| fact(0, Some(0)));
    assert_eq!(run.states(), [(ClaimState::Raised, 5.8), (ClaimState::Cleared, 13.9)]);
    let raised = &run.verdicts[0];
    assert_eq!(
        raised.why,
        "0.0.0.0:8080 (pid 812) has accepted no connection for 0.8 s; 16 connections are \
         waiting, of 128 that fit, growing by 20/s; the queue overflows in 5.7 s; its accept loop \
         is stuck"
    );
    assert!((raised.exhaustion_secs.unwrap() - 5.7).abs() < 0.11, "{raised:?}");
    assert_eq!(raised.confidence, 0.95);
    let cleared = "the accept queue of 0.0.0.0:8080 (pid 812) has been healthy for 5.0 s, after \
                   8.1 s of overload";
    assert_eq!(run.verdicts[1].why, cleared);
}

#[test]
fn stopped_acceptor_at_low_load_is_claimed_once_four_wait() {
    let mut run = Run::new();
    run.looks(0.0, 3.0, |since| fact((since * 2.0) as u32 + 1, wait_us(since)));
    assert_eq!(run.states(), [(ClaimState::Raised, 1.5)]);
}

#[test]
fn one_that_waits_behind_a_slow_request_is_no_overload() {
    let mut run = Run::new();
    // One worker, a request of 2.5 s every ten, a health check every two: one or two wait, for 1.4
    // s at most.
    run.looks(0.0, 120.0, |since| match since % 10.0 {
        slow @ 7.9..9.2 => ListenerFact { backlog_max: 2048, ..fact(1, wait_us(slow - 7.9)) },
        _ => fact(0, Some(0)),
    });
    assert_eq!(run.states(), []);
    run.looks(120.0, 8.0, |since| ListenerFact { backlog_max: 2048, ..fact(1, wait_us(since)) });
    assert_eq!(run.states(), [(ClaimState::Raised, 126.0)]);
}

#[test]
fn server_that_never_accepted_may_start_for_half_a_minute() {
    let mut run = Run::new();
    let starts = |since: f64| ListenerFact {
        accepted_total: Some(0),
        ..fact((since * 2.0) as u32 + 1, wait_us(since))
    };
    run.looks(0.0, 29.9, starts);
    assert_eq!(run.states(), []);
    run.looks(29.9, 2.0, |since| starts(29.9 + since));
    assert_eq!(run.states(), [(ClaimState::Raised, 30.0)]);
}

/// A UNIX listener, whose oldest wait and accepts nobody can read.
fn unix(backlog: u32) -> ListenerFact {
    ListenerFact {
        addr: Arc::from("unix:/run/app.sock"),
        backlog_max: 2_048,
        ..fact(backlog, None)
    }
}

#[test]
fn unix_queue_that_never_falls_is_claimed_within_four_seconds() {
    let mut run = Run::new();
    // Four workers, all stuck; six connections a second.
    run.looks(0.0, 15.0, |_| ListenerFact { oldest_wait_us: Some(0), ..unix(0) });
    run.looks(15.0, 10.0, |since| unix((since * 6.0) as u32 + 1));
    assert_eq!(run.states(), [(ClaimState::Raised, 18.0)]);
    assert_eq!(
        run.verdicts[0].why,
        "unix:/run/app.sock (pid 812) accepts no connection: its queue has not fallen for 3.0 s; \
         19 connections are waiting, of 2048 that fit, growing by 6/s; the queue overflows in 6 min; its accept loop \
         is stuck; the oldest wait cannot be read here, so this rests on the depth of the queue"
    );
    // The workers go on.
    run.looks(25.0, 3.0, |since| unix(60 - (since * 20.0) as u32));
    run.looks(28.0, 8.0, |_| unix(0));
    assert_eq!(run.states().last(), Some(&(ClaimState::Cleared, 30.0)));
}

#[test]
fn unix_queue_that_falls_now_and_then_is_healthy() {
    let mut run = Run::new();
    // One worker that takes 2.5 s for a request; a burst of six every half a minute.
    run.looks(0.0, 300.0, |since| match since % 30.0 {
        burst if burst < 15.0 => unix(6 - (burst / 2.5) as u32),
        _ => unix(0),
    });
    assert_eq!(run.states(), []);
    // Few that wait for long are a slow request.
    run.looks(300.0, 20.0, |_| unix(3));
    assert_eq!(run.states(), []);
}

#[test]
fn unix_server_that_starts_may_let_wait_for_ten_seconds() {
    let mut run = Run::new();
    run.looks(0.0, 9.0, |since| unix((since * 2.0) as u32 + 1));
    run.looks(9.0, 10.0, |_| unix(0));
    assert_eq!(run.states(), []);
}

#[test]
fn retry_storm_is_recognised_after_twelve_seconds_of_calm() {
    let mut run = Run::new();
    run.looks(0.0, 12.0, |since| ListenerFact {
        backlog_max: 2_048,
        accepted_total: Some((since * 14.0) as u64),
        arrived_total: Some((since * 14.0) as u64),
        ..fact(0, Some(0))
    });
    // The server slows down; its clients give up after a second and try again three times.
    run.looks(12.0, 6.0, |since| {
        let arrived = 168 + (since * 14.0 + (since - 1.0).max(0.0) * 41.0) as u64;
        let accepted = 168 + (since * 5.0) as u64;
        ListenerFact {
            backlog_max: 2_048,
            accepted_total: Some(accepted),
            arrived_total: Some(arrived),
            ..fact((arrived - accepted) as u32, wait_us(since * 0.64))
        }
    });
    let Claim::Overload(claim) = &run.verdicts[0].claim else { unreachable!() };
    assert_eq!(claim.sign, Some(Sign::RetryStorm), "{}", run.verdicts[0].why);
    assert!(run.verdicts[0].t <= 16.0, "{}", run.verdicts[0].t);
}

/// A storm after 12 s of calm: the server accepts 5 a second of 57 for 10 s, then as many as before.
fn storm(run: &mut Run) {
    run.looks(0.0, 12.0, |since| ListenerFact {
        backlog_max: 2_048,
        accepted_total: Some((since * 14.0) as u64),
        arrived_total: Some((since * 14.0) as u64),
        ..fact(0, Some(0))
    });
    run.looks(12.0, 30.0, |since| {
        let arrived = 168 + (since * 14.0 + (since.min(20.0) - 1.0).max(0.0) * 43.0) as u64;
        let accepted = 168 + (since.min(10.0) * 5.0 + (since - 10.0).max(0.0) * 20.0) as u64;
        ListenerFact {
            backlog_max: 2_048,
            accepted_total: Some(accepted),
            arrived_total: Some(arrived),
            ..fact((arrived - accepted) as u32, wait_us(since * 0.64))
        }
    });
}

#[test]
fn accepts_for_clients_that_have_gone_are_reported() {
    let mut run = Run::new();
    storm(&mut run);
    let raised = &run.verdicts[0];
    assert!(raised.why.contains("; clients keep retrying: 5"), "{}", raised.why);
    assert!(!raised.why.contains("gone"), "{}", raised.why);
    let updated: Vec<_> =
        run.verdicts.iter().filter(|verdict| verdict.state == ClaimState::Updated).collect();
    let again = "are accepted, but at least 7";
    let told = updated.iter().find(|verdict| verdict.why.contains(again));
    let told = told.unwrap_or_else(|| panic!("{updated:#?}"));
    assert!(told.why.contains("; clients keep retrying: 5"), "{}", told.why);
    assert!(told.why.ends_with("% of them for clients that have gone"), "{}", told.why);
    assert!((22.0..26.0).contains(&told.t), "{}", told.t);
    // The storm is over after 20 s: what waits is still of clients that have gone.
    let last = &updated[updated.len() - 1];
    assert!(last.t >= 32.0 && last.why.contains("; clients retried before: "), "{}", last.why);
    assert!(last.why.contains(again), "{}", last.why);
    let Claim::Overload(claim) = &last.claim else { unreachable!() };
    assert_eq!(claim.sign, None, "nobody retries now");
}

#[test]
fn waits_of_half_a_second_for_three_seconds_are_overload() {
    for exact in [false, true] {
        let (mut run, mut server) = (Run::new(), Server::new(30.0, 2_048));
        server.exact = exact;
        server.run(&mut run, 60.0, |_| 20.0, |_| false);
        // Twenty wait in the end, and as many come as are accepted.
        server.run(&mut run, 2.0, |_| 40.0, |_| false);
        server.run(&mut run, 1.0, |_| 30.0, |_| false);
        assert_eq!(run.states(), []);
        server.run(&mut run, 3.0, |_| 30.0, |_| false);
        let [raised] = &run.verdicts[..] else { panic!("{:?}", run.states()) };
        assert!((64.2..65.2).contains(&raised.t), "{}", raised.t);
        let why = "0.0.0.0:8080 (pid 812) accepts too slowly: each connection waits for half a \
                   second or more; ";
        assert!(raised.why.starts_with(why), "{}", raised.why);
    }
}

#[test]
fn shorter_waits_or_fewer_connections_are_healthy() {
    for (capacity, waiting) in [(30.0, 13.0), (30.0, 14.0), (5.0, 3.5)] {
        let (mut run, mut server) = (Run::new(), Server::new(capacity, 2_048));
        server.run(&mut run, 60.0, |_| 0.5 * capacity, |_| false);
        server.run(&mut run, 1.0, |_| capacity + waiting, |_| false);
        server.run(&mut run, 25.0, |_| capacity, |_| false);
        assert_eq!(run.states(), [], "{waiting} at {capacity}/s");
    }
}

#[test]
fn queue_that_drains_for_seconds_is_overload_while_all_wait() {
    let (mut run, mut server) = (Run::new(), Server::new(30.0, 2_048));
    server.run(&mut run, 60.0, |_| 10.0, |_| false);
    // A crowd of 120, at once: those that come last wait for six seconds.
    server.run(&mut run, 0.1, |_| 1_200.0, |_| false);
    server.run(&mut run, 20.0, |_| 10.0, |_| false);
    let states: Vec<_> = run.verdicts.iter().map(|verdict| verdict.state).collect();
    assert_eq!(states, [ClaimState::Raised, ClaimState::Cleared]);
    assert!((63.4..64.2).contains(&run.verdicts[0].t), "{}", run.verdicts[0].t);
}

#[test]
fn usual_pauses_are_claimed_once_at_most() {
    // Event loops that stall, and collectors: how often, and for how long.
    for (every_secs, lasts_secs, most) in
        [(10.0, 0.3, 0), (10.0, 0.6, 0), (10.0, 1.0, 1), (30.0, 1.5, 1)]
    {
        for capacity in [20.0, 100.0, 500.0] {
            let (mut run, mut server) = (Run::new(), Server::new(capacity, 4_096));
            let pauses = |since: f64| since % every_secs > every_secs - lasts_secs;
            server.run(&mut run, 10.0 * every_secs, |_| 0.4 * capacity, pauses);
            let raised = run.verdicts.iter().filter(|one| one.state == ClaimState::Raised).count();
            assert!(raised <= most, "{lasts_secs} s at {capacity}/s: {raised} claims");
        }
    }
}

#[test]
fn real_stop_after_usual_pauses_is_claimed_in_seconds() {
    let (mut run, mut server) = (Run::new(), Server::new(100.0, 4_096));
    server.run(&mut run, 60.0, |_| 40.0, |since| since % 10.0 > 9.0);
    run.verdicts.clear();
    server.run(&mut run, 8.0, |_| 40.0, |_| true);
    assert!(run.verdicts[0].t <= 63.6, "{:?}", run.states());
}

fn opened(pid: u32, fds: u64) -> Fact {
    let id = crate::sense::ProcessId { pid, start_ticks: 1 };
    let (fds_max, close_wait) = (Some(40), Some(0));
    Fact::Handles(ProcessResourcesFact { id, fds, fds_max, threads: 1, close_wait })
}

#[test]
fn service_without_file_descriptors_is_named_as_such() {
    let mut run = Run::new();
    let stopped = |since: f64| fact((since * 20.0) as u32, wait_us((since - 0.05).max(0.0)));
    run.looks(0.0, 5.0, |_| fact(1, Some(100)));
    run.core.apply(&Observation { t: 4.9, fact: opened(812, 40) });
    run.looks(5.0, 2.0, stopped);
    let raised = &run.verdicts[0];
    let why = "; it has 40 of 40 files open, so that it cannot accept";
    assert!(raised.why.ends_with(why), "{}", raised.why);
    let json = serde_json::to_value(raised).unwrap();
    assert_eq!(
        (&json["files_pid"], &json["files"], &json["files_max"]),
        (&812.into(), &40.into(), &40.into())
    );
    let advice = raised.claim.advice(None);
    assert_eq!(advice, "find out what keeps the files of pid 812 open, or raise its limit of 40");
}

#[test]
fn file_descriptors_that_run_out_later_are_an_update() {
    let mut run = Run::new();
    let stopped = |since: f64| fact((since * 5.0) as u32, wait_us((since - 0.05).max(0.0)));
    run.looks(0.0, 5.0, |_| fact(1, Some(100)));
    run.looks(5.0, 2.0, stopped);
    run.core.apply(&Observation { t: 6.95, fact: opened(812, 40) });
    run.looks(7.0, 15.0, |since| stopped(since + 2.0));
    assert!(!run.verdicts[0].why.contains("40 of 40"), "{}", run.verdicts[0].why);
    let is_told = |verdict: &&Verdict| verdict.why.contains("it has 40 of 40 files open");
    let told = run.verdicts.iter().find(is_told).expect("it is told");
    assert_eq!(told.state, ClaimState::Updated);
}

/// Workers of `api` wait while connects of a program from a network namespace stay pending.
fn beside_pending_connects(comm: &str, netns: u32) -> Verdict {
    let mut run = Run::new();
    let upstream = |t: f64, pending| Observation {
        t,
        fact: Fact::Outbound(OutboundFact {
            netns,
            addr: Arc::from("10.0.0.7:5432"),
            cgroup: Arc::from("/api.service"),
            comm: Arc::from(comm),
            pending,
            ..OutboundFact::default()
        }),
    };
    let fact = |backlog, oldest_wait_us| ListenerFact {
        comm: Arc::from("api: master"),
        ..fact(backlog, oldest_wait_us)
    };
    run.looks(0.0, 5.0, |_| fact(1, Some(100)));
    run.core.apply(&upstream(4.95, 3));
    // A few are accepted, and those that read the pressure find neither CPU nor memory short.
    let strain = ServicePressureFact {
        secs: 0.1,
        psi_cpu_some_percent: Some(1.0),
        busiest_thread_percent: Some(3.0),
        ..ServicePressureFact::default()
    };
    let slow = |since: f64| ListenerFact {
        accepted_total: Some((since * 10.0) as u64),
        strain: Some(strain),
        ..fact((since * 10.0) as u32, wait_us(since * 0.5))
    };
    run.looks(5.0, 3.0, slow);
    run.core.apply(&upstream(7.95, 4));
    run.looks(8.0, 3.0, |since| slow(3.0 + since));
    run.verdicts.swap_remove(0)
}

#[test]
fn workers_that_wait_for_a_dead_upstream_name_it() {
    let raised = beside_pending_connects("api: worker 2", 1);
    let Claim::Overload(claim) = &raised.claim else { unreachable!() };
    assert_eq!(claim.scarce, Some(Bottleneck::Dependency), "{}", raised.why);
    assert_eq!(claim.dependency.as_deref(), Some("10.0.0.7:5432"));
    assert!(raised.why.contains("; it waits for 10.0.0.7:5432, which does not"), "{}", raised.why);
}

#[test]
fn connects_of_others_in_its_cgroup_are_not_its_own() {
    for (comm, netns) in [("mailer", 1), ("api: worker 2", 8)] {
        let raised = beside_pending_connects(comm, netns);
        let Claim::Overload(claim) = &raised.claim else { unreachable!() };
        assert_eq!(claim.scarce, Some(Bottleneck::Workers), "{comm}, {netns}: {}", raised.why);
        assert_eq!(claim.dependency, None, "{comm}, {netns}");
    }
}

#[test]
fn shared_listener_is_named_by_its_stuck_worker_or_none() {
    let shared = |stuck_pid: Option<u32>| {
        let mut run = Run::new();
        let (comm, holders) = (Arc::from("api"), Some(5));
        let fact = |backlog, oldest_wait_us| ListenerFact {
            comm: Arc::clone(&comm),
            holders,
            ..fact(backlog, oldest_wait_us)
        };
        run.looks(0.0, 5.0, |_| fact(1, Some(100)));
        let requests = RequestsFact {
            netns: 1,
            addr: Arc::from("0.0.0.0:8080"),
            in_flight: 1,
            oldest_in_flight_us: Some(3_000_000),
            stuck_pid,
            stuck_us: stuck_pid.map(|_| 2_900_000),
            ..RequestsFact::default()
        };
        run.core.apply(&Observation { t: 4.95, fact: Fact::Requests(requests) });
        run.looks(5.0, 3.0, |since| fact((since * 10.0) as u32, wait_us(since)));
        let raised = run.verdicts.swap_remove(0);
        let Claim::Overload(claim) = raised.claim else { unreachable!() };
        (claim.pid, raised.why)
    };
    let (pid, why) = shared(Some(815));
    assert_eq!(pid, Some(815));
    assert!(why.starts_with("0.0.0.0:8080 (api, pid 815) "), "{why}");
    let told =
        "; pid 815, one of the processes that share it, has not answered a request for 2.9 s";
    assert!(why.contains(told), "{why}");
    let (pid, why) = shared(None);
    assert_eq!(pid, None, "the master answers nothing");
    assert!(why.starts_with("0.0.0.0:8080 (api) "), "{why}");
}

/// Requests of a service that answers 20 a second, until it holds them all from `t` = 20 on.
fn requests_held(holder: impl Fn(f64) -> Option<u32>) -> Verdict {
    let mut run = Run::new();
    for step in 0..300 {
        let t = f64::from(step) / 10.0;
        let held = (t - 20.0).max(0.0);
        let requests = RequestsFact {
            netns: 1,
            addr: Arc::from("0.0.0.0:8080"),
            connections: Some(50),
            in_flight: 1 + (held * 20.0) as u32,
            oldest_in_flight_us: wait_us(held + 0.02),
            youngest_in_flight_us: Some(20_000),
            answered_total: Some((t.min(20.0) * 20.0) as u64),
            abandoned_total: Some(0),
            stuck_pid: holder(held).filter(|_| held >= 0.5),
            stuck_us: wait_us(held).filter(|_| held >= 0.5),
            ..RequestsFact::default()
        };
        run.look(t, ListenerFact { comm: Arc::from("db"), ..fact(0, None) });
        let seen = Observation { t, fact: Fact::Requests(requests) };
        run.verdicts.extend(run.core.apply(&seen).verdicts);
    }
    assert_eq!(run.verdicts.len(), 1, "{:?}", run.verdicts);
    run.verdicts.swap_remove(0)
}

#[test]
fn process_to_which_a_connection_is_passed_is_named() {
    let named = |verdict: &Verdict| match &verdict.claim {
        Claim::Overload(claim) => claim.pid,
        _ => unreachable!(),
    };
    let passed = requests_held(|_| Some(815));
    assert_eq!(named(&passed), Some(815), "{}", passed.why);
    let told = "; pid 815, to which it passed a connection, has not answered a request for ";
    assert!(passed.why.contains(told), "{}", passed.why);
    for own in [requests_held(|_| Some(812)), requests_held(|_| None)] {
        assert_eq!(named(&own), Some(812), "{}", own.why);
        assert!(!own.why.contains("passed a connection"), "{}", own.why);
    }
    let unknown = requests_held(|held| Some(815).filter(|_| held < 0.6));
    assert_eq!(named(&unknown), None, "its owner is known to answer nothing: {}", unknown.why);
}

#[test]
fn drops_of_an_overload_are_no_matter_of_the_backlog() {
    let (mut run, mut server) = (Run::new(), Server::new(100.0, 511));
    server.run(&mut run, 30.0, |_| 50.0, |_| false);
    server.run(&mut run, 15.0, |_| 200.0, |_| false);
    assert!(server.overflows > 100, "{}", server.overflows);
    server.run(&mut run, 30.0, |_| 20.0, |_| false);
    for verdict in &run.verdicts {
        let Claim::Overload(claim) = &verdict.claim else { unreachable!() };
        assert_ne!(claim.scarce, Some(Bottleneck::Backlog), "{}", verdict.why);
    }
    assert_eq!(run.verdicts[run.verdicts.len() - 1].state, ClaimState::Cleared);
}

#[test]
fn nothing_is_claimed_at_the_first_sample_or_after_a_gap() {
    let mut run = Run::new();
    let stuck = || ListenerFact { accepted_total: Some(7), ..fact(20, wait_us(9.0)) };
    run.look(0.0, stuck());
    run.look(0.1, stuck());
    assert_eq!(run.states(), []);
    run.looks(0.2, 1.0, |_| fact(0, Some(0)));
    // Nobody looked for 1.5 s, as if the host had stood still.
    run.look(2.6, fact(40, wait_us(1.4)));
    run.look(2.7, fact(30, wait_us(1.4)));
    run.looks(2.8, 5.0, |_| fact(0, Some(0)));
    assert_eq!(run.states(), []);
}

#[test]
fn packets_that_a_listener_discards_are_no_overflows() {
    let mut run = Run::new();
    // TCP_DEFER_ACCEPT drops the bare ACK of each connection.
    run.looks(0.0, 60.0, |since| {
        let count = Some(since as u64);
        ListenerFact {
            accepted_total: count,
            arrived_total: count,
            overflows_total: count,
            ..fact(0, Some(0))
        }
    });
    assert_eq!(run.states(), []);
}

#[test]
fn a_ramp_is_claimed_before_the_first_overflow() {
    for (capacity, backlog_max) in
        [(200.0, 128), (1_000.0, 128), (1_000.0, 511), (5_000.0, 511), (20_000.0, 4_096)]
    {
        let (mut run, mut server) = (Run::new(), Server::new(capacity, backlog_max));
        server.run(&mut run, 60.0, |_| 0.7 * capacity, |_| false);
        assert_eq!(run.states(), []);
        server.run(&mut run, 20.0, |since| (1.0 + since / 20.0 * 0.4) * capacity, |_| false);
        let raised = run.verdicts.first().expect("the ramp is claimed");
        let Claim::Overload(claim) = &raised.claim else { unreachable!() };
        assert!(claim.backlog <= backlog_max, "{capacity}/s, {backlog_max}: {}", raised.why);
        assert!(server.overflows > 0, "it would have overflowed");
    }
}

#[test]
fn slow_steps_of_load_are_claimed_before_the_overflow() {
    let (mut run, mut server) = (Run::new(), Server::new(1_000.0, 511));
    server.run(&mut run, 60.0, |_| 700.0, |_| false);
    server.run(&mut run, 2.0, |_| 1_500.0, |_| false);
    let raised = &run.verdicts[0];
    let fills = "0.0.0.0:8080 (pid 812) accepts fewer connections than arrive, and its queue fills";
    assert!(raised.why.starts_with(fills), "{}", raised.why);
    let Claim::Overload(claim) = &raised.claim else { unreachable!() };
    assert!(claim.backlog <= 300 && claim.sign == Some(Sign::LoadSurge), "{}", raised.why);
}

#[test]
fn pauses_of_200_ms_and_bursts_of_100_ms_are_healthy() {
    for capacity in [100.0, 1_000.0, 10_000.0] {
        for exact in [false, true] {
            let (mut run, mut server) = (Run::new(), Server::new(capacity, 4_096));
            server.exact = exact;
            server.run(&mut run, 120.0, |_| 0.8 * capacity, |since| since % 3.1 < 0.2);
            assert_eq!(run.states(), [], "pauses at {capacity}/s");
            let burst = |since: f64| if since % 5.3 < 0.1 { 3.0 } else { 0.7 };
            server.run(&mut run, 120.0, |since| burst(since) * capacity, |_| false);
            assert_eq!(run.states(), [], "bursts at {capacity}/s");
        }
    }
}

#[test]
fn a_pause_that_the_agent_meets_in_any_phase_is_healthy() {
    for phase in 0..20 {
        let (mut run, mut server) = (Run::new(), Server::new(1_000.0, 511));
        let from = 1.0 + f64::from(phase) * 0.005;
        server.run(&mut run, 4.0, |_| 800.0, |since| (from..from + 0.2).contains(&since));
        assert_eq!(run.states(), [], "{from}");
    }
}

#[test]
fn queue_that_never_drains_is_overload_at_any_wait() {
    let mut run = Run::new();
    run.looks(0.0, 3.0, |since| {
        let accepted_total = Some((since * 2_500.0) as u64);
        let (sojourn_min_us, sojourn_mean_us) = (Some(6_000), Some(7_600));
        ListenerFact { accepted_total, sojourn_min_us, sojourn_mean_us, ..fact(20, Some(8_000)) }
    });
    assert_eq!(run.states(), [(ClaimState::Raised, 1.0)]);
    let why = "0.0.0.0:8080 (pid 812) accepts too slowly: its queue has not drained for 1.0 s; \
               20 connections are waiting, of 128 that fit, the oldest for 8 ms, and those \
               accepted last waited for 8 ms on average";
    assert_eq!(run.verdicts[0].why, why);
    assert_eq!((run.verdicts[0].confidence, run.verdicts[0].exhaustion_secs), (0.9, None));
}

#[test]
fn a_slow_server_stands_longer_before_that_is_no_chance() {
    let stands = |per_sec: f64| {
        let mut run = Run::new();
        run.looks(0.0, 60.0, |since| {
            let accepted_total = Some((since * per_sec) as u64);
            ListenerFact { accepted_total, sojourn_min_us: Some(30_000), ..fact(5, Some(40_000)) }
        });
        run.states()
    };
    assert_eq!(stands(100.0), [(ClaimState::Raised, 10.0)]);
    assert_eq!(stands(10.0), []);
}

#[test]
fn short_wait_must_last_longer_without_timed_connections() {
    let mut run = Run::new();
    run.looks(0.0, 6.0, |since| ListenerFact {
        accepted_total: Some((since * 2_500.0) as u64),
        ..fact(20, Some(8_000))
    });
    assert_eq!(run.states(), [(ClaimState::Raised, 3.0)]);
}

#[test]
fn queue_never_found_empty_counts_as_timed() {
    let mut run = Run::new();
    run.looks(0.0, 6.0, |since| {
        let found_empty_us = Some((since * 1e6) as u64 + 8_000);
        let accepted_total = Some((since * 2_500.0) as u64);
        ListenerFact { accepted_total, found_empty_us, ..fact(20, Some(8_000)) }
    });
    assert_eq!(run.states(), [(ClaimState::Raised, 1.0)]);
}

#[test]
fn a_queue_that_drained_between_looks_does_not_stand() {
    let (mut timed, mut found_empty) = (Run::new(), Run::new());
    let accepted_total = |since: f64| Some((since * 2_500.0) as u64);
    timed.looks(0.0, 30.0, |since| ListenerFact {
        accepted_total: accepted_total(since),
        sojourn_min_us: Some(40),
        ..fact(20, Some(8_000))
    });
    found_empty.looks(0.0, 30.0, |since| ListenerFact {
        accepted_total: accepted_total(since),
        found_empty_us: Some(9_000),
        ..fact(20, Some(8_000))
    });
    for run in [timed, found_empty] {
        assert_eq!(run.states(), []);
    }
}

#[test]
fn without_head_age_depth_takes_longer_and_says_so() {
    let mut run = Run::new();
    let moves = |since: f64| (since * 10.0).round() as u32 % 2;
    run.looks(0.0, 5.0, |since| fact(31 - moves(since), None));
    assert_eq!(run.states(), []);
    run.looks(5.0, 5.0, |since| fact(33 - moves(since), None));
    assert_eq!(run.states(), [(ClaimState::Raised, 7.0)]);
    assert!(run.verdicts[0].confidence < 0.7);
    assert!(
        run.verdicts[0].why.ends_with(
            "the oldest wait cannot be read here, so this rests on the depth of the queue"
        )
    );
}

#[test]
fn a_head_that_moved_just_then_ends_no_run() {
    let mut run = Run::new();
    run.looks(0.0, 3.0, |since| {
        let oldest_wait_us =
            if (since * 10.0).round() as u32 % 4 == 2 { None } else { Some(8_000) };
        let accepted_total = Some((since * 2_500.0) as u64);
        ListenerFact { accepted_total, sojourn_min_us: Some(6_000), ..fact(20, oldest_wait_us) }
    });
    assert_eq!(run.states(), [(ClaimState::Raised, 1.0)]);
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
    assert_eq!(run.states(), [(ClaimState::Raised, 1.0)]);
    assert_eq!(run.verdicts[0].exhaustion_secs, Some(0.0));
    let why = &run.verdicts[0].why;
    assert!(why.contains("the queue is full; 10 connections were dropped meanwhile"), "{why}");
}

#[test]
fn full_queue_that_drops_has_no_backlog_that_is_too_small() {
    let mut run = Run::new();
    // Nobody can read the oldest wait, and samples are too far apart to show how long it stands.
    for second in 0..20_u32 {
        let t = f64::from(second) * 1.5 + if second % 3 == 0 { 0.0 } else { 1.2 };
        run.look(t, ListenerFact { overflows_total: Some(u64::from(second)), ..fact(129, None) });
    }
    let is_backlog = |verdict: &Verdict| match &verdict.claim {
        Claim::Overload(claim) => claim.scarce == Some(Bottleneck::Backlog),
        _ => false,
    };
    assert!(!run.verdicts.iter().any(is_backlog), "{:?}", run.verdicts);
}

#[test]
fn a_backlog_that_is_too_small_is_told_at_the_third_time() {
    let mut run = Run::new();
    run.looks(0.0, 60.0, |since| ListenerFact {
        backlog_max: 1,
        arrived_total: Some((since / 10.0) as u64 * 2),
        overflows_total: Some((since / 10.0) as u64 * 4),
        ..fact(0, Some(0))
    });
    assert_eq!(run.states(), [(ClaimState::Raised, 30.0)]);
    let Claim::Overload(claim) = &run.verdicts[0].claim else { unreachable!() };
    assert_eq!(claim.scarce, Some(Bottleneck::Backlog));
    assert!(
        run.verdicts[0]
            .why
            .ends_with("its backlog is too small for its bursts, although each wait is short")
    );
}

#[test]
fn a_backlog_of_nothing_lets_one_wait_and_is_not_full() {
    let mut run = Run::new();
    run.looks(0.0, 10.0, |since| {
        let waits = (since * 10.0).round() as u32 % 3 == 1;
        ListenerFact { backlog_max: 0, ..fact(u32::from(waits), Some(if waits { 900 } else { 0 })) }
    });
    assert_eq!(run.states(), []);
    run.looks(10.0, 8.0, |since| ListenerFact { backlog_max: 0, ..fact(1, wait_us(since)) });
    assert_eq!(run.states(), [(ClaimState::Raised, 16.0)]);
}

#[test]
fn gaps_restart_the_run() {
    let mut run = Run::new();
    for t in [0.0, 0.1, 0.2, 0.3, 5.0, 5.1, 5.2, 10.0, 10.1, 10.2] {
        run.look(t, fact(64, Some(8_000)));
    }
    assert_eq!(run.states(), []);
}

#[test]
fn coarse_looks_suffice_where_the_head_proves_it() {
    let mut run = Run::new();
    run.look(0.0, fact(1, Some(90)));
    run.look(5.0, fact(40, wait_us(4.0)));
    assert_eq!(run.states(), [(ClaimState::Raised, 5.0)]);
}

#[test]
fn one_stuck_socket_of_eight_is_told_and_which_process_holds_it() {
    let mut run = Run::new();
    for step in 0..20 {
        let t = f64::from(step) / 10.0;
        for socket in 1..=8 {
            let (backlog, age) = if socket == 3 { (9, wait_us(t)) } else { (0, Some(0)) };
            run.look(
                t,
                ListenerFact { socket, pid: Some(800 + socket as u32), ..fact(backlog, age) },
            );
        }
    }
    assert_eq!(run.states(), [(ClaimState::Raised, 0.7)]);
    let why = &run.verdicts[0].why;
    assert!(
        why.starts_with("0.0.0.0:8080 (pid 803) has accepted no connection for 0.7 s"),
        "{why}"
    );
    assert!(why.contains("at one of the 8 sockets that share this address"), "{why}");
}

#[test]
fn eight_sockets_that_stand_by_turns_are_not_one_that_stands() {
    let mut run = Run::new();
    for step in 0..400_u64 {
        let t = step as f64 / 10.0;
        for socket in 1..=8 {
            // Each pauses for 200 ms in its turn.
            let paused = step / 2 % 8 + 1 == socket;
            let (backlog, age) =
                if paused { (9, wait_us((step % 2) as f64 / 10.0 + 0.1)) } else { (0, Some(0)) };
            run.look(t, ListenerFact { socket, ..fact(backlog, age) });
        }
    }
    assert_eq!(run.states(), []);
}

#[test]
fn sockets_without_a_number_are_told_apart_by_who_holds_them() {
    let mut run = Run::new();
    for step in 0..20 {
        let t = f64::from(step) / 10.0;
        for fact in [fact(9, wait_us(t)), ListenerFact { pid: Some(813), ..fact(0, Some(0)) }] {
            run.look(t, fact);
        }
    }
    assert_eq!(run.states(), [(ClaimState::Raised, 0.7)]);
}

#[test]
fn a_claim_that_stands_is_forecast_anew_each_second() {
    let mut overload = OverloadDetector::new(&Config::default().detect.overload);
    let mut findings = Findings::default();
    let health = crate::detect::SensorHealth::default();
    for step in 0..31 {
        let t = f64::from(step) / 10.0;
        let info = HostInfo { mem_total_bytes: 1 << 34, cpus: 2 };
        let context = Context { t, scan: 0, info, host: None, sensor_health: &health };
        overload.observe(
            &context,
            &Fact::Listener(Box::new(fact(step, wait_us(t)))),
            &mut findings,
        );
    }
    assert_eq!((findings.verdicts.len(), findings.forecasts.len()), (1, 2));
}

#[test]
fn a_listener_that_vanishes_takes_its_claim_with_it() {
    let mut run = Run::new();
    run.host(0.0, None);
    run.looks(0.0, 2.0, |since| fact(9, wait_us(since)));
    (1..=8).for_each(|t| run.host(1.0 + f64::from(t), None));
    assert_eq!(run.states(), [(ClaimState::Raised, 0.7), (ClaimState::Cleared, 7.0)]);
    assert_eq!(run.verdicts[1].why, "0.0.0.0:8080 (pid 812) disappeared from the last scans");
    assert_eq!(run.core.tracked().listeners, 0);
}
