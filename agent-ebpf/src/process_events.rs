//! Forks, execs and exits of processes.
//!
//! - Hooks, as BTF tracepoints and again as raw ones (arguments are the tracepoint's own either
//!   way, so no tracefs and no field formats are needed): `sched_process_fork(struct task_struct
//!   *parent, struct task_struct *child)`, `sched_process_exec(struct task_struct *p, pid_t
//!   old_pid, struct linux_binprm *bprm)`, `sched_process_exit(struct task_struct *p)`.
//! - Minimum kernel: 5.8 (ring buffer; BTF tracepoints exist since 5.5).
//! - Cost: 0.14 to 0.29 µs a fork, 0.23 to 0.28 an exec, 0.45 to 0.58 an exit (0.18 to 0.44, 0.29
//!   to 0.39 and 0.49 to 0.74 through the raw ones, which call a helper for each read): one ring
//!   entry each, and no wake-up of the reader. A thread that ends costs two reads.
//! - A full ring is counted as a loss; the next scan then corrects the picture.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::BPF_RB_NO_WAKEUP,
    macros::{btf_tracepoint, map, raw_tracepoint},
    maps::RingBuf,
    programs::{BtfTracePointContext, RawTracePointContext},
};
use spillway_ebpf::{LIFE_EXEC, LIFE_EXIT, LIFE_FORK, LifeSample, Loss};

use crate::{
    kernel_read::{Helper, Reading, Typed, count, offset},
    page_faults::FAULTS,
};

/// 256 KiB hold 10,900 entries of 24 bytes with their headers: a burst of as many births or deaths
/// between two reads.
#[map]
static LIFE: RingBuf = RingBuf::with_byte_size(256 << 10, 0);

#[btf_tracepoint(function = "sched_process_fork")]
pub fn process_fork(ctx: BtfTracePointContext) -> i32 {
    fork::<Typed>(ctx.arg(1))
}

#[btf_tracepoint(function = "sched_process_exec")]
pub fn process_exec(ctx: BtfTracePointContext) -> i32 {
    exec::<Typed>(ctx.arg(0))
}

#[btf_tracepoint(function = "sched_process_exit")]
pub fn process_exit(ctx: BtfTracePointContext) -> i32 {
    exit::<Typed>(ctx.arg(0))
}

#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn process_fork_raw(ctx: RawTracePointContext) -> i32 {
    fork::<Helper>(ctx.arg(1))
}

#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn process_exec_raw(ctx: RawTracePointContext) -> i32 {
    exec::<Helper>(ctx.arg(0))
}

#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn process_exit_raw(ctx: RawTracePointContext) -> i32 {
    exit::<Helper>(ctx.arg(0))
}

#[inline(always)]
fn fork<R: Reading>(child: *const c_void) -> i32 {
    if leads_its_group::<R>(child) == Some(true) {
        emit::<R>(child, LIFE_FORK);
    }
    0
}

#[inline(always)]
fn exec<R: Reading>(task: *const c_void) -> i32 {
    emit::<R>(task, LIFE_EXEC);
    0
}

#[inline(always)]
fn exit<R: Reading>(task: *const c_void) -> i32 {
    if last_of_its_group::<R>(task) == Some(true) {
        emit::<R>(task, LIFE_EXIT);
        if let Some(pid) = R::read::<u32>(task, offset!(task_tgid)) {
            // Absent where the process never had a sample.
            let _ = FAULTS.remove(pid);
        }
    }
    0
}

#[inline(always)]
fn leads_its_group<R: Reading>(task: *const c_void) -> Option<bool> {
    Some(R::read::<u32>(task, offset!(task_pid))? == R::read::<u32>(task, offset!(task_tgid))?)
}

/// `signal->live` counts the group's living threads; the kernel subtracts the ending one before
/// this tracepoint.
#[inline(always)]
fn last_of_its_group<R: Reading>(task: *const c_void) -> Option<bool> {
    let signal = R::pointer(task, offset!(task_signal))?;
    Some(R::read::<i32>(signal, offset!(signal_live))? == 0)
}

/// The identity is that of the leader: pid and start time.
#[inline(always)]
fn emit<R: Reading>(task: *const c_void, kind: u32) {
    let Some(sample) = sample::<R>(task, kind) else { return };
    match LIFE.reserve::<LifeSample>(0) {
        Some(mut entry) => {
            entry.write(sample);
            entry.submit(u64::from(BPF_RB_NO_WAKEUP));
        }
        None => count(Loss::LifeRingFull),
    }
}

#[inline(always)]
fn sample<R: Reading>(task: *const c_void, kind: u32) -> Option<LifeSample> {
    let leader = R::pointer(task, offset!(task_group_leader))?;
    Some(LifeSample {
        start_boottime_ns: R::read(leader, offset!(task_start_boottime))?,
        pid: R::read(leader, offset!(task_tgid))?,
        kind,
    })
}
