//! A server over TLS that answers as a test says, with certificates that the test made: the agent's
//! requests, as a server gets them.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use tokio_rustls::rustls::{
    RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};

/// Somebody who signs certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A request, as it came.
#[derive(Debug, Clone)]
pub struct Received {
    /// The first line: method, target and version.
    pub line: String,
    /// Each header's name in lowercase, and its value.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// The stream that an answer is written to.
pub type Answering = StreamOwned<ServerConnection, TcpStream>;

/// The server; ended when it is dropped.
pub struct TlsServer {
    /// Where it listens.
    pub addr: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    ended: Arc<AtomicBool>,
}

impl Authority {
    /// Makes one.
    ///
    /// # Panics
    ///
    /// Where no keys can be made.
    pub fn make() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names are fine");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key can be made");
        Self(CertifiedIssuer::self_signed(params, key).expect("it can sign itself"))
    }

    /// Its own certificate, in PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for these names that it signs, and its key.
    fn signed(&self, names: &[&str]) -> (rcgen::Certificate, KeyPair) {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let common_name = names.first().cloned().unwrap_or_default();
        let mut params = CertificateParams::new(names).expect("the names are ones");
        // Of a name that is not its signer's, or OpenSSL takes it for self-signed.
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key can be made");
        (params.signed_by(&key, &self.0).expect("it can sign"), key)
    }

    /// Writes a client's certificate to `cert_file` and its key to `key_file`.
    ///
    /// # Panics
    ///
    /// Where they cannot be written.
    pub fn client(&self, cert_file: &Path, key_file: &Path) {
        let (certificate, key) = self.signed(&["agent.internal"]);
        fs::write(cert_file, certificate.pem()).expect("a file can be written");
        fs::write(key_file, key.serialize_pem()).expect("a file can be written");
        fs::set_permissions(key_file, fs::Permissions::from_mode(0o600)).expect("it is ours");
    }
}

impl Received {
    /// A header's value, where there is exactly one.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(known, _)| known == name);
        let (_, value) = found.next()?;
        found.next().is_none().then_some(value)
    }

    fn read(stream: &mut Answering) -> io::Result<Self> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).map_err(io::Error::other)?;
        let mut lines = head.trim_end().split("\r\n");
        let line = lines.next().unwrap_or_default().to_owned();
        let header = |line: &str| {
            line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        };
        let headers: Vec<_> = lines.filter_map(header).collect();
        let mut received = Self { line, headers, body: Vec::new() };
        let length =
            received.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        received.body.resize(length, 0);
        stream.read_exact(&mut received.body)?;
        Ok(received)
    }
}

impl TlsServer {
    /// Starts one on loopback whose certificate `authority` signs for `names`; `clients` has to
    /// have signed whoever asks, where it is given. Each request is answered by what `answer`
    /// writes.
    ///
    /// # Panics
    ///
    /// Where it cannot listen.
    pub fn start(
        authority: &Authority,
        names: &[&str],
        clients: Option<&Authority>,
        answer: impl Fn(&Received, &mut Answering) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let config = Arc::new(config(authority, names, clients));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has ports");
        let addr = listener.local_addr().expect("it has one");
        let (received, ended) =
            (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (keep, is_ended, answer) = (received.clone(), ended.clone(), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if is_ended.load(Ordering::SeqCst) {
                    return;
                }
                let (config, keep, answer) = (config.clone(), keep.clone(), answer.clone());
                // Who breaks off, or is not to be trusted, is part of the test.
                thread::spawn(move || drop(serve(stream, config, &keep, &*answer)));
            }
        });
        Self { addr, received, ended }
    }

    /// Every request that came whole, in order.
    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // It waits for the next connection.
        let _ = TcpStream::connect_timeout(&self.addr, Duration::from_secs(1));
    }
}

fn config(authority: &Authority, names: &[&str], clients: Option<&Authority>) -> ServerConfig {
    let (certificate, key) = authority.signed(names);
    let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let provider = Arc::new(ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider.clone());
    let config = config.with_safe_default_protocol_versions().expect("there are some");
    let config = match clients {
        None => config.with_no_client_auth(),
        Some(clients) => {
            let mut roots = RootCertStore::empty();
            roots.add(clients.0.der().clone()).expect("it is a certificate");
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            config.with_client_cert_verifier(verifier.expect("there is a root"))
        }
    };
    config.with_single_cert(chain, key.into()).expect("they belong together")
}

fn serve(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    keep: &Mutex<Vec<Received>>,
    answer: &(dyn Fn(&Received, &mut Answering) -> io::Result<()> + Send + Sync),
) -> io::Result<()> {
    let connection = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, stream);
    let received = Received::read(&mut stream)?;
    keep.lock().unwrap_or_else(PoisonError::into_inner).push(received.clone());
    answer(&received, &mut stream)?;
    stream.conn.send_close_notify();
    stream.flush()
}

/// Writes an answer with a body of this type.
///
/// # Errors
///
/// Where the other end is gone.
pub fn answer(
    stream: &mut Answering,
    status: &str,
    content_type: &str,
    body: &str,
) -> io::Result<()> {
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: \
        {length}\r\n\r\n{body}"
    )?;
    stream.flush()
}

/// Ends a connection as a crash does: the other end gets a reset.
///
/// # Panics
///
/// Where it is no socket.
pub fn reset(stream: &TcpStream) {
    use std::os::fd::AsRawFd as _;
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the option is a linger, which lives here and has its size.
    let set = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        )
    };
    assert_eq!(set, 0, "{}", io::Error::last_os_error());
}
