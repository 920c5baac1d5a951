//! Requests on living connections: for every connection of a known listener, the times at which
//! data last came and was last sent, the bytes that wait, and the order of the two within a tick.
//!
//! The kernel keeps all of it in each socket (`icsk_ack.lrcvtime`, `lsndtime`, `rcv_nxt`,
//! `copied_seq`), so nothing runs when a packet comes, and nothing when a connection closes.
//! `visit_connections` reads the connections that the agent put into a map, where `connections`
//! noted them and a pass over open files found the others. Without the map each pass is one over
//! open files. The map of arrivals says which connections belong to a listener, and so which slots
//! still hold one: memory of a connection that is gone is read without harm, and is no connection
//! of a listener, or is the next one. The agent decides what is in flight.
//!
//! - Hooks: `iter/bpf_map_elem`, `int (struct bpf_iter__bpf_map_elem *ctx)`; `iter/task_file`, `int
//!   (struct bpf_iter__task_file *ctx)`; process context.
//! - Minimum kernel: 5.9 for `visit_connections` and `list_requests_by_helper`; 5.11 for
//!   `list_requests` (`bpf_sock_from_file`), whose reads are plain loads and work under lockdown.
//! - Cost: see tests/README.md. The agent paces passes by what they cost, and a read ends after
//!   32 KiB of samples or [`FILES_AT_ONCE`] files, so that it bounds how long one lasts.
//! - Does not see: connections of listeners that found no room in the map.
//!
//! A connection that several processes hold is listed once for each: the agent drops repeats.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    helpers::generated::{bpf_jiffies64, bpf_skc_to_tcp_sock, bpf_sock_from_file},
    macros::map,
    maps::{Array, PerCpuArray},
};
use spillway_ebpf::{
    CHUNK_LEN, CONNECTIONS_MAX, ConnectionChunk, RequestSample, TCP_CLOSE, TCP_CLOSE_WAIT,
    TCP_ESTABLISHED, TCP_NOT_ACCEPTED,
};

use crate::{
    arrivals::{self, Address},
    kernel_read::{
        Helper, IterMapElem, IterTaskFile, Members, OneByOne, Reading, Typed, Window, emit, load,
        offset,
    },
    rounds::Rounds,
    shares::owner_in,
    sock::{is_tcp, socket_of},
};

/// Connections to visit.
#[map]
static CONNECTIONS: Array<ConnectionChunk> =
    Array::with_max_entries(CONNECTIONS_MAX / CHUNK_LEN as u32, 0);

/// Sample of the connection that was last visited on this CPU.
#[map]
static VISITED: PerCpuArray<RequestSample> = PerCpuArray::with_max_entries(1, 0);

/// Number of open files that the current read has seen.
#[map]
static FILES_SEEN: Array<u32> = Array::with_max_entries(1, 0);

/// Maximum number of open files in one read: half a millisecond.
const FILES_AT_ONCE: u32 = 4_096;

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_map_elem")]
pub extern "C" fn visit_connections(ctx: *mut IterMapElem<u32, ConnectionChunk>) -> i32 {
    // SAFETY: the kernel passes a valid context; key and value are null after the last element.
    let (meta, key) = unsafe { ((*ctx).meta, (*ctx).key) };
    if key.is_null() {
        return 0;
    }
    // SAFETY: it points to the index of an element.
    let chunk = unsafe { *key };
    // The verifier lets a program read the value at a variable offset only through the map.
    let Some(socks) = CONNECTIONS.get_ptr(chunk) else { return 0 };
    let Some(visited) = VISITED.get_ptr(0) else { return 0 };
    let mut places = Rounds::new();
    while let Some(place) = places.next(CHUNK_LEN as u64) {
        // SAFETY: the element is there as long as the map; an aligned u64 is read whole.
        let sock = unsafe { ptr::read_volatile(&raw const (*socks).socks[place as usize]) };
        // SAFETY: the entry is there as long as the map; only one pass is made at a time, and it
        // does not leave this CPU.
        if sock != 0
            && visit_connection(sock, chunk * CHUNK_LEN as u32 + place as u32) != 0
            && !emit(meta, unsafe { &*visited })
        {
            // The kernel repeats the element.
            break;
        }
    }
    0
}

/// Samples the connection of a slot into [`VISITED`]; returns 0 if there is none.
///
/// A global function takes no pointers. In return the verifier walks it once: within the loop it
/// walked 3,000 instructions for each connection of an element.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn visit_connection(sock: u64, slot: u32) -> i32 {
    let Some(visited) = VISITED.get_ptr_mut(0) else { return 0 };
    let sock = sock as *const c_void;
    let Some(mut sample) = visit(sock) else { return 0 };
    if Helper::pointer(sock, offset!(sock_socket)).is_none() {
        // No process holds it: it waits for accept(), or its process has closed it.
        if sample.state == TCP_CLOSE {
            return 0;
        }
        sample.state = TCP_NOT_ACCEPTED;
    }
    sample.slot = slot;
    // SAFETY: as where it is read.
    unsafe { *visited = sample };
    1
}

/// Counts an open file; returns whether the read ends before it. The kernel repeats it at the next.
#[inline(always)]
fn ends_read() -> bool {
    let Some(seen) = FILES_SEEN.get_ptr_mut(0) else { return false };
    // SAFETY: the entry is there as long as the map, and only one pass is made at a time.
    unsafe {
        let ends = *seen >= FILES_AT_ONCE;
        *seen = if ends { 0 } else { *seen + 1 };
        ends
    }
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub extern "C" fn list_requests(ctx: *mut IterTaskFile) -> i32 {
    // SAFETY: the kernel passes a valid context; its members are read as the verifier allows.
    let (meta, task, file) = unsafe { ((*ctx).meta, (*ctx).task.cast_const(), (*ctx).file) };
    if task.is_null() || file.is_null() {
        return 0;
    }
    if ends_read() {
        return 1;
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
    if let Some(sample) = found::<Typed>(task, tcp.cast_const().cast()) {
        emit(meta, &sample);
    }
    0
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub extern "C" fn list_requests_by_helper(ctx: *mut IterTaskFile) -> i32 {
    // SAFETY: the kernel passes a valid context; its members are read as the verifier allows.
    let (meta, task, file) =
        unsafe { ((*ctx).meta, (*ctx).task.cast_const(), (*ctx).file.cast_const()) };
    if task.is_null() || file.is_null() {
        return 0;
    }
    if ends_read() {
        return 1;
    }
    let Some(sock) = socket_of(file) else { return 0 };
    if is_tcp::<Helper>(sock) != Some(true) {
        return 0;
    }
    if let Some(sample) = found::<Helper>(task, sock) {
        emit(meta, &sample);
    }
    0
}

/// Listener at which connections of one address came.
#[repr(C)]
#[derive(Clone, Copy)]
struct Listener {
    address: Address,
    netns: u32,
}

/// Listener of the last connection that was visited: the next one is often its neighbour.
#[repr(C)]
struct LatestListener {
    /// Address of the connection.
    asked: Address,
    listener: Listener,
    /// Tick in which it was looked up; another listener may be there in the next.
    tick: u32,
}

#[map]
static LATEST_LISTENER: Array<LatestListener> = Array::with_max_entries(1, 0);

/// Copies of members of a connection that are neighbours: each call of the helper costs as much as
/// the copy of many bytes. What a kernel has elsewhere is read by itself.
#[repr(C)]
struct Copies {
    /// Addresses, ports and the state, with which a socket begins.
    head: Window<96>,
    /// From `copied_seq` on.
    copied: Window<8>,
    /// From `rcv_nxt` on.
    received: Window<16>,
    /// From `write_seq` on.
    written: Window<16>,
}

/// Copies of the connection that is visited: the stack has no room for them.
#[map]
static COPIES: Array<Copies> = Array::with_max_entries(1, 0);

/// A connection that is visited.
struct Visited<'a> {
    sock: *const c_void,
    copies: &'a Copies,
}

impl<'a> Visited<'a> {
    #[inline(always)]
    fn read(sock: *const c_void, copies: &'a mut Copies) -> Option<Self> {
        copies.head.fill(sock, 0)?;
        // A count that rises is read after the one that it is compared with.
        copies.copied.fill(sock, offset!(tcp_copied_seq))?;
        copies.received.fill(sock, offset!(tcp_rcv_nxt))?;
        copies.written.fill(sock, offset!(tcp_write_seq))?;
        Some(Self { sock, copies })
    }
}

impl Members for Visited<'_> {
    #[inline(always)]
    fn read<T: Copy>(&self, offset: usize) -> Option<T> {
        let Copies { head, copied, received, written } = self.copies;
        if let Some(member) = head.get(0, offset) {
            return Some(member);
        }
        if let Some(member) = copied.get(offset!(tcp_copied_seq), offset) {
            return Some(member);
        }
        if let Some(member) = received.get(offset!(tcp_rcv_nxt), offset) {
            return Some(member);
        }
        if let Some(member) = written.get(offset!(tcp_write_seq), offset) {
            return Some(member);
        }
        Helper::read(self.sock, offset)
    }
}

/// Samples a connection of the map; `None` unless it still is one of a known listener.
#[inline(always)]
fn visit(sock: *const c_void) -> Option<RequestSample> {
    // SAFETY: the entry is there as long as the map, and only one pass is made at a time.
    let copies = unsafe { &mut *COPIES.get_ptr_mut(0)? };
    let members = Visited::read(sock, copies)?;
    let state = state_of(&members)?;
    let asked = arrivals::address_of_connection(&members)?;
    let now = tick();
    let latest = LATEST_LISTENER.get_ptr_mut(0)?;
    // SAFETY: as above.
    let latest = unsafe { &mut *latest };
    if latest.tick != now || latest.asked != asked {
        let address = arrivals::listener_at(asked)?;
        let netns = Helper::read(address.net as *const c_void, offset!(net_inum))?;
        *latest = LatestListener { asked, listener: Listener { address, netns }, tick: now };
    }
    // The agent knows the owner from when the connection was noted or found.
    sample(sock, &members, state, &latest.listener, 0)
}

/// Samples a TCP socket that a process holds; `None` unless it is a connection of a known listener.
#[inline(always)]
fn found<R: Reading>(task: *const c_void, sock: *const c_void) -> Option<RequestSample> {
    let members = OneByOne::<R>::of(sock);
    let state = state_of(&members)?;
    let address = arrivals::listener_at(arrivals::address_of_connection(&members)?)?;
    let netns = R::read(R::pointer(sock, offset!(sock_net))?, offset!(net_inum))?;
    let listener = Listener { address, netns };
    let sample = sample(sock, &members, state, &listener, owner_in::<R>(sock, netns))?;
    Some(RequestSample { pid: R::read(task, offset!(task_tgid))?, ..sample })
}

/// Returns the state of a socket on which a request may be.
#[inline(always)]
fn state_of(sock: &impl Members) -> Option<u16> {
    let state = u16::from(sock.read::<u8>(offset!(sock_state))?);
    (state == TCP_ESTABLISHED || state == TCP_CLOSE_WAIT || state == TCP_CLOSE).then_some(state)
}

/// Returns the low half of the kernel's tick count.
#[inline(always)]
fn tick() -> u32 {
    // SAFETY: a plain helper without arguments.
    unsafe { bpf_jiffies64() as u32 }
}

/// Samples the times and the bytes of a connection.
#[inline(always)]
fn sample(
    sock: *const c_void,
    members: &impl Members,
    state: u16,
    listener: &Listener,
    share: u64,
) -> Option<RequestSample> {
    // A count that rises is read after the one that it is compared with.
    let copied: u32 = members.read(offset!(tcp_copied_seq))?;
    let received_end: u32 = members.read(offset!(tcp_rcv_nxt))?;
    let received: u32 = members.read(offset!(icsk_received))?;
    let sent: u32 = members.read(offset!(tcp_sent))?;
    let (mut unacked, mut newest) = (0, 0);
    // Only a tie needs them, and each may be in another line of the cache.
    if received == sent {
        let acked: u32 = members.read(offset!(tcp_snd_una))?;
        let written: u32 = members.read(offset!(tcp_write_seq))?;
        let window_from: u32 = members.read(offset!(tcp_snd_wl1))?;
        (unacked, newest) = (written.wrapping_sub(acked), received_end.wrapping_sub(window_from));
    }
    Some(RequestSample {
        sock: sock as u64,
        share,
        addr: listener.address.addr,
        netns: listener.netns,
        received,
        sent,
        now: tick(),
        unread: received_end.wrapping_sub(copied),
        unacked,
        newest,
        received_bytes: members.read::<u64>(offset!(tcp_bytes_received))? as u32,
        family: listener.address.family,
        port: listener.address.port,
        peer_port: members.read(offset!(sock_dport))?,
        state,
        slot: 0,
        pid: 0,
    })
}
