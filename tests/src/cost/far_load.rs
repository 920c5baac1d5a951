//! Clients on another machine that keep a web server busy: so many requests at once, a connection
//! for each, which the client closes.
//!
//! What the server sends again, having seen no answer, is answered again: one packet in some ten
//! thousand is lost on the way. A reset is an error, and so are two seconds in which nothing comes.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, bail};

use crate::tun::{ACK, FIN, PORTS, RST, SYN, Segment, Tun};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: far\r\n\r\n";

/// Bytes of the request, as sequence numbers count.
const ASKED: u32 = REQUEST.len() as u32;

/// How far each connection is, by port.
pub struct FarLoad {
    tun: Tun,
    at: Vec<At>,
    next: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Rest,
    /// The first packet is sent.
    Begun,
    /// The request is sent.
    Asked,
    /// It is answered, and the client is through.
    Answered,
}

impl FarLoad {
    /// Clients behind a device.
    pub fn new(tun: Tun) -> Self {
        Self { tun, at: vec![At::Rest; PORTS.len()], next: 0 }
    }

    /// Keeps `at_once` requests under way until it is told to stop; gives how many were answered.
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

    /// Begins a connection at the next port.
    fn begin(&mut self) -> anyhow::Result<()> {
        while self.at[self.next] != At::Rest {
            self.next = (self.next + 1) % self.at.len();
        }
        let nth = self.next;
        self.next = (nth + 1) % self.at.len();
        self.at[nth] = At::Begun;
        self.send(nth, SYN, 0, 0, &[])
    }

    /// Goes on with a connection of which a segment came, and says whether it is over: then another
    /// has begun.
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

    /// Sends a segment of the connection at the `nth` port, so many bytes after its first.
    fn send(
        &mut self,
        nth: usize,
        flags: u8,
        sent: u32,
        ack: u32,
        data: &[u8],
    ) -> anyhow::Result<()> {
        let port = PORTS.start + nth as u16;
        // Where a connection begins to count is its own affair.
        let seq = (u32::from(port) << 8).wrapping_add(sent);
        Ok(self.tun.send(Segment { port, flags, seq, ack, len: 0 }, data)?)
    }
}
