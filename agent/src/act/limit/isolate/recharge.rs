//! Memory that a moved leaker had before, and takes anew.
//!
//! It stays charged to the shared cgroup until it is given back; what is taken instead is charged
//! to the child. So a program that only replaces what it holds would come to the child's limit
//! without growing. What is no longer held there may be taken here. Cold start: nothing was
//! replaced yet. Failure: what cannot be read was not replaced. It refuses more than was held when
//! it was moved: shared pages, of which each process counts all, make that the bound rather than
//! the truth.

use std::fs;

use super::super::cgroup::{Cgroup, Version};
use crate::sense::proc_files;

/// What the processes of a child had when they were moved there, which is charged elsewhere.
#[derive(Debug, Clone, Copy)]
pub struct Recharge {
    had_bytes: u64,
}

impl Recharge {
    /// They were moved just now. What they have taken in the child since is none of it: it is read
    /// last, so that it is rather too much.
    pub fn start(leak: &Cgroup) -> Self {
        let had_bytes =
            held_bytes(leak).and_then(|held| Some(held.saturating_sub(charged_bytes(leak)?)));
        Self { had_bytes: had_bytes.unwrap_or(0) }
    }

    /// How much of it is not held any more, in bytes; rather too little, so that it is read the
    /// other way round.
    pub fn replaced_bytes(self, leak: &Cgroup) -> u64 {
        let replaced = charged_bytes(leak)
            .and_then(|charged| Some(replaced(self.had_bytes, held_bytes(leak)?, charged)));
        replaced.unwrap_or(0)
    }
}

fn replaced(had: u64, held_now: u64, charged_now: u64) -> u64 {
    had.saturating_sub(held_now.saturating_sub(charged_now))
}

/// Anonymous memory of a cgroup's processes, swapped or not, whoever is charged for it.
fn held_bytes(leak: &Cgroup) -> Option<u64> {
    let held = |pid: u32| {
        let memory = proc_files::memory_of(pid)?;
        Some(memory.anon_bytes + memory.swap_bytes)
    };
    Some(leak.pids().ok()?.into_iter().filter_map(held).sum())
}

/// Anonymous memory that is charged to it.
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
        // It grew by 20: nothing was given back.
        assert_eq!(replaced(100, 120, 20), 0);
        // It holds as much as before, 30 of it anew.
        assert_eq!(replaced(100, 100, 30), 30);
        // It gave back 30 and took nothing, or ended.
        assert_eq!(replaced(100, 70, 0), 30);
        assert_eq!(replaced(100, 0, 0), 100);
        // Never more than it held, and no less than nothing.
        assert_eq!(replaced(100, 500, 500), 100);
        assert_eq!(replaced(100, 500, 0), 0);
    }
}
