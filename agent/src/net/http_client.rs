//! HTTP client for blocking threads, never for the daemon's loop.
//!
//! One deadline covers the whole request, from the lookup of the name to the last byte: at the
//! deadline the request is dropped with its connection. A body is read up to a limit. Redirects are
//! not followed, so that a token goes only to the host it is meant for; no proxy and no compression
//! is used. All requests share one runtime that has no thread of its own. TLS configurations are
//! cached, and certificates are read again once a file changes (see `FileStamp`). Plain HTTP is
//! spoken if the URL says so; the configuration decides which URLs may.

use std::{
    cell::Cell,
    collections::VecDeque,
    env,
    error::Error as StdError,
    fs,
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{
    Request, StatusCode, Uri,
    body::Bytes,
    client::conn::http1,
    header::{CONNECTION, HOST, HeaderMap, HeaderValue, RETRY_AFTER},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    runtime::Runtime,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        self, ClientConfig, RootCertStore,
        client::Resumption,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    },
};

use crate::{
    clock::Clock,
    net::dns::resolve,
    os::trusted::{self, FileRules, PathRules},
};

/// Timeout of one address, so that a silent one leaves time for the next.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum size of a file of certificates. A host's own has some 200 KiB.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Maximum size of a response's head. Most have some hundreds of bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Maximum number of cached TLS configurations. The agent uses five: notifications, drain requests,
/// Kubernetes, the fleet's coordinator and the receiver of telemetry.
const CACHED_MAX: usize = 5;

/// Maximum age of a cached TLS configuration. A guess: it bounds the delay of changes that
/// [`FileStamp`] misses, such as a file rewritten in place in a directory of certificates.
const CACHED_FOR: Duration = Duration::from_secs(3_600);

/// Minimum age of the last change of a file whose stamp is trusted. A second change within one tick
/// of the kernel's clock (10 ms at 100 Hz) would leave the stamp as it is; some file systems store
/// whole seconds, and FAT two.
const SETTLES_WITHIN: Duration = Duration::from_secs(3);

/// Trusted certificates of the distributions, from the list of `openssl-probe`.
const HOST_ROOTS: [&str; 7] = [
    "/etc/ssl/certs",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
];

/// Runtime of all requests, built by the first. It belongs to no thread: of the callers that block
/// on it, one waits for I/O and timers on behalf of all.
static RUNTIME: Mutex<Option<Arc<Runtime>>> = Mutex::new(None);

/// TLS configurations, the oldest first.
static CACHED: Mutex<VecDeque<CachedConfig>> = Mutex::new(VecDeque::new());

/// TLS configuration with the state of the files that it was read from.
struct CachedConfig {
    options: TlsOptions,
    stamps: Vec<Option<FileStamp>>,
    /// Started when the files were read.
    age: Clock,
    config: Arc<ClientConfig>,
}

/// Identity and last change of a file or directory. The time of the inode's last change covers
/// permissions and owner, so a key that others may read is refused as soon as it is opened to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileStamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Trusted authorities and the client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsOptions {
    /// Trusted authorities, in PEM; `None` for those that this host trusts.
    pub ca_file: Option<PathBuf>,
    /// Client certificate, for servers that request one.
    pub client: Option<ClientFiles>,
}

/// Client certificate and its key, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFiles {
    /// Certificate, followed by the intermediate ones up to an authority that the server trusts.
    pub cert_file: PathBuf,
    /// Private key.
    pub key_file: PathBuf,
}

/// Limits of one request.
#[derive(Debug, Clone, Copy)]
pub struct RequestLimits {
    /// Time from the name lookup to the last byte.
    pub timeout: Duration,
    /// Size of the response's body.
    pub body_bytes_max: usize,
}

/// Response, whatever its status.
#[derive(Debug, Clone)]
pub struct Response {
    /// Status code.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Complete body.
    pub body: Bytes,
}

/// Error of a request without a complete response.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// A file of certificates or the key cannot be used.
    #[error("{}: {why}", path.display())]
    File {
        /// Path of the file.
        path: PathBuf,
        /// Problem.
        why: String,
    },
    /// The URL is invalid. It may be a secret, so it is not quoted.
    #[error("invalid URL\n  hint: use https://HOST/PATH or http://HOST/PATH, without a password")]
    InvalidUrl,
    /// The timeout expired.
    #[error("timed out after {} s while {phase}", timeout.as_secs_f64())]
    TimedOut {
        /// Timeout of the request.
        timeout: Duration,
        /// Phase in which it expired.
        phase: RequestPhase,
    },
    /// The request failed.
    #[error("failed while {phase}: {why}")]
    Failed {
        /// Phase that failed.
        phase: RequestPhase,
        /// Cause.
        why: String,
    },
    /// The response's body is too large.
    #[error("the response is larger than {0} bytes")]
    TooLarge(usize),
}

/// Phase of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestPhase {
    /// Looking up the name.
    Resolving,
    /// Connecting.
    Connecting,
    /// TLS handshake.
    Handshaking,
    /// Sending the request and waiting for the response's head.
    AwaitingResponse,
    /// Reading the response's body.
    ReadingBody,
}

/// HTTP client with the trust of its [`TlsOptions`].
pub struct HttpClient {
    tls: TlsConnector,
}

impl Response {
    /// Returns the delay that the server asks for in `Retry-After`, in seconds or as a date.
    /// `unix_ms` is the current time.
    pub fn retry_after(&self, unix_ms: u64) -> Option<Duration> {
        let text = self.headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
        if let Ok(secs) = text.parse() {
            return Some(Duration::from_secs(secs));
        }
        let at =
            httpdate::parse_http_date(text).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(at.saturating_sub(Duration::from_millis(unix_ms)))
    }
}

impl HttpClient {
    /// Creates a client. Reads the files only if they changed since the last client with these
    /// options.
    ///
    /// # Errors
    ///
    /// Returns an error if a file cannot be used, and names it.
    pub fn new(options: &TlsOptions) -> Result<Self, HttpError> {
        // Taken before the files are read: a change meanwhile makes the next client read again.
        let stamps: Vec<_> = options.files().iter().map(|path| FileStamp::of(path)).collect();
        let age = Clock::start();
        let are_settled = stamps.iter().flatten().all(|stamp| stamp.is_settled(age.unix_ms()));
        let mut cached = CACHED.lock().unwrap_or_else(PoisonError::into_inner);
        cached.retain(|entry| {
            entry.age.now() < CACHED_FOR.as_secs_f64()
                && (entry.options != *options || entry.stamps == stamps)
        });
        if let Some(entry) = cached.iter().find(|entry| entry.options == *options) {
            return Ok(Self { tls: TlsConnector::from(entry.config.clone()) });
        }
        // Unlocked during the read, which may be slow.
        drop(cached);
        let config = Arc::new(Self::read_config(options)?);
        if are_settled {
            let mut cached = CACHED.lock().unwrap_or_else(PoisonError::into_inner);
            cached.retain(|entry| entry.options != *options);
            if cached.len() >= CACHED_MAX {
                cached.pop_front();
            }
            let (options, config) = (options.clone(), config.clone());
            cached.push_back(CachedConfig { options, stamps, age, config });
        }
        Ok(Self { tls: TlsConnector::from(config) })
    }

    fn read_config(options: &TlsOptions) -> Result<ClientConfig, HttpError> {
        let roots = match &options.ca_file {
            Some(ca_file) => roots_in(ca_file)?,
            None => roots_of_host(),
        };
        let failed = |error: rustls::Error| HttpError::Failed {
            phase: RequestPhase::Handshaking,
            why: error.to_string(),
        };
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .with_root_certificates(roots);
        let mut config = match &options.client {
            None => config.with_no_client_auth(),
            Some(ClientFiles { cert_file, key_file }) => {
                let key = PrivateKeyDer::from_pem_slice(&read_with(
                    key_file,
                    FileRules::secret(FILE_BYTES_MAX),
                )?)
                .map_err(|error| unusable(key_file, error))?;
                config
                    .with_client_auth_cert(certificates(cert_file)?, key)
                    .map_err(|error| unusable(key_file, error))?
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Each connection verifies the server's certificate anew, though the configuration is kept.
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    /// Sends a request to the host in its URL and reads the response. Blocks for at most
    /// `limits.timeout`.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no complete response.
    pub fn send(
        &self,
        request: Request<Bytes>,
        limits: RequestLimits,
    ) -> Result<Response, HttpError> {
        let phase = Cell::new(RequestPhase::Resolving);
        let failed = |why: &(dyn StdError + 'static)| HttpError::Failed {
            phase: phase.get(),
            why: chain(why),
        };
        let runtime = runtime().map_err(|error| failed(&error))?;
        let result = runtime.block_on(async {
            timeout(limits.timeout, self.exchange(request, limits.body_bytes_max, &phase)).await
        });
        result.unwrap_or_else(|_| {
            Err(HttpError::TimedOut { timeout: limits.timeout, phase: phase.get() })
        })
    }

    /// Sends a POST request, like [`HttpClient::send`].
    ///
    /// # Errors
    ///
    /// Returns an error if there is no complete response.
    pub fn post(
        &self,
        url: &str,
        headers: &[(&'static str, String)],
        body: impl Into<Bytes>,
        limits: RequestLimits,
    ) -> Result<Response, HttpError> {
        let mut request = Request::post(url);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request.body(body.into()).map_err(|_| HttpError::InvalidUrl)?;
        self.send(request, limits)
    }

    async fn exchange(
        &self,
        mut request: Request<Bytes>,
        body_bytes_max: usize,
        phase: &Cell<RequestPhase>,
    ) -> Result<Response, HttpError> {
        let failed = |why: &(dyn StdError + 'static)| HttpError::Failed {
            phase: phase.get(),
            why: chain(why),
        };
        let RequestTarget { host, port, authority, is_plain } = target(request.uri())?;
        let name = ServerName::try_from(host.clone()).map_err(|_| HttpError::InvalidUrl)?;
        let addresses = resolve(&host, port).await.map_err(|error| failed(&error))?;

        phase.set(RequestPhase::Connecting);
        let stream = connect(addresses).await.map_err(|error| failed(&error))?;

        phase.set(RequestPhase::Handshaking);
        let stream: Box<dyn Stream> = match is_plain {
            true => Box::new(stream),
            false => {
                Box::new(self.tls.connect(name, stream).await.map_err(|error| failed(&error))?)
            }
        };

        phase.set(RequestPhase::AwaitingResponse);
        // HTTP/1.1 sends the path in the request line and the host as a header.
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let path = path.parse::<Uri>().map_err(|error| failed(&error))?;
        *request.uri_mut() = path;
        request.headers_mut().insert(HOST, authority);
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD_BYTES_MAX);
        let (mut sender, connection) =
            builder.handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
        let response = async {
            let response = sender
                .send_request(request.map(Full::new))
                .await
                .map_err(|error| failed(&error))?;

            phase.set(RequestPhase::ReadingBody);
            let (head, body) = response.into_parts();
            let body = Limited::new(body, body_bytes_max).collect().await.map_err(|error| {
                if error.is::<LengthLimitError>() {
                    HttpError::TooLarge(body_bytes_max)
                } else {
                    failed(error.as_ref())
                }
            })?;
            Ok(Response { status: head.status, headers: head.headers, body: body.to_bytes() })
        };
        drive(connection, response).await
    }
}

impl TlsOptions {
    /// Returns the files and directories that a configuration with these options depends on.
    fn files(&self) -> Vec<PathBuf> {
        let mut files = match &self.ca_file {
            Some(ca_file) => vec![ca_file.clone()],
            None => {
                let named = ["SSL_CERT_FILE", "SSL_CERT_DIR"].into_iter().filter_map(env::var_os);
                let named = named.flat_map(|paths| env::split_paths(&paths).collect::<Vec<_>>());
                named.chain(HOST_ROOTS.map(PathBuf::from)).collect()
            }
        };
        if let Some(ClientFiles { cert_file, key_file }) = &self.client {
            files.extend([cert_file.clone(), key_file.clone()]);
        }
        files
    }
}

impl FileStamp {
    /// Reads the stamp of a file; `None` if there is no such file.
    fn of(path: &Path) -> Option<Self> {
        let file = fs::metadata(path).ok()?;
        Some(Self {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        })
    }

    /// Returns whether any change after `unix_ms` will show in the stamp.
    fn is_settled(&self, unix_ms: u64) -> bool {
        let changed = Duration::from_secs(u64::try_from(self.changed.0).unwrap_or_default());
        let age = Duration::from_millis(unix_ms).checked_sub(changed);
        age.is_some_and(|age| age >= SETTLES_WITHIN)
    }
}

/// Returns the shared runtime. A failure to build it is not kept: the next request tries again.
fn runtime() -> io::Result<Arc<Runtime>> {
    let mut shared = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(runtime) = &*shared {
        return Ok(runtime.clone());
    }
    let runtime = Arc::new(tokio::runtime::Builder::new_current_thread().enable_all().build()?);
    *shared = Some(runtime.clone());
    Ok(runtime)
}

/// Waits for `response` and drives its connection meanwhile. A task of the runtime would keep the
/// socket open past the deadline, until another request runs the runtime.
async fn drive<T>(connection: impl Future, response: impl Future<Output = T>) -> T {
    let (mut connection, mut response) = (pin!(connection), pin!(response));
    let mut is_open = true;
    poll_fn(|context| {
        // The response reports why a connection failed.
        if is_open {
            is_open = connection.as_mut().poll(context).is_pending();
        }
        response.as_mut().poll(context)
    })
    .await
}

/// Parts of a URL.
#[derive(Debug, PartialEq)]
struct RequestTarget {
    /// Host to look up, also the name that the certificate must have.
    host: String,
    port: u16,
    /// `host:port` as in the URL, for the `Host` header.
    authority: HeaderValue,
    is_plain: bool,
}

fn target(uri: &Uri) -> Result<RequestTarget, HttpError> {
    let (is_plain, port) = match uri.scheme_str() {
        Some("https") => (false, 443),
        Some("http") => (true, 80),
        _ => return Err(HttpError::InvalidUrl),
    };
    let authority = uri.authority().ok_or(HttpError::InvalidUrl)?;
    // This client would silently drop a user name and password.
    if authority.as_str().contains('@') {
        return Err(HttpError::InvalidUrl);
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = authority.port_u16().unwrap_or(port);
    let authority = HeaderValue::from_str(authority.as_str()).map_err(|_| HttpError::InvalidUrl)?;
    Ok(RequestTarget { host, port, authority, is_plain })
}

/// Connection, with or without TLS.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects to the first address that accepts.
async fn connect(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        let at = |error: io::Error| io::Error::new(error.kind(), format!("{address}: {error}"));
        match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = at(error),
            Err(_) => last = at(io::ErrorKind::TimedOut.into()),
        }
    }
    Err(last)
}

/// Returns `host:port` as it is written in a URL.
pub fn authority(host: &str, port: u16) -> String {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V6(host)) => format!("[{host}]:{port}"),
        _ => format!("{host}:{port}"),
    }
}

fn roots_in(ca_file: &Path) -> Result<RootCertStore, HttpError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca_file)? {
        roots.add(certificate).map_err(|error| unusable(ca_file, error))?;
    }
    Ok(roots)
}

/// Reads the authorities that this host trusts. Without any, each handshake fails, and says why.
fn roots_of_host() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, HttpError> {
    let certificates = CertificateDer::pem_slice_iter(&read(path)?).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|error| unusable(path, error))?;
    if certificates.is_empty() {
        Err(unusable(path, "the file has no certificate\n  hint: certificates are in PEM"))
    } else {
        Ok(certificates)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, HttpError> {
    read_with(path, FileRules::public(FILE_BYTES_MAX))
}

fn read_with(path: &Path, rules: FileRules) -> Result<Vec<u8>, HttpError> {
    trusted::read(path, PathRules::NAMED, rules)
        .map_err(|error| unusable(path, trusted::reason(&error, path)))
}

fn unusable(path: &Path, why: impl ToString) -> HttpError {
    HttpError::File { path: path.to_owned(), why: why.to_string() }
}

/// Formats an error with its causes: the outermost often names only its source.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    for cause in
        std::iter::successors(error.source(), |&cause| cause.source()).map(ToString::to_string)
    {
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

impl std::fmt::Display for RequestPhase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Resolving => "looking up the name",
            Self::Connecting => "connecting",
            Self::Handshaking => "negotiating TLS",
            Self::AwaitingResponse => "waiting for the response",
            Self::ReadingBody => "reading the response",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamp_of_changed_file_differs_and_settles() {
        let path = env::temp_dir().join(format!("spillway-stamp-{}", std::process::id()));
        assert_eq!(FileStamp::of(&path), None);
        fs::write(&path, "one").unwrap();
        let first = FileStamp::of(&path).unwrap();
        let now_ms = Clock::start().unix_ms();
        assert!(!first.is_settled(now_ms) && first.is_settled(now_ms + 10_000), "{first:?}");
        fs::write(&path, "three").unwrap();
        assert_ne!(FileStamp::of(&path), Some(first));
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn url_gives_host_and_port_and_is_refused_with_password() {
        let of = |uri: &str| {
            let RequestTarget { host, port, authority, is_plain } =
                target(&uri.parse().unwrap()).ok()?;
            Some((host, port, authority.to_str().unwrap().to_owned(), is_plain))
        };
        let url = |host: &str, port, header: &str, is_plain| {
            Some((host.to_owned(), port, header.to_owned(), is_plain))
        };
        assert_eq!(
            of("https://lb.internal/drain?a=b"),
            url("lb.internal", 443, "lb.internal", false)
        );
        assert_eq!(of("https://10.0.0.1:6443/"), url("10.0.0.1", 6443, "10.0.0.1:6443", false));
        assert_eq!(of("https://[fd00::1]:6443/"), url("fd00::1", 6443, "[fd00::1]:6443", false));
        assert_eq!(of("http://alertmanager/"), url("alertmanager", 80, "alertmanager", true));
        for uri in ["ftp://lb.internal/", "/path", "https://me:secret@lb.internal/"] {
            assert_eq!(of(uri), None, "{uri}");
        }
    }

    #[test]
    fn authority_of_an_ipv6_address_has_brackets() {
        assert_eq!(authority("fd00::1", 443), "[fd00::1]:443");
        assert_eq!(authority("10.0.0.1", 443), "10.0.0.1:443");
        assert_eq!(authority("api.internal", 6443), "api.internal:6443");
    }
}
