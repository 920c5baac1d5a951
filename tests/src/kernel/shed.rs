//! Accept queues of running servers that are bounded from outside, compared with how many
//! connections the kernel then lets in, and with the length that `sock_diag` shows.

use std::{
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use spillway_agent::{
    act::{
        OutcomeKind,
        shed::{ActiveSheds, QueueReading, ShedJournal, ShedTarget},
    },
    config::Config,
    decide::IncidentId,
    sense::{CgroupPaths, Hierarchy, ListenerFact, Sensors},
};
use spillway_tests::{Scratch, listeners, own_network};

use crate::{
    checks::{NotOffered, Seen},
    listeners::{listen, netns_of},
    rungs::{Prepared, Rung},
    sojourns::shared_listeners,
};

/// Length of a queue before, for which [`BOUND`] is short.
const LENGTH: u32 = 64;

/// Accepts within `act.shed.wait`, of which one waits beyond the length.
const ACCEPTS_PER_SEC: f64 = 100.0;
const BOUND: u32 = 9;

/// Sockets of a group, over which the bound is divided: two connections each.
const SOCKETS: usize = 4;
const SHARE: u32 = 2;

/// Time after which a connection on loopback is not opened any more: the client repeats its first
/// packet after a second.
const REFUSED_AFTER: Duration = Duration::from_millis(300);

/// Bounds the queue of a server in a network namespace of its own.
pub fn other_namespace(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    let inside = thread::spawn(|| -> anyhow::Result<Seen> {
        let netns = own_network().map_err(NotOffered::from)?;
        ensure!(netns != netns_of("self")?, "the thread is in the same namespace");
        let server = listen(LENGTH, 0, &[])?;
        let mut bounded = Bounded::begin(server.pid(), netns, server.addr())?;
        bounded.has_lengths(&[BOUND])?;
        // One after the other, so that none is under way when the queue is full.
        let mut open = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&server.addr(), REFUSED_AFTER) {
            open.push(stream);
            ensure!(open.len() <= LENGTH as usize, "no connection was refused");
        }
        ensure!(
            open.len() == BOUND as usize + 1,
            "{} connections are open, expected one more than the length of {BOUND}",
            open.len()
        );
        bounded.restore()?;
        bounded.has_lengths(&[LENGTH])?;
        for _ in open.len()..=LENGTH as usize {
            open.push(TcpStream::connect_timeout(&server.addr(), REFUSED_AFTER)?);
        }
        let refused = TcpStream::connect_timeout(&server.addr(), REFUSED_AFTER);
        ensure!(refused.is_err(), "more connections are open than the restored length lets in");
        Ok(Seen {
            events: open.len() as u64 + 2,
            detail: format!("{BOUND} of {LENGTH}, in netns {netns}"),
        })
    });
    inside.join().map_err(|_| anyhow::anyhow!("the thread in the namespace panicked"))?
}

/// Bounds the queues of sockets that share an address (SO_REUSEPORT).
pub fn shared_address(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    let (addr, _sockets) = shared_listeners(SOCKETS)?;
    let mut bounded = Bounded::begin(std::process::id(), netns_of("self")?, addr)?;
    bounded.has_lengths(&[SHARE; SOCKETS])?;
    let clients: Vec<_> = (0..16 * SOCKETS)
        .map(|_| thread::spawn(move || TcpStream::connect_timeout(&addr, REFUSED_AFTER)))
        .collect();
    let opened = clients.into_iter().map(|client| client.join()).collect::<Vec<_>>();
    let refused = opened.iter().filter(|opened| !matches!(opened, Ok(Ok(_)))).count();
    ensure!(refused > 0, "no connection was refused");
    let waiting: Vec<_> = bounded.facts().iter().map(|fact| fact.backlog).collect();
    // Handshakes that end on two processors at once may both find the last place.
    ensure!(
        waiting.iter().all(|waiting| (SHARE..=SHARE + 2).contains(waiting)),
        "{waiting:?} connections wait, expected one more than {SHARE} each"
    );
    let before = bounded.before.clone();
    bounded.restore()?;
    bounded.has_lengths(&before)?;
    Ok(Seen { events: opened.len() as u64, detail: format!("{waiting:?} wait, {refused} refused") })
}

/// A listener whose queues are bounded by the agent's own code.
struct Bounded {
    sheds: ActiveSheds,
    sensors: Sensors,
    addr: SocketAddr,
    netns: u32,
    before: Vec<u32>,
    _scratch: Scratch,
}

impl Bounded {
    fn begin(pid: u32, netns: u32, addr: SocketAddr) -> anyhow::Result<Self> {
        let scratch = Scratch::make(&format!("shed-{}", addr.port()));
        let mut config = Config::default();
        config.record.state_dir = scratch.0.join("state");
        let journal =
            ShedJournal::claim(&config.record.state_dir).map_err(|error| error.to_string());
        let mut bounded = Self {
            sheds: ActiveSheds::new(&config, journal),
            sensors: Sensors::without_bpf("this check reads what the kernel shows"),
            addr,
            netns,
            before: Vec::new(),
            _scratch: scratch,
        };
        bounded.before = bounded.facts().iter().map(|fact| fact.backlog_max).collect();
        ensure!(!bounded.before.is_empty(), "no listener is seen at {addr}");
        let addr = std::sync::Arc::from(addr.to_string());
        let target = ShedTarget {
            id: IncidentId::Overload { netns, addr: std::sync::Arc::clone(&addr) },
            netns,
            addr,
            cgroup: CgroupPaths::new(Hierarchy::detect()).of_process(pid),
            pids: [pid].into(),
            accepts_per_sec: Some(ACCEPTS_PER_SEC),
            first: QueueReading::default(),
        };
        let begun = bounded.sheds.begin(0.0, &target);
        if begun.why.contains("cannot take a descriptor") && !crate::guest::is_guest() {
            return Err(NotOffered(begun.why).into());
        }
        ensure!(begun.event == OutcomeKind::Shedding, "{begun:?}");
        Ok(bounded)
    }

    /// Its sockets, as `sock_diag` shows them.
    fn facts(&mut self) -> Vec<ListenerFact> {
        let addr = self.addr.to_string();
        let facts = listeners(&mut self.sensors, 0.0).into_iter();
        facts.filter(|fact| *fact.addr == *addr && fact.netns == self.netns).collect()
    }

    fn has_lengths(&mut self, expected: &[u32]) -> anyhow::Result<()> {
        let lengths: Vec<_> = self.facts().iter().map(|fact| fact.backlog_max).collect();
        ensure!(lengths == expected, "the queues have the lengths {lengths:?}, not {expected:?}");
        Ok(())
    }

    fn restore(&mut self) -> anyhow::Result<()> {
        let undone = self.sheds.undo_all(1.0);
        ensure!(
            undone.iter().all(|outcome| outcome.event == OutcomeKind::Unshed),
            "not restored: {undone:?}"
        );
        undone.first().context("nothing was restored").map(drop)
    }
}
