//! Wait of connections for accept(), compared with a server whose delays are known.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    sync::mpsc,
    thread::{self, sleep},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use aya::sys::{Stats, enable_stats};
use spillway_agent::{
    bpf::Probe,
    sense::{ListenerFact, Sensors, TcpListenerSensor},
};
use spillway_tests::{listeners, program_costs, recursion_misses};

use crate::{
    checks::{NotOffered, Seen},
    guest,
    rungs::{Prepared, Rung, fresh},
    runner::{done, now},
};

/// Maximum error of a wait.
const SLACK_US: u64 = 1_000;

/// Maximum time until a connected client waits for accept(), on the slowest emulated kernel.
const QUEUED_WITHIN: Duration = Duration::from_secs(10);

/// Returns the facts of all listeners at an address.
fn of(sensors: &mut Sensors, addr: SocketAddr) -> Vec<ListenerFact> {
    let addr = addr.to_string();
    listeners(sensors, 0.0).into_iter().filter(|fact| *fact.addr == *addr).collect()
}

/// Bounds of the waits of some connections, in microseconds, sorted. Each began between connect()
/// and the listener's readiness and ended within accept(), and an emulated kernel is slow at all
/// three.
struct Waits {
    least: Vec<u64>,
    most: Vec<u64>,
}

impl Waits {
    /// Returns bounds of the 99th percentile: sorting keeps bounds.
    fn p99(&self) -> (u64, u64) {
        let index = self.least.len() - 1 - self.least.len() / 100;
        (self.least[index], self.most[index])
    }

    fn mean(&self) -> (u64, u64) {
        let mean = |waits: &[u64]| waits.iter().sum::<u64>() / waits.len() as u64;
        (mean(&self.least), mean(&self.most))
    }
}

/// Makes connections that wait that long before they are accepted.
fn delayed(listener: &TcpListener, count: usize, delay: Duration) -> anyhow::Result<Waits> {
    let addr = listener.local_addr()?;
    let mut waits = Waits { least: Vec::new(), most: Vec::new() };
    for _ in 0..count {
        let before = now();
        let client = TcpStream::connect(addr).context("cannot reach the server")?;
        // The kernel may be late with the last packet of the handshake, for which the client does
        // not wait.
        wait_until_queued(listener)?;
        let after = now();
        sleep(delay);
        waits.least.push(after.elapsed().as_micros() as u64);
        let accepted = listener.accept().context("accept failed")?;
        waits.most.push(before.elapsed().as_micros() as u64);
        drop((client, accepted));
    }
    waits.least.sort_unstable();
    waits.most.sort_unstable();
    Ok(waits)
}

/// Waits until a connection waits for accept().
fn wait_until_queued(listener: &TcpListener) -> anyhow::Result<()> {
    let mut polled = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd is read and written through the pointer, which lives until poll returns.
    let ready = unsafe { libc::poll(&raw mut polled, 1, QUEUED_WITHIN.as_millis() as i32) };
    ensure!(
        ready == 1,
        "no connection waits after {} s: {}",
        QUEUED_WITHIN.as_secs(),
        io::Error::last_os_error()
    );
    Ok(())
}

/// Checks that a figure is within its bounds; returns by how much it is outside.
fn agree(what: &str, seen: Option<u64>, (least, most): (u64, u64)) -> anyhow::Result<u64> {
    let seen = seen.with_context(|| format!("{what} is missing"))?;
    let off = least.saturating_sub(seen).max(seen.saturating_sub(most));
    ensure!(off <= SLACK_US, "{what}: {seen} µs, expected {least} to {most}");
    Ok(off)
}

/// Compares count, mean and 99th percentile with the truth.
fn held_to_truth(fact: &ListenerFact, waits: &Waits) -> anyhow::Result<String> {
    let count = waits.least.len() as u64;
    ensure!(fact.accepted_total == Some(count), "counted {:?} of {count}", fact.accepted_total);
    // Accurate to 1/32, which is more than the slack if connections wait for long on a busy
    // machine.
    let (least, most) = waits.p99();
    let p99 = agree("p99", fact.sojourn_p99_us, (least - least / 32, most + most / 32))?;
    let mean = agree("mean", fact.sojourn_mean_us, waits.mean())?;
    // A bucket is reported by its lower bound.
    let min = agree(
        "shortest",
        fact.sojourn_min_us,
        (waits.least[0] - waits.least[0] / 16, waits.most[0]),
    )?;
    Ok(format!("p99 {p99} µs outside {least} to {most}, mean {mean}, shortest {min}"))
}

fn one(facts: &[ListenerFact]) -> anyhow::Result<&ListenerFact> {
    match facts {
        [fact] => Ok(fact),
        _ => anyhow::bail!("{} listeners seen, expected one", facts.len()),
    }
}

fn delays(
    prepared: &mut Prepared,
    rung: Rung,
    any: &str,
    count: usize,
    delay: Duration,
) -> anyhow::Result<Seen> {
    let sensors = prepared.sensors(Probe::AcceptSojourn, rung)?;
    let listener = TcpListener::bind(any)?;
    let waits = delayed(&listener, count, delay)?;
    let detail = held_to_truth(one(&of(sensors, listener.local_addr()?))?, &waits)?;
    Ok(Seen { events: count as u64, detail })
}

/// Checks a server that accepts after a known sleep.
pub fn known_delay(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    delays(prepared, rung, "127.0.0.1:0", 100, Duration::from_millis(20))
}

/// Checks the same over IPv6.
pub fn over_ipv6(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    delays(prepared, rung, "[::1]:0", 30, Duration::from_millis(10))
}

/// Checks more threads than there are return probes, which sleep in accept() on an empty queue
/// until connections arrive.
pub fn blocking_accept(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    const THREADS: usize = 40;
    const ASLEEP: Duration = Duration::from_millis(500);
    let sensors = prepared.sensors(Probe::AcceptSojourn, rung)?;
    let misses = |sensors: &Sensors| recursion_misses(sensors.bpf(), "accept_");
    let before = misses(sensors)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    let (sender, accepted) = mpsc::channel();
    for _ in 0..THREADS {
        let (listener, sender) = (listener.try_clone()?, sender.clone());
        thread::spawn(move || sender.send(listener.accept()));
    }
    sleep(ASLEEP);
    let start = now();
    let clients = (0..THREADS).map(|_| TcpStream::connect(addr)).collect::<io::Result<Vec<_>>>()?;
    for _ in 0..THREADS {
        accepted.recv_timeout(Duration::from_secs(20)).context("a thread is still asleep")??;
    }
    let took = start.elapsed();
    let facts = of(sensors, addr);
    let fact = facts.first().context("the listener is missing")?;
    // A kernel that preempts the program leaves out calls on that CPU until it has ended.
    let missed = misses(sensors)? - before;
    ensure!(
        fact.accepted_total.is_some_and(|counted| counted + missed == THREADS as u64),
        "counted {:?} of {THREADS}; {missed} left out by the kernel",
        fact.accepted_total
    );
    let p99 = fact.sojourn_p99_us.context("the wait is missing")?;
    // The sleep before is no wait: the queue was empty.
    ensure!(
        u128::from(p99) <= took.as_micros() * 17 / 16,
        "a wait of {p99} µs within {took:?}, after {ASLEEP:?} of sleep"
    );
    drop(clients);
    Ok(Seen { events: THREADS as u64, detail: format!("{THREADS} sleepers, p99 {p99} µs") })
}

/// Returns sockets that listen at one address of the kernel's choice.
pub fn shared_listeners(count: usize) -> anyhow::Result<(SocketAddr, Vec<TcpListener>)> {
    let first = reuseport("127.0.0.1:0".parse()?)?;
    let addr = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..count {
        sockets.push(reuseport(addr)?);
    }
    Ok((addr, sockets))
}

/// Checks four sockets on one port, of which one accepts late: each has its own waits.
pub fn shared_port(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    const SOCKETS: usize = 4;
    const LATE: Duration = Duration::from_millis(200);
    let sensors = prepared.sensors(Probe::AcceptSojourn, rung)?;
    let (addr, sockets) = shared_listeners(SOCKETS)?;
    for socket in &sockets {
        socket.set_nonblocking(true)?;
    }
    let take = |socket: &TcpListener| std::iter::from_fn(|| socket.accept().ok()).count() as u64;
    let (mut clients, mut taken) = (Vec::new(), vec![0; SOCKETS]);
    let start = now();
    for _ in 0..64 {
        clients.push(TcpStream::connect(addr)?);
        for (socket, taken) in sockets.iter().zip(&mut taken).skip(1) {
            *taken += take(socket);
        }
    }
    let prompt = start.elapsed();
    sleep(LATE);
    taken[0] = take(&sockets[0]);
    ensure!(
        taken.iter().all(|&count| count > 0),
        "the kernel gave the sockets {taken:?} connections"
    );
    let mut seen: Vec<_> =
        of(sensors, addr).iter().map(|fact| (fact.accepted_total, fact.sojourn_min_us)).collect();
    seen.sort_by_key(|&(_, min)| min);
    let late = seen.pop().context("no listener is seen")?;
    let late_us = LATE.as_micros() as u64;
    ensure!(
        late.0 == Some(taken[0]),
        "counted {:?} on the late socket, expected {}",
        late.0,
        taken[0]
    );
    ensure!(
        late.1.is_some_and(|min| min + min / 8 >= late_us),
        "the late socket's shortest wait is {:?} µs",
        late.1
    );
    let mut rest: Vec<_> = seen.iter().map(|&(accepted, _)| accepted.unwrap_or(0)).collect();
    let mut truth = taken[1..].to_vec();
    rest.sort_unstable();
    truth.sort_unstable();
    ensure!(rest == truth, "counted {rest:?} on the others, expected {truth:?}");
    let slowest = seen.last().and_then(|&(_, min)| min).unwrap_or(u64::MAX);
    ensure!(
        u128::from(slowest) <= prompt.as_micros(),
        "a prompt socket's shortest wait is {slowest} µs"
    );
    Ok(Seen {
        events: 64,
        detail: format!("{taken:?} connections, the late ones waited {:?} µs and more", late.1),
    })
}

/// Checks a network namespace of its own in which every handshake is answered with a SYN cookie.
pub fn syn_cookies(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    let sensors = prepared.sensors(Probe::AcceptSojourn, rung)?;
    let inside =
        thread::spawn(|| -> anyhow::Result<(TcpListener, Waits, BTreeMap<String, u64>)> {
            // SAFETY: unshare takes a number and touches no memory of ours; it concerns this thread
            // alone.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return Err(NotOffered(format!(
                    "cannot make a network namespace: {}",
                    io::Error::last_os_error()
                ))
                .into());
            }
            guest::loopback_up()?;
            fs::write("/proc/sys/net/ipv4/tcp_syncookies", "2")
                .context("cannot force SYN cookies")?;
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let waits = delayed(&listener, 30, Duration::from_millis(10))?;
            Ok((listener, waits, netstat()?))
        });
    let (listener, waits, counters) =
        inside.join().map_err(|_| anyhow::anyhow!("the thread panicked"))??;
    let cookies = counters.get("SyncookiesRecv").copied().unwrap_or(0);
    ensure!(cookies >= 30, "{cookies} connections by SYN cookie, expected 30");
    let facts = of(sensors, listener.local_addr()?);
    let detail = held_to_truth(one(&facts)?, &waits)?;
    Ok(Seen { events: 30, detail: format!("{cookies} cookies, {detail}") })
}

/// Checks that connections that die in the queue, and listeners that close, leave nothing behind.
pub fn nothing_stays(_: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    const ROUNDS: usize = 50;
    let sensors = fresh(Probe::AcceptSojourn, rung)?;
    let tcp = sensors.get::<TcpListenerSensor>();
    let probes =
        tcp.and_then(TcpListenerSensor::probes).context("cannot iterate over listeners")?;
    let held = || {
        let sojourns =
            probes.sojourns.as_ref().map_or(0, |map| map.keys().filter_map(Result::ok).count());
        (probes.known.keys().filter_map(Result::ok).count(), sojourns)
    };
    let before = held();
    for _ in 0..ROUNDS {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let addr = listener.local_addr()?;
        let clients = (0..10).map(|_| TcpStream::connect(addr)).collect::<io::Result<Vec<_>>>()?;
        listener.accept()?;
        drop(clients);
    }
    let after = held();
    ensure!(
        after == before,
        "(listeners, histograms) were {before:?} and are {after:?} after {ROUNDS} that closed"
    );
    // A histogram that exists as long as its listener.
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let _client = TcpStream::connect(listener.local_addr()?)?;
    listener.accept()?;
    ensure!(
        held() == (before.0 + 1, before.1 + 1),
        "a listener that accepts has no histogram: {before:?}, {:?}",
        held()
    );
    Ok(Seen {
        events: (ROUNDS * 10) as u64,
        detail: format!("{} connections, {ROUNDS} listeners", ROUNDS * 10),
    })
}

/// Measures the cost of following accept() per connection, as a multiple of the cost of reading a
/// listener: emulated nanoseconds mean nothing, and the bench measures the latter on hardware.
pub fn cost(_: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    const CONNECTIONS: u64 = 500;
    let sensors = fresh(Probe::AcceptSojourn, rung)?;
    let tcp = sensors.get::<TcpListenerSensor>();
    let probes =
        tcp.and_then(TcpListenerSensor::probes).context("cannot iterate over listeners")?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let connect = || -> anyhow::Result<()> {
        let client = TcpStream::connect(listener.local_addr()?)?;
        drop((listener.accept()?, client));
        io::copy(&mut probes.scan.open()?, &mut io::sink())?;
        Ok(())
    };
    // An emulator first translates new code; that is not counted.
    (0..CONNECTIONS / 10).try_for_each(|_| connect())?;
    let _counting =
        enable_stats(Stats::RunTime).context("the kernel does not count what programs cost")?;
    (0..CONNECTIONS).try_for_each(|_| connect())?;
    let costs = program_costs(sensors.bpf())?;
    let of = |is: fn(&str) -> bool| {
        costs.iter().filter(|(name, ..)| is(name)).map(|(_, nanos, _)| nanos).sum::<f64>()
    };
    // A pass ends with a call that has no listener.
    let (accept, scan) =
        (of(|name| name.starts_with("accept_")), of(|name| name == "scan_listeners") * 2.0);
    ensure!(accept > 0.0 && scan > 0.0, "not every program ran: {costs:?}");
    Ok(Seen {
        events: CONNECTIONS,
        detail: format!("{:.2} times a read of a listener", accept / scan),
    })
}

/// Returns the extended TCP counters of this thread's network namespace.
fn netstat() -> anyhow::Result<BTreeMap<String, u64>> {
    let text = fs::read_to_string("/proc/thread-self/net/netstat")?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
    Ok(names
        .split(' ')
        .map(str::to_owned)
        .zip(values.split(' ').filter_map(|value| value.parse().ok()))
        .collect())
}

/// Returns a listener that shares its port; std sets no options before it binds.
fn reuseport(addr: SocketAddr) -> anyhow::Result<TcpListener> {
    let SocketAddr::V4(v4) = addr else { anyhow::bail!("{addr} is not IPv4") };
    // SAFETY: socket takes three integers.
    let fd =
        done(unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the descriptor was just made and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let on: libc::c_int = 1;
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: v4.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
        sin_zero: [0; 8],
    };
    // SAFETY: each call reads a value of the size that it is told, which lives here, and the
    // descriptor is open.
    unsafe {
        let size = size_of_val(&on) as libc::socklen_t;
        done(libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_REUSEPORT,
            (&raw const on).cast(),
            size,
        ))?;
        let size = size_of_val(&address) as libc::socklen_t;
        done(libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size))?;
        done(libc::listen(socket.as_raw_fd(), 128))?;
    }
    Ok(TcpListener::from(socket))
}
