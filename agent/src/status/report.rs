//! Status of a running agent as one JSON document: the form in which it answers `spillway status`.
//!
//! An interface: fields are added, and never renamed or given another meaning. A reader ignores
//! fields that it does not know, and takes one that is missing as empty, so that a command and an
//! agent of different versions understand each other. Times are RFC 3339 in UTC; spans are seconds.
//! Texts are printable and cut to some hundred characters. `configs/README.md` lists the fields.

use serde::{Deserialize, Serialize};

use crate::sense::identity::Identity;

/// Version of the document.
pub const STATUS_VERSION: u32 = 1;

/// Status of an agent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StatusReport {
    /// Version of this document: 1.
    pub spillway_status: u32,
    /// Version of the agent.
    pub version: String,
    /// Name of the host.
    pub host: String,
    /// Process id of the agent, in its own pid namespace.
    pub pid: u32,
    /// State directory of the agent.
    pub state_dir: String,
    /// Configuration file; `null` if every option is at its default.
    pub config: Option<String>,
    /// Time of this report.
    pub at: String,
    /// Time since the agent was started.
    pub uptime_secs: f64,
    /// `observe` or `enforce`.
    pub mode: String,
    /// Set if `spillway pause` has stopped all new actions.
    pub paused: bool,
    /// Health, as `/healthz` reports it.
    pub health: HealthSection,
    /// Probes, with the source of each.
    pub probes: Vec<ProbeLine>,
    /// Open incidents, the worst first.
    pub incidents: Vec<IncidentEntry>,
    /// Number of open incidents, of which not all are listed.
    pub incidents_total: u64,
    /// Limits and shorter accept queues that are in effect, the latest first.
    pub changes: Vec<ChangeEntry>,
    /// Number of changes in effect, of which not all are listed.
    pub changes_total: u64,
    /// Rotation: whether this node takes new work.
    pub drain: DrainSection,
    /// This node's group; `null` without a coordinator.
    pub fleet: Option<FleetSection>,
    /// Notifications.
    pub notifications: NotificationSection,
    /// Actions that are left.
    pub budget: BudgetSection,
    /// Workloads, those that grow fastest first, then the largest.
    pub workloads: Vec<WorkloadEntry>,
    /// Number of workloads, of which not all are listed.
    pub workloads_total: u64,
    /// Listening sockets, the one with the longest wait first.
    pub listeners: Vec<ListenerEntry>,
    /// Number of listening sockets, of which not all are listed.
    pub listeners_total: u64,
    /// Limited resources: those with a forecast end first, the nearest of them first, then the
    /// fullest.
    pub resources: Vec<ResourceEntry>,
}

/// A workload: the processes of one cgroup that have memory of their own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkloadEntry {
    /// Name that a person knows it by: unit, pod or container, or else the last part of its cgroup.
    pub name: String,
    /// Cgroup, as the memory controller names it.
    pub cgroup: String,
    /// Processes.
    pub processes: u64,
    /// Name of its largest process.
    pub comm: String,
    /// Process id of its largest process.
    pub pid: u32,
    /// Anonymous, swapped and shared memory of its processes.
    pub memory_bytes: u64,
    /// Growth of that memory over `growth_secs`; negative if it shrinks, `null` before there are
    /// two minutes of it.
    pub growth_bytes_per_sec: Option<f64>,
    /// Time over which the growth is measured: an hour at most.
    pub growth_secs: f64,
    /// Limit on its memory; `null` if there is none.
    pub limit_bytes: Option<u64>,
    /// Open incident about it.
    pub incident: Option<String>,
}

/// A listening socket. Sockets that share an address are one entry.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ListenerEntry {
    /// Address and port, or path of a UNIX socket.
    pub addr: String,
    /// Network namespace, as its inode number.
    pub netns: u32,
    /// Name that a person knows its workload by; empty if unknown.
    pub name: String,
    /// Cgroup of the process that listens; empty if unknown.
    pub cgroup: String,
    /// Name of that process; empty if unknown.
    pub comm: String,
    /// Process id of it; `null` if unknown.
    pub pid: Option<u32>,
    /// Connections that wait for accept().
    pub backlog: u64,
    /// Limit of the accept queue.
    pub backlog_max: u64,
    /// Wait of the connection at the head of the queue; `null` if unknown.
    pub oldest_wait_secs: Option<f64>,
    /// 99th percentile of the wait of those accepted since the scan before; `null` if none was, or
    /// it is unknown.
    pub wait_p99_secs: Option<f64>,
    /// Connections accepted per second; `null` if unknown.
    pub accepted_per_sec: Option<f64>,
    /// Connections dropped because the queue was full.
    pub overflows_total: Option<u64>,
    /// Established connections; `null` if requests are not seen.
    pub connections: Option<u64>,
    /// Requests that have no response yet; `null` if requests are not seen.
    pub in_flight: Option<u64>,
    /// Age of the oldest of them; `null` if there is none or it is unknown.
    pub oldest_in_flight_secs: Option<f64>,
    /// Open incident about it.
    pub incident: Option<String>,
}

/// A limited resource.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourceEntry {
    /// `memory`, `files`, or a count that a sensor reads, such as `disk_bytes`; in bytes if it is
    /// `memory` or ends in `_bytes`.
    pub resource: String,
    /// Subject of the limit: `host`, a cgroup, a mount point, or a process as `NAME (pid N)`.
    pub subject: String,
    /// Part in use.
    pub used: u64,
    /// Limit.
    pub limit: u64,
    /// Time until it runs out, as an open incident forecasts it; `null` without one.
    pub exhaustion_secs: Option<f64>,
    /// Open incident about it.
    pub incident: Option<String>,
}

impl ResourceEntry {
    /// Returns whether it is counted in bytes.
    pub fn is_bytes(&self) -> bool {
        self.resource == "memory" || self.resource.ends_with("_bytes")
    }
}

/// Group of this node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FleetSection {
    /// Name.
    pub group: String,
    /// Coordinator: `fleetlock`, `etcd` or `kubernetes`.
    pub backend: String,
    /// Set if it answered at the last attempt; `null` before the first.
    pub coordinated: Option<bool>,
    /// Reason if it did not.
    pub problem: Option<String>,
    /// Margins for the loss of a node, a zone and a region, of the one that is hardest to lose.
    pub margins: Vec<FleetMargin>,
}

/// Margin for the loss of one node, zone or region, with the fields of `spillway fleet --json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FleetMargin {
    /// `node`, `zone` or `region`.
    pub domain: String,
    /// Name of the one that is hardest to lose.
    pub name: String,
    /// Headroom of the others as a multiple of its load; `null` if it has no load.
    pub ratio: Option<f64>,
    /// Set if the others can carry its load, with the margin that a drain needs.
    pub can_be_lost: bool,
}

/// Health of an agent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthSection {
    /// `ok`, `degraded`, or `failing` if the agent no longer watches the host.
    pub status: String,
    /// Reasons for any other state than `ok`.
    pub reasons: Vec<HealthReason>,
}

/// Reason why an agent is not healthy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthReason {
    /// Kind: `hang`, `probe`, `lost`, `untracked`, `gap`, `action`, `serve`, `fleet` or
    /// `notification`.
    pub kind: String,
    /// Reason in a sentence.
    pub detail: String,
}

/// A probe.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProbeLine {
    /// Name.
    pub probe: String,
    /// `attached`, `degraded` or `off`.
    pub state: String,
    /// Hook that it is attached to, or file that is read in its place.
    pub source: String,
    /// Loss against the best source; `null` if nothing is lost.
    pub lacks: Option<String>,
}

/// An open incident.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct IncidentEntry {
    /// Identity, as in the agent's output and in notifications.
    pub id: String,
    /// `info`, `warning` or `critical`.
    pub severity: String,
    /// Reason for the severity.
    pub severity_why: String,
    /// Kind of its worst claim: `leak`, `overload`, `cascade_risk` or `exhaustion`.
    pub verdict: String,
    /// Subject, evidence and consequence in a sentence.
    pub headline: String,
    /// Evidence in a sentence, as of its latest forecast.
    pub why: String,
    /// Evidence in a sentence with which the worst claim was raised.
    pub evidence: String,
    /// Advice: an imperative.
    pub advice: String,
    /// Certainty of the worst claim, from 0 to 1.
    pub confidence: f64,
    /// Time at which its first claim was raised.
    pub since: String,
    /// Time since then.
    pub lasted_secs: f64,
    /// Time until the resource runs out; `null` without a forecast, and while a limit of Spillway's
    /// holds it.
    pub exhaustion_secs: Option<f64>,
    /// 95 % interval of that time, soonest first; `null` if it is too uncertain for one.
    pub exhaustion_interval_secs: Option<[f64; 2]>,
    /// Cgroup concerned; empty if unknown.
    pub cgroup: String,
    /// Process concerned, if known.
    pub pid: Option<u32>,
    /// Workload concerned, as a person knows it; `null` if nothing is known.
    pub identity: Option<Identity>,
    /// Other claims of the incident, as labels; some are left out if there are many.
    pub also: Vec<String>,
    /// Number of its open claims.
    pub claims: u64,
    /// Set if a page is open for it.
    pub paged: bool,
    /// Node that pages for it in place of this one.
    pub paged_by: Option<String>,
    /// Actions that were taken for it, would be taken, or were refused.
    pub actions: Vec<ActionEntry>,
}

impl IncidentEntry {
    /// Evidence with which the claim was raised; an agent of an earlier version gives only the
    /// latest.
    pub fn first_evidence(&self) -> &str {
        if self.evidence.is_empty() { &self.why } else { &self.evidence }
    }
}

/// An action for an incident.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ActionEntry {
    /// `page`, `limit`, `shed`, `weigh` or `drain`.
    pub action: String,
    /// `would` if it is not carried out, `ordered` before its outcome is known, `refused` by a
    /// guard, or the outcome, as in `"outcome"` of the agent's output.
    pub state: String,
    /// Reason for a refusal, or the outcome in a sentence; empty otherwise.
    pub why: String,
    /// Time of the state.
    pub since: String,
}

/// A change to this host that is in effect.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChangeEntry {
    /// `limit` or `shed`.
    pub action: String,
    /// Cgroup that is limited, or address of the listener whose accept queue is shorter.
    pub subject: String,
    /// Limit on memory; `null` for a listener.
    pub limit_bytes: Option<u64>,
    /// Time at which it began.
    pub since: String,
    /// Latest outcome, as in `"outcome"` of the agent's output.
    pub state: String,
    /// Latest outcome in a sentence.
    pub why: String,
    /// Incidents that it is for.
    pub incidents: Vec<String>,
    /// Condition under which it ends, in a clause.
    pub until: String,
}

/// Rotation of the node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DrainSection {
    /// `healthy`, `drain_requested`, `draining`, `drained`, `verifying` or `undrain_requested`.
    pub state: String,
    /// Set if load balancers are told to send no new work.
    pub out: bool,
    /// Answer to load balancers: `ready 100%`, `drain` or `maint`.
    pub answer: String,
    /// Time at which the state began; `null` if the agent began with it.
    pub since: Option<String>,
    /// Operator's request: `drain`, `maintenance` or `undrain`.
    pub operator: Option<String>,
    /// Incident that the drain is for.
    pub incident: Option<String>,
    /// Reason for the drain.
    pub why: Option<String>,
    /// Work that the node still has, in a few words.
    pub work: Option<String>,
    /// Condition under which the drain ends, in a clause; `null` without a drain.
    pub until: Option<String>,
    /// Reason for which the last request had no effect, or has to wait.
    pub obstacle: Option<String>,
    /// Ways by which balancers hear of a drain that are set up: `webhook` (act.drain.url),
    /// `agent_check` or `fleet`. Beside them there is `GET /ready`.
    pub tells: Vec<String>,
    /// Time since a balancer last asked `/ready` or the agent check; `null` if none has.
    pub asked_secs_ago: Option<f64>,
}

/// Notifications.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NotificationSection {
    /// Receivers that are notified.
    pub receivers: Vec<String>,
    /// Deliveries that are still to be made.
    pub waiting: u64,
    /// Reasons why notifications are not delivered now.
    pub problems: Vec<String>,
}

/// Actions that are left.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BudgetSection {
    /// Limits and drains that may be decided in an hour (decide.max_actions_per_hour).
    pub per_hour: u64,
    /// Of these left now. In `observe`, as if each had been carried out.
    pub left: u64,
    /// Of these left, those that only a drain may take.
    pub for_drain: u64,
    /// Time until another one is; `null` if all are left.
    pub next_secs: Option<f64>,
}

impl StatusReport {
    /// Parses a report; fields that are unknown are ignored.
    ///
    /// # Errors
    ///
    /// Returns an error if it is not one, or of another version.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let report: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        match report.spillway_status {
            STATUS_VERSION => Ok(report),
            version => Err(format!("version {version} of it is not supported")),
        }
    }

    /// Returns whether the agent still watches the host.
    pub fn is_watching(&self) -> bool {
        self.health.status != "failing"
    }
}
