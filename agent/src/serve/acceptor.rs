//! The accept loop of every port that the agent serves: who may connect, and how many.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
};

use super::{
    counts::DropCounter,
    slots::{Slot, Slots},
};
use crate::{clock::Clock, config::Network};

/// Pause after a failure to accept, for something to be freed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Least time between two log lines on the same trouble: peers must not be able to fill a disk.
const LOG_EVERY_SECS: f64 = 60.0;

/// Peers that may connect.
#[derive(Debug, Clone)]
pub struct AllowedPeers {
    /// Networks that may, besides this host.
    pub allow: Vec<Network>,
    /// Lets everybody connect, because each request has to carry a token.
    pub anyone: bool,
}

/// A port, and what holds for its connections.
pub struct Acceptor {
    /// Listening socket.
    pub listener: TcpListener,
    /// Peers that may connect.
    pub peers: AllowedPeers,
    /// Slots that new connections take.
    pub slots: Arc<Slots>,
    /// Counter of the connections that were dropped.
    pub drops: DropCounter,
    /// Longest that a connection is kept.
    pub timeout: Duration,
    /// Clock by which log lines are spaced.
    pub clock: Clock,
}

/// An accepted connection, without its stream.
pub struct Connection {
    peer: IpAddr,
    is_local: bool,
    is_trusted: bool,
    dropped: Arc<Notify>,
    slot: Mutex<Option<Slot>>,
}

impl AllowedPeers {
    /// Tells whether `peer` needs no token to connect: it is this host or in an allowed network.
    pub fn trusts(&self, peer: IpAddr, is_local: bool) -> bool {
        is_local || self.allow.iter().any(|network| network.contains(peer))
    }
}

impl Acceptor {
    /// Address that the port is bound to.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel does not give it.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Accepts connections for ever, and has `serve` serve each on a task of its own.
    pub async fn run<F>(self, serve: impl Fn(TcpStream, Arc<Connection>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (mut refusals, mut failures) = (Spaced::default(), Spaced::default());
        loop {
            let (stream, peer) = match self.listener.accept().await {
                Ok((stream, peer)) => (stream, peer.ip().to_canonical()),
                Err(error) => {
                    if failures.is_due(self.clock.now()) {
                        tracing::warn!(%error, "cannot accept a connection");
                    }
                    // Out of descriptors, most likely, and idle connections hold some.
                    self.slots.drop_idlest();
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let is_local = is_local(&stream, peer);
            let is_trusted = self.peers.trusts(peer, is_local);
            if !is_trusted && !self.peers.anyone {
                self.drops.count("not_allowed");
                if refusals.is_due(self.clock.now()) {
                    tracing::warn!(
                        "closed a connection from {peer}, which is in no network of serve.allow\n  \
                         hint: add its network to serve.allow if it should connect"
                    );
                }
                continue;
            }
            let dropped = Arc::new(Notify::new());
            let slot = Mutex::new(Some(self.slots.take(peer, is_local, &dropped)));
            let connection =
                Arc::new(Connection { peer, is_local, is_trusted, dropped: dropped.clone(), slot });
            let serving = tokio::time::timeout(self.timeout, serve(stream, connection));
            let drops = self.drops.clone();
            tokio::spawn(async move {
                tokio::select! {
                    biased;
                    () = dropped.notified() => {}
                    served = serving => if served.is_err() {
                        drops.count("timeout");
                    }
                }
            });
        }
    }
}

impl Connection {
    /// Tells whether it comes from this host or from an allowed network.
    pub fn is_trusted(&self) -> bool {
        self.is_trusted
    }

    /// Moves to a slot of `slots`, as the latest to send a request.
    pub fn move_to(&self, slots: &Arc<Slots>) {
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        // Frees the old one first: it may be one of the same.
        *slot = None;
        *slot = Some(slots.take(self.peer, self.is_local, &self.dropped));
    }
}

/// Tells whether the peer is this host: by loopback, or by the address that it connected to. No
/// other host can have that one and hear the answer.
fn is_local(stream: &TcpStream, peer: IpAddr) -> bool {
    peer.is_loopback() || stream.local_addr().is_ok_and(|local| local.ip().to_canonical() == peer)
}

/// Trouble that is logged now and then.
#[derive(Default)]
struct Spaced {
    last: Option<f64>,
}

impl Spaced {
    fn is_due(&mut self, now: f64) -> bool {
        let is_due = self.last.is_none_or(|last| now - last >= LOG_EVERY_SECS);
        if is_due {
            self.last = Some(now);
        }
        is_due
    }
}
