//! Memory that moved processes had before the move and replace after it.
//!
//! It stays charged to the shared cgroup until it is freed, and its replacement is charged to the
//! child; so a program that only replaces memory would reach the child's limit without growing.
//! Memory that is no longer held there may be allocated here. Cold start: nothing is replaced yet.
//! Failure: unreadable memory counts as not replaced. Never more than was held at the move: shared
//! pages count for each process, which makes this an upper bound.

use std::fs;

use super::super::cgroup::{Cgroup, Version};
use crate::sense::proc_files;

/// Memory of the processes of a child at their move, which is charged elsewhere.
#[derive(Debug, Clone, Copy)]
pub struct Recharge {
    had_bytes: u64,
}

impl Recharge {
    /// Measures processes that were just moved. Subtracts memory allocated in the child since; that
    /// is read last, so that the result is too high rather than too low.
    pub fn start(leak: &Cgroup) -> Self {
        let had_bytes =
            held_bytes(leak).and_then(|held| Some(held.saturating_sub(charged_bytes(leak)?)));
        Self { had_bytes: had_bytes.unwrap_or(0) }
    }

    /// Returns how many of the bytes are no longer held. Reads in the opposite order, so that the
    /// result is too low rather than too high.
    pub fn replaced_bytes(self, leak: &Cgroup) -> u64 {
        let replaced = charged_bytes(leak)
            .and_then(|charged| Some(replaced(self.had_bytes, held_bytes(leak)?, charged)));
        replaced.unwrap_or(0)
    }
}

fn replaced(had: u64, held_now: u64, charged_now: u64) -> u64 {
    had.saturating_sub(held_now.saturating_sub(charged_now))
}

/// Reads the anonymous memory of a cgroup's processes, including swap, wherever it is charged.
fn held_bytes(leak: &Cgroup) -> Option<u64> {
    let held = |pid: u32| {
        let memory = proc_files::memory_of(pid)?;
        Some(memory.anon_bytes + memory.swap_bytes)
    };
    Some(leak.pids().ok()?.into_iter().filter_map(held).sum())
}

/// Reads the anonymous memory that is charged to a cgroup.
fn charged_bytes(leak: &Cgroup) -> Option<u64> {
    let key = match leak.version() {
        Version::V1 => "total_rss ",
        Version::V2 => "anon ",
    };
    let stat = fs::read_to_string(leak.directory.join("memory.stat")).ok()?;
    stat.lines().find_map(|line| line.strip_prefix(key))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_no_longer_held_was_replaced() {
        // Growth by 20: nothing was freed.
        assert_eq!(replaced(100, 120, 20), 0);
        // As much as before, 30 of it new.
        assert_eq!(replaced(100, 100, 30), 30);
        // 30 freed and nothing allocated, or the processes have ended.
        assert_eq!(replaced(100, 70, 0), 30);
        assert_eq!(replaced(100, 0, 0), 100);
        // At most the amount at the move, and never negative.
        assert_eq!(replaced(100, 500, 500), 100);
        assert_eq!(replaced(100, 500, 0), 0);
    }
}
