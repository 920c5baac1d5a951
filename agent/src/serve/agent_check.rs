//! HAProxy's agent check: whoever connects gets one line on this node, and that is all.
//!
//! The line is `ready N%`, `drain` or `maint`, as HAProxy's manual has it for `agent-check`. What a client says is not read for what it
//! says. It refuses to be a burden: few connections, short time-outs. If the loop hangs nothing is answered, and HAProxy keeps what it
//! knew.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use crate::act::drain::Readiness;

/// Some balancers, each with some threads; a guess, doubled often.
const CONNECTIONS_MAX: usize = 64;

/// Longest that a connection is kept.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(2);

/// Most bytes of what a client says that are taken off its hands.
const SAID_BYTES_MAX: u64 = 1 << 10;

/// Listens, and answers on a task of its own. Gives the address in use.
///
/// # Errors
///
/// Where the address cannot be bound.
pub async fn serve_agent_check(listen: SocketAddr, readiness: Arc<Readiness>) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(listen).await?;
    let bound = listener.local_addr()?;
    tokio::spawn(accept(listener, readiness));
    Ok(bound)
}

async fn accept(listener: TcpListener, readiness: Arc<Readiness>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let line = format!("{}\n", readiness.says());
        tokio::spawn(async move {
            // A client that breaks off or takes too long is its own affair.
            let _ = tokio::time::timeout(CONNECTION_TIMEOUT, answer(stream, &line)).await;
            drop(permit);
        });
    }
}

/// Says the line. What the client said is read before the end: a connection that is closed with something unread is reset, and the
/// line may go with it.
async fn answer(mut stream: TcpStream, line: &str) -> io::Result<()> {
    stream.write_all(line.as_bytes()).await?;
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(SAID_BYTES_MAX), &mut tokio::io::sink()).await?;
    Ok(())
}
