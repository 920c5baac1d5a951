//! A small HTTP server on the agent's own loop: if the loop hangs, so does `/healthz`, which is
//! what a probe should see.
//!
//! A connection first takes one of the slots for those without a request, then one of those for
//! what it requests: `/metrics`, or `/healthz` and `/ready`. So none of them keeps the others out.
//! HTTP/1 only, small heads, short time-outs.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONNECTION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};

use super::{
    Metrics,
    acceptor::{Acceptor, AllowedPeers, Connection},
    access::{Access, Endpoint, RequestRefusal, Token},
    health::HealthStatus,
    slots::{SlotLimits, Slots},
};
use crate::{
    act::drain::{Readiness, ReadinessCell},
    config::ServeConfig,
    os::host,
};

/// Connections without a request: most are about to send one. A guess.
const NEW_SLOTS: SlotLimits = SlotLimits { total: 64, per_peer: 16, per_local_peer: 48 };

/// Connections that requested `/metrics`: a scraper or two; a guess, doubled often.
const METRICS_SLOTS: SlotLimits = SlotLimits { total: 16, per_peer: 4, per_local_peer: 12 };

/// Connections that requested `/healthz` or `/ready`: probes of some balancers; a guess, doubled
/// often.
const PROBE_SLOTS: SlotLimits = SlotLimits { total: 32, per_peer: 8, per_local_peer: 24 };

/// Maximum time for a client to send its request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest that a connection is kept; a scraper opens another.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);

/// Most bytes of a request's head. hyper takes no less than 8 KiB.
const HEAD_BYTES_MAX: usize = 8 << 10;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// Metrics and health cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be bound.
    #[error(
        "cannot serve metrics on {listen}: {source}\n  hint: set [serve] listen to a free address"
    )]
    Bind {
        /// Address.
        listen: SocketAddr,
        /// Answer of the kernel.
        source: io::Error,
    },
    /// There is no token to compare with.
    #[error("cannot serve metrics on {listen}: serve.token_file = {why}")]
    Token {
        /// Address.
        listen: SocketAddr,
        /// Name of the file, and what is wrong with it.
        why: String,
    },
}

/// Everything that an answer needs.
struct Site {
    metrics: Arc<Metrics>,
    readiness: Arc<ReadinessCell>,
    access: Access,
    metrics_slots: Arc<Slots>,
    probe_slots: Arc<Slots>,
}

/// Listens, and serves on a task of its own. Gives the address in use.
///
/// # Errors
///
/// Returns an error if the address cannot be bound or the token cannot be read.
pub async fn serve(
    config: &ServeConfig,
    metrics: Arc<Metrics>,
    readiness: Arc<ReadinessCell>,
) -> Result<SocketAddr, ServeError> {
    let listen = config.listen;
    let failed = |source| ServeError::Bind { listen, source };
    let token = config.token_file.as_ref().map(Token::read).transpose();
    let token = token.map_err(|why| ServeError::Token { listen, why })?;
    let slots = |port, limits| Slots::new(limits, metrics.serve_counts().drops(port));
    let acceptor = Acceptor {
        listener: TcpListener::bind(listen).await.map_err(failed)?,
        peers: AllowedPeers {
            allow: config.allow.clone(),
            anyone: config.allow.is_empty() && token.is_some(),
        },
        slots: slots("new", NEW_SLOTS),
        drops: metrics.serve_counts().drops("http"),
        timeout: CONNECTION_TIMEOUT,
        clock: metrics.clock(),
    };
    let bound = acceptor.address().map_err(failed)?;
    let site = Arc::new(Site {
        access: Access::new(token, &config.host_names, &host::name()),
        metrics_slots: slots("metrics", METRICS_SLOTS),
        probe_slots: slots("probe", PROBE_SLOTS),
        metrics,
        readiness,
    });
    tokio::spawn(
        acceptor.run(move |stream, connection| serve_connection(stream, connection, site.clone())),
    );
    Ok(bound)
}

async fn serve_connection(stream: TcpStream, connection: Arc<Connection>, site: Arc<Site>) {
    let service = service_fn(|request| {
        let response = site.answer(&request, &connection);
        async move { Ok::<_, Infallible>(response) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    // A client that breaks off or takes too long is its own affair.
    let _ = served.await;
}

impl Site {
    fn answer(
        &self,
        request: &Request<Incoming>,
        connection: &Connection,
    ) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let resource =
            if matches!(path, "/healthz" | "/ready") { Endpoint::Probe } else { Endpoint::Other };
        let checked =
            self.access.check(request.uri(), request.headers(), resource, connection.is_trusted());
        if let Err(refusal) = checked {
            return refused(refusal);
        }
        connection.move_to(if path == "/metrics" {
            &self.metrics_slots
        } else {
            &self.probe_slots
        });
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET\n".to_owned());
        }
        match path {
            "/metrics" => match self.metrics.encode() {
                Ok(body) => text(StatusCode::OK, OPENMETRICS, body),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, format!("{error}\n")),
            },
            "/healthz" => self.health(),
            "/ready" => {
                let says = self.readiness.says();
                let status = match says {
                    Readiness::Ready(_) => StatusCode::OK,
                    Readiness::Drain | Readiness::Maintenance => StatusCode::SERVICE_UNAVAILABLE,
                };
                text(status, PLAIN, format!("{says}\n"))
            }
            _ => {
                text(StatusCode::NOT_FOUND, PLAIN, "try /metrics, /healthz or /ready\n".to_owned())
            }
        }
    }

    /// A degraded agent is still worth more than one that is started again: 503 is for one that
    /// does not watch.
    fn health(&self) -> Response<Full<Bytes>> {
        let report = self.metrics.health();
        let status = match report.status {
            HealthStatus::Ok | HealthStatus::Degraded => StatusCode::OK,
            HealthStatus::Failing => StatusCode::SERVICE_UNAVAILABLE,
        };
        match serde_json::to_string(&report) {
            Ok(body) => text(status, JSON, body + "\n"),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, format!("{error}\n")),
        }
    }
}

/// The answer to a request that is refused, after which the connection is closed.
fn refused(refusal: RequestRefusal) -> Response<Full<Bytes>> {
    let (status, body) = match refusal {
        RequestRefusal::BadHost => (StatusCode::BAD_REQUEST, "one Host header is needed\n"),
        RequestRefusal::OtherHost => (
            StatusCode::MISDIRECTED_REQUEST,
            "the Host header names another host\nhint: use an IP address, or list the name in \
            serve.host_names\n",
        ),
        RequestRefusal::NoToken => (
            StatusCode::UNAUTHORIZED,
            "a token is needed\nhint: send the one of serve.token_file\n",
        ),
    };
    let mut response = text(status, PLAIN, body.to_owned());
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    if refusal == RequestRefusal::NoToken {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

fn text(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
