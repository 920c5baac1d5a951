//! Listeners that are many, odd, or short-lived. `src/kernel/listeners.rs` checks depth, age and
//! owner on every kernel.

use std::{
    collections::HashSet,
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use spillway_agent::{
    bpf::{LISTENERS_MAX, Probe, UNIX_LISTENERS_MAX},
    sense::{ListenerFact, Sensors},
};
use spillway_tests::{Workload, is_root, listeners, loopback_up, now, own_network, sensors_with};

/// Listeners that a real host is known to have, in a few hundred containers. Here they are in five
/// network namespaces.
const MANY: usize = 5_000;
const CONTAINERS: usize = 5;
/// Maximum duration of a scan of so many listeners on a busy machine with two CPUs. The agent scans
/// ten times a second.
const MANY_WITHIN: Duration = Duration::from_millis(50);

fn workload(args: &[&str]) -> Workload {
    Workload::start(Command::new(env!("CARGO_BIN_EXE_workload")).args(args))
}

/// Scans the listeners of a network namespace.
fn scan(sensors: &mut Sensors, t: f64, netns: u32) -> Vec<ListenerFact> {
    let mut facts = listeners(sensors, t);
    facts.retain(|fact| fact.netns == netns);
    facts
}

#[test]
fn restarted_server_is_attributed_to_its_new_pid() {
    let test = "restarted_server_is_attributed_to_its_new_pid";
    let Some(mut sensors) = sensors_with(Probe::AcceptQueue, test) else { return };
    let serve = |addr: &str| workload(&["stuck-server", "--addr", addr]);
    let addr = serve("127.0.0.1:0").addr();
    // The kernel tends to allocate the new socket at the old one's address. Owners are looked up
    // only every ten seconds.
    for restart in 0..20 {
        let server = serve(&addr.to_string());
        let facts = listeners(&mut sensors, f64::from(restart) / 10.0);
        let fact =
            facts.iter().find(|fact| *fact.addr == *addr.to_string()).expect("the server listens");
        assert_eq!(fact.pid, Some(server.pid()), "restart {restart}");
    }
}

#[test]
fn stuck_listener_among_thousands_is_seen() {
    let test = "stuck_listener_among_thousands_is_seen";
    if !is_root(test) {
        return;
    }
    let Some(mut sensors) = sensors_with(Probe::AcceptQueue, test) else { return };
    let mut many = Vec::new();
    for _ in 0..CONTAINERS {
        own_network().expect("root can create a network namespace");
        many.push(workload(&["listeners", &format!("--count={}", MANY / CONTAINERS)]));
    }
    let netns = own_network().expect("root can create a network namespace");
    let stuck = workload(&["listen", "--backlog=16", "--pending=7"]);
    let mut took = Vec::new();
    for step in 0..20 {
        let start = now();
        let facts = listeners(&mut sensors, f64::from(step) / 10.0);
        took.push(start.elapsed());
        let pids: HashSet<_> = many.iter().map(|one| Some(one.pid())).collect();
        let of_many =
            facts.iter().filter(|fact| pids.contains(&fact.pid) && fact.backlog_max == 1).count();
        assert_eq!(of_many, MANY, "scan {step}");
        let mut inside = facts.iter().filter(|fact| fact.netns == netns);
        let fact = inside
            .find(|fact| *fact.addr == *stuck.addr().to_string())
            .expect("the listener is seen");
        assert_eq!(
            (fact.backlog, fact.backlog_max, fact.pid),
            (7, 16, Some(stuck.pid())),
            "scan {step}"
        );
    }
    took.sort_unstable();
    let (median, most) = (took[took.len() / 2], took[took.len() - 1]);
    println!("a scan of {MANY} listeners: {median:.1?}, at most {most:.1?}");
    assert!(median <= MANY_WITHIN, "{median:?}");
    drop(many);
    assert_eq!(scan(&mut sensors, 3.0, netns).len(), 1, "the others have closed");
}

#[test]
fn closed_listeners_leave_no_state_behind() {
    const TURNS: u32 = 40;
    const EACH: usize = 50;
    let test = "closed_listeners_leave_no_state_behind";
    if !is_root(test) {
        return;
    }
    let Some(mut sensors) = sensors_with(Probe::AcceptQueue, test) else { return };
    let netns = own_network().expect("root can create a network namespace");
    let mut ports = HashSet::new();
    for turn in 0..TURNS {
        let t = f64::from(turn) / 4.0;
        let held: Vec<_> =
            (0..EACH).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port is free")).collect();
        let addrs: Vec<SocketAddr> =
            held.iter().map(|one| one.local_addr().expect("a listener has an address")).collect();
        ports.extend(addrs.iter().map(SocketAddr::port));
        // Every other listener closes while a connection waits.
        let _waiting: Vec<_> = addrs
            .iter()
            .step_by(2)
            .map(|addr| TcpStream::connect(addr).expect("the listener accepts"))
            .collect();
        let facts = scan(&mut sensors, t, netns);
        let seen: HashSet<_> =
            facts.iter().map(|fact| (fact.addr.to_string(), fact.backlog)).collect();
        let truth: HashSet<_> = addrs
            .iter()
            .enumerate()
            .map(|(n, addr)| (addr.to_string(), u32::from(n % 2 == 0)))
            .collect();
        assert_eq!(seen, truth, "turn {turn}");
        // Counts of an earlier listener on the same port are not attributed to this one.
        let wrong: Vec<_> = facts
            .iter()
            .filter(|fact| fact.arrived_total != Some(u64::from(fact.backlog)))
            .collect();
        assert!(wrong.is_empty(), "turn {turn}: {wrong:?}");
        drop(held);
        assert!(scan(&mut sensors, t + 0.1, netns).is_empty(), "turn {turn}");
    }
    println!("{} listeners on {} ports", TURNS as usize * EACH, ports.len());
}

#[test]
fn namespaces_ending_during_a_scan_disturb_no_other() {
    const LASTING: Duration = Duration::from_secs(4);
    let test = "namespaces_ending_during_a_scan_disturb_no_other";
    if !is_root(test) {
        return;
    }
    let Some(mut sensors) = sensors_with(Probe::AcceptQueue, test) else { return };
    // Only the namespace identifies the listener: others may use the same port.
    let netns = own_network().expect("root can create a network namespace");
    let (start, ends) = (now(), AtomicBool::new(false));
    thread::scope(|scope| {
        let made = scope.spawn(|| {
            let mut made = 0;
            // The deadline ends the loop even if scans fail.
            while !ends.load(Ordering::Relaxed) && start.elapsed() < LASTING * 2 {
                // The namespace ends with its only thread.
                let inside = scope.spawn(|| {
                    own_network().expect("root can create a network namespace");
                    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
                    let addr = listener.local_addr().expect("a listener has an address");
                    let waiting =
                        (0..3).map(|_| TcpStream::connect(addr)).collect::<Result<Vec<_>, _>>();
                    waiting.expect("the listener accepts")
                });
                drop(inside.join().expect("a namespace's thread does not panic"));
                made += 1;
            }
            made
        });
        let stable = workload(&["listen", "--backlog=16", "--pending=5"]);
        let (mut scans, mut seen) = (0, HashSet::new());
        while start.elapsed() < LASTING {
            let facts = listeners(&mut sensors, start.elapsed().as_secs_f64());
            let fact = facts.iter().find(|fact| fact.netns == netns).expect("the listener is seen");
            assert_eq!(*fact.addr, *stable.addr().to_string(), "scan {scans}");
            assert_eq!(
                (fact.backlog, fact.backlog_max, fact.pid),
                (5, 16, Some(stable.pid())),
                "scan {scans}"
            );
            seen.extend(facts.iter().map(|fact| fact.netns));
            scans += 1;
        }
        ends.store(true, Ordering::Relaxed);
        let made = made.join().expect("creating namespaces does not panic");
        println!(
            "{scans} scans while {made} namespaces came and went, {} of them seen",
            seen.len()
        );
        assert!(made > 20 && seen.len() > 2, "{made} namespaces, {} seen", seen.len());
    });
}

#[test]
fn zero_backlog_holds_one_connection_and_drops_the_next() {
    let test = "zero_backlog_holds_one_connection_and_drops_the_next";
    let Some(mut sensors) = sensors_with(Probe::AcceptQueue, test) else { return };
    for more in [&[][..], &["--v6"]] {
        let start = |pending: &str| workload(&[&["listen", "--backlog=0", pending], more].concat());
        let (one, three) = (start("--pending=1"), start("--pending=3"));
        let facts = listeners(&mut sensors, 0.0);
        for (listener, drops) in [(one, false), (three, true)] {
            let fact = facts
                .iter()
                .find(|fact| *fact.addr == *listener.addr().to_string())
                .expect("the listener is seen");
            assert_eq!((fact.backlog, fact.backlog_max), (1, 0), "{fact:?}");
            assert_eq!(fact.overflows_total.is_some_and(|total| total > 0), drops, "{fact:?}");
        }
    }
}

/// One user's share: a quarter of the listeners that the BPF map has room for.
const SHARE: usize = LISTENERS_MAX as usize / 4;
/// More listeners than the map has room for.
const FLOOD: usize = 9_000;
/// User id of `nobody` in most distributions.
const NOBODY: u32 = 65_534;

/// Runs a workload as an unprivileged user, in its own network namespace.
fn as_nobody(args: &[&str]) -> Workload {
    let mut command = Command::new(env!("CARGO_BIN_EXE_workload"));
    command.args(args);
    let enter = || {
        let files = libc::rlimit { rlim_cur: 20_000, rlim_max: 20_000 };
        // SAFETY: only system calls, one of which reads a structure that lives here.
        let ready = unsafe {
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const files) == 0
                && libc::unshare(libc::CLONE_NEWNET) == 0
        };
        if !ready {
            return Err(std::io::Error::last_os_error());
        }
        loopback_up()?;
        // SAFETY: as above.
        match unsafe { libc::setresuid(NOBODY, NOBODY, NOBODY) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and exec the closure only makes system calls and does not allocate.
    Workload::start(unsafe { command.pre_exec(enter) })
}

fn lost(sensors: &mut Sensors, what: &str) -> u64 {
    sensors.lost().totals().find(|(name, _)| *name == what).map_or(0, |(_, total)| total)
}

#[test]
fn nine_thousand_listeners_of_one_user_hide_no_service() {
    let test = "nine_thousand_listeners_of_one_user_hide_no_service";
    if !is_root(test) {
        return;
    }
    let Some(mut sensors) = sensors_with(Probe::AcceptQueue, test) else { return };
    let flood = as_nobody(&["listeners", &format!("--count={FLOOD}")]);
    let service = workload(&["listen", "--backlog=16", "--pending=24"]);
    let late = as_nobody(&["listen", "--backlog=8", "--pending=5"]);
    let mut later = Sensors::start();
    for (when, sensors) in [("before", &mut sensors), ("after", &mut later)] {
        let start = now();
        let mut t = 0.0;
        let facts = listeners(sensors, t);
        let took = start.elapsed();
        let find = |facts: &[ListenerFact], of: &Workload| {
            let found = facts
                .iter()
                .find(|fact| fact.pid == Some(of.pid()) && *fact.addr == *of.addr().to_string());
            found
                .unwrap_or_else(|| panic!("{} is seen by the agent that began {when}", of.addr()))
                .clone()
        };
        let fact = find(&facts, &service);
        assert_eq!((fact.backlog, fact.backlog_max), (17, 16), "{when}: {fact:?}");
        assert!(
            fact.oldest_wait_us.is_some() && fact.overflows_total > Some(0),
            "{when}: no age by BPF: {fact:?}"
        );
        let fact = find(&facts, &late);
        assert_eq!(
            (fact.backlog, fact.backlog_max, fact.oldest_wait_us),
            (5, 8, None),
            "{when}: by sock_diag: {fact:?}"
        );
        let of_flood: Vec<_> = facts.iter().filter(|fact| fact.pid == Some(flood.pid())).collect();
        let by_bpf = of_flood.iter().filter(|fact| fact.oldest_wait_us.is_some()).count();
        println!("{when}: {by_bpf} of {FLOOD} by BPF, {} in all, in {took:.1?}", of_flood.len());
        assert!(
            (SHARE - 64..=SHARE + 64).contains(&by_bpf),
            "{when}: {by_bpf} take {SHARE} places"
        );
        assert!(
            lost(sensors, "listener_share_full") >= (FLOOD - SHARE - 64) as u64,
            "{when}: the loss is not counted"
        );
        assert!(lost(sensors, "listeners_left_out") > 0, "{when}: the loss is not counted");
        assert_eq!(lost(sensors, "listener_map_full"), 0, "{when}");
        // Between two lists of the listeners outside the map, and after the counts were corrected.
        for _ in 0..12 {
            t += 1.0;
            assert_eq!(find(&listeners(sensors, t), &service).backlog, 17, "{when}");
        }
    }
    drop((flood, late));
    // The places of the closed listeners are free now, or after the next pass over all files.
    let next = as_nobody(&["listen", "--backlog=8", "--pending=3"]);
    for sensors in [&mut sensors, &mut later] {
        let facts = [listeners(sensors, 30.0), listeners(sensors, 50.0)].concat();
        let seen = facts
            .iter()
            .filter(|fact| fact.pid == Some(next.pid()) && fact.oldest_wait_us.is_some())
            .count();
        assert!(seen > 0, "the user's next listener is read by BPF");
    }
}

#[test]
fn thousands_of_unix_listeners_of_one_user_hide_no_service() {
    const EACH: usize = 1_000;
    const FLOOD: usize = 3 * EACH;
    const SHARE: usize = UNIX_LISTENERS_MAX as usize / 4;
    let test = "thousands_of_unix_listeners_of_one_user_hide_no_service";
    if !is_root(test) {
        return;
    }
    let Some(mut sensors) = sensors_with(Probe::UnixQueue, test) else { return };
    let flood = [(); 3].map(|()| as_nobody(&["unix-listeners", &format!("--count={EACH}")]));
    let service =
        workload(&["unix-listen", "--name=@nobody-hides-this", "--backlog=16", "--pending=7"]);
    for t in [0.0, 1.0, 20.0] {
        let facts = listeners(&mut sensors, t);
        let fact =
            facts.iter().find(|fact| fact.pid == Some(service.pid())).expect("the service is seen");
        assert_eq!((fact.backlog, fact.backlog_max), (7, 16), "{fact:?}");
    }
    let pids = flood.each_ref().map(|one| Some(one.pid()));
    let seen = listeners(&mut sensors, 30.0).iter().filter(|fact| pids.contains(&fact.pid)).count();
    assert!(seen >= SHARE, "{seen}");
    assert!(
        lost(&mut sensors, "listener_share_full") >= (FLOOD - SHARE) as u64,
        "the loss is not counted"
    );
    assert_eq!(lost(&mut sensors, "listener_map_full"), 0);
}
