//! Compares the time of an overload's claim with the real state of the queue. nginx, HAProxy and a
//! thread-per-connection server each run in their own network namespace. The installed agent runs
//! on its defaults and watches the whole host.

use std::{env, thread::sleep, time::Duration};

use spillway_tests::{
    now,
    overload_live::{
        load::{BURST_SECS, busy, ramp, random},
        report::{Ramped, judge, print},
        server::{GC_EVERY, GC_PAUSE, Kind, Server},
        stage::Stage,
        truth::Truth,
    },
    wait_for,
};

/// Ramps for each server: a random arrival may decide one of them, hardly all.
const RAMPS: usize = 5;
/// Maximum ramps that are repeated because the host itself stalled. That happens on shared
/// machines, but hardly twice in a row.
const CUT_SHORT_MAX: usize = 2;
/// Time after a ramp within which its queue must overflow and be claimed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Duration of a healthy load, unless `SPILLWAY_QUIET_SECS` says otherwise. The README's figures
/// are from ten minutes each.
const QUIET_SECS: u64 = 30;
const GC_PAUSES: usize = 8;

/// Servers that are stopped for good, and the connections a second that still arrive.
const STOPS: usize = 5;
const TO_A_STOPPED_SERVER_PER_SEC: f64 = 20.0;
const STOPPED_CLAIMED_WITHIN: Duration = Duration::from_secs(1);

#[test]
fn nginx_on_a_ramp_is_claimed_before_it_overflows() {
    ramps("nginx_on_a_ramp_is_claimed_before_it_overflows", Kind::Nginx);
}

#[test]
fn threads_on_a_ramp_are_claimed_before_they_overflow() {
    ramps("threads_on_a_ramp_are_claimed_before_they_overflow", Kind::Threads { backlog: 128 });
}

fn ramps(test: &str, kind: Kind) {
    let Some(mut stage) = Stage::set(test) else { return };
    let (mut ramps, mut cut_short) = (Vec::new(), 0);
    while ramps.len() < RAMPS {
        let ramp = one_ramp(&mut stage, kind);
        match ramp.cut_short() {
            Some(gap) if cut_short < CUT_SHORT_MAX => {
                cut_short += 1;
                println!(
                    "repeating a ramp: this host stalled for {gap:?} right before the queue \
                     overflowed"
                );
            }
            _ => ramps.push(ramp),
        }
    }
    print(&format!("{kind:?}"), &ramps);
    judge(&ramps);
    stage.clear();
}

fn one_ramp(stage: &mut Stage, kind: Kind) -> Ramped {
    // Measured right before, because on a shared machine the capacity changes within a minute.
    let capacity_per_sec = Server::capacity_per_sec(stage, kind);
    let (_server, addr) = Server::start(stage, kind);
    let truth = Truth::watch();
    let (_load, start) = ramp(stage, kind, addr, capacity_per_sec);
    wait_for(PATIENCE, || truth.overflowed().then(|| stage.claimed(addr)).flatten());
    // The queue may meet the condition later than the claim.
    sleep(2 * stage.sustain);
    Ramped::new(
        &truth.end(),
        start,
        capacity_per_sec,
        stage.claimed(addr),
        (stage.target, stage.sustain),
    )
}

#[test]
fn haproxy_at_four_fifths_with_bursts_is_never_claimed() {
    never_claimed("haproxy_at_four_fifths_with_bursts_is_never_claimed", Kind::Haproxy);
}

#[test]
fn threads_at_four_fifths_with_bursts_are_never_claimed() {
    never_claimed(
        "threads_at_four_fifths_with_bursts_are_never_claimed",
        Kind::Threads { backlog: 511 },
    );
}

fn never_claimed(test: &str, kind: Kind) {
    let Some(mut stage) = Stage::set(test) else { return };
    let capacity_per_sec = Server::capacity_per_sec(&mut stage, kind);
    let (_server, addr) = Server::start(&mut stage, kind);
    let truth = Truth::watch();
    let (load, burst) = busy(&stage, kind, addr, capacity_per_sec);
    let secs =
        env::var("SPILLWAY_QUIET_SECS").ok().map(|secs| secs.parse().expect("a number of seconds"));
    sleep(Duration::from_secs(secs.unwrap_or(QUIET_SECS)));
    let history = truth.end();
    drop(load);
    let (from, to) = history.span().expect("the queue was sampled");
    let (lasted, load) = (to - from, history.arrivals_per_sec(from, to) / capacity_per_sec);
    println!(
        "{kind:?}: {:.0} s at {load:.2} of {capacity_per_sec:.0} connections/s with bursts of \
         {burst}: the deepest queue {}, the \
         longest stand {:.0} ms, overflows: {}",
        lasted.as_secs_f64(),
        history.deepest(),
        history.longest_stand(stage.target).as_secs_f64() * 1e3,
        if history.first_overflow().is_some() { "some" } else { "none" },
    );
    assert!(load > 0.7, "the load was {load:.2} of the capacity");
    assert!(
        history.deepest() >= (BURST_SECS * capacity_per_sec / 2.0) as u64,
        "the deepest queue of all bursts was {}",
        history.deepest()
    );
    assert_no_claim(&stage, addr);
    stage.clear();
}

/// Checks that there is no claim about this listener. Servers that were loaded to measure a
/// capacity were overloaded.
fn assert_no_claim(stage: &Stage, addr: std::net::SocketAddr) {
    let claims: Vec<_> =
        stage.claims().into_iter().filter(|(_, claim)| claim["addr"] == addr.to_string()).collect();
    assert!(claims.is_empty(), "{claims:?}");
}

#[test]
fn pauses_like_garbage_collection_are_never_claimed() {
    let Some(mut stage) = Stage::set("pauses_like_garbage_collection_are_never_claimed") else {
        return;
    };
    let kind = Kind::Threads { backlog: 511 };
    let capacity_per_sec = Server::capacity_per_sec(&mut stage, kind);
    let (server, addr) = Server::start(&mut stage, kind);
    let truth = Truth::watch();
    let load = random(addr, capacity_per_sec / 2.0);
    for _ in 0..GC_PAUSES {
        sleep(GC_EVERY);
        server.pause(GC_PAUSE);
    }
    sleep(GC_EVERY);
    let history = truth.end();
    drop(load);
    let longest = history.longest_stand(stage.target);
    println!(
        "{GC_PAUSES} pauses of {} ms: the deepest queue {}, the longest stand {:.0} ms",
        GC_PAUSE.as_millis(),
        history.deepest(),
        longest.as_secs_f64() * 1e3
    );
    assert!(longest >= GC_PAUSE / 2, "no pause made a queue stand for longer than {longest:?}");
    assert_no_claim(&stage, addr);
    stage.clear();
}

#[test]
fn stopped_server_is_claimed_within_a_second() {
    let Some(mut stage) = Stage::set("stopped_server_is_claimed_within_a_second") else {
        return;
    };
    let kind = Kind::Threads { backlog: 128 };
    let after: Vec<_> = (0..STOPS)
        .map(|stop| {
            let (server, addr) = Server::start(&mut stage, kind);
            let truth = Truth::watch();
            let _load = random(addr, TO_A_STOPPED_SERVER_PER_SEC);
            // Varies the phase relative to the agent's tick.
            sleep(Duration::from_millis(1_000 + 37 * stop as u64));
            server.signal(libc::SIGSTOP);
            let stopped = now();
            wait_for(PATIENCE, || stage.claimed(addr));
            let history = truth.end();
            let claimed = stage.claimed(addr).expect("a stopped server is claimed");
            let waits_since = history.waits_since().expect("a connection waits");
            assert!(
                waits_since >= stopped - GC_PAUSE && claimed > stopped,
                "claimed before the server stopped"
            );
            claimed - waits_since
        })
        .collect();
    let millis: Vec<_> = after.iter().map(Duration::as_millis).collect();
    println!("stopped servers: claimed {millis:?} ms after the first waiting connection");
    assert!(after.iter().all(|after| *after <= STOPPED_CLAIMED_WITHIN), "{millis:?} ms");
    stage.clear();
}
