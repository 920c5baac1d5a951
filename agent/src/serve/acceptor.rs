//! Accept loop of every port that the agent serves: checks each peer and bounds the connections.

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

/// Pause after a failure to accept, until a descriptor may be free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Minimum time between two log lines on the same fault, so that peers cannot fill a disk.
const LOG_EVERY_SECS: f64 = 60.0;

/// Peers that may connect.
#[derive(Debug, Clone)]
pub struct AllowedPeers {
    /// Networks, in addition to this host.
    pub allow: Vec<Network>,
    /// Set if any peer may connect, because each request has to carry a token.
    pub anyone: bool,
}

/// A port, and the rules for its connections.
pub struct Acceptor {
    /// Listening socket.
    pub listener: TcpListener,
    /// Peers that may connect.
    pub peers: AllowedPeers,
    /// Slots for new connections.
    pub slots: Arc<Slots>,
    /// Counter of dropped connections.
    pub drops: DropCounter,
    /// Maximum lifetime of a connection.
    pub timeout: Duration,
    /// Clock of the time between log lines.
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
    /// Returns whether `peer` is this host or in an allowed network, and so needs no token.
    pub fn trusts(&self, peer: IpAddr, is_local: bool) -> bool {
        is_local || self.allow.iter().any(|network| network.contains(peer))
    }
}

impl Acceptor {
    /// Address of the port.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel does not give it.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Accepts connections for ever, and runs `serve` for each on a task of its own.
    pub async fn run<F>(self, serve: impl Fn(TcpStream, Arc<Connection>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (mut refusals, mut failures) = (RateLimit::default(), RateLimit::default());
        loop {
            let (stream, peer) = match self.listener.accept().await {
                Ok((stream, peer)) => (stream, peer.ip().to_canonical()),
                Err(error) => {
                    if failures.is_due(self.clock.now()) {
                        tracing::warn!(
                            %error,
                            port = self.listener.local_addr().map_or(0, |addr| addr.port()),
                            "cannot accept a connection to the agent\n  \
                             hint: if it has too many open files, raise LimitNOFILE in its unit"
                        );
                    }
                    // Most likely out of descriptors, of which idle connections hold some.
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
                        "closed a connection from {peer}, which is not in serve.allow\n  \
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
    /// Set if the peer is this host or in an allowed network.
    pub fn is_trusted(&self) -> bool {
        self.is_trusted
    }

    /// Set if the peer is this host.
    pub fn is_local(&self) -> bool {
        self.is_local
    }

    /// Moves the connection to a slot of `slots`, as the latest to send a request.
    pub fn move_to(&self, slots: &Arc<Slots>) {
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        // Frees the old slot first, because it may be one of the same.
        *slot = None;
        *slot = Some(slots.take(self.peer, self.is_local, &self.dropped));
    }
}

/// Returns whether the peer is this host: it has a loopback address, or the address that it
/// connected to. No other host with that address would get the response.
fn is_local(stream: &TcpStream, peer: IpAddr) -> bool {
    peer.is_loopback() || stream.local_addr().is_ok_and(|local| local.ip().to_canonical() == peer)
}

/// Limit on the rate of log lines on one fault.
#[derive(Default)]
struct RateLimit {
    last: Option<f64>,
}

impl RateLimit {
    fn is_due(&mut self, now: f64) -> bool {
        let is_due = self.last.is_none_or(|last| now - last >= LOG_EVERY_SECS);
        if is_due {
            self.last = Some(now);
        }
        is_due
    }
}
