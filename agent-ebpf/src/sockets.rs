//! What is read of a TCP socket wherever one is met.

use core::ffi::c_void;

use crate::kernel::{Reading, offset, read_or_zero};

const AF_INET: u16 = 2;
pub(crate) const AF_INET6: u16 = 10;
const IPPROTO_TCP: u16 = 6;

/// Whether a socket speaks TCP over IP; `None` where it cannot be read.
#[inline(always)]
pub(crate) fn is_tcp<R: Reading>(sock: *const c_void) -> Option<bool> {
    let family = R::read::<u16>(sock, offset!(sock_family))?;
    let inet = family == AF_INET || family == AF_INET6;
    Some(inet && R::read::<u16>(sock, offset!(sock_protocol))? == IPPROTO_TCP)
}

/// When a connection that waits for accept() was established, on the monotonic clock in microseconds; 0 before.
///
/// `tcp_sock.rcvq_space.time` is set when the connection is established, in the same turn of the network stack in which it
/// enters the accept queue, and next when an application reads from it, which nobody can before accept(). So the socket
/// itself carries its time: no map has to, and none has to be purged of connections that die in the queue.
#[inline(always)]
pub(crate) fn established_us(child: *const c_void) -> u64 {
    read_or_zero(child, offset!(tcp_established))
}
