//! Accept queues of UNIX listeners, compared with queues of known depth and with `sock_diag`.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use spillway_agent::{
    bpf::Probe,
    sense::{ListenerFact, Sensors},
};
use spillway_tests::{Workload, listeners};

use crate::{
    checks::Seen,
    listeners::{in_own_namespace, netns_of},
    memory::workload,
    rungs::{Prepared, Rung},
};

/// Longer than the interval after which listeners are looked up again.
const LATER: f64 = 11.0;

fn listen(name: &str, backlog: u32, pending: u32, more: &[&str]) -> anyhow::Result<Workload> {
    let (backlog, pending) = (format!("--backlog={backlog}"), format!("--pending={pending}"));
    Ok(Workload::start(
        workload()?.args(["unix-listen", "--name", name, &backlog, &pending]).args(more),
    ))
}

/// Returns the facts of the UNIX listeners, `t` seconds into the check.
fn read_listeners(sensors: &mut Sensors, t: f64) -> Vec<ListenerFact> {
    let mut facts = listeners(sensors, t);
    facts.retain(|fact| fact.addr.starts_with("unix:"));
    facts
}

fn find<'a>(facts: &'a [ListenerFact], addr: &str) -> anyhow::Result<&'a ListenerFact> {
    let mut found = facts.iter().filter(|fact| *fact.addr == *addr);
    let fact = found.next().with_context(|| format!("no listener {addr} in {facts:?}"))?;
    ensure!(found.next().is_none(), "{addr} is reported twice: {facts:?}");
    Ok(fact)
}

/// Returns a name that no other check uses.
fn unique(what: &str) -> String {
    format!("spillway-check-{}-{what}", std::process::id())
}

/// File of a socket, removed when dropped.
struct Path(PathBuf);

impl Path {
    fn of(what: &str) -> Self {
        Self(std::env::temp_dir().join(unique(what)))
    }

    fn name(&self) -> String {
        self.0.display().to_string()
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Checks depth, limit, owner and namespace of listeners with paths and abstract names; a closed
/// one is not seen.
pub fn depth_and_owner(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    let (path, name, odd) = (Path::of("path"), unique("name"), unique("odd"));
    let before = listen(&path.name(), 8, 2, &[])?;
    let sensors = prepared.sensors(Probe::UnixQueue, rung)?;
    let first = read_listeners(sensors, 0.0);
    find(&first, &format!("unix:{}", path.name()))?;
    let named = listen(&format!("@{name}"), 16, 0, &[])?;
    let packets = listen(&format!("@{odd}%01\\"), 4, 5, &["--seqpacket"])?;
    let facts = read_listeners(sensors, LATER);
    for (addr, listener, backlog, backlog_max) in [
        (format!("unix:{}", path.name()), &before, 2, 8),
        (format!("unix:@{name}"), &named, 0, 16),
        // One more than the limit, as for TCP.
        (format!("unix:@{odd}\\x01\\\\"), &packets, 5, 4),
    ] {
        let fact = find(&facts, &addr)?;
        let oldest = (backlog == 0).then_some(0);
        let truth = (backlog, backlog_max, Some(listener.pid()), netns_of("self")?, oldest);
        let seen = (fact.backlog, fact.backlog_max, fact.pid, fact.netns, fact.oldest_wait_us);
        ensure!(
            seen == truth,
            "{addr}: (depth, limit, pid, netns, age) is {seen:?}, expected {truth:?}"
        );
    }
    named.stop();
    let after = read_listeners(sensors, LATER + 0.1);
    ensure!(find(&after, &format!("unix:@{name}")).is_err(), "@{name} is closed but still seen");
    find(&after, &format!("unix:{}", path.name()))?;
    Ok(Seen {
        events: facts.len() as u64,
        detail: "a path from before, an abstract name, packets, one closed".to_owned(),
    })
}

/// Compares all listeners with those that `sock_diag` shows.
pub fn as_sock_diag(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    let bpf = prepared.sensors(Probe::UnixQueue, rung)?;
    let mut netlink = Sensors::without_bpf("this check compares two rungs");
    let path = Path::of("same");
    // The longest path possible, and leftovers behind a shorter one.
    let long = Path(
        std::env::temp_dir().join("l".repeat(107 - std::env::temp_dir().as_os_str().len() - 1)),
    );
    let _held = [
        listen(&format!("@{}", unique("same")), 3, 3, &[])?,
        listen(&path.name(), 64, 40, &[])?,
        listen(&long.name(), 2, 1, &[])?,
    ];
    let held = |facts: Vec<ListenerFact>| -> BTreeSet<_> {
        let held = facts.into_iter().filter(|fact| fact.pid.is_some());
        held.map(|fact| {
            (
                fact.addr,
                fact.netns,
                fact.socket,
                fact.backlog,
                fact.backlog_max,
                fact.pid,
                fact.cgroup,
            )
        })
        .collect()
    };
    let (seen, truth) = (held(read_listeners(bpf, 0.0)), held(read_listeners(&mut netlink, 0.0)));
    ensure!(truth.len() >= 3, "sock_diag shows only {truth:?}");
    let differing: Vec<_> = seen.symmetric_difference(&truth).collect();
    ensure!(differing.is_empty(), "only one of the two shows {differing:?}");
    Ok(Seen { events: seen.len() as u64, detail: format!("{} listeners", seen.len()) })
}

/// Checks a listener in a network namespace of its own, with an abstract name that another one uses
/// here.
pub fn other_namespace(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    let sensors = prepared.sensors(Probe::UnixQueue, rung)?;
    let name = format!("@{}", unique("both"));
    let here = listen(&name, 16, 1, &[])?;
    let mut command = workload()?;
    let there = in_own_namespace(command.args([
        "unix-listen",
        "--backlog=16",
        "--pending=4",
        "--name",
        &name,
    ]))?;
    let facts = read_listeners(sensors, 0.0);
    let (netns, own) = (netns_of(&there.pid().to_string())?, netns_of("self")?);
    ensure!(netns != own, "the workload is in this namespace");
    let addr = format!("unix:{name}");
    let mut seen: Vec<_> = facts.iter().filter(|fact| *fact.addr == *addr).collect();
    seen.sort_by_key(|fact| fact.backlog);
    let seen: Vec<_> = seen.iter().map(|fact| (fact.netns, fact.backlog, fact.pid)).collect();
    let truth = [(own, 1, Some(here.pid())), (netns, 4, Some(there.pid()))];
    ensure!(seen == truth, "(netns, depth, pid) is {seen:?}, expected {truth:?}");
    Ok(Seen { events: facts.len() as u64, detail: format!("netns {netns}") })
}

/// Checks that the memory of a closed listener is reused by other sockets without any of them,
/// listeners included, being taken for it.
pub fn reused_memory(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    const ROUNDS: usize = 40;
    let sensors = prepared.sensors(Probe::UnixQueue, rung)?;
    let bind = |name: &str| -> anyhow::Result<UnixListener> {
        Ok(UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)?)
    };
    for round in 0..ROUNDS {
        // Each round looks listeners up anew, and reads again before the next lookup.
        let t = round as f64 * LATER;
        let (old, new) = (unique(&format!("old-{round}")), unique(&format!("new-{round}")));
        let listener = bind(&old)?;
        find(&read_listeners(sensors, t), &format!("unix:@{old}"))?;
        drop(listener);
        // The kernel prefers the slot that was freed last: in turn for another listener and for
        // another socket.
        let first = (round % 2 == 0).then(|| bind(&new)).transpose()?;
        let others = (0..8).map(|_| UnixStream::pair()).collect::<Result<Vec<_>, _>>()?;
        let later = first.map_or_else(|| bind(&new), Ok)?;
        let facts = read_listeners(sensors, t + 0.1);
        ensure!(
            find(&facts, &format!("unix:@{old}")).is_err(),
            "{old} is closed but still seen in round {round}"
        );
        ensure!(
            find(&facts, &format!("unix:@{new}")).is_err(),
            "{new} is known too early in round {round}"
        );
        drop((others, later));
    }
    Ok(Seen {
        events: ROUNDS as u64,
        detail: format!("{ROUNDS} that closed, each followed by 17 others"),
    })
}

/// Workers that share a listener at which connections wait: the one that stopped is named, not the
/// one that computes, nor the master.
pub fn stuck_worker(prepared: &mut Prepared, rung: Rung) -> anyhow::Result<Seen> {
    /// Time between two looks on the sensors' clock, and the real one, in which the other computes
    /// for ten times as long as one that hardly runs may.
    const LOOK_SECS: f64 = 1.1;
    const COMPUTES: Duration = Duration::from_millis(300);
    /// Looks until it is named: four, and more on an emulated processor, where a pass over open
    /// files takes so long that the next one rests for several looks.
    const LOOKS: u32 = 20;
    let sensors = prepared.sensors(Probe::UnixQueue, rung)?;
    let path = Path::of("workers");
    let mut server =
        Workload::start(workload()?.args(["prefork", "--workers=2", "--path"]).arg(path.name()));
    let mut ask = |what: &[u8]| -> anyhow::Result<(UnixStream, u32)> {
        let mut client = UnixStream::connect(&path.0)?;
        client.write_all(what)?;
        let says: serde_json::Value = serde_json::from_str(&server.next_line())?;
        Ok((client, says["pid"].as_u64().context("it says which process it is")? as u32))
    };
    let ((_stops, stopped), (_computes, computing)) = (ask(b"s")?, ask(b"c")?);
    let addr = format!("unix:{}", path.name());
    let mut t = 1e9;
    let mut look = |t: &mut f64| -> anyhow::Result<ListenerFact> {
        *t += LOOK_SECS;
        std::thread::sleep(COMPUTES);
        Ok(find(&read_listeners(sensors, *t), &addr)?.clone())
    };
    // Nothing waits yet, so that nobody is looked for.
    for _ in 0..4 {
        let fact = look(&mut t)?;
        ensure!(fact.holders == Some(3) && fact.stuck_pid.is_none(), "{fact:?}: nothing waits");
    }
    let _waits = UnixStream::connect(&path.0)?;
    let mut fact = look(&mut t)?;
    for _ in 1..LOOKS {
        if fact.stuck_pid.is_none() {
            fact = look(&mut t)?;
        }
    }
    ensure!(
        (fact.backlog, fact.stuck_pid) == (1, Some(stopped)),
        "{fact:?}: {stopped} is stuck and {computing} computes"
    );
    Ok(Seen { events: 9, detail: format!("worker {stopped} of {}", server.pid()) })
}
