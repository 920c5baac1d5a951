//! Properties of limits on cgroups, with real processes in them, on every kernel and in either
//! version.

use std::{fs, os::unix::fs::MetadataExt as _, sync::Arc, thread::sleep, time::Duration};

use spillway_agent::{
    act::{OutcomeKind, Pause, limit::ActiveLimits, undo_all},
    config::Pattern,
    decide::IncidentId,
    sense::ProcessId,
};

use super::stage::{ID, SOON, Stage, is_alive, life};
use crate::{corpus::rng::Rng, wait_for};

const MIB: u64 = 1 << 20;
/// Charge that a CPU keeps to itself, and charge over memory.high before a process is slowed down.
const OVER_BYTES: u64 = 8 * MIB;

/// Time within which processes that allocate reach a limit, unless they turned around below it.
const LONG_ENOUGH: Duration = Duration::from_millis(300);

/// Checks that a leaker is limited, that nothing is killed, and that it goes on afterwards.
///
/// # Panics
///
/// Panics if that does not hold.
pub fn held(stage: &Stage) -> String {
    let before = stage.state();
    let leak = stage.workload(&["leak", "--rate=100MiB", "--limit=600MiB"]);
    stage.until_used(40 * MIB);
    let mut limits = stage.limits();
    let outcome = stage.limit(&mut limits, leak.pid());
    assert_eq!(outcome.event, OutcomeKind::Limited, "{outcome:?}");
    let limit_bytes = outcome.limit_bytes.expect("the outcome has no limit");
    assert_eq!(stage.number(stage.limit_file()), limit_bytes);
    stage.until_used(limit_bytes - OVER_BYTES);
    let mut most_bytes = 0;
    for _ in 0..20 {
        most_bytes = most_bytes.max(stage.usage_bytes());
        sleep(Duration::from_millis(50));
    }
    assert!(
        most_bytes <= limit_bytes + OVER_BYTES,
        "{} MiB of {}",
        most_bytes / MIB,
        limit_bytes / MIB
    );
    assert!(is_alive(leak.pid()));
    let undone = limits.undo_all(1.0);
    assert!(
        matches!(&undone[..], [one] if one.event == OutcomeKind::Undone && one.cause == ID.into()),
        "{undone:?}"
    );
    assert_eq!(stage.state(), before);
    stage.until_used(limit_bytes + 4 * OVER_BYTES);
    assert!(is_alive(leak.pid()));
    assert_eq!(stage.killed(), 0);
    leak.stop();
    format!(
        "at {} MiB, over by {} KiB at most",
        limit_bytes / MIB,
        most_bytes.saturating_sub(limit_bytes) / 1024
    )
}

/// Checks that a cgroup with a process whose program cannot be read is not limited: it may be a
/// protected one. Reading it takes CAP_SYS_PTRACE, or the list that BPF makes.
///
/// # Panics
///
/// Panics if the cgroup is limited.
pub fn unreadable(stage: &Stage) -> String {
    let leak = stage.workload(&["touch", "--anon-bytes=8MiB"]);
    let before = stage.state();
    let mut limits = stage.limits();
    let outcome = std::thread::scope(|scope| {
        let limited = scope.spawn(|| {
            drop_ptrace();
            stage.limit(&mut limits, leak.pid())
        });
        limited.join().expect("no outcome is reported")
    });
    assert_eq!(outcome.event, OutcomeKind::Failed, "{outcome:?}");
    let why = format!("the program of pid {} cannot be read", leak.pid());
    assert!(outcome.why.contains(&why), "{outcome:?}");
    assert_eq!(stage.state(), before);
    leak.stop();
    why
}

/// Gives up CAP_SYS_PTRACE in this thread.
fn drop_ptrace() {
    const VERSION_3: u32 = 0x2008_0522;
    const CAP_SYS_PTRACE: u32 = 19;
    // Of include/uapi/linux/capability.h: version and pid; effective, permitted and inheritable
    // capabilities, the low half first.
    let header = [VERSION_3, 0];
    let mut sets = [[0_u32; 3]; 2];
    // SAFETY: both calls read or write these two arrays, which have the layout of version 3.
    unsafe {
        assert_eq!(libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()), 0);
        sets[0][0] &= !(1 << CAP_SYS_PTRACE);
        sets[0][1] &= !(1 << CAP_SYS_PTRACE);
        assert_eq!(libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()), 0);
    }
}

/// Checks that cgroups that must not be limited are refused with the reason, and left unchanged.
///
/// # Panics
///
/// Panics if that does not hold.
pub fn refused(stage: &Stage) -> String {
    let leak = stage.workload(&["touch", "--anon-bytes=8MiB"]);
    let mut limits = stage.limits();
    let before = stage.state();
    let refused = |limits: &mut ActiveLimits, pid: u32| {
        let outcome = stage.limit(limits, pid);
        assert_eq!(outcome.event, OutcomeKind::Refused, "{outcome:?}");
        let (entries, _) = stage.found_journal().entries().expect("cannot read the journal");
        assert!(entries.is_empty(), "{entries:?}");
        outcome.why
    };

    // One outside of it, and one that had the same pid before.
    assert_eq!(
        refused(&mut limits, std::process::id()),
        "the process has left the cgroup or has ended"
    );
    let gone = ProcessId { start_ticks: 1, ..life(leak.pid()) };
    let outcome = limits.limit(0.0, &ID, &Arc::from(stage.cgroup.path.as_str()), gone);
    assert_eq!(outcome.why, "the process has left the cgroup or has ended");
    assert_eq!(
        limits.limit(0.0, &ID, &Arc::from("/no/such"), life(leak.pid())).event,
        OutcomeKind::Refused
    );

    // A cgroup that leaks itself is limited whichever of its processes has ended, and not if it is
    // unknown whose memory it is.
    let of_cgroup = IncidentId::from("leak-cgroup-/it");
    let path = Arc::from(stage.cgroup.path.as_str());
    let outcome = limits.limit(0.0, &of_cgroup, &path, gone);
    assert_eq!(outcome.event, OutcomeKind::Limited, "{outcome:?}");
    assert_eq!(limits.undo_all(0.0).len(), 1);
    assert_eq!(stage.state(), before);

    let neighbour = stage.another_program(&["touch"]);
    let named = wait_for(SOON, || {
        let why = limits.limit(0.0, &of_cgroup, &path, life(leak.pid())).why;
        let named = format!("shared with neighbour (pid {}), and it is unknown", neighbour.pid());
        why.contains(&named).then_some(())
    });
    assert!(named.is_some(), "a leak of a shared cgroup may be anybody's");
    let named = wait_for(SOON, || {
        let why = refused(&mut limits, leak.pid());
        why.starts_with(&format!("the cgroup is shared with neighbour (pid {})", neighbour.pid()))
            .then_some(())
    });
    assert!(named.is_some(), "{}", refused(&mut limits, leak.pid()));
    neighbour.stop();

    drop(limits);
    let program =
        fs::read_link(format!("/proc/{}/exe", leak.pid())).expect("cannot read the program's path");
    let pattern = |text: String| Pattern::new(&text).expect("the pattern is invalid");
    let mut config = stage.config.clone();
    config.decide.protected = vec![pattern(format!("exe:{}", program.display()))];
    let why = refused(&mut ActiveLimits::new(&config, Ok(stage.journal())), leak.pid());
    assert_eq!(
        why,
        format!("the program is protected by decide.protected (exe:{})", program.display())
    );
    (config.decide.protected, config.decide.allow) =
        (Vec::new(), vec![pattern("exe:/usr/bin/*".to_owned())]);
    let why = refused(&mut ActiveLimits::new(&config, Ok(stage.journal())), leak.pid());
    assert_eq!(why, format!("{} is not on the allow-list decide.allow", program.display()));
    let mut limits = stage.limits();

    let pause = Pause::below(&stage.config.record.state_dir);
    pause.turn_on().expect("cannot pause");
    assert!(
        refused(&mut limits, leak.pid())
            .starts_with(&format!("actions are paused by {}", pause.path().display()))
    );
    pause.turn_off().expect("cannot resume");
    assert_eq!(stage.state(), before);

    // Changes of an earlier run that it could not undo.
    let directory = stage.cgroup.directory();
    let inode = fs::metadata(directory).expect("the cgroup is gone").ino();
    let mut stuck = stage.found_journal().entry(directory.into(), inode);
    stuck.record(stage.limit_file(), "33554432", "16777216");
    stage.found_journal().write(&mut stuck).expect("cannot write the journal");
    let why = limits.limit(0.0, &ID, &Arc::from(stage.cgroup.path.as_str()), life(leak.pid())).why;
    assert!(why.starts_with("an earlier limit of this cgroup is not undone yet"), "{why}");
    assert_eq!(
        stage.found_journal().entries().expect("cannot read the journal").0,
        [stuck.clone()]
    );
    stage.found_journal().remove(&stuck).expect("cannot change the journal");

    stage.set_limit(16 * MIB);
    let before = stage.state();
    let why = refused(&mut limits, leak.pid());
    assert!(
        why.starts_with(&format!("{} is already {}, lower", stage.limit_file(), 16 * MIB)),
        "{why}"
    );
    assert_eq!(stage.state(), before);
    leak.stop();
    "each with its reason".to_owned()
}

/// Checks that a limit that others change is set again three times, and is then left to them.
///
/// # Panics
///
/// Panics if that does not hold.
pub fn changed_by_others(stage: &Stage) -> String {
    let before = stage.state();
    let leak = stage.workload(&["touch", "--anon-bytes=8MiB"]);
    let mut limits = stage.limits();
    let limit_bytes =
        stage.limit(&mut limits, leak.pid()).limit_bytes.expect("the cgroup is not limited");
    assert!(limits.look(1.0).is_empty());
    for turn in 0..3 {
        stage.set_limit(stage.unlimited());
        let looked = limits.look(2.0 + f64::from(turn));
        assert!(matches!(&looked[..], [one] if one.event == OutcomeKind::Reasserted), "{looked:?}");
        assert_eq!(stage.number(stage.limit_file()), limit_bytes);
    }
    let theirs = limit_bytes + 64 * MIB;
    stage.set_limit(theirs);
    let looked = limits.look(9.0);
    assert!(matches!(&looked[..], [one] if one.event == OutcomeKind::Overridden), "{looked:?}");
    let file = stage.limit_file();
    let who_won = format!(
        "{file} was changed by others 4 times, at last to {theirs}, and restored 3 times; \
         Spillway backs off; "
    );
    assert!(looked[0].why.starts_with(&who_won), "{looked:?}");
    assert_eq!(stage.number(stage.limit_file()), theirs);
    // Everything else is restored, and the limit is given up.
    assert_eq!(stage.state()[1], before[1]);
    assert!(limits.look(10.0).is_empty() && limits.undo_all(11.0).is_empty());
    assert_eq!(stage.number(stage.limit_file()), theirs);
    leak.stop();
    "three times".to_owned()
}

/// Checks that a limit is not set again after a pause or an undo by hand.
///
/// # Panics
///
/// Panics if that does not hold.
pub fn by_hand(stage: &Stage) -> String {
    let before = stage.state();
    let leak = stage.workload(&["touch", "--anon-bytes=8MiB"]);
    let mut limits = stage.limits();
    assert_eq!(stage.limit(&mut limits, leak.pid()).event, OutcomeKind::Limited);
    let pause = Pause::below(&stage.config.record.state_dir);
    pause.turn_on().expect("cannot pause");
    stage.set_limit(stage.unlimited());
    assert!(limits.look(1.0).is_empty());
    assert_eq!(stage.state()[0], before[0]);
    pause.turn_off().expect("cannot resume");
    assert_eq!(limits.look(2.0).len(), 1);
    assert_ne!(stage.state(), before);

    // Like `spillway undo` beside an agent that holds the journal.
    let undone = undo_all(&stage.found_journal());
    assert!(matches!(&undone[..], [one] if one.is_done()), "{undone:?}");
    assert_eq!(stage.state(), before);
    let looked = limits.look(3.0);
    assert!(matches!(&looked[..], [one] if one.event == OutcomeKind::Undone), "{looked:?}");
    assert!(limits.look(4.0).is_empty());
    assert_eq!(stage.state(), before);
    leak.stop();
    "neither paused nor undone".to_owned()
}

/// Checks that the original value is restored when the incident is over, but not while a second one
/// is open.
///
/// # Panics
///
/// Panics if that does not hold.
pub fn over(stage: &Stage) -> String {
    let before = stage.state();
    let leak = stage.workload(&["touch", "--anon-bytes=8MiB"]);
    let mut limits = stage.limits();
    assert_eq!(stage.limit(&mut limits, leak.pid()).event, OutcomeKind::Limited);
    let cgroup = Arc::from(stage.cgroup.path.as_str());
    let other = IncidentId::from("leak-2-2");
    let again = limits.limit(0.5, &other, &cgroup, life(leak.pid()));
    assert_eq!(again.why, "the cgroup is limited already");
    limits.end(&ID);
    assert!(limits.look(1.0).is_empty());
    assert_ne!(stage.state(), before);
    limits.end(&other);
    let looked = limits.look(2.0);
    assert!(matches!(&looked[..], [one] if one.event == OutcomeKind::Undone), "{looked:?}");
    assert_eq!(stage.state(), before);
    leak.stop();
    "restored with the last of two incidents".to_owned()
}

/// Checks that setting, changing and removing limits kills nothing, however much all processes
/// allocate meanwhile.
///
/// # Panics
///
/// Panics if that does not hold.
pub fn racing(stage: &Stage, least_changes: u64) -> String {
    let before = stage.state();
    let workloads =
        [1, 2, 3].map(|seed| stage.workload(&["swell", "--most=64MiB", &format!("--seed={seed}")]));
    let mut random = Rng::new("limits", 1);
    let (mut changes, mut refused) = (0, 0);
    while changes < least_changes {
        let mut config = stage.config.clone();
        config.act.limit.margin_bytes = (8 << 20) + random.bits() % (56 << 20);
        let mut limits = ActiveLimits::new(&config, Ok(stage.journal()));
        let outcome = stage.limit(&mut limits, workloads[0].pid());
        match outcome.event {
            OutcomeKind::Limited => changes += 1,
            OutcomeKind::Refused => refused += 1,
            _ => panic!("{outcome:?}"),
        }
        // Usually the next change comes at once; now and then a process reaches the limit first.
        if random.bits().is_multiple_of(8) {
            let before = stage.reached();
            wait_for(LONG_ENOUGH, || (stage.reached() > before).then_some(()));
        } else {
            sleep(Duration::from_micros(random.bits() % 200));
        }
        if random.bits().is_multiple_of(4) {
            stage.set_limit(stage.unlimited());
            changes += limits
                .look(1.0)
                .iter()
                .filter(|outcome| outcome.event == OutcomeKind::Reasserted)
                .count() as u64;
        }
        changes += limits
            .undo_all(2.0)
            .iter()
            .filter(|outcome| outcome.event == OutcomeKind::Undone)
            .count() as u64;
        assert_eq!(stage.state(), before);
    }
    assert_eq!(stage.killed(), 0);
    assert!(workloads.iter().all(|workload| is_alive(workload.pid())));
    let reached = stage.reached();
    assert!(reached > 10, "a limit was reached only {reached} times");
    format!(
        "{changes} changes, {refused} refused; a limit was reached {reached} times, and nobody was \
         killed"
    )
}
