//! The leak rule against shapes of growth, each a function from seconds to MiB, under the default
//! configuration.

use std::{sync::Arc, time::Duration};

use super::*;
use crate::{
    config::Config,
    detect::{Claim, ClaimState, HostInfo, Verdict},
    engine::Engine,
    sense::{HostFact, Observation, ProcessResourcesFact},
};

pub(super) const MIB: f64 = 1_048_576.0;
const GIB: f64 = 1024.0 * MIB;

type Shape = Box<dyn Fn(f64) -> f64>;

/// One process on a host, looked at from its birth.
pub(super) struct Run {
    config: Config,
    core: Engine,
    /// Zero of the agent's clock.
    origin_t: f64,
    interval_secs: f64,
    available_bytes: f64,
    memory_max_bytes: Option<u64>,
    pub(super) verdicts: Vec<Verdict>,
}

impl Run {
    pub(super) fn new(interval_secs: f64, available_gib: f64, memory_max_gib: Option<f64>) -> Self {
        Self::under(&Config::default(), interval_secs, available_gib, memory_max_gib)
    }

    /// Without a warm-up: as if all processes had been watched for that long.
    fn known(interval_secs: f64, available_gib: f64, memory_max_gib: Option<f64>) -> Self {
        let mut config = Config::default();
        config.detect.leak.warm_up = Duration::ZERO;
        Self::under(&config, interval_secs, available_gib, memory_max_gib)
    }

    fn under(
        config: &Config,
        interval_secs: f64,
        available_gib: f64,
        memory_max_gib: Option<f64>,
    ) -> Self {
        let info = HostInfo { mem_total_bytes: (24.0 * GIB) as u64, cpus: 2 };
        Self {
            config: config.clone(),
            core: Engine::new(config, info),
            origin_t: 0.0,
            interval_secs,
            available_bytes: available_gib * GIB,
            memory_max_bytes: memory_max_gib.map(|gib| (gib * GIB) as u64),
            verdicts: Vec::new(),
        }
    }

    pub(super) fn fact(&self, mib: f64) -> ProcessFact {
        ProcessFact {
            id: ProcessId { pid: 812, start_ticks: 4711 },
            ppid: 1,
            comm: Arc::from("api"),
            cgroup: Arc::from("/api.service"),
            anon_bytes: (mib.max(0.0) * MIB) as u64,
            memory_max_bytes: self.memory_max_bytes,
            ..ProcessFact::default()
        }
    }

    pub(super) fn feed(&mut self, t: f64, fact: Fact) {
        let output = self.core.apply(&Observation { t: t - self.origin_t, fact });
        self.verdicts.extend(
            output.verdicts.into_iter().map(|one| Verdict { t: one.t + self.origin_t, ..one }),
        );
    }

    /// Windows as of `t`.
    pub(super) fn save(&self, t: f64) -> Vec<u8> {
        self.core.save(t - self.origin_t).unwrap()
    }

    /// Begins another run of the agent at `t`, whose clock stands at half a second then, with what
    /// an earlier one saved `gap_secs` ago.
    pub(super) fn restart(&mut self, t: f64, gap_secs: f64, saved: &[u8]) {
        self.core = Engine::new(&self.config, self.core.host_info());
        self.origin_t = t - 0.5;
        self.core.restore(0.5, gap_secs, saved).unwrap();
    }

    pub(super) fn scan(&mut self, t: f64, facts: impl IntoIterator<Item = ProcessFact>) {
        let host = HostFact {
            mem_available_bytes: self.available_bytes as u64,
            psi_memory_some_avg10: None,
        };
        self.feed(t, Fact::Host(host));
        facts.into_iter().for_each(|fact| self.feed(t, Fact::Process(fact)));
    }

    pub(super) fn shape(mut self, secs: f64, mib: impl Fn(f64) -> f64) -> Vec<Verdict> {
        let mut step = 0.0;
        while step * self.interval_secs <= secs {
            let t = step * self.interval_secs;
            let fact = self.fact(mib(t));
            self.scan(t, [fact]);
            step += 1.0;
        }
        self.verdicts
    }
}

pub(super) fn states(verdicts: &[Verdict]) -> Vec<(ClaimState, f64)> {
    verdicts.iter().map(|verdict| (verdict.state, verdict.t)).collect()
}

/// Uniform in -1..1, the same every time.
pub(super) fn noise(t: f64, seed: u64) -> f64 {
    let mut x = (t * 1000.0) as u64 ^ seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x ^= x >> 33;
    x = x.wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    x ^= x >> 33;
    x = x.wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    x ^= x >> 33;
    (x >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}

fn saw(period: f64, low: f64, high: f64) -> impl Fn(f64) -> f64 {
    move |t| low + (high - low) * (t % period) / period
}

pub(super) fn one(mut verdicts: Vec<Verdict>) -> Verdict {
    assert_eq!(verdicts.len(), 1, "{verdicts:#?}");
    verdicts.remove(0)
}

/// Seconds until steep growth whose beginning was not seen is claimed: sixteen buckets of the first
/// horizon, the last just closed, and nine of the next, over which it must have lasted.
const UNSEEN_T: f64 = 54.0;

#[test]
fn a_break_out_of_a_steady_time_is_found_within_60_s() {
    for (available, max) in [(16.0, Some(2.0)), (23.0, None)] {
        let verdict =
            one(Run::new(1.0, available, max).shape(1_600.0, |t| 500.0 + (t - 1_500.0).max(0.0)));
        assert!((1_520.0..1_560.0).contains(&verdict.t), "{verdict:?}");
        assert!(verdict.why.contains("after "), "{verdict:?}");
        let (left, rate) =
            (max.map_or(available * 1024.0, |gib| gib * 1024.0 - 500.0 - verdict.t + 1_500.0), 1.0);
        assert!(
            (verdict.exhaustion_secs.unwrap() / (left / rate) - 1.0).abs() < 0.05,
            "{verdict:?}"
        );
    }
}

#[test]
fn growth_with_unseen_start_is_claimed_later() {
    let fast = |run: Run| one(run.shape(400.0, |t| 20.0 + 4.0 * t)).t;
    assert_eq!(fast(Run::known(1.0, 16.0, Some(2.0))), UNSEEN_T);
    // Of a process that was met at work the horizons of seconds say nothing yet.
    let met = fast(Run::new(1.0, 16.0, Some(2.0)));
    assert!((200.0..320.0).contains(&met), "{met}");
    // 0.25 MiB/s: a fifteenth of what is left is gone after ten minutes, but a process that was met
    // at work is watched for 20.
    let slow = one(Run::new(1.0, 2.0, None).shape(1_500.0, |t| 200.0 + 0.25 * t));
    assert!((1_200.0..1_300.0).contains(&slow.t), "{slow:?}");
}

#[test]
fn the_evidence_reads_like_a_colleague_wrote_it() {
    let verdict = one(Run::known(1.0, 16.0, Some(2.0)).shape(150.0, |t| 20.0 + 4.0 * t));
    let expected = "api (pid 812) grew by 120.0 MiB in 30 s (4.0 MiB/s ± 0.0 KiB/s), \
        without slowing down, for as long as it has been watched; if it goes on, the 1.8 GiB left \
        below its cgroup's memory.max run out in 8 min (4 min to 14 min)";
    assert_eq!(verdict.why, expected);
    let Claim::Leak(claim) = &verdict.claim else { panic!("{verdict:?}") };
    assert_eq!(claim.growth_interval_bytes_per_sec, Some([4.0 * MIB; 2]));
    let [soonest, latest] = verdict.exhaustion_interval_secs.unwrap();
    assert!(
        soonest * 1.7 < verdict.exhaustion_secs.unwrap()
            && latest > 1.7 * verdict.exhaustion_secs.unwrap()
    );
}

#[test]
fn noise_widens_the_interval_around_the_truth() {
    let verdict =
        one(Run::known(1.0, 9.0, None).shape(400.0, |t| 500.0 + 4.0 * t + 20.0 * noise(t, 2)));
    let Claim::Leak(claim) = &verdict.claim else { panic!("{verdict:?}") };
    let [low, high] = claim.growth_interval_bytes_per_sec.unwrap();
    assert!(low < 4.0 * MIB && 4.0 * MIB < high && high - low > 0.02 * MIB, "{verdict:?}");
    let [soonest, latest] = verdict.exhaustion_interval_secs.unwrap();
    assert!(
        soonest < verdict.exhaustion_secs.unwrap() && verdict.exhaustion_secs.unwrap() < latest
    );
}

/// Evidence about a process that grows by 4 MiB/s and faults in so many.
fn why_with_faults(mib_per_sec: f64) -> String {
    let mut run = Run::known(1.0, 16.0, None);
    for step in 0..110 {
        let t = f64::from(step);
        let mut fact = run.fact(20.0 + 4.0 * t);
        fact.faulted_bytes_total = Some((mib_per_sec * MIB * t) as u64);
        run.scan(t, [fact]);
    }
    one(run.verdicts).why
}

#[test]
fn fault_samples_show_the_pace_of_new_memory() {
    let why = why_with_faults(5.0);
    let expected = "; sampled page faults show 270.0 MiB of pages touched for the first time in \
                    the last 54 s (5.0 MiB/s)";
    assert!(why.ends_with(expected), "{why}");
}

#[test]
fn fault_samples_below_the_growth_are_not_mentioned() {
    // Huge pages, of which each is one fault.
    for mib_per_sec in [0.0, 0.1, 2.0] {
        let why = why_with_faults(mib_per_sec);
        assert!(!why.contains("page faults") && why.ends_with("(38 min to 2.0 h)"), "{why}");
    }
}

#[test]
fn leaks_under_a_sawtooth_are_found_by_the_floor() {
    for (rate, period) in [(4.0, 7.0), (4.0, 30.0), (1.0, 30.0), (0.5, 30.0)] {
        let saw = saw(period, 200.0, 300.0);
        assert_eq!(
            one(Run::new(1.0, 4.0, None).shape(3_000.0, |t| saw(t) + rate * t)).state,
            ClaimState::Raised
        );
    }
}

#[test]
fn what_ends_by_itself_is_silent() {
    let log = |a: f64, tau: f64| move |t: f64| 100.0 + a * (1.0 + t / tau).ln();
    let fill = |secs: f64, from: f64| move |t: f64| 50.0 + 6.0 * (t - from).clamp(0.0, secs);
    let shapes: Vec<(&str, Shape)> = vec![
        ("fill 15 s", Box::new(fill(15.0, 0.0))),
        ("fill 20 s", Box::new(fill(20.0, 0.0))),
        ("fill 20 s later", Box::new(fill(20.0, 31.0))),
        ("fill 20 s much later", Box::new(fill(20.0, 1_020.5))),
        ("log from its start", Box::new(log(1_000.0, 1.0))),
        ("log", Box::new(log(200.0, 10.0))),
        ("saturating", Box::new(|t| 100.0 + 1_000.0 * (1.0 - (-t / 300.0).exp()))),
        ("jump", Box::new(|t| if t < 100.0 { 100.0 } else { 2_000.0 })),
        ("jump and a drift", Box::new(|t| 0.01 * t + if t < 100.0 { 100.0 } else { 2_000.0 })),
        ("collector, 4 s", Box::new(saw(4.0, 100.0, 500.0))),
        ("collector, 30 s", Box::new(saw(30.0, 100.0, 500.0))),
        ("noise", Box::new(|t| 500.0 + 100.0 * noise(t, 3))),
        ("constant", Box::new(|_| 500.0)),
        ("shrinking", Box::new(|t| 2_000.0 - t)),
    ];
    for interval in [1.0, 5.0] {
        for (name, shape) in &shapes {
            for (available, max) in [(23.0, None), (16.0, Some(2.0))] {
                let verdicts = Run::new(interval, available, max).shape(2_500.0, shape);
                assert!(verdicts.is_empty(), "{name} every {interval} s: {verdicts:#?}");
            }
        }
    }
}

/// A process that is born under watch, at 10 s; the leak is `mib` of its age.
fn born(secs: u32, mib: impl Fn(f64) -> f64) -> Vec<Verdict> {
    let mut run = Run::new(1.0, 16.0, Some(2.0));
    for step in 0..secs {
        let t = f64::from(step);
        let fact = (step >= 10).then(|| run.fact(mib(t - 10.0)));
        run.scan(t, fact);
    }
    run.verdicts
}

#[test]
fn slow_start_is_silent_and_leak_from_start_is_found_later() {
    assert_eq!(born(3_000, |age| 50.0 + age.min(1_000.0)), []);
    assert_eq!(born(6_000, |age| 50.0 + 1_500.0 * (1.0 - (-age / 900.0).exp())), []);
    let leak = one(born(1_400, |age| 50.0 + age));
    assert!((1_200.0..1_300.0).contains(&leak.t), "{leak:?}");
}

#[test]
fn memory_that_follows_load_is_no_leak() {
    let verdicts = |connections: fn(f64) -> f64| {
        let mut run = Run::new(1.0, 16.0, Some(2.0));
        for step in 0..3_000 {
            let t = f64::from(step);
            let fact = run.fact(300.0 + 0.5 * (t - 600.0).max(0.0));
            let id = fact.id;
            run.scan(t, [fact]);
            if step % 10 == 0 {
                let fds = connections(t) as u64;
                run.feed(
                    t,
                    Fact::Handles(ProcessResourcesFact {
                        id,
                        fds,
                        fds_max: None,
                        threads: 4,
                        close_wait: None,
                    }),
                );
            }
        }
        run.verdicts
    };
    assert_eq!(verdicts(|t| 50.0 + 0.2 * (t - 600.0).max(0.0)), []);
    assert_eq!(states(&verdicts(|_| 50.0)).len(), 1);
}

#[test]
fn touching_mapped_memory_is_no_leak_until_more_is_mapped() {
    let verdicts = |mapped: fn(f64) -> f64| {
        let mut run = Run::new(1.0, 16.0, None);
        for step in 0..1_500 {
            let t = f64::from(step);
            let mut fact = run.fact(100.0 + 2.0 * (t - 900.0).max(0.0));
            fact.mapped_bytes = Some((mapped(t) * MIB) as u64);
            run.scan(t, [fact]);
        }
        run.verdicts
    };
    assert_eq!(verdicts(|_| 1_400.0), []);
    assert_eq!(states(&verdicts(|t| 110.0 + 2.0 * (t - 900.0).max(0.0))).len(), 1);
    // All that was mapped is touched after 200 s; from then on it is a leak like any other.
    let late = one(verdicts(|t| 500.0 + 2.0 * (t - 1_100.0).max(0.0)));
    assert!(late.t > 1_100.0, "{late:?}");
}

#[test]
fn a_long_sawtooth_never_cries_wolf_twice_on_a_horizon() {
    let verdicts = Run::new(1.0, 9.0, None).shape(40_000.0, saw(1_000.0, 100.0, 900.0));
    assert!(verdicts.len() <= 4, "{verdicts:#?}");
    assert!(
        verdicts
            .iter()
            .filter(|v| v.state == ClaimState::Cleared)
            .all(|v| v.why.contains("gave back"))
    );
}

#[test]
fn a_claim_is_withdrawn_once_growth_stops() {
    let verdicts = Run::known(1.0, 9.0, None).shape(500.0, |t| 20.0 + 4.0 * t.min(200.0));
    assert_eq!(states(&verdicts)[0], (ClaimState::Raised, UNSEEN_T));
    let (state, t) = states(&verdicts)[1];
    assert_eq!(state, ClaimState::Cleared);
    assert!((260.0..=320.0).contains(&t), "{t}");
    assert!(verdicts[1].why.contains("has not grown for"), "{}", verdicts[1].why);
}

/// A run in which the leak has just been claimed.
fn leaking() -> Run {
    let mut run = Run::known(1.0, 9.0, None);
    for step in 0..=110 {
        let t = f64::from(step);
        let fact = run.fact(20.0 + 4.0 * t);
        run.scan(t, [fact]);
    }
    assert_eq!(states(&run.verdicts), [(ClaimState::Raised, UNSEEN_T)]);
    run
}

/// Nothing more is seen.
fn silence(run: &mut Run, from: u32, to: u32) {
    (from..=to).for_each(|t| run.scan(f64::from(t), []));
}

#[test]
fn claim_outlives_its_process_and_then_says_why_it_ends() {
    let id = ProcessId { pid: 812, start_ticks: 4711 };
    let mut exit = leaking();
    exit.feed(110.5, Fact::Exit(ProcessId { start_ticks: 1, ..id }));
    exit.feed(110.5, Fact::Exit(id));
    exit.feed(110.6, Fact::Exit(id));
    silence(&mut exit, 111, 150);

    let mut reuse = leaking();
    let mut other = reuse.fact(5.0);
    (other.id.start_ticks, other.comm) = (9_999, Arc::from("cron"));
    (111..=150).for_each(|t| reuse.scan(f64::from(t), [other.clone()]));

    let mut vanish = leaking();
    silence(&mut vanish, 111, 150);

    for (run, because) in [(exit, "exited"), (reuse, "another"), (vanish, "disappeared")] {
        let states = states(&run.verdicts);
        assert_eq!(states.len(), 2, "{because}: {:#?}", run.verdicts);
        assert!(
            states[1].0 == ClaimState::Cleared && (140.0..=148.0).contains(&states[1].1),
            "{because}: {states:?}"
        );
        assert!(run.verdicts[1].why.contains(because), "{}", run.verdicts[1].why);
    }
}

#[test]
fn leak_survives_a_restart_and_ends_with_a_steady_successor() {
    for (successor_mib_per_sec, ends) in [(4.0, false), (0.0, true)] {
        let mut run = leaking();
        let first = ProcessId { pid: 812, start_ticks: 4711 };
        run.feed(110.5, Fact::Exit(first));
        for step in 120..1_600 {
            let t = f64::from(step);
            let mut fact = run.fact(20.0 + successor_mib_per_sec * (t - 120.0));
            fact.id = ProcessId { pid: 913, start_ticks: 5_000 };
            run.scan(t, [fact]);
        }
        assert_eq!(run.verdicts.len(), if ends { 2 } else { 1 }, "{:#?}", run.verdicts);
        if ends {
            let Claim::Leak(claim) = &run.verdicts[1].claim else { panic!() };
            assert!(
                claim.id == first && run.verdicts[1].why.contains("has not grown"),
                "{:?}",
                run.verdicts[1]
            );
        }
    }
}

#[test]
fn claim_moves_with_its_process_to_another_cgroup() {
    let mut run = leaking();
    for step in 111..600 {
        let t = f64::from(step);
        let fact =
            ProcessFact { cgroup: Arc::from("/elsewhere"), ..run.fact(20.0 + 4.0 * t.min(200.0)) };
        run.scan(t, [fact]);
    }
    let [raised, cleared] = &run.verdicts[..] else { panic!("{:#?}", run.verdicts) };
    assert!(raised.state == ClaimState::Raised && cleared.state == ClaimState::Cleared);
    let [Claim::Leak(first), Claim::Leak(last)] = [&raised.claim, &cleared.claim] else { panic!() };
    assert_eq!((first.id, &*first.cgroup, &*last.cgroup), (last.id, "/api.service", "/elsewhere"));
    assert!(cleared.why.contains("has not grown"), "{}", cleared.why);
}

#[test]
fn workers_that_leak_together_may_move_and_claims_end() {
    // The one that the claim was made with goes, another goes, and all do.
    for gone in [&[900][..], &[901], &[900, 901, 902]] {
        let mut run = Run::known(1.0, 9.0, None);
        for step in 0..=900 {
            let t = f64::from(step);
            for_workers(&mut run, t, |pid| {
                if t > 200.0 && gone.contains(&pid) { "/elsewhere" } else { "/api.service" }
            });
        }
        let of = |state| {
            let of = run.verdicts.iter().filter(move |verdict| verdict.state == state);
            let mut ids: Vec<_> =
                of.map(|verdict| crate::decide::IncidentId::from(verdict).to_string()).collect();
            ids.sort();
            ids
        };
        let (raised, cleared) = (of(ClaimState::Raised), of(ClaimState::Cleared));
        assert_eq!(raised, cleared, "{gone:?}: {:#?}", run.verdicts);
        assert!(gone.len() < 3 || raised.len() == 1, "{:#?}", run.verdicts);
        assert_eq!(run.core.tracked().leaks_raised, 0);
        let mut once = raised.clone();
        once.dedup();
        assert_eq!(once, raised, "{gone:?}: the same process is claimed twice");
    }
}

/// Three workers that leak until the 500th second.
fn for_workers(run: &mut Run, t: f64, cgroup: impl Fn(u32) -> &'static str) {
    let facts: Vec<_> = (900..903)
        .map(|pid| {
            let fact = run.fact(20.0 + 4.0 * t.min(500.0));
            ProcessFact {
                id: ProcessId { pid, start_ticks: 1 },
                cgroup: Arc::from(cgroup(pid)),
                ..fact
            }
        })
        .collect();
    run.scan(t, facts);
}

#[test]
fn workload_is_claimed_once_however_many_processes_leak() {
    let mut run = Run::new(1.0, 9.0, Some(4.0));
    for step in 0..400 {
        let t = f64::from(step);
        let facts: Vec<_> = (0..5_u32)
            .map(|worker| {
                let mut fact = run.fact(100.0 + 1.2 * t);
                fact.id.pid = 900 + worker;
                fact.memory_charged_bytes = Some((5.0 * (100.0 + 1.2 * t) * MIB) as u64);
                fact
            })
            .collect();
        run.scan(t, facts);
    }
    let verdict = one(run.verdicts);
    let left = 4_096.0 - 5.0 * (100.0 + 1.2 * verdict.t);
    assert!((verdict.exhaustion_secs.unwrap() / (left / 6.0) - 1.0).abs() < 0.1, "{verdict:?}");
    assert!(verdict.why.contains("its workload's other processes"), "{}", verdict.why);
}

#[test]
fn gaps_cost_points_and_invent_none() {
    let mut run = Run::known(1.0, 9.0, None);
    for step in 0..400 {
        let t = f64::from(step);
        // Two buckets of sixteen go unseen every minute.
        if step % 60 >= 4 {
            let fact = run.fact(20.0 + 4.0 * t);
            run.scan(t, [fact]);
        }
    }
    assert_eq!(run.verdicts.len(), 1, "{:#?}", run.verdicts);
    // A day of suspend, and a process that came out of it larger, is not a day of growth.
    let mut run = Run::new(1.0, 9.0, None);
    for (from, mib) in [(0, 100.0), (86_400, 3_000.0)] {
        for step in from..from + 300 {
            let fact = run.fact(mib);
            run.scan(f64::from(step), [fact]);
        }
    }
    assert!(run.verdicts.is_empty());
}

#[test]
fn a_nearing_end_reaches_the_policy_while_the_claim_stands() {
    let mut run = Run::known(1.0, 9.0, None);
    let mut decisions = Vec::new();
    for step in 0..2_400 {
        let t = f64::from(step);
        run.available_bytes = (9.0 * GIB - 4.0 * MIB * t).max(0.0);
        let host = HostFact {
            mem_available_bytes: run.available_bytes as u64,
            psi_memory_some_avg10: None,
        };
        run.core.apply(&Observation { t, fact: Fact::Host(host) });
        let fact = Fact::Process(run.fact(20.0 + 4.0 * t));
        let output = run.core.apply(&Observation { t, fact });
        run.verdicts.extend(output.verdicts);
        decisions.extend(output.decisions.iter().map(|d| (d.t() as u64, d.action)));
    }
    use crate::decide::{Action, Severity};
    let page = |t, severity| (t, Action::Page { severity });
    let (warning, critical) = (page(54, Severity::Warning), page(1_704, Severity::Critical));
    assert_eq!(decisions, [warning, (54, Action::Limit), critical, (1_704, Action::Drain)]);
    let states: Vec<_> = run.verdicts.iter().map(|verdict| verdict.state).collect();
    assert_eq!(states, [ClaimState::Raised, ClaimState::Updated]);
    assert!(run.core.raised().next().unwrap().exhaustion_secs.unwrap() < 60.0);
}

#[test]
fn quickening_leak_is_forecast_before_its_own_horizon() {
    let mut run = Run::new(1.0, 9.0, Some(1.0));
    let mut decisions = Vec::new();
    for step in 0..3_060 {
        let t = f64::from(step);
        let fact = run.fact(50.0 + 0.1 * t + 6.0 * (t - 3_000.0).max(0.0));
        let host = HostFact {
            mem_available_bytes: run.available_bytes as u64,
            psi_memory_some_avg10: None,
        };
        run.core.apply(&Observation { t, fact: Fact::Host(host) });
        let output = run.core.apply(&Observation { t, fact: Fact::Process(fact) });
        decisions.extend(output.decisions.iter().map(|d| (d.t() as u64, d.action)));
    }
    use crate::decide::{Action, Severity};
    assert_eq!(decisions[0].1, Action::Page { severity: Severity::Warning });
    assert!(decisions[0].0 < 1_500, "{decisions:?}");
    // It hurts only itself, and is no service, so that the node is not drained.
    let [(limit_t, Action::Limit)] = decisions[1..] else { panic!("{decisions:?}") };
    assert!((3_000..3_050).contains(&limit_t), "{decisions:?}");
}

#[test]
fn a_job_of_half_a_minute_is_no_leak_where_the_limit_is_far() {
    let job = |t: f64| 300.0 + 2.0 * (t - 1_500.0).clamp(0.0, 42.0);
    assert!(Run::new(1.0, 20.0, None).shape(3_000.0, job).is_empty());
    // A leak as fast that has eaten a good part of what was left is not waited on.
    let near =
        one(Run::new(1.0, 0.3, None).shape(1_545.0, |t| 300.0 + 2.0 * (t - 1_500.0).max(0.0)));
    assert!(near.t < 1_540.0, "{near:?}");
}

#[test]
fn small_growth_beside_one_that_eats_the_host_is_silent() {
    let mut run = Run::new(30.0, 9.0, None);
    for step in 0..2_880 {
        let t = f64::from(step) * 30.0;
        // From the tenth hour to the twentieth 260 KiB a second: of 9 GiB, 50 MiB are left.
        let eaten = (9.0 * 1024.0 - 50.0) * ((t - 36_000.0) / 36_000.0).clamp(0.0, 1.0);
        run.available_bytes = (9.0 * 1024.0 - eaten) * MIB;
        let mut other = run.fact(50.0 + 0.000_15 * t);
        (other.id.pid, other.comm, other.cgroup) =
            (913, Arc::from("postgres"), Arc::from("/postgresql.service"));
        let leak = run.fact(300.0 + eaten);
        run.scan(t, [leak, other]);
    }
    let whose =
        |verdict: &Verdict| matches!(&verdict.claim, Claim::Leak(claim) if &*claim.comm == "api");
    assert!(!run.verdicts.is_empty() && run.verdicts.iter().all(whose), "{:#?}", run.verdicts);
}

#[test]
fn shared_memory_that_another_was_charged_for_is_no_leak() {
    // One process of a store touches, page by page, what the store has mapped for all; or it is
    // what makes the store grow.
    for (charged_mib_per_sec, claims) in [(0.0, 0), (0.1, 1)] {
        let mut run = Run::new(2.0, 9.0, Some(0.25));
        for step in 0..1_800 {
            let t = f64::from(step) * 2.0;
            let touched = 0.1 * (t - 1_800.0).max(0.0);
            let mut fact = run.fact(4.0);
            fact.shmem_bytes = ((3.0 + touched) * MIB) as u64;
            let charged = 100.0 + charged_mib_per_sec * (t - 1_800.0).max(0.0);
            fact.memory_charged_bytes = Some((charged.min(250.0) * MIB) as u64);
            run.scan(t, [fact]);
        }
        assert_eq!(run.verdicts.len(), claims, "{charged_mib_per_sec}: {:#?}", run.verdicts);
    }
}

#[test]
fn job_met_in_progress_is_claimed_only_near_its_limit() {
    // Four mebibytes a second, of nine gibibytes and of one.
    let met = |gib| Run::new(1.0, gib, None).shape(400.0, |t| 500.0 + 4.0 * t);
    assert!(met(9.0).is_empty());
    let verdict = one(met(1.0));
    assert!(verdict.t < 240.0 && verdict.exhaustion_secs.unwrap() < 300.0, "{verdict:?}");
}
