//! `sample_faults`: pace at which processes touch new memory between two scans.
//!
//! - Hook: perf software event `PAGE_FAULTS` with a sample period, one event a CPU, `u32 (struct
//!   bpf_perf_event_data *ctx)`. It runs in the faulting task's context, never in NMI or an
//!   interrupt.
//! - Instead of it, for kernels that keep perf events to CAP_SYS_ADMIN, as Debian's do by default
//!   (`kernel.perf_event_paranoid` 3): `tp_btf` `page_fault_user` and `page_fault_kernel`, `int
//!   (unsigned long address, struct pt_regs *regs, unsigned long error_code)`, which count each
//!   CPU's faults themselves.
//! - Minimum kernel: 4.9; the tracepoints 5.5, on x86.
//! - Cost: only the counter on an unsampled fault, at the tracepoints by a program; a fault of
//!   1.50 µs took 1.61 to 1.65 µs with the perf event and 1.56 to 1.62 µs with the tracepoints on a
//!   6.18 guest. 0.7 to 1.1 µs a sample, every `FAULT_SAMPLE_PERIOD_PAGES` faults: one map lookup.
//! - No stacks are sampled: a stack shows who touches a page first, not who keeps it.
//! - A fault that maps a huge page counts once, so growth in huge pages is underestimated here;
//!   the scan sees it in full.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    bindings::BPF_NOEXIST,
    helpers::generated::bpf_get_current_task,
    macros::{btf_tracepoint, map, perf_event},
    maps::{LruHashMap, PerCpuArray},
    programs::{BtfTracePointContext, PerfEventContext},
};
use spillway_ebpf::{ABSENT, FAULT_SAMPLE_PERIOD_PAGES, Loss};

use crate::kernel_read::{count, offset, read_or_zero};

/// Samples of each process that has any. An entry is removed with its process (see
/// `process_events`); if exits are not seen, those that have not faulted for longest are evicted.
/// Every scan looks each process up, so the table should fit the cache: 8,192 are a guess at
/// the largest host's.
#[map]
pub(crate) static FAULTS: LruHashMap<u32, u64> = LruHashMap::with_max_entries(8_192, 0);

/// Faults on this CPU that the tracepoints have seen.
#[map]
static FAULTS_SEEN: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Beginning of the upper half of the address space, which is the kernel's on x86-64.
const KERNEL_ADDRESSES: u64 = 1 << 63;

#[perf_event]
pub fn sample_faults(ctx: PerfEventContext) -> u32 {
    sample(&ctx);
    0
}

#[btf_tracepoint(function = "page_fault_user")]
pub fn fault_user(ctx: BtfTracePointContext) -> i32 {
    sample_every_period(&ctx);
    0
}

/// Faults that a system call takes, such as a read into fresh memory.
#[btf_tracepoint(function = "page_fault_kernel")]
pub fn fault_kernel(ctx: BtfTracePointContext) -> i32 {
    // Reads of kernel memory that may fail, those of BPF programs included, fault as well; and
    // walks of a user stack, by a profiler's say, that meet a missing page.
    let address: u64 = ctx.arg(0);
    if address < KERNEL_ADDRESSES && !is_pagefault_disabled() {
        sample_every_period(&ctx);
    }
    0
}

/// Returns whether the current task is in a section in which a fault brings in no page; false if
/// this kernel does not keep it.
#[inline(always)]
fn is_pagefault_disabled() -> bool {
    let at = offset!(task_pagefault_disabled);
    // SAFETY: a plain helper without arguments.
    let task = unsafe { bpf_get_current_task() } as *const c_void;
    at != ABSENT as usize && read_or_zero::<u32>(task, at) != 0
}

#[inline(always)]
fn sample_every_period(ctx: &BtfTracePointContext) {
    let Some(seen) = FAULTS_SEEN.get_ptr_mut(0) else { return };
    // SAFETY: the entry is this CPU's own. If a fault interrupts the addition, it is counted once
    // instead of twice.
    let seen = unsafe {
        *seen += 1;
        *seen
    };
    if seen % FAULT_SAMPLE_PERIOD_PAGES == 0 {
        sample(ctx);
    }
}

/// Counts a sample of the current process.
#[inline(always)]
fn sample(ctx: &impl EbpfContext) {
    let pid = ctx.tgid();
    if pid == 0 {
        return;
    }
    if FAULTS.get_ptr_mut(pid).is_none() {
        // If another CPU has inserted it in between, the insert fails and the entry exists anyway.
        let _ = FAULTS.insert(pid, 0, u64::from(BPF_NOEXIST));
    }
    let Some(samples) = FAULTS.get_ptr_mut(pid) else {
        count(Loss::FaultMapFull);
        return;
    };
    // SAFETY: the entry lives while the program runs. Two threads of one process may race here; a
    // sample is then counted once instead of twice, which the estimate tolerates.
    unsafe { *samples += 1 };
}
