//! Accept queues of every listening TCP socket, in every network namespace.
//!
//! Listeners are identified by their socket's address. `sock_state` keeps the map of them as they
//! open and close; `find_listeners` adds those that were there before the agent; `scan_listeners`
//! reads the queue of each. So the cost of a scan is proportional to the number of listeners, not
//! of connections, and no namespace needs to be entered.
//!
//! - Hooks: that of `sock_state`; `iter/task_file`, `int (struct bpf_iter__task_file *ctx)`;
//!   `iter/bpf_map_elem`, `int (struct bpf_iter__bpf_map_elem *ctx)`.
//! - Minimum kernel: 5.9 (iterators over the elements of a map).
//! - Cost: 0.18 to 0.32 µs a listener a scan; 0.11 to 0.17 µs an open file, once every ten seconds.
//! - Does not see: kernel listeners that were there before the agent, and sockets that no process
//!   holds.
//!
//! The share of the map that one user or namespace can take is bounded, see `shares`.
//!
//! Arriving connections are counted at the same hook, see `arrivals`. The age of the head needs no
//! hook, see `sock::established_us`.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::generated::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::map,
    maps::{Array, HashMap},
};
use spillway_ebpf::{
    HEAD_MOVING, HEAD_NONE, HEAD_SEEN, KnownListener, LISTENERS_MAX, ListenerSample, Loss,
    SocketOwnerSample, Sojourn, TCP_LISTEN,
};

use crate::{
    arrivals,
    atomic::add_u64,
    kernel_read::{
        Helper, IterMapElem, IterTaskFile, Reading as _, count, emit, offset, read_or_zero,
    },
    shares::{self, Shares},
    sock::{drops_of, established_us, tcp_in_state},
    socket_list::shares_netns,
};

/// Listeners by socket address.
#[map]
pub(crate) static LISTENERS: HashMap<u64, KnownListener> =
    HashMap::with_max_entries(LISTENERS_MAX, 0);

/// Number of listeners by owner.
#[map]
static LISTENER_SHARES: Shares = Shares::with_max_entries(LISTENERS_MAX, 0);

/// Waits for accept() by socket address, which `accept_latency` adds and [`closed`] removes. The
/// capacity is a guess at the busiest node's listeners with traffic, doubled, and takes 3 MiB; a
/// listener that finds no room is counted as a loss.
#[map]
pub(crate) static SOJOURNS: HashMap<u64, Sojourn> = HashMap::with_max_entries(SOJOURNS_MAX, 0);
pub(crate) const SOJOURNS_MAX: u32 = 2_048;

/// Number of entries of [`SOJOURNS`] by owner.
#[map]
pub(crate) static SOJOURN_SHARES: Shares = Shares::with_max_entries(LISTENERS_MAX, 0);

/// Number of times that a listener found no room. While it rises, the reader lists sockets too.
#[map]
static OUTSIDE: Array<u64> = Array::with_max_entries(1, 0);

/// Number of attempts to read the head if it moves meanwhile. A queue that moves three times within
/// a microsecond is not standing.
const HEAD_TRIES: u32 = 3;

/// Handles a socket that begins to listen, in the context of its caller.
#[inline(always)]
pub(crate) fn opened(sock: *const c_void) {
    // SAFETY: a plain helper without arguments.
    let pid = unsafe { bpf_get_current_pid_tgid() >> 32 } as u32;
    match LISTENERS.get_ptr_mut(sock as u64) {
        // SAFETY: the entry lives while the program runs; an aligned u32 is written whole.
        Some(known) => unsafe { (*known).pid = pid },
        None => {
            admit(sock, pid);
        }
    }
}

/// Adds a listener to the map if there is room; returns whether it is in the map.
#[inline(always)]
fn admit(sock: *const c_void, pid: u32) -> bool {
    let share = shares::owner_of(sock);
    if !shares::take(&LISTENER_SHARES, LISTENERS_MAX, share) {
        outside(&OUTSIDE, Loss::ListenerShareFull);
        return false;
    }
    let known = KnownListener { share, pid, reserved: 0 };
    if LISTENERS.insert(sock as u64, known, u64::from(BPF_NOEXIST)).is_ok() {
        arrivals::opened(sock);
        return true;
    }
    shares::give_back(&LISTENER_SHARES, share);
    // The hook and a pass may find it at the same time.
    let is_known = LISTENERS.get_ptr(sock as u64).is_some();
    if !is_known {
        outside(&OUTSIDE, Loss::ListenerMapFull);
    }
    is_known
}

/// Counts a listener that found no room.
#[inline(always)]
pub(crate) fn outside(of: &Array<u64>, loss: Loss) {
    count(loss);
    if let Some(outside) = of.get_ptr_mut(0) {
        // SAFETY: the entry is there as long as the map, and is aligned.
        unsafe { add_u64(outside, 1) };
    }
}

/// Handles a listener that closes.
#[inline(always)]
pub(crate) fn closed(sock: *const c_void) {
    // Absent if it found no room.
    let Some(known) = LISTENERS.get_ptr(sock as u64) else { return };
    // SAFETY: the entry lives while the program runs, and is only ever written when a listener
    // comes.
    let share = unsafe { (*known).share };
    if LISTENERS.remove(sock as u64).is_ok() {
        shares::give_back(&LISTENER_SHARES, share);
        arrivals::closed(sock);
    }
    if SOJOURNS.remove(sock as u64).is_ok() {
        shares::give_back(&SOJOURN_SHARES, share);
    }
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub extern "C" fn find_listeners(ctx: *mut IterTaskFile) -> i32 {
    // SAFETY: the kernel passes a valid context; its members are read as the verifier allows.
    let (meta, task, file) =
        unsafe { ((*ctx).meta, (*ctx).task.cast_const(), (*ctx).file.cast_const()) };
    if task.is_null() || file.is_null() {
        return 0;
    }
    if let Some(owner) = owner(task, file) {
        if LISTENERS.get_ptr(owner.sock).is_some() || admit(owner.sock as *const c_void, owner.pid)
        {
            emit(meta, &owner);
        }
    }
    0
}

/// Returns the listener behind `file`; `None` if it is anything else.
#[inline(always)]
fn owner(task: *const c_void, file: *const c_void) -> Option<SocketOwnerSample> {
    let sock = tcp_in_state(file, TCP_LISTEN as u8)?;
    Some(SocketOwnerSample {
        sock: sock as u64,
        pid: Helper::read(task, offset!(task_tgid))?,
        shared_netns: if shares_netns(task, sock) {
            Helper::read(Helper::pointer(sock, offset!(sock_net))?, offset!(net_inum))?
        } else {
            0
        },
    })
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_map_elem")]
pub extern "C" fn scan_listeners(ctx: *mut IterMapElem<u64, KnownListener>) -> i32 {
    // SAFETY: the kernel passes a valid context; key and value are null after the last element.
    let (meta, key, value) = unsafe { ((*ctx).meta, (*ctx).key, (*ctx).value) };
    if key.is_null() || value.is_null() {
        return 0;
    }
    // SAFETY: both point to an element of LISTENERS, whose key and value types these are.
    let (sock, known) = unsafe { (*key as *const c_void, *value) };
    if let Some(sample) = sample(sock, &known) {
        emit(meta, &sample);
    }
    0
}

#[inline(always)]
fn sample(sock: *const c_void, known: &KnownListener) -> Option<ListenerSample> {
    let address = arrivals::address_of_listener(sock)?;
    let came = arrivals::at(&address);
    let (head, head_us) = head(sock);
    // SAFETY: the entry may be written while it is read; an aligned u64 is read whole.
    let (accepted_total, wait_us_total) = SOJOURNS
        .get_ptr(sock as u64)
        .map_or((0, 0), |sojourn| unsafe { ((*sojourn).accepted_total, (*sojourn).wait_us_total) });
    Some(ListenerSample {
        sock: sock as u64,
        // SAFETY: a plain helper without arguments.
        now_ns: unsafe { bpf_ktime_get_ns() },
        head_us,
        share: known.share,
        accepted_total,
        wait_us_total,
        arrived_total: came.total,
        remote_total: came.remote,
        found_empty_ns: came.found_empty_ns,
        addr: address.addr,
        netns: Helper::read(address.net as *const c_void, offset!(net_inum))?,
        pid: known.pid,
        backlog: Helper::read(sock, offset!(sock_ack_backlog))?,
        backlog_max: Helper::read(sock, offset!(sock_max_ack_backlog))?,
        drops: drops_of(sock)?,
        reserved: 0,
        family: address.family,
        port: address.port,
        head,
        state: u16::from(Helper::read::<u8>(sock, offset!(sock_state))?),
    })
}

/// Returns the time at which the connection at the head of the queue was established. The queue's
/// lock is not taken, so the time is valid only if the head is unchanged after its child was read.
#[inline(always)]
fn head(sock: *const c_void) -> (u16, u64) {
    for _ in 0..HEAD_TRIES {
        let request: *const c_void = read_or_null(sock, offset!(accept_head));
        if request.is_null() {
            return (HEAD_NONE, 0);
        }
        let time = established_us(read_or_null(request, offset!(request_sk)));
        if read_or_null(sock, offset!(accept_head)) == request {
            return if time == 0 { (HEAD_MOVING, 0) } else { (HEAD_SEEN, time) };
        }
    }
    (HEAD_MOVING, 0)
}

#[inline(always)]
fn read_or_null(pointer: *const c_void, offset: usize) -> *const c_void {
    read_or_zero::<u64>(pointer, offset) as *const c_void
}
