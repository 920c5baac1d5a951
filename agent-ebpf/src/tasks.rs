//! `scan_tasks`: the memory of every process in one pass.
//!
//! - Hook: `iter/task`, `int (struct bpf_iter__task *ctx)`, process context, no locks held over the read.
//! - Minimum kernel: 5.8 (iterators), 5.5 (`start_boottime`).
//! - Cost: one call a thread, and 13 reads of kernel memory a process; see `cargo xtask bench`.
//! - Refuses: kernel threads (no `mm`) and threads that do not lead their group.

use core::ffi::c_void;

use spillway_ebpf::{ABSENT, COMM_LEN, TaskSample};

use crate::{
    faults::FAULTS,
    kernel::{IterMeta, emit, offset, read, read_pointer},
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
    let (meta, task) = unsafe { ((*ctx).meta, (*ctx).task as u64) };
    if task != 0
        && let Some(sample) = sample(task)
    {
        emit(meta, &sample);
    }
    0
}

#[inline(always)]
fn sample(task: u64) -> Option<TaskSample> {
    let pid = read::<u32>(task, offset!(task_tgid))?;
    if read::<u32>(task, offset!(task_pid))? != pid {
        return None;
    }
    let mm = read_pointer(task, offset!(task_mm))?;
    let parent = read_pointer(task, offset!(task_real_parent))?;
    Some(TaskSample {
        start_boottime_ns: read(task, offset!(task_start_boottime))?,
        cgroup_id: cgroup_id(task).unwrap_or(0),
        file_pages: counter(mm, FILE_PAGES)?,
        anon_pages: counter(mm, ANON_PAGES)?,
        swap_pages: counter(mm, SWAP_ENTS)?,
        shmem_pages: counter(mm, SHMEM_PAGES)?,
        // SAFETY: the entry may be written while it is read; an aligned u64 is read whole.
        fault_samples: FAULTS.get_ptr(pid).map_or(0, |faults| unsafe { (*faults).samples }),
        pid,
        ppid: read(parent, offset!(task_tgid))?,
        comm: read::<[u8; COMM_LEN]>(task, offset!(task_comm))?,
    })
}

#[inline(always)]
fn counter(mm: u64, index: usize) -> Option<i64> {
    read(mm, offset!(mm_rss_count) + index * offset!(mm_rss_stride))
}

/// Id of the cgroup that charges this task's memory: the default hierarchy's, or the memory controller's own where
/// that is mounted as version 1.
#[inline(always)]
fn cgroup_id(task: u64) -> Option<u64> {
    let css_set = read_pointer(task, offset!(task_cgroups))?;
    let mut cgroup = read_pointer(css_set, offset!(css_set_cgroup))?;
    let from_css = offset!(css_cgroup);
    if from_css != ABSENT as usize {
        cgroup = read_pointer(cgroup, from_css)?;
    }
    let node = read_pointer(cgroup, offset!(cgroup_kn))?;
    read(node, offset!(kernfs_node_id))
}
