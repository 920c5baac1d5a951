//! Clients on another machine that keep a web server busy: a fixed number of requests at once, each
//! on its own connection, which the client closes.
//!
//! Retransmissions by the server are acknowledged again: about one packet in ten thousand is lost.
//! A reset is an error, and so are two seconds without a packet.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, bail};

use crate::tun::{ACK, FIN, PORTS, RST, SYN, Segment, Tun};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: far\r\n\r\n";

/// Length of the request in sequence numbers.
const ASKED: u32 = REQUEST.len() as u32;

/// State of each connection, by port.
pub struct FarLoad {
    tun: Tun,
    at: Vec<At>,
    next: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Rest,
    /// First packet sent.
    Begun,
    /// Request sent.
    Asked,
    /// Response received; the client is done.
    Answered,
}

impl FarLoad {
    /// Creates clients behind a device.
    pub fn new(tun: Tun) -> Self {
        Self { tun, at: vec![At::Rest; PORTS.len()], next: 0 }
    }

    /// Keeps `at_once` requests in progress until `stop` is set; returns the number of responses.
    pub fn run(&mut self, at_once: usize, stop: &AtomicBool) -> anyhow::Result<u64> {
        (0..at_once).try_for_each(|_| self.begin())?;
        let mut answered = 0;
        while !stop.load(Ordering::Relaxed) {
            match self.tun.receive()? {
                Some(segment) => answered += u64::from(self.follow(segment)?),
                None => self.tun.wait().with_context(|| {
                    let count = |at: At| self.at.iter().filter(|other| **other == at).count();
                    let [begun, asked, done] = [At::Begun, At::Asked, At::Answered].map(count);
                    format!(
                        "after {answered} answers none came for long: {begun} begun, {asked} \
                         asked, {done} answered"
                    )
                })?,
            }
        }
        Ok(answered)
    }

    /// Begins a connection on the next port.
    fn begin(&mut self) -> anyhow::Result<()> {
        while self.at[self.next] != At::Rest {
            self.next = (self.next + 1) % self.at.len();
        }
        let nth = self.next;
        self.next = (nth + 1) % self.at.len();
        self.at[nth] = At::Begun;
        self.send(nth, SYN, 0, 0, &[])
    }

    /// Advances the connection of a received segment. Returns true if the connection ended and
    /// another has begun.
    fn follow(&mut self, segment: Segment) -> anyhow::Result<bool> {
        let Some(nth) = segment
            .port
            .checked_sub(PORTS.start)
            .map(usize::from)
            .filter(|nth| *nth < self.at.len())
        else {
            return Ok(false);
        };
        let after = segment.seq.wrapping_add(segment.len);
        match (self.at[nth], segment.flags) {
            (At::Rest, _) => {}
            (_, flags) if flags & RST != 0 => {
                bail!("the server reset a connection that was {:?}", self.at[nth])
            }
            (At::Begun | At::Asked, flags) if flags & SYN != 0 => {
                self.at[nth] = At::Asked;
                self.send(nth, ACK, 1, after.wrapping_add(1), REQUEST)?;
            }
            (At::Asked | At::Answered, flags) if segment.len > 0 && flags & FIN == 0 => {
                self.at[nth] = At::Answered;
                self.send(nth, FIN | ACK, 1 + ASKED, after, &[])?;
            }
            (At::Answered, flags) if flags & FIN != 0 => {
                self.at[nth] = At::Rest;
                self.send(nth, ACK, 2 + ASKED, after.wrapping_add(1), &[])?;
                self.begin()?;
                return Ok(true);
            }
            _ => {}
        }
        Ok(false)
    }

    /// Sends a segment of the connection on the `nth` port, `sent` bytes after its first.
    fn send(
        &mut self,
        nth: usize,
        flags: u8,
        sent: u32,
        ack: u32,
        data: &[u8],
    ) -> anyhow::Result<()> {
        let port = PORTS.start + nth as u16;
        // Any initial sequence number is valid.
        let seq = (u32::from(port) << 8).wrapping_add(sent);
        Ok(self.tun.send(Segment { port, flags, seq, ack, len: 0 }, data)?)
    }
}
