//! What must hold of an agent that is killed, or overtaken by an undo, between any two of its system calls.

use std::{fmt, path::Path, process::Command};

use spillway_agent::act::{Journal, Undone, undo_all};

use super::stage::{Stage, life};
use crate::Stopped;

/// The part of a long scenario that one machine takes, where several share it: every `of`-th step, from the `nth` on.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    /// How many share it.
    pub of: u32,
    /// Which of them this is, from 0.
    pub nth: u32,
}

impl Share {
    /// All of it.
    pub const WHOLE: Self = Self { of: 1, nth: 0 };

    /// The first of its stops, which are counted from 1.
    fn first_stop(self) -> u32 {
        if self.nth == 0 { self.of } else { self.nth }
    }
}

/// Killed between any two system calls it leaves what undo puts back.
///
/// # Panics
///
/// Where that does not hold.
pub fn killed(stage: &Stage, share: Share) -> String {
    killed_alone(stage, share, &[])
}

/// So it does with a backstop that gives way, and with less CPU. There is neither in version 1.
///
/// # Panics
///
/// Where that does not hold.
pub fn killed_with_all(stage: &Stage, share: Share) -> String {
    killed_alone(stage, share, &["--all"])
}

fn killed_alone(stage: &Stage, share: Share, args: &[&str]) -> String {
    let leak = stage.workload(&["touch", "--anon-bytes=8MiB"]);
    let life = life(leak.pid());
    let contain = || {
        let mut contain = stage.contain(life, false);
        contain.args(args);
        contain
    };
    let state_dir = &stage.config.record.state_dir;
    let (stops, left, found) = killed_anywhere(state_dir, share, contain, || stage.state(), || {});
    leak.stop();
    format!("at {stops} system calls' begins and ends; the limit stood after {left}, the journal spoke after {found}")
}

/// Kills a `contain` at every step, undoes what it left by the journal below `state_dir`, and has that looked at each time; gives how many
/// steps that were, and after how many something was to be undone.
///
/// # Panics
///
/// Where `state`, of all that it may change, is not what it was.
pub fn killed_anywhere<S: PartialEq + fmt::Debug>(
    state_dir: &Path,
    share: Share,
    contain: impl Fn() -> Command,
    state: impl Fn() -> S,
    is_as_before: impl Fn(),
) -> (u32, u32, u32) {
    let before = state();
    let journal = || Journal::claim(state_dir).expect("the journal is nobody else's");
    let (mut stop, mut stops, mut left, mut found) = (share.first_stop(), 0, 0, 0);
    // Each run ends a step later than the one before it, and the last one by itself.
    while let Some(stopped) = Stopped::at(contain(), stop) {
        stopped.kill();
        stops += 1;
        stop += share.of;
        left += u32::from(state() != before);
        // As the next agent does when it starts.
        let undone = undo_all(&journal());
        found += u32::from(!undone.is_empty());
        assert!(undone.iter().all(Undone::is_done), "stop {stops}: {undone:?}");
        assert_eq!(state(), before, "stop {stops}: {undone:?}");
        is_as_before();
        assert!(undo_all(&journal()).is_empty(), "stop {stops}");
    }
    assert_eq!(state(), before, "it puts everything back itself");
    is_as_before();
    let left_in_all = left * share.of;
    // What is seen of the journal alone is some dozen calls, of which a small share may see none.
    let more = u32::from(share.of <= 4);
    assert!(
        stops * share.of > 100 && left_in_all > 40 && found >= left + more,
        "{left} of {stops} left a limit, {found} an entry"
    );
    (stops, left, found)
}

/// Undone by `spillway undo` between any two system calls of an agent that goes on, a limit does not come back.
///
/// # Panics
///
/// Where that does not hold.
pub fn overtaken(stage: &Stage, share: Share) -> String {
    let leak = stage.workload(&["touch", "--anon-bytes=8MiB"]);
    let life = life(leak.pid());
    let contain = || {
        let mut contain = stage.contain(life, false);
        contain.arg("--overtaken");
        contain
    };
    let before = stage.state();
    // There is one to be found from the first stop on.
    drop(stage.journal());
    let (mut stop, mut stops, mut found) = (share.first_stop(), 0, 0);
    while let Some(stopped) = Stopped::at(contain(), stop) {
        stops += 1;
        stop += share.of;
        let undone = undo_all(&stage.found_journal());
        stopped.go_on();
        let (entries, _) = stage.found_journal().entries().expect("the journal can be read");
        if undone.is_empty() {
            // It came before there was anything to undo, or after all was.
            undo_all(&stage.found_journal());
        } else {
            found += 1;
            assert!(entries.is_empty(), "stop {stops}: {undone:?}, and then {entries:?}");
        }
        assert_eq!(stage.state(), before, "stop {stops}: {undone:?}");
    }
    undo_all(&stage.found_journal());
    leak.stop();
    assert!(found * share.of > 40, "something was undone at {found} of {stops}");
    format!("at {stops} system calls' begins and ends, of which {found} had something to undo")
}
