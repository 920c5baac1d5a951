//! What every process holds that can run out: open files, threads, sockets that it forgot to close.
//!
//! One pass of `iter/task_file` where BPF is to be had; else `/proc/PID/{fd,limits,stat}` for each,
//! which says nothing of the state that a socket is in. Either costs by the number of open files,
//! so it is done every [`PERIOD_SECS`].

use std::{fs, io};

use procfs::process::{LimitValue, Process, all_processes};
use spillway_ebpf::HandleSample;

use super::{
    LossCounters, ProcessId, ProcessResourcesFact,
    process_memory::{ns_per_tick, sample_id},
};
use crate::{
    bpf::{IterHandle, pass},
    os::proc_reader::unrestricted,
};

/// Time between two looks. Handles leak by the request, and their limits are hundreds of requests
/// away: ten seconds are a guess.
const PERIOD_SECS: f64 = 10.0;

/// What the kernel keeps for "no limit".
const UNLIMITED: u64 = u64::MAX;

/// Reads what every process holds.
pub struct ProcessResourceSensor {
    iter: Option<IterHandle>,
    ns_per_tick: u64,
    looked: Option<f64>,
    buffer: Vec<u8>,
}

impl ProcessResourceSensor {
    /// A sensor over `iter`, or over `/proc` without one.
    pub fn new(iter: Option<IterHandle>) -> Self {
        Self { iter, ns_per_tick: ns_per_tick(), looked: None, buffer: Vec::new() }
    }

    /// Reads every process if it is time, and hands each to `each`. `now` is in seconds on any
    /// monotonic clock.
    ///
    /// # Errors
    ///
    /// Where the pass failed; what was read until then was handed on.
    pub fn scan(
        &mut self,
        now: f64,
        lost: &mut LossCounters,
        mut each: impl FnMut(ProcessResourcesFact),
    ) -> io::Result<()> {
        if self.looked.is_some_and(|then| now - then < PERIOD_SECS) {
            return Ok(());
        }
        self.looked = Some(now);
        match &self.iter {
            Some(iter) => {
                let ns_per_tick = self.ns_per_tick;
                let rest = pass(iter, &mut self.buffer, |sample: HandleSample| {
                    each(fact(&sample, ns_per_tick))
                })?;
                lost.count_short_read(rest);
            }
            None => {
                for process in all_processes().map_err(io::Error::other)? {
                    // A process that ends while it is read is no loss: it is gone. Others' files
                    // may not be ours to count.
                    if let Some(fact) = process.ok().and_then(|process| fact_from_proc(&process)) {
                        each(fact);
                    }
                }
            }
        }
        Ok(())
    }
}

pub(super) fn fact(sample: &HandleSample, ns_per_tick: u64) -> ProcessResourcesFact {
    ProcessResourcesFact {
        id: sample_id(sample.pid, sample.start_boottime_ns, ns_per_tick),
        fds: sample.fds.into(),
        fds_max: Some(sample.fds_max).filter(|&max| max != UNLIMITED && max != 0),
        threads: sample.threads.into(),
        close_wait: Some(sample.close_wait.into()),
    }
}

fn fact_from_proc(process: &Process) -> Option<ProcessResourcesFact> {
    let stat = process.stat().ok()?;
    let fds_max = process.limits().ok().and_then(|limits| match limits.max_open_files.soft_limit {
        LimitValue::Value(max) => Some(max),
        LimitValue::Unlimited => None,
    });
    let pid = process.pid;
    Some(ProcessResourcesFact {
        id: ProcessId { pid: process.pid as u32, start_ticks: stat.starttime },
        // procfs counts "." and ".." as well before 6.2.
        fds: unrestricted(move || fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count))
            .ok()? as u64,
        fds_max,
        threads: stat.num_threads as u64,
        close_wait: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limit_is_none() {
        let sample = HandleSample {
            pid: 7,
            fds: 3,
            fds_max: UNLIMITED,
            threads: 1,
            ..HandleSample::default()
        };
        assert_eq!(fact(&sample, 10_000_000).fds_max, None);
        assert_eq!(fact(&HandleSample { fds_max: 1024, ..sample }, 10_000_000).fds_max, Some(1024));
    }
}
