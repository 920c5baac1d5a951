//! A restart of the agent in the midst of what it watches: it goes on as if it had not stopped.

use std::sync::Arc;

use proptest::prelude::*;

use super::tests::{MIB, Run, noise};
use crate::{
    config::Config,
    detect::{ClaimState, HostInfo, Verdict},
    engine::Engine,
    sense::{ProcessFact, ProcessId},
};

/// Processes of a host at a time.
type Scene = fn(&Run, f64) -> Vec<ProcessFact>;

/// Plays a scene for so long, second by second. The agent stops at each of `stops` and is back
/// after its gap.
fn play(scene: Scene, secs: u32, stops: &[(u32, u32)]) -> Vec<Verdict> {
    let mut run = Run::new(1.0, 20.0, Some(2.0));
    let mut saved = None;
    for step in 0..=secs {
        let t = f64::from(step);
        if stops.iter().any(|(at, _)| *at == step) {
            saved = Some((t, run.save(t)));
        }
        if stops.iter().any(|(at, gap)| step >= *at && step < at + gap) {
            continue;
        }
        if let Some((stopped_t, bytes)) = saved.take() {
            run.restart(t, t - stopped_t, &bytes);
        }
        let facts = scene(&run, t);
        run.scan(t, facts);
    }
    run.verdicts
}

fn at(run: &Run, mib: f64) -> Vec<ProcessFact> {
    vec![run.fact(mib)]
}

/// Steady for 25 minutes, then 1 MiB/s.
fn breaks_out(run: &Run, t: f64) -> Vec<ProcessFact> {
    at(run, 500.0 + (t - 1_500.0).max(0.0))
}

/// Such a leak at a twentieth of the pace, with noise.
fn breaks_out_slowly(run: &Run, t: f64) -> Vec<ProcessFact> {
    at(run, 200.0 + 0.05 * (t - 1_500.0).max(0.0) + 0.5 * noise(t, 3))
}

/// Leaks under a sawtooth of 90 seconds.
fn under_sawtooth(run: &Run, t: f64) -> Vec<ProcessFact> {
    at(run, 100.0 + 300.0 * (t % 90.0) / 90.0 + 0.3 * t)
}

/// Lives that end at 200 MiB every 5.5 minutes.
fn crash_loop(run: &Run, t: f64) -> Vec<ProcessFact> {
    let (life, age) = ((t / 340.0) as u32, t % 340.0);
    let mut fact = run.fact(4.0 + 196.0 * age / 330.0);
    fact.id = ProcessId { pid: 900 + life, start_ticks: u64::from(life) + 1 };
    fact.memory_max_bytes = Some((200.0 * MIB) as u64);
    if age <= 330.0 { vec![fact] } else { Vec::new() }
}

/// Fills to a plateau from its start, beside a sawtooth and a steady process.
fn healthy(run: &Run, t: f64) -> Vec<ProcessFact> {
    let sizes = [400.0 - 380.0 * (-t / 300.0).exp(), 100.0 + 5.0 * (t % 60.0), 80.0 + noise(t, 5)];
    let facts = sizes.iter().zip(1..).map(|(mib, pid)| {
        let id = ProcessId { pid, start_ticks: 7 };
        ProcessFact { id, cgroup: Arc::from(format!("/{pid}")), ..run.fact(*mib) }
    });
    facts.collect()
}

fn states(verdicts: &[Verdict]) -> Vec<(ClaimState, f64)> {
    verdicts.iter().map(|verdict| (verdict.state, verdict.t)).collect()
}

#[test]
fn restart_without_a_gap_changes_no_verdict() {
    let scenes: [(&str, Scene, u32); 5] = [
        ("breaks out", breaks_out, 1_700),
        ("breaks out slowly", breaks_out_slowly, 4_000),
        ("under a sawtooth", under_sawtooth, 3_000),
        ("crash loop", crash_loop, 1_500),
        ("healthy", healthy, 3_000),
    ];
    for (name, scene, secs) in scenes {
        let whole = play(scene, secs, &[]);
        assert_eq!(whole.is_empty(), name == "healthy", "{name}: {whole:?}");
        let end = whole.first().map_or(secs, |verdict| verdict.t as u32);
        // In thirds of the way there, one just before, and all of them.
        let stops = [(end / 3, 0), (2 * end / 3, 0), (end - 1, 0)];
        for stops in [&stops[..1], &stops[1..2], &stops[2..], &stops] {
            let parts = play(scene, secs, stops);
            assert_eq!(states(&parts), states(&whole), "{name}, stops at {stops:?}");
            let reasons = |verdicts: &[Verdict]| -> Vec<String> {
                verdicts.iter().map(|verdict| verdict.why.clone()).collect()
            };
            assert_eq!(reasons(&parts), reasons(&whole), "{name}, stops at {stops:?}");
        }
    }
}

#[test]
fn leak_under_way_is_found_after_minutes_without_the_agent() {
    for gap in [5, 60, 180, 300] {
        // The leak begins before the stop, in the gap and after it.
        for stop in [1_510, 1_490, 1_350] {
            let whole = play(breaks_out, 2_200, &[])[0].t;
            let verdicts = play(breaks_out, 2_200, &[(stop, gap)]);
            let (state, t) = states(&verdicts)[0];
            assert_eq!(verdicts.len(), 1, "{verdicts:#?}");
            let back = f64::from(stop + gap);
            assert!(
                state == ClaimState::Raised && t <= whole.max(back) + 240.0,
                "a gap of {gap} s from {stop} on: raised at {t}, without it at {whole}"
            );
        }
    }
}

#[test]
fn gap_makes_no_leak_of_a_healthy_process() {
    for gap in [30, 120, 300, 900] {
        for stop in [200, 700, 1_300, 1_900] {
            assert_eq!(play(healthy, 4_000, &[(stop, gap)]), [], "{gap} s from {stop} on");
        }
    }
}

#[test]
fn claim_of_an_earlier_run_is_raised_at_once() {
    let raised = play(breaks_out, 1_700, &[])[0].clone();
    let verdicts = play(breaks_out, 1_700, &[(1_600, 40)]);
    assert_eq!(states(&verdicts), [(ClaimState::Raised, raised.t), (ClaimState::Raised, 1_640.0)]);
    let (before, after) = (&verdicts[0], &verdicts[1]);
    assert_eq!(before.claim.id(), after.claim.id());
    assert_eq!(before.confidence, after.confidence);
    let left_secs = 2_048.0 - 500.0 - 140.0;
    assert!((after.exhaustion_secs.unwrap() / left_secs - 1.0).abs() < 0.05, "{after:?}");
    let expected = "api (pid 812) was leaking 1.0 MiB/s before the agent restarted, and still \
                    holds 640.0 MiB; if it goes on, the 1.4 GiB left below its cgroup's \
                    memory.max run out in 23 min";
    assert_eq!(after.why, expected);
}

#[test]
fn claim_of_an_earlier_run_is_cleared_once_its_process_is_gone() {
    let scene: Scene = |run, t| if t < 1_610.0 { breaks_out(run, t) } else { Vec::new() };
    let verdicts = play(scene, 1_700, &[(1_600, 5)]);
    let last = verdicts.last().unwrap();
    assert!(verdicts.len() == 3 && last.state == ClaimState::Cleared, "{verdicts:#?}");
    // It went while the agent was away: this run has raised nothing, and clears nothing.
    let verdicts = play(scene, 1_700, &[(1_600, 20)]);
    assert_eq!(verdicts.len(), 1, "{verdicts:#?}");
}

#[test]
fn other_process_with_the_same_pid_inherits_no_window() {
    let scene: Scene = |run, t| {
        let mut facts = breaks_out(run, t);
        facts[0].id.start_ticks += u64::from(t >= 1_520.0);
        facts[0].comm = Arc::from(if t >= 1_520.0 { "other" } else { "api" });
        facts
    };
    assert_eq!(play(scene, 1_650, &[(1_515, 10)]), []);
}

#[test]
fn other_horizons_or_another_layout_are_refused() {
    let mut run = Run::new(1.0, 20.0, None);
    (0..100).for_each(|t| {
        let facts = healthy(&run, f64::from(t));
        run.scan(f64::from(t), facts);
    });
    let saved = run.save(100.0);
    let info = HostInfo { mem_total_bytes: 1 << 34, cpus: 2 };
    let mut config = Config::default();
    config.detect.leak.horizons.pop();
    let restored = |config: &Config, bytes: &[u8]| {
        Engine::new(config, info).restore(1.0, 0.0, bytes).map_err(|error| error.to_string())
    };
    assert_eq!(restored(&Config::default(), &saved), Ok(()));
    assert_eq!(restored(&config, &saved), Err("detect.leak.horizons were others".to_owned()));
    let at = saved.windows(8).position(|name| name == b"peak_kib").unwrap();
    let mut renamed = saved.clone();
    renamed[at] = b'q';
    let why = restored(&Config::default(), &renamed).unwrap_err();
    assert!(why.contains("qeak_kib"), "{why}");
    let mut longer = saved.clone();
    longer.push(0);
    assert!(restored(&Config::default(), &longer).is_err());
    assert!(restored(&Config::default(), &saved[..saved.len() - 1]).is_err());
}

#[test]
fn processes_beyond_the_bound_are_the_small_ones() {
    let mut run = Run::new(1.0, 20.0, None);
    let count = super::saved::SAVED_MAX as u32 + 100;
    let facts = |run: &Run| -> Vec<ProcessFact> {
        let base = run.fact(1.0);
        let fact = |pid: u32| ProcessFact {
            id: ProcessId { pid, start_ticks: 1 },
            anon_bytes: u64::from(pid) << 20,
            ..base.clone()
        };
        (1..=count).map(fact).collect()
    };
    for t in 0..40 {
        let facts = facts(&run);
        run.scan(f64::from(t), facts);
    }
    let saved = run.save(40.0);
    assert!(saved.len() < 1_500 * super::saved::SAVED_MAX, "{} bytes", saved.len());
    let info = HostInfo { mem_total_bytes: 1 << 34, cpus: 2 };
    let mut engine = Engine::new(&Config::default(), info);
    engine.restore(1.0, 0.0, &saved).unwrap();
    assert_eq!(engine.tracked().processes, super::saved::SAVED_MAX);
}

proptest! {
    /// Windows of any age are read as they were written.
    #[test]
    fn saved_windows_are_restored_whole(steps in 1..200_u32, seed in any::<u64>(), pace in 0.0..9.0)
    {
        let mut run = Run::new(1.0, 20.0, Some(2.0));
        for step in 0..steps {
            let t = f64::from(step) * (1.0 + pace * 30.0);
            let facts = at(&run, 300.0 + 200.0 * noise(t, seed) + pace * f64::from(step));
            run.scan(t, facts);
        }
        let t = f64::from(steps) * (1.0 + pace * 30.0);
        let saved = run.save(t);
        run.restart(t, 0.0, &saved);
        // Only the process's count of scans and of faults begins anew, and neither is saved.
        prop_assert_eq!(run.save(t), saved);
    }
}
