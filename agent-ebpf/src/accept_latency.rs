//! `accept_*`: time that each connection waited in its accept queue, as a histogram by listener.
//!
//! A connection carries the time at which it entered the queue (see `sock::established_us`), so one
//! hook on accept() suffices, and connections that are never accepted leave no state.
//!
//! - Hook: fexit `inet_csk_accept`, `struct sock *(struct sock *sk, int flags, int *err, bool
//!   kern)` until 6.9, `struct sock *(struct sock *sk, struct proto_accept_arg *arg)` since;
//!   process context, may have slept for any time. The loader finds out from BTF which of the two
//!   applies.
//! - Or: kprobes on `inet_csk_accept`, which names the listener, and on `security_sock_graft(struct
//!   sock *sk, struct socket *parent)`, which the same thread calls next with the connection. A
//!   return probe is no option: a thread that blocks in accept() occupies one of a few instances,
//!   and calls beyond them would not be seen.
//! - Minimum kernel: 5.5 (fexit), 4.9 (kprobe).
//! - Cost: 0.14 µs an accepted connection, measured on a 6.18 host with the same steps at another
//!   hook, because that host refuses fexit and has no kprobes; some 0.35 µs by kprobes, from the
//!   ratio that emulated kernels show.
//! - Ignores: sockets other than TCP, including Multipath TCP.

use core::{ffi::c_void, hint::black_box};

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::generated::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::{fexit, kprobe, map},
    maps::LruHashMap,
    programs::{FExitContext, ProbeContext},
};
use spillway_ebpf::{Loss, SOJOURN_BUCKETS, Sojourn};

use crate::{
    atomic::{add_u32, add_u64},
    kernel_read::{Helper, Reading, Typed, count},
    shares,
    sock::{established_us, is_tcp},
    tcp_listeners::{LISTENERS, SOJOURN_SHARES, SOJOURNS, SOJOURNS_MAX},
};

/// Listener on which each thread last called accept(). Threads that have ended are evicted when the
/// map is full.
#[map]
static ACCEPTING: LruHashMap<u64, u64> = LruHashMap::with_max_entries(8_192, 0);

/// Source of new entries: a value is too large for a program's stack.
static EMPTY: Sojourn = Sojourn::EMPTY;

#[fexit(function = "inet_csk_accept")]
pub fn accept_exit_2(ctx: FExitContext) -> i32 {
    // The return value follows the arguments; the helper that fetches it exists only since 5.17.
    accepted::<Typed>(ctx.arg(0), ctx.arg(2))
}

#[fexit(function = "inet_csk_accept")]
pub fn accept_exit_4(ctx: FExitContext) -> i32 {
    accepted::<Typed>(ctx.arg(0), ctx.arg(4))
}

#[kprobe]
pub fn accept_enter(ctx: ProbeContext) -> u32 {
    if let Some(listener) = ctx.arg::<u64>(0) {
        let _ = ACCEPTING.insert(thread(), listener, 0);
    }
    0
}

#[kprobe]
pub fn accept_graft(ctx: ProbeContext) -> u32 {
    let thread = thread();
    // Sockets of other kinds pass here too; their threads did not call inet_csk_accept() before.
    if let (Some(child), Some(listener)) = (ctx.arg::<*const c_void>(0), ACCEPTING.get_ptr(thread))
    {
        // SAFETY: the entry lives while the program runs; only this thread writes it.
        accepted::<Helper>(unsafe { *listener } as *const c_void, child);
        let _ = ACCEPTING.remove(thread);
    }
    0
}

#[inline(always)]
fn thread() -> u64 {
    // SAFETY: a plain helper without arguments.
    unsafe { bpf_get_current_pid_tgid() }
}

#[inline(always)]
fn accepted<R: Reading>(listener: *const c_void, child: *const c_void) -> i32 {
    if !child.is_null() && is_tcp::<R>(child) == Some(true) {
        // SAFETY: a plain helper without arguments.
        let now_us = unsafe { bpf_ktime_get_ns() } / 1_000;
        // A zero or later time: another CPU is establishing the connection just now.
        let time = established_us(child);
        add(listener as u64, if time == 0 { 0 } else { now_us.saturating_sub(time) });
    }
    0
}

#[inline(always)]
fn add(listener: u64, wait_us: u64) {
    if SOJOURNS.get_ptr_mut(listener).is_none() {
        // The agent would not read the waits of an unknown listener.
        let Some(known) = LISTENERS.get_ptr(listener) else { return };
        // SAFETY: the entry lives while the program runs, and is only ever written when a listener
        // comes.
        let share = unsafe { (*known).share };
        if !shares::take(&SOJOURN_SHARES, SOJOURNS_MAX, share) {
            return count(Loss::SojournShareFull);
        }
        // If another CPU has inserted it in between, the insert fails and the entry exists anyway.
        if SOJOURNS.insert(listener, &EMPTY, u64::from(BPF_NOEXIST)).is_err() {
            shares::give_back(&SOJOURN_SHARES, share);
        }
    }
    let Some(sojourn) = SOJOURNS.get_ptr_mut(listener) else { return count(Loss::SojournMapFull) };
    // The compiler knows that the bucket is in range and would drop the check, which the verifier
    // needs.
    let bucket = black_box(Sojourn::bucket(wait_us));
    if bucket >= SOJOURN_BUCKETS {
        return;
    }
    // SAFETY: the entry lives while the program runs, its fields are aligned, and the bucket is in
    // range.
    unsafe {
        add_u64(&raw mut (*sojourn).accepted_total, 1);
        add_u64(&raw mut (*sojourn).wait_us_total, wait_us);
        add_u32((&raw mut (*sojourn).buckets).cast::<u32>().add(bucket), 1);
    }
}
