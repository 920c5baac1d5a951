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
    ANY_PORT, Program, Running, Scratch, Servers, Work, is_root, now, own_network,
    real_servers::{Options, named, rightly, run, table},
    run_with, skip, wait_for,
};

/// Finds the servers; `None`, reported as a skip, if the test cannot run.
fn servers(test: &str) -> Option<Servers> {
    if !is_root(test) {
        return None;
    }
    Servers::find().inspect_err(|reason| skip(test, reason)).ok()
}

/// Agent whose verdicts are read.
struct Watching(Running);

impl Watching {
    fn start(scratch: &Scratch) -> Self {
        let mut command = run_with(&scratch.file("spillway.toml", ANY_PORT));
        command.arg("--json");
        Self(Running::start(command))
    }

    fn stop(self) {
        assert_eq!(self.0.stop().0, Some(0));
    }

    /// Overload verdicts about a listener, in order.
    fn verdicts(&self, addr: &str) -> Vec<Value> {
        let printed = self.0.printed();
        let lines = printed.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["verdict"] == "overload" && line["addr"] == *addr).collect()
    }

    /// Waits until the last verdict about a listener is in this state.
    fn wait_until(&self, addr: &str, state: &str, within: Duration) -> Value {
        let last = || self.verdicts(addr).pop().filter(|verdict| verdict["state"] == *state);
        let verdict = wait_for(within, last);
        verdict.unwrap_or_else(|| {
            let verdicts = self.verdicts(addr);
            panic!("not {state} within {within:?}: {verdicts:?}: {}", self.0.log())
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
    let Some(servers) = servers(test) else { return };
    let scratch = Scratch::make("gunicorn");
    let (dir, socket) = (scratch.0.join("app"), scratch.0.join("app.sock"));
    // Before the agent, which looks for new UNIX listeners every ten seconds.
    let _server = servers.gunicorn(&dir, &socket, WORKERS);
    let watching = Watching::start(&scratch);
    let addr = format!("unix:{}", socket.display());
    // While it is healthy, every request is answered.
    let started = now();
    while started.elapsed() < STARTS_WITHIN {
        assert_answered(request(&socket));
        sleep(EACH);
    }
    assert_eq!(watching.verdicts(&addr), [] as [Value; 0], "{addr} answers");

    fs::write(dir.join("stuck"), "").expect("the directory is the test's");
    // The workers take the first requests; the next one waits.
    let mut clients: Vec<_> = (0..WORKERS).map(|_| request(&socket)).collect();
    sleep(EACH);
    let waits_since = now();
    let claim = wait_for(2 * CLAIMED_WITHIN, || {
        clients.push(request(&socket));
        sleep(EACH);
        watching.verdicts(&addr).pop()
    });
    let after = waits_since.elapsed();
    let claim = claim.unwrap_or_else(|| panic!("no claim about {addr}: {}", watching.0.log()));
    println!("claimed after {:.1} s: {}", after.as_secs_f64(), claim["why"]);
    assert_eq!(claim["scarce"], "accept_loop");
    assert!(after <= CLAIMED_WITHIN, "{after:?} after the first request that waits");

    fs::remove_file(dir.join("stuck")).expect("it was made above");
    clients.into_iter().for_each(assert_answered);
    watching.stop();
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
    let Some(scarce) = scarce_at_capacity(test, Work::Waits) else { return };
    assert_ne!(scarce, "cpu");
}

#[test]
fn uvicorn_that_computes_at_capacity_is_short_of_cpu() {
    let test = "uvicorn_that_computes_at_capacity_is_short_of_cpu";
    let Some(scarce) = scarce_at_capacity(test, Work::Computes) else { return };
    assert_eq!(scarce, "cpu");
}

/// Loads a server with more than it can do, until it is claimed and then cleared; returns what the
/// last claim says is scarce.
fn scarce_at_capacity(test: &str, work: Work) -> Option<Value> {
    let servers = servers(test)?;
    let scratch = Scratch::make("uvicorn");
    let watching = Watching::start(&scratch);
    own_network().expect("root can create a network namespace");
    let addr = SocketAddr::from(([127, 0, 0, 1], 8_000));
    let _server = servers.uvicorn(&scratch.0.join("app"), addr, work, TAKES);
    let (name, load) = (addr.to_string(), |connections| {
        Program::start(&mut servers.keep_alive_wrk(addr, connections, LOAD_SECS))
    });
    // One client that waits for each response is no overload.
    let mut calm = load(1);
    wait_for(2 * LOAD_TIME, || (!calm.is_running()).then_some(()));
    assert_eq!(watching.verdicts(&name), [] as [Value; 0], "{name} answers at once");

    let began = now();
    let mut busy = load(CONNECTIONS);
    let claim = watching.wait_until(&name, "raised", REQUESTS_CLAIMED_WITHIN);
    println!("claimed after {:.1} s: {}", began.elapsed().as_secs_f64(), claim["why"]);
    let ended = || (!busy.is_running()).then_some(());
    wait_for(2 * LOAD_TIME, ended).expect("wrk ends by itself");
    let verdicts = watching.verdicts(&name);
    assert!(verdicts.iter().all(|verdict| verdict["state"] != "cleared"), "{verdicts:?}");
    let scarce = verdicts.last().map(|verdict| verdict["scarce"].clone());
    let cleared = watching.wait_until(&name, "cleared", CLEARED_WITHIN);
    println!("{}", cleared["why"]);
    watching.stop();
    scarce
}

/// Scenes that every run of the tests has, beside each other; `cargo xtask test --thorough` has all.
const SCENES: [&str; 4] = [
    "gunicorn-sync/over-pooled",
    "gunicorn-gthread/four-fifths-pooled",
    "uvicorn/over-pooled",
    "nginx-upstream/over-pooled",
];

#[test]
fn scenes_with_real_servers_are_judged_correctly() {
    let test = "scenes_with_real_servers_are_judged_correctly";
    let Some(servers) = servers(test) else { return };
    let scenes = named(&SCENES.map(str::to_owned));
    assert_eq!(scenes.len(), SCENES.len());
    let options = Options { lanes: SCENES.len(), ..Options::default() };
    let outcomes = run(&scenes, &servers, &options, &|_| ());
    println!("{}", table(&outcomes));
    assert_eq!(rightly(&outcomes), (SCENES.len(), SCENES.len()));
}

const LOAD_TIME: Duration = Duration::from_secs(LOAD_SECS as u64);
const CLEARED_WITHIN: Duration = Duration::from_secs(15);
