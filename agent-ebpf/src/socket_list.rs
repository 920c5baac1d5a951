//! `list_sockets`: every TCP socket that listens or is established and that a process holds, in
//! every network namespace.
//!
//! `sock_diag` reports the sockets of a network namespace only after it was entered, which needs
//! CAP_SYS_ADMIN, and `/proc/PID/fd` their holders only with CAP_SYS_PTRACE. This needs neither.
//!
//! - Hook: `iter/task_file`, `int (struct bpf_iter__task_file *ctx)`, process context.
//! - Minimum kernel: 5.8.
//! - Cost: that of the other passes over open files, and a sample for each such socket. A pass is
//!   made while the node drains, and while listeners find no room in the map.
//! - Does not see: sockets that no process holds. Connections that wait for accept() are counted by
//!   their listener.

use core::ffi::c_void;

use spillway_ebpf::{ABSENT, SocketSample, TCP_ESTABLISHED, TCP_LISTEN};

use crate::{
    arrivals,
    kernel_read::{Helper, IterTaskFile, Reading as _, emit, offset},
    sock::{drops_of, inode_of, is_tcp, socket_of, uid_of},
};

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub extern "C" fn list_sockets(ctx: *mut IterTaskFile) -> i32 {
    // SAFETY: the kernel passes a valid context; its members are read as the verifier allows.
    let (meta, task, file) =
        unsafe { ((*ctx).meta, (*ctx).task.cast_const(), (*ctx).file.cast_const()) };
    if task.is_null() || file.is_null() {
        return 0;
    }
    if let Some(sample) = sample(task, file) {
        emit(meta, &sample);
    }
    0
}

#[inline(always)]
fn sample(task: *const c_void, file: *const c_void) -> Option<SocketSample> {
    let sock = socket_of(file)?;
    let state = u16::from(Helper::read::<u8>(sock, offset!(sock_state))?);
    if (state != TCP_LISTEN && state != TCP_ESTABLISHED) || !is_tcp::<Helper>(sock)? {
        return None;
    }
    let address = arrivals::address_of_listener(sock)?;
    Some(SocketSample {
        sock: sock as u64,
        inode: inode_of(sock)?,
        addr: address.addr,
        netns: Helper::read(address.net as *const c_void, offset!(net_inum))?,
        pid: Helper::read(task, offset!(task_tgid))?,
        in_its_netns: u32::from(shares_netns(task, sock)),
        uid: uid_of(sock)?,
        backlog: Helper::read(sock, offset!(sock_ack_backlog))?,
        backlog_max: Helper::read(sock, offset!(sock_max_ack_backlog))?,
        drops: drops_of(sock)?,
        family: address.family,
        port: address.port,
        state,
        reserved: [0; 3],
    })
}

/// Returns whether a process is in the network namespace of a socket that it holds; false if that
/// is unknown.
#[inline(always)]
pub(crate) fn shares_netns(task: *const c_void, sock: *const c_void) -> bool {
    if offset!(task_nsproxy) == ABSENT as usize || offset!(nsproxy_net) == ABSENT as usize {
        return false;
    }
    let nsproxy = Helper::pointer(task, offset!(task_nsproxy));
    let netns = nsproxy.and_then(|nsproxy| Helper::pointer(nsproxy, offset!(nsproxy_net)));
    netns.is_some() && netns == Helper::pointer(sock, offset!(sock_net))
}
