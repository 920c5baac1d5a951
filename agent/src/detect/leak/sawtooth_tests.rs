//! Leaks under teeth that are longer than buckets, and after growth of another kind.

use super::tests::{Run, noise, one, states};
use crate::detect::ClaimState;

/// Filled evenly and emptied at odd times, every twelve minutes or so: MiB above what is there at
/// the least.
fn purged(height: f64) -> impl Fn(f64) -> f64 {
    const PERIOD: f64 = 720.0;
    let emptied = |turn: f64| (turn + 0.5 + 0.4 * noise(turn, 7)) * PERIOD;
    move |t| {
        let turn = (t / PERIOD).floor();
        let last = if t >= emptied(turn) { emptied(turn) } else { emptied(turn - 1.0) };
        height * (t - last) / PERIOD
    }
}

/// From an hour on 20 KiB a second, for so long.
fn leak(secs: f64) -> impl Fn(f64) -> f64 {
    move |t| 20.0 / 1024.0 * (t - 3_600.0).clamp(0.0, secs)
}

#[test]
fn leak_under_long_teeth_is_found_by_its_troughs() {
    let (teeth, leak) = (purged(150.0), leak(f64::INFINITY));
    let verdict =
        one(Run::new(5.0, 1.5, None).shape(8.0 * 3_600.0, |t| 300.0 + teeth(t) + leak(t)));
    assert_eq!(verdict.state, ClaimState::Raised);
    assert!((3_600.0..3_600.0 + 2.0 * 3_600.0).contains(&verdict.t), "{verdict:?}");
    assert!(verdict.why.contains(" at the low points of its sawtooth "), "{verdict:?}");
    assert!(verdict.why.contains(" beside its own peaks run out in "), "{verdict:?}");
}

#[test]
fn long_teeth_alone_are_silent() {
    let teeth = purged(150.0);
    let verdicts =
        Run::new(5.0, 1.5, None).shape(12.0 * 3_600.0, |t| 300.0 + teeth(t) + noise(t, 3));
    assert!(verdicts.is_empty(), "{verdicts:#?}");
}

#[test]
fn leak_ends_when_teeth_stop_rising_or_stop() {
    let (teeth, leak_for) = (purged(150.0), 2.0 * 3_600.0);
    for teeth_end in [f64::INFINITY, 3.0 * 3_600.0] {
        let leak = leak(leak_for);
        let shape = |t: f64| 300.0 + if t < teeth_end { teeth(t) } else { 0.0 } + leak(t);
        let verdicts = Run::new(5.0, 1.5, None).shape(12.0 * 3_600.0, shape);
        let [(ClaimState::Raised, _), (ClaimState::Cleared, cleared_t)] = states(&verdicts)[..]
        else {
            panic!("{verdicts:#?}")
        };
        assert!(cleared_t > 3_600.0 + leak_for, "{verdicts:#?}");
        assert!(verdicts[1].why.contains("has not grown for"), "{verdicts:#?}");
    }
}

#[test]
fn what_was_given_back_once_does_not_hide_a_leak_below_it() {
    // A table of 400 MiB is built in five minutes and freed; two hours later a leak begins far
    // below.
    let shape = |t: f64| {
        let table = if (1_500.0..1_800.0).contains(&t) { (t - 1_500.0) * 4.0 / 3.0 } else { 0.0 };
        200.0 + table + (t - 9_000.0).max(0.0) * 0.05
    };
    let verdicts = Run::new(2.0, 2.0, None).shape(15_000.0, shape);
    let [(ClaimState::Raised, _), (ClaimState::Cleared, _), (ClaimState::Raised, t)] =
        states(&verdicts)[..]
    else {
        panic!("{verdicts:#?}")
    };
    assert!((9_000.0..14_000.0).contains(&t), "{verdicts:#?}");
}

#[test]
fn growth_that_resumes_after_a_fill_that_slowed_is_found() {
    let shape =
        |t: f64| 100.0 + 400.0 * (1.0 - (-t / 1_800.0).exp()) + (t - 12_000.0).max(0.0) * 0.05;
    let verdict = one(Run::new(2.0, 2.0, None).shape(20_000.0, |t| shape(t) + noise(t, 5) / 4.0));
    assert!((12_000.0..16_000.0).contains(&verdict.t), "{verdict:?}");
}
