//! Live: requests on living connections, against what their server and clients know; and what it
//! costs to look at many. Every source is held against the truth on every kernel, see
//! `src/kernel/requests.rs`.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread::sleep,
    time::Duration,
};

use spillway_agent::{
    bpf::Probe,
    sense::{RequestSensor, RequestsFact, Sensors},
};
use spillway_tests::{Habit, KnownRequests, is_root, now, own_network, requests, sensors_with};

const MS: fn(u64) -> Duration = Duration::from_millis;

/// Looks at 10 Hz.
const LOOKS: u32 = 60;

fn at(sensors: &mut Sensors, t: f64, addr: SocketAddr) -> Option<RequestsFact> {
    let addr = addr.to_string();
    requests(sensors, t).into_iter().find(|fact| *fact.addr == *addr)
}

/// Means of what is seen and of what is true, a column each: in flight, unread, and the ages of the
/// oldest in ms.
fn means(test: &str, habits: &[Habit]) -> Option<[(f64, f64); 4]> {
    let mut sensors = sensors_with(Probe::Requests, test)?;
    let known = KnownRequests::start("127.0.0.1:0", "127.0.0.1", habits).expect("loopback is up");
    sleep(MS(600));
    let start = now();
    at(&mut sensors, 0.0, known.addr()).expect("it has connections");
    let (mut sums, mut looks) = ([(0.0, 0.0); 4], 0.0);
    let before_all = known.answered();
    let mut last = RequestsFact::default();
    for _ in 0..LOOKS {
        sleep(MS(100));
        let before = known.truth();
        let t = start.elapsed().as_secs_f64();
        // A pass may be put off, on a host with a great many open files.
        let Some(fact) = at(&mut sensors, t, known.addr()) else { continue };
        let after = known.truth();
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let seen = [
            f64::from(fact.in_flight),
            f64::from(fact.unread),
            fact.oldest_in_flight_us.unwrap_or(0) as f64 / 1e3,
            fact.oldest_unread_us.unwrap_or(0) as f64 / 1e3,
        ];
        let mut truth = [0.0; 4];
        for one in [before, after] {
            let of_one = [
                f64::from(one.in_flight),
                f64::from(one.unread),
                ms(one.oldest),
                ms(one.oldest_unread),
            ];
            truth.iter_mut().zip(of_one).for_each(|(sum, one)| *sum += one / 2.0);
        }
        for (sum, (seen, truth)) in sums.iter_mut().zip(seen.into_iter().zip(truth)) {
            *sum = (sum.0 + seen, sum.1 + truth);
        }
        looks += 1.0;
        last = fact;
    }
    let answered = known.answered() - before_all;
    let seen = last.answered_total.unwrap_or(0);
    println!("{test}: {looks} looks, {seen} of {answered} answered");
    assert!(looks >= f64::from(LOOKS) / 2.0, "{looks} looks");
    assert!(seen <= answered + 1 && seen > 0, "{seen} were seen to be answered, of {answered}");
    Some(sums.map(|(seen, truth)| (seen / looks, truth / looks)))
}

fn assert_true(test: &str, means: [(f64, f64); 4]) {
    let names = ["in flight", "unread", "oldest in flight, ms", "oldest unread, ms"];
    for ((seen, truth), (name, off)) in
        means.into_iter().zip(names.into_iter().zip([0.05, 0.05, 0.1, 0.1]))
    {
        println!("{test}: {name} {seen:.2} (true {truth:.2})");
        assert!((seen - truth).abs() <= off * truth.max(1.0), "{name}: {seen}, {truth} is true");
    }
}

#[test]
fn requests_that_wait_read_or_unread_are_seen_with_their_age() {
    let test = "requests_that_wait_read_or_unread_are_seen_with_their_age";
    let habit = |unread| Habit { think: MS(150), service: MS(400), unread };
    let idle = Habit { think: MS(60_000), service: MS(1), unread: false };
    let habits: Vec<_> =
        [habit(false), habit(true), idle].into_iter().flat_map(|habit| [habit; 20]).collect();
    if let Some(means) = means(test, &habits) {
        assert_true(test, means);
    }
}

#[test]
fn requests_that_follow_a_response_at_once_are_seen() {
    let test = "requests_that_follow_a_response_at_once_are_seen";
    let habits = [Habit { think: Duration::ZERO, service: MS(120), unread: false }; 30];
    if let Some(means) = means(test, &habits) {
        assert_true(test, means);
    }
}

/// Connections of one listener, both ends of them in this process.
fn open(listener: &TcpListener, count: usize) -> Vec<(TcpStream, TcpStream)> {
    let port = listener.local_addr().expect("it is bound").port();
    (0..count)
        .map(|nth| {
            // 20,000 local ports for each address.
            let to = Ipv4Addr::new(127, 0, 0, 1 + (nth / 20_000) as u8);
            let client = TcpStream::connect((to, port)).expect("it listens");
            (client, listener.accept().expect("one waits").0)
        })
        .collect()
}

/// Processor time of this thread, in seconds.
fn thread_secs() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec through the pointer, which lives until it returns.
    let read = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(read, 0, "every thread has it");
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Looks at 10 Hz for some seconds; returns the share of a core that they took, and of passes how
/// many and the mean processor time, in ms.
fn cost(sensors: &mut Sensors, connections: usize) -> (f64, u64, f64) {
    let passes = |sensors: &Sensors| sensors.get::<RequestSensor>().expect("it started").passes();
    let mut observations = Vec::new();
    let mut t = 0.0;
    // Listeners are looked at too: what that takes is subtracted.
    let mut of_listeners = f64::INFINITY;
    for _ in 0..20 {
        let before = (thread_secs(), passes(sensors));
        sensors.scan_listeners(t, &mut observations);
        if passes(sensors) == before.1 {
            of_listeners = of_listeners.min(thread_secs() - before.0);
        }
        observations.clear();
    }
    assert!(of_listeners.is_finite(), "a pass was made at every look");
    t += 100.0;
    const SECS: f64 = 30.0;
    let (start_passes, mut took) = (passes(sensors), 0.0);
    for _ in 0..(SECS * 10.0) as u32 {
        let before = thread_secs();
        sensors.scan_listeners(t, &mut observations);
        took += (thread_secs() - before - of_listeners).max(0.0);
        observations.clear();
        t += 0.1;
    }
    let made = passes(sensors) - start_passes;
    let (share, each) = (took / SECS, took / made as f64 * 1e3);
    println!(
        "{connections} connections: {made} passes in {SECS} s, {each:.2} ms each, {:.2} % of a core",
        share * 100.0
    );
    (share, made, each)
}

#[test]
fn ten_thousand_connections_cost_half_a_percent_of_a_core() {
    let test = "ten_thousand_connections_cost_half_a_percent_of_a_core";
    hold_cost(test, 10_000, 0.005);
}

#[test]
#[ignore = "takes 1 GiB of the kernel's memory and a minute"]
fn hundred_thousand_connections_cost_one_percent_of_a_core() {
    let test = "hundred_thousand_connections_cost_one_percent_of_a_core";
    hold_cost(test, 100_000, 0.01);
}

fn hold_cost(test: &str, connections: usize, most: f64) {
    if !is_root(test) {
        return;
    }
    let files = (connections * 2 + 1_000) as u64;
    let limit = libc::rlimit { rlim_cur: files, rlim_max: files };
    // SAFETY: setrlimit reads one rlimit through the pointer, which lives until the call returns.
    let raised = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    assert_eq!(raised, 0, "root may raise it");
    let Some(mut sensors) = sensors_with(Probe::Requests, test) else { return };
    own_network().expect("root can make a network namespace");
    let listener = TcpListener::bind("0.0.0.0:0").expect("a free port");
    let open = open(&listener, connections);
    let (share, made, _) = cost(&mut sensors, connections);
    // The last pass of the time rests beyond its end.
    assert!(share <= most * (1.0 + 1.0 / made as f64), "{share} of a core");
    drop(open);
}
