//! Accept queues, compared with queues of known depth and age, and with `sock_diag`.

use std::{
    fs,
    net::SocketAddr,
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    process::Command,
    thread::sleep,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use spillway_agent::{
    bpf::Probe,
    sense::{Hierarchy, ListenerFact, Sensors},
};
use spillway_tests::{OwnCgroup, Workload, listeners, wait_for};

use crate::{
    checks::{NotOffered, Seen},
    guest,
    memory::workload,
    rungs::{Prepared, Rung},
    runner::now,
};

pub fn listen(backlog: u32, pending: u32, more: &[&str]) -> anyhow::Result<Workload> {
    let (backlog, pending) = (format!("--backlog={backlog}"), format!("--pending={pending}"));
    Ok(Workload::start(workload()?.args(["listen", &backlog, &pending]).args(more)))
}

fn find(facts: &[ListenerFact], addr: SocketAddr) -> anyhow::Result<&ListenerFact> {
    let addr = addr.to_string();
    facts
        .iter()
        .find(|fact| *fact.addr == *addr)
        .with_context(|| format!("no listener {addr} in {facts:?}"))
}

pub fn netns_of(process: &str) -> anyhow::Result<u32> {
    let path = format!("/proc/{process}/ns/net");
    Ok(fs::metadata(&path).with_context(|| format!("cannot read {path}"))?.ino() as u32)
}

/// Checks depth, limit, owner and namespace, over IPv4 and IPv6; a closed listener is not seen.
pub fn depth_and_owner(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    let before = listen(8, 2, &[])?;
    let sensors = prepared.sensors(Probe::AcceptQueue, rung)?;
    let (v4, v6) = (listen(16, 5, &[])?, listen(32, 3, &["--v6"])?);
    let facts = listeners(sensors, 0.0);
    for (listener, backlog, backlog_max) in [(&before, 2, 8), (&v4, 5, 16), (&v6, 3, 32)] {
        let fact = find(&facts, listener.addr())?;
        let truth = (backlog, backlog_max, Some(listener.pid()), netns_of("self")?, Some(0));
        let seen = (fact.backlog, fact.backlog_max, fact.pid, fact.netns, fact.overflows_total);
        ensure!(
            seen == truth,
            "{}: (depth, limit, pid, netns, overflows) {seen:?} were seen, {truth:?} are true",
            fact.addr
        );
    }
    let addr = v6.addr();
    v6.stop();
    let after = listeners(sensors, 0.1);
    ensure!(find(&after, addr).is_err(), "{addr} is closed but still seen");
    Ok(Seen {
        events: facts.len() as u64,
        detail: "one from before, IPv4, IPv6, one closed".to_owned(),
    })
}

/// Compares all listeners with those that `sock_diag` shows.
pub fn as_sock_diag(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    let bpf = prepared.sensors(Probe::AcceptQueue, rung)?;
    let mut netlink = Sensors::without_bpf("this check compares two rungs");
    let held = [listen(4, 0, &[])?, listen(16, 16, &[])?, listen(64, 40, &["--v6"])?];
    let (seen, truth) = (listeners(bpf, 0.0), listeners(&mut netlink, 0.0));
    for listener in &held {
        let key = |fact: &ListenerFact| {
            (
                fact.addr.clone(),
                fact.netns,
                fact.backlog,
                fact.backlog_max,
                fact.pid,
                fact.cgroup.clone(),
            )
        };
        let (seen, truth) =
            (key(find(&seen, listener.addr())?), key(find(&truth, listener.addr())?));
        ensure!(seen == truth, "saw {seen:?}, but sock_diag shows {truth:?}");
    }
    // A listener that existed before, and that no process here has open, can be seen only by
    // sock_diag.
    let held = |fact: &&ListenerFact| fact.pid.is_some();
    let unseen: Vec<_> = truth
        .iter()
        .filter(held)
        .filter(|fact| !seen.iter().any(|other| other.addr == fact.addr))
        .collect();
    ensure!(unseen.is_empty(), "only sock_diag shows {unseen:?}");
    Ok(Seen {
        events: seen.len() as u64,
        detail: format!("{} of {} listeners", seen.len(), truth.len()),
    })
}

/// Of include/net/tcp_states.h.
const TCP_LISTEN: u16 = 10;

/// Checks sockets that are listed without entering their namespace: a listener here and one
/// elsewhere, with their queues and owners.
pub fn listed(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    let sensors = prepared.sensors(Probe::AcceptQueue, rung)?;
    let list = sensors.socket_list().context("no sockets are listed")?;
    let here = listen(8, 2, &[])?;
    let inside = in_own_namespace(workload()?.args(["listen", "--backlog=16", "--pending=4"]))?;
    let mut samples = Vec::new();
    let rest = list.read(|sample| samples.push(sample))?;
    ensure!(rest == 0, "{rest} bytes of an incomplete sample");
    for (listener, backlog, backlog_max) in [(&here, 2, 8), (&inside, 4, 16)] {
        let (pid, port) = (listener.pid(), listener.addr().port());
        let netns = netns_of(&pid.to_string())?;
        let key = (pid, port, TCP_LISTEN);
        let sample = samples
            .iter()
            .find(|sample| (sample.pid, sample.port, sample.state) == key)
            .with_context(|| format!("no listener {port} in {samples:?}"))?;
        let seen = (sample.netns, sample.backlog, sample.backlog_max, sample.in_its_netns);
        let truth = (netns, backlog, backlog_max, 1);
        ensure!(
            seen == truth,
            "(netns, depth, limit, in its netns) {seen:?} were listed, {truth:?} are true"
        );
        let inode = format!("socket:[{}]", sample.inode);
        let files = fs::read_dir(format!("/proc/{pid}/fd"))?.flatten();
        let mut targets = files.filter_map(|file| fs::read_link(file.path()).ok());
        ensure!(
            targets.any(|target| *target.as_os_str() == *inode),
            "pid {pid} does not have {inode} open"
        );
    }
    let detail = "one here, one in a namespace of its own".to_owned();
    Ok(Seen { events: samples.len() as u64, detail })
}

/// Checks a listener in a network namespace and a cgroup of its own, as in a container.
pub fn in_container(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    let (Hierarchy::V1 { mount, .. } | Hierarchy::V2 { mount, .. }) = Hierarchy::detect() else {
        return Err(NotOffered("no cgroup file system is mounted".to_owned()).into());
    };
    let cgroup = OwnCgroup::make(&mount, "container").map_err(NotOffered::from)?;
    let sensors = prepared.sensors(Probe::AcceptQueue, rung)?;
    let mut command = workload()?;
    let inside =
        in_own_namespace(cgroup.admit(command.args(["listen", "--backlog=16", "--pending=4"]))?)?;
    let facts = listeners(sensors, 0.0);
    let fact = find(&facts, inside.addr())?;
    let netns = netns_of(&inside.pid().to_string())?;
    ensure!(netns != netns_of("self")?, "the workload is in this namespace");
    let (seen, truth) = (
        (fact.netns, fact.backlog, fact.backlog_max, fact.pid),
        (netns, 4, 16, Some(inside.pid())),
    );
    ensure!(seen == truth, "(netns, depth, limit, pid) {seen:?} were seen, {truth:?} are true");
    ensure!(
        *fact.cgroup == *cgroup.path,
        "the cgroup is {:?}, expected {:?}",
        fact.cgroup,
        cgroup.path
    );
    Ok(Seen { events: facts.len() as u64, detail: format!("netns {netns}, {}", cgroup.path) })
}

/// Starts a workload in a network namespace of its own, whose loopback interface is up.
pub fn in_own_namespace(command: &mut Command) -> anyhow::Result<Workload> {
    let enter = || {
        // SAFETY: unshare takes a number and touches no memory of ours.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
        guest::loopback_up()
    };
    // SAFETY: geteuid takes nothing, cannot fail and touches no memory.
    if unsafe { libc::geteuid() } != 0 {
        return Err(NotOffered("a network namespace needs root".to_owned()).into());
    }
    // SAFETY: between fork and exec the closure makes system calls alone and does not allocate.
    Ok(Workload::start(unsafe { command.pre_exec(enter) }))
}

/// Checks the wait of the queue's head.
pub fn age_of_the_head(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    ages(prepared.sensors(Probe::AcceptQueue, rung)?)
}

/// Checks the same on the rung that does not follow accept(): only the head is then timed.
pub fn head_alone(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    let sensors = prepared.sensors(Probe::AcceptSojourn, rung)?;
    let queue = listen(8, 1, &[])?;
    let facts = listeners(sensors, 0.0);
    let fact = find(&facts, queue.addr())?;
    ensure!(fact.sojourn_mean_us.is_none(), "accept() is followed: {fact:?}");
    ages(sensors)
}

fn ages(sensors: &mut Sensors) -> anyhow::Result<Seen> {
    const SLACK: Duration = Duration::from_millis(1);
    let asked = now();
    let queue = listen(8, 3, &[])?;
    let ready = now();
    let mut furthest = Duration::ZERO;
    for _ in 0..3 {
        sleep(Duration::from_millis(300));
        let oldest = ready.elapsed();
        let facts = listeners(sensors, asked.elapsed().as_secs_f64());
        let newest = asked.elapsed();
        let seen =
            find(&facts, queue.addr())?.oldest_wait_us.context("the head's age is missing")?;
        let seen = Duration::from_micros(seen);
        ensure!(
            seen + SLACK >= oldest && seen <= newest + SLACK,
            "a wait of {seen:?}, expected {oldest:?} to {newest:?}"
        );
        furthest = furthest.max(oldest.saturating_sub(seen)).max(seen.saturating_sub(newest));
    }
    let empty = listen(8, 0, &[])?;
    let age =
        find(&listeners(sensors, asked.elapsed().as_secs_f64()), empty.addr())?.oldest_wait_us;
    ensure!(age == Some(0), "an empty queue has the age {age:?}");
    Ok(Seen {
        events: 4,
        detail: format!(
            "three reads, at most {:.1} ms out of bounds",
            furthest.as_secs_f64() * 1e3
        ),
    })
}

/// Checks a queue over its limit: a limit of 2 lets 3 wait, and the handshakes of the other clients
/// are dropped.
pub fn overflows(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    let sensors = prepared.sensors(Probe::AcceptQueue, rung)?;
    let full = listen(2, 8, &[])?;
    let mut seen = None;
    let counted = wait_for(Duration::from_secs(10), || {
        let facts = listeners(sensors, 0.0);
        seen = find(&facts, full.addr()).ok().map(|fact| (fact.backlog, fact.backlog_max));
        find(&facts, full.addr()).ok()?.overflows_total.filter(|&total| total > 0)
    });
    let counted =
        counted.with_context(|| format!("no overflow was counted; (depth, limit) is {seen:?}"))?;
    ensure!(seen == Some((3, 2)), "(depth, limit) is {seen:?}, expected (3, 2)");
    Ok(Seen { events: counted, detail: format!("{counted} overflows") })
}
