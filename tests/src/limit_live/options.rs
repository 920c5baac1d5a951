//! Properties of the options on top of a limit: a backstop above it, and less CPU for a process
//! that spins at it.

use std::{cell::Cell, thread::sleep, time::Duration};

use spillway_agent::act::{OutcomeKind, Pause, limit::ActiveLimits};

use super::stage::{SOON, Stage};
use crate::{Workload, now, wait_for};

const MIB: u64 = 1 << 20;
const DISTANCE_BYTES: u64 = 64 * MIB;
const GROWN_BYTES: u64 = 40 * MIB;

/// Checks that a backstop is well above the limit, widens with it up to the original value, and is
/// restored. A lower one that exists already, and one that others set meanwhile, are left alone.
///
/// # Panics
///
/// Panics if that does not hold.
pub fn backstop(stage: &Stage) -> String {
    let mut config = stage.config.clone();
    config.act.limit.backstop_bytes = Some(DISTANCE_BYTES);
    let limits = || ActiveLimits::new(&config, Ok(stage.journal()));
    let before = stage.state();
    let leak = stage.workload(&["touch", "--anon-bytes=8MiB"]);
    // Limits it, lets it grow while the limit is wiped by hand, and returns the limit before and
    // after.
    let widened = |limits: &mut ActiveLimits, then: &dyn Fn()| {
        let outcome = stage.limit(limits, leak.pid());
        let limit_bytes = outcome.limit_bytes.unwrap_or_else(|| panic!("{outcome:?}"));
        then();
        stage.set_limit(stage.unlimited());
        let usage_bytes = stage.usage_bytes();
        let grown = stage.workload(&["touch", "--anon-bytes=40MiB"]);
        stage.until_used(usage_bytes + GROWN_BYTES - MIB);
        let looked = limits.look(1.0);
        assert!(matches!(&looked[..], [one] if one.event == OutcomeKind::Reasserted), "{looked:?}");
        grown.stop();
        (limit_bytes, looked[0].limit_bytes.expect("the outcome has no limit"))
    };
    let undone = |mut limits: ActiveLimits, event: OutcomeKind| {
        let undone = limits.undo_all(2.0);
        assert!(matches!(&undone[..], [one] if one.event == event), "{undone:?}");
    };
    if stage.is_v1 {
        let mut limits = limits();
        widened(&mut limits, &|| ());
        undone(limits, OutcomeKind::Undone);
        assert_eq!(stage.state(), before);
        leak.stop();
        return "none in this version".to_owned();
    }

    let max = || stage.number("memory.max");
    let mut standing = limits();
    let first = Cell::new(0);
    let (limit_bytes, wider_bytes) = widened(&mut standing, &|| first.set(max()));
    assert_eq!(first.get(), limit_bytes + DISTANCE_BYTES);
    assert!(wider_bytes > limit_bytes + GROWN_BYTES / 2);
    assert_eq!(max(), wider_bytes + DISTANCE_BYTES);
    undone(standing, OutcomeKind::Undone);
    assert_eq!(stage.state(), before);

    // Up to the original value, and no further.
    let prior = wider_bytes + DISTANCE_BYTES - 8 * MIB;
    stage.cgroup.set("memory.max", prior).expect("cannot set the value");
    let with_prior = stage.state();
    let mut standing = limits();
    widened(&mut standing, &|| assert!(max() < prior));
    assert_eq!(max(), prior);
    undone(standing, OutcomeKind::Undone);
    assert_eq!(stage.state(), with_prior);

    let lower = stage.usage_bytes() + DISTANCE_BYTES;
    let lower = lower.next_multiple_of(4_096);
    stage.cgroup.set("memory.max", lower).expect("cannot set the value");
    let with_lower = stage.state();
    let mut standing = limits();
    widened(&mut standing, &|| assert_eq!(max(), lower));
    assert_eq!(max(), lower);
    undone(standing, OutcomeKind::Undone);
    assert_eq!(stage.state(), with_lower);

    stage.cgroup.set("memory.max", "max").expect("cannot set the value");
    let mut standing = limits();
    let theirs = 400 * MIB;
    widened(&mut standing, &|| {
        stage.cgroup.set("memory.max", theirs).expect("cannot set the value")
    });
    assert_eq!(max(), theirs);
    undone(standing, OutcomeKind::Overridden);
    assert_eq!((max(), &stage.state()[0]), (theirs, &before[0]));
    stage.cgroup.set("memory.max", "max").expect("cannot set the value");
    assert_eq!(stage.killed(), 0);
    leak.stop();
    format!(
        "at {} MiB over a limit of {}, then at {}",
        first.get() / MIB,
        limit_bytes / MIB,
        (wider_bytes + DISTANCE_BYTES) / MIB
    )
}

/// Checks that a limit is given up if it would have to exceed the original value.
///
/// # Panics
///
/// Panics if that does not hold.
pub fn never_wider_than_before(stage: &Stage) -> String {
    let leak = stage.workload(&["touch", "--anon-bytes=8MiB"]);
    let prior = (stage.usage_bytes() + 2 * GROWN_BYTES).next_multiple_of(4_096);
    stage.set_limit(prior);
    let mut limits = stage.limits();
    assert_eq!(stage.limit(&mut limits, leak.pid()).event, OutcomeKind::Limited);
    // The original value is set by hand, and the usage grows.
    stage.set_limit(prior + MIB);
    let grown = [1, 2].map(|_| stage.workload(&["touch", "--anon-bytes=36MiB"]));
    stage.until_used(prior - 2 * stage.config.act.limit.margin_bytes / 3);
    let looked = limits.look(1.0);
    assert!(matches!(&looked[..], [one] if one.event == OutcomeKind::Overridden), "{looked:?}");
    assert_eq!(stage.number(stage.limit_file()), prior + MIB);
    grown.into_iter().for_each(Workload::stop);
    stage.set_limit(stage.unlimited());
    leak.stop();
    "theirs".to_owned()
}

/// Checks that a process that spins at its limit gets less CPU until the limit is removed, unless
/// it has less already; if that is impossible, the reason is reported with the limit.
///
/// # Panics
///
/// Panics if that does not hold.
pub fn slowed(stage: &Stage) -> String {
    const AFTER: Duration = Duration::from_secs(1);
    let mut config = stage.config.clone();
    (config.act.limit.cpu_weight, config.act.limit.cpu_max_percent) = (Some(10), Some(30));
    config.act.limit.cpu_after = AFTER;
    let before = stage.state();
    let leak = stage.workload(&["touch", "--anon-bytes=8MiB"]);
    let mut limits = ActiveLimits::new(&config, Ok(stage.journal()));
    let outcome = stage.limit(&mut limits, leak.pid());
    let begun = now();
    // It holds a few MiB, so that less than the margin is left, and allocates without rest.
    let spinner = stage.workload(&["alloc-loop", "--secs=120"]);
    if stage.is_v1 || !stage.cgroup.has("cpu.max") {
        let (_, reason) = outcome
            .why
            .split_once("; the CPU cannot be throttled: ")
            .expect("the outcome gives no reason");
        sleep(2 * AFTER);
        assert!(limits.look(begun.elapsed().as_secs_f64()).is_empty());
        assert_eq!(limits.undo_all(9.0).len(), 1);
        assert_eq!(stage.state(), before);
        spinner.stop();
        leak.stop();
        return format!("not here: {reason}");
    }
    assert!(!outcome.why.contains("CPU"), "{}", outcome.why);
    let pause = Pause::below(&stage.config.record.state_dir);
    pause.turn_on().expect("cannot pause");
    let limited = stage.state();
    while begun.elapsed() < 3 * AFTER {
        let looked = limits.look(begun.elapsed().as_secs_f64());
        assert!(looked.is_empty() && stage.state() == limited, "paused: {looked:?}");
        sleep(Duration::from_millis(100));
    }
    pause.turn_off().expect("cannot resume");
    let throttled =
        wait_for(SOON, || limits.look(begun.elapsed().as_secs_f64()).pop()).expect("it spins");
    assert_eq!(throttled.event, OutcomeKind::CpuThrottled, "{throttled:?}");
    let state = |weight: &str, quota: &str| {
        let mut state = limited.clone();
        state.splice(2..4, [weight.to_owned(), quota.to_owned()]);
        state
    };
    assert_eq!(stage.state(), state("10", "30000 100000"));
    let share = cpu_share(stage);
    assert!(share < 0.45, "the process uses {share:.2} of a CPU");
    assert!(limits.look(begun.elapsed().as_secs_f64()).is_empty(), "reported more than once");
    let undone = limits.undo_all(9.0);
    assert!(matches!(&undone[..], [one] if one.event == OutcomeKind::Undone), "{undone:?}");
    assert_eq!(stage.state(), before);
    drop(limits);
    spinner.stop();

    // Already lower.
    stage.cgroup.set("cpu.weight", 9).expect("cannot set the value");
    stage.cgroup.set("cpu.max", "15000 50000").expect("cannot set the value");
    let before = stage.state();
    config.act.limit.cpu_after = Duration::ZERO;
    let mut limits = ActiveLimits::new(&config, Ok(stage.journal()));
    assert_eq!(stage.limit(&mut limits, leak.pid()).event, OutcomeKind::Limited);
    let grown = stage.workload(&["touch", "--anon-bytes=8MiB"]);
    assert!(limits.look(1.0).is_empty());
    assert_eq!(stage.state()[2..], before[2..]);
    assert_eq!(limits.undo_all(2.0).len(), 1);
    assert_eq!(stage.state(), before);
    grown.stop();
    leak.stop();
    format!("from a CPU to {share:.2} of one")
}

/// Returns its share of one CPU, over two seconds.
fn cpu_share(stage: &Stage) -> f64 {
    let used = || -> f64 {
        let stat = stage.cgroup.get("cpu.stat").expect("the cgroup is gone");
        let usec = stat.lines().find_map(|line| line.strip_prefix("usage_usec "));
        usec.and_then(|usec| usec.parse().ok()).expect("the cgroup has no CPU time")
    };
    let (begun, before) = (now(), used());
    sleep(Duration::from_secs(2));
    (used() - before) / 1e6 / begun.elapsed().as_secs_f64()
}
