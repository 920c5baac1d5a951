//! `scan_tasks`: the memory of every process in one pass.
//!
//! - Hook: `iter/task`, `int (struct bpf_iter__task *ctx)`, process context, no locks held over the read.
//! - Minimum kernel: 5.8 (iterators), 5.5 (`start_boottime`).
//! - Cost: 0.25 µs a process, half of it the kernel's own walk, measured over 2,000 on a 6.18 host; two loads a thread.
//! - Refuses: kernel threads (no `mm`) and threads that do not lead their group.

use core::ffi::c_void;

use spillway_ebpf::{ABSENT, COMM_LEN, TaskSample};

use crate::{
    faults::FAULTS,
    kernel::{IterMeta, emit, load, offset},
};

#[repr(C)]
pub struct IterTask {
    meta: *mut IterMeta,
    task: *mut c_void,
}

// Order of the counters in `rss_stat` (`MM_FILEPAGES` … of include/linux/mm_types_task.h), unchanged since 4.5.
const FILE_PAGES: usize = 0;
const ANON_PAGES: usize = 1;
const SWAP_ENTS: usize = 2;
const SHMEM_PAGES: usize = 3;

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub extern "C" fn scan_tasks(ctx: *mut IterTask) -> i32 {
    // SAFETY: the kernel passes a valid context; both members are read as the verifier allows.
    let (meta, task) = unsafe { ((*ctx).meta, (*ctx).task.cast_const()) };
    if !task.is_null()
        && let Some(sample) = sample(task)
    {
        emit(meta, &sample);
    }
    0
}

#[inline(always)]
fn sample(task: *const c_void) -> Option<TaskSample> {
    let pid: u32 = load(task, offset!(task_tgid));
    if load::<u32>(task, offset!(task_pid)) != pid {
        return None;
    }
    let mm: *const c_void = load(task, offset!(task_mm));
    if mm.is_null() {
        return None;
    }
    let parent: *const c_void = load(task, offset!(task_real_parent));
    Some(TaskSample {
        start_boottime_ns: load(task, offset!(task_start_boottime)),
        cgroup_id: cgroup_id(task),
        file_pages: counter(mm, FILE_PAGES),
        anon_pages: counter(mm, ANON_PAGES),
        swap_pages: counter(mm, SWAP_ENTS),
        shmem_pages: counter(mm, SHMEM_PAGES),
        // SAFETY: the entry may be written while it is read; an aligned u64 is read whole.
        fault_samples: FAULTS.get_ptr(pid).map_or(0, |faults| unsafe { (*faults).samples }),
        pid,
        ppid: load(parent, offset!(task_tgid)),
        comm: comm(task),
    })
}

/// Two loads: the verifier allows any that stays within the array. A helper's call took 35 ns a process here.
#[inline(always)]
fn comm(task: *const c_void) -> [u8; COMM_LEN] {
    let halves: [u64; 2] = [load(task, offset!(task_comm)), load(task, offset!(task_comm) + size_of::<u64>())];
    // SAFETY: both are sixteen plain bytes.
    unsafe { core::mem::transmute(halves) }
}

#[inline(always)]
fn counter(mm: *const c_void, index: usize) -> i64 {
    load(mm, offset!(mm_rss_count) + index * offset!(mm_rss_stride))
}

/// Id of the cgroup that charges this task's memory: the default hierarchy's, or the memory controller's own where
/// that is mounted as version 1.
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
