//! Floods that the agent goes through, each for a while.

use std::{
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use clap::ValueEnum;
use serde::Serialize;
use spillway_tests::{OwnCgroup, Workload, now};

use crate::{
    figures::Crowd,
    stage::{Stage, workload},
};

/// Processes that a churn starts and ends before the next one takes its place.
const CHURNED_AT_A_TIME: u64 = 1_000;

/// Services that get stuck, and connects to each of them a second.
const STUCK: u32 = 4;
const CONNECTS_PER_SEC: u32 = 20;

/// Reloads a second.
const RELOADS_PER_SEC: u64 = 20;

/// Time for the agent to find what was started: after slow scans it rests for twenty times as long.
const FOUND_WITHIN: Duration = Duration::from_secs(30);

/// Kind of flood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Idle processes in many cgroups
    Processes,
    /// Processes that come and go as fast as the kernel starts them
    Churn,
    /// TCP listeners that come and go
    Listeners,
    /// Connects to many addresses that refuse them
    Destinations,
    /// Reloads of the configuration, while processes come and go
    Reloads,
    /// Stuck services whose incidents no receiver takes, while processes come and go
    Sinks,
}

/// Sizes of the floods.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Duration of each.
    pub lasting: Duration,
    /// Idle processes, and the cgroups that they are in.
    pub processes: usize,
    pub cgroups: usize,
    /// Listeners at once.
    pub listeners: usize,
    /// Addresses that are connected to at a time.
    pub destinations: usize,
}

/// Numbers of what came and went.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Counts {
    /// Processes.
    pub processes: u64,
    /// Listeners.
    pub listeners: u64,
    /// Addresses that were connected to.
    pub destinations: u64,
    /// Reloads that the agent logged.
    pub reloads: u64,
    /// Calls to receivers of notifications, none of which answered.
    pub calls: u64,
}

impl Kind {
    /// Name in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Processes => "processes",
            Self::Churn => "churn",
            Self::Listeners => "listeners",
            Self::Destinations => "destinations",
            Self::Reloads => "reloads",
            Self::Sinks => "sinks",
        }
    }

    /// Makes the flood. Returns what the agent took meanwhile, if it is that of processes.
    ///
    /// # Errors
    ///
    /// Returns an error if a workload does not start, and those of [`Stage::tick`].
    pub fn play(
        self,
        stage: &mut Stage,
        sizes: &Sizes,
        counts: &mut Counts,
    ) -> anyhow::Result<Option<Crowd>> {
        match self {
            Self::Processes => return processes(stage, sizes, counts).map(Some),
            Self::Churn => {
                let mut churns = [Churn::start()?, Churn::start()?];
                while_lasting(stage, self, sizes, |_| {
                    churns.iter_mut().try_for_each(|churn| churn.go_on(counts))
                })?;
            }
            Self::Listeners => listeners(stage, sizes, counts)?,
            Self::Destinations => destinations(stage, sizes, counts)?,
            Self::Reloads => {
                let (mut churn, began) = (Churn::start()?, now());
                let (before, mut sent) = (stage.logged("SIGHUP: reloaded"), 0);
                while_lasting(stage, self, sizes, |stage| {
                    if began.elapsed().as_secs_f64() * RELOADS_PER_SEC as f64 > sent as f64 {
                        sent += 1;
                        stage.reload(sent);
                    }
                    churn.go_on(counts)
                })?;
                counts.reloads += (stage.logged("SIGHUP: reloaded") - before) as u64;
            }
            Self::Sinks => {
                let before = stage.metric("spillway_page_calls_total");
                let stuck = (0..STUCK).map(|nth| stuck_service(stage, nth));
                let stuck = stuck.collect::<anyhow::Result<Vec<_>>>()?;
                let mut churn = Churn::start()?;
                while_lasting(stage, self, sizes, |_| churn.go_on(counts))?;
                drop((churn, stuck));
                counts.calls += (stage.metric("spillway_page_calls_total") - before) as u64;
            }
        }
        Ok(None)
    }
}

/// Goes on with a flood for as long as each lasts.
fn while_lasting(
    stage: &mut Stage,
    kind: Kind,
    sizes: &Sizes,
    mut go_on: impl FnMut(&mut Stage) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let start = now();
    while start.elapsed() < sizes.lasting {
        go_on(stage)?;
        stage.wait(kind.name(), Duration::from_millis(20))?;
    }
    Ok(())
}

/// Starts idle processes in their cgroups, and measures the agent once it has seen all of them.
fn processes(stage: &mut Stage, sizes: &Sizes, counts: &mut Counts) -> anyhow::Result<Crowd> {
    let cgroups = sizes.cgroups.clamp(1, sizes.processes.max(1));
    let mut made = Vec::with_capacity(cgroups);
    let mut sleepers = Vec::with_capacity(cgroups);
    for nth in 0..cgroups {
        let cgroup = stage.cgroup().make_below(&format!("idle-{nth}"))?;
        // One of them starts the others.
        let others = sizes.processes / cgroups - 1;
        let mut command = workload(&["sleepers", &format!("--count={others}")])?;
        sleepers.push(Workload::start(cgroup.admit(&mut command)?));
        made.push(cgroup);
        stage.tick("processes start")?;
    }
    let started = sizes.processes / cgroups * cgroups;
    counts.processes += started as u64;
    stage.wait_for_metric("spillway_processes", started as f64, FOUND_WITHIN)?;
    // What the agent needs for new processes is not what it needs for old ones.
    stage.wait("processes", sizes.lasting / 3)?;
    let from = stage.secs();
    stage.wait("processes", sizes.lasting)?;
    let (samples, _) = stage.seen();
    let watched: Vec<_> = samples.iter().filter(|sample| sample.t >= from).collect();
    let (first, last) = watched.first().zip(watched.last()).context("no sample was taken")?;
    let most = watched.iter().map(|sample| sample.resident_bytes).max();
    Ok(Crowd {
        processes: started,
        cgroups,
        resident_bytes: most.unwrap_or(0),
        share: (last.cpu_secs - first.cpu_secs) / (last.t - first.t).max(f64::MIN_POSITIVE),
    })
}

/// Opens many listeners and closes them, again and again.
fn listeners(stage: &mut Stage, sizes: &Sizes, counts: &mut Counts) -> anyhow::Result<()> {
    let (start, count) = (now(), sizes.listeners);
    while start.elapsed() < sizes.lasting {
        let many = Workload::start(&mut workload(&["listeners", &format!("--count={count}")])?);
        counts.listeners += count as u64;
        stage.wait_for_metric("spillway_listeners", count as f64, FOUND_WITHIN)?;
        stage.wait("listeners", sizes.lasting / 4)?;
        drop(many);
        stage.wait("listeners closed", sizes.lasting / 12)?;
    }
    Ok(())
}

/// Connects to ever other addresses of loopback, on which nobody listens.
fn destinations(stage: &mut Stage, sizes: &Sizes, counts: &mut Counts) -> anyhow::Result<()> {
    let start = now();
    while start.elapsed() < sizes.lasting {
        // After the addresses of the agent itself; 127.0.0.0/8 has 16 million.
        let host = 1_000_000 + counts.destinations % 14_000_000;
        let [_, a, b, c] = (host as u32).to_be_bytes();
        let (to, hosts) =
            (format!("--to=127.{a}.{b}.{c}:9"), format!("--hosts={}", sizes.destinations));
        let connected = Workload::start(&mut workload(&["connects", &to, &hosts, "--count=1"])?);
        counts.destinations += sizes.destinations as u64;
        stage.wait("destinations", sizes.lasting / 8)?;
        drop(connected);
    }
    Ok(())
}

/// Starts a service that accepts for two seconds, and its clients. The service is in a cgroup of
/// its own, which comes last so that it is empty when it is removed.
fn stuck_service(stage: &Stage, nth: u32) -> anyhow::Result<([Workload; 2], OwnCgroup)> {
    let cgroup = stage.cgroup().make_below(&format!("stuck-{nth}"))?;
    let mut server = workload(&["stuck-server", "--healthy-for=2s", "--backlog=64"])?;
    let server = Workload::start(cgroup.admit(&mut server)?);
    let (addr, rate) =
        (format!("--addr={}", server.addr()), format!("--rate-per-sec={CONNECTS_PER_SEC}"));
    let clients = Workload::start(&mut workload(&["clients", &addr, &rate])?);
    Ok(([server, clients], cgroup))
}

/// Processes that start and end one after the other, without end.
struct Churn(Child);

impl Churn {
    fn start() -> anyhow::Result<Self> {
        let mut command = workload(&["churn", &format!("--count={CHURNED_AT_A_TIME}")])?;
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Ok(Self(command.spawn().context("the churn does not start")?))
    }

    /// Starts the next ones if these have ended.
    fn go_on(&mut self, counts: &mut Counts) -> anyhow::Result<()> {
        if self.0.try_wait().context("the churn is lost")?.is_some() {
            counts.processes += CHURNED_AT_A_TIME;
            *self = Self::start()?;
        }
        Ok(())
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
