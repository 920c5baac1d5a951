//! Results of outbound connects, compared with those that programs saw themselves.

use std::{
    fs,
    io::Read as _,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use spillway_agent::{
    bpf::{OUTBOUND_MAX, Probe},
    sense::{CgroupPaths, Hierarchy, OutboundFact, Sensors},
};
use spillway_tests::{Starting, Workload, outbound, own_network, wait_for};

use crate::{
    checks::{NotOffered, Seen},
    listeners::{in_own_namespace, listen, netns_of},
    memory::workload,
    rungs::{Prepared, Rung},
    runner::done,
};

/// Established, refused, timed out, abandoned, under way.
type Ends = [u64; 5];

/// Starts a program that connects to `to` that many times, and returns the results that it reports.
fn connects(to: SocketAddr, count: u64, more: &[&str]) -> anyhow::Result<(Workload, Ends)> {
    let program = begin(to, count, more)?.ready();
    let ends = said(&program.ready)?;
    Ok((program, ends))
}

/// Starts the same program without waiting for its report.
fn begin(to: SocketAddr, count: u64, more: &[&str]) -> anyhow::Result<Starting> {
    let (to, count) = (format!("--to={to}"), format!("--count={count}"));
    Ok(Starting::start(workload()?.args(["connects", &to, &count]).args(more)))
}

fn said(line: &Value) -> anyhow::Result<Ends> {
    let field =
        |name: &str| line[name].as_u64().with_context(|| format!("{name} is missing in {line}"));
    Ok([
        field("established")?,
        field("refused")?,
        field("timed_out")?,
        field("abandoned")?,
        field("pending")?,
    ])
}

fn ends(fact: &OutboundFact) -> Ends {
    let pending = u64::from(fact.pending);
    [
        fact.established_total,
        fact.refused_total,
        fact.timed_out_total,
        fact.abandoned_total,
        pending,
    ]
}

fn find(facts: &[OutboundFact], addr: SocketAddr) -> anyhow::Result<&OutboundFact> {
    let addr = addr.to_string();
    let all: Vec<_> = facts.iter().filter(|fact| *fact.addr == *addr).collect();
    // An earlier check may have had the port. Its process has ended, and has no cgroup any more.
    let lives = |fact: &&&OutboundFact| !fact.cgroup.is_empty();
    let others_end = all.len() > 1 && all.iter().any(|fact| lives(&fact));
    let mut found = all.iter().filter(|fact| !others_end || lives(fact)).copied();
    let fact = found
        .next()
        .with_context(|| format!("{addr} is not reported, but {} others are", facts.len()))?;
    ensure!(found.next().is_none(), "{addr} is reported twice: {facts:?}");
    Ok(fact)
}

/// Returns an address that nothing listens on as long as the descriptor is open.
fn closed(any: &str) -> anyhow::Result<(OwnedFd, SocketAddr)> {
    let any: SocketAddr = any.parse()?;
    let family = if any.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    // SAFETY: socket takes three integers.
    let fd = done(unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the descriptor was just made and nobody else has it.
    let socket = TcpListener::from(unsafe { OwnedFd::from_raw_fd(fd) });
    // SAFETY: sockaddr_in6 is plain data, for which all zeroes is a valid value.
    let mut addr: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
    addr.sin6_family = family as libc::sa_family_t;
    // SAFETY: bind reads an address of this size, which is no shorter than one of IPv4 and lives
    // here. All zeroes is any.
    done(unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const addr).cast(),
            size_of_val(&addr) as libc::socklen_t,
        )
    })?;
    let addr = SocketAddr::new(any.ip(), socket.local_addr()?.port());
    Ok((OwnedFd::from(socket), addr))
}

/// Checks connects of one process that end in each of the five ways, over one family; `through`
/// formats an address for the client.
fn five_ends(
    prepared: &mut Prepared,
    rung: Rung,
    any: &str,
    through: fn(SocketAddr) -> SocketAddr,
) -> anyhow::Result<Seen> {
    let sensors = prepared.sensors(Probe::OutboundConnects, rung)?;
    let server = TcpListener::bind(any)?;
    let (_held, closed) = closed(any)?;
    let v6: &[&str] = if server.local_addr()?.is_ipv6() { &["--v6"] } else { &[] };
    // A full queue drops further connects: they get no answer.
    let full = [listen(0, 1, v6)?, listen(0, 1, v6)?, listen(0, 1, v6)?, listen(0, 1, v6)?];
    let plans = [
        (server.local_addr()?, [20, 0, 0, 0, 0], &["--then=wait"][..]),
        (closed, [0, 7, 0, 0, 0], &["--then=wait"]),
        (full[0].addr(), [0, 0, 3, 0, 0], &["--syn-retries=1"]),
        // Their owner reads the errors before the kernel has closed the sockets.
        (full[3].addr(), [0, 0, 2, 0, 0], &["--syn-retries=1", "--then=spin"]),
        (full[1].addr(), [0, 0, 0, 5, 0], &["--then=close"]),
        (full[2].addr(), [0, 0, 0, 0, 4], &["--then=hold"]),
    ];
    // At the same time: two of them wait for the kernel's retries, which take seconds.
    let begun = plans.map(|(to, plan, how)| (to, plan, begin(through(to), plan.iter().sum(), how)));
    let mut programs = Vec::new();
    for (to, plan, begun) in begun {
        let program = begun?.ready();
        let said = said(&program.ready)?;
        ensure!(
            said == plan,
            "to {to} (established, refused, timed out, abandoned, under way) are {said:?}, not \
             {plan:?}"
        );
        programs.push((program, to, plan));
    }
    let facts = outbound(sensors, 0.0);
    let cgroups = CgroupPaths::new(Hierarchy::detect());
    for (program, to, plan) in &programs {
        // The listener connects to itself once.
        let own = full.iter().any(|listener| listener.addr() == *to);
        let mut truth = *plan;
        truth[0] += u64::from(own);
        let fact = find(&facts, *to)?;
        ensure!(ends(fact) == truth, "{}: {:?}, expected {truth:?}", fact.addr, ends(fact));
        let owner = (fact.netns, fact.pid, fact.comm.as_ref(), fact.cgroup.clone());
        let expected =
            (netns_of("self")?, program.pid(), "workload", cgroups.of_process(program.pid()));
        ensure!(
            owner == expected,
            "{}: (netns, pid, comm, cgroup) is {owner:?}, expected {expected:?}",
            fact.addr
        );
    }
    let again = outbound(sensors, 1.0);
    let reported: Vec<_> = programs
        .iter()
        .filter(|(_, to, _)| find(&again, *to).is_ok())
        .map(|(_, to, _)| *to)
        .collect();
    ensure!(
        reported == [full[2].addr()],
        "{reported:?} is reported again, expected only {}",
        full[2].addr()
    );
    // Connects under way are abandoned when their process ends.
    programs.pop();
    let last = outbound(sensors, 2.0);
    let fact = find(&last, full[2].addr())?;
    ensure!(
        ends(fact) == [1, 0, 0, 4, 0],
        "after its end {:?}, expected [1, 0, 0, 4, 0]",
        ends(fact)
    );
    Ok(Seen {
        events: 42,
        detail: "20 established, 7 refused, 3 and 2 timed out, 5 and 4 abandoned".to_owned(),
    })
}

/// Checks connects over IPv4.
pub fn how_they_end(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    five_ends(prepared, rung, "127.0.0.1:0", |to| to)
}

/// Checks connects over IPv6.
pub fn over_ipv6(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    five_ends(prepared, rung, "[::1]:0", |to| to)
}

/// Checks connects to IPv4 addresses through IPv6 sockets: reported as IPv4.
pub fn mapped(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    five_ends(prepared, rung, "127.0.0.1:0", |to| match to {
        SocketAddr::V4(v4) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        v6 => v6,
    })
}

/// Checks that successive processes of one cgroup are one workload, whose totals never decrease.
pub fn workers(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    const WORKERS: u64 = 4;
    const EACH: u64 = 5;
    let sensors = prepared.sensors(Probe::OutboundConnects, rung)?;
    let server = TcpListener::bind("127.0.0.1:0")?;
    let to = server.local_addr()?;
    for generation in 1..=3_u32 {
        let workers =
            (0..WORKERS).map(|_| connects(to, EACH, &[])).collect::<anyhow::Result<Vec<_>>>()?;
        // Longer than the kernel keeps unchanged entries, so that the next generation finds none of
        // this one.
        let facts = outbound(sensors, 100.0 * f64::from(generation));
        let fact = find(&facts, to)?;
        let truth = [u64::from(generation) * WORKERS * EACH, 0, 0, 0, 0];
        ensure!(
            ends(fact) == truth,
            "generation {generation}: {:?}, expected {truth:?}",
            ends(fact)
        );
        let pids: Vec<_> = workers.iter().map(|(worker, _)| worker.pid()).collect();
        ensure!(pids.contains(&fact.pid), "pid {} is not one of {pids:?}", fact.pid);
    }
    Ok(Seen {
        events: 3 * WORKERS * EACH,
        detail: format!("three generations of {WORKERS} workers"),
    })
}

/// Checks connects inside a network namespace of its own, to a port that nothing listens on.
pub fn other_namespace(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    let sensors = prepared.sensors(Probe::OutboundConnects, rung)?;
    let to: SocketAddr = "127.0.0.1:9".parse()?;
    let program =
        in_own_namespace(workload()?.args(["connects", "--count=6", "--to", &to.to_string()]))?;
    let said = said(&program.ready)?;
    ensure!(said == [0, 6, 0, 0, 0], "{said:?} inside, expected six refusals");
    let facts = outbound(sensors, 0.0);
    let netns = netns_of(&program.pid().to_string())?;
    ensure!(netns != netns_of("self")?, "the workload is in this namespace");
    let fact =
        facts.iter().find(|fact| fact.netns == netns).context("the namespace is not reported")?;
    ensure!(
        (ends(fact), fact.addr.as_ref()) == (said, "127.0.0.1:9"),
        "saw {fact:?}, expected {said:?}"
    );
    Ok(Seen { events: 6, detail: format!("netns {netns}") })
}

/// Checks connects for which no local port is free: nothing was sent, and the server is not at
/// fault.
pub fn no_local_port(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    const PORTS: u64 = 4;
    const MORE: u64 = 6;
    let sensors = prepared.sensors(Probe::OutboundConnects, rung)?;
    for any in ["127.0.0.1:5000", "[::1]:5000"] {
        let inside = thread::spawn(move || {
            let netns = own_network()
                .map_err(|error| NotOffered(format!("cannot make a network namespace: {error}")))?;
            fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40003")?;
            let server = TcpListener::bind(any)?;
            let to = server.local_addr()?;
            let held = (0..PORTS).map(|_| TcpStream::connect(to)).collect::<Result<Vec<_>, _>>()?;
            for _ in 0..MORE {
                let error = TcpStream::connect(to).err().context("a local port was left")?;
                ensure!(
                    error.raw_os_error() == Some(libc::EADDRNOTAVAIL),
                    "unexpected error: {error}"
                );
            }
            drop(held);
            anyhow::Ok((netns, to))
        });
        let (netns, to) =
            inside.join().map_err(|_| anyhow::anyhow!("the connecting thread panicked"))??;
        let facts = outbound(sensors, 0.0);
        // By the address too: an earlier namespace may have had the same number.
        let fact = facts
            .iter()
            .find(|fact| fact.netns == netns && *fact.addr == *to.to_string())
            .with_context(|| format!("no connects to {to} in that namespace: {facts:?}"))?;
        let seen = (ends(fact), fact.no_local_port_total);
        let truth = ([PORTS, 0, 0, 0, 0], Some(MORE));
        ensure!(seen == truth, "{any}: (ends, without a port) is {seen:?}, expected {truth:?}");
    }
    Ok(Seen {
        events: 2 * MORE,
        detail: format!("{MORE} over IPv4 and {MORE} over IPv6 had no local port"),
    })
}

/// Checks a connect that an ICMP error ends, as sent by a router that cannot reach the host.
pub fn unreachable_host(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    let sensors = prepared.sensors(Probe::OutboundConnects, rung)?;
    let full = listen(0, 1, &[])?;
    let mut tcp = raw(libc::IPPROTO_TCP)?;
    let (program, said) = connects(full.addr(), 1, &["--then=hold"])?;
    ensure!(said == [0, 0, 0, 0, 1], "{said:?}, expected one under way");
    // ICMP: destination unreachable, host unreachable; then the head of the packet that it answers.
    let mut error = vec![3, 1, 0, 0, 0, 0, 0, 0];
    let syn = wait_for(Duration::from_secs(10), || syn_to(&mut tcp, full.addr().port()));
    error.extend(syn.context("no SYN was seen")?);
    let sum = checksum(&error);
    error[2..4].copy_from_slice(&sum.to_be_bytes());
    let icmp = raw(libc::IPPROTO_ICMP)?;
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(Ipv4Addr::LOCALHOST.octets()) },
        sin_zero: [0; 8],
    };
    // SAFETY: sendto reads the bytes and an address of the size that it is told, which all live
    // here.
    let sent = unsafe {
        let size = size_of_val(&address) as libc::socklen_t;
        libc::sendto(
            icmp.as_raw_fd(),
            error.as_ptr().cast(),
            error.len(),
            0,
            (&raw const address).cast(),
            size,
        )
    };
    ensure!(
        sent == error.len() as isize,
        "cannot send the ICMP error: {}",
        std::io::Error::last_os_error()
    );
    let mut t = 0.0;
    let seen = wait_for(Duration::from_secs(5), || {
        t += 1.0;
        find(&outbound(sensors, t), full.addr()).ok().map(ends).filter(|ends| ends[4] == 0)
    });
    ensure!(seen == Some([1, 1, 0, 0, 0]), "saw {seen:?}, expected [1, 1, 0, 0, 0]");
    drop(program);
    Ok(Seen { events: 1, detail: "counted as refused".to_owned() })
}

fn raw(protocol: i32) -> anyhow::Result<fs::File> {
    let flags = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socket takes three integers.
    let fd = unsafe { libc::socket(libc::AF_INET, flags, protocol) };
    if fd < 0 {
        return Err(NotOffered(format!(
            "cannot open a raw socket: {}",
            std::io::Error::last_os_error()
        ))
        .into());
    }
    // SAFETY: the descriptor was just made and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into())
}

/// Returns the IP header and eight more bytes of the next SYN packet to this port.
fn syn_to(tcp: &mut fs::File, port: u16) -> Option<Vec<u8>> {
    const SYN_ALONE: u8 = 2;
    let mut packet = [0; 256];
    while let Ok(length) = tcp.read(&mut packet) {
        let head = usize::from(packet[0] & 15) * 4;
        let is = length >= head + 14 && packet[head + 2..head + 4] == port.to_be_bytes();
        if is && packet[head + 13] & 0x3F == SYN_ALONE {
            return Some(packet[..head + 8].to_vec());
        }
    }
    None
}

/// Returns the Internet checksum.
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    let sum = (sum & 0xFFFF) + (sum >> 16);
    !((sum & 0xFFFF) + (sum >> 16)) as u16
}

/// Checks more destinations than the map has room for: kept and reported entries stay bounded, and
/// every connect that is not counted is reported as lost.
pub fn full_map(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    const MORE: u64 = 1_000;
    /// Other connects on a host meanwhile.
    const OTHERS: u64 = 64;
    let sensors = prepared.sensors(Probe::OutboundConnects, rung)?;
    let room = u64::from(OUTBOUND_MAX);
    let (_held, closed) = closed("127.0.0.1:0")?;
    let first = SocketAddr::new([127, 16, 0, 0].into(), closed.port());
    let (program, truth) = connects(first, 1, &[&format!("--hosts={}", room + MORE)])?;
    ensure!(truth == [0, room + MORE, 0, 0, 0], "{truth:?}, expected {} refusals", room + MORE);
    let reported = outbound(sensors, 0.0).len() as u64;
    let [full, left_out] = losses(sensors);
    ensure!(reported <= 256, "{reported} are reported at once");
    ensure!((MORE..=MORE + OTHERS).contains(&full), "{full} found the map full, expected {MORE}");
    ensure!(
        (reported + left_out).abs_diff(room) <= OTHERS,
        "{reported} are reported and {left_out} left out of {room}"
    );
    // Unchanged entries make room.
    outbound(sensors, 1.0);
    let (again, said) = connects(closed, 3, &[])?;
    let facts = outbound(sensors, 2.0);
    ensure!(
        ends(find(&facts, closed)?) == said,
        "saw {:?}, expected {said:?}",
        find(&facts, closed)?
    );
    ensure!(
        losses(sensors)[0] == full,
        "the map is still full: {} found no room",
        losses(sensors)[0] - full
    );
    drop((again, program));
    Ok(Seen {
        events: room + MORE,
        detail: format!("{full} found the map full, {reported} reported at once"),
    })
}

/// Returns how many connects found the map full, and how many entries were left out of the report.
fn losses(sensors: &mut Sensors) -> [u64; 2] {
    ["outbound_map_full", "outbound_left_out"].map(|name| {
        sensors.lost().totals().find(|(what, _)| *what == name).map_or(0, |(_, total)| total)
    })
}
