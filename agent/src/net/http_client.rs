//! HTTP client for blocking threads, never for the daemon's loop.
//!
//! One deadline covers the whole request, from the lookup of the name to the last byte: at the
//! deadline the request is dropped with its connection. A body is read up to a limit. Redirects are
//! not followed, so that a token goes only to the host it is meant for; no proxy and no compression
//! is used. All requests share one runtime that has no thread of its own. TLS configurations are
//! cached, and certificates are read again once a file changes ([`FileStamp`]). Plain HTTP is
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

/// An address that says nothing must not keep the next one from being tried.
const CONNECTS_WITHIN: Duration = Duration::from_secs(2);

/// Largest file of certificates: a system's own has some 200 KiB.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Most bytes of an answer's head. Heads have some hundreds.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Maximum number of cached TLS configurations. The agent uses three: notifications, drain requests
/// and Kubernetes.
const CACHED_MAX: usize = 4;

/// Maximum age of a cached TLS configuration. A guess: it bounds the delay of changes that
/// [`FileStamp`] misses, such as a file rewritten in place in a directory of certificates.
const CACHED_FOR: Duration = Duration::from_secs(3_600);

/// Minimum age of the last change of a file whose stamp is trusted. A second change within one tick
/// of the kernel's clock (10 ms at 100 Hz) would leave the stamp as it is; some file systems store
/// whole seconds, and FAT two.
const SETTLES_WITHIN: Duration = Duration::from_secs(3);

/// Places where distributions keep trusted certificates, as `openssl-probe` has them.
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

/// Trusted authorities, and the client's own certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsOptions {
    /// Certificates, in PEM, one of which has to have signed the server's; `None` for those that
    /// this host trusts.
    pub ca_file: Option<PathBuf>,
    /// Client certificate, for servers that request one.
    pub client: Option<ClientFiles>,
}

/// A client's certificate and its key, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFiles {
    /// The certificate, followed by those up to the one that the server trusts.
    pub cert_file: PathBuf,
    /// File with the private key.
    pub key_file: PathBuf,
}

/// Limits of one request.
#[derive(Debug, Clone, Copy)]
pub struct RequestLimits {
    /// For everything.
    pub within: Duration,
    /// Of the answer's body, in bytes.
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

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// A file with a certificate or key is not what it should be.
    #[error("{}: {why}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Problem.
        why: String,
    },
    /// The address is invalid.
    #[error("it is no address that begins with https:// or http:// and names a host")]
    Address,
    /// Not all was done in time.
    #[error("no answer within {} s, {phase}", within.as_secs_f64())]
    Late {
        /// Within which time.
        within: Duration,
        /// Phase that failed.
        phase: RequestPhase,
    },
    /// Something failed.
    #[error("it failed {phase}: {why}")]
    Failed {
        /// Phase that failed.
        phase: RequestPhase,
        /// Cause.
        why: String,
    },
    /// There is more of it than is read.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
}

/// Phase of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestPhase {
    /// The name is looked up.
    Resolving,
    /// A connection is made.
    Connecting,
    /// Certificates are shown and keys agreed on.
    Handshaking,
    /// The request is sent, and the answer's head awaited.
    Asking,
    /// The body is read.
    Reading,
}

/// Client for servers that its [`TlsOptions`] trust.
pub struct HttpClient {
    tls: TlsConnector,
}

impl Response {
    /// How long the server asks to be left alone, in seconds or by a date. `unix_ms` is now.
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
    /// Reads the files, unless they are unchanged since a client with these options was made.
    ///
    /// # Errors
    ///
    /// Returns an error that names the file that cannot be used.
    pub fn new(identity: &TlsOptions) -> Result<Self, HttpError> {
        // Before the files are read: a change meanwhile makes the next client read them again.
        let stamps: Vec<_> = identity.files().iter().map(|path| FileStamp::of(path)).collect();
        let age = Clock::start();
        let are_settled = stamps.iter().flatten().all(|stamp| stamp.is_settled(age.unix_ms()));
        let mut cached = CACHED.lock().unwrap_or_else(PoisonError::into_inner);
        cached.retain(|entry| {
            entry.age.now() < CACHED_FOR.as_secs_f64()
                && (entry.options != *identity || entry.stamps == stamps)
        });
        if let Some(entry) = cached.iter().find(|entry| entry.options == *identity) {
            return Ok(Self { tls: TlsConnector::from(entry.config.clone()) });
        }
        // Reading may be slow, and others need not wait for it.
        drop(cached);
        let config = Arc::new(Self::read_config(identity)?);
        if are_settled {
            let mut cached = CACHED.lock().unwrap_or_else(PoisonError::into_inner);
            cached.retain(|entry| entry.options != *identity);
            if cached.len() >= CACHED_MAX {
                cached.pop_front();
            }
            let (options, config) = (identity.clone(), config.clone());
            cached.push_back(CachedConfig { options, stamps, age, config });
        }
        Ok(Self { tls: TlsConnector::from(config) })
    }

    fn read_config(identity: &TlsOptions) -> Result<ClientConfig, HttpError> {
        let roots = match &identity.ca_file {
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
        let mut config = match &identity.client {
            None => config.with_no_client_auth(),
            Some(ClientFiles { cert_file, key_file }) => {
                let key = PrivateKeyDer::from_pem_slice(&read_as(
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

    /// Sends a request to the host that its address names, and reads the answer. Blocks for at most
    /// `bounds.within`: not for the daemon's loop.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no whole answer.
    pub fn send(
        &self,
        request: Request<Bytes>,
        bounds: RequestLimits,
    ) -> Result<Response, HttpError> {
        let phase = Cell::new(RequestPhase::Resolving);
        let failed = |why: &(dyn StdError + 'static)| HttpError::Failed {
            phase: phase.get(),
            why: chain(why),
        };
        let runtime = runtime().map_err(|error| failed(&error))?;
        let asked = runtime.block_on(async {
            timeout(bounds.within, self.exchange(request, bounds.body_bytes_max, &phase)).await
        });
        asked.unwrap_or_else(|_| Err(HttpError::Late { within: bounds.within, phase: phase.get() }))
    }

    /// Sends a body, as [`HttpClient::send`] does.
    ///
    /// # Errors
    ///
    /// Returns an error as [`HttpClient::send`] does.
    pub fn post(
        &self,
        url: &str,
        headers: &[(&'static str, String)],
        body: impl Into<Bytes>,
        bounds: RequestLimits,
    ) -> Result<Response, HttpError> {
        let mut request = Request::post(url);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        // What it says may be a secret.
        self.send(request.body(body.into()).map_err(|_| HttpError::Address)?, bounds)
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
        let name = ServerName::try_from(host.clone()).map_err(|_| HttpError::Address)?;
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

        phase.set(RequestPhase::Asking);
        // Of the address the server gets the path, and the host as a header.
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
            let answer = sender
                .send_request(request.map(Full::new))
                .await
                .map_err(|error| failed(&error))?;

            phase.set(RequestPhase::Reading);
            let (head, body) = answer.into_parts();
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
    /// As it is looked up, and as its certificate names it.
    host: String,
    port: u16,
    /// Both, as a header.
    authority: HeaderValue,
    is_plain: bool,
}

fn target(uri: &Uri) -> Result<RequestTarget, HttpError> {
    let (is_plain, port) = match uri.scheme_str() {
        Some("https") => (false, 443),
        Some("http") => (true, 80),
        _ => return Err(HttpError::Address),
    };
    let authority = uri.authority().ok_or(HttpError::Address)?;
    // Somebody's name and password would be sent to nobody.
    if authority.as_str().contains('@') {
        return Err(HttpError::Address);
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = authority.port_u16().unwrap_or(port);
    let authority = HeaderValue::from_str(authority.as_str()).map_err(|_| HttpError::Address)?;
    Ok(RequestTarget { host, port, authority, is_plain })
}

/// A connection, with TLS or without.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection to the first address that takes one.
async fn connect(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        let at = |error: io::Error| io::Error::new(error.kind(), format!("{address}: {error}"));
        match timeout(CONNECTS_WITHIN, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = at(error),
            Err(_) => last = at(io::ErrorKind::TimedOut.into()),
        }
    }
    Err(last)
}

/// A host and port as an address has them.
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

/// Those that this host trusts. Where there are none every server is refused, which says so.
fn roots_of_host() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, HttpError> {
    let certificates = CertificateDer::pem_slice_iter(&read(path)?).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|error| unusable(path, error))?;
    if certificates.is_empty() {
        Err(unusable(path, "there is no certificate in it"))
    } else {
        Ok(certificates)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, HttpError> {
    read_as(path, FileRules::public(FILE_BYTES_MAX))
}

fn read_as(path: &Path, rules: FileRules) -> Result<Vec<u8>, HttpError> {
    trusted::read(path, PathRules::NAMED, rules)
        .map_err(|error| unusable(path, trusted::reason(&error, path)))
}

fn unusable(path: &Path, why: impl ToString) -> HttpError {
    HttpError::File { path: path.to_owned(), why: why.to_string() }
}

/// An error with all that is behind it: the outermost often says only where it comes from.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut told = error.to_string();
    for cause in
        std::iter::successors(error.source(), |&cause| cause.source()).map(ToString::to_string)
    {
        if !told.ends_with(&cause) {
            told = format!("{told}: {cause}");
        }
    }
    told
}

impl std::fmt::Display for RequestPhase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Resolving => "looking up the name",
            Self::Connecting => "connecting",
            Self::Handshaking => "agreeing on TLS",
            Self::Asking => "waiting for the answer",
            Self::Reading => "reading the answer",
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
    fn an_address_names_a_host_a_port_and_nobodys_password() {
        let of = |uri: &str| {
            let RequestTarget { host, port, authority, is_plain } =
                target(&uri.parse().unwrap()).ok()?;
            Some((host, port, authority.to_str().unwrap().to_owned(), is_plain))
        };
        let told = |host: &str, port, header: &str, is_plain| {
            Some((host.to_owned(), port, header.to_owned(), is_plain))
        };
        assert_eq!(
            of("https://lb.internal/drain?a=b"),
            told("lb.internal", 443, "lb.internal", false)
        );
        assert_eq!(of("https://10.0.0.1:6443/"), told("10.0.0.1", 6443, "10.0.0.1:6443", false));
        assert_eq!(of("https://[fd00::1]:6443/"), told("fd00::1", 6443, "[fd00::1]:6443", false));
        assert_eq!(of("http://alertmanager/"), told("alertmanager", 80, "alertmanager", true));
        for uri in ["ftp://lb.internal/", "/path", "https://me:secret@lb.internal/"] {
            assert_eq!(of(uri), None, "{uri}");
        }
    }

    #[test]
    fn a_number_of_version_6_goes_into_brackets() {
        assert_eq!(authority("fd00::1", 443), "[fd00::1]:443");
        assert_eq!(authority("10.0.0.1", 443), "10.0.0.1:443");
        assert_eq!(authority("api.internal", 6443), "api.internal:6443");
    }
}
