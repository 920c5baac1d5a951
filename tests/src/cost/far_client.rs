//! A client that looks like another machine to the server's kernel and makes one connection after
//! another, all in one thread.
//!
//! It only handles the expected packets: any loss or other order is an error.

use std::net::TcpListener;

use anyhow::{Context as _, bail};

use crate::tun::{ACK, FIN, PORTS, SERVER, SYN, Segment, Tun};

/// Listener in its own network and the client that reaches it.
pub struct FarClient {
    tun: Tun,
    listener: TcpListener,
    port: u16,
}

impl FarClient {
    /// Moves this thread to a new network namespace with a listener and a client.
    pub fn start() -> anyhow::Result<Self> {
        let mut tun = Tun::open(0)?;
        let listener = TcpListener::bind((SERVER, 0))?;
        tun.serve_at(listener.local_addr()?.port());
        Ok(Self { tun, listener, port: PORTS.start })
    }

    /// Runs a connection from its first packet to its last.
    pub fn connect(&mut self) -> anyhow::Result<()> {
        self.port = if self.port + 1 < PORTS.end { self.port + 1 } else { PORTS.start };
        // Any initial sequence number is valid.
        let ours = u32::from(self.port) << 8;
        self.send(SYN, ours, 0)?;
        let theirs = self.receive(SYN | ACK)?.wrapping_add(1);
        self.send(ACK, ours + 1, theirs)?;
        let (accepted, _) = self.listener.accept()?;
        self.send(FIN | ACK, ours + 1, theirs)?;
        drop(accepted);
        self.receive(FIN | ACK)?;
        self.send(ACK, ours + 2, theirs.wrapping_add(1))
    }

    fn send(&mut self, flags: u8, seq: u32, ack: u32) -> anyhow::Result<()> {
        Ok(self.tun.send(Segment { port: self.port, flags, seq, ack, len: 0 }, &[])?)
    }

    /// Waits for our connection's next packet with these flags and returns its sequence number;
    /// other connections' packets are skipped.
    fn receive(&mut self, flags: u8) -> anyhow::Result<u32> {
        loop {
            match self.tun.receive()? {
                // The server's kernel responds while it receives a packet, unless it is busy and
                // defers that.
                None => self
                    .tun
                    .wait()
                    .with_context(|| format!("no packet with flags {flags:#x} came"))?,
                Some(segment) if segment.port != self.port || segment.flags == ACK => {}
                Some(segment) if segment.flags == flags => return Ok(segment.seq),
                Some(segment) => {
                    bail!("a packet with flags {:#x} came, not {flags:#x}", segment.flags)
                }
            }
        }
    }
}
