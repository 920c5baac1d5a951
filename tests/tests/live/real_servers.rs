//! Real servers that the accept queue hardly describes, watched by the installed agent on its
//! defaults: behind UNIX listeners, and on connections that stay open.

use std::{
    fs,
    io::{Read, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    ptr,
    thread::sleep,
    time::Duration,
};

use serde_json::Value;
use spillway_tests::{
    ANY_PORT, Program, Running, Scratch, Servers, Work, is_root, network, now, own_network,
    real_servers::{Options, named, rightly, run, table},
    run_with, skip, wait_for,
};

/// Ports, one for each test: an agent hears of the listeners of every namespace, and two of the
/// tests run beside each other.
const POOL_PORT: u16 = 8_000;
const FILES_PORT: u16 = 8_001;
const WAITS_PORT: u16 = 8_002;
const COMPUTES_PORT: u16 = 8_003;

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

    /// Overload verdicts about a listener in this thread's network namespace, in order. Other tests
    /// may use its address in their own.
    fn verdicts(&self, addr: &str) -> Vec<Value> {
        let netns = network().expect("a thread can read its network namespace");
        let printed = self.0.printed();
        let lines = printed.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines
            .filter(|line| line["verdict"] == "overload" && line["netns"] == netns)
            .filter(|line| line["addr"] == *addr)
            .collect()
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
    let server = servers.gunicorn(&dir, &socket, WORKERS);
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
    let workers = children_of(server.pid());
    assert!(workers.iter().any(|pid| claim["pid"] == *pid), "{claim}: the workers are {workers:?}");

    fs::remove_file(dir.join("stuck")).expect("it was made above");
    clients.into_iter().for_each(assert_answered);
    watching.stop();
}

/// Requests at twice what one worker can do, from the moment at which the other stops.
const OFFERED_EVERY: Duration = Duration::from_millis(100);
const STUCK_CLAIMED_WITHIN: Duration = Duration::from_secs(15);

#[test]
fn claim_about_a_pool_names_the_worker_that_stopped() {
    let test = "claim_about_a_pool_names_the_worker_that_stopped";
    let Some(servers) = servers(test) else { return };
    let scratch = Scratch::make("pool");
    let dir = scratch.0.join("app");
    let watching = Watching::start(&scratch);
    own_network().expect("root can create a network namespace");
    let addr = SocketAddr::from(([127, 0, 0, 1], POOL_PORT));
    let server = servers.gunicorn_at(&dir, addr, 2);
    let ask = || {
        let mut client = TcpStream::connect(addr).expect("the server should listen");
        client.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("writing the request");
        client
    };
    // Who holds the listener is read every ten seconds.
    let started = now();
    while started.elapsed() < STARTS_WITHIN {
        assert_answered(ask());
        sleep(EACH);
    }
    let workers = children_of(server.pid());
    assert_eq!(workers.len(), 2, "{workers:?}");
    let sockets = |pid: &u32| sockets_of(*pid);
    let before: Vec<_> = workers.iter().map(sockets).collect();
    fs::write(dir.join("stuck"), "").expect("the directory is the test's");
    let stuck = ask();
    let with_more = || (0..2).find(|&nth| sockets(&workers[nth]) > before[nth]);
    let holder = wait_for(Duration::from_secs(5), with_more).expect("a worker takes it");
    let holder = workers[holder];
    // SAFETY: a signal to a worker of the test's own server.
    assert_eq!(unsafe { libc::kill(holder as i32, libc::SIGSTOP) }, 0);
    fs::write(dir.join("slow"), "").expect("the directory is the test's");
    fs::remove_file(dir.join("stuck")).expect("it was made above");

    let name = addr.to_string();
    let (mut clients, began) = (Vec::new(), now());
    let last = || watching.verdicts(&name).pop();
    let claim = wait_for(STUCK_CLAIMED_WITHIN, || {
        clients.push(ask());
        sleep(OFFERED_EVERY);
        last()
    });
    let claim = claim.unwrap_or_else(|| panic!("no claim about {name}: {}", watching.0.log()));
    println!("claimed after {:.1} s: {}", began.elapsed().as_secs_f64(), claim["why"]);
    assert_eq!(claim["pid"], holder, "{claim}: the workers of {} are {workers:?}", server.pid());
    // SAFETY: as above.
    assert_eq!(unsafe { libc::kill(holder as i32, libc::SIGCONT) }, 0);
    fs::remove_file(dir.join("slow")).expect("it was made above");
    clients.into_iter().chain([stuck]).for_each(assert_answered);
    watching.stop();
}

/// Open files that a server may have, clients that stay connected, and the time within which the
/// claim knows it: files are counted every ten seconds.
const FILES: u64 = 40;
const CLIENTS: usize = 60;
const ANSWERED_FIRST: u32 = 10;
const FILES_KNOWN_WITHIN: Duration = Duration::from_secs(25);

#[test]
fn server_without_a_free_file_is_claimed_with_its_limit() {
    let test = "server_without_a_free_file_is_claimed_with_its_limit";
    let Some(servers) = servers(test) else { return };
    let scratch = Scratch::make("files");
    let watching = Watching::start(&scratch);
    own_network().expect("root can create a network namespace");
    let addr = SocketAddr::from(([127, 0, 0, 1], FILES_PORT));
    let (work, takes) = (Work::Waits, Duration::from_millis(1));
    // A file that it inherits above its limit counts, but hinders it from opening none.
    // SAFETY: the flag of every file but the first three is set, none is closed.
    let inherits_none = unsafe {
        libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int)
    };
    assert_eq!(inherits_none, 0, "{}", std::io::Error::last_os_error());
    let server = servers.uvicorn(&scratch.0.join("app"), addr, work, takes);
    // One that was never seen to accept may be starting.
    for _ in 0..ANSWERED_FIRST {
        let mut client = TcpStream::connect(addr).expect("the server should listen");
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .expect("writing the request");
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("reading the response");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        sleep(EACH);
    }
    limit_files(server.pid(), FILES);
    let mut clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut client = TcpStream::connect(addr).expect("the queue has room");
            // It closes connections that are idle, but not those whose request has begun.
            client.write_all(b"GET / HTTP/1.1\r\n").expect("writing the request");
            client
        })
        .collect();
    let name = addr.to_string();
    let with_files =
        || watching.verdicts(&name).into_iter().rfind(|one| one["files"] != Value::Null);
    let claim = wait_for(FILES_KNOWN_WITHIN, with_files).unwrap_or_else(|| {
        let verdicts = watching.verdicts(&name);
        panic!("no claim about files: {verdicts:?}: {}", watching.0.log())
    });
    println!("{}", claim["why"]);
    let of_files = (&claim["files_pid"], &claim["files"], &claim["files_max"]);
    assert_eq!(of_files, (&server.pid().into(), &FILES.into(), &FILES.into()), "{claim}");
    let why = claim["why"].as_str().expect("a claim has a reason");
    assert!(why.contains("40 of 40 files"), "{why}");
    clients.clear();
    let cleared = watching.wait_until(&name, "cleared", CLEARED_WITHIN);
    println!("{}", cleared["why"]);
    watching.stop();
}

fn limit_files(pid: u32, count: u64) {
    let limit = libc::rlimit { rlim_cur: count, rlim_max: count };
    // SAFETY: it reads a limit that lives here, and may be given no place for the old one.
    let done = unsafe {
        libc::prlimit(pid as libc::pid_t, libc::RLIMIT_NOFILE, &raw const limit, ptr::null_mut())
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

/// Children of a process.
fn children_of(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.expect("the process should be running");
    children.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

/// Number of sockets that a process has open.
fn sockets_of(pid: u32) -> usize {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).expect("the process should be running");
    let paths = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
    paths.filter(|path| path.to_string_lossy().starts_with("socket:")).count()
}

fn request(socket: &Path) -> UnixStream {
    let mut client = UnixStream::connect(socket).expect("the server should listen");
    client.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("writing the request");
    client
}

fn assert_answered(mut client: impl Read) {
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
    let Some(scarce) = scarce_at_capacity(test, WAITS_PORT, Work::Waits) else { return };
    assert_ne!(scarce, "cpu");
}

#[test]
fn uvicorn_that_computes_at_capacity_is_short_of_cpu() {
    let test = "uvicorn_that_computes_at_capacity_is_short_of_cpu";
    let Some(scarce) = scarce_at_capacity(test, COMPUTES_PORT, Work::Computes) else { return };
    assert_eq!(scarce, "cpu");
}

/// Loads a server with more than it can do, until it is claimed and then cleared; returns what the
/// last claim says is scarce.
fn scarce_at_capacity(test: &str, port: u16, work: Work) -> Option<Value> {
    let servers = servers(test)?;
    let scratch = Scratch::make("uvicorn");
    let watching = Watching::start(&scratch);
    own_network().expect("root can create a network namespace");
    let addr = SocketAddr::from(([127, 0, 0, 1], port));
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
