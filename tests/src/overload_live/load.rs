//! Loads: ramps from a server's capacity to 1.4 times as much, and steady loads with bursts.
//!
//! wrk waits for each answer before it sends the next request, so that its connections are a fixed
//! number. A thread-per-connection server can serve a fixed number at once, so that its ramp
//! consists of such numbers. For an event loop this is no ramp, because it works as fast as it can
//! under any number; and wrk's own delays come after it has connected, so that the queue would have
//! connections without a request. The capacity of nginx and HAProxy is therefore measured with wrk,
//! and their load consists of connections at a rate.

use std::{
    net::SocketAddr,
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{Program, Servers, Workload, now};

use super::{
    server::{Kind, THREADS},
    stage::{Stage, workload},
};

/// Time of a ramp from 1.0 to 1.4 times the capacity.
const RAMP: Duration = Duration::from_secs(4);
const UP_TO: f64 = 1.4;
/// Steps of a ramp in which concurrency grows.
const STEPS: u32 = 16;
/// Time of steady concurrency before it grows.
const SETTLES: Duration = Duration::from_secs(1);
/// Connections that wrk starts at a time, so that the start is no burst.
const BATCH: u32 = 20;
const BATCH_EVERY: Duration = Duration::from_millis(50);

/// Share of the capacity at which a server is busy and healthy.
const BUSY: f64 = 0.8;
/// Size of a burst in seconds of the server's time, beyond what it can take at once, in connections
/// that all arrive within some milliseconds.
pub const BURST_SECS: f64 = 0.08;

/// Maximum duration of any load that is not ended.
const AT_MOST_SECS: u32 = 1_200;

/// Running load, ended when dropped.
#[derive(Default)]
pub struct Load {
    wrks: Vec<Program>,
    offers: Vec<Workload>,
}

/// Loads a server to its capacity, then increases the load; returns the load, which continues at
/// 1.4 times that, and the start of the ramp. Returns when the ramp has ended.
pub fn ramp(stage: &Stage, kind: Kind, addr: SocketAddr, capacity_per_sec: f64) -> (Load, Instant) {
    match kind {
        Kind::Nginx | Kind::Haproxy => {
            let start = now();
            let (from, to) = (capacity_per_sec, UP_TO * capacity_per_sec);
            let mut load = Load::default();
            let ramp = format!("--ramp={}s", RAMP.as_secs_f64());
            load.offer(
                addr,
                &[&format!("--rate-per-sec={from}"), &format!("--to-rate-per-sec={to}"), &ramp],
            );
            sleep(RAMP);
            (load, start)
        }
        Kind::Threads { .. } => {
            let mut load = concurrent(&stage.servers, addr, THREADS);
            let start = now();
            let more = (f64::from(THREADS) * (UP_TO - 1.0)).round() as u32 / STEPS;
            for step in 1..=STEPS {
                load.wrk(&stage.servers, addr, more);
                sleep((start + RAMP * step / STEPS).saturating_duration_since(now()));
            }
            (load, start)
        }
    }
}

/// Starts a load of this share of the capacity, with bursts of that many connections every three
/// seconds.
pub fn steady(
    stage: &Stage,
    kind: Kind,
    addr: SocketAddr,
    capacity_per_sec: f64,
    share: f64,
    burst: u32,
) -> Load {
    let (mut load, rate_per_sec) = match kind {
        Kind::Nginx | Kind::Haproxy => (Load::default(), share * capacity_per_sec),
        Kind::Threads { .. } => {
            (concurrent(&stage.servers, addr, (share * f64::from(THREADS)) as u32), 0.0)
        }
    };
    load.offer(addr, &[&format!("--rate-per-sec={rate_per_sec}"), &format!("--burst={burst}")]);
    load
}

/// Starts a load of four fifths of the capacity, with bursts that the server can take; returns it
/// with the connections of a burst.
pub fn busy(stage: &Stage, kind: Kind, addr: SocketAddr, capacity_per_sec: f64) -> (Load, u32) {
    let idle = (1.0 - BUSY) * f64::from(kind.at_once());
    let burst = (idle + BURST_SECS * capacity_per_sec) as u32;
    (steady(stage, kind, addr, capacity_per_sec, BUSY, burst), burst)
}

/// Starts connections at random times, whatever happens to earlier ones.
pub fn random(addr: SocketAddr, rate_per_sec: f64) -> Load {
    bursts(addr, rate_per_sec, 0)
}

/// Starts the same with that many more at once every three seconds.
pub fn bursts(addr: SocketAddr, rate_per_sec: f64, burst: u32) -> Load {
    let mut load = Load::default();
    load.offer(addr, &[&format!("--rate-per-sec={rate_per_sec}"), &format!("--burst={burst}")]);
    load
}

/// Starts wrk with that many connections, all of them at work when this returns.
fn concurrent(servers: &Servers, addr: SocketAddr, connections: u32) -> Load {
    let mut load = Load::default();
    for _ in 0..connections / BATCH {
        load.wrk(servers, addr, BATCH);
        sleep(BATCH_EVERY);
    }
    sleep(SETTLES);
    load
}

impl Load {
    fn wrk(&mut self, servers: &Servers, addr: SocketAddr, connections: u32) {
        self.wrks.push(Program::start(&mut servers.wrk(addr, connections, AT_MOST_SECS)));
    }

    fn offer(&mut self, addr: SocketAddr, what: &[&str]) {
        let (addr, lasting) = (format!("--addr={addr}"), format!("--for={AT_MOST_SECS}s"));
        self.offers.push(workload(&[&["offer", &addr, &lasting], what].concat()));
    }
}
