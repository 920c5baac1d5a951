//! How each process's outbound TCP connects end, counted by where they went.
//!
//! A socket enters SYN_SENT inside its caller's connect(), with the destination set, and leaves it
//! in whatever context the answer comes: so who connects is kept from the one to the other, by the
//! socket's address. How it ended is the state that follows, and where that is CLOSE the socket's
//! error: a reset, an ICMP error and the last timeout set `sk_err` before they close the socket;
//! close(), shutdown() and an exit close it first. So does connect() itself where no local port is
//! free, before anything is sent: such a socket never had a local port.
//!
//! - Hook: see `states`; any context.
//! - Minimum kernel: 5.6 (reading the maps in batches).
//! - Cold start: a connect that was under way before is counted under no process, as is one that
//!   found no room. An end that was missed leaves its entry until the same socket connects again or
//!   the reader drops it.
//! - A connect that is met by the other side's own (SYN_RECV) has had its answer and counts as
//!   established there.
//! - Does not see: what fails before a SYN could be sent for other reasons, such as a destination
//!   without a route; that no local port was free where the socket had one from an earlier connect,
//!   or from bind() (counted as abandoned).
//!
//! Both maps are plain hash maps that the reader empties, not LRU ones: those drop entries
//! silently, and long before they are full where there are many CPUs; here what finds no room is
//! counted.

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
/// No connect times out before its first SYN was sent again, after a second (`TCP_TIMEOUT_INIT` of
/// include/net/tcp.h).
const LEAST_TIMEOUT_NS: u64 = 1_000_000_000;
const ECONNABORTED: i32 = 103;
const ETIMEDOUT: i32 = 110;

/// Connects under way, by socket address.
#[map]
static CONNECTING: HashMap<u64, OutboundConnect> = HashMap::with_max_entries(OUTBOUND_MAX, 0);

/// Number of them by owner, and of those below.
#[map]
static CONNECTING_SHARES: Shares = Shares::with_max_entries(OUTBOUND_MAX, 0);
#[map]
static CONNECTED_SHARES: Shares = Shares::with_max_entries(OUTBOUND_MAX, 0);

/// How they ended. The reader takes away what no longer changes.
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

/// A socket begins to connect; connect() runs in its caller's context.
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

/// A socket connects no more: it is in this state now.
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
            // Another CPU may have inserted it in between: then the insert fails and the entry is
            // there all the same.
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
            // Aborted is by an administrator, through sock_diag.
            Some(0 | ECONNABORTED) => &raw mut (*counted).abandoned,
            Some(ETIMEDOUT) => &raw mut (*counted).timed_out,
            Some(_) => &raw mut (*counted).refused,
        };
        add_u64(field, 1);
    }
}

/// Whether a socket that closes without an error had one until a moment ago. The last timeout wakes
/// the owner before it closes the socket, who may fetch the error first; whoever gives up shuts the
/// socket down first. Where no local port was free it was not shut down either, but that shows at
/// once.
#[inline(always)]
fn error_was_fetched(sock: *const c_void, since_ns: u64) -> bool {
    // SAFETY: a plain helper without arguments.
    let lasted_ns = unsafe { bpf_ktime_get_ns() }.saturating_sub(since_ns);
    lasted_ns >= LEAST_TIMEOUT_NS && Typed::read::<u8>(sock, offset!(sock_shutdown)) == Some(0)
}

/// Tells if a socket that connected was given no local port. `skc_num` says the same of every
/// socket by now, `inet_sport` is kept.
#[inline(always)]
fn never_had_a_port(sock: *const c_void) -> bool {
    Helper::read::<u16>(sock, offset!(inet_sport)) == Some(0)
}

/// Where the socket connects to, as `pid`.
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
