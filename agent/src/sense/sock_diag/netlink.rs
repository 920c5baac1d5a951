//! Netlink side of `sock_diag`: sockets in network namespaces, requests and responses.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::IPPROTO_TCP,
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
    unix,
};
use netlink_sys::{Socket, protocols::NETLINK_SOCK_DIAG};

use super::listener::ListenerAddr;
use crate::os::netns;

/// Buffer for one response: the kernel fills at most 32 KiB (`NLMSG_GOODSIZE` is 8 KiB, dumps are
/// larger).
const ANSWER_BYTES: usize = 64 << 10;

/// Opens a `sock_diag` socket in the network namespace of the calling thread.
pub(super) fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    Ok(socket)
}

/// Opens a `sock_diag` socket inside a network namespace. The agent's own need not be entered,
/// which would take a privilege.
pub(super) fn open_in(netns: &Path) -> io::Result<Socket> {
    let target = File::open(netns)?;
    if target.metadata()?.ino() == fs::metadata("/proc/thread-self/ns/net")?.ino() {
        return open();
    }
    netns::inside(target, open)
}

pub(super) fn tcp_listeners(family: u8) -> SockDiagMessage {
    tcp_sockets(family, StateFlags::LISTEN)
}

pub(super) fn tcp_sockets(family: u8, states: StateFlags) -> SockDiagMessage {
    tcp_request(family, states, ExtensionFlags::SKMEMINFO)
}

/// Requests connections with their times. A connection that was reset is in no table.
pub(super) fn tcp_connections(family: u8) -> SockDiagMessage {
    let states = StateFlags::ESTABLISHED | StateFlags::CLOSE_WAIT;
    tcp_request(family, states, ExtensionFlags::INFO)
}

fn tcp_request(family: u8, states: StateFlags, extensions: ExtensionFlags) -> SockDiagMessage {
    SockDiagMessage::InetRequest(InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions,
        states,
        socket_id: SocketId::new_v4(),
    })
}

pub(super) fn unix_listeners() -> SockDiagMessage {
    unix_sockets(unix::StateFlags::LISTEN)
}

/// Requests connections. The server's end has the name of its listener.
pub(super) fn unix_connections() -> SockDiagMessage {
    unix_sockets(unix::StateFlags::ESTABLISHED)
}

fn unix_sockets(state_flags: unix::StateFlags) -> SockDiagMessage {
    SockDiagMessage::UnixRequest(unix::UnixRequest {
        state_flags,
        inode: 0,
        show_flags: unix::ShowFlags::NAME | unix::ShowFlags::RQLEN,
        cookie: [0xFF; 8],
    })
}

pub(super) fn dump(
    socket: &Socket,
    request: SockDiagMessage,
    mut each: impl FnMut(&ListenerAddr<'_>),
) -> io::Result<()> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut packet = NetlinkMessage::new(header, request.into());
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    socket.send(&bytes, 0)?;

    let mut answer = Vec::with_capacity(ANSWER_BYTES);
    // A malformed message does not end the response: its rest would be read as the next one.
    let mut unread = Ok(());
    loop {
        answer.clear();
        socket.recv(&mut answer, 0)?;
        if read_answer(&answer, &mut unread, &mut each)? {
            return unread;
        }
    }
}

/// Reads a part of a response; returns whether it was the last. `unread` receives the error of a
/// malformed message.
pub(super) fn read_answer(
    answer: &[u8],
    unread: &mut io::Result<()>,
    each: &mut impl FnMut(&ListenerAddr<'_>),
) -> io::Result<bool> {
    let mut rest = answer;
    while !rest.is_empty() {
        // The length comes first. Messages are aligned to four bytes; a length of zero would never
        // end.
        let length = rest.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes) as usize);
        let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest);
        rest = rest.get(length.max(4).next_multiple_of(4)..).unwrap_or_default();
        let Ok(message) = message.map_err(|error| *unread = Err(io::Error::other(error))) else {
            continue;
        };
        match &message.payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                each(&ListenerAddr::Tcp(response))
            }
            NetlinkPayload::InnerMessage(SockDiagMessage::UnixResponse(response)) => {
                each(&ListenerAddr::Unix(response))
            }
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) => return Err(error.to_io()),
            _ => {}
        }
    }
    Ok(false)
}
