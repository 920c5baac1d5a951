//! Resources of a process that must not accumulate.

use std::fs;

/// Resources held at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Resident memory.
    pub resident_bytes: u64,
    /// Threads.
    pub threads: usize,
    /// Open files and sockets.
    pub descriptors: usize,
}

impl Held {
    /// Reads the resources of a process.
    ///
    /// # Panics
    ///
    /// Panics if the process is gone.
    pub fn by(pid: u32) -> Self {
        let count = |what: &str| {
            fs::read_dir(format!("/proc/{pid}/{what}"))
                .expect("the process should be running")
                .count()
        };
        let statm = fs::read_to_string(format!("/proc/{pid}/statm"))
            .expect("the process should be running");
        let pages: u64 = statm
            .split(' ')
            .nth(1)
            .and_then(|pages| pages.parse().ok())
            .expect("statm should have a resident size");
        Self { resident_bytes: pages * 4096, threads: count("task"), descriptors: count("fd") }
    }
}
