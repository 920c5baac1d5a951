//! Live: listeners that are many, odd, or come and go. Depth, age and owner are held against the truth on every kernel, see
//! `src/kernel/listeners.rs`.

use std::{
    collections::HashSet,
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use spillway_agent::{
    kernel::Probe,
    sense::{ListenerFact, Sensors},
};
use spillway_tests::{Workload, is_root, listeners, now, own_network, sensors_with};

/// As many as one host is known to have, in a few hundred containers.
const MANY: usize = 5_000;
/// A look at so many may take so long on a busy machine of two CPUs: the agent looks ten times a second.
const MANY_WITHIN: Duration = Duration::from_millis(50);

fn workload(args: &[&str]) -> Workload {
    Workload::start(Command::new(env!("CARGO_BIN_EXE_workload")).args(args))
}

/// What one look shows of a network namespace.
fn look(sensors: &mut Sensors, t: f64, netns: u32) -> Vec<ListenerFact> {
    let mut facts = listeners(sensors, t);
    facts.retain(|fact| fact.netns == netns);
    facts
}

#[test]
fn a_restarted_server_is_named_by_its_new_pid() {
    let test = "a_restarted_server_is_named_by_its_new_pid";
    let Some(mut sensors) = sensors_with(Probe::AcceptQueue, test) else { return };
    let serve = |addr: &str| workload(&["stuck-server", "--addr", addr]);
    let addr = serve("127.0.0.1:0").addr();
    // The kernel likes to put the new socket where the old one was; owners are looked up only every ten seconds.
    for restart in 0..20 {
        let server = serve(&addr.to_string());
        let facts = listeners(&mut sensors, f64::from(restart) / 10.0);
        let fact = facts.iter().find(|fact| *fact.addr == *addr.to_string()).expect("the server listens");
        assert_eq!(fact.pid, Some(server.pid()), "restart {restart}");
    }
}

#[test]
fn thousands_of_listeners_are_all_seen_and_one_that_is_stuck_among_them() {
    let test = "thousands_of_listeners_are_all_seen_and_one_that_is_stuck_among_them";
    if !is_root(test) {
        return;
    }
    let Some(mut sensors) = sensors_with(Probe::AcceptQueue, test) else { return };
    let netns = own_network().expect("root can make a network namespace");
    let many = workload(&["listeners", &format!("--count={MANY}")]);
    let stuck = workload(&["listen", "--backlog=16", "--pending=7"]);
    let mut took = Vec::new();
    for step in 0..20 {
        let start = now();
        let facts = look(&mut sensors, f64::from(step) / 10.0, netns);
        took.push(start.elapsed());
        let of_many = facts.iter().filter(|fact| fact.pid == Some(many.pid()) && fact.backlog_max == 1).count();
        assert_eq!((of_many, facts.len()), (MANY, MANY + 1), "look {step}");
        let fact = facts.iter().find(|fact| *fact.addr == *stuck.addr().to_string()).expect("it listens");
        assert_eq!((fact.backlog, fact.backlog_max, fact.pid), (7, 16, Some(stuck.pid())), "look {step}");
    }
    took.sort_unstable();
    let (median, most) = (took[took.len() / 2], took[took.len() - 1]);
    println!("a look at {MANY} listeners: {median:.1?}, at most {most:.1?}");
    assert!(median <= MANY_WITHIN, "{median:?}");
    drop(many);
    assert_eq!(look(&mut sensors, 3.0, netns).len(), 1, "the others have closed");
}

#[test]
fn listeners_that_come_and_go_leave_nothing_behind() {
    const TURNS: u32 = 40;
    const EACH: usize = 50;
    let test = "listeners_that_come_and_go_leave_nothing_behind";
    if !is_root(test) {
        return;
    }
    let Some(mut sensors) = sensors_with(Probe::AcceptQueue, test) else { return };
    let netns = own_network().expect("root can make a network namespace");
    let mut ports = HashSet::new();
    for turn in 0..TURNS {
        let t = f64::from(turn) / 4.0;
        let held: Vec<_> = (0..EACH).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let addrs: Vec<SocketAddr> = held.iter().map(|one| one.local_addr().expect("it is bound")).collect();
        ports.extend(addrs.iter().map(SocketAddr::port));
        // Every other one closes while somebody waits.
        let _waiting: Vec<_> =
            addrs.iter().step_by(2).map(|addr| TcpStream::connect(addr).expect("it listens")).collect();
        let facts = look(&mut sensors, t, netns);
        let seen: HashSet<_> = facts.iter().map(|fact| (fact.addr.to_string(), fact.backlog)).collect();
        let truth: HashSet<_> =
            addrs.iter().enumerate().map(|(n, addr)| (addr.to_string(), u32::from(n % 2 == 0))).collect();
        assert_eq!(seen, truth, "turn {turn}");
        // What came to one that had the same port before is not told of this one.
        let wrong: Vec<_> = facts.iter().filter(|fact| fact.arrived_total != Some(u64::from(fact.backlog))).collect();
        assert!(wrong.is_empty(), "turn {turn}: {wrong:?}");
        drop(held);
        assert!(look(&mut sensors, t + 0.1, netns).is_empty(), "turn {turn}");
    }
    println!("{} listeners on {} ports", TURNS as usize * EACH, ports.len());
}

#[test]
fn namespaces_that_end_while_they_are_read_disturb_no_other() {
    const LASTING: Duration = Duration::from_secs(4);
    let test = "namespaces_that_end_while_they_are_read_disturb_no_other";
    if !is_root(test) {
        return;
    }
    let Some(mut sensors) = sensors_with(Probe::AcceptQueue, test) else { return };
    // Its port may be another's in any of the others.
    let netns = own_network().expect("root can make a network namespace");
    let (start, ends) = (now(), AtomicBool::new(false));
    thread::scope(|scope| {
        let made = scope.spawn(|| {
            let mut made = 0;
            // Were the looks to fail, it would be waited for all the same.
            while !ends.load(Ordering::Relaxed) && start.elapsed() < LASTING * 2 {
                // The namespace ends with the thread that is alone in it.
                let inside = scope.spawn(|| {
                    own_network().expect("root can make a network namespace");
                    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
                    let addr = listener.local_addr().expect("it is bound");
                    let waiting = (0..3).map(|_| TcpStream::connect(addr)).collect::<Result<Vec<_>, _>>();
                    waiting.expect("it listens")
                });
                drop(inside.join().expect("a namespace's thread does not panic"));
                made += 1;
            }
            made
        });
        let stable = workload(&["listen", "--backlog=16", "--pending=5"]);
        let (mut looks, mut seen) = (0, HashSet::new());
        while start.elapsed() < LASTING {
            let facts = listeners(&mut sensors, start.elapsed().as_secs_f64());
            let fact = facts.iter().find(|fact| fact.netns == netns).expect("it listens");
            assert_eq!(*fact.addr, *stable.addr().to_string(), "look {looks}");
            assert_eq!((fact.backlog, fact.backlog_max, fact.pid), (5, 16, Some(stable.pid())), "look {looks}");
            seen.extend(facts.iter().map(|fact| fact.netns));
            looks += 1;
        }
        ends.store(true, Ordering::Relaxed);
        let made = made.join().expect("making namespaces does not panic");
        println!("{looks} looks while {made} namespaces came and went, {} of which were seen", seen.len());
        assert!(made > 20 && seen.len() > 2, "{made} namespaces, {} seen", seen.len());
    });
}

#[test]
fn a_backlog_of_nothing_holds_one_connection_and_drops_the_next() {
    let test = "a_backlog_of_nothing_holds_one_connection_and_drops_the_next";
    let Some(mut sensors) = sensors_with(Probe::AcceptQueue, test) else { return };
    for more in [&[][..], &["--v6"]] {
        let start = |pending: &str| workload(&[&["listen", "--backlog=0", pending], more].concat());
        let (one, three) = (start("--pending=1"), start("--pending=3"));
        let facts = listeners(&mut sensors, 0.0);
        for (listener, drops) in [(one, false), (three, true)] {
            let fact = facts.iter().find(|fact| *fact.addr == *listener.addr().to_string()).expect("it listens");
            assert_eq!((fact.backlog, fact.backlog_max), (1, 0), "{fact:?}");
            assert_eq!(fact.overflows_total.is_some_and(|total| total > 0), drops, "{fact:?}");
        }
    }
}
