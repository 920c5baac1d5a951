//! `connect_state`: how each process's outbound TCP connects end, counted by where they went.
//!
//! A socket enters SYN_SENT inside its caller's connect(), with the destination set, and leaves it in whatever context the answer
//! comes: so who connects is kept from the one to the other, by the socket's address. How it ended is the state that follows, and
//! where that is CLOSE the socket's error: a reset, an ICMP error and the last timeout set `sk_err` before they close the socket;
//! close(), shutdown() and an exit close it first, and so does connect() itself where no local port is free.
//!
//! - Hook: raw tracepoint `inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate)`, any context.
//! - Minimum kernel: 4.17; reading the maps in batches takes 5.6.
//! - Cost: see README.md; a change between other states ends at two comparisons.
//! - Cold start: a connect that was under way before is counted under no process, as is one that found no room. An end that was
//!   missed leaves its entry until the same socket connects again or the reader drops it.
//! - A connect that is met by the other side's own (SYN_RECV) has had its answer and counts as established there.
//! - Does not see: what fails before a SYN could be sent, such as a destination without a route.
//!
//! Both maps are plain hash maps that the reader empties, not LRU ones: those drop entries silently, and long before they are
//! full where there are many CPUs; here what finds no room is counted.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::generated::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::{map, raw_tracepoint},
    maps::HashMap,
    programs::RawTracePointContext,
};
use spillway_ebpf::{Loss, OUTBOUND_MAX, OutboundConnect, OutboundCount, OutboundKey};

use crate::{
    atomic::add_u64,
    kernel::{Helper, Reading as _, count, offset},
    sockets::{AF_INET, AF_INET6, is_tcp},
};

const TCP_SYN_SENT: u32 = 2;
const TCP_CLOSE: u32 = 7;
const ECONNABORTED: i32 = 103;
const ETIMEDOUT: i32 = 110;

/// Connects under way, by socket address.
#[map]
static CONNECTING: HashMap<u64, OutboundConnect> = HashMap::with_max_entries(OUTBOUND_MAX, 0);

/// How they ended. The reader takes away what no longer changes.
#[map]
static CONNECTED: HashMap<OutboundKey, OutboundCount> = HashMap::with_max_entries(OUTBOUND_MAX, 0);

const EMPTY: OutboundCount = OutboundCount { established: 0, refused: 0, timed_out: 0, abandoned: 0 };

#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub fn connect_state(ctx: RawTracePointContext) -> i32 {
    let (old, new) = (ctx.arg::<u32>(1), ctx.arg::<u32>(2));
    if new == TCP_SYN_SENT {
        begin(ctx.arg(0));
    } else if old == TCP_SYN_SENT {
        end(ctx.arg(0), new);
    }
    0
}

#[inline(always)]
fn begin(sock: *const c_void) {
    if is_tcp::<Helper>(sock) != Some(true) {
        return;
    }
    // SAFETY: a plain helper without arguments.
    let pid = unsafe { bpf_get_current_pid_tgid() >> 32 } as u32;
    if let Some(key) = key(sock, pid) {
        // SAFETY: as above.
        let connect = OutboundConnect { since_ns: unsafe { bpf_ktime_get_ns() }, key, reserved: 0 };
        if CONNECTING.insert(sock as u64, connect, 0).is_err() {
            count(Loss::OutboundMapFull);
        }
    }
}

#[inline(always)]
fn end(sock: *const c_void, new: u32) {
    let key = match CONNECTING.get_ptr(sock as u64) {
        Some(connect) => {
            // SAFETY: the entry lives while the program runs; a socket's states change one after the other.
            let key = unsafe { (*connect).key };
            let _ = CONNECTING.remove(sock as u64);
            key
        }
        None if is_tcp::<Helper>(sock) == Some(true) => match key(sock, 0) {
            Some(key) => key,
            None => return,
        },
        None => return,
    };
    let counted = match CONNECTED.get_ptr_mut(key) {
        Some(counted) => counted,
        None => {
            // Another CPU may have inserted it in between: then the insert fails and the entry is there all the same.
            let _ = CONNECTED.insert(key, EMPTY, u64::from(BPF_NOEXIST));
            match CONNECTED.get_ptr_mut(key) {
                Some(counted) => counted,
                None => return count(Loss::OutboundMapFull),
            }
        }
    };
    let error = if new == TCP_CLOSE { Some(Helper::read::<i32>(sock, offset!(sock_err)).unwrap_or(0)) } else { None };
    // SAFETY: the entry lives while the program runs, and its fields are aligned.
    unsafe {
        let field = match error {
            None => &raw mut (*counted).established,
            // Aborted is by an administrator, through sock_diag.
            Some(0 | ECONNABORTED) => &raw mut (*counted).abandoned,
            Some(ETIMEDOUT) => &raw mut (*counted).timed_out,
            Some(_) => &raw mut (*counted).refused,
        };
        add_u64(field, 1);
    }
}

/// Where the socket connects to, as `pid`.
#[inline(always)]
fn key(sock: *const c_void, pid: u32) -> Option<OutboundKey> {
    let net = Helper::pointer(sock, offset!(sock_net))?;
    let mut key = OutboundKey {
        addr: [0; 4],
        netns: Helper::read(net, offset!(net_inum))?,
        pid,
        family: Helper::read(sock, offset!(sock_family))?,
        port: u16::from_be(Helper::read(sock, offset!(sock_dport))?),
    };
    if key.family == AF_INET6 {
        key.addr = Helper::read(sock, offset!(sock_v6_daddr))?;
        let [first, second, third, fourth] = key.addr;
        // ::ffff:0:0/96: IPv4 through an IPv6 socket.
        if first | second == 0 && third == 0xFFFF_u32.to_be() {
            key.family = AF_INET;
            key.addr = [fourth, 0, 0, 0];
        }
    } else {
        key.addr[0] = Helper::read(sock, offset!(sock_daddr))?;
    }
    Some(key)
}
