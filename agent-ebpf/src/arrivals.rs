//! Counts the connections that came to each address, how many of them from other hosts, and when
//! one last found nobody waiting.
//!
//! In `inet_csk_clone_lock()` the kernel makes the socket of a connection that enters the accept
//! queue: a copy of the listener, whose state it then changes from LISTEN to SYN_RECV. At that
//! moment the copy still says all that the listener does: its address, and how many were waiting
//! (`sk_ack_backlog`, which nothing reads of a connection). Which listener it was it does not say:
//! sockets that share an address (SO_REUSEPORT) are counted together.
//!
//! Where a connection came from is known a moment later, when it leaves SYN_RECV: by then the
//! kernel has noted the interface. What came over the loopback one came from this host, whatever
//! address it was sent to.
//!
//! - Hook: see `states`; softirq context.
//! - Refuses: connections that overflow, of which no socket is made. One whose last packet two CPUs
//!   met at once is counted twice: one in a thousand on an emulated 5.10 with four clients on eight
//!   CPUs.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::BPF_NOEXIST, helpers::generated::bpf_ktime_get_ns, macros::map, maps::HashMap,
};
use spillway_ebpf::{ABSENT, LISTENERS_MAX, Loss};

use crate::{
    atomic::add_u64,
    kernel_read::{Helper, Reading, Typed, count, offset, read_or_zero},
    sock::AF_INET6,
};

/// Counts by address, for as long as a listener is there. As many as there are listeners.
#[map]
static ARRIVALS: HashMap<Address, Arrivals> = HashMap::with_max_entries(LISTENERS_MAX, 0);

/// Where a listener listens: its network namespace by the kernel's address, which costs one read
/// less than its number.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Address {
    pub(crate) net: u64,
    pub(crate) addr: [u32; 4],
    pub(crate) family: u16,
    pub(crate) port: u16,
    reserved: u32,
}

/// What came to an address.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Arrivals {
    /// Connections that entered an accept queue.
    pub(crate) total: u64,
    /// Those of them that came from other hosts.
    pub(crate) remote: u64,
    /// The monotonic clock when one last found the queue empty, in nanoseconds.
    pub(crate) found_empty_ns: u64,
    /// Listeners that share the address.
    listeners: u64,
}

const NONE: Arrivals = Arrivals { total: 0, remote: 0, found_empty_ns: 0, listeners: 0 };

/// The address of a listener.
#[inline(always)]
pub(crate) fn address_of_listener(sock: *const c_void) -> Option<Address> {
    // `skc_num` says the same, but is zero by the time at which a listener closes to which the
    // kernel gave its port.
    let port = Helper::read(sock, offset!(inet_sport))?;
    address::<Helper>(sock, u16::from_be(port))
}

#[inline(always)]
fn address<R: Reading>(sock: *const c_void, port: u16) -> Option<Address> {
    let net = R::pointer(sock, offset!(sock_net))? as u64;
    let family = R::read(sock, offset!(sock_family))?;
    let mut addr = [0; 4];
    if family == AF_INET6 {
        addr = R::read(sock, offset!(sock_v6_rcv_saddr))?;
    } else {
        addr[0] = R::read(sock, offset!(sock_rcv_saddr))?;
    }
    Some(Address { net, addr, family, port, reserved: 0 })
}

/// Begins to count at the address of a listener that is new.
#[inline(always)]
pub(crate) fn opened(sock: *const c_void) {
    let Some(address) = address_of_listener(sock) else { return };
    // Another may share the address: then the insert fails and the entry is there all the same.
    let _ = ARRIVALS.insert(address, NONE, u64::from(BPF_NOEXIST));
    let Some(arrivals) = ARRIVALS.get_ptr_mut(address) else { return count(Loss::ArrivalMapFull) };
    // SAFETY: the entry lives while the program runs, and its fields are aligned.
    unsafe { add_u64(&raw mut (*arrivals).listeners, 1) };
}

/// Ends counting at the address of a listener that closes, if it was the last there.
#[inline(always)]
pub(crate) fn closed(sock: *const c_void) {
    let Some(address) = address_of_listener(sock) else { return };
    let Some(arrivals) = ARRIVALS.get_ptr_mut(address) else { return };
    // SAFETY: as above; adding the largest number takes one away. Two that close at once may both
    // see none left, or leave one entry behind, which the next listener at the address takes over.
    let left = unsafe {
        add_u64(&raw mut (*arrivals).listeners, u64::MAX);
        (*arrivals).listeners
    };
    if left == 0 {
        let _ = ARRIVALS.remove(address);
    }
}

/// Counts a connection; `child` is the copy of its listener.
#[inline(always)]
pub(crate) fn came(child: *const c_void) {
    let Some(port) = Typed::read(child, offset!(sock_num)) else { return };
    // Since 6.16 or so the copy has its own address by now.
    let Some(arrivals) = counted_for(child, port) else { return };
    // SAFETY: the entry lives while the program runs, and its fields are aligned. Two CPUs may both
    // find the queue empty: then either time is right.
    unsafe {
        add_u64(&raw mut (*arrivals).total, 1);
        if Typed::read::<u32>(child, offset!(sock_ack_backlog)) == Some(0) {
            (*arrivals).found_empty_ns = bpf_ktime_get_ns();
        }
    }
}

/// The loopback interface of every network namespace: `LOOPBACK_IFINDEX` of include/net/flow.h.
const LOOPBACK: u32 = 1;

/// Counts a connection that is established now, if it came from another host.
#[inline(always)]
pub(crate) fn established(child: *const c_void) {
    // Zero where the kernel did not keep it. Until 5.15 it lies behind `struct sock`, where the
    // verifier knows no type.
    let interface = match Typed::read::<u32>(child, offset!(sock_rx_ifindex)) {
        Some(interface) => interface,
        None if offset!(inet_rx_ifindex) == ABSENT as usize => return,
        None => read_or_zero(child, offset!(inet_rx_ifindex)),
    };
    if interface <= LOOPBACK {
        return;
    }
    let Some(port) = Typed::read(child, offset!(sock_num)) else { return };
    let Some(arrivals) = counted_for(child, port) else { return };
    // SAFETY: the entry lives while the program runs, and its fields are aligned.
    unsafe { add_u64(&raw mut (*arrivals).remote, 1) };
}

/// The counts that a connection at this port belongs to: those of its own address, or of a listener
/// at every address.
#[inline(always)]
fn counted_for(child: *const c_void, port: u16) -> Option<*mut Arrivals> {
    let mut address = address::<Typed>(child, port)?;
    if let Some(arrivals) = ARRIVALS.get_ptr_mut(address) {
        return Some(arrivals);
    }
    address.addr = [0; 4];
    ARRIVALS.get_ptr_mut(address)
}

/// What came to an address so far.
#[inline(always)]
pub(crate) fn at(address: &Address) -> Arrivals {
    // SAFETY: the entry may be written while it is read; an aligned u64 is read whole.
    ARRIVALS.get_ptr(address).map_or(NONE, |arrivals| unsafe { *arrivals })
}
