//! Requests on living connections, compared with the truth of their server and clients; and the
//! cost of sampling many. `src/kernel/requests.rs` checks every source on every kernel.

use std::{net::SocketAddr, process::Command, thread::sleep, time::Duration};

use spillway_agent::{
    bpf::Probe,
    sense::{RequestSensor, RequestsFact, Sensors},
};
use spillway_tests::{
    Habit, KnownRequests, Workload, built, is_root, now, own_network, requests, sensors_with,
};

const MS: fn(u64) -> Duration = Duration::from_millis;

/// Samples, taken at 10 Hz.
const LOOKS: u32 = 60;

fn at(sensors: &mut Sensors, t: f64, addr: SocketAddr) -> Option<RequestsFact> {
    let addr = addr.to_string();
    requests(sensors, t).into_iter().find(|fact| *fact.addr == *addr)
}

/// Means of the samples and of the truth, a column each: in flight, unread, and the ages of the
/// oldest in ms.
fn means(test: &str, habits: &[Habit]) -> Option<[(f64, f64); 4]> {
    let mut sensors = sensors_with(Probe::Requests, test)?;
    let known = KnownRequests::start("127.0.0.1:0", "127.0.0.1", habits).expect("loopback is up");
    sleep(MS(600));
    // What was there before is found first, on a busy host in several turns.
    const FIRST_SECS: f64 = 100.0;
    let mut turns = (0..50).map(|n| FIRST_SECS / 50.0 * f64::from(n));
    let first = turns.find_map(|t| at(&mut sensors, t, known.addr()));
    first.expect("it has connections");
    let start = now();
    let (mut sums, mut looks) = ([(0.0, 0.0); 4], 0.0);
    let before_all = known.answered();
    let mut last = RequestsFact::default();
    // A pass that costs more, as on a slow or busy host, is followed by a longer rest.
    for turn in 0..LOOKS * 10 {
        if turn >= LOOKS && looks >= f64::from(LOOKS) / 2.0 {
            break;
        }
        sleep(MS(100));
        let before = known.truth();
        let t = FIRST_SECS + start.elapsed().as_secs_f64();
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
    // A server that reads at once takes a moment for it: of those in flight few are unread, and
    // those for a tick, a tenth of this.
    const AGE_MS: f64 = 40.0;
    let [(_, in_flight), _, (_, oldest), (_, unread)] = means;
    let of = [in_flight, in_flight, oldest.max(AGE_MS), unread.max(AGE_MS)];
    let bounds = of.into_iter().zip([0.05, 0.05, 0.1, 0.1]);
    for ((seen, truth), (name, (of, off))) in means.into_iter().zip(names.into_iter().zip(bounds)) {
        println!("{test}: {name} {seen:.2} (true {truth:.2})");
        assert!((seen - truth).abs() <= off * of.max(1.0), "{name}: {seen}, {truth} is true");
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

/// Samples at 10 Hz for some seconds; returns the share of a core that passes took.
fn cost(sensors: &mut Sensors, connections: usize) -> f64 {
    const SECS: f64 = 60.0;
    let cost = |sensors: &Sensors| sensors.get::<RequestSensor>().expect("it started").cost();
    let mut observations = Vec::new();
    let look = |sensors: &mut Sensors, t, out: &mut Vec<_>| {
        sensors.scan_listeners(t, out);
        out.clear();
    };
    // The connections are found first; the time is from one pass to another.
    let mut t = 0.0;
    while cost(sensors).passes == 0 {
        look(sensors, t, &mut observations);
        t += 0.1;
    }
    let before = cost(sensors);
    let (mut t, mut last, mut last_t) = (1_000.0, before, 0.0);
    let start = t;
    while t < start + SECS || last.passes < before.passes + 2 {
        look(sensors, t, &mut observations);
        let now = cost(sensors);
        if now.passes > last.passes {
            (last_t, last) = (t, now);
            if t >= start + SECS {
                break;
            }
        }
        t += 0.1;
    }
    let now = cost(sensors);
    let passes = now.passes - before.passes;
    // The last one rests from here on.
    let resting = (now.secs - before.secs) / passes as f64;
    let share = (now.secs - before.secs - resting) / (last_t - start);
    println!(
        "{connections} connections: {passes} passes in {:.1} s, {:.2} ms each, {:.2} % of a core",
        last_t - start,
        resting * 1e3,
        share * 100.0
    );
    share
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
    /// Both ends of each are in one process, which may hold 20,000 files on a usual host.
    const EACH: usize = 5_000;
    if !is_root(test) {
        return;
    }
    let Some(mut sensors) = sensors_with(Probe::Requests, test) else { return };
    own_network().expect("root can make a network namespace");
    let open: Vec<_> = (0..connections / EACH)
        .map(|_| {
            let mut command = Command::new(built("workload"));
            Workload::start(command.args(["connections", &format!("--count={EACH}")]))
        })
        .collect();
    let share = cost(&mut sensors, connections);
    assert!(share <= most * 1.1, "{share} of a core");
    let turns = (0..1_000).map(|turn| requests(&mut sensors, 1e9 + f64::from(turn) / 10.0));
    let facts = turns.into_iter().find(|facts| !facts.is_empty()).expect("a pass ends");
    let seen: u32 = facts.iter().filter_map(|fact| fact.connections).sum();
    assert_eq!(seen as usize, connections);
    drop(open);
}
