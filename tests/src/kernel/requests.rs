//! Requests on living connections, against requests that wait for known times: how many are in
//! flight, how many unread, and how old they are.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use spillway_agent::{
    bpf::Probe,
    sense::{RequestSensor, RequestsFact, Sensors},
};
use spillway_tests::{Habit, KnownRequests, Truth, Workload, requests};

use crate::{
    checks::{NotOffered, Seen},
    guest,
    memory::workload,
    rungs::{Prepared, Rung, is_bpf, kernel_version},
    runner::now,
};

/// Samples of connections that go on, 100 ms apart.
const LOOKS: u32 = 40;

/// Interval of turns.
const TURN_SECS: f64 = 0.1;

/// Turns in which a search that has begun ends.
const TURNS_OF_SEARCH: u32 = 10;

/// Time within which a pass ends, and a connection that comes is seen: both together less than from
/// one search for connections to the next.
const SEEN_SECS: f64 = 2.0;

/// Such a time on an emulated processor, on which a pass, or taking in the noted connections, lasts
/// for milliseconds and the next one is put off for seconds: a search may find them first.
const SEEN_EMULATED_SECS: f64 = 60.0;

/// Error that means may have: in flight, and the age of the oldest.
const IN_FLIGHT_OFF: f64 = 0.05;
const OLDEST_OFF: f64 = 0.10;

const MS: fn(u64) -> Duration = Duration::from_millis;

/// Samples an address. Each sample comes long after the last, so that no pass is put off.
fn look(sensors: &mut Sensors, t: &mut f64, addr: SocketAddr) -> anyhow::Result<RequestsFact> {
    *t += 1_000.0;
    look_soon(sensors, t, addr)
}

/// Samples an address as soon as a pass ends, which may take several turns.
fn look_soon(sensors: &mut Sensors, t: &mut f64, addr: SocketAddr) -> anyhow::Result<RequestsFact> {
    let addr = addr.to_string();
    let mut facts = Vec::new();
    let start = *t;
    while facts.is_empty() && *t < start + seen_within_secs() {
        facts = requests(sensors, *t);
        facts.retain(|fact| *fact.addr == *addr);
        if facts.is_empty() {
            *t += TURN_SECS;
        }
    }
    ensure!(
        facts.len() == 1,
        "{} facts are about {addr} in {:.1} s, not one",
        facts.len(),
        *t - start
    );
    facts.pop().context("there is one")
}

fn later() -> f64 {
    // On the clock of these sensors, whose earlier checks may have come far.
    use std::sync::atomic::{AtomicU64, Ordering};
    static CHECKS: AtomicU64 = AtomicU64::new(1);
    1e6 * CHECKS.fetch_add(1, Ordering::Relaxed) as f64
}

/// Sensors on this rung. Linux 5.11 brought the helper that the best one needs.
fn on(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<&mut Sensors> {
    let version = kernel_version()?;
    if rung.is_some_and(|rung| rung.hook == RequestSensor::ITER) && version < (5, 11) {
        let reason = format!("{}.{} has no bpf_sock_from_file", version.0, version.1);
        return Err(NotOffered(reason).into());
    }
    prepared.sensors(Probe::Requests, rung)
}

/// Requests of many clients that think, some of which the server reads at once.
pub fn in_flight(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    let sensors = on(prepared, rung)?;
    let habit = |think, service, unread| Habit { think: MS(think), service: MS(service), unread };
    let habits: Vec<_> = [habit(200, 400, false), habit(200, 400, true), habit(30_000, 10, false)]
        .into_iter()
        .flat_map(|habit| [habit; 10])
        .collect();
    held_to_truth(sensors, "0.0.0.0:0", "127.0.0.1", &habits, true)
}

/// Clients that ask again as soon as they are answered, over IPv4 at an IPv6 socket: the request
/// comes within the tick of the response before it.
pub fn back_to_back(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    let sensors = on(prepared, rung)?;
    let habits = [Habit { think: Duration::ZERO, service: MS(150), unread: false }; 20];
    // `sock_diag` does not show the order within a tick.
    held_to_truth(sensors, "[::]:0", "127.0.0.1", &habits, is_bpf(rung))
}

fn is_emulated() -> bool {
    guest::machine().is_some_and(|name| name != "host")
}

fn seen_within_secs() -> f64 {
    if is_emulated() { SEEN_EMULATED_SECS } else { SEEN_SECS }
}

fn held_to_truth(
    sensors: &mut Sensors,
    at: &str,
    reached_by: &str,
    habits: &[Habit],
    counts_all: bool,
) -> anyhow::Result<Seen> {
    let known = KnownRequests::start(at, reached_by, habits)?;
    let mut t = later();
    sleep(MS(500));
    // Read before the first sample: answers while it is taken may be in the sensor's count.
    let answered = known.answered();
    look(sensors, &mut t, known.addr())?;
    let (mut seen, mut truth) = ([0.0; 4], [0.0; 4]);
    // Largest excess of one look over the true age of the oldest unread request.
    let mut worst = 0.0_f64;
    let mut last = RequestsFact::default();
    for _ in 0..LOOKS {
        sleep(MS(100));
        let before = known.truth();
        last = look(sensors, &mut t, known.addr())?;
        let after = known.truth();
        let ms = |us: Option<u64>| us.unwrap_or(0) as f64 / 1e3;
        let of_fact = [
            f64::from(last.in_flight),
            f64::from(last.unread),
            ms(last.oldest_in_flight_us),
            ms(last.oldest_unread_us),
        ];
        let (seen_before, truth_before) = (seen[3], truth[3]);
        for (sum, one) in seen.iter_mut().zip(of_fact) {
            *sum += one / f64::from(LOOKS);
        }
        for one in [before, after] {
            let Truth { in_flight, unread, oldest, oldest_unread } = one;
            let of_truth = [
                f64::from(in_flight),
                f64::from(unread),
                oldest.as_secs_f64() * 1e3,
                oldest_unread.as_secs_f64() * 1e3,
            ];
            for (sum, one) in truth.iter_mut().zip(of_truth) {
                *sum += one / f64::from(2 * LOOKS);
            }
        }
        worst = worst.max((seen[3] - seen_before) - (truth[3] - truth_before));
    }
    let answered = known.answered() - answered;
    let detail = format!(
        "in flight {:.1} (true {:.1}), unread {:.1} ({:.1}), oldest {:.0} ms ({:.0}), oldest \
         unread {:.0} ms ({:.0}), {} answered were seen of {answered}",
        seen[0],
        truth[0],
        seen[1],
        truth[1],
        seen[2],
        truth[2],
        seen[3],
        truth[3],
        last.answered_total.unwrap_or(0)
    );
    ensure!(last.connections == Some(habits.len() as u32), "{last:?}: {} are true", habits.len());
    // A server that reads at once takes a moment for it: of those in flight few are unread, and
    // those for a tick, a tenth of this; for milliseconds if its processor is emulated.
    let age_ms = if is_emulated() { 150.0 } else { 40.0 };
    let of = [truth[0], truth[0], truth[2].max(age_ms), truth[3].max(age_ms)];
    let off = |n: usize| (seen[n] - truth[n]).abs() / of[n].max(1.0);
    if counts_all {
        ensure!(off(0) <= IN_FLIGHT_OFF && off(1) <= IN_FLIGHT_OFF, "counts are off: {detail}");
        // The kernel counts the bytes of a segment a moment before it notes its time, so one look
        // in forty may see a request that has just come with the time of the one before.
        let unread_off = (seen[3] - truth[3] - worst).abs() / of[3].max(1.0);
        ensure!(off(2) <= OLDEST_OFF && unread_off <= OLDEST_OFF, "ages are off: {detail}");
        let is_bound = last.answered_total.is_some_and(|seen| seen <= answered + 1);
        ensure!(is_bound, "more were seen to be answered: {detail}");
    } else {
        ensure!(seen[0] <= truth[0] * (1.0 + IN_FLIGHT_OFF), "more than is true: {detail}");
    }
    Ok(Seen { events: u64::from(LOOKS) * habits.len() as u64, detail })
}

/// Clients that close before they are answered, reset, or close only after it: the first two are
/// abandoned, each once.
pub fn abandoned(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    let sensors = on(prepared, rung)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    let pair = || -> anyhow::Result<(TcpStream, TcpStream)> {
        let mut client = TcpStream::connect(addr)?;
        let (server, _) = listener.accept()?;
        client.write_all(b"question")?;
        Ok((client, server))
    };
    let mut t = later();
    let (held, _held) = pair()?;
    let mut unread = (0..5).map(|_| pair()).collect::<anyhow::Result<Vec<_>>>()?;
    let mut read = (0..3).map(|_| pair()).collect::<anyhow::Result<Vec<_>>>()?;
    let mut answered = (0..4).map(|_| pair()).collect::<anyhow::Result<Vec<_>>>()?;
    // Away from the tick in which they connected.
    sleep(MS(50));
    for (client, server) in read.iter_mut().chain(&mut answered) {
        server.read_exact(&mut [0; 8])?;
        client.write_all(b"and more")?;
        server.read_exact(&mut [0; 8])?;
    }
    for (client, server) in &mut answered {
        sleep(MS(20));
        server.write_all(b"response")?;
        client.read_exact(&mut [0; 8])?;
    }
    let fact = look(sensors, &mut t, addr)?;
    let seen = (fact.connections, fact.in_flight, fact.unread);
    ensure!(seen == (Some(13), 9, 6), "{seen:?} were seen, 13 connections, 9, 6 are true");
    ensure!(fact.abandoned_total == Some(0), "{fact:?}: nobody has left");
    let start = now();
    let servers: Vec<_> = unread
        .drain(..)
        .chain(read.drain(..))
        .chain(answered.drain(..))
        .map(|(client, server)| {
            drop(client);
            server
        })
        .collect();
    let mut fact = look(sensors, &mut t, addr)?;
    while fact.abandoned_total != Some(8) && start.elapsed() < Duration::from_secs(5) {
        sleep(MS(10));
        fact = look(sensors, &mut t, addr)?;
    }
    ensure!(fact.abandoned_total == Some(8), "{fact:?}: 8 were abandoned");
    ensure!((fact.connections, fact.in_flight) == (Some(1), 1), "{fact:?}: one waits still");
    // Closed unread by its server, a connection is reset, which is the server's own affair.
    drop(servers);
    drop(held);
    let end = now();
    while fact.abandoned_total != Some(9) && end.elapsed() < Duration::from_secs(5) {
        sleep(MS(10));
        fact = look(sensors, &mut t, addr)?;
    }
    ensure!(fact.abandoned_total == Some(9), "{fact:?}: 9 were abandoned");
    Ok(Seen { events: 13, detail: "5 unread, 3 read, 4 answered before they left".to_owned() })
}

/// Connections that come between two searches of open files, and some that wait for accept()
/// first: those that are accepted are seen, each once, until they close.
pub fn newcomers(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    const COUNT: usize = 20;
    let sensors = on(prepared, rung)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    let connect = || -> anyhow::Result<TcpStream> {
        let mut client = TcpStream::connect(addr)?;
        client.write_all(b"question")?;
        Ok(client)
    };
    let first = connect()?;
    let (_first, _) = listener.accept()?;
    let mut t = later();
    look(sensors, &mut t, addr)?;
    // A search that has begun ends.
    for _ in 0..TURNS_OF_SEARCH {
        t += TURN_SECS;
        requests(sensors, t);
    }
    let clients = (0..COUNT).map(|_| connect()).collect::<anyhow::Result<Vec<_>>>()?;
    let mut servers = (0..COUNT / 2).map(|_| listener.accept()).collect::<Result<Vec<_>, _>>()?;
    let seen = |fact: &RequestsFact| (fact.connections, fact.in_flight, fact.unread);
    let of = |count: usize| (Some(count as u32 + 1), count as u32 + 1, count as u32 + 1);
    let mut wait_for = |count: usize, what: &str| -> anyhow::Result<()> {
        let mut fact = look_soon(sensors, &mut t, addr)?;
        let before = t;
        // A pass that began before, or that comes before the connections are taken in.
        while seen(&fact) != of(count) && t < before + seen_within_secs() {
            t += TURN_SECS;
            fact = look_soon(sensors, &mut t, addr)?;
        }
        ensure!(seen(&fact) == of(count), "{fact:?}: {} are {what}", count + 1);
        t += TURN_SECS;
        Ok(())
    };
    wait_for(COUNT / 2, "accepted")?;
    servers.extend((0..COUNT / 2).map(|_| listener.accept()).collect::<Result<Vec<_>, _>>()?);
    wait_for(COUNT, "accepted by now")?;
    servers.truncate(COUNT / 4);
    wait_for(COUNT / 4, "open still")?;
    drop((first, clients));
    Ok(Seen { events: COUNT as u64, detail: format!("{COUNT} came, half of them waited") })
}

/// Workers that share a listener, one of which stops with a request, and processes to which a
/// connection is passed or that keep it: the one with the request is named, and not the master.
pub fn stuck_worker(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    /// Passes until it is named: one sees the request, one that it is held, one who holds it.
    const PASSES: u32 = 5;
    let sensors = on(prepared, rung)?;
    let mut server = Workload::start(workload()?.args(["prefork", "--workers=3"]));
    let ask = |what: &[u8]| -> anyhow::Result<TcpStream> {
        let mut client = TcpStream::connect(server.addr())?;
        client.write_all(what)?;
        Ok(client)
    };
    let addr = server.addr();
    let asked_of = |listener: &TcpListener| -> anyhow::Result<(TcpStream, TcpStream)> {
        let mut client = TcpStream::connect(listener.local_addr()?)?;
        client.write_all(b"question")?;
        Ok((client, listener.accept()?.0))
    };
    let (keeps, passes) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
    let (_asked, _kept) = asked_of(&keeps)?;
    let (_asked_too, passed) = asked_of(&passes)?;
    let holder =
        Workload::start(workload()?.arg("hold").stderr(std::os::fd::OwnedFd::from(passed)));
    let mut stops = ask(b"s")?;
    let stopped: serde_json::Value = serde_json::from_str(&server.next_line())?;
    let pid = stopped["pid"].as_u64().context("it says which process stops")? as u32;
    ensure!(pid != server.pid(), "{stopped}: the master takes no requests");
    let mut t = later();
    let mut fact = look(sensors, &mut t, addr)?;
    for _ in 0..PASSES {
        // The others go on.
        for _ in 0..4 {
            let mut client = TcpStream::connect(addr)?;
            client.write_all(b"q")?;
            client.read_exact(&mut [0; 2])?;
        }
        fact = look(sensors, &mut t, addr)?;
        if fact.stuck_pid.is_some() {
            break;
        }
    }
    ensure!(fact.stuck_pid == Some(pid), "{fact:?}: {pid} is stuck");
    ensure!(fact.stuck_us.is_some_and(|us| us >= 500_000), "{fact:?}: it has been for long");
    for (listener, pid) in [(keeps, std::process::id()), (passes, holder.pid())] {
        let mut fact = look(sensors, &mut t, listener.local_addr()?)?;
        for _ in 0..PASSES {
            if fact.stuck_pid.is_none() {
                fact = look(sensors, &mut t, listener.local_addr()?)?;
            }
        }
        ensure!(fact.in_flight == 1 && fact.stuck_pid == Some(pid), "{fact:?}: {pid} holds it");
    }
    stops.write_all(b"more")?;
    Ok(Seen { events: u64::from(PASSES), detail: format!("worker {pid} of {}", server.pid()) })
}
