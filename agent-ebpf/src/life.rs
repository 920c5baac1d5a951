//! Births and deaths of processes.
//!
//! - Hooks, as raw tracepoints (arguments are the tracepoint's own, so no tracefs and no field formats are needed):
//!   `sched_process_fork(struct task_struct *parent, struct task_struct *child)`,
//!   `sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`,
//!   `sched_process_exit(struct task_struct *p)`.
//! - Minimum kernel: 5.8 (ring buffer).
//! - Cost: two to four reads and one ring entry a process, and no wake-up of the reader; threads end after two reads.
//! - A full ring is counted; the next scan then shows the truth.

use aya_ebpf::{
    bindings::BPF_RB_NO_WAKEUP,
    macros::{map, raw_tracepoint},
    maps::RingBuf,
    programs::RawTracePointContext,
};
use spillway_ebpf::{LIFE_EXEC, LIFE_EXIT, LIFE_FORK, LifeSample, Loss};

use crate::{
    faults::FAULTS,
    kernel::{count, offset, read, read_pointer},
};

/// 256 KiB hold 10,900 entries of 24 bytes with their headers: a burst of as many births or deaths between two reads.
#[map]
static LIFE: RingBuf = RingBuf::with_byte_size(256 << 10, 0);

#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn process_fork(ctx: RawTracePointContext) -> i32 {
    let child = ctx.arg::<u64>(1);
    if leads_its_group(child) == Some(true) {
        emit(child, LIFE_FORK);
    }
    0
}

#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn process_exec(ctx: RawTracePointContext) -> i32 {
    emit(ctx.arg::<u64>(0), LIFE_EXEC);
    0
}

#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn process_exit(ctx: RawTracePointContext) -> i32 {
    let task = ctx.arg::<u64>(0);
    if last_of_its_group(task) == Some(true) {
        emit(task, LIFE_EXIT);
        if let Some(pid) = read::<u32>(task, offset!(task_tgid)) {
            // Absent where the process never had a sample.
            let _ = FAULTS.remove(pid);
        }
    }
    0
}

#[inline(always)]
fn leads_its_group(task: u64) -> Option<bool> {
    Some(read::<u32>(task, offset!(task_pid))? == read::<u32>(task, offset!(task_tgid))?)
}

/// `signal->live` counts the group's living threads; the kernel takes the dying one off before it tells us.
#[inline(always)]
fn last_of_its_group(task: u64) -> Option<bool> {
    let signal = read_pointer(task, offset!(task_signal))?;
    Some(read::<i32>(signal, offset!(signal_live))? == 0)
}

/// Identity is the leader's: pid and start time.
#[inline(always)]
fn emit(task: u64, kind: u32) {
    let Some(sample) = sample(task, kind) else { return };
    match LIFE.reserve::<LifeSample>(0) {
        Some(mut entry) => {
            entry.write(sample);
            entry.submit(u64::from(BPF_RB_NO_WAKEUP));
        }
        None => count(Loss::LifeRingFull),
    }
}

#[inline(always)]
fn sample(task: u64, kind: u32) -> Option<LifeSample> {
    let leader = read_pointer(task, offset!(task_group_leader))?;
    Some(LifeSample {
        start_boottime_ns: read(leader, offset!(task_start_boottime))?,
        pid: read(leader, offset!(task_tgid))?,
        kind,
    })
}
