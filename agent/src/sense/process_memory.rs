//! Memory of every process.
//!
//! One pass of `iter/task` where BPF is to be had; else `/proc/PID/{stat,status,cgroup}` for each,
//! which says the same at ten times the cost.

use std::{io, sync::Arc};

use foldhash::{HashMap, HashMapExt as _};
use procfs::process::all_processes;
use spillway_ebpf::{COMM_LEN, FAULT_SAMPLE_PERIOD_PAGES, PAGES_UNKNOWN, TaskSample};

use super::{
    CgroupPaths, Hierarchy, LossCounters, ProcessFact, ProcessId, printable::printable, proc_files,
};
use crate::bpf::{IterHandle, pass};

/// Names kept before they are forgotten all at once: more than a host has at a time, and 4 KiB × 24
/// bytes.
const NAMES_MAX: usize = 4_096;

/// Reads the memory of every process.
pub struct ProcessMemorySensor {
    iter: Option<IterHandle>,
    faults_sampled: bool,
    page_bytes: u64,
    ns_per_tick: u64,
    cgroups: CgroupPaths,
    names: HashMap<[u8; COMM_LEN], Arc<str>>,
    buffer: Vec<u8>,
}

impl ProcessMemorySensor {
    /// A sensor over `iter`, or over `/proc` without one. `faults_sampled` says whether the
    /// samples' fault counts mean anything.
    pub fn new(iter: Option<IterHandle>, faults_sampled: bool, hierarchy: Hierarchy) -> Self {
        Self {
            iter,
            faults_sampled,
            page_bytes: procfs::page_size(),
            ns_per_tick: ns_per_tick(),
            cgroups: CgroupPaths::new(hierarchy),
            names: HashMap::new(),
            buffer: Vec::new(),
        }
    }

    /// Reads every process, and hands each to `each`.
    ///
    /// # Errors
    ///
    /// Where the pass failed; what was read until then was handed on.
    pub fn scan(
        &mut self,
        lost: &mut LossCounters,
        each: impl FnMut(ProcessFact),
    ) -> io::Result<()> {
        match self.iter.take() {
            Some(iter) => {
                let scanned = self.scan_samples(&iter, lost, each);
                self.iter = Some(iter);
                scanned?;
            }
            None => self.scan_proc(each)?,
        }
        self.cgroups.end_scan();
        Ok(())
    }

    fn scan_samples(
        &mut self,
        iter: &IterHandle,
        lost: &mut LossCounters,
        mut each: impl FnMut(ProcessFact),
    ) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let scanned = pass(iter, &mut buffer, |sample: TaskSample| each(self.fact(&sample)));
        self.buffer = buffer;
        scanned.map(|rest| lost.count_short_read(rest))
    }

    fn fact(&mut self, sample: &TaskSample) -> ProcessFact {
        // A counter that is summed over CPUs may be below zero for a moment.
        let bytes = |pages: i64| pages.max(0) as u64 * self.page_bytes;
        let (cgroup, limit) = self.cgroups.get(sample.cgroup_id, sample.pid);
        ProcessFact {
            id: sample_id(sample.pid, sample.start_boottime_ns, self.ns_per_tick),
            ppid: sample.ppid,
            anon_bytes: bytes(sample.anon_pages),
            file_bytes: bytes(sample.file_pages),
            shmem_bytes: bytes(sample.shmem_pages),
            swap_bytes: bytes(sample.swap_pages),
            faulted_bytes_total: self
                .faults_sampled
                .then(|| sample.fault_samples * FAULT_SAMPLE_PERIOD_PAGES * self.page_bytes),
            mapped_bytes: (sample.mapped_pages != PAGES_UNKNOWN)
                .then(|| sample.mapped_pages * self.page_bytes),
            comm: self.name(&sample.comm),
            cgroup,
            memory_max_bytes: limit.map(|limit| limit.max_bytes),
            memory_charged_bytes: limit.and_then(|limit| limit.charged_bytes),
        }
    }

    fn name(&mut self, comm: &[u8; COMM_LEN]) -> Arc<str> {
        if let Some(name) = self.names.get(comm) {
            return name.clone();
        }
        if self.names.len() >= NAMES_MAX {
            self.names.clear();
        }
        let end = comm.iter().position(|&byte| byte == 0).unwrap_or(COMM_LEN);
        let name = printable(&comm[..end]);
        self.names.insert(*comm, name.clone());
        name
    }

    fn scan_proc(&mut self, mut each: impl FnMut(ProcessFact)) -> io::Result<()> {
        for process in all_processes().map_err(io::Error::other)? {
            // A process that ends while it is read is no loss: it is gone.
            if let Some(fact) =
                process.ok().and_then(|process| self.fact_from_proc(process.pid as u32))
            {
                each(fact);
            }
        }
        Ok(())
    }

    /// `None` for a kernel thread, and for a process that ended meanwhile.
    fn fact_from_proc(&mut self, pid: u32) -> Option<ProcessFact> {
        let stat = proc_files::stat_of(pid).filter(|stat| stat.has_memory)?;
        let memory = proc_files::memory_of(pid)?;
        let id = ProcessId { pid, start_ticks: stat.start_ticks };
        let (cgroup, limit) = self.cgroups.of_process_kept(id);
        Some(ProcessFact {
            id,
            ppid: stat.ppid,
            comm: stat.comm,
            cgroup,
            anon_bytes: memory.anon_bytes,
            file_bytes: memory.file_bytes,
            shmem_bytes: memory.shmem_bytes,
            swap_bytes: memory.swap_bytes,
            memory_max_bytes: limit.map(|limit| limit.max_bytes),
            memory_charged_bytes: limit.and_then(|limit| limit.charged_bytes),
            faulted_bytes_total: None,
            mapped_bytes: memory.data_bytes,
        })
    }
}

/// Length of the clock tick in which `/proc` counts.
pub(super) fn ns_per_tick() -> u64 {
    1_000_000_000 / procfs::ticks_per_second().max(1)
}

/// The kernel's start time as `/proc/PID/stat` prints it.
pub(super) fn sample_id(pid: u32, start_boottime_ns: u64, ns_per_tick: u64) -> ProcessId {
    ProcessId { pid, start_ticks: start_boottime_ns / ns_per_tick }
}
