//! The leak rule against shapes of growth, each a function from seconds to MiB, under the default configuration.

use std::sync::Arc;

use super::*;
use crate::{
    config::Config,
    core::Core,
    detect::{HostInfo, State, Verdict},
    sense::{HostFact, Observation},
};

const MIB: f64 = 1_048_576.0;
const GIB: f64 = 1024.0 * MIB;

type Shape = Box<dyn Fn(f64) -> f64>;

/// One process on a host, looked at from its birth.
struct Run {
    core: Core,
    interval_secs: f64,
    available_bytes: f64,
    memory_max_bytes: Option<u64>,
    verdicts: Vec<Verdict>,
}

impl Run {
    fn new(interval_secs: f64, available_gib: f64, memory_max_gib: Option<f64>) -> Self {
        let info = HostInfo { mem_total_bytes: (24.0 * GIB) as u64, cpus: 2 };
        Self {
            core: Core::new(&Config::default(), info),
            interval_secs,
            available_bytes: available_gib * GIB,
            memory_max_bytes: memory_max_gib.map(|gib| (gib * GIB) as u64),
            verdicts: Vec::new(),
        }
    }

    fn fact(&self, mib: f64) -> ProcessFact {
        ProcessFact {
            id: ProcessId { pid: 812, start_ticks: 4711 },
            ppid: 1,
            comm: Arc::from("api"),
            cgroup: Arc::from("/api.service"),
            anon_bytes: (mib.max(0.0) * MIB) as u64,
            file_bytes: 0,
            shmem_bytes: 0,
            swap_bytes: 0,
            memory_max_bytes: self.memory_max_bytes,
            faulted_bytes_total: None,
        }
    }

    fn feed(&mut self, t: f64, fact: Fact) {
        self.verdicts.extend(self.core.apply(&Observation { t, fact }).verdicts);
    }

    fn scan(&mut self, t: f64, facts: impl IntoIterator<Item = ProcessFact>) {
        let host = HostFact { mem_available_bytes: self.available_bytes as u64, psi_memory_some_avg10: None };
        self.feed(t, Fact::Host(host));
        facts.into_iter().for_each(|fact| self.feed(t, Fact::Process(fact)));
    }

    fn shape(mut self, secs: f64, mib: impl Fn(f64) -> f64) -> Vec<Verdict> {
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

fn states(verdicts: &[Verdict]) -> Vec<(State, f64)> {
    verdicts.iter().map(|verdict| (verdict.state, verdict.t)).collect()
}

/// Uniform in -1..1, the same every time.
fn noise(t: f64, seed: u64) -> f64 {
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

fn one(mut verdicts: Vec<Verdict>) -> Verdict {
    assert_eq!(verdicts.len(), 1, "{verdicts:#?}");
    verdicts.remove(0)
}

#[test]
fn a_fast_leak_is_found_within_55_s_with_and_without_a_limit() {
    for (available, max) in [(16.0, Some(2.0)), (23.0, None)] {
        let verdict = one(Run::new(1.0, available, max).shape(90.0, |t| 20.0 + 4.0 * t));
        assert!(verdict.t <= 55.0, "{verdict:?}");
        assert_eq!(verdict.confidence, 1.0);
        assert!((verdict.exhaustion_secs.unwrap() - max.map_or(5888.0, |_| 465.0)).abs() < 2.0, "{verdict:?}");
    }
}

#[test]
fn the_evidence_reads_like_a_colleague_wrote_it() {
    let verdict = one(Run::new(1.0, 16.0, Some(2.0)).shape(60.0, |t| 20.0 + 4.0 * t));
    let expected = "api (pid 812) grew 120.0 MiB in 30 s, 4.0 MiB/s, without slowing; \
        1.8 GiB of headroom to its cgroup's memory.max is gone in 8 min";
    assert_eq!(verdict.why, expected);
}

#[test]
fn fault_samples_are_part_of_the_evidence() {
    let mut run = Run::new(1.0, 16.0, None);
    for step in 0..60 {
        let t = f64::from(step);
        let mut fact = run.fact(20.0 + 4.0 * t);
        fact.faulted_bytes_total = Some((5.0 * MIB * t) as u64);
        run.scan(t, [fact]);
    }
    let why = one(run.verdicts).why;
    let expected = "; page-fault samples say 160.0 MiB were allocated in the last 32 s, 128.0 MiB retained";
    assert!(why.ends_with(expected), "{why}");
}

#[test]
fn slow_leaks_are_found_on_longer_horizons() {
    for (rate, within_secs) in [(1.0, 210.0), (0.25, 1_300.0), (0.02, 20_000.0)] {
        let verdict = one(Run::new(5.0, 9.0, None).shape(within_secs, |t| 200.0 + rate * t + 2.0 * noise(t, 1)));
        assert_eq!(verdict.state, State::Raised, "{rate}");
    }
}

#[test]
fn a_leak_under_a_sawtooth_is_found_by_its_floor() {
    for (rate, period) in [(4.0, 7.0), (4.0, 30.0), (1.0, 30.0), (0.5, 30.0)] {
        let saw = saw(period, 200.0, 300.0);
        assert_eq!(one(Run::new(1.0, 9.0, None).shape(1_500.0, |t| saw(t) + rate * t)).state, State::Raised);
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
        ("fill 20 s much later", Box::new(fill(20.0, 120.5))),
        ("log from its start", Box::new(log(1_000.0, 1.0))),
        ("log", Box::new(log(200.0, 10.0))),
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
                let verdicts = Run::new(interval, available, max).shape(2_000.0, shape);
                assert!(verdicts.is_empty(), "{name} every {interval} s: {verdicts:#?}");
            }
        }
    }
}

#[test]
fn a_long_sawtooth_cries_wolf_once_at_most_a_horizon() {
    let verdicts = Run::new(1.0, 9.0, None).shape(4_000.0, saw(60.0, 100.0, 500.0));
    assert_eq!(states(&verdicts), [(State::Raised, 42.0), (State::Cleared, 62.0)]);
    assert!(verdicts[1].why.contains("gave back"), "{}", verdicts[1].why);
}

#[test]
fn a_claim_is_withdrawn_once_growth_stops() {
    let verdicts = Run::new(1.0, 9.0, None).shape(300.0, |t| 20.0 + 4.0 * t.min(100.0));
    assert_eq!(states(&verdicts)[0], (State::Raised, 42.0));
    let (state, t) = states(&verdicts)[1];
    assert_eq!(state, State::Cleared);
    assert!((100.0 + 32.0..=100.0 + 50.0).contains(&t), "{t}");
    assert!(verdicts[1].why.contains("has not grown for"), "{}", verdicts[1].why);
}

/// A run in which the leak has just been claimed, at 42 s.
fn leaking() -> Run {
    let mut run = Run::new(1.0, 9.0, None);
    for step in 0..=50 {
        let t = f64::from(step);
        let fact = run.fact(20.0 + 4.0 * t);
        run.scan(t, [fact]);
    }
    assert_eq!(states(&run.verdicts), [(State::Raised, 42.0)]);
    run
}

#[test]
fn exit_exec_reuse_and_vanishing_withdraw_and_say_so() {
    let id = ProcessId { pid: 812, start_ticks: 4711 };
    let mut exit = leaking();
    exit.feed(50.5, Fact::Exit(ProcessId { start_ticks: 1, ..id }));
    assert_eq!(exit.verdicts.len(), 1);
    exit.feed(50.5, Fact::Exit(id));
    exit.feed(50.6, Fact::Exit(id));

    let mut exec = leaking();
    exec.feed(50.5, Fact::Exec(id));
    for step in 51..=92 {
        let t = f64::from(step);
        let fact = exec.fact(20.0 + 4.0 * t);
        exec.scan(t, [fact]);
    }

    let mut reuse = leaking();
    let mut other = reuse.fact(5.0);
    other.id.start_ticks = 9_999;
    reuse.scan(51.0, [other]);

    let mut vanish = leaking();
    (51..=60).for_each(|t| vanish.scan(f64::from(t), []));

    for (run, t, because) in
        [(exit, 50.5, "exited"), (exec, 50.5, "replaced"), (reuse, 51.0, "another"), (vanish, 56.0, "vanished")]
    {
        assert_eq!(states(&run.verdicts)[1..], [(State::Cleared, t)], "{because}");
        assert!(run.verdicts[1].why.contains(because), "{}", run.verdicts[1].why);
    }
}

#[test]
fn gaps_cost_points_and_invent_none() {
    let mut run = Run::new(1.0, 9.0, None);
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
    let mut run = Run::new(1.0, 9.0, None);
    let mut decisions = Vec::new();
    for step in 0..2_400 {
        let t = f64::from(step);
        run.available_bytes = (9.0 * GIB - 4.0 * MIB * t).max(0.0);
        let host = HostFact { mem_available_bytes: run.available_bytes as u64, psi_memory_some_avg10: None };
        run.core.apply(&Observation { t, fact: Fact::Host(host) });
        let fact = Fact::Process(run.fact(20.0 + 4.0 * t));
        let output = run.core.apply(&Observation { t, fact });
        run.verdicts.extend(output.verdicts);
        decisions.extend(output.decisions.iter().map(|d| (d.t as u64, d.action)));
    }
    use crate::decide::{Action, Severity};
    let page = (42, Action::Page { severity: Severity::Warning });
    assert_eq!(decisions, [page, (42, Action::Limit), (1_704, Action::Drain)]);
    assert_eq!(run.verdicts.len(), 1);
    assert!(run.core.raised().next().unwrap().exhaustion_secs.unwrap() < 60.0);
}

#[test]
fn a_leak_that_quickens_reaches_the_policy_before_its_own_horizon_does() {
    let mut run = Run::new(1.0, 9.0, None);
    let mut decisions = Vec::new();
    for step in 0..3_100 {
        let t = f64::from(step);
        let fact = run.fact(50.0 + 0.1 * t + 16.0 * (t - 3_000.0).max(0.0));
        let host = HostFact { mem_available_bytes: run.available_bytes as u64, psi_memory_some_avg10: None };
        run.core.apply(&Observation { t, fact: Fact::Host(host) });
        let output = run.core.apply(&Observation { t, fact: Fact::Process(fact) });
        decisions.extend(output.decisions.iter().map(|d| (d.t as u64, d.action)));
    }
    use crate::decide::{Action, Severity};
    let page = (1_210, Action::Page { severity: Severity::Warning });
    assert_eq!(decisions[0], page);
    assert_eq!(decisions[1..], [(3_028, Action::Limit), (3_028, Action::Drain)]);
}

#[test]
#[ignore = "prints a survey of shapes, for whoever tunes the constants"]
fn survey() {
    let saw = |period: f64, low: f64, high: f64| move |t: f64| low + (high - low) * (t % period) / period;
    let mut shapes: Vec<(String, Shape)> = vec![];
    for a in [20.0, 50.0, 100.0, 200.0, 400.0, 1000.0] {
        for tau in [1.0, 10.0, 30.0, 60.0, 300.0, 600.0] {
            shapes.push((format!("log a={a} tau={tau}"), Box::new(move |t| 100.0 + a * (1.0 + t / tau).ln())));
        }
    }
    for tau in [10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0] {
        for a in [200.0, 1000.0, 4000.0] {
            shapes
                .push((format!("saturating a={a} tau={tau}"), Box::new(move |t| 100.0 + a * (1.0 - (-t / tau).exp()))));
        }
    }
    for p in [10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 300.0, 600.0] {
        shapes.push((format!("saw period={p} 100..500"), Box::new(saw(p, 100.0, 500.0))));
    }
    for n in [15.0, 18.0, 20.0, 22.0, 25.0, 30.0] {
        for from in [0.0, 5.0, 30.0, 31.0, 120.0] {
            shapes.push((
                format!("6 MiB/s for {n} from {from}"),
                Box::new(move |t| 50.0 + 6.0 * (t - from).clamp(0.0, n)),
            ));
        }
    }
    for seed in 0..6 {
        for amp in [10.0, 50.0, 200.0] {
            shapes.push((format!("noise {amp} #{seed}"), Box::new(move |t| 500.0 + amp * noise(t, seed))));
        }
    }
    for rate in [0.1, 0.25, 0.5, 1.0, 4.0] {
        for amp in [0.0, 2.0, 5.0, 20.0, 50.0] {
            shapes.push((format!("LEAK {rate} noise {amp}"), Box::new(move |t| 200.0 + rate * t + amp * noise(t, 9))));
        }
        for p in [7.0, 30.0, 60.0] {
            shapes
                .push((format!("LEAK {rate} saw {p} x100"), Box::new(move |t| 200.0 + rate * t + 100.0 * (t % p) / p)));
        }
        shapes
            .push((format!("LEAK {rate} after 8/s load 60s"), Box::new(move |t| 20.0 + 8.0 * t.min(60.0) + rate * t)));
        shapes.push((format!("LEAK {rate} after idle 300"), Box::new(move |t| 20.0 + rate * (t - 300.0).max(0.0))));
        shapes.push((format!("LEAK {rate} daily"), Box::new(move |t| 20.0 + rate * (t + 600.0 * (t / 900.0).sin()))));
    }
    for (interval, secs) in [(1.0, 4000.0), (5.0, 20000.0)] {
        for (name, shape) in &shapes {
            let brief: Vec<String> = [(9.0, None), (23.0, None), (16.0, Some(2.0))]
                .into_iter()
                .map(|(gib, max)| {
                    let verdicts = Run::new(interval, gib, max).shape(secs, shape);
                    let mut text: Vec<String> = verdicts
                        .iter()
                        .take(4)
                        .map(|v| format!("{}{:.0}", if v.state == State::Raised { '+' } else { '-' }, v.t))
                        .collect();
                    text.push(format!("n={}", verdicts.len()));
                    text.join(" ")
                })
                .collect();
            println!("{interval}s {name:32} {}", brief.join(" | "));
        }
    }
    let mut raised = [0; 2];
    for (i, interval) in [1.0, 5.0].into_iter().enumerate() {
        for seed in 0..200 {
            let mut level = 500.0_f64;
            let mut run = Run::new(interval, 9.0, None);
            for step in 0..2000 {
                let t = f64::from(step) * interval;
                level = (level + 8.0 * noise(t, seed)).clamp(100.0, 1500.0);
                let fact = run.fact(level);
                run.scan(t, [fact]);
            }
            raised[i] += usize::from(!run.verdicts.is_empty());
        }
    }
    println!("random walks raised of 200: {raised:?}");
}
