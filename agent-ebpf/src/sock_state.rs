//! `socket_state`: every change of a TCP socket's state, passed on to the probes that need it.
//!
//! One program serves three probes, because most of what a connection pays is the call itself, ten
//! times over loopback: listeners that open and close and connections that arrive at them
//! (`tcp_listeners`, `arrivals`), outbound connects (`outbound`), and the connections on which
//! requests come (`connections`). [`WATCHED`] has the probes that are attached.
//!
//! - Hook: BTF tracepoint `inet_sock_set_state(const struct sock *sk, const int oldstate, const int
//!   newstate)`, any context.
//! - Minimum kernel: 5.5 (BTF tracepoints).
//! - Cost: see tests/README.md; a change that no probe needs ends after six comparisons.

use core::ffi::c_void;

use aya_ebpf::{
    macros::{btf_tracepoint, map},
    maps::Array,
    programs::BtfTracePointContext,
};
use spillway_ebpf::{TCP_LISTEN, WATCHES_CONNECTS, WATCHES_LISTENERS, WATCHES_REQUESTS};

use crate::{arrivals, connections, kernel_read::Typed, outbound, sock::is_tcp, tcp_listeners};

const LISTEN: u32 = TCP_LISTEN as u32;
const TCP_ESTABLISHED: u32 = 1;
const TCP_SYN_SENT: u32 = 2;
const TCP_SYN_RECV: u32 = 3;

/// Attached probes, as flags: [`WATCHES_LISTENERS`], [`WATCHES_CONNECTS`], [`WATCHES_REQUESTS`].
/// Counts of others would never be read.
#[map]
static WATCHED: Array<u32> = Array::with_max_entries(1, 0);

#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn socket_state(ctx: BtfTracePointContext) -> i32 {
    let (old, new): (u32, u32) = (ctx.arg(1), ctx.arg(2));
    if new == LISTEN || old == LISTEN {
        let sock = ctx.arg(0);
        if watched(WATCHES_LISTENERS) && is_tcp::<Typed>(sock) == Some(true) {
            listening(sock, old, new);
        }
    } else if new == TCP_SYN_SENT || old == TCP_SYN_SENT {
        let sock = ctx.arg(0);
        if watched(WATCHES_CONNECTS) && is_tcp::<Typed>(sock) == Some(true) {
            if new == TCP_SYN_SENT { outbound::begin(sock) } else { outbound::end(sock, new) }
        }
    } else if old == TCP_SYN_RECV && new == TCP_ESTABLISHED {
        let sock = ctx.arg(0);
        if watched(WATCHES_LISTENERS) && is_tcp::<Typed>(sock) == Some(true) {
            arrivals::established(sock);
            // Its connections are known only with their listeners.
            if watched(WATCHES_REQUESTS) {
                connections::established(sock);
            }
        }
    }
    0
}

#[inline(always)]
fn listening(sock: *const c_void, old: u32, new: u32) {
    if new == LISTEN {
        tcp_listeners::opened(sock);
    } else if new == TCP_SYN_RECV {
        // A copy of a listener: a connection that arrives.
        arrivals::came(sock);
    } else if old == LISTEN {
        tcp_listeners::closed(sock);
    }
}

#[inline(always)]
fn watched(probe: u32) -> bool {
    // SAFETY: the entry is there as long as the map; an aligned u32 is read whole.
    WATCHED.get_ptr(0).is_some_and(|probes| unsafe { *probes } & probe != 0)
}
