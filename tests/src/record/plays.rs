//! List of recordings: a server and its load, for a minute or so each. Each begins healthy. After
//! an overload, the server is offered a load that it can take, and recovers only when refused
//! clients stop retrying.
//!
//! All recordings of nginx belong to the tuning part; those of HAProxy and of the threaded server
//! are held out.

use std::{thread::sleep, time::Duration};

use anyhow::Context as _;
use spillway_tests::{
    corpus::Part,
    overload_live::{
        load::{Load, bursts, busy, ramp, random, steady},
        server::{GC_EVERY, GC_PAUSE, Kind, Server, page},
        stage::workload,
    },
    queues::Scarce,
};

use crate::{
    quota::{Quota, children},
    set::{Kept, Set},
};

/// A recording.
pub(crate) struct Play {
    pub(crate) name: &'static str,
    pub(crate) part: Part,
    pub(crate) why: &'static str,
    /// Scarce resource during the overload; `None` for healthy ones.
    pub(crate) scarce: Option<Scarce>,
    /// Set if its server has priority over other processes; a quota affects only those without.
    pub(crate) ahead: bool,
    pub(crate) play: fn(&mut Set) -> anyhow::Result<Kept>,
}

const fn nginx(
    name: &'static str,
    scarce: Option<Scarce>,
    play: fn(&mut Set) -> anyhow::Result<Kept>,
    why: &'static str,
) -> Play {
    Play { name, part: Part::Tuning, why, scarce, ahead: true, play }
}

const fn held_out(
    name: &'static str,
    scarce: Option<Scarce>,
    play: fn(&mut Set) -> anyhow::Result<Kept>,
    why: &'static str,
) -> Play {
    Play { name, part: Part::HeldOut, why, scarce, ahead: true, play }
}

/// All recordings.
pub(crate) const PLAYS: [Play; 13] = [
    nginx(
        "nginx-ramp",
        Some(Scarce::Cpu),
        nginx_ramp,
        "nginx on one CPU, from 1.0 to 1.4 times of what it can do in 4 s",
    ),
    Play {
        ahead: false,
        ..nginx(
            "nginx-quota",
            Some(Scarce::Cpu),
            nginx_quota,
            "nginx held to a quarter of a CPU, offered 1.4 times of that",
        )
    },
    nginx(
        "nginx-idle",
        None,
        nginx_idle,
        "nginx with 3000 idle connections and ten requests a second",
    ),
    nginx(
        "nginx-clumps",
        Some(Scarce::Backlog),
        nginx_clumps,
        "nginx with a backlog of 5, to which 12 connect at once every 3 s",
    ),
    nginx(
        "nginx-stuck-worker",
        Some(Scarce::AcceptLoop),
        nginx_stuck,
        "nginx with a socket for each of eight workers, of which one is stopped",
    ),
    held_out(
        "haproxy-maxconn",
        Some(Scarce::Workers),
        haproxy_maxconn,
        "HAProxy at its maxconn before a slow backend, offered 1.3 times of what that lets it take",
    ),
    held_out(
        "haproxy-bursts",
        None,
        haproxy_bursts,
        "HAProxy at 0.8 of what its maxconn lets it take, with bursts every 3 s",
    ),
    held_out(
        "haproxy-crowd",
        None,
        haproxy_crowd,
        "HAProxy in a crowd of four times as many, which it can take",
    ),
    held_out(
        "threads-ramp",
        Some(Scarce::Workers),
        threads_ramp,
        "A thread-per-connection server, from 1.0 to 1.4 times of its threads in 4 s",
    ),
    held_out(
        "threads-bursts",
        None,
        threads_bursts,
        "A thread-per-connection server with 0.8 of its threads at work, and bursts every 3 s",
    ),
    held_out(
        "threads-pauses",
        None,
        threads_pauses,
        "A thread-per-connection server that stops for 200 ms every 3 s, as to collect garbage",
    ),
    held_out(
        "threads-stopped-slow",
        Some(Scarce::AcceptLoop),
        |set| stopped(set, 20.0),
        "A thread-per-connection server that is stopped while 20 connect a second",
    ),
    held_out(
        "threads-stopped-fast",
        Some(Scarce::AcceptLoop),
        |set| stopped(set, 500.0),
        "A thread-per-connection server that is stopped while 500 connect a second",
    ),
];

/// Time of healthy load at first, of overload, and of healthy load again.
const BEFORE: Duration = Duration::from_secs(20);
const DURING: Duration = Duration::from_secs(20);
const AFTER: Duration = Duration::from_secs(20);
/// Share of the capacity during healthy load.
const CALM: f64 = 0.6;
const THREADS: Kind = Kind::Threads { backlog: 511 };

fn calm(
    set: &Set,
    kind: Kind,
    addr: std::net::SocketAddr,
    capacity_per_sec: f64,
    lasting: Duration,
) -> Load {
    let load = steady(&set.stage, kind, addr, capacity_per_sec, CALM, 0);
    sleep(lasting);
    load
}

fn ramped(set: &mut Set, kind: Kind) -> anyhow::Result<Kept> {
    let capacity_per_sec = set.capacity_per_sec(kind);
    let (server, addr) = set.start(kind)?;
    drop(calm(set, kind, addr, capacity_per_sec, BEFORE));
    set.overloads();
    let (load, _) = ramp(&set.stage, kind, addr, capacity_per_sec);
    sleep(DURING);
    drop(load);
    let load = calm(set, kind, addr, capacity_per_sec, AFTER);
    Ok(Box::new((load, server)))
}

fn nginx_ramp(set: &mut Set) -> anyhow::Result<Kept> {
    ramped(set, Kind::Nginx)
}

fn threads_ramp(set: &mut Set) -> anyhow::Result<Kept> {
    ramped(set, Kind::Threads { backlog: 128 })
}

fn nginx_quota(set: &mut Set) -> anyhow::Result<Kept> {
    /// Share of one CPU.
    const SHARE: f64 = 0.25;
    let quota = Quota::make(SHARE)?;
    let capacity_per_sec = SHARE * set.capacity_per_sec(Kind::Nginx);
    let (server, addr) = set.start(Kind::Nginx)?;
    let Server::Debian { program } = &server else { unreachable!("nginx is Debian's") };
    quota.hold(program.pid())?;
    let load = random(addr, 0.5 * capacity_per_sec);
    sleep(BEFORE);
    set.overloads();
    let more = random(addr, 0.9 * capacity_per_sec);
    sleep(DURING);
    drop(more);
    sleep(AFTER);
    // The cgroup is removed after its processes.
    Ok(Box::new((load, server, quota)))
}

fn nginx_idle(set: &mut Set) -> anyhow::Result<Kept> {
    let (server, addr) = set.start(Kind::Nginx)?;
    let load = random(addr, 10.0);
    let (to, each) = (format!("--to={addr}"), "--count=500");
    let idle: Vec<_> = (0..6).map(|_| workload(&["connects", &to, each, "--then=hold"])).collect();
    sleep(BEFORE + DURING + AFTER);
    Ok(Box::new((load, idle, server)))
}

fn nginx_clumps(set: &mut Set) -> anyhow::Result<Kept> {
    let (server, addr) = set.start_as(1, |stage| {
        let addr = stage.fresh_addr();
        (stage.servers.nginx_with(&stage.dir(addr), addr, &page(), 1, "backlog=5"), addr)
    })?;
    drop({
        let load = random(addr, 5.0);
        sleep(BEFORE);
        load
    });
    set.overloads();
    let load = bursts(addr, 5.0, 12);
    sleep(DURING + AFTER);
    Ok(Box::new((load, server)))
}

fn nginx_stuck(set: &mut Set) -> anyhow::Result<Kept> {
    const WORKERS: u32 = 8;
    let (server, addr) = set.start_as(WORKERS as usize, |stage| {
        let addr = stage.fresh_addr();
        (stage.servers.nginx_with(&stage.dir(addr), addr, b"ok\n", WORKERS, "reuseport"), addr)
    })?;
    let worker = *children(server.pid())?.last().context("nginx has no workers")? as i32;
    let load = random(addr, 200.0);
    sleep(BEFORE);
    signal(worker, libc::SIGSTOP);
    set.stopped();
    sleep(DURING);
    set.goes_on();
    signal(worker, libc::SIGCONT);
    sleep(AFTER);
    Ok(Box::new((load, server)))
}

fn signal(pid: i32, signal: libc::c_int) {
    // SAFETY: a signal to a worker of a server that runs.
    let sent = unsafe { libc::kill(pid, signal) };
    assert_eq!(sent, 0, "the worker is gone");
}

fn haproxy_maxconn(set: &mut Set) -> anyhow::Result<Kept> {
    let capacity_per_sec = set.capacity_per_sec(Kind::Haproxy);
    let (server, addr) = set.start(Kind::Haproxy)?;
    let load = calm(set, Kind::Haproxy, addr, capacity_per_sec, BEFORE);
    set.overloads();
    let more = random(addr, 0.7 * capacity_per_sec);
    sleep(DURING);
    drop(more);
    sleep(AFTER);
    Ok(Box::new((load, server)))
}

fn bursting(set: &mut Set, kind: Kind) -> anyhow::Result<Kept> {
    let capacity_per_sec = set.capacity_per_sec(kind);
    let (server, addr) = set.start(kind)?;
    let (load, _) = busy(&set.stage, kind, addr, capacity_per_sec);
    sleep(BEFORE + DURING + AFTER);
    Ok(Box::new((load, server)))
}

fn haproxy_bursts(set: &mut Set) -> anyhow::Result<Kept> {
    bursting(set, Kind::Haproxy)
}

fn threads_bursts(set: &mut Set) -> anyhow::Result<Kept> {
    bursting(set, THREADS)
}

fn haproxy_crowd(set: &mut Set) -> anyhow::Result<Kept> {
    let capacity_per_sec = set.capacity_per_sec(Kind::Haproxy);
    let (server, addr) = set.start(Kind::Haproxy)?;
    let load = random(addr, 0.2 * capacity_per_sec);
    sleep(BEFORE);
    let crowd = random(addr, 0.6 * capacity_per_sec);
    sleep(DURING);
    drop(crowd);
    sleep(AFTER);
    Ok(Box::new((load, server)))
}

fn threads_pauses(set: &mut Set) -> anyhow::Result<Kept> {
    let capacity_per_sec = set.capacity_per_sec(THREADS);
    let (server, addr) = set.start(THREADS)?;
    let load = random(addr, 0.5 * capacity_per_sec);
    let pauses = (BEFORE + DURING + AFTER).div_duration_f64(GC_EVERY + GC_PAUSE) as u32;
    for _ in 0..pauses {
        sleep(GC_EVERY);
        server.pause(GC_PAUSE);
    }
    Ok(Box::new((load, server)))
}

fn stopped(set: &mut Set, rate_per_sec: f64) -> anyhow::Result<Kept> {
    let (server, addr) = set.start(THREADS)?;
    let load = random(addr, rate_per_sec);
    sleep(BEFORE);
    server.signal(libc::SIGSTOP);
    set.stopped();
    sleep(DURING);
    set.goes_on();
    server.signal(libc::SIGCONT);
    sleep(AFTER);
    Ok(Box::new((load, server)))
}
