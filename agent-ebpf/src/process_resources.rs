//! `count_handles`: limited resources of each process: open files, threads, and sockets that it
//! left unclosed.
//!
//! - Hook: `iter/task_file`, `int (struct bpf_iter__task_file *ctx)`, process context. The files of
//!   one process come in sequence, so a single count is kept, and emitted when the next process
//!   begins or the pass ends.
//! - Minimum kernel: 5.8.
//! - Cost: 0.08 to 0.13 µs an open file, once every ten seconds.

use core::ffi::c_void;

use aya_ebpf::{macros::map, maps::Array};
use spillway_ebpf::HandleSample;

use crate::{
    kernel_read::{Helper, IterTaskFile, Reading as _, emit, offset},
    sock::tcp_in_state,
};

const TCP_CLOSE_WAIT: u8 = 8;

/// The process whose files are being counted, and the current pass.
#[repr(C)]
#[derive(Clone, Copy)]
struct Counting {
    session_id: u64,
    handles: HandleSample,
}

#[map]
static COUNTING: Array<Counting> = Array::with_max_entries(1, 0);

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub extern "C" fn count_handles(ctx: *mut IterTaskFile) -> i32 {
    // SAFETY: the kernel passes a valid context; its members are read as the verifier allows.
    let (meta, task, file) =
        unsafe { ((*ctx).meta, (*ctx).task.cast_const(), (*ctx).file.cast_const()) };
    let Some(counting) = COUNTING.get_ptr_mut(0) else { return 0 };
    // SAFETY: the entry is there as long as the map, and one pass is made at a time. `meta` is the
    // context's own.
    unsafe {
        let session_id = (*meta).session_id;
        if (*counting).session_id != session_id {
            // Drop the state of a pass that was abandoned.
            (*counting).session_id = session_id;
            (*counting).handles.pid = 0;
        }
        let pid = if task.is_null() || file.is_null() {
            0
        } else {
            Helper::read::<u32>(task, offset!(task_tgid)).unwrap_or(0)
        };
        if (*counting).handles.pid != pid {
            if (*counting).handles.pid != 0 && !emit(meta, &(*counting).handles) {
                return 0;
            }
            (*counting).handles = begin(task, pid);
        }
        if pid != 0 {
            (*counting).handles.fds += 1;
            if tcp_in_state(file, TCP_CLOSE_WAIT).is_some() {
                (*counting).handles.close_wait += 1;
            }
        }
    }
    0
}

#[inline(always)]
fn begin(task: *const c_void, pid: u32) -> HandleSample {
    let mut handles = HandleSample { pid, ..HandleSample::default() };
    if pid != 0
        && let Some(leader) = Helper::pointer(task, offset!(task_group_leader))
        && let Some(signal) = Helper::pointer(task, offset!(task_signal))
    {
        handles.start_boottime_ns = Helper::read(leader, offset!(task_start_boottime)).unwrap_or(0);
        handles.threads = Helper::read(signal, offset!(signal_threads)).unwrap_or(0);
        handles.fds_max = Helper::read(signal, offset!(signal_fds_max)).unwrap_or(0);
    }
    handles
}
