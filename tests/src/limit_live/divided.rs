//! Properties of a leaker that shares its cgroup and may be moved to a child of it, with real
//! processes, in either version.

use std::{fs, time::Duration};

use spillway_agent::{
    act::{Outcome, OutcomeKind, limit::ActiveLimits},
    clock::Clock,
    sense::{LEAK_CHILD, REST_CHILD},
};

use super::{
    crash_points::{Share, killed_anywhere},
    stage::{ID, MARGIN_BYTES, SOON, Stage, is_alive, life},
};
use crate::{Workload, wait_for};

const MIB: u64 = 1 << 20;
/// Time by which `memory.stat` lags behind the charges, at most: the kernel flushes every two
/// seconds.
const STATISTICS_DELAY: Duration = Duration::from_secs(3);
/// Charge over a limit before a process is slowed down.
const OVER_BYTES: u64 = 8 * MIB;

impl Stage {
    /// Returns the cgroup of the other processes after the move: without a limit of Spillway's, in
    /// either version.
    fn rest(&self) -> &'static str {
        if self.is_v1 { "." } else { REST_CHILD }
    }

    fn dividing(&self) -> ActiveLimits {
        ActiveLimits::new(&self.delegating(), Ok(self.journal()))
    }

    /// Returns the limit of the child.
    fn limit_of_leak(&self) -> u64 {
        self.number(&format!("{LEAK_CHILD}/{}", self.limit_file()))
    }

    fn usage_of_leak(&self) -> u64 {
        let file = if self.is_v1 { "memory.usage_in_bytes" } else { "memory.current" };
        self.number(&format!("{LEAK_CHILD}/{file}"))
    }

    fn is_back(&self, workloads: &[&Workload]) {
        for workload in workloads {
            assert!(is_alive(workload.pid()) && self.is_in(".", workload.pid()));
        }
    }
}

/// Checks that a leaker is moved and limited while the others in its cgroup grow and fork on, and
/// that both are moved back at the end.
///
/// # Panics
///
/// Panics if that does not hold.
pub fn divided(stage: &Stage) -> String {
    let before = stage.state();
    // Pages that the kernel merges into huge ones are charged again, even over the limit: see
    // `gathered`.
    let leak = stage.workload(&["leak", "--rate=100MiB", "--limit=600MiB", "--small-pages"]);
    let neighbour = stage.another_program(&["leak", "--rate=30MiB", "--limit=400MiB"]);
    let forking = stage.another_program(&["churn", "--count=10000000"]);
    stage.until_used(40 * MIB);
    let mut limits = stage.dividing();
    let outcome = stage.limit(&mut limits, leak.pid());
    assert_eq!(outcome.event, OutcomeKind::Limited, "{outcome:?}");
    assert!(
        outcome
            .why
            .starts_with("moved the process to spillway-leak, a child of its cgroup; memory."),
        "{outcome:?}"
    );
    let limit_bytes = outcome.limit_bytes.expect("the outcome has no limit");
    assert_eq!(stage.limit_of_leak(), limit_bytes);
    assert_eq!(stage.state()[..2], before[..2], "the cgroup's own limits changed");
    assert!(stage.is_in(LEAK_CHILD, leak.pid()));
    assert!(stage.is_in(stage.rest(), neighbour.pid()) && stage.is_in(stage.rest(), forking.pid()));

    let at_first = anon_bytes(neighbour.pid());
    let is_full = || (stage.usage_of_leak() + OVER_BYTES >= limit_bytes).then_some(());
    assert!(wait_for(SOON, is_full).is_some(), "{} of {limit_bytes}", stage.usage_of_leak());
    let grew = wait_for(SOON, || {
        (anon_bytes(neighbour.pid()) > at_first + 4 * MARGIN_BYTES).then_some(())
    });
    assert!(grew.is_some(), "the neighbour is held at {} MiB", anon_bytes(neighbour.pid()) / MIB);
    let most_bytes = stage.usage_of_leak();
    assert!(
        most_bytes <= limit_bytes + OVER_BYTES,
        "{} MiB of {}",
        most_bytes / MIB,
        limit_bytes / MIB
    );
    let other = stage.limit(&mut limits, neighbour.pid());
    assert_eq!(
        (other.event, other.why.as_str()),
        (
            OutcomeKind::Refused,
            "another leaking program of this cgroup is already isolated and limited"
        )
    );
    assert_eq!(stage.limit(&mut limits, leak.pid()).why, "the cgroup is limited already");

    let held = anon_bytes(leak.pid());
    let undone = limits.undo_all(1.0);
    assert!(
        matches!(&undone[..], [one] if one.event == OutcomeKind::Undone && one.cause == ID.into()),
        "{undone:?}"
    );
    assert!(undone[0].why.ends_with("moved processes are back in their cgroup"), "{undone:?}");
    assert_eq!(stage.state(), before);
    stage.is_back(&[&leak, &neighbour, &forking]);
    let goes_on =
        wait_for(SOON, || (anon_bytes(leak.pid()) > held + 2 * MARGIN_BYTES).then_some(()));
    assert!(goes_on.is_some(), "{} MiB, from {}", anon_bytes(leak.pid()) / MIB, held / MIB);
    assert_eq!(stage.killed(), 0);
    format!(
        "in a child at {} MiB, over by {} KiB at most",
        limit_bytes / MIB,
        most_bytes.saturating_sub(limit_bytes) / 1024
    )
}

/// Checks that everything is restored once the child is empty, and when an incident ends.
///
/// # Panics
///
/// Panics if that does not hold.
pub fn divided_and_over(stage: &Stage) -> String {
    let before = stage.state();
    let neighbour = stage.another_program(&["touch", "--anon-bytes=8MiB"]);
    let mut limits = stage.dividing();
    for ends in [true, false] {
        let leak = stage.workload(&["touch", "--anon-bytes=8MiB"]);
        assert_eq!(stage.limit(&mut limits, leak.pid()).event, OutcomeKind::Limited);
        assert!(limits.look(1.0).is_empty());
        let leak = if ends {
            leak.stop();
            None
        } else {
            limits.end(&ID);
            Some(leak)
        };
        let looked = limits.look(2.0);
        assert!(matches!(&looked[..], [one] if one.event == OutcomeKind::Undone), "{looked:?}");
        assert_eq!(looked[0].why.starts_with("no moved process is left; "), ends, "{looked:?}");
        assert_eq!(stage.state(), before);
        stage.is_back(&[&neighbour]);
        assert_eq!(leak.is_some_and(|leak| stage.is_in(".", leak.pid())), !ends);
        assert!(limits.look(3.0).is_empty());
    }
    "with its last process and with its incident".to_owned()
}

/// Checks that cgroups that others use are left to them, and that the moved process is freed of its
/// limit.
///
/// # Panics
///
/// Panics if that does not hold.
pub fn divided_and_used(stage: &Stage) -> String {
    let before = stage.state();
    let leak = stage.workload(&["touch", "--anon-bytes=8MiB"]);
    let neighbour = stage.another_program(&["touch", "--anon-bytes=8MiB"]);
    let leak_path = stage.cgroup.directory().join(LEAK_CHILD);

    // Another program creates a cgroup below the leaker's: its processes are moved back, and the
    // cgroup stays.
    let mut limits = stage.dividing();
    assert_eq!(stage.limit(&mut limits, leak.pid()).event, OutcomeKind::Limited);
    fs::create_dir(leak_path.join("theirs")).expect("cannot create the cgroup");
    let undone = limits.undo_all(1.0);
    assert!(matches!(&undone[..], [one] if one.event == OutcomeKind::Overridden), "{undone:?}");
    assert!(
        undone[0].why.ends_with("others have created cgroups in spillway-leak, so that it stays"),
        "{undone:?}"
    );
    stage.is_back(&[&leak, &neighbour]);
    let refused = stage.limit(&mut limits, leak.pid());
    assert_eq!(refused.event, OutcomeKind::Refused);
    assert!(
        refused.why.contains("is not divided: it already has a child spillway-leak"),
        "{refused:?}"
    );
    fs::remove_dir(leak_path.join("theirs")).expect("cannot remove the cgroup");
    fs::remove_dir(&leak_path).expect("cannot remove the cgroup");
    assert_eq!(stage.state(), before);
    stage.is_back(&[&leak, &neighbour]);
    if stage.is_v1 {
        return "a cgroup below the child".to_owned();
    }

    // Another program creates a child beside Spillway's and limits it: the controller stays
    // enabled, and no process is moved.
    assert_eq!(stage.limit(&mut limits, leak.pid()).event, OutcomeKind::Limited);
    let theirs = stage.cgroup.make_below("theirs").expect("cannot create the cgroup");
    theirs.set("memory.max", 64 * MIB).expect("cannot set the limit");
    let undone = limits.undo_all(2.0);
    assert!(matches!(&undone[..], [one] if one.event == OutcomeKind::Overridden), "{undone:?}");
    assert!(
        undone[0].why.contains("others have set theirs/memory.max; moved processes stay"),
        "{undone:?}"
    );
    assert!(stage.is_in(LEAK_CHILD, leak.pid()) && stage.is_in(REST_CHILD, neighbour.pid()));
    assert_eq!(
        stage.cgroup.get(&format!("{LEAK_CHILD}/memory.high")).ok().as_deref(),
        Some("max\n")
    );
    drop(theirs);
    stage.cgroup.set("cgroup.subtree_control", "-memory").expect("cannot disable the controller");
    bring_home(stage, &[&leak, &neighbour]);
    assert_eq!(stage.state(), before);

    // Another program creates a child without a limit: the result is the same.
    assert_eq!(stage.limit(&mut limits, leak.pid()).event, OutcomeKind::Limited);
    let theirs = stage.cgroup.make_below("theirs").expect("cannot create the cgroup");
    let undone = limits.undo_all(3.0);
    assert!(matches!(&undone[..], [one] if one.event == OutcomeKind::Undone), "{undone:?}");
    drop(theirs);
    assert_eq!(stage.state(), before);
    stage.is_back(&[&leak, &neighbour]);
    "a cgroup below the child, and two beside it".to_owned()
}

/// Moves back by hand the processes that were left to others.
fn bring_home(stage: &Stage, workloads: &[&Workload]) {
    for workload in workloads {
        stage.cgroup.set("cgroup.procs", workload.pid()).expect("cannot move the process back");
    }
    for child in [LEAK_CHILD, REST_CHILD] {
        let directory = stage.cgroup.directory().join(child);
        let gone = wait_for(SOON, || {
            (!directory.exists() || fs::remove_dir(&directory).is_ok()).then_some(())
        });
        assert!(gone.is_some(), "{child} stays");
    }
}

/// Checks that memory from before the move may be replaced, and no more than that.
///
/// # Panics
///
/// Panics if that does not hold.
pub fn replaced(stage: &Stage) -> String {
    const HAD_BYTES: u64 = 96 * MIB;
    let before = stage.state();
    let had = stage.workload(&["touch", "--anon-bytes=96MiB"]);
    let leak = stage.workload(&["leak", "--rate=100MiB", "--limit=600MiB", "--small-pages"]);
    let neighbour = stage.another_program(&["touch", "--anon-bytes=8MiB"]);
    let mut limits = stage.dividing();
    let outcome = stage.limit(&mut limits, leak.pid());
    let first_bytes = outcome.limit_bytes.unwrap_or_else(|| panic!("{outcome:?}"));
    let is_full = |limit_bytes: u64| stage.usage_of_leak() + OVER_BYTES >= limit_bytes;
    let until_full = |limit_bytes| {
        wait_for(SOON, || is_full(limit_bytes).then_some(()))
            .expect("the leaker does not reach its limit")
    };
    until_full(first_bytes);
    for t in [1.0, 2.0, 3.0] {
        let looked = limits.look(t);
        assert!(looked.is_empty(), "nothing was replaced: {looked:?}");
    }
    assert_eq!(stage.limit_of_leak(), first_bytes);

    // It frees its old memory.
    had.stop();
    let mut limit_bytes = first_bytes;
    let mut t = 4.0;
    for _ in 0..20 {
        until_full(limit_bytes);
        let Some(looked) = until_reported(&mut limits, &mut t, STATISTICS_DELAY) else { break };
        let outcome = &looked[0];
        assert!(looked.len() == 1 && outcome.event == OutcomeKind::Widened, "{looked:?}");
        let wider = outcome.limit_bytes.expect("the outcome has no limit");
        assert!(
            wider > limit_bytes && wider == stage.limit_of_leak(),
            "{wider} after {limit_bytes}"
        );
        limit_bytes = wider;
    }
    let more = limit_bytes - first_bytes;
    // A small amount makes no room. The leaker's own memory from before the move is part of it, and
    // is never replaced.
    assert!(
        (HAD_BYTES - MARGIN_BYTES / 2..=HAD_BYTES + 2 * MIB).contains(&more),
        "{} MiB more",
        more / MIB
    );
    assert!(is_full(limit_bytes) && is_alive(leak.pid()));
    limits.undo_all(t + 1.0);
    assert_eq!(stage.state(), before);
    stage.is_back(&[&leak, &neighbour]);
    assert_eq!(stage.killed(), 0);
    format!("{} MiB of {}", more / MIB, HAD_BYTES / MIB)
}

/// Checks that memory from before the move that the kernel merges into huge pages (`khugepaged`) is
/// charged to the child and raises the limit: it is not growth. `gather` makes the kernel do so at
/// once.
///
/// # Panics
///
/// Panics if that does not hold.
pub fn gathered(stage: &Stage, gather: impl FnOnce()) -> String {
    const HAD_BYTES: u64 = 64 * MIB;
    let before = stage.state();
    let leak = stage.workload(&["leak", "--rate=200MiB", "--limit=64MiB"]);
    let neighbour = stage.another_program(&["touch", "--anon-bytes=8MiB"]);
    let had = wait_for(SOON, || (anon_bytes(leak.pid()) >= HAD_BYTES).then_some(()));
    assert!(had.is_some(), "{} MiB", anon_bytes(leak.pid()) / MIB);
    let mut limits = stage.dividing();
    let outcome = stage.limit(&mut limits, leak.pid());
    let first_bytes = outcome.limit_bytes.unwrap_or_else(|| panic!("{outcome:?}"));
    assert!(
        limits.look(1.0).is_empty() && stage.usage_of_leak() < MARGIN_BYTES,
        "{}",
        stage.usage_of_leak()
    );

    gather();
    let charged =
        wait_for(SOON, || Some(stage.usage_of_leak()).filter(|&bytes| bytes > first_bytes));
    let charged =
        charged.unwrap_or_else(|| panic!("{} MiB are charged anew", stage.usage_of_leak() / MIB));
    let mut t = 2.0;
    let looked = until_reported(&mut limits, &mut t, SOON).unwrap_or_default();
    assert!(
        matches!(&looked[..], [one] if one.event == OutcomeKind::Widened),
        "at {} MiB: {looked:?}",
        charged / MIB
    );
    let wider = looked[0].limit_bytes.expect("the outcome has no limit");
    assert!(
        wider > first_bytes && wider <= first_bytes + HAD_BYTES + 2 * MIB,
        "{} MiB",
        wider / MIB
    );
    limits.undo_all(t + 1.0);
    assert_eq!(stage.state(), before);
    stage.is_back(&[&leak, &neighbour]);
    assert_eq!(stage.killed(), 0);
    format!(
        "{} MiB charged anew, the limit from {} to {} MiB",
        charged / MIB,
        first_bytes / MIB,
        wider / MIB
    )
}

/// Checks that an agent killed between any two system calls while it divides, limits and merges
/// leaves a state that undo restores.
///
/// # Panics
///
/// Panics if that does not hold.
pub fn divided_and_killed(stage: &Stage, share: Share) -> String {
    let leak = stage.workload(&["touch", "--anon-bytes=8MiB"]);
    let neighbour = stage.another_program(&["touch", "--anon-bytes=8MiB"]);
    let life = life(leak.pid());
    let contain = || stage.contain(life, true);
    let (state_dir, is_back) =
        (&stage.config.record.state_dir, || stage.is_back(&[&leak, &neighbour]));
    killed_anywhere(state_dir, share, contain, || stage.whole_state(), is_back).to_string()
}

/// Looks at the limits, as the agent does again and again, until one look reports something; `t`
/// advances by the time that passes. One look is not enough: the statistics of a cgroup lag behind
/// its charges, and a huge page is charged before it is mapped.
fn until_reported(
    limits: &mut ActiveLimits,
    t: &mut f64,
    within: Duration,
) -> Option<Vec<Outcome>> {
    let (clock, from) = (Clock::start(), *t);
    wait_for(within, || {
        *t = from + clock.now();
        Some(limits.look(*t)).filter(|looked| !looked.is_empty())
    })
}

fn anon_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let kib =
        status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.parse::<u64>().ok()).expect("cannot read the kernel's value") << 10
}
