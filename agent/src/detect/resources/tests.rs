//! The handle rule against counts that rise as leaks do and as healthy ones do, under the default
//! configuration.

use std::sync::Arc;

use super::*;
use crate::{
    config::Config,
    detect::{Claim, ClaimState, HostInfo, Resource, Verdict},
    engine::Engine,
    sense::{HostFact, Observation},
};

const API: ProcessId = ProcessId { pid: 812, start_ticks: 4711 };
const HOUR: f64 = 3_600.0;

type Shape<'a> = &'a dyn Fn(f64, u64) -> Holds;
type End<'a> = &'a dyn Fn(&mut Run);
type Then<'a> = &'a dyn Fn(f64) -> f64;

/// What a process holds.
#[derive(Clone, Copy)]
struct Holds {
    files: f64,
    threads: f64,
    close_wait: f64,
    max: Option<u64>,
}

fn files(files: f64, max: u64) -> Holds {
    Holds { files, threads: 8.0, close_wait: 0.0, max: Some(max) }
}

struct Run {
    core: Engine,
    verdicts: Vec<Verdict>,
}

impl Run {
    fn new() -> Self {
        let info = HostInfo { mem_total_bytes: 1 << 34, cpus: 2 };
        Self { core: Engine::new(&Config::default(), info), verdicts: Vec::new() }
    }

    fn feed(&mut self, t: f64, fact: Fact) {
        self.verdicts.extend(self.core.apply(&Observation { t, fact }).verdicts);
    }

    fn host(&mut self, t: f64) {
        self.feed(
            t,
            Fact::Host(HostFact { mem_available_bytes: 1 << 33, psi_memory_some_avg10: None }),
        );
    }

    fn process(&mut self, t: f64, id: ProcessId) {
        let fact = ProcessFact {
            id,
            ppid: 1,
            comm: Arc::from("api"),
            cgroup: Arc::from("/api.service"),
            anon_bytes: 1 << 20,
            ..ProcessFact::default()
        };
        self.feed(t, Fact::Process(fact));
    }

    fn look(&mut self, t: f64, id: ProcessId, holds: Holds) {
        self.host(t);
        self.process(t, id);
        let [fds, threads, close_wait] =
            [holds.files, holds.threads, holds.close_wait].map(|count| count as u64);
        self.feed(
            t,
            Fact::Handles(ProcessResourcesFact {
                id,
                fds,
                fds_max: holds.max,
                threads,
                close_wait: Some(close_wait),
            }),
        );
    }

    /// Looks every ten seconds.
    fn looks(&mut self, from: f64, until: f64, holds: impl Fn(f64) -> Holds) {
        for step in 0..((until - from) / 10.0) as u32 {
            let t = from + f64::from(step) * 10.0;
            self.look(t, API, holds(t));
        }
    }

    fn states(&self) -> Vec<(ClaimState, Resource)> {
        let resource = |verdict: &Verdict| match &verdict.claim {
            Claim::Leak(claim) => claim.resource,
            claim => unreachable!("{claim:?}"),
        };
        self.verdicts.iter().map(|verdict| (verdict.state, resource(verdict))).collect()
    }
}

fn shape(secs: f64, holds: impl Fn(f64) -> Holds) -> Vec<Verdict> {
    let mut run = Run::new();
    run.looks(0.0, secs, holds);
    run.verdicts
}

fn one(verdicts: Vec<Verdict>) -> (Verdict, Resource, f64) {
    let [verdict] = <[Verdict; 1]>::try_from(verdicts).unwrap();
    let Claim::Leak(claim) = &verdict.claim else { unreachable!() };
    let (resource, per_sec) = (claim.resource, claim.growth_handles_per_sec.unwrap());
    assert_eq!((verdict.state, claim.growth_bytes_per_sec), (ClaimState::Raised, None));
    (verdict, resource, per_sec)
}

/// Uniform in -1..1, the same every time.
fn noise(t: f64, seed: u64) -> f64 {
    let mut x = (t * 1000.0) as u64 ^ seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    for _ in 0..3 {
        x ^= x >> 33;
        x = x.wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    }
    (x >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
}

/// Load of a day: least at `night_t`, most half a day later.
fn day(t: f64, night_t: f64) -> f64 {
    (1.0 - (std::f64::consts::TAU * (t - night_t) / (24.0 * HOUR)).cos()) / 2.0
}

#[test]
fn a_constant_leak_of_files_is_found_and_its_end_foretold() {
    let (verdict, resource, per_sec) = one(shape(1_800.0, |t| files(24.0 + t / 3.0, 1_024)));
    assert_eq!(resource, Resource::Files);
    assert!((per_sec * 60.0 - 20.0).abs() < 1.0, "{per_sec}");
    let end_t = 1_000.0 * 3.0;
    assert!(
        ((verdict.t + verdict.exhaustion_secs.unwrap()) / end_t - 1.0).abs() < 0.03,
        "{verdict:?}"
    );
    assert!(verdict.t < end_t / 2.0, "{verdict:?}");
    assert!(verdict.confidence >= 0.97, "{verdict:?}");
    assert_eq!(
        verdict.why,
        "api (pid 812) holds 320 more open files than 16 min ago (20/min), without slowing down; \
         if it goes on, its limit of 1,024 open files is reached in 32 min"
    );
}

#[test]
fn leaks_of_any_pace_under_a_busy_load_are_found_in_time() {
    for (per_min, secs, max) in
        [(60.0, 2_000.0, 4_096), (5.0, 5.0 * HOUR, 2_048), (0.5, 40.0 * HOUR, 2_048)]
    {
        for seed in 0..4 {
            let busy = |t: f64| 150.0 + 25.0 * noise(t, seed) + 25.0 * noise(t, seed + 100);
            let (verdict, resource, _) =
                one(shape(secs, |t| files(busy(t) + t * per_min / 60.0, max)));
            let end_t = (max as f64 - 150.0) / per_min * 60.0;
            let told_t = verdict.t + verdict.exhaustion_secs.unwrap();
            assert_eq!(resource, Resource::Files);
            assert!(verdict.t < 0.6 * end_t, "{per_min}/min: {:.2} {verdict:?}", verdict.t / end_t);
            assert!(
                ((told_t - verdict.t) / (end_t - verdict.t) - 1.0).abs() < 0.15,
                "{per_min}/min: {verdict:?}"
            );
        }
    }
}

#[test]
fn leak_without_near_limit_waits_until_no_morning_explains_it() {
    let holds = |t: f64, per_min: f64, max| Holds { max, ..files(40.0 + t * per_min / 60.0, 0) };
    for (per_min, max, hours) in [
        (20.0, None, 0.0..0.5),
        (20.0, Some(1 << 30), 26.0..36.0),
        (0.1, None, 26.0..60.0),
        (0.1, Some(1 << 20), 26.0..60.0),
    ] {
        let (verdict, ..) = one(shape(hours.end * HOUR, |t| holds(t, per_min, max)));
        assert!(hours.contains(&(verdict.t / HOUR)), "{verdict:?}");
        assert_eq!(verdict.exhaustion_secs.is_some(), max.is_some());
    }
}

#[test]
fn leak_after_days_of_calm_is_found_as_soon_as_at_start() {
    let start = |t: f64| 30.0 + 300.0 * (t / 120.0).min(1.0);
    let days = 3.0 * 86_400.0;
    let (verdict, ..) =
        one(shape(days + HOUR, |t| files(start(t) + (t - days).max(0.0) / 6.0, 1_024)));
    assert!(verdict.t - days < 1_800.0, "{verdict:?}");
}

#[test]
fn a_leak_of_threads_is_found_without_an_end() {
    let (verdict, resource, per_sec) =
        one(shape(3.0 * HOUR, |t| Holds { threads: 20.0 + t / 30.0, ..files(50.0, 1_024) }));
    assert_eq!((resource, verdict.exhaustion_secs), (Resource::Threads, None));
    assert!((per_sec * 60.0 - 2.0).abs() < 0.1 && verdict.t < 2.5 * HOUR, "{verdict:?}");
    assert!(
        verdict.why.starts_with("api (pid 812) holds ")
            && verdict.why.contains(" more threads than ")
    );
    // A thread a connection is load, for a morning at least.
    let served = |t: f64| Holds { threads: 20.0 + t / 30.0, ..files(50.0 + t / 30.0, 1 << 20) };
    assert_eq!(shape(2.0 * HOUR, served), []);
}

#[test]
fn close_wait_sockets_are_not_also_claimed_as_files() {
    let leak = |t: f64| Holds { close_wait: t / 30.0, ..files(60.0 + t / 30.0, 1_024) };
    let (verdict, resource, per_sec) = one(shape(4.0 * HOUR, leak));
    assert_eq!(resource, Resource::CloseWait);
    assert!((per_sec * 60.0 - 2.0).abs() < 0.1 && verdict.t < 1_500.0, "{verdict:?}");
    let end_t = 964.0 * 30.0;
    assert!(
        ((verdict.t + verdict.exhaustion_secs.unwrap()) / end_t - 1.0).abs() < 0.15,
        "{verdict:?}"
    );
    assert!(verdict.why.contains(" more sockets in CLOSE_WAIT than "), "{}", verdict.why);
    assert!(
        verdict.why.contains("its limit of 1,024 open files is reached in "),
        "{}",
        verdict.why
    );
}

#[test]
fn what_fills_up_comes_in_bursts_or_follows_load_is_silent() {
    let full = |t: f64| 1.0 - (-t / 600.0).exp();
    let burst = |t: f64| if t % 1_800.0 < 240.0 { 400.0 } else { 0.0 };
    let people = |t: f64, seed| 20.0 * noise(t, seed) + 20.0 * noise(t, seed + 50);
    let shapes: [(&str, Shape<'_>); 9] = [
        ("constant", &|_, _| files(900.0, 1_024)),
        ("noise alone", &|t, seed| files(300.0 + people(t, seed), 1_024)),
        ("a pool that fills ever more slowly", &|t, _| files(20.0 + 500.0 * full(t), 1_024)),
        ("a pool of threads that fills in an hour", &|t, _| Holds {
            threads: 4.0 + (t / 28.0).floor().min(128.0),
            ..files(60.0, 1_024)
        }),
        ("a pool that fills at once", &|t, _| files(20.0 + (t * 2.0).min(600.0), 1_024)),
        ("bursts", &|t, seed| files(30.0 + burst(t) + people(t, seed).abs(), 1_024)),
        ("steps of a deployment", &|t, _| files(100.0 + 60.0 * (t / (5.0 * HOUR)).floor(), 4_096)),
        ("a day's load from any hour", &|t, seed| {
            let night_t = seed as f64 * -5.0 * HOUR;
            files(120.0 + 380.0 * day(t, night_t) + people(t, seed), 1_024)
        }),
        ("a load of threads and files over hours", &|t, seed| {
            let load = 200.0 * day(t * 6.0, seed as f64 * -5.0 * HOUR);
            Holds { threads: 20.0 + load, ..files(60.0 + load, 1_024) }
        }),
    ];
    for (name, holds) in shapes {
        for seed in 0..3 {
            assert_eq!(shape(30.0 * HOUR, |t| holds(t, seed)), [], "{name}, {seed}");
        }
    }
}

#[test]
fn exit_exec_reuse_and_vanishing_withdraw_and_say_so() {
    let ends: [(End<'_>, &str); 4] = [
        (&|run| run.feed(1_500.0, Fact::Exit(API)), "it exited"),
        (&|run| run.feed(1_500.0, Fact::Exec(API)), "it executed another program"),
        (
            &|run| run.look(1_500.0, ProcessId { start_ticks: 9_001, ..API }, files(30.0, 1_024)),
            "its pid now belongs to another process",
        ),
        (
            &|run| (0..7).for_each(|t| run.host(1_500.0 + f64::from(t))),
            "it disappeared from the last scans",
        ),
    ];
    for (end, because) in ends {
        let mut run = Run::new();
        run.looks(0.0, 1_500.0, |t| files(24.0 + t / 3.0, 1_024));
        end(&mut run);
        assert_eq!(
            run.states(),
            [(ClaimState::Raised, Resource::Files), (ClaimState::Cleared, Resource::Files)],
            "{because}"
        );
        assert_eq!(
            run.verdicts[1].why,
            format!("api (pid 812) is no longer leaking open files: {because}")
        );
        assert_eq!(run.core.tracked().leaks_raised, 0);
        // What it holds now is where the next process, or program, begins.
        run.looks(1_600.0, 2_600.0, |_| files(524.0, 1_024));
        assert_eq!(run.verdicts.len(), 2, "{:?}", run.verdicts);
    }
}

#[test]
fn stopped_leak_is_cleared_and_one_at_its_limit_is_not() {
    let cases: [(Then<'_>, Option<&str>); 4] = [
        (&|_| 524.0, Some("their number has not grown for ")),
        (&|_| 120.0, Some(" new ones are gone again")),
        (&|t| 524.0 + (t - 1_500.0) / 60.0, None),
        (&|t| (524.0 + (t - 1_500.0)).min(1_020.0), None),
    ];
    for (then, because) in cases {
        let mut run = Run::new();
        run.looks(0.0, 1_500.0, |t| files(24.0 + t / 3.0, 1_024));
        run.looks(1_500.0, 4.0 * HOUR, |t| files(then(t), 1_024));
        let whys: Vec<_> =
            run.verdicts.iter().skip(1).map(|verdict| verdict.why.as_str()).collect();
        match because {
            Some(because) => assert!(whys.len() == 1 && whys[0].contains(because), "{whys:?}"),
            None => assert!(whys.is_empty(), "{whys:?}"),
        }
    }
}

#[test]
fn a_suspend_is_no_time_in_which_nothing_leaked() {
    let mut run = Run::new();
    run.looks(0.0, 600.0, |t| files(24.0 + t / 3.0, 1_024));
    run.looks(600.0 + 1e6, 1_800.0 + 1e6, |t| files(24.0 + (t - 1e6) / 3.0, 1_024));
    let (verdict, _, per_sec) = one(run.verdicts);
    assert!((per_sec * 60.0 - 20.0).abs() < 1.0 && verdict.t < 1_300.0 + 1e6, "{verdict:?}");
}

#[test]
fn counts_that_wrap_or_jump_do_no_harm() {
    let absurd =
        [0, 1, 1_023, u64::from(u16::MAX), u64::from(u32::MAX) - 1, u64::from(u32::MAX), u64::MAX];
    for seed in 0..10 {
        let mut run = Run::new();
        for step in 0..2_000_u32 {
            let t = f64::from(step) * 10.0;
            let pick = |salt: u64| absurd[(noise(t, seed * 7 + salt).abs() * 6.999) as usize];
            run.host(t);
            run.process(t, API);
            // Leaks between the jumps, so that claims are met by them.
            let calm = (step % 500) > 20;
            let leak = 40 + u64::from(step % 500) * 4;
            let (fds, threads) = if calm { (leak, leak) } else { (pick(0), pick(1)) };
            let close_wait =
                (!step.is_multiple_of(3)).then(|| if calm { leak / 2 } else { pick(2) });
            run.feed(
                t,
                Fact::Handles(ProcessResourcesFact {
                    id: API,
                    fds,
                    fds_max: Some(pick(3)),
                    threads,
                    close_wait,
                }),
            );
        }
        let mut standing = BTreeMap::new();
        for verdict in &run.verdicts {
            let Claim::Leak(claim) = &verdict.claim else { unreachable!() };
            let raised = verdict.state == ClaimState::Raised;
            assert_ne!(
                standing.insert(claim.resource, raised).unwrap_or(false),
                raised,
                "{:?}",
                run.verdicts
            );
            assert!(
                verdict.exhaustion_secs.is_none_or(|secs| secs.is_finite() && secs >= 0.0),
                "{verdict:?}"
            );
        }
        assert_eq!(
            run.core.tracked().leaks_raised,
            standing.values().filter(|raised| **raised).count()
        );
    }
}

#[test]
fn forecasts_follow_a_quickening_leak() {
    let mut run = Run::new();
    run.looks(0.0, 2_000.0, |t| files(24.0 + t / 3.0 + (t - 1_200.0).max(0.0) / 3.0, 1_024));
    let latest = run.core.raised().next().unwrap();
    assert_eq!(run.verdicts.len(), 1);
    assert!(
        latest.t > 1_800.0 && latest.why.contains(" open files and still gains "),
        "{latest:?}"
    );
    let end_t = 1_200.0 + 600.0 * 1.5;
    assert!((latest.t + latest.exhaustion_secs.unwrap() - end_t).abs() < 60.0, "{latest:?}");
}

#[test]
fn names_come_before_claims() {
    let mut run = Run::new();
    for step in 0..180_u32 {
        let t = f64::from(step) * 10.0;
        run.host(t);
        let fds = 24 + u64::from(step) * 10 / 3;
        run.feed(
            t,
            Fact::Handles(ProcessResourcesFact {
                id: API,
                fds,
                fds_max: Some(1_024),
                threads: 1,
                close_wait: None,
            }),
        );
    }
    assert_eq!((run.verdicts.len(), run.core.tracked().leaks_raised), (0, 0));
}
