//! A draining node waits for the requests of its services, and for nothing else: real nginx with
//! clients that keep their connections, beside a program that is no service.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::Command,
    thread::{self, sleep},
    time::Duration,
};

use spillway_agent::sense::Hierarchy;
use spillway_tests::{
    ANY_PORT, OwnCgroup, Program, Refused, Running, Scratch, Servers, agent,
    drain_live::{SOON, free_addr},
    http_server::respond,
    is_root, now,
    receiver::{Form, Receiver},
    refuse, run_with, skip, wait_for,
};

/// Time after which a drain that is not complete counts as complete.
const DEADLINE: Duration = Duration::from_secs(20);
/// Connections that stay open without a request.
const IDLE: usize = 50;

/// Size of a file that nginx takes six seconds to send.
const FILE_BYTES: usize = 6 << 20;

/// A node: nginx before an upstream, its agent, and the receiver that grants drains. Another
/// program beside it has a connection whose request never ends.
struct Node {
    agent: Running,
    config: PathBuf,
    receiver: Receiver,
    nginx: SocketAddr,
    /// Programs, their cgroup and their files, in the order in which they end.
    _others: (TcpStream, Program, OwnCgroup, Scratch),
}

impl Node {
    /// Starts it; `None` if it cannot run here. The upstream answers after `takes`. The agent has no
    /// BPF if it is `refused`.
    fn start(test: &str, takes: Duration, refused: Option<Refused>) -> Option<Self> {
        if !is_root(test) {
            return None;
        }
        let servers = match Servers::find() {
            Ok(servers) => servers,
            Err(reason) => {
                skip(test, &reason);
                return None;
            }
        };
        let (scratch, receiver) = (Scratch::make(test), Receiver::start(Form::Webhook));
        // The operator's own cgroup may be a protected one.
        let cgroup =
            OwnCgroup::make(Hierarchy::detect().mount().expect("cgroups are mounted"), test)
                .expect("a cgroup can be created");
        let (nginx, other) = (free_addr(), upstream(10 * DEADLINE));
        let server = servers.nginx_before(
            &scratch.0.join("nginx"),
            nginx,
            upstream(takes),
            FILE_BYTES,
            &cgroup,
        );
        let mut held = TcpStream::connect(other).expect("the other program listens");
        request(&mut held);
        let keys = scratch.secret("keys", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let config = scratch.file(
            "spillway.toml",
            &format!(
                "{ANY_PORT}[decide]\nservices = [\"tcp:{nginx}\"]\n[act.drain]\nurl = \"{}\"\n\
                 secret_file = \"{}\"\ndwell = \"1s\"\ndrained_within = \"{}s\"\nverify = \
                 \"1s\"\n[record]\nstate_dir = \"{}\"\n",
                receiver.url("/drains"),
                keys.display(),
                DEADLINE.as_secs(),
                scratch.0.join("state").display()
            ),
        );
        let mut command: Command = run_with(&config);
        command.arg("--json");
        refused.into_iter().for_each(|refused| refuse(&mut command, refused));
        let agent = Running::start(command);
        let _others = (held, server, cgroup, scratch);
        Some(Self { agent, config, receiver, nginx, _others })
    }

    /// Opens a connection and has a request answered on it.
    fn client(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.nginx).expect("nginx listens");
        request(&mut stream);
        answer(&mut stream);
        stream
    }

    /// Drains the node; returns the time from the grant until it is drained, and the report.
    fn drain(&self) -> (Duration, String) {
        let output = agent().args(["drain", "--config"]).arg(&self.config).output();
        assert!(output.expect("the agent runs").status.success());
        let until = |name| {
            let line = wait_for(DEADLINE + SOON, || self.agent.line_of("outcome", name, "node"));
            line.unwrap_or_else(|| panic!("not {name}: {}", self.agent.log()))
        };
        until("draining");
        let granted = now();
        let drained = until("drained");
        assert_eq!(self.receiver.calls().len(), 1, "{:?}", self.receiver.calls());
        (granted.elapsed(), drained["why"].as_str().unwrap_or_default().to_owned())
    }
}

/// Answers each request after `takes`; returns its address.
fn upstream(takes: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is up");
    let addr = listener.local_addr().expect("the listener has an address");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let _ = stream.read(&mut [0; 4096]);
                sleep(takes);
                let _ = respond(&mut stream, "200 OK", "", b"ok");
            });
        }
    });
    addr
}

fn request(stream: &mut TcpStream) {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("the server reads");
}

fn answer(stream: &mut TcpStream) {
    let mut text = String::new();
    while !text.ends_with("ok") {
        let mut part = [0; 4096];
        let read = stream.read(&mut part).expect("nginx answers");
        assert!(read > 0, "nginx closed the connection: {text}");
        text += &String::from_utf8_lossy(&part[..read]);
    }
}

#[test]
fn idle_connections_do_not_hold_a_drain() {
    is_drained_beside_idle_connections("drain-idle", None);
}

#[test]
fn idle_connections_do_not_hold_a_drain_without_bpf() {
    is_drained_beside_idle_connections("drain-idle-diag", Some(Refused::BPF));
}

fn is_drained_beside_idle_connections(test: &str, refused: Option<Refused>) {
    let Some(node) = Node::start(test, Duration::from_millis(20), refused) else { return };
    let idle: Vec<_> = (0..IDLE).map(|_| node.client()).collect();
    let (took, why) = node.drain();
    println!("{test}: drained {took:.1?} after the grant beside {IDLE} connections: {why}");
    assert!(took < Duration::from_secs(8), "{took:?}: {why}");
    assert!(why.starts_with("no request is in flight"), "{why}");
    drop(idle);
    node.agent.stop();
}

#[test]
fn response_holds_a_drain_until_it_is_sent() {
    const TEST: &str = "drain-response";
    let Some(node) = Node::start(TEST, Duration::from_millis(20), None) else { return };
    let mut client = TcpStream::connect(node.nginx).expect("nginx listens");
    client.write_all(b"GET /file HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("nginx reads");
    let received = thread::spawn(move || {
        let (mut bytes, mut part) = (0, vec![0; 1 << 16]);
        while bytes < FILE_BYTES {
            let read = client.read(&mut part).expect("nginx answers");
            assert!(read > 0, "nginx closed the connection after {bytes} bytes");
            bytes += read;
        }
        (now(), client)
    });
    let (took, why) = node.drain();
    let drained = now();
    let (received, _client) = received.join().expect("the thread does not panic");
    println!(
        "{TEST}: drained {took:.1?} after the grant, {:.1?} after the last byte: {why}",
        drained.saturating_duration_since(received)
    );
    assert!(drained >= received, "{:?} too early: {why}", received.duration_since(drained));
    assert!(drained < received + Duration::from_secs(8), "{took:?}: {why}");
    assert!(why.starts_with("no request is in flight"), "{why}");
    node.agent.stop();
}

#[test]
fn request_holds_a_drain_until_it_is_answered() {
    const TEST: &str = "drain-request";
    const TAKES: Duration = Duration::from_secs(5);
    let Some(node) = Node::start(TEST, TAKES, None) else { return };
    let mut slow = TcpStream::connect(node.nginx).expect("nginx listens");
    request(&mut slow);
    let asked = now();
    let answered = thread::spawn(move || {
        answer(&mut slow);
        (now(), slow)
    });
    let (took, why) = node.drain();
    let drained = now();
    assert!(asked.elapsed() >= TAKES, "drained {took:?} after the grant: {why}");
    let (answered, _slow) = answered.join().expect("the thread does not panic");
    let after = drained.duration_since(answered);
    println!("{TEST}: drained {took:.1?} after the grant, {after:.1?} after the answer: {why}");
    assert!(after < Duration::from_secs(8), "{after:?}: {why}");
    assert!(why.starts_with("no request is in flight"), "{why}");
    node.agent.stop();
}

#[test]
fn load_on_open_connections_holds_a_drain_until_it_ends() {
    const TEST: &str = "drain-load";
    const SECS: u32 = 8;
    let Some(node) = Node::start(TEST, Duration::from_millis(200), None) else { return };
    let servers = Servers::find().expect("the node has them");
    let idle: Vec<_> = (0..IDLE).map(|_| node.client()).collect();
    let begun = now();
    let mut wrk = Program::start(&mut servers.keep_alive_wrk(node.nginx, 10, SECS));
    // The drain finds the load on connections that are already open.
    sleep(Duration::from_secs(1));
    let (took, why) = node.drain();
    let total = begun.elapsed();
    println!("{TEST}: drained {took:.1?} after the grant, {total:.1?} after the load began: {why}");
    assert!(!wrk.is_running(), "drained {took:?} after the grant, under load: {why}");
    assert!(total < Duration::from_secs(u64::from(SECS) + 8), "{total:?}: {why}");
    drop(idle);
    node.agent.stop();
}

#[test]
fn request_that_never_ends_is_named_at_the_deadline() {
    const TEST: &str = "drain-endless";
    let Some(node) = Node::start(TEST, 10 * DEADLINE, None) else { return };
    let endless = [(); 2].map(|()| {
        let mut stream = TcpStream::connect(node.nginx).expect("nginx listens");
        request(&mut stream);
        stream
    });
    let (took, why) = node.drain();
    println!("{TEST}: drained {took:.1?} after the grant: {why}");
    assert!(took >= DEADLINE - Duration::from_secs(1), "{took:?}: {why}");
    assert_eq!(why, "2 requests are in flight, and the drain no longer waits for them");
    drop(endless);
    node.agent.stop();
}
