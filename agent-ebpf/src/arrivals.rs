//! Connections that arrive at each address, the number of them from other hosts, and the time at
//! which one last found the queue empty.
//!
//! In `inet_csk_clone_lock()` the kernel creates the socket of a connection that enters the accept
//! queue: a copy of the listener, whose state it then changes from LISTEN to SYN_RECV. At that
//! moment the copy still has the listener's address and the number of waiting connections
//! (`sk_ack_backlog`, which is unused in a connection). The listener itself is unknown: sockets
//! that share an address (SO_REUSEPORT) are counted together.
//!
//! The origin of a connection is known a moment later, when it leaves SYN_RECV: by then the kernel
//! has set the interface. A connection over loopback came from this host, whatever its address.
//!
//! - Hook: see `sock_state`; softirq context.
//! - Does not see: connections that overflow, which get no socket. One whose last packet is handled
//!   by two CPUs at once is counted twice: one in a thousand on an emulated 5.10 with four clients
//!   on eight CPUs.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::generated::bpf_ktime_get_ns,
    macros::map,
    maps::{Array, HashMap},
};
use spillway_ebpf::{ABSENT, LISTENERS_MAX, Loss};

use crate::{
    atomic::add_u64,
    kernel_read::{Helper, Members, OneByOne, Reading as _, Typed, count, offset, read_or_zero},
    sock::AF_INET6,
};

/// Counts by address, while it has a listener. The capacity is that of the map of listeners.
#[map]
static ARRIVALS: HashMap<Address, Arrivals> = HashMap::with_max_entries(LISTENERS_MAX, 0);

/// Ports at which something listens or has listened, in any namespace: a byte each. Most sockets
/// that are no listener's are known by it, without a lookup of their address.
#[map]
static PORTS: Array<[u8; PORTS_MAX]> = Array::with_max_entries(1, 0);
const PORTS_MAX: usize = 1 << 16;

/// Address of a listener. The network namespace is identified by its kernel address, which takes
/// one read less than its number.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) net: u64,
    pub(crate) addr: [u32; 4],
    pub(crate) family: u16,
    pub(crate) port: u16,
    reserved: u32,
}

/// Counts of an address.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Arrivals {
    /// Connections that entered an accept queue.
    pub(crate) total: u64,
    /// Connections among them from other hosts.
    pub(crate) remote: u64,
    /// Time at which one last found the queue empty, on the monotonic clock in nanoseconds.
    pub(crate) found_empty_ns: u64,
    /// Number of listeners that share the address.
    listeners: u64,
}

const NONE: Arrivals = Arrivals { total: 0, remote: 0, found_empty_ns: 0, listeners: 0 };

/// Returns the address of a listener.
#[inline(always)]
pub(crate) fn address_of_listener(sock: *const c_void) -> Option<Address> {
    // `skc_num` has the same port, but is already zero when a listener closes whose port the kernel
    // had chosen.
    let port = Helper::read(sock, offset!(inet_sport))?;
    address(&OneByOne::<Helper>::of(sock), u16::from_be(port))
}

#[inline(always)]
fn address(sock: &impl Members, port: u16) -> Option<Address> {
    let net = sock.read::<*const c_void>(offset!(sock_net))? as u64;
    if net == 0 {
        return None;
    }
    let family = sock.read(offset!(sock_family))?;
    let mut addr = [0; 4];
    if family == AF_INET6 {
        addr = sock.read(offset!(sock_v6_rcv_saddr))?;
    } else {
        addr[0] = sock.read(offset!(sock_rcv_saddr))?;
    }
    Some(Address { net, addr, family, port, reserved: 0 })
}

/// Begins to count at the address of a new listener.
#[inline(always)]
pub(crate) fn opened(sock: *const c_void) {
    let Some(address) = address_of_listener(sock) else { return };
    if let Some(ports) = PORTS.get_ptr_mut(0) {
        // SAFETY: the entry is there as long as the map, and a byte is written whole.
        unsafe { (*ports)[index(&address.port)] = 1 };
    }
    // If another listener shares the address, the insert fails and the entry exists anyway.
    let _ = ARRIVALS.insert(address, NONE, u64::from(BPF_NOEXIST));
    let Some(arrivals) = ARRIVALS.get_ptr_mut(address) else { return count(Loss::ArrivalMapFull) };
    // SAFETY: the entry lives while the program runs, and its fields are aligned.
    unsafe { add_u64(&raw mut (*arrivals).listeners, 1) };
}

/// Ends counting at the address of a listener that closes, if it was the last one.
#[inline(always)]
pub(crate) fn closed(sock: *const c_void) {
    let Some(address) = address_of_listener(sock) else { return };
    let Some(arrivals) = ARRIVALS.get_ptr_mut(address) else { return };
    // SAFETY: as above; adding the largest number subtracts one. Two listeners that close at once
    // may both see none left, or leave an entry behind, which the next one at the address reuses.
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
    // Since about 6.16 the copy already has its own address.
    let Some(arrivals) = counted_for(child, port) else { return };
    // SAFETY: the entry lives while the program runs, and its fields are aligned. Two CPUs may both
    // find the queue empty; either time is right then.
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
    // Zero if the kernel did not keep it. Until 5.15 it is outside `struct sock`, where the
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

/// Returns the counts for a connection at this port: those of its address, or of a listener on all
/// addresses.
#[inline(always)]
fn counted_for(child: *const c_void, port: u16) -> Option<*mut Arrivals> {
    let mut address = address(&OneByOne::<Typed>::of(child), port)?;
    if let Some(arrivals) = ARRIVALS.get_ptr_mut(address) {
        return Some(arrivals);
    }
    address.addr = [0; 4];
    ARRIVALS.get_ptr_mut(address)
}

/// Returns a port as an index. The read from memory shows its range to verifiers that lose it when
/// bytes are swapped.
#[inline(always)]
fn index(port: &u16) -> usize {
    // SAFETY: a reference is valid to read.
    usize::from(unsafe { ptr::read_volatile(port) })
}

/// Returns the own address of a connection; `None` if nothing listens at its port.
#[inline(always)]
pub(crate) fn address_of_connection(connection: &impl Members) -> Option<Address> {
    // The first line of the cache has `skc_num`; it is zero in a connection that was reset.
    let mut port = connection.read::<u16>(offset!(sock_num))?;
    if port == 0 {
        port = u16::from_be(connection.read(offset!(inet_sport))?);
    }
    // SAFETY: as in `opened`.
    if unsafe { (*PORTS.get_ptr(0)?)[index(&port)] } == 0 {
        return None;
    }
    address(connection, port)
}

/// Returns the address of the listener that connections at this address came to; `None` if none is
/// known there.
#[inline(always)]
pub(crate) fn listener_at(mut address: Address) -> Option<Address> {
    if ARRIVALS.get_ptr(address).is_none() {
        address.addr = [0; 4];
        ARRIVALS.get_ptr(address)?;
    }
    Some(address)
}

/// Returns the counts of an address.
#[inline(always)]
pub(crate) fn at(address: &Address) -> Arrivals {
    // SAFETY: the entry may be written while it is read; an aligned u64 is read whole.
    ARRIVALS.get_ptr(address).map_or(NONE, |arrivals| unsafe { *arrivals })
}
