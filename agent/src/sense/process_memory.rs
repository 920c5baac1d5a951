//! Memory of every process.
//!
//! One pass of `iter/task` with BPF; without it `/proc/PID/{stat,status,cgroup}` of each process,
//! which has the same data at ten times the cost.

use std::{io, sync::Arc};

use foldhash::{HashMap, HashMapExt as _};
use procfs::process::all_processes;
use spillway_ebpf::{
    COMM_LEN, CPUS_MAX, CpuOffsets, CpuSlotSample, FAULT_SAMPLE_PERIOD_PAGES, PAGES_UNKNOWN,
    TaskSample,
};

use super::{
    CgroupPaths, Fact, Hierarchy, Loss, LossCounters, ProcessFact, ProcessId, ProgramList,
    printable::printable,
    proc_files,
    sensor::{Observations, Schedule, Sensor},
};
use crate::bpf::{
    AttachContext, Fallback, FallbackChain, Hook, IterHandle, Loader, Need, Probe, Unavailable,
    broken,
    btf_offsets::{ABSENT, members},
    kernel_offset::KernelOffset,
    optional, pass,
};

/// Maximum number of cached names, beyond which all are dropped: more than a host has at a time.
/// The cache then takes some 100 KiB.
const NAMES_MAX: usize = 4_096;

/// Reads the memory of every process.
pub struct ProcessMemorySensor {
    iter: Option<IterHandle>,
    programs: Option<Arc<ProgramList>>,
    faults_sampled: bool,
    page_bytes: u64,
    ns_per_tick: u64,
    cgroups: CgroupPaths,
    names: HashMap<[u8; COMM_LEN], Arc<str>>,
    buffer: Vec<u8>,
}

const READS: &[KernelOffset] = &[
    members::TASK_TGID,
    members::TASK_PID,
    members::TASK_REAL_PARENT,
    members::TASK_START_BOOTTIME,
    members::TASK_MM,
    members::TASK_COMM,
    members::TASK_CGROUPS,
    members::CGROUP_KN,
    members::KERNFS_NODE_ID,
    members::MM_RSS,
    members::CSS_SET_CGROUP,
];

/// As [`READS`], and those that lead to the per-CPU parts of the counters.
const READS_PER_CPU: &[KernelOffset] = &[
    members::TASK_TGID,
    members::TASK_PID,
    members::TASK_REAL_PARENT,
    members::TASK_START_BOOTTIME,
    members::TASK_MM,
    members::TASK_COMM,
    members::TASK_CGROUPS,
    members::CGROUP_KN,
    members::KERNFS_NODE_ID,
    members::MM_RSS,
    members::CSS_SET_CGROUP,
    members::MAP_ID,
    members::ARRAY_SLOTS,
];

/// Sizes of mappings, without which the mapped memory of a process is unknown, and its peak.
/// Without the others programs are not listed.
const MAY_READ: &[KernelOffset] = &[
    members::MM_DATA_VM,
    members::MM_STACK_VM,
    members::MM_HIWATER_RSS,
    members::MM_EXE_FILE,
    members::FILE_DENTRY,
    members::FILE_MOUNT,
    members::MOUNT_VFSMOUNT,
    members::VFSMOUNT_ROOT,
    members::MOUNT_PARENT,
    members::MOUNT_MOUNTPOINT,
    members::DENTRY_PARENT,
    members::DENTRY_NAME,
];

impl ProcessMemorySensor {
    /// `iter/task`, with the per-CPU parts of the counters of growing processes.
    pub const TASK_ITER: Hook = Hook::new("task_iter");
    /// `iter/task`, with plain counters.
    pub const TASK_ITER_PLAIN: Hook = Hook::new("task_iter_plain");

    /// Sources of the memory of processes.
    pub const PROBE: FallbackChain = FallbackChain {
        probe: Probe::ProcessMemory,
        fallbacks: &[
            Fallback::bpf(
                Self::TASK_ITER,
                "iter/task",
                &[Need::Iterator("task"), Need::Iterator("bpf_map")],
            )
            .reading(READS_PER_CPU)
            .reading_if_present(MAY_READ),
            Fallback::bpf(
                Self::TASK_ITER_PLAIN,
                "iter/task, plain counts",
                &[Need::Iterator("task")],
            )
            .reading(READS)
            .reading_if_present(MAY_READ)
            .lacking("counts may be off by some pages a CPU"),
            Fallback::without_bpf(Hook::new("proc"), "/proc/PID/{stat,status}")
                .lacking("a scan costs a hundred times as much"),
        ],
    };

    /// Attaches the iterator, or reads `/proc`. Page faults must have been attached before if they
    /// are sampled.
    pub fn start(bpf: &mut Loader, hierarchy: &Hierarchy) -> Self {
        let faults_sampled = bpf.uses_bpf(Probe::FaultSamples);
        let attached = bpf.attach(&Self::PROBE, |context, hook| {
            let scan = if hook == Self::TASK_ITER_PLAIN {
                "scan_tasks_plain"
            } else {
                if context.offsets().mm_rss_slots != ABSENT {
                    find_cpu_slots(context)?;
                }
                "scan_tasks"
            };
            let iter = context.iter(scan, "task")?;
            Ok((iter, optional(ProgramList::attach(context)).map(Arc::new)))
        });
        let (iter, programs) = attached.unzip();
        let hierarchy = hierarchy.clone();
        Self {
            iter,
            programs: programs.flatten(),
            faults_sampled,
            page_bytes: procfs::page_size(),
            ns_per_tick: ns_per_tick(),
            cgroups: CgroupPaths::new(hierarchy),
            names: HashMap::new(),
            buffer: Vec::new(),
        }
    }

    /// The list of programs; `None` if BPF lists none.
    pub fn program_list(&self) -> Option<Arc<ProgramList>> {
        self.programs.clone()
    }

    /// Reads every process, and passes each to `each`.
    ///
    /// # Errors
    ///
    /// Returns an error if the pass failed; processes read until then have been passed on.
    pub fn scan(
        &mut self,
        losses: &mut LossCounters,
        each: impl FnMut(ProcessFact),
    ) -> io::Result<()> {
        match self.iter.take() {
            Some(iter) => {
                let scanned = self.scan_samples(&iter, losses, each);
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
        losses: &mut LossCounters,
        mut each: impl FnMut(ProcessFact),
    ) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let scanned = pass(iter, &mut buffer, |sample: TaskSample| each(self.fact(&sample)));
        self.buffer = buffer;
        scanned.map(|rest| losses.count_short_read(rest))
    }

    fn fact(&mut self, sample: &TaskSample) -> ProcessFact {
        // A sum over CPUs may be negative for a moment.
        let bytes = |pages: i64| pages.max(0) as u64 * self.page_bytes;
        let [anon_bytes, file_bytes, shmem_bytes] =
            [sample.anon_pages, sample.file_pages, sample.shmem_pages].map(bytes);
        // As `task_mem` of fs/proc/task_mmu.c computes `VmHWM`.
        let peak_rss_bytes = (sample.peak_rss_pages != PAGES_UNKNOWN).then(|| {
            let noted_bytes = sample.peak_rss_pages.saturating_mul(self.page_bytes);
            noted_bytes.max(anon_bytes + file_bytes + shmem_bytes)
        });
        let (cgroup, limit) = self.cgroups.get(sample.cgroup_id, sample.pid);
        ProcessFact {
            id: sample_id(sample.pid, sample.start_boottime_ns, self.ns_per_tick),
            ppid: sample.ppid,
            anon_bytes,
            file_bytes,
            shmem_bytes,
            swap_bytes: bytes(sample.swap_pages),
            faulted_bytes_total: self
                .faults_sampled
                .then(|| sample.fault_samples * FAULT_SAMPLE_PERIOD_PAGES * self.page_bytes),
            mapped_bytes: (sample.mapped_pages != PAGES_UNKNOWN)
                .then(|| sample.mapped_pages * self.page_bytes),
            peak_rss_bytes,
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
            // A process that ends while it is read is not a loss.
            if let Some(fact) =
                process.ok().and_then(|process| self.fact_from_proc(process.pid as u32))
            {
                each(fact);
            }
        }
        Ok(())
    }

    /// Reads one process; `None` for a kernel thread, and for a process that has ended.
    fn fact_from_proc(&mut self, pid: u32) -> Option<ProcessFact> {
        let stat = proc_files::stat_of(pid).filter(|stat| stat.has_memory)?;
        let memory = proc_files::memory_of(pid)?;
        let id = ProcessId { pid, start_ticks: stat.start_ticks };
        let (cgroup, limit) = self.cgroups.of_process_cached(id);
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
            peak_rss_bytes: memory.peak_rss_bytes,
        })
    }
}

impl Sensor for ProcessMemorySensor {
    fn schedule(&self) -> Schedule {
        Schedule::Processes
    }

    fn failure(&self) -> Loss {
        Loss::ProcessScanFailed
    }

    fn read(&mut self, _: f64, out: &mut Observations<'_>) -> io::Result<()> {
        let (losses, mut push) = out.split();
        self.scan(losses, |fact| push(Fact::Process(fact)))
    }
}

/// Finds the per-CPU slots of a map of ours, and tells the iterator how far each CPU's copy of
/// per-CPU memory is from its base address.
fn find_cpu_slots(context: &mut AttachContext<'_>) -> Result<(), Unavailable> {
    let id = context.per_cpu_array_id("CPU_SLOT")?;
    context.set("CPU_SLOT_ID", id)?;
    let mut offsets = Vec::with_capacity(CPUS_MAX);
    let each = |sample: CpuSlotSample| offsets.push(sample.slot.wrapping_sub(sample.base));
    context.iterate("find_cpu_slots", "bpf_map", each)?;
    if offsets.is_empty() {
        return Err(broken("iter/bpf_map did not find the per-CPU slots of the map CPU_SLOT"));
    }
    offsets.resize(CPUS_MAX, 0);
    let offsets: CpuOffsets = offsets
        .try_into()
        .map_err(|_| broken(&format!("iter/bpf_map found more than {CPUS_MAX} per-CPU slots")))?;
    context.set("CPU_OFFSETS", offsets)
}

/// Length of the clock tick in which `/proc` counts time.
pub(super) fn ns_per_tick() -> u64 {
    1_000_000_000 / procfs::ticks_per_second().max(1)
}

/// Identifies a process by its start time in ticks, as `/proc/PID/stat` does.
pub(super) fn sample_id(pid: u32, start_boottime_ns: u64, ns_per_tick: u64) -> ProcessId {
    ProcessId { pid, start_ticks: start_boottime_ns / ns_per_tick }
}
