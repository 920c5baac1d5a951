//! Cost of coordination through a real etcd: of one node in a group of a thousand, and of etcd.

use std::{
    f64::consts::TAU,
    fs,
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use spillway_agent::{
    clock::Clock,
    config::Reach,
    fleet::{EtcdCoordinator, EtcdOptions, FleetMember, GroupLimits, Load, NodeFacts, NodeNames},
    net::http_client::TlsOptions,
};
use spillway_tests::{Scratch, Servers, etcd::Etcd, find_metric, http_get, own_network};

use crate::{Row, Target, cpu_secs, tell};

const NODES: usize = 1_000;

/// Threads that play the nodes. More would be busy with each other.
const THREADS: usize = 16;

/// Time over which the nodes start, and time that is measured. Each node looks at a group of this
/// size once in that time.
const STARTS_WITHIN_SECS: f64 = 60.0;
const WATCHED_SECS: f64 = 300.0;

/// Time between two turns of a node, as in the agent.
const TURN: Duration = Duration::from_millis(500);

/// Time in which the load of a node rises from a third of its maximum and falls again, in seconds.
const WAVE_SECS: f64 = 600.0;

/// Writes a second that 10,000 nodes may make.
const WRITES_MAX: f64 = 500.0;

/// Counters at one moment.
struct Counts {
    secs: f64,
    writes: f64,
    bytes: f64,
    nodes_cpu_secs: f64,
    etcd_cpu_secs: f64,
}

impl Counts {
    fn now(clock: &Clock) -> anyhow::Result<Self> {
        let metrics = http_get(SocketAddr::from((Ipv4Addr::LOCALHOST, 2_500)), "/metrics")?;
        let metric = |name: &str| {
            find_metric(&metrics, name).with_context(|| format!("etcd has no metric {name}"))
        };
        Ok(Self {
            secs: clock.now(),
            writes: metric("etcd_server_proposals_committed_total")?,
            bytes: loopback_bytes()?,
            nodes_cpu_secs: cpu_secs(libc::CLOCK_PROCESS_CPUTIME_ID)?,
            etcd_cpu_secs: metric("process_cpu_seconds_total")?,
        })
    }
}

/// Rows that can be measured here, in a new network namespace.
pub fn rows() -> anyhow::Result<Vec<Row>> {
    let servers = match Servers::find() {
        Ok(servers) => servers,
        Err(reason) => {
            tell(&format!("no fleet: {reason}"));
            return Ok(Vec::new());
        }
    };
    let secs = STARTS_WITHIN_SECS + WATCHED_SECS;
    tell(&format!("playing {NODES} nodes of one group with one etcd for {secs:.0} s"));
    // A namespace is of one thread and of those that it starts.
    let measured = thread::spawn(move || measure(&servers));
    measured.join().map_err(|_| anyhow!("the fleet's thread panicked"))?
}

fn measure(servers: &Servers) -> anyhow::Result<Vec<Row>> {
    own_network().context("no network namespace; hint: the bench needs root")?;
    let scratch = Scratch::make("cost-fleet");
    let etcd = Etcd::start(servers, &scratch.0, &[]);
    let (clock, is_over, failed) = (Clock::start(), AtomicBool::new(false), AtomicUsize::new(0));
    let [before, after] = thread::scope(|threads| {
        for thread in 0..THREADS {
            let (url, is_over, failed) = (etcd.url(), &is_over, &failed);
            threads.spawn(move || {
                let nodes = (thread..NODES).step_by(THREADS);
                play(nodes, &url, &clock, is_over, failed);
            });
        }
        // A failed request of the counters must not leave the nodes running.
        let counted = || {
            // The last nodes have had their first look by then.
            thread::sleep(Duration::from_secs_f64(STARTS_WITHIN_SECS + 30.0));
            let before = Counts::now(&clock)?;
            thread::sleep(Duration::from_secs_f64(WATCHED_SECS));
            anyhow::Ok([before, Counts::now(&clock)?])
        };
        let counted = counted();
        is_over.store(true, Ordering::SeqCst);
        counted
    })?;
    anyhow::ensure!(failed.load(Ordering::SeqCst) == 0, "a node's request to etcd failed");
    let secs = after.secs - before.secs;
    let per_node =
        |count: fn(&Counts) -> f64| (count(&after) - count(&before)) / NODES as f64 / secs;
    let row = |what: &str, measured: f64, unit, most: Option<f64>, detail: &str| Row {
        what: what.to_owned(),
        measured,
        unit,
        target: most.map(Target::AtMost),
        detail: detail.to_owned(),
    };
    let cpu = |what: &str, count: fn(&Counts) -> f64, most| {
        let percent = per_node(count) * 100.0;
        row(what, percent, "%", most, &format!("{percent:.4} %"))
    };
    let writes = per_node(|counts| counts.writes) * 10.0 * NODES as f64;
    let detail = format!("measured with {NODES} nodes, multiplied by ten");
    Ok(vec![
        row("writes of 10,000 nodes to etcd", writes, "/s", Some(WRITES_MAX), &detail),
        row(
            "traffic of a node with etcd",
            per_node(|counts| counts.bytes),
            "bytes/s",
            None,
            "both ways, with the headers of TCP; one node in a group of 1,000",
        ),
        cpu("a node's CPU for it, of one core", |counts| counts.nodes_cpu_secs, Some(0.05)),
        cpu("etcd's CPU for a node, of one core", |counts| counts.etcd_cpu_secs, None),
    ])
}

/// Plays some nodes until it is over.
fn play(
    nodes: impl Iterator<Item = usize>,
    url: &str,
    clock: &Clock,
    is_over: &AtomicBool,
    failed: &AtomicUsize,
) {
    let mut members: Vec<_> = nodes
        .map(|nth| (nth, STARTS_WITHIN_SECS * nth as f64 / NODES as f64, member(nth, url)))
        .collect();
    while !is_over.load(Ordering::SeqCst) {
        let begun = clock.now();
        for (nth, starts_at, member) in &mut members {
            let now = clock.now();
            if now < *starts_at {
                continue;
            }
            let phase = now / WAVE_SECS + *nth as f64 / NODES as f64;
            let cpus = Load { now: 4.0 - 2.0 * (TAU * phase).cos(), proven: 8.0 };
            member.step(now, clock.unix_ms(), &NodeFacts { cpus, ..NodeFacts::default() });
            if let Some(problem) = member.problem() {
                failed.fetch_add(1, Ordering::SeqCst);
                tell(&format!("node {nth}: {problem}"));
            }
        }
        let left = TURN.as_secs_f64() - (clock.now() - begun);
        thread::sleep(Duration::try_from_secs_f64(left).unwrap_or_default());
    }
}

fn member(nth: usize, url: &str) -> FleetMember {
    let (node, group, run) = (format!("web-{nth:04}"), "web".to_owned(), nth as u64 + 1);
    let coordinator = EtcdCoordinator::new(EtcdOptions {
        endpoints: vec![url.to_owned()],
        group: group.clone(),
        node: node.clone(),
        run,
        tls: TlsOptions { ca_file: None, client: None },
        credentials: None,
        silent_after: Duration::from_secs(45),
    });
    let coordinator = coordinator.expect("the names are allowed");
    let names = NodeNames { node, group, zone: String::new(), region: String::new() };
    let limits = GroupLimits {
        slots: 1,
        out_share_max: 0.1,
        margin: 1.2,
        reach: Reach::Zone,
        silent_after_secs: 45.0,
    };
    FleetMember::new(Box::new(coordinator), names, limits, run)
}

/// Bytes that this namespace's loopback has carried.
fn loopback_bytes() -> anyhow::Result<f64> {
    let devices = fs::read_to_string("/proc/thread-self/net/dev")?;
    let lo = devices.lines().find_map(|line| line.trim_start().strip_prefix("lo:"));
    let received = lo.and_then(|counts| counts.split_whitespace().next()?.parse().ok());
    received.context("/proc/thread-self/net/dev has no count for lo")
}
