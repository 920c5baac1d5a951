//! What must hold of an agent that is killed, or overtaken by an undo, between any two of its
//! system calls.
//!
//! A kill before one of two calls that change nothing outside the agent leaves the same as a kill
//! before the other, so one is enough. Which calls those are is not taken on trust: first an agent
//! runs to its end, call by call, and all that it may change is read at each.

use std::{collections::HashSet, fmt, fs, path::Path, process::Command};

use spillway_agent::act::{Journal, Undone, undo_all};

use super::stage::{Stage, life};
use crate::{Call, Stopped};

/// The part of a long scenario that one machine takes, where several share it: every `of`-th call,
/// from the `nth` on.
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
}

/// Killed between any two system calls it leaves what undo puts back.
///
/// # Panics
///
/// Panics if that does not hold.
pub fn killed(stage: &Stage, share: Share) -> String {
    killed_alone(stage, share, &[])
}

/// So it does with a backstop that gives way, and with less CPU. There is neither in version 1.
///
/// # Panics
///
/// Panics if that does not hold.
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
    let killed = killed_anywhere(state_dir, share, contain, || stage.whole_state(), || {});
    leak.stop();
    killed.to_string()
}

/// Digits of what stands for no limit in version 1, some 2^63; no other number has as many.
const UNLIMITED_DIGITS: usize = 19;

/// What came of an agent that was killed anywhere.
#[derive(Debug, Clone, Copy, Default)]
pub struct Killed {
    /// Begins of system calls, and those of calls that may change something.
    pub calls: u32,
    /// See [`Self::calls`].
    pub changing: u32,
    /// Different states, one after the other, of all that it changes.
    pub states: u32,
    /// Kills, and after how many something was not as before, and the journal had an entry.
    pub kills: u32,
    /// See [`Self::kills`].
    pub left: u32,
    /// See [`Self::kills`].
    pub found: u32,
}

impl fmt::Display for Killed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { calls, changing, states, kills, left, found } = self;
        write!(
            f,
            "{changing} of {calls} system calls may change something, and make {states} states; \
             killed before {kills} of \
             them, it left a limit {left} times, and the journal spoke {found} times"
        )
    }
}

/// Kills a `crash_target limit` before every system call that may change something, undoes what it
/// left by the journal below `state_dir`, and has that looked at each time.
///
/// # Panics
///
/// Panics if `state`, of all that it may change, is not what it was; or where a call changed that
/// which should change nothing.
pub fn killed_anywhere<S: PartialEq + fmt::Debug>(
    state_dir: &Path,
    share: Share,
    contain: impl Fn() -> Command,
    state: impl Fn() -> S,
    is_as_before: impl Fn(),
) -> Killed {
    let before = state();
    let journal = || Journal::claim(state_dir).expect("the journal is nobody else's");
    // Once, so that what its claim makes is there in all runs.
    drop(journal());
    // Reading all state at each of a thousand calls takes minutes where it is emulated; whoever
    // takes every kill holds the calls against it.
    let (mut killed, mut expected) = match share.of {
        1 => surveyed(contain(), || (state(), files(state_dir))),
        _ => (Killed::default(), HashSet::new()),
    };
    assert_eq!(state(), before, "it puts everything back itself");
    let mut nth = share.nth + 1;
    // Each run ends later than the one before it, and the last one by itself.
    while let Some(stopped) = Stopped::at(contain(), nth, Call::may_change_something) {
        stopped.kill();
        killed.kills += 1;
        nth += share.of;
        let left = (state(), files(state_dir));
        killed.left += u32::from(left.0 != before);
        expected.remove(&shape(&left));
        // As the next agent does when it starts.
        let undone = undo_all(&journal());
        killed.found += u32::from(!undone.is_empty());
        assert!(undone.iter().all(Undone::is_done), "before call {nth}: {undone:?}");
        assert_eq!(state(), before, "before call {nth}: {undone:?}");
        is_as_before();
        assert!(undo_all(&journal()).is_empty(), "before call {nth}");
    }
    assert_eq!(state(), before, "it puts everything back itself");
    is_as_before();
    assert!(share.of > 1 || expected.is_empty(), "{killed}; no kill left {expected:#?}");
    let Killed { kills, left, found, .. } = killed;
    assert!(kills * share.of > 40 && left > 0 && found >= left, "{killed}");
    killed
}

/// Lets a program run to its end, and reads `state` at the begin of each of its calls; gives what
/// there was to see, and every state that there was.
fn surveyed<S: PartialEq + fmt::Debug>(
    command: Command,
    state: impl Fn() -> S,
) -> (Killed, HashSet<String>) {
    let (mut killed, mut states) = (Killed::default(), HashSet::new());
    let (mut last, mut before) = (state(), None::<Call>);
    let mut running = Some(Stopped::start(command));
    while let Some((stopped, call)) = running.take().and_then(Stopped::next) {
        let now = state();
        if now != last {
            killed.states += 1;
            assert!(
                before.is_some_and(|call| call.may_change_something()),
                "{before:?} made of {last:?}: {now:?}"
            );
        }
        killed.calls += 1;
        killed.changing += u32::from(call.may_change_something());
        states.insert(shape(&now));
        (last, before, running) = (state(), Some(call), Some(stopped));
    }
    (killed, states)
}

/// A state but for its numbers, which follow from how much memory is charged at the moment: what
/// stands for no limit is kept.
fn shape(state: &impl fmt::Debug) -> String {
    let text = format!("{state:?}");
    let is_digit = |letter: char| letter.is_ascii_digit();
    let (mut shape, mut rest) = (String::new(), &text[..]);
    while let Some(at) = rest.find(is_digit) {
        let length = rest[at..].find(|letter| !is_digit(letter)).unwrap_or(rest.len() - at);
        let number = &rest[at..at + length];
        shape.push_str(&rest[..at]);
        shape.push_str(if length >= UNLIMITED_DIGITS { number } else { "#" });
        rest = &rest[at + length..];
    }
    shape + rest
}

/// Every file below a directory, with what is in it.
fn files(directory: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let entries = fs::read_dir(directory).map(|entries| entries.flatten().collect::<Vec<_>>());
    for entry in entries.unwrap_or_default() {
        let path = entry.path();
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned();
        found.push((path.display().to_string(), text));
        if path.is_dir() {
            found.extend(files(&path));
        }
    }
    found.sort();
    found
}

/// Undone by `spillway undo` between any two system calls of an agent that goes on, a limit does
/// not come back.
///
/// # Panics
///
/// Panics if that does not hold.
pub fn overtaken(stage: &Stage, share: Share) -> String {
    let leak = stage.workload(&["touch", "--anon-bytes=8MiB"]);
    let life = life(leak.pid());
    let contain = || {
        let mut contain = stage.contain(life, false);
        contain.arg("--overtaken");
        contain
    };
    // Once, so that there is one at every stop.
    drop(stage.journal());
    let before = stage.state();
    let (mut nth, mut stops, mut found) = (share.nth + 1, 0, 0);
    while let Some(stopped) = Stopped::at(contain(), nth, Call::may_meet_others) {
        stops += 1;
        nth += share.of;
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
    format!("at {stops} system calls' begins, of which {found} had something to undo")
}
