//! One request over HTTPS, and its answer: for what asks others, each on a thread of its own and
//! never on the loop.
//!
//! One deadline holds for all of it, from the look-up of the name to the last byte, because what is
//! not awaited any more is dropped. A body is read up to a bound and no further. No redirect is
//! followed, so that a token goes nowhere but where it was meant to, no proxy is asked, and nothing
//! is compressed. Files are read anew by each client: certificates are replaced while the agent
//! runs. Plain HTTP is spoken where the address says so; whoever configures addresses says which
//! may.

use std::{
    cell::Cell,
    error::Error as StdError,
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
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
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        self, ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    },
};

use crate::{
    net::dns::resolve,
    os::trusted::{self, FileRules, PathRules},
};

/// An address that says nothing must not keep the next one from being tried.
const CONNECTS_WITHIN: Duration = Duration::from_secs(2);

/// Largest file of certificates: a system's own has some 200 KiB.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Most bytes of an answer's head. Heads have some hundreds.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Trusted authorities, and the client's own certificate.
#[derive(Debug, Clone)]
pub struct TlsOptions {
    /// Certificates, in PEM, one of which has to have signed the server's; `None` for those that
    /// this host trusts.
    pub ca_file: Option<PathBuf>,
    /// Client certificate, for servers that request one.
    pub client: Option<ClientFiles>,
}

/// A client's certificate and its key, in PEM.
#[derive(Debug, Clone)]
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

/// Asks servers that an [`Identity`] trusts.
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
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// Returns an error that names the file that cannot be used.
    pub fn new(identity: &TlsOptions) -> Result<Self, HttpError> {
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
        Ok(Self { tls: TlsConnector::from(Arc::new(config)) })
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
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| failed(&error))?;
        let asked = runtime.block_on(async {
            timeout(bounds.within, self.exchange(request, bounds.body_bytes_max, &phase)).await
        });
        asked.unwrap_or_else(|_| Err(HttpError::Late { within: bounds.within, phase: phase.get() }))
    }

    /// Sends a body, as [`Client::send`] does.
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
        // It ends with the runtime at the latest; what it has to say of a failure the answer says
        // too.
        tokio::spawn(connection);
        let answer =
            sender.send_request(request.map(Full::new)).await.map_err(|error| failed(&error))?;

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
    }
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
