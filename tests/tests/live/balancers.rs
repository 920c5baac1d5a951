//! Balancers of several kinds with the configurations of `configs/`, before three nodes that each
//! have an agent: the one that is drained gets no more requests, no request fails, and the node
//! comes back.

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle, sleep},
    time::{Duration, Instant},
};

use spillway_tests::{
    Program, Running, Scratch, Servers, agent, http_get_with, is_root, nginx_temporary, now,
    own_network, run_with, skip, wait_for,
};

/// Address in the configurations.
const BALANCER: &str = "10.0.0.10";

const SOON: Duration = Duration::from_secs(30);

/// Maximum time from the command to the last request: the health check comes once a second, may
/// take as long again to answer on a busy machine, and two requests may be on their way.
const LEAVES_WITHIN: Duration = Duration::from_secs(4);

/// Time for which requests are watched after the command.
const WATCHED: Duration = Duration::from_secs(6);

/// Pause between two requests.
const PAUSE: Duration = Duration::from_millis(10);

/// Response, and when it came: the name of the node, or the reason of a failure.
type Response = (Instant, Result<String, String>);

/// Files of a balancer for a test.
struct Place<'a> {
    servers: &'a Servers,
    dir: &'a Path,
    addr: SocketAddr,
}

impl Place<'_> {
    /// Copies a shipped file, with these replacements, each of which has to be there.
    fn copy(&self, file: &str, replacements: &[(&str, &str)]) -> PathBuf {
        let mut text = fs::read_to_string(shipped(file)).expect("the file is shipped");
        for (from, to) in replacements {
            assert!(text.contains(from), "{file} has no {from}");
            text = text.replace(from, to);
        }
        let copy = self.dir.join(Path::new(file).file_name().expect("a file has a name"));
        fs::write(&copy, text).expect("writing a file");
        copy
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }
}

fn shipped(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs").join(file)
}

/// Requests one after the other, until it is dropped.
struct Load {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Response>>>,
}

impl Load {
    fn start(addr: SocketAddr) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = is_over.clone();
        let run = move || {
            let mut responses = Vec::new();
            while !over.load(Ordering::Relaxed) {
                responses.push((now(), request(addr)));
                sleep(PAUSE);
            }
            responses
        };
        Self { is_over, thread: Some(thread::spawn(run)) }
    }

    fn stop(mut self) -> Vec<Response> {
        self.is_over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it is stopped once");
        thread.join().expect("the load does not panic")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// Returns the node that answers a request.
fn request(addr: SocketAddr) -> Result<String, String> {
    let host = format!("host: {}", addr.ip());
    let text = http_get_with(addr, "/", &[&host]).map_err(|error| error.to_string())?;
    match text.split_once("\r\n\r\n") {
        // Some balancers send the page in chunks.
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => {
            let node = body.lines().find(|line| line.starts_with("web-"));
            node.map(str::to_owned).ok_or(text)
        }
        _ => Err(text),
    }
}

/// Runs `command` of the agent's program for the first node.
fn spillway(command: &str, config: &Path) {
    let output = agent().args([command, "--config"]).arg(config).output();
    let output = output.expect("running the program");
    assert!(output.status.success(), "spillway {command}: {output:?}");
}

/// Drains a node behind a balancer under load, and puts it back.
fn drains(test: &str, start: impl FnOnce(&Place<'_>) -> Vec<Program>) {
    if !is_root(test) {
        return;
    }
    let Some(servers) = Servers::find_or_skip(test) else { return };
    own_network().expect("root can make a network namespace");
    for host in 10..14 {
        let address = format!("10.0.0.{host}/24");
        let added = Command::new("ip").args(["address", "add", &address, "dev", "lo"]).status();
        assert!(added.is_ok_and(|status| status.success()), "adding {address}");
    }
    let scratch = Scratch::make(test);
    let dir = |name: &str| scratch.0.join(name);
    let at = |host: usize, port: u16| SocketAddr::from(([10, 0, 0, host as u8], port));
    let node = |nth: usize| {
        let name = format!("web-{nth}");
        let page = format!("{name}\n");
        let service = servers.nginx(&dir(&name), at(10 + nth, 8080), page.as_bytes());
        let config = scratch.file(
            &format!("{name}.toml"),
            &format!(
                "[serve]\nlisten = \"{}\"\nallow = [\"10.0.0.0/24\"]\n[act.drain]\ndwell \
                 = \"1s\"\ndrained_within = \"1s\"\nverify = \"1s\"\n[record]\nstate_dir = \
                 \"{}\"\n",
                at(10 + nth, 9646),
                dir(&format!("state-{nth}")).display()
            ),
        );
        let mut command = run_with(&config);
        command.arg("--no-bpf");
        (service, Running::start(command), config)
    };
    let nodes = [1, 2, 3].map(node);
    let addr = format!("{BALANCER}:80").parse().expect("an address");
    let own = dir("balancer");
    fs::create_dir_all(&own).expect("making a directory");
    let _balancer = start(&Place { servers: &servers, dir: &own, addr });

    let serves = |name: &str| (0..6).any(|_| request(addr).is_ok_and(|node| node == name));
    for name in ["web-1", "web-2", "web-3"] {
        let served = wait_for(SOON, || serves(name).then_some(()));
        assert!(served.is_some(), "{name} gets no requests: {:?}", request(addr));
    }
    let load = Load::start(addr);
    sleep(Duration::from_secs(1));
    let asked = now();
    spillway("drain", &nodes[0].2);
    sleep(WATCHED);
    let responses = load.stop();
    let failed: Vec<_> = responses.iter().filter(|(_, response)| response.is_err()).collect();
    assert!(failed.is_empty(), "of {} requests failed: {failed:?}", responses.len());
    let is_first = |(_, response): &&Response| response.as_deref() == Ok("web-1");
    let last = responses.iter().filter(is_first).map(|(at, _)| *at).max();
    let took = last.expect("it got requests before").saturating_duration_since(asked);
    println!("{test}: last request after {:.1} s, of {}", took.as_secs_f64(), responses.len());
    assert!(took < LEAVES_WITHIN, "{took:?}");
    let after = responses.iter().filter(|(at, _)| *at > asked + took).count();
    assert!(after > 50, "{after} requests");
    spillway("resume", &nodes[0].2);
    assert!(wait_for(SOON, || serves("web-1").then_some(())).is_some(), "web-1 stays out");
}

#[test]
fn haproxy_sends_no_requests_to_a_drained_node() {
    drains("balancer-haproxy", |place| {
        let socket = place.path("admin.sock");
        let config = place.copy("haproxy/ready.cfg", &[("/run/haproxy/admin.sock", &socket)]);
        vec![place.servers.haproxy_with(&config, place.addr)]
    });
}

#[test]
fn caddy_sends_no_requests_to_a_drained_node() {
    drains("balancer-caddy", |place| {
        let config = place.copy("balancers/Caddyfile", &[]);
        vec![place.servers.caddy(place.dir, &config, place.addr)]
    });
}

#[test]
fn nginx_sends_no_requests_to_a_drained_node() {
    drains("balancer-nginx", |place| {
        let list = place.path("nodes.conf");
        let own =
            format!("daemon off; pid {0}/nginx.pid; user root;\nevents {{}}", place.dir.display());
        let temporary = nginx_temporary(place.dir);
        let http = format!("http {{\naccess_log off;\n{temporary}");
        let config = place.copy(
            "balancers/nginx.conf",
            &[("events {}", &own), ("http {", &http), ("/etc/nginx/spillway-nodes.conf", &list)],
        );
        // As after an installation; the script writes the same.
        fs::write(
            &list,
            "server 10.0.0.11:8080;\nserver 10.0.0.12:8080;\nserver 10.0.0.13:8080;\n",
        )
        .expect("writing the list");
        let (nginx, reload) = place.servers.nginx_of(place.dir, &config, place.addr);
        let mut script = Command::new("sh");
        script.arg(shipped("balancers/nginx-nodes.sh"));
        script.env("LIST", &list).env("RELOAD", reload);
        // Its last command may outlive it for a second.
        script.stdout(Stdio::null()).stderr(Stdio::null());
        vec![Program::start(&mut script), nginx]
    });
}

/// Directory with Envoy and Traefik. Reports a skip without them.
fn more_balancers() -> Option<PathBuf> {
    let dir = env::var_os("SPILLWAY_BALANCERS").map(PathBuf::from);
    if dir.is_none() {
        skip("balancers", "needs Envoy and Traefik, which `cargo xtask test --thorough` installs");
    }
    dir
}

#[test]
fn envoy_sends_no_requests_to_a_drained_node() {
    let Some(programs) = more_balancers() else { return };
    drains("balancer-envoy", |place| {
        let config = place.copy("balancers/envoy.yaml", &[]);
        let mut command = Command::new(programs.join("envoy/_bin/envoy"));
        command.args(["--concurrency", "1", "--log-level", "warning", "-c"]).arg(config);
        vec![Program::start(&mut command)]
    });
}

#[test]
fn traefik_sends_no_requests_to_a_drained_node() {
    let Some(programs) = more_balancers() else { return };
    drains("balancer-traefik", |place| {
        let nodes = place.copy("balancers/traefik-nodes.yaml", &[]).display().to_string();
        let config =
            place.copy("balancers/traefik.yaml", &[("/etc/traefik/traefik-nodes.yaml", &nodes)]);
        let mut command = Command::new(programs.join("bin/traefik"));
        command.arg(format!("--configFile={}", config.display())).current_dir(place.dir);
        vec![Program::start(&mut command)]
    });
}
