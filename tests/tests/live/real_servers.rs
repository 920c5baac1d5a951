//! Real servers that the accept queue hardly describes, watched by the installed agent on its
//! defaults: behind UNIX listeners, and on connections that stay open.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::Path,
    thread::sleep,
    time::Duration,
};

use serde_json::Value;
use spillway_tests::{
    ANY_PORT, Program, Running, Scratch, Servers, is_root, now, own_network, run_with, skip,
    wait_for,
};

/// Agent that watches one server.
struct Watched {
    servers: Servers,
    scratch: Scratch,
    running: Running,
}

impl Watched {
    /// Starts the agent; `None`, reported as a skip, if the test cannot run.
    fn start(test: &str, name: &str) -> Option<Self> {
        if !is_root(test) {
            return None;
        }
        let servers = Servers::find().inspect_err(|reason| skip(test, reason)).ok()?;
        let scratch = Scratch::make(name);
        let mut command = run_with(&scratch.file("spillway.toml", ANY_PORT));
        command.arg("--json");
        let running = Running::start(command);
        Some(Self { servers, scratch, running })
    }

    /// Overload verdicts about a listener, in order.
    fn verdicts(&self, addr: &str) -> Vec<Value> {
        let printed = self.running.printed();
        let lines = printed.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["verdict"] == "overload" && line["addr"] == *addr).collect()
    }

    /// Waits until the last verdict about a listener is in this state.
    fn wait_until(&self, addr: &str, state: &str, within: Duration) -> Value {
        let last = || self.verdicts(addr).pop().filter(|verdict| verdict["state"] == *state);
        let verdict = wait_for(within, last);
        verdict.unwrap_or_else(|| {
            panic!("not {state} within {within:?}: {:?}: {}", self.verdicts(addr), {
                self.running.log()
            })
        })
    }
}

/// Workers of gunicorn.
const WORKERS: u32 = 4;

/// Time in which a server that accepts nothing may be starting, and a bit.
const STARTS_WITHIN: Duration = Duration::from_millis(10_500);

/// Interval between requests, and the time from the first that waits within which they are claimed.
const EACH: Duration = Duration::from_millis(160);
const CLAIMED_WITHIN: Duration = Duration::from_secs(4);

#[test]
fn gunicorn_with_all_workers_stuck_is_claimed_in_time() {
    let test = "gunicorn_with_all_workers_stuck_is_claimed_in_time";
    let Some(watched) = Watched::start(test, "gunicorn") else { return };
    let (dir, socket) = (watched.scratch.0.join("app"), watched.scratch.0.join("app.sock"));
    let _server = watched.servers.gunicorn(&dir, &socket, WORKERS);
    let addr = format!("unix:{}", socket.display());
    // While it is healthy, every request is answered.
    let started = now();
    while started.elapsed() < STARTS_WITHIN {
        assert_answered(request(&socket));
        sleep(EACH);
    }
    assert_eq!(watched.verdicts(&addr), [] as [Value; 0], "{addr} answers");

    fs::write(dir.join("stuck"), "").expect("the directory is the test's");
    // The workers take the first requests; the next one waits.
    let mut clients: Vec<_> = (0..WORKERS).map(|_| request(&socket)).collect();
    sleep(EACH);
    let waits_since = now();
    let claim = wait_for(2 * CLAIMED_WITHIN, || {
        clients.push(request(&socket));
        sleep(EACH);
        watched.verdicts(&addr).pop()
    });
    let after = waits_since.elapsed();
    let claim = claim.unwrap_or_else(|| panic!("no claim about {addr}: {}", watched.running.log()));
    println!("claimed after {:.1} s: {}", after.as_secs_f64(), claim["why"]);
    assert_eq!(claim["scarce"], "accept_loop");
    assert!(after <= CLAIMED_WITHIN, "{after:?} after the first request that waits");

    fs::remove_file(dir.join("stuck")).expect("it was made above");
    clients.into_iter().for_each(assert_answered);
    assert_eq!(watched.running.stop().0, Some(0));
}

fn request(socket: &Path) -> UnixStream {
    let mut client = UnixStream::connect(socket).expect("the server should listen");
    client.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("writing the request");
    client
}

fn assert_answered(mut client: UnixStream) {
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("reading the response");
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
}

/// Time that a request keeps the event loop: its capacity is fifty a second.
const TAKES: Duration = Duration::from_millis(20);

/// Connections that stay open, each with a request at any time: a request waits for four seconds.
const CONNECTIONS: u32 = 200;

/// Duration of a load, and the time within which the overload is claimed. The first requests wait
/// for less than a second.
const LOAD_SECS: u32 = 15;
const REQUESTS_CLAIMED_WITHIN: Duration = Duration::from_secs(5);

#[test]
fn uvicorn_at_capacity_on_open_connections_is_claimed() {
    let test = "uvicorn_at_capacity_on_open_connections_is_claimed";
    let Some(watched) = Watched::start(test, "uvicorn") else { return };
    own_network().expect("root can create a network namespace");
    let addr = SocketAddr::from(([127, 0, 0, 1], 8_000));
    let _server = watched.servers.uvicorn(&watched.scratch.0.join("app"), addr, TAKES);
    let (name, load) = (addr.to_string(), |connections| {
        Program::start(&mut watched.servers.keep_alive_wrk(addr, connections, LOAD_SECS))
    });
    // One client that waits for each response is no overload.
    let mut calm = load(1);
    wait_for(2 * LOAD_TIME, || (!calm.is_running()).then_some(()));
    assert_eq!(watched.verdicts(&name), [] as [Value; 0], "{name} answers at once");

    let began = now();
    let mut busy = load(CONNECTIONS);
    let claim = watched.wait_until(&name, "raised", REQUESTS_CLAIMED_WITHIN);
    println!("claimed after {:.1} s: {}", began.elapsed().as_secs_f64(), claim["why"]);
    let ended = || (!busy.is_running()).then_some(());
    wait_for(2 * LOAD_TIME, ended).expect("wrk ends by itself");
    let verdicts = watched.verdicts(&name);
    assert!(verdicts.iter().all(|verdict| verdict["state"] != "cleared"), "{verdicts:?}");
    let cleared = watched.wait_until(&name, "cleared", CLEARED_WITHIN);
    println!("{}", cleared["why"]);
    assert_eq!(watched.running.stop().0, Some(0));
}

const LOAD_TIME: Duration = Duration::from_secs(LOAD_SECS as u64);
const CLEARED_WITHIN: Duration = Duration::from_secs(15);
