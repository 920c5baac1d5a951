//! A listener in a response or a list, and the fact about it.

use std::{collections::HashMap, net::SocketAddr, os::unix::ffi::OsStrExt as _, sync::Arc};

use netlink_packet_sock_diag::{
    inet::InetResponse,
    unix::{self, nlas::UnixDiagName},
};
use spillway_ebpf::SocketSample;

use crate::sense::{ListenerFact, addr, socket_list::SocketOwner};

/// A listener in a response, before anything else is read about it.
#[derive(Debug, Clone, Copy)]
pub(in crate::sense) struct DiagListener {
    pub(in crate::sense) netns: u32,
    /// Owner; 0 for a UNIX listener, whose owner is unknown.
    pub(in crate::sense) uid: u32,
    /// Set if connections wait.
    pub(in crate::sense) waiting: bool,
    /// Address; `None` for a UNIX listener.
    pub(in crate::sense) socket: Option<SocketAddr>,
}

/// A listener in a response or a list.
pub(super) enum ListenerAddr<'a> {
    Tcp(&'a InetResponse),
    Unix(&'a unix::UnixResponse),
    /// TCP listener of a list.
    Listed(&'a SocketSample),
}

impl ListenerAddr<'_> {
    pub(super) fn found(&self, netns: u64) -> DiagListener {
        let netns = netns as u32;
        match self {
            Self::Tcp(InetResponse { header, .. }) => DiagListener {
                netns,
                uid: header.uid,
                waiting: header.recv_queue > 0,
                socket: Some(SocketAddr::new(
                    header.socket_id.source_address,
                    header.socket_id.source_port,
                )),
            },
            Self::Unix(response) => DiagListener {
                netns,
                uid: 0,
                waiting: response.number_of_pending_connection().is_some_and(|pending| pending > 0),
                socket: None,
            },
            Self::Listed(sample) => DiagListener {
                netns,
                uid: sample.uid,
                waiting: sample.backlog > 0,
                socket: Some(addr::inet_addr(sample.family, sample.addr, sample.port)),
            },
        }
    }
}

pub(super) fn fact(
    owners: &HashMap<u64, SocketOwner>,
    netns: u64,
    response: &ListenerAddr<'_>,
) -> ListenerFact {
    let (inode, fact) = match response {
        ListenerAddr::Tcp(response) => (response.header.inode, tcp_fact(response)),
        ListenerAddr::Unix(response) => (response.header.inode, unix_fact(response)),
        ListenerAddr::Listed(sample) => (sample.inode as u32, listed_fact(sample)),
    };
    let owner = owners.get(&u64::from(inode));
    ListenerFact {
        netns: netns as u32,
        socket: u64::from(inode),
        cgroup: owner.map_or_else(|| Arc::from(""), |owner| owner.cgroup.clone()),
        pid: owner.map(|owner| owner.pid),
        ..fact
    }
}

pub(super) fn tcp_fact(response: &InetResponse) -> ListenerFact {
    let header = &response.header;
    let address = SocketAddr::new(header.socket_id.source_address, header.socket_id.source_port);
    listener_at(address, header.recv_queue, header.send_queue)
}

pub(super) fn listed_fact(sample: &SocketSample) -> ListenerFact {
    let address = addr::inet_addr(sample.family, sample.addr, sample.port);
    listener_at(address, sample.backlog, sample.backlog_max)
}

fn listener_at(address: SocketAddr, backlog: u32, backlog_max: u32) -> ListenerFact {
    ListenerFact {
        addr: Arc::from(address.to_string()),
        backlog,
        backlog_max,
        remote_arrived_total: Some(0),
        ..ListenerFact::default()
    }
}

/// Returns the name of a UNIX socket.
pub(super) fn unix_name(response: &unix::UnixResponse) -> Arc<str> {
    match response.name() {
        Some(UnixDiagName::Pathname(path)) => addr::unix_path(path.as_bytes()),
        Some(UnixDiagName::Abstract(name)) => addr::unix_abstract(name),
        None => addr::unix_path(b""),
    }
}

pub(super) fn unix_fact(response: &unix::UnixResponse) -> ListenerFact {
    let addr = unix_name(response);
    let backlog = response.number_of_pending_connection().unwrap_or(0);
    ListenerFact {
        addr,
        backlog,
        backlog_max: response.max_number_of_pending_connection().unwrap_or(0),
        oldest_wait_us: (backlog == 0).then_some(0),
        remote_arrived_total: Some(0),
        ..ListenerFact::default()
    }
}
