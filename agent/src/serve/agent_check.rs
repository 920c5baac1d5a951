//! HAProxy's agent check: every connection gets one line about this node, and is closed.
//!
//! The line is `ready N%`, `drain` or `maint`, as HAProxy's manual has it for `agent-check`.
//! Whatever a client sends is discarded. If the loop hangs nothing is answered, and HAProxy keeps
//! what it knew.

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

/// Some balancers, each with some threads; a guess, doubled often.
const SLOTS: SlotLimits = SlotLimits { total: 64, per_peer: 16, per_local_peer: 48 };

/// Longest that a connection is kept.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(2);

/// Most bytes of a client that are discarded.
const DISCARDED_BYTES_MAX: u64 = 1 << 10;

/// Listens, and answers on a task of its own. Gives the address in use.
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
    let bound = acceptor.address()?;
    tokio::spawn(acceptor.run(move |stream, connection| {
        let line = format!("{}\n", readiness.says());
        async move {
            // A client that breaks off is its own affair.
            let _ = answer(stream, &line).await;
            drop(connection);
        }
    }));
    Ok(bound)
}

/// Sends the line. Everything from the client is read before the end: a connection that is closed
/// with something unread is reset, and the line may go with it.
async fn answer(mut stream: TcpStream, line: &str) -> io::Result<()> {
    stream.write_all(line.as_bytes()).await?;
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(DISCARDED_BYTES_MAX), &mut tokio::io::sink()).await?;
    Ok(())
}
