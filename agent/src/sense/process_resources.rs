//! Limited resources of every process: open files, threads, and sockets that it left unclosed.
//!
//! One pass of `iter/task_file` with BPF; without it `/proc/PID/{fd,limits,stat}` of each process,
//! which does not show the states of sockets. The cost of both is proportional to the number of
//! open files, so it is done every [`PERIOD_SECS`].

use std::{fs, io};

use procfs::process::{LimitValue, Process, all_processes};
use spillway_ebpf::HandleSample;

use super::{
    Fact, Loss, LossCounters, ProcessId, ProcessResourcesFact,
    pace::ReadPeriod,
    process_memory::{ns_per_tick, sample_id},
    sensor::{Observations, Schedule, Sensor},
};
use crate::{
    bpf::{
        Fallback, FallbackChain, Hook, IterHandle, Loader, Need, Probe, btf_offsets::members, pass,
    },
    os::proc_reader::unrestricted,
};

/// Time between two reads. A guess: files leak by the request, and their limits are hundreds of
/// requests away.
const PERIOD_SECS: f64 = 10.0;

/// `RLIM_INFINITY`.
const UNLIMITED: u64 = u64::MAX;

/// Reads the limited resources of every process.
pub struct ProcessResourceSensor {
    iter: Option<IterHandle>,
    ns_per_tick: u64,
    period: ReadPeriod,
    buffer: Vec<u8>,
}

impl ProcessResourceSensor {
    /// `iter/task_file`.
    pub const FILE_ITER: Hook = Hook::new("handle_iter");

    /// Sources of the resources of processes.
    pub const PROBE: FallbackChain = FallbackChain {
        probe: Probe::ProcessHandles,
        fallbacks: &[
            Fallback::bpf(Self::FILE_ITER, "iter/task_file", &[Need::Iterator("task_file")])
                .reading(&[
                    members::TASK_TGID,
                    members::TASK_GROUP_LEADER,
                    members::TASK_START_BOOTTIME,
                    members::TASK_SIGNAL,
                    members::SIGNAL_THREADS,
                    members::SIGNAL_FDS_MAX,
                    members::FILE_INODE,
                    members::FILE_PRIVATE_DATA,
                    members::INODE_MODE,
                    members::SOCKET_SK,
                    members::SOCK_FAMILY,
                    members::SOCK_STATE,
                    members::SOCK_PROTOCOL,
                ]),
            Fallback::without_bpf(Hook::new("handle_proc"), "/proc/PID/{fd,limits,stat}")
                .lacking("sockets left in CLOSE_WAIT are not seen"),
        ],
    };

    /// Attaches the iterator, or reads `/proc`.
    pub fn start(bpf: &mut Loader) -> Self {
        let attached =
            bpf.attach(&Self::PROBE, |context, _| context.iter("count_handles", "task_file"));
        Self {
            iter: attached,
            ns_per_tick: ns_per_tick(),
            period: ReadPeriod::every(PERIOD_SECS),
            buffer: Vec::new(),
        }
    }

    /// The iterator; `None` if `/proc` is read.
    pub fn iter(&self) -> Option<&IterHandle> {
        self.iter.as_ref()
    }

    /// Reads every process if the period has passed, and passes each to `each`.
    fn scan(
        &mut self,
        now: f64,
        losses: &mut LossCounters,
        mut each: impl FnMut(ProcessResourcesFact),
    ) -> io::Result<()> {
        if !self.period.is_due(now) {
            return Ok(());
        }
        match &self.iter {
            Some(iter) => {
                let ns_per_tick = self.ns_per_tick;
                let rest = pass(iter, &mut self.buffer, |sample: HandleSample| {
                    each(fact(&sample, ns_per_tick))
                })?;
                losses.count_short_read(rest);
            }
            None => {
                for process in all_processes().map_err(io::Error::other)? {
                    // A process that ends while it is read is not a loss. The files of other users'
                    // processes may be unreadable.
                    if let Some(fact) = process.ok().and_then(|process| fact_from_proc(&process)) {
                        each(fact);
                    }
                }
            }
        }
        Ok(())
    }
}

impl Sensor for ProcessResourceSensor {
    fn schedule(&self) -> Schedule {
        Schedule::Processes
    }

    fn failure(&self) -> Loss {
        Loss::HandleScanFailed
    }

    fn read(&mut self, now: f64, out: &mut Observations<'_>) -> io::Result<()> {
        let (losses, mut push) = out.split();
        self.scan(now, losses, |fact| push(Fact::Handles(fact)))
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
        // The size of this directory, which other tools read, is its number of files only since
        // 6.2.
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
    fn infinite_limit_is_none() {
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
