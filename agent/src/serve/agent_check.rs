//! HAProxy's agent check: sends one line about this node on every connection, and closes it.
//!
//! The line is `ready N%`, `drain` or `maint`, see `agent-check` in HAProxy's manual. Everything
//! that a client sends is discarded. If the loop hangs, nothing is sent, and HAProxy keeps the
//! node's last state.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{
    Metrics,
    acceptor::{Acceptor, AllowedPeers},
    slots::{SlotLimits, Slots},
};
use crate::{act::drain::ReadinessCell, config::Network};

/// Limits on connections: several balancers with several threads each. A guess, doubled often.
const SLOTS: SlotLimits = SlotLimits { total: 64, per_peer: 16, per_local_peer: 48 };

/// Maximum lifetime of a connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum number of bytes from a client that are discarded.
const DISCARDED_BYTES_MAX: u64 = 1 << 10;

/// Serves the agent check on a task of its own. Returns the address in use.
///
/// # Errors
///
/// Returns an error if the address cannot be bound.
pub async fn serve_agent_check(
    listen: SocketAddr,
    allow: &[Network],
    metrics: &Metrics,
    readiness: Arc<ReadinessCell>,
) -> io::Result<SocketAddr> {
    let drops = metrics.serve_counts().drops("agent_check");
    let acceptor = Acceptor {
        listener: TcpListener::bind(listen).await?,
        peers: AllowedPeers { allow: allow.to_vec(), anyone: false },
        slots: Slots::new(SLOTS, drops.clone()),
        drops,
        timeout: CONNECTION_TIMEOUT,
        clock: metrics.clock(),
    };
    let (bound, clock) = (acceptor.address()?, acceptor.clock);
    tokio::spawn(acceptor.run(move |stream, connection| {
        let line = format!("{}\n", readiness.answer(clock.now()));
        async move {
            // A client that closes early needs no report.
            let _ = respond(stream, &line).await;
            drop(connection);
        }
    }));
    Ok(bound)
}

/// Sends the line, and then reads everything that the client sent: a connection that is closed with
/// unread data is reset, and the line may be lost.
async fn respond(mut stream: TcpStream, line: &str) -> io::Result<()> {
    stream.write_all(line.as_bytes()).await?;
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(DISCARDED_BYTES_MAX), &mut tokio::io::sink()).await?;
    Ok(())
}
