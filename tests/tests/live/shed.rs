//! Load shed at the door of a real server, beside the same load without: gunicorn with synchronous
//! workers at twice its capacity, and clients that give up after a second and try three times.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use spillway_agent::{bpf::Probe, sense::Hierarchy};
use spillway_tests::{
    ANY_PORT, OwnCgroup, Running, Scratch, Servers, is_root, now, own_network, run_with,
    sensors_with, skip, wait_for,
};

const PORT: u16 = 8_004;

/// Workers, and the time that each takes for a request: a capacity of 100/s.
const WORKERS: u32 = 20;
const CAPACITY: f64 = 100.0;

/// Load before, during and after the surge, in requests a second, and for how long. Rates before
/// the surge are known after ten seconds.
const BEFORE: (f64, f64) = (50.0, 14.0);
const SURGE: (f64, f64) = (2.0 * CAPACITY, 15.0);
const AFTER: (f64, f64) = (80.0, 15.0);

/// Time after the surge from which everything is to be answered.
const RECOVERS_SECS: f64 = 10.0;

/// Patience of a client, and its tries.
const PATIENCE: Duration = Duration::from_secs(1);
const TRIES: u32 = 3;

/// Shares of the capacity that are answered in time during the surge, with and without, and of what
/// is offered after it.
const SURGE_MIN: f64 = 0.9;
const WITHOUT_MAX: f64 = 0.3;
const AFTER_MIN: f64 = 0.99;

/// Requests that were offered and answered in time.
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    offered: u32,
    in_time: u32,
}

/// Result of one run, in requests a second or as a share.
#[derive(Debug)]
struct Scores {
    surge_of_capacity: f64,
    after_of_offered: f64,
    /// Answered in time of those that were offered in each second.
    #[expect(dead_code, reason = "it is printed")]
    per_second: Vec<u32>,
}

#[test]
fn overloaded_server_answers_what_it_can() {
    let test = "overloaded_server_answers_what_it_can";
    if !is_root(test) {
        return;
    }
    let Ok(servers) = Servers::find().inspect_err(|reason| skip(test, reason)) else { return };
    // Without waits and accepts an overload is seen too late for a surge this short.
    if sensors_with(Probe::AcceptQueue, test).is_none() {
        return;
    }
    let hierarchy = Hierarchy::detect();
    let Some(mount) = hierarchy.mount() else { return skip(test, "there is no memory controller") };
    let scratch = Scratch::make("shed");
    let cgroup = OwnCgroup::make(mount, "shed").expect("root can make a cgroup");
    let other = OwnCgroup::make(mount, "unshed").expect("root can make a cgroup");
    // Inside it the agent would hear of no other, so it starts first.
    let config = format!(
        "mode = \"enforce\"\n{ANY_PORT}[record]\nstate_dir = \"{}\"\n[decide]\n\
         services = [\"{}\"]\n[act.limit]\nenabled = false\n[act.shed]\nenabled = true\n",
        scratch.0.join("state").display(),
        cgroup.path,
    );
    let mut command = run_with(&scratch.file("spillway.toml", &config));
    command.arg("--json");
    let agent = Running::start(command);
    own_network().expect("root can create a network namespace");
    // The one that is no service of the agent's is under the same load at the same time.
    let (with, without) = thread::scope(|scope| {
        let without = scope.spawn(|| run(&servers, &scratch, &other, PORT + 1));
        (run(&servers, &scratch, &cgroup, PORT), without.join())
    });
    let without = without.expect("the other run ends");
    let outcomes = |event: &str| {
        let printed = agent.printed();
        let is = |line: &&str| line.contains(&format!("\"outcome\":\"{event}\""));
        printed.lines().filter(is).map(str::to_owned).collect::<Vec<_>>()
    };
    let restored = wait_for(Duration::from_secs(70), || outcomes("unshed").pop());
    let shedding = outcomes("shedding");
    let log = agent.log();
    println!("{}\n{restored:?}", shedding.join("\n"));
    assert_eq!(agent.stop().0, Some(0));
    println!("with: {with:?}\nwithout: {without:?}");
    assert!(!shedding.is_empty() && restored.is_some(), "{log}");
    assert!(with.surge_of_capacity >= SURGE_MIN, "{with:?}");
    assert!(with.after_of_offered >= AFTER_MIN, "{with:?}");
    assert!(without.surge_of_capacity <= WITHOUT_MAX, "{without:?}");
}

/// Runs a server of its own through the load, and returns what its clients saw.
fn run(servers: &Servers, scratch: &Scratch, cgroup: &OwnCgroup, port: u16) -> Scores {
    let addr = SocketAddr::from(([127, 0, 0, 1], port));
    let dir = scratch.0.join(port.to_string());
    let server = servers.gunicorn_at(&dir, addr, WORKERS);
    fs::write(dir.join("slow"), "").expect("the directory is the test's");
    let workers = || {
        let pids = children_of(server.pid());
        (pids.len() == WORKERS as usize).then_some(pids)
    };
    let workers = wait_for(Duration::from_secs(20), workers).expect("the workers start");
    for pid in workers.iter().chain([&server.pid()]) {
        cgroup.set("cgroup.procs", pid).expect("the processes are the test's");
    }
    let tallies = Arc::new(Mutex::new(Vec::<Tally>::new()));
    let under_way = Arc::new(AtomicU32::new(0));
    let began = now();
    let mut offered_secs = 0.0;
    for (per_sec, secs) in [BEFORE, SURGE, AFTER] {
        for nth in 0..(per_sec * secs) as u32 {
            let due_secs = offered_secs + f64::from(nth) / per_sec;
            thread::sleep(Duration::from_secs_f64(due_secs).saturating_sub(began.elapsed()));
            let (tallies, under_way) = (tallies.clone(), under_way.clone());
            under_way.fetch_add(1, Ordering::Relaxed);
            let client = move || {
                let is_answered = (0..TRIES).any(|_| ask(addr).is_some());
                let mut tallies = tallies.lock().unwrap_or_else(PoisonError::into_inner);
                let second = due_secs as usize;
                if tallies.len() <= second {
                    tallies.resize(second + 1, Tally::default());
                }
                tallies[second].offered += 1;
                tallies[second].in_time += u32::from(is_answered);
                under_way.fetch_sub(1, Ordering::Relaxed);
            };
            thread::Builder::new().stack_size(64 << 10).spawn(client).expect("a thread");
        }
        offered_secs += secs;
    }
    let is_idle = || (under_way.load(Ordering::Relaxed) == 0).then_some(());
    wait_for(Duration::from_secs(10), is_idle).expect("clients give up");
    let tallies = tallies.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let surge = BEFORE.1 as usize..(BEFORE.1 + SURGE.1) as usize;
    let answered: u32 = tallies[surge.clone()].iter().map(|tally| tally.in_time).sum();
    let after = &tallies[surge.end + RECOVERS_SECS as usize..];
    let sum = |of: fn(&Tally) -> u32| f64::from(after.iter().map(of).sum::<u32>());
    Scores {
        surge_of_capacity: f64::from(answered) / (CAPACITY * SURGE.1),
        after_of_offered: sum(|tally| tally.in_time) / sum(|tally| tally.offered),
        per_second: tallies.iter().map(|tally| tally.in_time).collect(),
    }
}

/// Makes one try; `None` if it was not answered within the client's patience.
fn ask(addr: SocketAddr) -> Option<()> {
    let until = now() + PATIENCE;
    let left = || until.checked_duration_since(now()).filter(|left| !left.is_zero());
    let refused_at = |until: Instant| {
        // A client does not try again at once.
        thread::sleep(until.saturating_duration_since(now()));
        None
    };
    let Ok(mut socket) = TcpStream::connect_timeout(&addr, PATIENCE) else {
        return refused_at(until);
    };
    let mut exchange = || -> Option<bool> {
        socket.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = [0; 512];
        socket.set_read_timeout(Some(left()?)).ok()?;
        let length = socket.read(&mut answer).ok()?;
        Some(
            answer[..length].starts_with(b"HTTP/1.0 200")
                || answer[..length].starts_with(b"HTTP/1.1 200"),
        )
    };
    match exchange() {
        Some(true) => Some(()),
        _ => refused_at(until),
    }
}

fn children_of(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    children.unwrap_or_default().split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}
