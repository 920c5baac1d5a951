//! Results of outbound TCP connects, by process and destination.
//!
//! A socket enters SYN_SENT inside its caller's connect(), with the destination set, and leaves it
//! in the context in which the answer arrives, so the process is kept in between, by the socket's
//! address. The result is the next state, and if that is CLOSE, the socket's error: a reset, an
//! ICMP error and the last timeout set `sk_err` before they close the socket; close(), shutdown()
//! and an exit close it first. So does connect() itself if no local port is free, before anything
//! is sent: such a socket never had a local port.
//!
//! - Hook: see `sock_state`; any context.
//! - Minimum kernel: 5.6 (reading maps in batches).
//! - Cold start: a connect that was pending before is counted without a process, as is one that
//!   found no room. A missed result leaves its entry until the same socket connects again or the
//!   reader removes it.
//! - A connect that meets the peer's own (SYN_RECV) has had its answer and counts as established.
//! - Does not see: connects that fail before a SYN is sent for other reasons, such as a destination
//!   without a route; the lack of a local port if the socket had one from an earlier connect or
//!   from bind(), which counts as abandoned.
//!
//! Both maps are plain hash maps that the reader empties, not LRU maps: those evict entries
//! silently, and long before they are full on hosts with many CPUs. Here a connect that finds no
//! room is counted as a loss.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::generated::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::map,
    maps::HashMap,
};
use spillway_ebpf::{Loss, OUTBOUND_MAX, OutboundConnect, OutboundCount, OutboundKey};

use crate::{
    atomic::add_u64,
    kernel_read::{Helper, Reading as _, Typed, count, offset},
    shares::{self, Shares},
    sock::{AF_INET, AF_INET6},
};

const TCP_CLOSE: u32 = 7;
/// Minimum duration of a connect that times out: its first SYN is sent again after a second
/// (`TCP_TIMEOUT_INIT` of include/net/tcp.h).
const LEAST_TIMEOUT_NS: u64 = 1_000_000_000;
const ECONNABORTED: i32 = 103;
const ETIMEDOUT: i32 = 110;

/// Pending connects by socket address.
#[map]
static CONNECTING: HashMap<u64, OutboundConnect> = HashMap::with_max_entries(OUTBOUND_MAX, 0);

/// Number of pending connects by owner, and of results.
#[map]
static CONNECTING_SHARES: Shares = Shares::with_max_entries(OUTBOUND_MAX, 0);
#[map]
static CONNECTED_SHARES: Shares = Shares::with_max_entries(OUTBOUND_MAX, 0);

/// Results. The reader removes entries that no longer change.
#[map]
static CONNECTED: HashMap<OutboundKey, OutboundCount> = HashMap::with_max_entries(OUTBOUND_MAX, 0);

const EMPTY: OutboundCount = OutboundCount {
    established: 0,
    refused: 0,
    timed_out: 0,
    abandoned: 0,
    no_local_port: 0,
    share: 0,
};

/// Handles a socket that begins to connect, in the context of its caller.
#[inline(always)]
pub(crate) fn begin(sock: *const c_void) {
    // SAFETY: a plain helper without arguments.
    let pid = unsafe { bpf_get_current_pid_tgid() >> 32 } as u32;
    if let Some(key) = key(sock, pid) {
        let share = shares::owner_in::<Typed>(sock, key.netns);
        if !shares::take(&CONNECTING_SHARES, OUTBOUND_MAX, share) {
            return count(Loss::OutboundShareFull);
        }
        // SAFETY: as above.
        let connect =
            OutboundConnect { since_ns: unsafe { bpf_ktime_get_ns() }, share, key, reserved: 0 };
        if CONNECTING.insert(sock as u64, connect, 0).is_err() {
            shares::give_back(&CONNECTING_SHARES, share);
            count(Loss::OutboundMapFull);
        }
    }
}

/// Handles a socket that no longer connects and is in state `new` now.
#[inline(always)]
pub(crate) fn end(sock: *const c_void, new: u32) {
    let (key, since_ns) = match CONNECTING.get_ptr(sock as u64) {
        Some(connect) => {
            // SAFETY: the entry lives while the program runs; a socket's states change one after
            // the other.
            let OutboundConnect { key, since_ns, share, .. } = unsafe { *connect };
            if CONNECTING.remove(sock as u64).is_ok() {
                shares::give_back(&CONNECTING_SHARES, share);
            }
            (key, since_ns)
        }
        None => match key(sock, 0) {
            Some(key) => (key, u64::MAX),
            None => return,
        },
    };
    let counted = match CONNECTED.get_ptr_mut(key) {
        Some(counted) => counted,
        None => {
            let share = shares::owner_in::<Typed>(sock, key.netns);
            if !shares::take(&CONNECTED_SHARES, OUTBOUND_MAX, share) {
                return count(Loss::OutboundShareFull);
            }
            // If another CPU has inserted it in between, the insert fails and the entry exists
            // anyway.
            if CONNECTED
                .insert(key, OutboundCount { share, ..EMPTY }, u64::from(BPF_NOEXIST))
                .is_err()
            {
                shares::give_back(&CONNECTED_SHARES, share);
            }
            match CONNECTED.get_ptr_mut(key) {
                Some(counted) => counted,
                None => return count(Loss::OutboundMapFull),
            }
        }
    };
    let error = if new == TCP_CLOSE {
        Some(Typed::read::<i32>(sock, offset!(sock_err)).unwrap_or(0))
    } else {
        None
    };
    // SAFETY: the entry lives while the program runs, and its fields are aligned.
    unsafe {
        let field = match error {
            None => &raw mut (*counted).established,
            Some(0) if error_was_fetched(sock, since_ns) => &raw mut (*counted).timed_out,
            Some(0) if never_had_a_port(sock) => &raw mut (*counted).no_local_port,
            // ECONNABORTED: destroyed by an administrator, through sock_diag.
            Some(0 | ECONNABORTED) => &raw mut (*counted).abandoned,
            Some(ETIMEDOUT) => &raw mut (*counted).timed_out,
            Some(_) => &raw mut (*counted).refused,
        };
        add_u64(field, 1);
    }
}

/// Returns whether a socket that closes without an error had one until a moment ago. The last
/// timeout wakes the owner before it closes the socket, so the owner may fetch the error first; an
/// owner that gives up shuts the socket down first. A socket without a local port was not shut down
/// either, but fails at once.
#[inline(always)]
fn error_was_fetched(sock: *const c_void, since_ns: u64) -> bool {
    // SAFETY: a plain helper without arguments.
    let lasted_ns = unsafe { bpf_ktime_get_ns() }.saturating_sub(since_ns);
    lasted_ns >= LEAST_TIMEOUT_NS && Typed::read::<u8>(sock, offset!(sock_shutdown)) == Some(0)
}

/// Returns whether a socket never had a local port. By now `skc_num` is zero in every socket;
/// `inet_sport` is kept.
#[inline(always)]
fn never_had_a_port(sock: *const c_void) -> bool {
    Helper::read::<u16>(sock, offset!(inet_sport)) == Some(0)
}

/// Returns the destination of a socket, for the process `pid`.
#[inline(always)]
fn key(sock: *const c_void, pid: u32) -> Option<OutboundKey> {
    let net = Typed::pointer(sock, offset!(sock_net))?;
    let mut key = OutboundKey {
        addr: [0; 4],
        netns: Typed::read(net, offset!(net_inum))?,
        pid,
        family: Typed::read(sock, offset!(sock_family))?,
        port: u16::from_be(Typed::read(sock, offset!(sock_dport))?),
    };
    if key.family == AF_INET6 {
        key.addr = Typed::read(sock, offset!(sock_v6_daddr))?;
        let [first, second, third, fourth] = key.addr;
        // ::ffff:0:0/96: IPv4 through an IPv6 socket.
        if first | second == 0 && third == 0xFFFF_u32.to_be() {
            key.family = AF_INET;
            key.addr = [fourth, 0, 0, 0];
        }
    } else {
        key.addr[0] = Typed::read(sock, offset!(sock_daddr))?;
    }
    Some(key)
}
