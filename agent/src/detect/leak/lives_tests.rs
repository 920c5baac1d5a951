//! Leaks that end at their limit again and again, and leaks on hosts with far more memory than they
//! can use in a day.

use std::sync::Arc;

use super::tests::{Run, noise, one};
use crate::{
    detect::{Claim, ClaimState, Verdict},
    sense::{Fact, ProcessId},
};

const MIB: f64 = 1_048_576.0;

/// Limit of the process that lives again and again, in MiB.
const LIMIT_MIB: f64 = 200.0;

/// Lives of 5.5 minutes, nine seconds apart, each with its share of the limit in use by its age as a
/// share of that, and its cgroup.
fn lives(count: u32, share: impl Fn(f64) -> f64, cgroup: impl Fn(u32) -> String) -> Vec<Verdict> {
    lives_of(330, count, share, cgroup)
}

/// Such lives of so many seconds.
fn lives_of(
    secs: u32,
    count: u32,
    share: impl Fn(f64) -> f64,
    cgroup: impl Fn(u32) -> String,
) -> Vec<Verdict> {
    lives_by(secs, count, |_, age| share(age), cgroup)
}

/// Such lives, whose share of the limit is by their number as well.
fn lives_by(
    secs: u32,
    count: u32,
    share: impl Fn(u32, f64) -> f64,
    cgroup: impl Fn(u32) -> String,
) -> Vec<Verdict> {
    let mut run = Run::new(1.0, 20.0, Some(LIMIT_MIB / 1_024.0));
    let turn = secs + 9;
    for step in 0..count * turn {
        let (life, age) = (step / turn, step % turn);
        let t = f64::from(step);
        let id = ProcessId { pid: 900 + life, start_ticks: u64::from(life) + 1 };
        if age == secs {
            run.feed(t, Fact::Exit(id));
        }
        let mut fact =
            run.fact(4.0 + (LIMIT_MIB - 4.0) * share(life, f64::from(age) / f64::from(secs)));
        (fact.id, fact.cgroup) = (id, Arc::from(cgroup(life)));
        if age == 0 {
            run.feed(t, Fact::Exec(id));
        }
        run.scan(t, (age < secs).then_some(fact));
    }
    run.verdicts
}

fn same(_: u32) -> String {
    "/svc-f/c1".to_owned()
}

#[test]
fn crash_loop_is_one_leak_in_its_third_life() {
    let verdict = one(lives(7, |age| age, same));
    assert!((678.0..1_017.0).contains(&verdict.t), "{verdict:?}");
    assert!(verdict.why.contains("ended at its cgroup's memory.max of 200.0 MiB 2 times"));
    assert!(verdict.exhaustion_secs.unwrap() < 200.0, "{verdict:?}");
}

#[test]
fn crash_loop_of_a_pod_is_one_leak_in_any_cgroup() {
    let pod = |life| format!("/kubepods.slice/kubepods-pod7a.slice/cri-{life}.scope");
    let verdict = one(lives(7, |age| age, pod));
    assert!((678.0..1_017.0).contains(&verdict.t), "{verdict:?}");
}

#[test]
fn lives_of_two_minutes_count_with_the_one_in_which_they_load() {
    // A third of the limit is in use at the start, and less than a quarter of it is taken after
    // the first minute.
    let verdict = one(lives_of(95, 7, |age| 0.4 + 0.6 * age, same));
    assert!((208.0..312.0).contains(&verdict.t), "{verdict:?}");
}

#[test]
fn lives_of_a_minute_are_one_leak_in_the_third() {
    for (secs, turn) in [(60, 69.0), (75, 84.0), (89, 98.0)] {
        let verdict = one(lives_of(secs, 9, |age| 0.3 + 0.7 * age, same));
        assert!((2.0 * turn..3.0 * turn).contains(&verdict.t), "{secs}: {verdict:?}");
    }
}

#[test]
fn lives_that_end_below_the_limit_or_at_rest_are_silent() {
    for secs in [330, 85, 60] {
        assert_eq!(lives_of(secs, 9, |age| 0.8 * age, same), [], "{secs}");
        assert_eq!(lives_of(secs, 9, |age| 0.98 * (2.0 * age).min(1.0), same), [], "{secs}");
    }
}

#[test]
fn first_short_life_counts_if_it_ends_at_the_limit() {
    // The life that is met at the start is no evidence; the next is too short to be recorded.
    let lives = |first: f64| {
        let climbs = move |life: u32, age: f64| match life {
            0 => 0.3,
            1 => first * age,
            _ => 0.3 + 0.7 * age,
        };
        one(lives_by(60, 9, climbs, same))
    };
    for (first, third) in [(1.0, 3.0), (0.8, 4.0)] {
        let verdict = lives(first);
        let turns = verdict.t / 69.0;
        assert!((third..third + 1.0).contains(&turns), "{first}: {verdict:?}");
    }
}

/// A process that starts under watch, at 10 s, on a host with 60 GiB available; MiB by its age.
fn born(secs: u32, mib: impl Fn(f64) -> f64) -> Vec<Verdict> {
    let mut run = Run::new(2.0, 60.0, None);
    for step in 0..secs / 2 {
        let t = f64::from(step) * 2.0;
        let fact = (t >= 10.0).then(|| run.fact(mib(t - 10.0)));
        run.scan(t, fact);
    }
    run.verdicts
}

#[test]
fn leak_from_birth_is_found_on_a_large_host() {
    for kb_per_sec in [50.0, 300.0] {
        let grows = kb_per_sec * 1e3 / MIB;
        let due = (64.0 / grows).max(60.0) + 1_500.0;
        let verdict = one(born(6_000, |age| 60.0 + grows * age + noise(age, 4) / 4.0));
        assert!(verdict.t < due, "{kb_per_sec}: {verdict:?}");
    }
}

#[test]
fn leak_from_birth_is_found_once_the_start_is_over() {
    // In a quarter of an hour it takes less than counts, in twenty minutes more.
    let verdict = one(born(4_000, |age| 60.0 + 35.0e3 / MIB * age + noise(age, 4) / 8.0));
    assert!(verdict.t < 1_500.0, "{verdict:?}");
    let uneven = |age: f64| 60.0 + 35.0e3 / MIB * (age - age % 150.0);
    let verdicts = born(1_900, uneven);
    assert_eq!(verdicts, []);
}

#[test]
fn fill_of_a_large_host_that_slows_or_stops_is_silent() {
    assert_eq!(born(12_000, |age| 60.0 + 900.0 * (1.0 - (-age / 1_800.0).exp())), []);
    assert_eq!(born(6_000, |age| 60.0 + age.min(1_200.0)), []);
}

#[test]
fn collector_of_45_mb_is_found_and_pages_nobody_for_days() {
    let leak = |t: f64| 45.0 + (t - 5_400.0).max(0.0) * 1.2 / 60.0 + noise(t, 6) / 2.0;
    let verdict = one(Run::new(2.0, 60.0, None).shape(9_400.0, leak));
    assert_eq!(verdict.state, ClaimState::Raised);
    assert!((5_400.0..8_800.0).contains(&verdict.t), "{verdict:?}");
    let severity = verdict.harm.as_ref().map(|harm| harm.severity);
    assert_eq!(severity, Some(crate::detect::Severity::Info), "{verdict:?}");
    assert!(matches!(verdict.claim, Claim::Leak(_)));
}
