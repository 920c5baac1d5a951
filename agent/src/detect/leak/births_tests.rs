//! Leaks from birth, beside what a start brings with it; growth that returns to where a process
//! was, or that touches what it had mapped.

use super::tests::{MIB, Run, noise, one};
use crate::{
    detect::{ClaimState, Verdict},
    sense::{Fact, ProcessFact, ProcessId},
};

/// A process on a host with 60 GiB available, seen every two seconds from `born` on.
fn seen(
    secs: u32,
    born: f64,
    mib: impl Fn(f64) -> f64,
    more: impl Fn(f64, &mut ProcessFact),
) -> Vec<Verdict> {
    let mut run = Run::new(2.0, 60.0, None);
    for step in 0..secs / 2 {
        let t = f64::from(step) * 2.0;
        let mut fact = run.fact(mib(t - born));
        more(t - born, &mut fact);
        run.scan(t, (t >= born).then_some(fact));
    }
    run.verdicts
}

fn born(secs: u32, mib: impl Fn(f64) -> f64) -> Vec<Verdict> {
    seen(secs, 10.0, mib, |_, _| {})
}

fn warms(age: f64, mib: f64, minutes: f64) -> f64 {
    mib * (1.0 - (-age / minutes / 60.0).exp())
}

#[test]
fn leak_beside_a_cache_that_warms_up_is_found() {
    let start = |age: f64| 60.0 + warms(age, 60.0, 1.0) + warms(age, 50.0, 8.0);
    let verdict = one(born(9_000, |age| start(age) + 0.04 * age + noise(age, 2) / 2.0));
    // Half of 170 MiB takes 2,125 s, and its start was not seen. Runtimes slow down as it does for
    // most of an hour.
    assert!(verdict.t < 3_600.0 + 600.0, "{verdict:?}");
    assert_eq!(born(20_000, |age| start(age) + noise(age, 2) / 2.0), []);
}

#[test]
fn start_that_slows_down_in_any_way_is_silent() {
    let shapes: [fn(f64) -> f64; 4] = [
        |age| 60.0 * (1.0 + age / 30.0).ln(),
        |age| 4.0 * age.sqrt(),
        |age| warms(age, 300.0, 5.0) + warms(age, 300.0, 60.0),
        |age| warms(age, 500.0, 100.0),
    ];
    for (nth, shape) in shapes.iter().enumerate() {
        let verdicts = born(40_000, |age| 80.0 + shape(age) + noise(age, 5) / 4.0);
        assert_eq!(verdicts, [], "{nth}");
    }
}

#[test]
fn slow_leak_from_birth_is_found_in_half_a_day() {
    // Half of 150 MiB takes ten hours, and its start was not seen.
    let verdict = one(born(48_000, |age| 150.0 + 75.0 * age / 36_000.0 + noise(age, 2) / 4.0));
    assert!(verdict.t < 36_000.0 + 1_500.0, "{verdict:?}");
}

#[test]
fn leak_after_hours_is_found_within_three_minutes() {
    let leak = |t: f64| 100.0 + 0.38 * (t - 12_000.0).max(0.0) + noise(t, 1) / 4.0;
    let verdict = one(Run::new(2.0, 60.0, None).shape(13_000.0, leak));
    assert!(verdict.t < 12_000.0 + 170.0, "{verdict:?}");
}

#[test]
fn job_met_in_progress_that_ends_is_silent() {
    // At this pace what is left lasts for almost two hours, so that there is time to wait.
    let job = |t: f64| 200.0 + 1.5 * t.min(900.0);
    assert_eq!(Run::new(2.0, 10.0, None).shape(7_200.0, job), []);
}

#[test]
fn leak_from_birth_under_teeth_is_found() {
    let teeth =
        |age: f64| 60.0 * (age / 70.0).fract() * (1.0 + noise((age / 70.0).floor(), 8)) / 2.0;
    let verdict = one(born(5_000, |age| 80.0 + teeth(age) + 0.15 * age));
    assert!(verdict.t < 3_600.0 + 600.0, "{verdict:?}");
    assert_eq!(born(20_000, |age| 80.0 + teeth(age)), []);
}

#[test]
fn climb_to_an_earlier_peak_is_silent() {
    let climb = |peak_mib: f64| {
        seen(
            9_000,
            0.0,
            |age| 200.0 + 0.05 * age + noise(age, 3) / 2.0,
            |_, fact| fact.peak_rss_bytes = Some((peak_mib * MIB) as u64),
        )
    };
    assert_eq!(climb(700.0), []);
    assert_eq!(one(climb(210.0)).state, ClaimState::Raised);
}

#[test]
fn pool_that_fills_beside_a_busy_heap_is_silent() {
    let fills = |mapped: fn(f64) -> f64| {
        seen(
            9_000,
            10.0,
            |age| 40.0 + 0.3 * age.min(7_000.0),
            |age, fact| fact.mapped_bytes = Some((mapped(age) * MIB) as u64),
        )
    };
    // The heap maps a little every minute.
    assert_eq!(fills(|age| 2_300.0 + (age / 60.0).floor() * 0.1), []);
    let grows = fills(|age| 60.0 + 0.3 * age.min(7_000.0));
    assert!(grows[0].state == ClaimState::Raised && grows[0].t < 1_600.0, "{grows:#?}");
}

#[test]
fn shared_memory_that_grows_out_of_the_blue_is_found() {
    let shared = |from: f64, secs: f64| {
        let mut run = Run::new(2.0, 60.0, Some(8.0));
        for step in 0..6_000 {
            let t = f64::from(step) * 2.0;
            let mut fact = run.fact(100.0);
            fact.mapped_bytes = Some((130.0 * MIB) as u64);
            fact.shmem_bytes = (0.2 * (t - from).clamp(0.0, secs) * MIB) as u64;
            fact.memory_charged_bytes = Some(fact.private_bytes());
            run.scan(t, [fact]);
        }
        run.verdicts
    };
    let verdict = one(shared(4_000.0, f64::INFINITY));
    assert!(verdict.t < 4_000.0 + 300.0, "{verdict:?}");
    assert_eq!(shared(4_000.0, 150.0), []);
    assert_eq!(shared(0.0, 6_000.0), []);
}

#[test]
fn memory_that_workers_share_counts_once() {
    let workers = |count: u32| {
        let mut run = Run::new(2.0, 60.0, Some(8.0));
        for step in 0..3_000 {
            let t = f64::from(step) * 2.0;
            let shared_mib = 0.2 * (t - 3_600.0).max(0.0);
            let facts = (0..count).map(|worker| {
                let mut fact = run.fact(40.0);
                fact.id = ProcessId { pid: 900 + worker, start_ticks: u64::from(worker) + 1 };
                fact.shmem_bytes = (shared_mib * MIB) as u64;
                // One of them was charged for all of it.
                let charged_mib = 40.0 * f64::from(count) + shared_mib;
                fact.memory_charged_bytes = Some((charged_mib * MIB) as u64);
                fact
            });
            let facts: Vec<_> = facts.collect();
            run.scan(t, facts);
        }
        run.verdicts
    };
    let forecast = |verdicts: Vec<Verdict>| verdicts[0].exhaustion_secs.unwrap();
    let (alone, eight) = (forecast(workers(1)), forecast(workers(8)));
    assert!((eight / alone - 1.0).abs() < 0.1, "{eight} {alone}");
}

#[test]
fn quiet_of_twelve_minutes_is_enough() {
    for quiet_secs in [720.0, 780.0, 1_020.0] {
        let leak = |t: f64| 100.0 + 0.25 * (t - quiet_secs).max(0.0) + noise(t, 1) / 8.0;
        let verdict = one(Run::new(1.0, 9.0, Some(2.0)).shape(2_000.0, leak));
        assert!(verdict.t - quiet_secs < 310.0, "{quiet_secs}: {verdict:?}");
        assert!(verdict.why.contains("without growth"), "{verdict:?}");
    }
}

#[test]
fn tall_stairs_are_found_by_their_sixth() {
    let stairs = |t: f64| 150.0 + 24.0 * ((t - 2_000.0).max(0.0) / 420.0).floor();
    let verdict = one(Run::new(2.0, 60.0, None).shape(7_000.0, |t| stairs(t) + noise(t, 4) / 2.0));
    assert!(verdict.t < 2_000.0 + 6.5 * 420.0, "{verdict:?}");
}

#[test]
fn recycled_pool_is_silent_and_a_leaking_one_is_found() {
    let pool = |recycles: bool| {
        let mut run = Run::new(2.0, 60.0, Some(0.5));
        for step in 0..3_600_u32 {
            let t = f64::from(step) * 2.0;
            let mut facts = Vec::new();
            for worker in 0..4_u32 {
                // Each begins half a minute after the one before, and ends after half an hour.
                let since = t - 30.0 * f64::from(worker);
                let life = if recycles { (since / 1_800.0).floor().max(0.0) } else { 0.0 };
                let age = (since - life * 1_800.0).max(0.0);
                let mut fact = run.fact(19.0 + age / 90.0);
                let born = worker + 10 * life as u32;
                fact.id = ProcessId { pid: 900 + born, start_ticks: u64::from(born) + 1 };
                if life > 0.0 && age < 2.0 {
                    let before = born - 10;
                    let id = ProcessId { pid: 900 + before, start_ticks: u64::from(before) + 1 };
                    run.feed(t, Fact::Exit(id));
                }
                facts.push(fact);
            }
            let charged: u64 = facts.iter().map(ProcessFact::private_bytes).sum();
            facts.iter_mut().for_each(|fact| fact.memory_charged_bytes = Some(charged));
            run.scan(t, facts);
        }
        run.verdicts
    };
    let raised = |verdicts: &[Verdict]| verdicts.iter().map(|one| one.t).fold(0.0, f64::max);
    let recycled = pool(true);
    assert!(raised(&recycled) < 3_700.0, "{recycled:#?}");
    assert!(!pool(false).is_empty());
}

#[test]
fn fast_leak_after_four_quiet_minutes_is_found_within_a_minute() {
    let grows = |available_gib: f64, peak_mib: Option<f64>, quiet_secs: f64, secs: f64| {
        let mut run = Run::new(1.0, available_gib, None);
        for second in 0..1_100 {
            let t = f64::from(second);
            let grown_mib = 4.0 * (t - quiet_secs).clamp(0.0, secs);
            let mut fact = run.fact(100.0 + grown_mib + noise(t, 1) / 4.0);
            fact.peak_rss_bytes = peak_mib.map(|mib| (mib * MIB) as u64);
            run.scan(t, [fact]);
        }
        run.verdicts
    };
    let (known, forever) = (Some(104.0), f64::INFINITY);
    let verdict = one(grows(60.0, known, 260.0, forever));
    assert!(verdict.t < 260.0 + 61.0, "{verdict:?}");
    // It may have been there before, or have grown all the time; and a burst soon ends, however
    // near the limit is.
    assert_eq!(grows(60.0, Some(400.0), 260.0, 60.0), []);
    assert_eq!(grows(60.0, None, 260.0, 60.0), []);
    assert_eq!(grows(60.0, known, 120.0, 60.0), []);
    assert_eq!(grows(0.5, known, 260.0, 33.0), []);
}

#[test]
fn leak_from_birth_at_an_even_pace_is_found_by_all_that_it_took() {
    // Each quarter of an hour takes less than a third of the size; the whole is more.
    let leak = |age: f64| warms(age, 120.0, 0.2) + 0.04 * age + noise(age, 3) / 8.0;
    let verdict = one(born(4_000, leak));
    assert!(verdict.t < 1_900.0, "{verdict:?}");
    let fill = |age: f64| warms(age, 120.0, 0.2) + warms(age, 0.04 * 7_200.0, 120.0);
    assert_eq!(born(40_000, |age| fill(age) + noise(age, 3) / 8.0), []);
}
