//! Connections on which requests come, noted when they are established.
//!
//! Each CPU keeps the latest, without a lock, an allocation or a lookup by address, and nothing is
//! done when a connection closes: the agent takes them at its next look, and a visit finds out
//! which are left. So a connection costs a few stores, and many short ones cost the host no memory.
//!
//! - Hook: see `sock_state`; softirq context, or that of a process that ends its use of the socket.
//! - Memory: 12 KiB a CPU.
//! - Does not see: connections that were there before the agent. One that another interrupts on the
//!   same CPU may overwrite it, and those beyond the latest [`NEW_CONNECTIONS_KEPT`] between two
//!   looks are forgotten. A pass over open files finds all of these.

use core::ffi::c_void;

use aya_ebpf::{macros::map, maps::PerCpuArray};
use spillway_ebpf::{NEW_CONNECTIONS_KEPT, NewConnection, NewConnections};

use crate::{
    kernel_read::{Reading as _, Typed, offset},
    shares::owner_in,
};

/// Latest connections of each CPU.
#[map]
static NEW_CONNECTIONS: PerCpuArray<NewConnections> = PerCpuArray::with_max_entries(1, 0);

/// Notes a connection that is established now at a listener.
#[inline(always)]
pub(crate) fn established(child: *const c_void) {
    let Some(net) = Typed::pointer(child, offset!(sock_net)) else { return };
    let Some(netns) = Typed::read(net, offset!(net_inum)) else { return };
    let Some(port) = Typed::read(child, offset!(sock_num)) else { return };
    let share = owner_in::<Typed>(child, netns);
    let noted = NewConnection { sock: child as u64, share, netns, port, reserved: 0 };
    let Some(latest) = NEW_CONNECTIONS.get_ptr_mut(0) else { return };
    // SAFETY: the entry is this CPU's own, is there as long as the map, and is aligned; the agent
    // may read it meanwhile, and finds a slot of before or after.
    unsafe {
        let total = (*latest).total;
        (*latest).latest[total as usize % NEW_CONNECTIONS_KEPT] = noted;
        (*latest).total = total + 1;
    }
}
