//! A small HTTP server on the agent's own loop: if the loop hangs, so does `/healthz`, which is what a probe should see.
//!
//! It refuses to be a burden: few routes, HTTP/1 only, few connections, short time-outs.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore};

use super::Metrics;
use crate::act::drain::{Readiness, Says};

/// A scraper and a health probe or two; a guess, doubled often.
const CONNECTIONS_MAX: usize = 32;

/// How long a client may take to send its request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest that a connection is kept; a scraper opens another.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// Metrics and health cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve metrics on {listen}: {source}\n  hint: set [serve] listen to a free address")]
pub struct ServeError {
    listen: SocketAddr,
    source: io::Error,
}

/// Listens, and serves on a task of its own. Answers with the address in use.
///
/// # Errors
///
/// Where the address cannot be bound.
pub async fn serve(
    listen: SocketAddr,
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
) -> Result<SocketAddr, ServeError> {
    let failed = |source| ServeError { listen, source };
    let listener = TcpListener::bind(listen).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    tokio::spawn(accept(listener, metrics, readiness));
    Ok(bound)
}

async fn accept(listener: TcpListener, metrics: Arc<Metrics>, readiness: Arc<Readiness>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: wait for some to be freed and do not spin.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let (metrics, readiness) = (metrics.clone(), readiness.clone());
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let response = answer(&request, &metrics, readiness.says());
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            // A client that breaks off or takes too long is its own affair.
            let _ = tokio::time::timeout(CONNECTION_TIMEOUT, connection).await;
            drop(permit);
        });
    }
}

fn answer(request: &Request<Incoming>, metrics: &Metrics, says: Says) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET\n".to_owned());
    }
    match request.uri().path() {
        "/metrics" => match metrics.encode() {
            Ok(body) => text(StatusCode::OK, OPENMETRICS, body),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, format!("{error}\n")),
        },
        "/healthz" => match metrics.health() {
            Ok(()) => text(StatusCode::OK, PLAIN, "ok\n".to_owned()),
            Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("{reason}\n")),
        },
        "/ready" => match says {
            Says::Ready(_) => text(StatusCode::OK, PLAIN, format!("{says}\n")),
            Says::Drain | Says::Maintenance => text(StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("{says}\n")),
        },
        _ => text(StatusCode::NOT_FOUND, PLAIN, "try /metrics, /healthz or /ready\n".to_owned()),
    }
}

fn text(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
