//! One connection at one moment: is a request in flight, and how old is it?
//!
//! The kernel keeps two times in each socket, when data last came and when data was last sent. A
//! request is in flight if its data came after the last data was sent. Both are ticks of 1 to 10 ms
//! (`CONFIG_HZ`), and a client that sends its next request at once shares a tick with the response
//! before it. Then sequence numbers decide: nothing sent is unacknowledged, and the segment that
//! acknowledged the last of it carried data. That segment was the next request; a client that only
//! thinks acknowledges without data. `sock_diag` does not show this, so a tie counts as answered
//! there. Whatever the times, data that the process has not read is a request in flight.
//!
//! A client's pure acknowledgement after its request, as while it still reads, hides a request that
//! ties. The table repairs this if it saw the request before.

use netlink_packet_sock_diag::inet::{InetResponse, nlas::Nla};
use spillway_ebpf::{RequestSample, TCP_CLOSE_WAIT, TCP_ESTABLISHED};

/// A connection at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PeerConnection {
    /// Number of its socket, unique while that lives.
    pub(super) socket: u64,
    /// Port of the peer, which distinguishes it from a later connection in the same memory.
    pub(super) peer_port: u16,
    /// Set if the peer has closed or reset it.
    pub(super) is_left: bool,
    /// Set if the process has not read everything.
    pub(super) is_unread: bool,
    /// Set if a request has no response yet.
    pub(super) is_in_flight: bool,
    /// Time since data last came.
    pub(super) received_us: u64,
    /// Time since data was last sent.
    pub(super) sent_us: u64,
    /// Bytes that came so far, modulo 2³².
    pub(super) received_bytes: u32,
    /// Tick in which data was last sent, modulo 2³²; 0 if unknown.
    pub(super) sent_tick: u32,
}

/// Age from which a time counts as one in the future, which is now: half of all ticks.
const FUTURE_TICKS: u32 = 1 << 31;

impl PeerConnection {
    /// Reads a sample of BPF. `tick_ns` is the length of a tick.
    pub(super) fn from_sample(sample: &RequestSample, tick_ns: u64) -> Self {
        let age = |then: u32| {
            let ticks = sample.now.wrapping_sub(then);
            if ticks >= FUTURE_TICKS { 0 } else { ticks }
        };
        let (received, sent) = (age(sample.received), age(sample.sent));
        // A FIN takes a sequence number.
        let fin = i32::from(sample.state != TCP_ESTABLISHED);
        let is_unread = sample.unread as i32 > fin;
        let is_newest = sample.unacked == 0 && sample.newest > fin as u32;
        let us = |ticks: u32| u64::from(ticks).saturating_mul(tick_ns) / 1_000;
        Self {
            socket: sample.sock,
            peer_port: sample.peer_port,
            is_left: sample.state != TCP_ESTABLISHED,
            is_unread,
            is_in_flight: is_unread || received < sent || (received == sent && is_newest),
            received_us: us(received),
            sent_us: us(sent),
            received_bytes: sample.received_bytes,
            sent_tick: sample.sent,
        }
    }

    /// Reads a response of `sock_diag`; `None` if the kernel left out the times.
    pub(super) fn from_response(response: &InetResponse) -> Option<Self> {
        /// Offsets into `struct tcp_info` of include/uapi/linux/tcp.h, which only grows.
        const LAST_DATA_SENT: usize = 44;
        const LAST_DATA_RECEIVED: usize = 52;
        const BYTES_RECEIVED: usize = 128;
        let info = response.nlas.iter().find_map(|nla| match nla {
            Nla::TcpInfo(info) => Some(info),
            _ => None,
        })?;
        let u32_at = |at: usize| {
            info.get(at..)?.first_chunk().map(|bytes: &[u8; 4]| u32::from_ne_bytes(*bytes))
        };
        let (received, sent) = (u32_at(LAST_DATA_RECEIVED)?, u32_at(LAST_DATA_SENT)?);
        let header = &response.header;
        let is_left = u16::from(header.state) == TCP_CLOSE_WAIT;
        let is_unread = header.recv_queue > u32::from(is_left);
        Some(Self {
            socket: u64::from_ne_bytes(header.socket_id.cookie),
            peer_port: header.socket_id.destination_port,
            is_left,
            is_unread,
            is_in_flight: is_unread || received < sent,
            received_us: u64::from(received) * 1_000,
            sent_us: u64::from(sent) * 1_000,
            received_bytes: u32_at(BYTES_RECEIVED)?,
            sent_tick: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use spillway_ebpf::TCP_CLOSE;

    use super::*;

    const TICK_NS: u64 = 4_000_000;

    fn sample(received: u32, sent: u32) -> RequestSample {
        RequestSample { received, sent, now: 1_000, state: TCP_ESTABLISHED, ..Default::default() }
    }

    fn connection(sample: &RequestSample) -> PeerConnection {
        PeerConnection::from_sample(sample, TICK_NS)
    }

    #[test]
    fn newer_data_of_the_client_is_in_flight_and_as_old_as_it() {
        let waits = connection(&sample(990, 980));
        assert!(waits.is_in_flight && !waits.is_unread && !waits.is_left);
        assert_eq!((waits.received_us, waits.sent_us), (40_000, 80_000));
        assert!(!connection(&sample(980, 990)).is_in_flight);
    }

    #[test]
    fn times_are_compared_across_the_wrap_of_ticks() {
        let across =
            |received, sent| connection(&RequestSample { now: 5, ..sample(received, sent) });
        let waits = across(2, u32::MAX - 2);
        assert!(waits.is_in_flight);
        assert_eq!((waits.received_us, waits.sent_us), (12_000, 32_000));
        assert!(!across(u32::MAX - 2, 2).is_in_flight);
        // Idle for longer than the sign of a difference reaches.
        assert!(!connection(&RequestSample { now: 1_900_000_000, ..sample(0, 1) }).is_in_flight);
    }

    #[test]
    fn time_after_the_sample_is_now() {
        let ahead = connection(&sample(1_002, 990));
        assert_eq!((ahead.received_us, ahead.is_in_flight), (0, true));
    }

    #[test]
    fn tie_is_answered_unless_unread_or_last_in_order() {
        let tie = sample(990, 990);
        assert!(!connection(&tie).is_in_flight);
        assert!(connection(&RequestSample { unread: 1, ..tie }).is_in_flight);
        // The response was acknowledged by the next request.
        assert!(connection(&RequestSample { newest: 80, ..tie }).is_in_flight);
        // The response is on its way.
        assert!(!connection(&RequestSample { newest: 80, unacked: 200, ..tie }).is_in_flight);
        // A segment came before the one that is missing.
        assert!(
            connection(&RequestSample { newest: 1_460_u32.wrapping_neg(), ..tie }).is_in_flight
        );
    }

    #[test]
    fn fin_is_not_a_request() {
        let left =
            RequestSample { state: TCP_CLOSE_WAIT, unread: 1, newest: 1, ..sample(990, 990) };
        let closed = connection(&left);
        assert!(closed.is_left && !closed.is_unread && !closed.is_in_flight);
        assert!(connection(&RequestSample { unread: 2, ..left }).is_unread);
        assert!(connection(&RequestSample { newest: 2, ..left }).is_in_flight);
        assert!(connection(&RequestSample { state: TCP_CLOSE, ..left }).is_left);
    }

    #[test]
    fn bytes_read_meanwhile_are_not_unread() {
        let raced = RequestSample { unread: 10_u32.wrapping_neg(), ..sample(980, 990) };
        assert!(!connection(&raced).is_unread);
    }
}
