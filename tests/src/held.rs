//! What a process holds of what must not pile up.

use std::fs;

/// At one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Memory that is in RAM.
    pub resident_bytes: u64,
    /// Threads.
    pub threads: usize,
    /// Open files and sockets.
    pub descriptors: usize,
}

impl Held {
    /// Of this process.
    ///
    /// # Panics
    ///
    /// Where it is gone.
    pub fn by(pid: u32) -> Self {
        let count =
            |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).expect("it runs").count();
        let statm = fs::read_to_string(format!("/proc/{pid}/statm")).expect("it runs");
        let pages: u64 =
            statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("it has a size");
        Self { resident_bytes: pages * 4096, threads: count("task"), descriptors: count("fd") }
    }
}
