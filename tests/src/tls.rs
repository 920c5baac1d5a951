//! HTTPS server with certificates that the test creates and answers that the test writes.

use std::{
    fs,
    io::{self, Write as _},
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

use crate::http_server::Request;

/// Certificate authority.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// Stream that a response is written to.
pub type Answering = StreamOwned<ServerConnection, TcpStream>;

/// Server that ends when it is dropped.
pub struct TlsServer {
    /// Address that the server listens on.
    pub addr: SocketAddr,
    received: Arc<Mutex<Vec<Request>>>,
    ended: Arc<AtomicBool>,
}

impl Authority {
    /// Creates an authority with a new key.
    ///
    /// # Panics
    ///
    /// Panics if no key can be made.
    pub fn make() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("a certificate needs no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key can be generated");
        Self(CertifiedIssuer::self_signed(params, key).expect("the authority can sign itself"))
    }

    /// Certificate of the authority, in PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Signs a certificate for these names. Returns it with its key.
    fn signed(&self, names: &[&str]) -> (rcgen::Certificate, KeyPair) {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let common_name = names.first().cloned().unwrap_or_default();
        let mut params = CertificateParams::new(names).expect("the names are valid");
        // The name must differ from the authority's, otherwise OpenSSL considers the certificate
        // self-signed.
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key can be generated");
        (params.signed_by(&key, &self.0).expect("the authority can sign"), key)
    }

    /// Writes a client's certificate to `cert_file` and its key to `key_file`.
    ///
    /// # Panics
    ///
    /// Panics if they cannot be written.
    pub fn client(&self, cert_file: &Path, key_file: &Path) {
        self.files("agent.internal", cert_file, key_file);
    }

    /// Writes a certificate for this name to `cert_file` and its key to `key_file`.
    ///
    /// # Panics
    ///
    /// Panics if they cannot be written.
    pub fn files(&self, name: &str, cert_file: &Path, key_file: &Path) {
        let (certificate, key) = self.signed(&[name]);
        fs::write(cert_file, certificate.pem()).expect("the file can be written");
        fs::write(key_file, key.serialize_pem()).expect("the file can be written");
        fs::set_permissions(key_file, fs::Permissions::from_mode(0o600))
            .expect("the mode can be set");
    }
}

impl TlsServer {
    /// Starts a server on loopback with a certificate for `names` that `authority` signs. If
    /// `clients` is given, clients need a certificate of that authority. `answer` writes each
    /// response.
    ///
    /// # Panics
    ///
    /// Panics if it cannot listen.
    pub fn start(
        authority: &Authority,
        names: &[&str],
        clients: Option<&Authority>,
        answer: impl Fn(&Request, &mut Answering) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let config = Arc::new(config(authority, names, clients));
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port is free");
        let addr = listener.local_addr().expect("a listener has an address");
        let (received, ended) =
            (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (keep, is_ended, answer) = (received.clone(), ended.clone(), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if is_ended.load(Ordering::SeqCst) {
                    return;
                }
                let (config, keep, answer) = (config.clone(), keep.clone(), answer.clone());
                // Some tests disconnect or are refused: that is no error here.
                thread::spawn(move || drop(serve(stream, config, &keep, &*answer)));
            }
        });
        Self { addr, received, ended }
    }

    /// Complete requests, in order.
    pub fn received(&self) -> Vec<Request> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for the next connection.
        let _ = TcpStream::connect_timeout(&self.addr, Duration::from_secs(1));
    }
}

fn config(authority: &Authority, names: &[&str], clients: Option<&Authority>) -> ServerConfig {
    let (certificate, key) = authority.signed(names);
    let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let provider = Arc::new(ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider.clone());
    let config = config
        .with_safe_default_protocol_versions()
        .expect("the provider supports the default versions");
    let config = match clients {
        None => config.with_no_client_auth(),
        Some(clients) => {
            let mut roots = RootCertStore::empty();
            roots.add(clients.0.der().clone()).expect("the certificate is valid");
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            config.with_client_cert_verifier(verifier.expect("there is a root certificate"))
        }
    };
    config.with_single_cert(chain, key.into()).expect("the key belongs to the certificate")
}

fn serve(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    keep: &Mutex<Vec<Request>>,
    answer: &(dyn Fn(&Request, &mut Answering) -> io::Result<()> + Send + Sync),
) -> io::Result<()> {
    let connection = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, stream);
    let received = Request::read(&mut stream)?;
    keep.lock().unwrap_or_else(PoisonError::into_inner).push(received.clone());
    answer(&received, &mut stream)?;
    stream.conn.send_close_notify();
    stream.flush()
}
