//! Requests on living connections: for every connection of a known listener, the times at which
//! data last came and was last sent, the bytes that wait, and the order of the two within a tick.
//!
//! The kernel keeps all of it in each socket (`icsk_ack.lrcvtime`, `lsndtime`, `rcv_nxt`,
//! `copied_seq`), so nothing runs when a packet comes, and nothing when a connection opens or
//! closes. A pass over open files finds the connections in every network namespace, and the map of
//! arrivals says which of them belong to a listener. The agent decides what is in flight.
//!
//! - Hook: `iter/task_file`, `int (struct bpf_iter__task_file *ctx)`, process context.
//! - Minimum kernel: 5.11 for `list_requests` (`bpf_sock_from_file`), whose reads are plain loads
//!   and work under lockdown; 5.9 for `list_requests_by_helper`.
//! - Cost: see tests/README.md. The agent paces passes by what they cost.
//! - Does not see: connections that wait for accept(), which no process holds and their listener
//!   counts; and connections of listeners that found no room in the map.
//!
//! A connection that several processes hold is passed on once for each: the agent drops repeats.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_skc_to_tcp_sock, bpf_sock_from_file};
use spillway_ebpf::{RequestSample, TCP_CLOSE, TCP_CLOSE_WAIT, TCP_ESTABLISHED};

use crate::{
    arrivals,
    kernel_read::{Helper, IterTaskFile, Reading, Typed, emit, load, offset},
    sock::{is_tcp, socket_of},
};

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub extern "C" fn list_requests(ctx: *mut IterTaskFile) -> i32 {
    // SAFETY: the kernel passes a valid context; its members are read as the verifier allows.
    let (meta, file) = unsafe { ((*ctx).meta, (*ctx).file) };
    if file.is_null() {
        return 0;
    }
    // SAFETY: the helpers take any file and any socket, and return null for other kinds.
    let tcp = unsafe {
        let socket = bpf_sock_from_file(file.cast());
        if socket.is_null() {
            return 0;
        }
        bpf_skc_to_tcp_sock(load(socket.cast_const().cast(), offset!(socket_sk)))
    };
    if tcp.is_null() {
        return 0;
    }
    if let Some(sample) = sample::<Typed>(tcp.cast_const().cast()) {
        emit(meta, &sample);
    }
    0
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub extern "C" fn list_requests_by_helper(ctx: *mut IterTaskFile) -> i32 {
    // SAFETY: the kernel passes a valid context; its members are read as the verifier allows.
    let (meta, file) = unsafe { ((*ctx).meta, (*ctx).file.cast_const()) };
    if file.is_null() {
        return 0;
    }
    let Some(sock) = socket_of(file) else { return 0 };
    if is_tcp::<Helper>(sock) != Some(true) {
        return 0;
    }
    if let Some(sample) = sample::<Helper>(sock) {
        emit(meta, &sample);
    }
    0
}

/// Samples a TCP socket; `None` unless it is a connection of a known listener.
#[inline(always)]
fn sample<R: Reading>(sock: *const c_void) -> Option<RequestSample> {
    let state = u16::from(R::read::<u8>(sock, offset!(sock_state))?);
    if state != TCP_ESTABLISHED && state != TCP_CLOSE_WAIT && state != TCP_CLOSE {
        return None;
    }
    let listener = arrivals::listener_of::<R>(sock)?;
    // A count that rises is read after the one that it is compared with.
    let copied: u32 = R::read(sock, offset!(tcp_copied_seq))?;
    let received_end: u32 = R::read(sock, offset!(tcp_rcv_nxt))?;
    let received: u32 = R::read(sock, offset!(icsk_received))?;
    let sent: u32 = R::read(sock, offset!(tcp_sent))?;
    let (mut unacked, mut newest) = (0, 0);
    // Only a tie needs them, and each may be in another line of the cache.
    if received == sent {
        let acked: u32 = R::read(sock, offset!(tcp_snd_una))?;
        let written: u32 = R::read(sock, offset!(tcp_write_seq))?;
        let window_from: u32 = R::read(sock, offset!(tcp_snd_wl1))?;
        (unacked, newest) = (written.wrapping_sub(acked), received_end.wrapping_sub(window_from));
    }
    Some(RequestSample {
        sock: sock as u64,
        addr: listener.addr,
        netns: R::read(R::pointer(sock, offset!(sock_net))?, offset!(net_inum))?,
        received,
        sent,
        // SAFETY: a plain helper without arguments.
        now: unsafe { bpf_jiffies64() } as u32,
        unread: received_end.wrapping_sub(copied),
        unacked,
        newest,
        received_bytes: R::read::<u64>(sock, offset!(tcp_bytes_received))? as u32,
        family: listener.family,
        port: listener.port,
        peer_port: R::read(sock, offset!(sock_dport))?,
        state,
    })
}
