//! Properties of an agent that is killed, or overtaken by an undo, between any two of its system
//! calls.
//!
//! A kill before either of two calls that change nothing outside the agent has the same effect, so
//! one is enough. The list of these calls is verified: first an agent runs to its end, call by
//! call, and everything that it may change is read at each.

use std::{collections::HashSet, fmt, fs, path::Path, process::Command};

use spillway_agent::act::{Journal, Undone, undo_all};

use super::stage::{Stage, life};
use crate::{Call, Stopped};

/// Part of a long scenario that one machine takes, if several share it: every `of`-th call, from
/// the `nth` on.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    /// Number of machines.
    pub of: u32,
    /// Index of this one, from 0.
    pub nth: u32,
}

impl Share {
    /// The whole scenario.
    pub const WHOLE: Self = Self { of: 1, nth: 0 };
}

/// Checks that an agent killed between any two system calls leaves a state that undo restores.
///
/// # Panics
///
/// Panics if that does not hold.
pub fn killed(stage: &Stage, share: Share) -> String {
    killed_alone(stage, share, &[])
}

/// Checks the same with a backstop that widens, and with less CPU. Version 1 has neither.
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

/// Number of digits of the value that means no limit in version 1, some 2^63; no other number has
/// as many.
const UNLIMITED_DIGITS: usize = 19;

/// Counts of a run in which an agent is killed anywhere.
#[derive(Debug, Clone, Copy, Default)]
pub struct Killed {
    /// Entries to system calls, and those of calls that may change something.
    pub calls: u32,
    /// See [`Self::calls`].
    pub changing: u32,
    /// Successive different states of everything that it changes.
    pub states: u32,
    /// Kills, and the number after which something was changed, and after which the journal had an
    /// entry.
    pub kills: u32,
    /// See [`Self::kills`].
    pub left: u32,
    /// See [`Self::kills`].
    pub found: u32,
}

impl fmt::Display for Killed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { calls, changing, states, kills, left, found } = self;
        // A share of the kills is made without counting all calls.
        if *calls > 0 {
            write!(
                f,
                "{changing} of {calls} system calls may change something, with {states} states; "
            )?;
        }
        write!(
            f,
            "killed before {kills} calls that may change something, it left a limit {left} times, \
             and a journal entry {found} times"
        )
    }
}

/// Kills a `crash_target limit` before every system call that may change something, undoes the rest
/// by the journal below `state_dir`, and checks the result each time.
///
/// # Panics
///
/// Panics if `state`, which is everything that it may change, is not restored, or if a call that
/// should change nothing changed it.
pub fn killed_anywhere<S: PartialEq + fmt::Debug>(
    state_dir: &Path,
    share: Share,
    contain: impl Fn() -> Command,
    state: impl Fn() -> S,
    is_as_before: impl Fn(),
) -> Killed {
    let before = state();
    let journal = || Journal::claim(state_dir).expect("cannot claim the journal");
    // Once, so that files made by the claim exist in all runs.
    drop(journal());
    // Reading all state at each of a thousand calls takes minutes if emulated; a machine that takes
    // every kill does it.
    let (mut killed, mut expected) = match share.of {
        1 => surveyed(contain(), || (state(), files(state_dir))),
        _ => (Killed::default(), HashSet::new()),
    };
    assert_eq!(state(), before, "not everything was restored");
    let mut nth = share.nth + 1;
    // Each run ends later than the one before it, and the last one by itself.
    while let Some(stopped) = Stopped::at(contain(), nth, Call::may_change_something) {
        stopped.kill();
        killed.kills += 1;
        nth += share.of;
        let left = (state(), files(state_dir));
        killed.left += u32::from(left.0 != before);
        expected.remove(&shape(&left));
        // Like the next agent when it starts.
        let undone = undo_all(&journal());
        killed.found += u32::from(!undone.is_empty());
        assert!(undone.iter().all(Undone::is_done), "before call {nth}: {undone:?}");
        assert_eq!(state(), before, "before call {nth}: {undone:?}");
        is_as_before();
        assert!(undo_all(&journal()).is_empty(), "before call {nth}");
    }
    assert_eq!(state(), before, "not everything was restored");
    is_as_before();
    assert!(share.of > 1 || expected.is_empty(), "{killed}; no kill left {expected:#?}");
    let Killed { kills, left, found, .. } = killed;
    assert!(kills * share.of > 40 && left > 0 && found >= left, "{killed}");
    killed
}

/// Lets a program run to its end, and reads `state` at the entry of each of its calls; returns the
/// counts, and every state.
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

/// Returns a state without its numbers, which depend on how much memory is charged at the moment;
/// the value that means no limit is kept.
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

/// Returns every file below a directory, with its contents.
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

/// Checks that a limit does not come back if `spillway undo` removes it between any two system
/// calls of an agent that goes on.
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
    // Once, so that it exists at every stop.
    drop(stage.journal());
    let before = stage.state();
    let (mut nth, mut stops, mut found) = (share.nth + 1, 0, 0);
    while let Some(stopped) = Stopped::at(contain(), nth, Call::may_meet_others) {
        stops += 1;
        nth += share.of;
        let undone = undo_all(&stage.found_journal());
        stopped.go_on();
        let (entries, _) = stage.found_journal().entries().expect("cannot read the journal");
        if undone.is_empty() {
            // The undo came before the first change, or after the last.
            undo_all(&stage.found_journal());
        } else {
            found += 1;
            assert!(entries.is_empty(), "stop {stops}: {undone:?}, and then {entries:?}");
        }
        assert_eq!(stage.state(), before, "stop {stops}: {undone:?}");
    }
    undo_all(&stage.found_journal());
    leak.stop();
    assert!(found * share.of > 40, "only {found} of {stops} stops had something to undo");
    format!("at {stops} entries to system calls, of which {found} had something to undo")
}
