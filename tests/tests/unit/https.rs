//! The agent's HTTPS client against real sockets: trust, and bounds on servers that respond badly
//! or not at all.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    thread::{self, sleep},
    time::{Duration, Instant},
};

use spillway_agent::net::http_client::{
    ClientFiles, HttpClient, HttpError, RequestLimits, RequestPhase, Response, TlsOptions,
};
use spillway_tests::{
    Held, Knows, Resolver, Scratch,
    http_server::{reset, respond},
    is_root, now, own_network, own_resolver,
    receiver::{Form, Receiver},
    tls::{Authority, TlsServer},
    wait_for,
};

const NAMES: &[&str] = &["localhost", "127.0.0.1"];
const WHOLE: RequestLimits =
    RequestLimits { timeout: Duration::from_secs(20), body_bytes_max: 1 << 20 };
/// Short limits, for servers that do not respond.
const SHORT: RequestLimits = RequestLimits { timeout: Duration::from_millis(500), ..WHOLE };
/// Age from which the client caches the contents of a file.
const SETTLED: Duration = Duration::from_secs(4);
/// Longer than any of these waits.
const FOREVER: Duration = Duration::from_secs(60);

struct Asker {
    scratch: Scratch,
    authority: Authority,
}

impl Asker {
    fn make(test: &str) -> Self {
        Self { scratch: Scratch::make(test), authority: Authority::make() }
    }

    fn identity(&self, authority: &Authority) -> TlsOptions {
        TlsOptions { ca_file: Some(self.scratch.file("ca.crt", &authority.pem())), client: None }
    }

    fn send(&self, url: &str, bounds: RequestLimits) -> Result<Response, HttpError> {
        let client =
            HttpClient::new(&self.identity(&self.authority)).expect("reading the TLS files");
        let request = hyper::Request::builder().method("POST").uri(url).header("x-spillway", "1");
        client.send(request.body("said".into()).expect("building the request"), bounds)
    }

    fn get(&self, addr: SocketAddr, bounds: RequestLimits) -> Result<Response, HttpError> {
        self.send(&format!("https://{addr}/a?b=c%3Dd"), bounds)
    }
}

/// Phase of a request that fails, which must not exceed its timeout by much.
fn late(asked: impl FnOnce() -> Result<Response, HttpError>) -> RequestPhase {
    let before: Instant = now();
    let error = asked().expect_err("the request should fail");
    let took = before.elapsed();
    assert!(took < SHORT.timeout + Duration::from_secs(5), "{took:?}");
    match error {
        HttpError::TimedOut { phase, timeout } if timeout == SHORT.timeout => phase,
        other => panic!("{other}"),
    }
}

#[test]
fn request_and_response_arrive_whole() {
    let asker = Asker::make("https-whole");
    let server = TlsServer::start(&asker.authority, NAMES, None, |_, stream| {
        respond(stream, "418 I'm a teapot", "content-type: text/plain\r\n", b"short and stout")
    });
    for host in ["127.0.0.1", "localhost"] {
        let answer = asker
            .send(&format!("https://{host}:{}/a?b=c%3Dd", server.addr.port()), WHOLE)
            .expect("the server should respond");
        assert_eq!((answer.status.as_u16(), &answer.body[..]), (418, &b"short and stout"[..]));
        assert_eq!(answer.headers["content-type"], "text/plain");
        let received = server.received().pop().expect("the server should have a request");
        assert_eq!(received.line, "POST /a?b=c%3Dd HTTP/1.1");
        assert_eq!(
            received.header("host"),
            Some(format!("{host}:{}", server.addr.port()).as_str())
        );
        assert_eq!(
            (received.header("x-spillway"), received.header("connection")),
            (Some("1"), Some("close"))
        );
        assert_eq!(received.body, b"said");
    }
}

#[test]
fn redirects_are_not_followed() {
    let asker = Asker::make("https-redirect");
    let elsewhere = TlsServer::start(&asker.authority, NAMES, None, |_, stream| {
        respond(stream, "200 OK", "", b"")
    });
    let location = elsewhere.addr;
    let server = TlsServer::start(&asker.authority, NAMES, None, move |_, stream| {
        write!(
            stream,
            "HTTP/1.1 302 Found\r\nlocation: https://{location}/\r\ncontent-length: 0\r\n\r\n"
        )?;
        stream.flush()
    });
    assert_eq!(
        asker.get(server.addr, WHOLE).expect("the server should respond").status.as_u16(),
        302
    );
    assert!(elsewhere.received().is_empty());
}

#[test]
fn server_needs_a_trusted_certificate_of_its_name() {
    let asker = Asker::make("https-trust");
    let stranger = Authority::make();
    for (authority, names, why) in [
        // The impostor's authority has the same name.
        (&stranger, NAMES, "invalid peer certificate: BadSignature"),
        (
            &asker.authority,
            &["other.internal"][..],
            "invalid peer certificate: certificate not valid for name",
        ),
    ] {
        let server = TlsServer::start(authority, names, None, |_, stream| {
            respond(stream, "200 OK", "", b"")
        });
        match asker.get(server.addr, WHOLE) {
            Err(HttpError::Failed { phase: RequestPhase::Handshaking, why: reason }) => {
                assert!(reason.starts_with(why), "{reason}")
            }
            other => panic!("{other:?}"),
        }
        assert!(server.received().is_empty());
    }
}

#[test]
fn client_certificate_is_sent_on_request() {
    let asker = Asker::make("https-client");
    let clients = Authority::make();
    let server = TlsServer::start(&asker.authority, NAMES, Some(&clients), |_, stream| {
        respond(stream, "204 No Content", "", b"")
    });
    assert!(asker.get(server.addr, WHOLE).is_err());
    let [cert_file, key_file] = ["client.crt", "client.key"].map(|name| asker.scratch.0.join(name));
    for (signer, is_answered) in [(&clients, true), (&asker.authority, false)] {
        signer.client(&cert_file, &key_file);
        let client = Some(ClientFiles { cert_file: cert_file.clone(), key_file: key_file.clone() });
        let client = HttpClient::new(&TlsOptions { client, ..asker.identity(&asker.authority) })
            .expect("reading the TLS files");
        let request =
            hyper::Request::get(format!("https://{}/", server.addr)).body(Default::default());
        let answer = client.send(request.expect("building the request"), WHOLE);
        assert_eq!(answer.map(|answer| answer.status.as_u16()).ok(), is_answered.then_some(204));
    }
    assert_eq!(server.received().len(), 1);
}

#[test]
fn invalid_tls_file_is_named() {
    let asker = Asker::make("https-files");
    let ca_file = asker.scratch.file("ca.crt", &asker.authority.pem());
    let [cert_file, key_file] = ["client.crt", "client.key"].map(|name| asker.scratch.0.join(name));
    asker.authority.client(&cert_file, &key_file);
    let files = |cert_file: &PathBuf, key_file: &PathBuf| {
        Some(ClientFiles { cert_file: cert_file.clone(), key_file: key_file.clone() })
    };
    let empty = asker.scratch.file("empty", "");
    let garbage = asker
        .scratch
        .file("garbage", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let missing = asker.scratch.0.join("missing");
    let other = (asker.scratch.0.join("other.crt"), asker.scratch.0.join("other.key"));
    asker.authority.client(&other.0, &other.1);
    for (ca_file, client, named, why) in [
        (&missing, None, &missing, "No such file"),
        (&empty, None, &empty, "the file has no certificate"),
        (&garbage, None, &garbage, "invalid peer certificate: BadEncoding"),
        (&ca_file, files(&missing, &key_file), &missing, "No such file"),
        (&ca_file, files(&cert_file, &cert_file), &cert_file, ""),
        (&ca_file, files(&cert_file, &other.1), &other.1, "keys may not be consistent"),
    ] {
        match HttpClient::new(&TlsOptions { ca_file: Some(ca_file.clone()), client }).map(drop) {
            Err(HttpError::File { path, why: reason }) => {
                assert!(path == *named && reason.contains(why), "{path:?}: {reason}")
            }
            other => panic!("{other:?} for {named:?}"),
        }
    }
}

#[test]
fn response_is_read_up_to_its_bound() {
    let asker = Asker::make("https-bound");
    const BYTES_MAX: usize = 1_000;
    for (length, says, is_read) in [
        (BYTES_MAX, true, true),
        (BYTES_MAX + 1, true, false),
        (BYTES_MAX, false, true),
        (BYTES_MAX + 1, false, false),
    ] {
        let server = TlsServer::start(&asker.authority, NAMES, None, move |_, stream| {
            let body = "x".repeat(length);
            if says {
                return respond(stream, "200 OK", "", body.as_bytes());
            }
            write!(
                stream,
                "HTTP/1.1 200 OK\r\ntransfer-encoding: \
                chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"
            )
        });
        match asker.get(server.addr, RequestLimits { body_bytes_max: BYTES_MAX, ..WHOLE }) {
            Ok(answer) => assert!(is_read && answer.body.len() == length, "{length} {says}"),
            Err(HttpError::TooLarge(BYTES_MAX)) => assert!(!is_read, "{length} {says}"),
            Err(error) => panic!("{error}"),
        }
    }
    // An endless response is abandoned.
    let server = TlsServer::start(&asker.authority, NAMES, None, |_, stream| {
        write!(stream, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
        loop {
            write!(stream, "3e8\r\n{}\r\n", "x".repeat(1_000))?;
        }
    });
    let error = asker.get(server.addr, WHOLE).expect_err("the response should be rejected");
    assert!(matches!(error, HttpError::TooLarge(_)), "{error}");
    let server = TlsServer::start(&asker.authority, NAMES, None, |_, stream| {
        write!(stream, "HTTP/1.1 200 OK\r\n")?;
        loop {
            write!(stream, "x-{0}: {0}\r\n", "x".repeat(1_000))?;
        }
    });
    let error = asker.get(server.addr, WHOLE).expect_err("the response should be rejected");
    assert!(
        matches!(error, HttpError::Failed { phase: RequestPhase::AwaitingResponse, .. }),
        "{error}"
    );
}

#[test]
fn timeout_names_its_phase() {
    let asker = Asker::make("https-late");
    // The kernel completes connections that no process accepts; nothing follows.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binding to loopback");
    let addr = silent.local_addr().expect("reading the local address");
    assert_eq!(late(|| asker.get(addr, SHORT)), RequestPhase::Handshaking);

    let server = TlsServer::start(&asker.authority, NAMES, None, |_, _| {
        sleep(FOREVER);
        Ok(())
    });
    assert_eq!(late(|| asker.get(server.addr, SHORT)), RequestPhase::AwaitingResponse);

    let server = TlsServer::start(&asker.authority, NAMES, None, |_, stream| {
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345")?;
        stream.flush()?;
        sleep(FOREVER);
        Ok(())
    });
    assert_eq!(late(|| asker.get(server.addr, SHORT)), RequestPhase::ReadingBody);

    // An occasional byte is not a response either.
    let server = TlsServer::start(&asker.authority, NAMES, None, |_, stream| {
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")?;
        loop {
            write!(stream, "x")?;
            stream.flush()?;
            sleep(Duration::from_millis(20));
        }
    });
    assert_eq!(late(|| asker.get(server.addr, SHORT)), RequestPhase::ReadingBody);
}

#[test]
fn broken_connection_names_its_phase() {
    let asker = Asker::make("https-broken");
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binding to loopback");
    let addr = closed.local_addr().expect("reading the local address");
    drop(closed);
    let phase = |asked: Result<Response, HttpError>| match asked {
        Err(HttpError::Failed { phase, why }) => {
            assert!(!why.is_empty());
            phase
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(phase(asker.get(addr, WHOLE)), RequestPhase::Connecting);

    let resets = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binding to loopback");
    let addr = resets.local_addr().expect("reading the local address");
    let resetting = thread::spawn(move || {
        let (mut stream, _) = resets.accept().expect("a client should connect");
        stream.read_exact(&mut [0; 16]).expect("reading from the client");
        reset(&stream).expect("resetting the connection");
    });
    assert_eq!(phase(asker.get(addr, WHOLE)), RequestPhase::Handshaking);
    resetting.join().expect("the thread should not panic");

    // Plain HTTP instead of TLS.
    let plain = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binding to loopback");
    let addr = plain.local_addr().expect("reading the local address");
    let speaking = thread::spawn(move || {
        let (mut stream, _) = plain.accept().expect("a client should connect");
        stream.read_exact(&mut [0; 16]).expect("reading from the client");
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").expect("writing to the client");
    });
    assert_eq!(phase(asker.get(addr, WHOLE)), RequestPhase::Handshaking);
    speaking.join().expect("the thread should not panic");

    for (said, wanted) in [
        ("", RequestPhase::AwaitingResponse),
        ("220 smtp.internal\r\n", RequestPhase::AwaitingResponse),
        ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345", RequestPhase::ReadingBody),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n12345\r\n",
            RequestPhase::ReadingBody,
        ),
    ] {
        for is_reset in [false, true] {
            let server = TlsServer::start(&asker.authority, NAMES, None, move |_, stream| {
                stream.write_all(said.as_bytes())?;
                stream.flush()?;
                if is_reset {
                    reset(&stream.sock)?;
                    return Err(std::io::ErrorKind::Other.into());
                }
                Ok(())
            });
            let phase = phase(asker.get(server.addr, WHOLE));
            // Data sent before a reset may be lost with it.
            assert!(
                phase == wanted || is_reset && phase == RequestPhase::AwaitingResponse,
                "{said:?}: {phase:?}"
            );
        }
    }
}

#[test]
fn scheme_of_a_url_decides_on_encryption() {
    let receiver = Receiver::start(Form::Webhook);
    let asker = Asker::make("https-plain");
    let client = HttpClient::new(&asker.identity(&asker.authority)).expect("reading the TLS files");
    let answer = client
        .post(&receiver.url("/"), &[], b"{}".to_vec(), WHOLE)
        .expect("the server should respond without TLS");
    assert_eq!((answer.status.as_u16(), receiver.calls().len()), (204, 1));
    let encrypted = receiver.url("/").replace("http://", "https://");
    assert!(
        client.post(&encrypted, &[], b"{}".to_vec(), WHOLE).is_err(),
        "a server without TLS should be rejected"
    );
    let error =
        asker.send("ftp://127.0.0.1/", WHOLE).expect_err("other schemes should be rejected");
    assert_eq!(
        error.to_string(),
        "invalid URL\n  hint: use https://HOST/PATH or http://HOST/PATH, without a password"
    );
}

#[test]
fn name_lookup_obeys_the_timeout() {
    if !is_root("https-names") {
        return;
    }
    let asker = Asker::make("https-names");
    own_network().expect("making a network namespace");
    own_resolver(&asker.scratch.file("resolv.conf", "nameserver 127.0.0.1\noptions timeout:1\n"))
        .expect("setting the resolver");
    // Without a resolver on the port, the lookup fails at once.
    let error =
        asker.send("https://api.internal/", WHOLE).expect_err("the name should not resolve");
    assert!(matches!(error, HttpError::Failed { phase: RequestPhase::Resolving, .. }), "{error}");
    let resolver = Resolver::start(Knows::Nothing).expect("starting a resolver");
    assert_eq!(late(|| asker.send("https://api.internal/", SHORT)), RequestPhase::Resolving);
    // A resolver that responds late is used by the next request.
    resolver.behaves(Knows::All);
    let error = asker.send("https://api.internal/", WHOLE).expect_err("connecting should fail");
    assert!(matches!(error, HttpError::Failed { phase: RequestPhase::Connecting, .. }), "{error}");
}

#[test]
fn unanswered_lookups_share_one_thread() {
    const TRIES: u32 = 150;
    if !is_root("https-many-names") {
        return;
    }
    let asker = Asker::make("https-many-names");
    own_network().expect("making a network namespace");
    // Three resolvers with the default timeouts of the C library: half a minute per name.
    let all = "nameserver 127.0.0.1\nnameserver 127.0.0.2\nnameserver 127.0.0.3\n";
    own_resolver(&asker.scratch.file("resolv.conf", all)).expect("setting the resolver");
    let short = RequestLimits { timeout: Duration::from_millis(20), ..WHOLE };
    let mut resolver = None;
    // Without a resolver lookups fail at once; a resolver that refuses is asked repeatedly.
    for (knows, bounds) in
        [(None, WHOLE), (Some(Knows::Nothing), short), (Some(Knows::Nobody), short)]
    {
        if let Some(knows) = knows {
            let start = || Resolver::start(knows).expect("starting a resolver");
            resolver.get_or_insert_with(start).behaves(knows);
        }
        let mut before = None;
        for nth in 0..TRIES {
            for host in ["pages.internal", "drains.internal"] {
                let error = asker
                    .send(&format!("https://{host}/"), bounds)
                    .expect_err("the name should not resolve");
                let is_unknown = match error {
                    HttpError::TimedOut { phase, .. } => {
                        phase == RequestPhase::Resolving && knows.is_some()
                    }
                    HttpError::Failed { phase, .. } => phase == RequestPhase::Resolving,
                    _ => false,
                };
                assert!(is_unknown, "{error} with {knows:?}");
            }
            if nth == TRIES / 10 {
                before = Some(Held::by(std::process::id()));
            }
        }
        let before: Held = before.expect("the first reading should exist");
        // The threads of the last lookups may still be ending.
        let settled = wait_for(Duration::from_secs(5), || {
            let held = Held::by(std::process::id());
            (held.threads <= before.threads + 1).then_some(held)
        });
        let after = settled.unwrap_or_else(|| Held::by(std::process::id()));
        println!("{knows:?}: {before:?}, then {after:?} after {TRIES} tries of two names");
        assert!(
            after.resident_bytes < before.resident_bytes + (1 << 20),
            "{before:?}, then {after:?}"
        );
        // One thread per name, and a socket for each resolver reached so far.
        assert!(after.threads <= before.threads + 1, "{before:?}, then {after:?}");
        assert!(after.descriptors <= before.descriptors + 2 * 3, "{before:?}, then {after:?}");
    }
}

#[test]
fn certificates_are_reread_after_a_change() {
    let asker = Asker::make("https-change");
    let server = TlsServer::start(&asker.authority, NAMES, None, |_, stream| {
        respond(stream, "204 No Content", "", b"")
    });
    let options = asker.identity(&asker.authority);
    let url = format!("https://{}/", server.addr);
    let is_answered = || {
        let client = HttpClient::new(&options).expect("reading the TLS files");
        client.post(&url, &[], "said", WHOLE).is_ok()
    };
    sleep(SETTLED);
    // The first request reads the file, the second uses the cached contents.
    assert!(is_answered() && is_answered());
    asker.identity(&Authority::make());
    assert!(!is_answered(), "the server's authority should no longer be trusted");
    sleep(SETTLED);
    assert!(!is_answered() && !is_answered());
    asker.identity(&asker.authority);
    assert!(is_answered());
    std::fs::remove_file(options.ca_file.as_ref().expect("the test sets a CA file"))
        .expect("removing a test file");
    assert!(HttpClient::new(&options).is_err(), "a removed file should not be used from the cache");
}

/// Prints time and resident memory of 1,000 calls, each with its own client, as in the agent.
/// `cargo test -p spillway-tests --test unit thousand -- --ignored --nocapture`
#[test]
#[ignore = "a measurement without assertions"]
fn thousand_calls_on_loopback_are_measured() {
    const CALLS: u32 = 1_000;
    let asker = Asker::make("https-cost");
    let server = TlsServer::start(&asker.authority, NAMES, None, |_, stream| {
        respond(stream, "204 No Content", "", b"")
    });
    let options = asker.identity(&asker.authority);
    // The agent's files are older than this too: new ones are not cached.
    sleep(SETTLED);
    let measure = |name: &str, call: &dyn Fn()| {
        let (began, before) = (now(), Held::by(std::process::id()));
        (0..CALLS).for_each(|_| call());
        let (took, after) = (began.elapsed(), Held::by(std::process::id()));
        println!("{CALLS} {name}: {took:?}; {before:?}, then {after:?}");
    };
    measure("calls", &|| {
        let client = HttpClient::new(&options).expect("reading the TLS files");
        let url = format!("https://{}/", server.addr);
        client.post(&url, &[], "said", WHOLE).expect("the server should respond");
    });
    let host = TlsOptions { ca_file: None, client: None };
    measure("clients with the host's certificates", &|| {
        drop(HttpClient::new(&host).expect("building a client without files"));
    });
}
