//! What becomes of a connection that is refused at the door, behind HAProxy and nginx: the kernel
//! drops its first packet, so that the proxy waits for its own timeout.
//!
//! `net.ipv4.tcp_abort_on_overflow` changes nothing while a queue stays full, so each is asked with
//! both values. The figures are those of `configs/README.md`, "Shedding load".

use std::{fs, net::SocketAddr, path::Path, process::Command, thread, time::Duration};

use spillway_tests::{
    Program, Scratch, Servers, Workload, built, drain_live::backend, http_get, is_root, now,
    own_network, skip,
};

/// Length of the queue that is full.
const LENGTH: u32 = 4;
/// Requests of a round, all at once.
const REQUESTS: usize = 10;
/// Time that each of the proxies waits for a connection.
const CONNECT_SECS: f64 = 1.0;
/// Tries of HAProxy, with `retries 2`.
const HAPROXY_TRIES: f64 = 3.0;
/// Time in which whoever does not wait for a connection is answered, on a busy machine.
const AT_ONCE_SECS: f64 = 0.5;

/// A proxy and its settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proxy {
    /// As in `configs/haproxy/`, with fewer retries.
    Haproxy,
    /// With `proxy_connect_timeout 1s`.
    Nginx,
    /// With `max_fails=0` as well.
    NginxWithoutMaxFails,
}

/// Answer to a request: its status, and the seconds until it came.
type Answer = (String, f64);

#[test]
fn refused_connection_is_tried_on_another_node() {
    let test = "refused_connection_is_tried_on_another_node";
    if !is_root(test) {
        return;
    }
    let Ok(servers) = Servers::find().inspect_err(|reason| skip(test, reason)) else { return };
    let proxies = [Proxy::Haproxy, Proxy::Nginx, Proxy::NginxWithoutMaxFails];
    let cases: Vec<_> =
        proxies.into_iter().flat_map(|proxy| [(proxy, false), (proxy, true)]).collect();
    thread::scope(|scope| {
        for &(proxy, resets) in &cases {
            let servers = &servers;
            scope.spawn(move || other_node_answers(servers, proxy, resets));
            scope.spawn(move || client_gets_an_error(servers, proxy, resets));
        }
    });
}

/// Of two nodes one is full: all requests are answered, half of them after one timeout.
fn other_node_answers(servers: &Servers, proxy: Proxy, resets: bool) {
    let scratch = Scratch::make(&format!("refused-two-{proxy:?}-{resets}"));
    let full = full_node(resets);
    let other = backend(Duration::from_millis(5), "0", None);
    let (addr, _running) = start(servers, &scratch.0, proxy, &[full.addr(), other.addr()]);
    let rounds = [ask(addr), ask(addr)];
    println!("{proxy:?}, resets: {resets}, one of two full: {rounds:.2?}");
    let waited = rounds.map(|answers| {
        assert!(answers.iter().all(|(status, _)| status == "200"), "{proxy:?}: {answers:?}");
        let late = answers.iter().filter(|(_, secs)| *secs >= AT_ONCE_SECS);
        assert!(late.clone().all(|(_, secs)| *secs >= CONNECT_SECS - 0.1), "{answers:?}");
        late.count()
    });
    // After one failure nginx asks a node only again after ten seconds, as if it were down.
    let takes_out = proxy == Proxy::Nginx;
    assert!(waited[0] > 0 && (waited[1] == 0) == takes_out, "{proxy:?}: {waited:?} waited");
}

/// The only node is full: the client gets an error of the proxy's own.
fn client_gets_an_error(servers: &Servers, proxy: Proxy, resets: bool) {
    let scratch = Scratch::make(&format!("refused-one-{proxy:?}-{resets}"));
    let full = full_node(resets);
    let (addr, _running) = start(servers, &scratch.0, proxy, &[full.addr()]);
    let answers = ask(addr);
    println!("{proxy:?}, resets: {resets}, the only one full: {answers:.2?}");
    let (expected, after_secs) = match proxy {
        Proxy::Haproxy => ("503", HAPROXY_TRIES * CONNECT_SECS),
        Proxy::Nginx | Proxy::NginxWithoutMaxFails => ("504", CONNECT_SECS),
    };
    for (status, secs) in &answers {
        assert_eq!(status, expected, "{proxy:?}: {answers:?}");
        assert!((after_secs - 0.1..after_secs + 1.0).contains(secs), "{proxy:?}: {answers:?}");
    }
}

/// Takes this thread into a network namespace of its own, with a server whose queue is full.
fn full_node(resets: bool) -> Workload {
    own_network().expect("root can create a network namespace");
    let value = if resets { "1" } else { "0" };
    // In the namespace of the thread that writes.
    fs::write("/proc/sys/net/ipv4/tcp_abort_on_overflow", value)
        .expect("root can set it in its own namespace");
    let mut command = Command::new(built("workload"));
    // One more waits than the length says.
    command.args(["listen".to_owned(), format!("--backlog={LENGTH}")]);
    Workload::start(command.arg(format!("--pending={}", LENGTH + 1)))
}

fn start(
    servers: &Servers,
    dir: &Path,
    proxy: Proxy,
    nodes: &[SocketAddr],
) -> (SocketAddr, Program) {
    let addr = SocketAddr::from(([127, 0, 0, 1], 8_000));
    let without_max_fails = if proxy == Proxy::NginxWithoutMaxFails { "max_fails=0" } else { "" };
    let running = match proxy {
        Proxy::Haproxy => {
            let config = dir.join("haproxy.cfg");
            let lines = nodes.iter().enumerate();
            let lines: String =
                lines.map(|(nth, node)| format!("  server web-{nth} {node}\n")).collect();
            let text = format!(
                "global\n  nbthread 1\ndefaults\n  mode http\n  timeout connect 1s\n  \
                 timeout client 30s\n  timeout server 30s\n  retries 2\n  option redispatch 1\n\
                 listen web\n  bind {addr}\n{lines}"
            );
            fs::write(&config, text).expect("the directory is the test's");
            servers.haproxy_with(&config, addr)
        }
        Proxy::Nginx | Proxy::NginxWithoutMaxFails => {
            let directives = "proxy_connect_timeout 1s;";
            servers.nginx_balancing(dir, addr, nodes, without_max_fails, directives)
        }
    };
    (addr, running)
}

/// Sends a round of requests.
fn ask(addr: SocketAddr) -> Vec<Answer> {
    let ask = || {
        let began = now();
        let answer = http_get(addr, "/").unwrap_or_default();
        let status = answer.split(' ').nth(1).unwrap_or("none").to_owned();
        (status, began.elapsed().as_secs_f64())
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..REQUESTS).map(|_| scope.spawn(ask)).collect();
        clients.into_iter().map(|client| client.join().expect("it does not panic")).collect()
    })
}
