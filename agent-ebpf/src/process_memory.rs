//! `scan_tasks`: the memory of every process in one pass.
//!
//! - Hook: `iter/task`, `int (struct bpf_iter__task *ctx)`, process context, no locks held over the
//!   read; and once at the start `iter/bpf_map`, `int (struct bpf_iter__bpf_map *ctx)`.
//! - Minimum kernel: 5.8 (iterators); 5.19 to sum per-CPU parts
//!   (`bpf_map_lookup_percpu_elem`), which every kernel that has them exceeds.
//! - Cost: 50 to 80 ns a process in the program, 0.25 µs with the kernel's own walk, measured over
//!   2,000 on a 6.18 host; two loads a thread. Summing reads four slots a CPU more.
//! - Ignores: kernel threads (no `mm`) and threads that do not lead their group.
//!
//! Since 6.2 the counters are per-CPU sums, and a plain count is off by up to a batch (at least 32
//! pages) a CPU. So the slots of processes that sampled page faults show to grow are summed.
//! `scan_tasks_plain` reads plain counts only.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    helpers::generated::bpf_map_lookup_percpu_elem,
    macros::map,
    maps::{Array, PerCpuArray},
};
use spillway_ebpf::{
    ABSENT, COMM_LEN, CPUS_MAX, CpuOffsets, CpuSlotSample, PAGES_UNKNOWN, TaskSample,
};

use crate::{
    kernel_read::{Helper, IterMeta, Reading as _, emit, load, offset, read_or_zero},
    page_faults::FAULTS,
};

/// Offset of each CPU's slots, written by the loader from the samples of `find_cpu_slots`.
#[map]
static CPU_OFFSETS: Array<CpuOffsets> = Array::with_max_entries(1, 0);

/// A map whose own slots show the offsets, and its id.
#[map]
static CPU_SLOT: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
#[map]
static CPU_SLOT_ID: Array<u32> = Array::with_max_entries(1, 0);

/// Number of fault samples from which the slots of a process are summed, written by the loader; 0
/// if faults are not sampled.
#[map]
static SUM_FROM_SAMPLES: Array<u64> = Array::with_max_entries(1, 0);

#[repr(C)]
pub struct IterTask {
    pub(crate) meta: *mut IterMeta,
    pub(crate) task: *mut c_void,
}

// Order of the counters in `rss_stat` (`MM_FILEPAGES` … of include/linux/mm_types_task.h),
// unchanged since 4.5.
const FILE_PAGES: usize = 0;
const ANON_PAGES: usize = 1;
const SWAP_ENTS: usize = 2;
const SHMEM_PAGES: usize = 3;
const COUNTERS: usize = 4;

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub extern "C" fn scan_tasks(ctx: *mut IterTask) -> i32 {
    scan(ctx, true)
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub extern "C" fn scan_tasks_plain(ctx: *mut IterTask) -> i32 {
    scan(ctx, false)
}

#[inline(always)]
fn scan(ctx: *mut IterTask, sum: bool) -> i32 {
    // SAFETY: the kernel passes a valid context; both members are read as the verifier allows.
    let (meta, task) = unsafe { ((*ctx).meta, (*ctx).task.cast_const()) };
    if !task.is_null()
        && let Some(sample) = sample(task, sum)
    {
        emit(meta, &sample);
    }
    0
}

#[inline(always)]
fn sample(task: *const c_void, sum: bool) -> Option<TaskSample> {
    let pid: u32 = load(task, offset!(task_tgid));
    if load::<u32>(task, offset!(task_pid)) != pid {
        return None;
    }
    let mm: *const c_void = load(task, offset!(task_mm));
    if mm.is_null() {
        return None;
    }
    let parent: *const c_void = load(task, offset!(task_real_parent));
    // SAFETY: the entry may be written while it is read; an aligned u64 is read whole.
    let fault_samples = FAULTS.get_ptr(pid).map_or(0, |samples| unsafe { *samples });
    let mut pages: [i64; COUNTERS] = if offset!(mm_rss_slots) == ABSENT as usize {
        // Complete counts, adjacent. The verifiers of these kernels do not look into an array of
        // `atomic_long_t`.
        read_or_zero(mm, offset!(mm_rss_count))
    } else {
        core::array::from_fn(|counter| {
            load(mm, offset!(mm_rss_count) + counter * offset!(mm_rss_stride))
        })
    };
    if sum && offset!(mm_rss_slots) != ABSENT as usize && needs_sum(fault_samples) {
        add_slots(mm, &mut pages);
    }
    Some(TaskSample {
        start_boottime_ns: load(task, offset!(task_start_boottime)),
        cgroup_id: cgroup_id(task),
        file_pages: pages[FILE_PAGES],
        anon_pages: pages[ANON_PAGES],
        swap_pages: pages[SWAP_ENTS],
        shmem_pages: pages[SHMEM_PAGES],
        mapped_pages: mapped_pages(mm),
        peak_rss_pages: peak_rss_pages(mm),
        fault_samples,
        pid,
        ppid: load(parent, offset!(task_tgid)),
        comm: comm(task),
    })
}

/// Counts `data` as `task_statm` of fs/proc/task_mmu.c does: plain counts that follow mapping. Of
/// touched memory, only a stack extends it.
#[inline(always)]
fn mapped_pages(mm: *const c_void) -> u64 {
    if offset!(mm_data_vm) == ABSENT as usize || offset!(mm_stack_vm) == ABSENT as usize {
        return PAGES_UNKNOWN;
    }
    load::<u64>(mm, offset!(mm_data_vm)) + load::<u64>(mm, offset!(mm_stack_vm))
}

/// Reads `mm->hiwater_rss`, from which `task_mem` of fs/proc/task_mmu.c makes `VmHWM`.
#[inline(always)]
fn peak_rss_pages(mm: *const c_void) -> u64 {
    match offset!(mm_hiwater_rss) {
        at if at == ABSENT as usize => PAGES_UNKNOWN,
        at => load(mm, at),
    }
}

#[inline(always)]
fn needs_sum(fault_samples: u64) -> bool {
    SUM_FROM_SAMPLES.get(0).is_some_and(|&from| fault_samples >= from)
}

/// Adds each CPU's part to the plain counts. A slot that is flushed into the count meanwhile is
/// missed or counted twice, which is at most a batch.
#[inline(always)]
fn add_slots(mm: *const c_void, pages: &mut [i64; COUNTERS]) {
    let Some(cpus) = CPU_OFFSETS.get_ptr(0) else { return };
    let slots: [*const c_void; COUNTERS] = core::array::from_fn(|counter| {
        load(mm, offset!(mm_rss_slots) + counter * offset!(mm_rss_stride))
    });
    let mut cpu = 0;
    // The compiler knows the first bound, the verifier the second.
    while cpu < CPUS_MAX && cpu < offset!(cpus) {
        // SAFETY: `cpu` is in range. The loader writes the offsets before the first pass,
        // and never again.
        let offset = unsafe { ptr::read_volatile(&raw const (*cpus)[cpu]) };
        if offset == 0 {
            break;
        }
        for counter in 0..COUNTERS {
            pages[counter] += i64::from(read_or_zero::<i32>(slots[counter], offset as usize));
        }
        cpu += 1;
    }
}

/// Reads the name in two loads: the verifier allows any within the array. A helper's call took 35
/// ns a process here.
#[inline(always)]
fn comm(task: *const c_void) -> [u8; COMM_LEN] {
    let halves: [u64; 2] =
        [load(task, offset!(task_comm)), load(task, offset!(task_comm) + size_of::<u64>())];
    // SAFETY: both are sixteen plain bytes.
    unsafe { core::mem::transmute(halves) }
}

/// Returns the id of the cgroup that charges this task's memory: that of the default hierarchy, or
/// of the memory controller's own if that is mounted as version 1.
#[inline(always)]
fn cgroup_id(task: *const c_void) -> u64 {
    let css_set: *const c_void = load(task, offset!(task_cgroups));
    let mut cgroup: *const c_void = load(css_set, offset!(css_set_cgroup));
    let from_css = offset!(css_cgroup);
    if from_css != ABSENT as usize {
        cgroup = load(cgroup, from_css);
    }
    let node: *const c_void = load(cgroup, offset!(cgroup_kn));
    load(node, offset!(kernfs_node_id))
}

#[repr(C)]
pub struct IterMap {
    meta: *mut IterMeta,
    map: *mut c_void,
}

/// Emits the address of each CPU's copy of a per-CPU map's value, and their base address: the
/// difference is the same for all per-CPU memory, including the counters' slots.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_map")]
pub extern "C" fn find_cpu_slots(ctx: *mut IterMap) -> i32 {
    // SAFETY: the kernel passes a valid context; both members are read as the verifier allows.
    let (meta, map) = unsafe { ((*ctx).meta, (*ctx).map.cast_const()) };
    if map.is_null() {
        return 0;
    }
    let id: u32 = load(map, offset!(map_id));
    // SAFETY: the loader writes it before the pass.
    if CPU_SLOT_ID.get(0).is_none_or(|&wanted| wanted != id) {
        return 0;
    }
    let key = 0u32;
    let Some(base) = Helper::read::<u64>(map, offset!(array_slots)) else { return 0 };
    for cpu in 0..offset!(cpus) as u32 {
        let map = (&raw const CPU_SLOT).cast_mut().cast();
        // SAFETY: the map is a per-CPU array with a key of 0; the result is null beyond the last
        // CPU.
        let slot = unsafe { bpf_map_lookup_percpu_elem(map, (&raw const key).cast(), cpu) };
        if slot.is_null() {
            break;
        }
        emit(meta, &CpuSlotSample { base, slot: slot as u64 });
    }
    0
}
