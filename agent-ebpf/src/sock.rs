//! Reads of sockets that several probes share.

use core::ffi::c_void;

use spillway_ebpf::ABSENT;

use crate::kernel_read::{Helper, Reading, offset, read_or_zero};

pub(crate) const AF_INET: u16 = 2;
pub(crate) const AF_INET6: u16 = 10;
const IPPROTO_TCP: u16 = 6;
const S_IFMT: u16 = 0o170_000;
const S_IFSOCK: u16 = 0o140_000;

/// Returns the socket behind `file`, of any family; `None` if the file is not a socket.
#[inline(always)]
pub(crate) fn socket_of(file: *const c_void) -> Option<*const c_void> {
    let inode = Helper::pointer(file, offset!(file_inode))?;
    if Helper::read::<u16>(inode, offset!(inode_mode))? & S_IFMT != S_IFSOCK {
        return None;
    }
    let socket = Helper::pointer(file, offset!(file_private_data))?;
    Helper::pointer(socket, offset!(socket_sk))
}

/// Returns the TCP socket behind `file` if it is in this state; `None` otherwise.
#[inline(always)]
pub(crate) fn tcp_in_state(file: *const c_void, state: u8) -> Option<*const c_void> {
    let sock = socket_of(file)?;
    let is = Helper::read::<u8>(sock, offset!(sock_state))? == state && is_tcp::<Helper>(sock)?;
    is.then_some(sock)
}

/// Returns whether a socket is TCP over IP; `None` if it cannot be read.
#[inline(always)]
pub(crate) fn is_tcp<R: Reading>(sock: *const c_void) -> Option<bool> {
    let family = R::read::<u16>(sock, offset!(sock_family))?;
    let inet = family == AF_INET || family == AF_INET6;
    Some(inet && R::read::<u16>(sock, offset!(sock_protocol))? == IPPROTO_TCP)
}

/// Returns the inode number of the file behind a socket; a closed socket has none.
#[inline(always)]
pub(crate) fn inode_of(sock: *const c_void) -> Option<u64> {
    Helper::read(Helper::pointer(sock, offset!(sock_socket))?, offset!(socket_inode))
}

/// Returns the uid of a socket's owner; 0 if this kernel does not keep it.
#[inline(always)]
pub(crate) fn uid_of(sock: *const c_void) -> Option<u32> {
    let at = offset!(sock_uid);
    if at == ABSENT as usize { Some(0) } else { Helper::read(sock, at) }
}

/// Returns the packets that a socket dropped; 0 if this kernel does not count them in a known form.
#[inline(always)]
pub(crate) fn drops_of(sock: *const c_void) -> Option<u32> {
    let at = offset!(sock_drops);
    if at == ABSENT as usize { Some(0) } else { Helper::read(sock, at) }
}

/// Returns the time at which a connection that waits for accept() was established, on the monotonic
/// clock in microseconds; 0 before.
///
/// `tcp_sock.rcvq_space.time` is set when the connection is established, in the same run of the
/// network stack in which it enters the accept queue, and next when an application reads from it,
/// which is impossible before accept(). So the socket itself carries the time: no map is needed,
/// nor its cleanup for connections that die in the queue.
#[inline(always)]
pub(crate) fn established_us(child: *const c_void) -> u64 {
    read_or_zero(child, offset!(tcp_established))
}
