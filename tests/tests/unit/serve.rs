//! The agent's ports over real sockets: permitted peers and requests, and idle connections that
//! must not block others.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    sync::{Arc, mpsc::channel},
    thread,
    time::Duration,
};

use spillway_agent::{
    act::drain::ReadinessCell,
    clock::Clock,
    config::{Config, parse},
    history::StoredHistory,
    serve::{Metrics, Pages, serve, serve_agent_check},
    status::{StatusReport, page},
};
use spillway_tests::{Scratch, http_get, http_get_with, is_root, now, own_network};

const LOOPBACK: &str = "127.0.0.1:0";

/// Maximum wait of a probe while others hold connections.
const AT_ONCE: Duration = Duration::from_secs(1);

fn no_history() -> StoredHistory {
    StoredHistory::below("/nonexistent".into(), Clock::start())
}

/// Serves metrics and the agent check with this configuration, on their own loops as in the agent,
/// and returns both addresses.
fn served(config: Config) -> (SocketAddr, SocketAddr) {
    served_with(config, page::pages(StatusReport::default, no_history()))
}

/// Does the same, with these pages.
fn served_with(config: Config, pages: Pages) -> (SocketAddr, SocketAddr) {
    let (sends, addresses) = channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("starting a runtime");
        runtime.block_on(async {
            let metrics = Arc::new(Metrics::new(Clock::start(), 60.0));
            let readiness = Arc::new(ReadinessCell::default());
            let http = serve(&config.serve, metrics.clone(), readiness.clone(), pages)
                .await
                .expect("serving HTTP");
            let listen =
                config.act.drain.agent_check.listen.expect("the agent check should be configured");
            let check = serve_agent_check(listen, &config.serve.allow, &metrics, readiness).await;
            sends
                .send((http, check.expect("serving the agent check")))
                .expect("the test should be waiting");
            std::future::pending::<()>().await;
        });
    });
    addresses.recv().expect("the server should send its addresses")
}

fn config(text: &str) -> Config {
    let listens = text.contains("serve.listen");
    let rest = if listens {
        String::new()
    } else {
        format!("serve.listen = '{LOOPBACK}'\nact.drain.agent_check.listen = '{LOOPBACK}'\n")
    };
    parse(&format!("{rest}{text}"), "x.toml").expect("the configuration should be valid")
}

/// Status line of the response to a request with these headers.
fn status(addr: SocketAddr, path: &str, headers: &[&str]) -> io::Result<String> {
    let answer = http_get_with(addr, path, headers)?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}

fn agent_check(addr: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut line = String::new();
    stream.read_to_string(&mut line)?;
    Ok(line)
}

/// Panics unless every probe gets an immediate response.
fn assert_all_answer(http: SocketAddr, check: SocketAddr) {
    for path in ["/ready", "/healthz", "/metrics"] {
        let asked = now();
        let answer = http_get(http, path).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(
            answer.starts_with("HTTP/1.1 200") && asked.elapsed() < AT_ONCE,
            "{path} {:?}: {answer}",
            asked.elapsed()
        );
    }
    let asked = now();
    assert_eq!(agent_check(check).expect("the server should respond"), "ready 100%\n");
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
}

#[test]
fn idle_connections_do_not_delay_probes() {
    let (http, check) = served(config(""));
    let silent: Vec<_> =
        (0..200).map(|nth| TcpStream::connect(if nth % 2 == 0 { http } else { check })).collect();
    assert!(silent.iter().all(Result::is_ok));
    assert_all_answer(http, check);
    // They begin a request, continue it a byte at a time, and never end it.
    let mut slow: Vec<_> =
        (0..100).map(|_| TcpStream::connect(http).expect("connecting")).collect();
    for byte in "GET /metrics HTTP/1.1\r\nx:".bytes() {
        // Writes to dropped connections fail.
        slow.iter_mut().for_each(|stream| drop(stream.write_all(&[byte])));
    }
    assert_all_answer(http, check);
    // They request metrics, read nothing and stay connected.
    let mut scrapers = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(http).expect("connecting");
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .expect("sending a request");
        scrapers.push(stream);
    }
    assert_all_answer(http, check);
    let answer = http_get(http, "/metrics").expect("the server should respond");
    for port in ["new", "metrics", "agent_check"] {
        let name = format!("spillway_serve_dropped_total{{port=\"{port}\",reason=\"peer_limit\"}}");
        assert!(answer.contains(&name), "{name} in {answer}");
    }
}

#[test]
fn active_connection_outlives_idle_ones() {
    let (http, _) = served(config(""));
    let mut kept = TcpStream::connect(http).expect("connecting");
    kept.set_read_timeout(Some(Duration::from_secs(5))).expect("setting a timeout");
    let mut silent = Vec::new();
    for _ in 0..20 {
        kept.write_all(b"GET /ready HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .expect("sending a request");
        let mut answer = [0; 15];
        kept.read_exact(&mut answer).expect("the server should respond");
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        while !answer.ends_with(b"%\n") {
            answer.rotate_left(1);
            kept.read_exact(&mut answer[14..]).expect("reading the rest of the response");
        }
        silent.extend((0..10).map(|_| TcpStream::connect(http).expect("connecting")));
    }
}

#[test]
fn dns_rebinding_is_rejected() {
    let (http, _) = served(config("serve.host_names = ['node-1.example.com']"));
    for path in ["/", "/incidents/a", "/metrics", "/healthz", "/ready", "/nothing"] {
        let rebound =
            status(http, path, &["host: evil.example:9646"]).expect("the server should respond");
        assert!(rebound.starts_with("HTTP/1.1 421"), "{path}: {rebound}");
    }
    for host in ["127.0.0.1", "localhost:9646", "10.1.2.3:9646", "[::1]", "Node-1.example.com:9646"]
    {
        let own =
            status(http, "/ready", &[&format!("host: {host}")]).expect("the server should respond");
        assert!(own.starts_with("HTTP/1.1 200"), "{host}: {own}");
    }
    let twice = status(http, "/ready", &["host: localhost", "host: evil.example"])
        .expect("the server should respond");
    assert!(twice.starts_with("HTTP/1.1 400"), "{twice}");
}

/// File with a token, readable only by its owner.
fn token_file(scratch: &Scratch) -> PathBuf {
    let path = scratch.secret("token", "0123456789abcdef0123456789abcdef\n");
    fs::set_permissions(&scratch.0, fs::Permissions::from_mode(0o700)).expect("setting a mode");
    path
}

#[test]
fn token_is_required_except_for_local_probes() {
    let scratch = Scratch::make("serve-token");
    let (http, _) =
        served(config(&format!("serve.token_file = '{}'", token_file(&scratch).display())));
    let right = "authorization: Bearer 0123456789abcdef0123456789abcdef";
    for (path, headers, wanted) in [
        ("/metrics", &["host: localhost"][..], "401"),
        (
            "/metrics",
            &["host: localhost", "authorization: Bearer 0123456789abcdef0123456789abcdee"],
            "401",
        ),
        ("/metrics", &["host: localhost", right], "200"),
        ("/", &["host: localhost"], "401"),
        ("/incidents/a", &["host: localhost"], "401"),
        ("/", &["host: localhost", right], "200"),
        ("/metrics", &["host: scraped.example", right], "200"),
        ("/healthz", &["host: localhost"], "200"),
        ("/ready", &["host: localhost"], "200"),
        ("/ready", &["host: evil.example"], "421"),
    ] {
        let found = status(http, path, headers).expect("the server should respond");
        assert!(found.starts_with(&format!("HTTP/1.1 {wanted}")), "{path} {headers:?}: {found}");
    }
}

#[test]
fn page_runs_and_loads_nothing_in_a_browser() {
    let (http, _) = served(config(""));
    let page = http_get(http, "/").expect("the server should respond");
    let head = page.split("\r\n\r\n").next().unwrap_or_default().to_ascii_lowercase();
    for wanted in [
        "http/1.1 200",
        "content-type: text/html; charset=utf-8",
        "content-security-policy: default-src 'none'; style-src 'unsafe-inline'; frame-ancestors",
        "x-content-type-options: nosniff",
        "cache-control: no-store",
    ] {
        assert!(head.contains(wanted), "no {wanted:?} in {head}");
    }
    assert!(page.contains("no incident"), "{page}");
}

#[test]
fn page_that_hangs_holds_up_no_probe_and_is_given_up() {
    let hangs = Pages {
        render: Arc::new(|_| {
            thread::sleep(Duration::from_secs(8));
            None
        }),
        ..page::pages(StatusReport::default, no_history())
    };
    let (http, check) = served_with(config(""), hangs);
    let waiting: Vec<_> =
        (0..8).map(|_| thread::spawn(move || status(http, "/", &["host: localhost"]))).collect();
    assert_all_answer(http, check);
    for page in waiting {
        let given_up = page.join().expect("the thread should end").expect("a response");
        assert!(given_up.starts_with("HTTP/1.1 504"), "{given_up}");
    }
    assert_all_answer(http, check);
}

#[test]
fn peers_outside_allowed_networks_get_no_response() {
    const TEST: &str = "peers_outside_allowed_networks_get_no_response";
    if !is_root(TEST) {
        return;
    }
    own_network().expect("making a network namespace");
    for addr in ["198.51.100.1/32", "198.51.100.2/32", "203.0.113.2/32"] {
        let added =
            std::process::Command::new("ip").args(["addr", "add", addr, "dev", "lo"]).status();
        assert!(added.is_ok_and(|status| status.success()), "adding {addr}");
    }
    let listens =
        "serve.listen = '198.51.100.1:0'\nact.drain.agent_check.listen = '198.51.100.1:0'\n";
    let (http, check) = served(config(&format!("{listens}serve.allow = ['198.51.100.2/32']")));
    let line = |from: &str| connect_from(from, check).and_then(read);
    let ready = |from: &str, headers: &str| {
        let mut stream = connect_from(from, http)?;
        write!(
            stream,
            "GET /ready HTTP/1.1\r\nhost: {http}\r\n{headers}connection: close\r\n\r\n"
        )?;
        read(stream)
    };
    for allowed in ["198.51.100.2", "198.51.100.1"] {
        assert_eq!(line(allowed).expect("the server should respond"), "ready 100%\n", "{allowed}");
        assert!(
            ready(allowed, "").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")),
            "{allowed}"
        );
    }
    let nothing = |answer: io::Result<String>| answer.map_or(true, |answer| answer.is_empty());
    // More connections than slots; none of them takes a slot.
    let held: Vec<_> = (0..100).map(|_| connect_from("203.0.113.2", check)).collect();
    assert!(nothing(line("203.0.113.2")) && nothing(ready("203.0.113.2", "")));
    assert_eq!(line("198.51.100.2").expect("the server should respond"), "ready 100%\n");
    drop(held);

    // With a token and without networks, the token decides.
    let scratch = Scratch::make("serve-peers");
    let token = token_file(&scratch);
    let listens =
        format!("serve.listen = '198.51.100.1:0'\nact.drain.agent_check.listen = '{LOOPBACK}'\n");
    let (http, _) = served(config(&format!("{listens}serve.token_file = '{}'", token.display())));
    let ready = |headers: &str| {
        let mut stream = connect_from("203.0.113.2", http)?;
        write!(
            stream,
            "GET /ready HTTP/1.1\r\nhost: {http}\r\n{headers}connection: close\r\n\r\n"
        )?;
        read(stream)
    };
    assert!(ready("").is_ok_and(|answer| answer.starts_with("HTTP/1.1 401")));
    let right = "authorization: Bearer 0123456789abcdef0123456789abcdef\r\n";
    assert!(ready(right).is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")));
}

/// Connects from an address of this host.
fn connect_from(from: &str, to: SocketAddr) -> io::Result<TcpStream> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(from.parse().expect("the address should be valid"), 0))?;
        socket.connect(to).await?.into_std()
    })?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    Ok(stream)
}

fn read(mut stream: TcpStream) -> io::Result<String> {
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
