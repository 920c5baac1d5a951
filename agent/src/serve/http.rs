//! A small HTTP server on the agent's own loop: if the loop hangs, so does `/healthz`, and a probe
//! notices it.
//!
//! A connection first takes a slot for connections without a request, then one for its endpoint:
//! `/metrics`, or `/healthz` and `/ready`, or the pages. So no kind of connection keeps the others
//! out. HTTP/1 only, with small heads and short time-outs.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{
        CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue,
        REFERRER_POLICY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
    },
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use super::{
    Metrics,
    acceptor::{Acceptor, AllowedPeers, Connection},
    access::{Access, Endpoint, RequestRefusal, Token},
    health::HealthStatus,
    slots::{SlotLimits, Slots},
    text_format::{self, OPENMETRICS, TEXT_FORMAT},
};
use crate::{
    act::drain::{Readiness, ReadinessCell},
    config::ServeConfig,
    os::host,
};

/// Limits on connections without a request: most are about to send one. A guess.
const NEW_SLOTS: SlotLimits = SlotLimits { total: 64, per_peer: 16, per_local_peer: 48 };

/// Limits on connections that requested `/metrics`: a scraper or two. A guess, doubled often.
const METRICS_SLOTS: SlotLimits = SlotLimits { total: 16, per_peer: 4, per_local_peer: 12 };

/// Limits on connections that requested `/healthz` or `/ready`: probes of some balancers. A guess,
/// doubled often.
const PROBE_SLOTS: SlotLimits = SlotLimits { total: 32, per_peer: 8, per_local_peer: 24 };

/// Limits on connections that requested a page: the browsers of some people. A guess.
const PAGE_SLOTS: SlotLimits = SlotLimits { total: 16, per_peer: 4, per_local_peer: 12 };

/// Maximum time to make a page. It reads files, which may hang with their disk.
const PAGE_TIMEOUT: Duration = Duration::from_secs(3);

/// Pages that may be made at once. Each has a thread, which a disk that hangs keeps for good.
const PAGES_AT_ONCE: usize = 4;

/// Maximum time for a client to send its request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum lifetime of a connection; a scraper then opens another.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);

/// Maximum size of a request's head: the smallest that hyper permits.
const HEAD_BYTES_MAX: usize = 8 << 10;

const PLAIN: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";

/// Reason why metrics and health cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be bound.
    #[error(
        "cannot serve metrics on {listen}: {source}\n  hint: set [serve] listen to a free address"
    )]
    Bind {
        /// Address.
        listen: SocketAddr,
        /// Error of the kernel.
        source: io::Error,
    },
    /// The token cannot be read.
    #[error("cannot serve metrics on {listen}: serve.token_file = {why}")]
    Token {
        /// Address.
        listen: SocketAddr,
        /// File, and the fault in it.
        why: String,
    },
}

/// Makes the page at a path.
type Render = dyn Fn(&str) -> Option<String> + Send + Sync;

/// Pages for a browser.
#[derive(Clone)]
pub struct Pages {
    /// Returns the page at a path, or `None` if there is none. It may block.
    pub render: Arc<Render>,
    /// Returns whether a path is one of a page.
    pub has: fn(&str) -> bool,
    /// Content security policy of every page.
    pub policy: &'static str,
}

/// Everything that a response needs.
struct Site {
    pages: Pages,
    page_slots: Arc<Slots>,
    page_threads: Arc<Semaphore>,
    metrics: Arc<Metrics>,
    readiness: Arc<ReadinessCell>,
    access: Access,
    metrics_slots: Arc<Slots>,
    probe_slots: Arc<Slots>,
}

/// Serves metrics, health and pages on a task of its own. Returns the address in use.
///
/// # Errors
///
/// Returns an error if the address cannot be bound or the token cannot be read.
pub async fn serve(
    config: &ServeConfig,
    metrics: Arc<Metrics>,
    readiness: Arc<ReadinessCell>,
    pages: Pages,
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
        page_slots: slots("page", PAGE_SLOTS),
        page_threads: Arc::new(Semaphore::new(PAGES_AT_ONCE)),
        pages,
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
        let (site, connection) = (site.clone(), connection.clone());
        async move { Ok::<_, Infallible>(site.respond(&request, &connection).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    // A client that closes early or takes too long needs no report.
    let _ = served.await;
}

impl Site {
    async fn respond(
        &self,
        request: &Request<Incoming>,
        connection: &Connection,
    ) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let endpoint = match path {
            "/healthz" | "/ready" => Endpoint::Probe,
            _ if (self.pages.has)(path) => Endpoint::Page,
            _ => Endpoint::Other,
        };
        let is_trusted = match endpoint {
            Endpoint::Page => connection.is_local(),
            Endpoint::Probe | Endpoint::Other => connection.is_trusted(),
        };
        let checked = self.access.check(request.uri(), request.headers(), endpoint, is_trusted);
        if let Err(refusal) = checked {
            return refused(refusal);
        }
        connection.move_to(match path {
            "/metrics" => &self.metrics_slots,
            _ if endpoint == Endpoint::Page => &self.page_slots,
            _ => &self.probe_slots,
        });
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(
                StatusCode::METHOD_NOT_ALLOWED,
                PLAIN,
                "only GET and HEAD are supported\n".to_owned(),
            );
        }
        match path {
            "/metrics" => match self.metrics.encode() {
                Ok(body) if text_format::accepts_openmetrics(request.headers()) => {
                    text(StatusCode::OK, OPENMETRICS, body)
                }
                Ok(body) => text(StatusCode::OK, TEXT_FORMAT, text_format::from_openmetrics(&body)),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, format!("{error}\n")),
            },
            "/healthz" => self.health(),
            "/ready" => {
                let readiness = self.readiness.answer(self.metrics.clock().now());
                let status = match readiness {
                    Readiness::Ready(_) => StatusCode::OK,
                    Readiness::Drain | Readiness::Maintenance => StatusCode::SERVICE_UNAVAILABLE,
                };
                text(status, PLAIN, format!("{readiness}\n"))
            }
            _ if endpoint == Endpoint::Page => self.page(path).await,
            _ => text(
                StatusCode::NOT_FOUND,
                PLAIN,
                "not found; try /, /metrics, /healthz or /ready\n".to_owned(),
            ),
        }
    }

    /// Makes a page on another thread, so that the loop does not wait for a disk.
    async fn page(&self, path: &str) -> Response<Full<Bytes>> {
        let (render, path) = (self.pages.render.clone(), path.to_owned());
        let made = async {
            let thread = self.page_threads.clone().acquire_owned().await.ok()?;
            let make = move || (render(&path), thread).0;
            tokio::task::spawn_blocking(make).await.ok()
        };
        let Ok(Some(page)) = tokio::time::timeout(PAGE_TIMEOUT, made).await else {
            let late = "the page was not made in time\nhint: `spillway status` may still answer\n";
            return text(StatusCode::GATEWAY_TIMEOUT, PLAIN, late.to_owned());
        };
        let Some(page) = page else {
            return text(StatusCode::NOT_FOUND, PLAIN, "not found; try /\n".to_owned());
        };
        let mut response = text(StatusCode::OK, HTML, page);
        for (name, value) in [
            (CONTENT_SECURITY_POLICY, self.pages.policy),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (REFERRER_POLICY, "no-referrer"),
            (CACHE_CONTROL, "no-store"),
        ] {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }

    /// Responds with 503 only if the agent no longer watches: a degraded agent is still worth more
    /// than a restart.
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

/// Returns the response to a refused request, after which the connection is closed.
fn refused(refusal: RequestRefusal) -> Response<Full<Bytes>> {
    let (status, body) = match refusal {
        RequestRefusal::BadHost => {
            (StatusCode::BAD_REQUEST, "exactly one Host header is required\n")
        }
        RequestRefusal::OtherHost => (
            StatusCode::MISDIRECTED_REQUEST,
            "the Host header names another host\nhint: use an IP address, or add the name to \
             serve.host_names\n",
        ),
        RequestRefusal::NoToken => (
            StatusCode::UNAUTHORIZED,
            "a bearer token is required\nhint: send the token in serve.token_file\n",
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
