//! Counts of arriving connections, and the time at which one last found the queue empty, compared
//! with the connections that were made.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    thread::{self, sleep},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use spillway_agent::{
    bpf::Probe,
    sense::{ListenerFact, Sensors},
};
use spillway_tests::listeners;

use crate::{
    checks::Seen,
    rungs::{Prepared, Rung},
    runner::now,
    sojourns::shared_listeners,
};

/// Number of arriving connections that are accepted; the rest waits.
const ACCEPTED: usize = 30;
const WAITING: usize = 10;

/// Maximum time until a connected client waits for accept(), on the slowest emulated kernel.
const WAITS_WITHIN: Duration = Duration::from_secs(10);

/// Maximum difference between a clock read here and one read in the kernel, on an emulated
/// processor.
const SLACK: Duration = Duration::from_millis(2);

/// Addresses that a server listens on, each with the address by which clients reach it.
const WAYS: [(&str, &str); 5] = [
    ("127.0.0.1:0", "127.0.0.1"),
    ("0.0.0.0:0", "127.0.0.1"),
    ("[::1]:0", "::1"),
    ("[::]:0", "::1"),
    ("[::]:0", "127.0.0.1"),
];

fn at(sensors: &mut Sensors, addr: SocketAddr) -> Vec<ListenerFact> {
    let addr = addr.to_string();
    listeners(sensors, 0.0).into_iter().filter(|fact| *fact.addr == *addr).collect()
}

fn one(sensors: &mut Sensors, addr: SocketAddr) -> anyhow::Result<ListenerFact> {
    let mut facts = at(sensors, addr);
    ensure!(facts.len() == 1, "{} listeners seen at {addr}, expected one", facts.len());
    facts.pop().context("one is seen")
}

/// Waits until that many connections wait, over all sockets at an address. A client may be
/// connected before its connection waits: the last packet of the handshake is then still under way,
/// and a busy processor delays it.
fn until_waiting(sensors: &mut Sensors, addr: SocketAddr, count: u32) -> anyhow::Result<()> {
    let start = now();
    loop {
        let waiting: u32 = at(sensors, addr).iter().map(|fact| fact.backlog).sum();
        if waiting == count {
            return Ok(());
        }
        ensure!(start.elapsed() < WAITS_WITHIN, "{waiting} connections wait, not {count}");
        sleep(Duration::from_millis(1));
    }
}

/// Checks the numbers of arrived, accepted and waiting connections, for every kind of address.
pub fn counted(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    let sensors = prepared.sensors(Probe::AcceptQueue, rung)?;
    for (any, reached_by) in WAYS {
        let listener = TcpListener::bind(any).with_context(|| format!("cannot listen at {any}"))?;
        let addr = listener.local_addr()?;
        let to = SocketAddr::new(reached_by.parse()?, addr.port());
        one(sensors, addr)?;
        let mut open = Vec::new();
        for made in 0..ACCEPTED + WAITING {
            open.push(TcpStream::connect(to).with_context(|| format!("cannot connect to {to}"))?);
            if made < ACCEPTED {
                listener.accept().context("accept failed")?;
            }
        }
        until_waiting(sensors, addr, WAITING as u32)?;
        let fact = one(sensors, addr)?;
        let seen = (fact.arrived_total, fact.accepted_total, fact.backlog as usize);
        let truth = (Some((ACCEPTED + WAITING) as u64), Some(ACCEPTED as u64), WAITING);
        ensure!(
            seen == truth,
            "{any}: (arrived, accepted, waiting) is {seen:?}, expected {truth:?}"
        );
    }
    Ok(Seen {
        events: (WAYS.len() * (ACCEPTED + WAITING)) as u64,
        detail: "IPv4, IPv6, IPv4 at an IPv6 socket, each also at every address".to_owned(),
    })
}

/// Checks since when the queue was not empty: since the first waiting connection arrived.
pub fn found_empty(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    let sensors = prepared.sensors(Probe::AcceptQueue, rung)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    let fact = one(sensors, addr)?;
    ensure!(
        fact.found_empty_us.is_none(),
        "no connection arrived, yet one found the queue empty {:?} µs ago",
        fact.found_empty_us
    );
    let (mut open, mut furthest) = (Vec::new(), Duration::ZERO);
    for _ in 0..3 {
        let before = now();
        open.push(TcpStream::connect(addr)?);
        until_waiting(sensors, addr, 1)?;
        let after = now();
        // Connections that come and go meanwhile find it occupied.
        for _ in 0..5 {
            open.push(TcpStream::connect(addr)?);
            until_waiting(sensors, addr, 2)?;
            listener.accept()?;
            sleep(Duration::from_millis(10));
        }
        let least = after.elapsed();
        let seen =
            one(sensors, addr)?.found_empty_us.context("the time of an empty queue is unknown")?;
        let (seen, most) = (Duration::from_micros(seen), before.elapsed());
        let off = least.saturating_sub(seen).max(seen.saturating_sub(most));
        ensure!(off <= SLACK, "queue found empty {seen:?} ago, expected {least:?} to {most:?}");
        furthest = furthest.max(off);
        listener.accept()?;
    }
    Ok(Seen {
        events: 18,
        detail: format!(
            "three times, at most {:.1} ms out of bounds",
            furthest.as_secs_f64() * 1e3
        ),
    })
}

/// Checks the counts with many clients at once, while a server accepts and the sensor reads.
pub fn under_load(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    const CLIENTS: usize = 4;
    const EACH: usize = 250;
    let sensors = prepared.sensors(Probe::AcceptQueue, rung)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    one(sensors, addr)?;
    let (mut looks, mut last) = (0, (0, 0));
    thread::scope(|scope| -> anyhow::Result<()> {
        let server = scope.spawn(|| (0..CLIENTS * EACH).all(|_| listener.accept().is_ok()));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| scope.spawn(|| (0..EACH).all(|_| TcpStream::connect(addr).is_ok())))
            .collect();
        while !server.is_finished() {
            let fact = one(sensors, addr)?;
            let seen = (fact.arrived_total.unwrap_or(0), fact.accepted_total.unwrap_or(0));
            ensure!(
                seen.0 >= last.0 && seen.1 >= last.1,
                "(arrived, accepted) decreased from {last:?} to {seen:?}"
            );
            (looks, last) = (looks + 1, seen);
        }
        let all = clients.into_iter().all(|client| client.join().unwrap_or(false));
        ensure!(all && server.join().unwrap_or(false), "some connections were not made");
        Ok(())
    })?;
    let fact = one(sensors, addr)?;
    let truth = (CLIENTS * EACH) as u64;
    let seen = (fact.arrived_total, fact.accepted_total);
    // If two CPUs handle a connection's last packet at once, it is counted twice.
    let is_true =
        |seen: Option<u64>| seen.is_some_and(|seen| (truth..=truth + truth / 100).contains(&seen));
    ensure!(
        is_true(seen.0) && is_true(seen.1),
        "(arrived, accepted) is {seen:?}, expected {truth} for both"
    );
    Ok(Seen { events: truth, detail: format!("{looks} reads meanwhile, counted {seen:?}") })
}

/// Checks that sockets with the same address share its count of arrivals.
pub fn shared_address(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    const CONNECTIONS: u64 = 40;
    let sensors = prepared.sensors(Probe::AcceptQueue, rung)?;
    let (addr, _held) = shared_listeners(4)?;
    at(sensors, addr);
    let _open =
        (0..CONNECTIONS).map(|_| TcpStream::connect(addr)).collect::<std::io::Result<Vec<_>>>()?;
    until_waiting(sensors, addr, CONNECTIONS as u32)?;
    let facts = at(sensors, addr);
    let mut numbers: Vec<_> = facts.iter().map(|fact| fact.socket).collect();
    numbers.sort_unstable();
    numbers.dedup();
    ensure!(
        numbers.len() == 4 && !numbers.contains(&0),
        "four sockets have the numbers {numbers:?}"
    );
    let came: Vec<_> = facts.iter().map(|fact| fact.arrived_total).collect();
    ensure!(came == [Some(CONNECTIONS); 4], "{came:?} arrived, expected {CONNECTIONS} for each");
    let found_empty = facts.iter().filter_map(|fact| fact.found_empty_us).count();
    ensure!(
        found_empty == 0,
        "which socket was found empty is not known where they share an address"
    );
    Ok(Seen { events: CONNECTIONS, detail: format!("four sockets, {numbers:?}") })
}
