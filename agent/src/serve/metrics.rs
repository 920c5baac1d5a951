//! Metrics of the agent, in the OpenMetrics format: facts read and lost, probes, verdicts, actions,
//! and the agent's own cost.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use nix::sys::resource::{UsageWho, getrusage};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

use super::{
    counts::ServeCounts,
    health::{Health, HealthReport},
};
use crate::{
    act::{Outcome, drain::ReadinessCell, fleet::FleetMetrics, notify::NotifyMetrics},
    bpf::{ProbeState, ProbeStatus},
    clock::Clock,
    detect::{ClaimState, Verdict},
    engine::EngineSize,
    os::nonblocking_writer::DroppedLines,
    scan_loop::{Batch, ScanKind},
    sense::{Fact, OwnSockets, Sensors},
    telemetry::ExportCounts,
};

/// Scans that may be missed until the agent reports itself as failing: one late scan is a busy
/// host, three are a hang.
const SCANS_MISSED_MAX: f64 = 3.0;

/// Buckets of a read's time: from a tenth of a millisecond to a second on the slowest fallback.
const SCAN_BUCKETS_SECS: [f64; 9] = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0];

/// Buckets of the loop's gaps, which come from reads and from a starved machine. The worst that is
/// acceptable is a second.
const GAP_BUCKETS_SECS: [f64; 9] = [0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReadLabel {
    sensor: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WorkloadLabel {
    cgroup: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LostLabel {
    what: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProbeLabel {
    probe: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProbeStateLabel {
    probe: &'static str,
    state: &'static str,
    source: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StreamLabel {
    stream: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerdictLabel {
    verdict: &'static str,
    resource: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

/// The agent's metrics, shared by the loop that writes them and the server that reads them.
pub struct Metrics {
    clock: Clock,
    interval_secs: f64,
    /// Bits of the `f64` time at which the next scan is due.
    scan_due_at: AtomicU64,
    registry: Mutex<Registry>,
    observations: Family<ReadLabel, Counter>,
    read_seconds: Family<ReadLabel, Histogram>,
    loop_gap_seconds: Histogram,
    loop_gap_max_seconds: Gauge<f64, AtomicU64>,
    workload_memory: Family<WorkloadLabel, Gauge>,
    lost: Family<LostLabel, Counter>,
    probe_attached: Family<ProbeLabel, Gauge>,
    probe_state: Family<ProbeStateLabel, Gauge>,
    /// Statuses that both show.
    probes: Mutex<Vec<ProbeStatus>>,
    health: Mutex<Health>,
    /// Counts of notifications; empty if there are no receivers.
    notifications: OnceLock<Arc<NotifyMetrics>>,
    /// State in the group; empty without one.
    fleet: OnceLock<Arc<FleetMetrics>>,
    serve: ServeCounts,
    /// Counts behind `lines_dropped`; empty if the streams are not written by threads.
    dropped_lines: OnceLock<Vec<DroppedLines>>,
    lines_dropped: Family<StreamLabel, Counter>,
    processes: Gauge,
    listeners: Gauge,
    mem_available_bytes: Gauge,
    births: Counter,
    execs: Counter,
    deaths: Counter,
    raised: Family<VerdictLabel, Counter>,
    cleared: Family<VerdictLabel, Counter>,
    open: Family<VerdictLabel, Gauge>,
    outcomes: Family<OutcomeLabel, Counter>,
    tracked_processes: Gauge,
    tracked_listeners: Gauge,
    untracked: Counter,
    ignored: Counter,
    cpu_seconds: Counter<f64, AtomicU64>,
    resident_bytes: Gauge,
}

impl Metrics {
    /// Registers every metric. `interval_secs` is the time between two scans; health depends on it.
    pub fn new(clock: Clock, interval_secs: f64) -> Self {
        let metrics = Self {
            clock,
            interval_secs,
            scan_due_at: AtomicU64::new((clock.now() + interval_secs).to_bits()),
            registry: Mutex::new(Registry::with_prefix("spillway")),
            observations: Family::default(),
            read_seconds: Family::new_with_constructor(|| Histogram::new(SCAN_BUCKETS_SECS)),
            loop_gap_seconds: Histogram::new(GAP_BUCKETS_SECS),
            loop_gap_max_seconds: Gauge::default(),
            workload_memory: Family::default(),
            lost: Family::default(),
            probe_attached: Family::default(),
            probe_state: Family::default(),
            probes: Mutex::default(),
            health: Mutex::default(),
            notifications: OnceLock::new(),
            fleet: OnceLock::new(),
            serve: ServeCounts::default(),
            dropped_lines: OnceLock::new(),
            lines_dropped: Family::default(),
            processes: Gauge::default(),
            listeners: Gauge::default(),
            mem_available_bytes: Gauge::default(),
            births: Counter::default(),
            execs: Counter::default(),
            deaths: Counter::default(),
            raised: Family::default(),
            cleared: Family::default(),
            open: Family::default(),
            outcomes: Family::default(),
            tracked_processes: Gauge::default(),
            tracked_listeners: Gauge::default(),
            untracked: Counter::default(),
            ignored: Counter::default(),
            cpu_seconds: Counter::default(),
            resident_bytes: Gauge::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&self) {
        let mut registry = self.registry();
        registry.register(
            "build",
            "The agent's version",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register("observations", "Facts read, by sensor", self.observations.clone());
        registry.register_with_unit(
            "read",
            "Time of one read, by sensor",
            Unit::Seconds,
            self.read_seconds.clone(),
        );
        registry.register_with_unit(
            "loop_gap",
            "Time during which the loop read nothing: the duration of a turn, and the delay of the \
             next one",
            Unit::Seconds,
            self.loop_gap_seconds.clone(),
        );
        registry.register_with_unit(
            "loop_gap_max",
            "Longest such time since the start",
            Unit::Seconds,
            self.loop_gap_max_seconds.clone(),
        );
        registry.register_with_unit(
            "workload_memory",
            "Anonymous, swapped and shared memory of the largest workloads; the rest is \"other\"",
            Unit::Bytes,
            self.workload_memory.clone(),
        );
        registry.register("lost", "Facts that were lost, by reason", self.lost.clone());
        registry.register(
            "probe_attached",
            "1 if the probe uses its best source, 0 if it uses a fallback or is off",
            self.probe_attached.clone(),
        );
        registry.register(
            "probe_state",
            "1 for the state of each probe (attached, degraded or off) and the source of its facts",
            self.probe_state.clone(),
        );
        registry.register("processes", "Processes in the latest scan", self.processes.clone());
        registry.register(
            "listeners",
            "Listening sockets in the latest scan",
            self.listeners.clone(),
        );
        registry.register_with_unit(
            "host_mem_available",
            "Available memory of the host (MemAvailable)",
            Unit::Bytes,
            self.mem_available_bytes.clone(),
        );
        registry.register("process_births", "Processes forked", self.births.clone());
        registry.register("process_execs", "Program images replaced", self.execs.clone());
        registry.register("process_deaths", "Processes that ended", self.deaths.clone());
        registry.register(
            "verdicts_raised",
            "Verdicts raised, by kind and resource",
            self.raised.clone(),
        );
        registry.register(
            "verdicts_cleared",
            "Verdicts cleared, by kind and resource",
            self.cleared.clone(),
        );
        registry.register(
            "verdicts_standing",
            "Verdicts raised and not yet cleared, by kind and resource",
            self.open.clone(),
        );
        registry.register("outcomes", "Outcomes of actions, by kind", self.outcomes.clone());
        registry.register(
            "tracked_processes",
            "Processes that detectors track",
            self.tracked_processes.clone(),
        );
        registry.register(
            "tracked_listeners",
            "Listeners that detectors track",
            self.tracked_listeners.clone(),
        );
        registry.register(
            "untracked",
            "Observations of processes and listeners for which there was no room",
            self.untracked.clone(),
        );
        registry.register("ignored", "Observations with an invalid time", self.ignored.clone());
        self.serve.register(&mut registry);
        registry.register(
            "lines_dropped",
            "Lines of output (stdout) and of the log (stderr) that were not written: the reader \
             was too slow or is gone, or the disk is full",
            self.lines_dropped.clone(),
        );
        registry.register_with_unit(
            "cpu",
            "CPU time of the agent",
            Unit::Seconds,
            self.cpu_seconds.clone(),
        );
        registry.register_with_unit(
            "resident",
            "Resident memory of the agent",
            Unit::Bytes,
            self.resident_bytes.clone(),
        );
    }

    /// Notes a read of the sensors.
    pub fn note_batch(&self, batch: &mut Batch<'_>) {
        let label = ReadLabel { sensor: name(batch.read) };
        self.read_seconds.get_or_create(&label).observe(batch.took_secs);
        self.loop_gap_seconds.observe(batch.gap_secs);
        self.loop_gap_max_seconds.set(self.loop_gap_max_seconds.get().max(batch.gap_secs));
        self.health_state().note_gap(self.clock.now(), batch.gap_secs);
        let (mut processes, mut listeners) = (0, 0);
        for observation in batch.observations {
            match &observation.fact {
                Fact::Process(_) => processes += 1,
                Fact::Listener(_) => listeners += 1,
                Fact::Host(host) => {
                    self.mem_available_bytes.set(host.mem_available_bytes as i64);
                }
                // Other facts have no metrics of their own.
                _ => {}
            }
        }
        self.observations.get_or_create(&label).inc_by(batch.observations.len() as u64);
        match batch.read {
            ScanKind::Listeners => {
                for (addr, backlog) in
                    batch.sensors.own_sockets().into_iter().flat_map(OwnSockets::backlogs)
                {
                    self.serve.note_backlog(addr, backlog);
                    listeners += 1;
                }
                self.listeners.set(listeners);
            }
            ScanKind::Processes => {
                self.processes.set(processes);
                let due_at = self.clock.now() + batch.next_in.as_secs_f64();
                self.scan_due_at.store(due_at.to_bits(), Ordering::Relaxed);
                self.note_scan(batch.sensors);
            }
        }
    }

    /// Adds the counts of notifications.
    pub fn show_notifications(&self, counts: Arc<NotifyMetrics>) {
        counts.register(&mut self.registry());
        // Set once, at the start.
        let _ = self.notifications.set(counts);
    }

    /// Adds the state of the node's drain.
    pub fn show_drain(&self, readiness: &ReadinessCell) {
        readiness.register(&mut self.registry());
    }

    /// Adds the state of this node in its group.
    pub fn show_fleet(&self, fleet: Arc<FleetMetrics>) {
        fleet.register(&mut self.registry());
        // Set once, at the start.
        let _ = self.fleet.set(fleet);
    }

    /// Adds the counts of exports.
    pub fn show_exports(&self, counts: &ExportCounts) {
        counts.register(&mut self.registry());
    }

    /// State of this node in its group; `None` if it has none.
    pub fn fleet(&self) -> Option<&FleetMetrics> {
        self.fleet.get().map(|fleet| &**fleet)
    }

    /// Adds the lines that were dropped, by stream.
    pub fn show_dropped_lines(&self, lines: impl Iterator<Item = DroppedLines>) {
        // Set once, at the start.
        let _ = self.dropped_lines.set(lines.collect());
        self.note_dropped_lines();
    }

    fn note_dropped_lines(&self) {
        for lines in self.dropped_lines.get().into_iter().flatten() {
            let label = StreamLabel { stream: lines.stream() };
            raise_to(&self.lines_dropped.get_or_create(&label), lines.total());
        }
    }

    fn note_scan(&self, sensors: &mut Sensors) {
        self.note_probes(sensors.reports());
        let life = sensors.life_totals();
        raise_to(&self.births, life.forks);
        raise_to(&self.execs, life.execs);
        raise_to(&self.deaths, life.exits);
        for (loss, total) in sensors.lost_at_scan().totals() {
            raise_to(&self.lost.get_or_create(&LostLabel { what: loss }), total);
            self.health_state().note_lost(self.clock.now(), loss, total);
        }
        self.note_dropped_lines();
        self.note_own_cost();
    }

    fn note_probes(&self, reports: &[ProbeStatus]) {
        let mut noted = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        if *noted == reports {
            return;
        }
        *noted = reports.to_vec();
        self.health_state().note_probes(reports);
        // A probe whose state has changed must not show both.
        self.probe_state.clear();
        for report in reports {
            let (probe, source) = (report.probe.name(), report.source.to_string());
            let attached = report.state == ProbeState::Attached;
            self.probe_attached.get_or_create(&ProbeLabel { probe }).set(i64::from(attached));
            let label = ProbeStateLabel { probe, state: report.state.name(), source };
            self.probe_state.get_or_create(&label).set(1);
        }
    }

    fn note_own_cost(&self) {
        if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
            let seconds =
                |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
            let total = seconds(usage.user_time()) + seconds(usage.system_time());
            self.cpu_seconds.inc_by((total - self.cpu_seconds.get()).max(0.0));
        }
        if let Ok(memory) = procfs::process::Process::myself().and_then(|process| process.statm()) {
            self.resident_bytes.set((memory.resident * procfs::page_size()) as i64);
        }
    }

    /// Counts a verdict.
    pub fn note_verdict(&self, verdict: &Verdict) {
        let label =
            VerdictLabel { verdict: verdict.claim.name(), resource: verdict.claim.resource() };
        let open = self.open.get_or_create(&label);
        match verdict.state {
            ClaimState::Updated => {}
            ClaimState::Raised => {
                self.raised.get_or_create(&label).inc();
                open.inc();
            }
            ClaimState::Cleared => {
                self.cleared.get_or_create(&label).inc();
                open.dec();
            }
        }
    }

    /// Counts the outcome of an action.
    pub fn note_outcome(&self, outcome: &Outcome) {
        self.outcomes.get_or_create(&OutcomeLabel { outcome: outcome.event.name() }).inc();
        self.health_state().note_outcome(self.clock.now(), outcome);
    }

    /// Notes the numbers of subjects that the engine holds.
    pub fn note_tracked(&self, tracked: &EngineSize) {
        self.tracked_processes.set(tracked.processes as i64);
        self.tracked_listeners.set(tracked.listeners as i64);
        raise_to(&self.untracked, tracked.untracked_total);
        self.health_state().note_untracked(self.clock.now(), tracked.untracked_total);
        raise_to(&self.ignored, tracked.ignored_total);
    }

    /// Notes the memory in bytes of the largest workloads, by cgroup, and that of all others.
    pub fn note_workloads(&self, largest: &[(Arc<str>, u64)], others_bytes: u64) {
        self.workload_memory.clear();
        let others = ("other", others_bytes);
        let largest = largest.iter().map(|(cgroup, bytes)| (&**cgroup, *bytes));
        for (cgroup, bytes) in largest.chain([others]) {
            let label = WorkloadLabel { cgroup: cgroup.to_owned() };
            self.workload_memory.get_or_create(&label).set(bytes.try_into().unwrap_or(i64::MAX));
        }
    }

    /// Encodes all metrics as OpenMetrics text.
    ///
    /// # Errors
    ///
    /// Returns an error if the encoder fails; it does not for metrics of these types.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry())?;
        Ok(text)
    }

    /// Reports the health of the agent now: its state, and everything that it cannot see, limit or
    /// deliver.
    pub fn health(&self) -> HealthReport {
        let now = self.clock.now();
        let late = now - f64::from_bits(self.scan_due_at.load(Ordering::Relaxed));
        let is_failing = late > self.interval_secs * SCANS_MISSED_MAX;
        let failing = is_failing.then(|| format!("the next scan of the host is {late:.1} s late"));
        let undelivered =
            self.notifications.get().map(|counts| counts.undelivered()).unwrap_or_default();
        self.health_state().report(now, failing, undelivered)
    }

    /// Notes a fault that lasts as long as the agent runs, for [`Metrics::health`].
    pub fn note_permanent(&self, kind: &'static str, detail: String) {
        self.health_state().note_permanent(kind, detail);
    }

    /// Status of each probe, as of the latest scan.
    pub fn probes(&self) -> Vec<ProbeStatus> {
        self.probes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts of notifications; `None` if nobody is notified.
    pub fn notifications(&self) -> Option<&NotifyMetrics> {
        self.notifications.get().map(|counts| &**counts)
    }

    /// Counters of the ports that the agent serves.
    pub fn serve_counts(&self) -> &ServeCounts {
        &self.serve
    }

    /// Clock of all times here.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    fn health_state(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ignores poisoning: nothing panics while it holds the lock, and the registry would still be
    /// consistent.
    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn name(read: ScanKind) -> &'static str {
    match read {
        ScanKind::Processes => "processes",
        ScanKind::Listeners => "listeners",
    }
}

/// Raises a counter to a total that is counted elsewhere.
fn raise_to(counter: &Counter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}
