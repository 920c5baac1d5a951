//! Place where the loop puts an immutable snapshot of its state, and from which another thread
//! makes the report. Neither waits for the other for longer than it takes to move a pointer.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    action_log::{ActionLog, ActionNote, ActionState, ChangeInEffect},
    report::{
        ActionEntry, BudgetSection, ChangeEntry, DrainSection, FleetMargin, FleetSection,
        HealthReason, HealthSection, IncidentEntry, NotificationSection, ProbeLine, STATUS_VERSION,
        StatusReport,
    },
    tables::{
        HostTables, TableRows,
        entries::{IncidentIndex, listener_entries, resource_entries, workload_entries},
    },
};
use crate::{
    act::{
        OutcomeKind, Pause,
        drain::{DrainPhase, Override, Readiness, ReadinessCell},
        notify::{self, timestamp},
    },
    bpf::ProbeStatus,
    clock::Clock,
    config::{Choice as _, Config, FleetBackend},
    decide::{Action, ActionBudget, IncidentId, IncidentView, Severity},
    engine::Engine,
    fleet::{GroupLimits, Margins},
    history::{StoredHistory, event::shown},
    os::host,
    sense::identity::NodePods,
    serve::Metrics,
    units::Span,
};

/// Incidents that are listed. A guess: more than a person reads.
const INCIDENTS_MAX: usize = 50;

/// Changes that are listed. A guess, likewise.
const CHANGES_MAX: usize = 50;

/// Other claims of an incident that are named.
const ALSO_MAX: usize = 3;

/// State of the loop at one time.
#[derive(Debug, Clone)]
pub struct LoopSnapshot {
    incidents: Vec<(IncidentView, Vec<ActionNote>)>,
    incidents_total: usize,
    changes: Vec<ChangeInEffect>,
    changes_total: usize,
    budget: ActionBudget,
    tables: TableRows,
}

/// Latest snapshot of the loop, and everything else that a report needs.
pub struct StatusBoard {
    clock: Clock,
    metrics: Arc<Metrics>,
    readiness: Arc<ReadinessCell>,
    pause: Pause,
    config: Config,
    file: Option<PathBuf>,
    latest: Mutex<Option<Arc<LoopSnapshot>>>,
}

impl LoopSnapshot {
    /// Takes a snapshot at `t`.
    pub fn take(engine: &Engine, log: &ActionLog, tables: &HostTables, t: f64) -> Self {
        let (incidents, incidents_total) = engine.incidents(INCIDENTS_MAX);
        let with_actions = |incident: IncidentView| {
            let mut notes = log.of(&incident.id).to_vec();
            let claims = incident.claims.iter().map(|claim| claim.claim.id());
            for id in claims.filter(|id| *id != incident.id) {
                notes.extend_from_slice(log.of(&id));
            }
            notes.sort_by(|one, other| one.t.total_cmp(&other.t));
            (incident, notes)
        };
        let mut changes: Vec<_> = log.changes().collect();
        changes.sort_by(|one, other| other.since_t.total_cmp(&one.since_t));
        Self {
            incidents: incidents.into_iter().map(with_actions).collect(),
            incidents_total,
            changes_total: changes.len(),
            changes: changes.into_iter().take(CHANGES_MAX).cloned().collect(),
            budget: engine.budget(t),
            tables: tables.rows(),
        }
    }

    /// Number of open incidents, and the severity of the worst.
    pub fn open_incidents(&self) -> (usize, Severity) {
        let worst = self.incidents.first().and_then(|(worst, _)| worst.claims.first());
        let harm = worst.and_then(|claim| claim.harm.as_ref());
        (self.incidents_total, harm.map_or(Severity::Info, |harm| harm.severity))
    }
}

impl StatusBoard {
    /// Creates a board without a snapshot. `file` is the file that `config` was read from.
    pub fn new(
        config: &Config,
        file: Option<&Path>,
        metrics: &Arc<Metrics>,
        readiness: Arc<ReadinessCell>,
    ) -> Self {
        Self {
            clock: metrics.clock(),
            metrics: metrics.clone(),
            readiness,
            pause: Pause::below(&config.record.state_dir),
            config: config.clone(),
            file: file.map(Path::to_owned),
            latest: Mutex::default(),
        }
    }

    /// Reader of the history that pages show.
    pub fn history(&self) -> StoredHistory {
        StoredHistory::below(self.config.record.state_dir.clone(), self.clock)
    }

    /// Replaces the snapshot.
    pub fn put(&self, snapshot: LoopSnapshot) {
        let old =
            self.latest.lock().unwrap_or_else(PoisonError::into_inner).replace(Arc::new(snapshot));
        drop(old);
    }

    /// Makes a report of this moment.
    pub fn report(&self) -> StatusReport {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (now, at_ms) = (self.clock.now(), self.clock.unix_ms());
        let moment = ReportTime { now, at_ms };
        let health = self.metrics.health();
        let reasons = health.reasons.iter();
        let report = StatusReport {
            spillway_status: STATUS_VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: shown(&host::name()),
            pid: std::process::id(),
            state_dir: shown(&self.config.record.state_dir.display().to_string()),
            config: self.file.as_ref().map(|file| shown(&file.display().to_string())),
            at: timestamp(at_ms),
            uptime_secs: now,
            mode: self.config.mode.name().to_owned(),
            paused: self.pause.is_on(),
            health: HealthSection {
                status: health.status.name().to_owned(),
                reasons: reasons
                    .map(|reason| HealthReason {
                        kind: reason.kind.to_owned(),
                        detail: shown(&reason.detail),
                    })
                    .collect(),
            },
            probes: self.probes(),
            drain: self.drain(moment),
            fleet: self.fleet(),
            notifications: self.notifications(),
            ..StatusReport::default()
        };
        let Some(latest) = latest else { return report };
        let changes = latest.changes.iter().map(|change| change_entry(change, moment));
        let incidents = latest.incidents.iter();
        let with_limit = incidents.clone().map(|(incident, _)| {
            let is_held = limit_of(incident, &latest.changes).is_some();
            (incident, is_held)
        });
        let index = IncidentIndex::new(with_limit, now);
        let TableRows { workloads, listeners, resources } = &latest.tables;
        let pods = NodePods::read(&self.config.kubernetes.pod_logs_dir);
        StatusReport {
            incidents: incidents
                .map(|(incident, notes)| {
                    let limit_bytes = limit_of(incident, &latest.changes);
                    incident_entry(incident, notes, &report.host, limit_bytes, moment)
                })
                .collect(),
            incidents_total: latest.incidents_total as u64,
            changes: changes.collect(),
            changes_total: latest.changes_total as u64,
            budget: BudgetSection {
                per_hour: latest.budget.per_hour as u64,
                left: latest.budget.left as u64,
                for_drain: latest.budget.for_drain as u64,
                next_secs: latest.budget.next_secs,
            },
            workloads: workload_entries(&workloads.0, &index, &pods),
            workloads_total: workloads.1 as u64,
            listeners: listener_entries(&listeners.0, &index, &pods),
            listeners_total: listeners.1 as u64,
            resources: resource_entries(resources, &index),
            ..report
        }
    }

    fn probes(&self) -> Vec<ProbeLine> {
        let line = |status: &ProbeStatus| ProbeLine {
            probe: status.probe.name().to_owned(),
            state: status.state.name().to_owned(),
            source: status.source.to_owned(),
            lacks: status.lacks.map(str::to_owned),
        };
        self.metrics.probes().iter().map(line).collect()
    }

    fn notifications(&self) -> NotificationSection {
        let counts = self.metrics.notifications();
        NotificationSection {
            receivers: notify::receivers(&self.config).into_iter().map(str::to_owned).collect(),
            waiting: counts.map_or(0, |counts| counts.waiting()),
            problems: counts.map(|counts| counts.undelivered()).unwrap_or_default(),
        }
    }

    fn fleet(&self) -> Option<FleetSection> {
        let (state, config) = (self.metrics.fleet()?.latest(), &self.config.fleet);
        let needed = GroupLimits::of(config).margin;
        let margins = state.margins.iter().flat_map(Margins::iter);
        let margins = margins.map(|(domain, margin)| FleetMargin {
            domain: domain.name().to_owned(),
            name: shown(&margin.name),
            ratio: margin.ratio.is_finite().then_some(margin.ratio),
            can_be_lost: margin.ratio >= needed,
        });
        Some(FleetSection {
            group: shown(&config.group),
            backend: config.backend.name().to_owned(),
            coordinated: state.has_asked.then_some(state.problem.is_none()),
            problem: state.problem.map(|problem| shown(&problem)),
            margins: margins.collect(),
        })
    }

    fn drain(&self, moment: ReportTime) -> DrainSection {
        let (view, drain) = (self.readiness.view(), &self.config.act.drain);
        let tells = [
            (drain.url.is_some(), "webhook"),
            (drain.agent_check.listen.is_some(), "agent_check"),
            (self.config.fleet.backend != FleetBackend::None, "fleet"),
        ];
        let verify = Span(drain.verify.as_secs_f64());
        let until = match (view.operator, view.phase) {
            (Some(Override::Drain | Override::Maintenance), _) => {
                Some("until `spillway resume`".to_owned())
            }
            (_, DrainPhase::Healthy) => None,
            (_, DrainPhase::UndrainRequested) => Some("until balancers are told".to_owned()),
            _ => Some(format!("until its reason has been over for {verify}")),
        };
        DrainSection {
            state: view.phase.name().to_owned(),
            out: !matches!(self.readiness.says(), Readiness::Ready(_)),
            answer: self.readiness.says().to_string(),
            since: view.since_ms.map(timestamp),
            operator: view.operator.map(|word| word.name().to_owned()),
            incident: view.incident.map(|id| shown(&id)),
            why: view.why.map(|why| shown(&why)),
            work: view.work,
            until,
            obstacle: view.obstacle.map(|why| shown(&why)),
            tells: tells
                .iter()
                .filter(|(is_set, _)| *is_set)
                .map(|(_, by)| (*by).to_owned())
                .collect(),
            asked_secs_ago: self.readiness.asked_at().map(|at| (moment.now - at).max(0.0)),
        }
    }
}

/// A moment on the agent's clock and on the host's.
#[derive(Clone, Copy)]
struct ReportTime {
    now: f64,
    at_ms: u64,
}

impl ReportTime {
    /// Returns a time of the agent's clock on the host's.
    fn time_of(self, t: f64) -> String {
        timestamp(self.at_ms.saturating_sub(((self.now - t).max(0.0) * 1e3) as u64))
    }
}

/// Returns the limit that Spillway has set for an incident, if it is in effect.
fn limit_of(incident: &IncidentView, changes: &[ChangeInEffect]) -> Option<u64> {
    let is_for = |id: &IncidentId| {
        *id == incident.id || incident.claims.iter().any(|claim| claim.claim.id() == *id)
    };
    let change = changes.iter().find(|change| change.latest.cause.incidents().iter().any(is_for));
    change.and_then(|change| change.latest.limit_bytes)
}

fn incident_entry(
    incident: &IncidentView,
    notes: &[ActionNote],
    host: &str,
    limit_bytes: Option<u64>,
    moment: ReportTime,
) -> IncidentEntry {
    let Some((worst, others)) = incident.claims.split_first() else {
        return IncidentEntry::default();
    };
    let left = |secs: f64| (secs - (moment.now - worst.t).max(0.0)).max(0.0);
    // The end that is forecast then is that of Spillway's own limit, at which nothing fails.
    let is_held = limit_bytes.is_some();
    let left_secs = worst.exhaustion_secs.filter(|_| !is_held).map(left);
    let interval = worst.exhaustion_interval_secs.filter(|_| !is_held);
    let harm = worst.harm.as_ref();
    let headline = match limit_bytes {
        None => worst.claim.headline(host, left_secs),
        Some(bytes) => worst.claim.held_headline(host, bytes),
    };
    IncidentEntry {
        id: shown(&incident.id.to_string()),
        severity: harm.map_or("info", |harm| harm.severity.name()).to_owned(),
        severity_why: harm.map(|harm| shown(&harm.reason)).unwrap_or_default(),
        verdict: worst.claim.name().to_owned(),
        headline: shown(&headline),
        why: shown(&worst.why),
        evidence: shown(&incident.evidence),
        advice: shown(&worst.claim.advice(left_secs)),
        confidence: worst.confidence,
        since: moment.time_of(incident.opened_t),
        lasted_secs: (moment.now - incident.opened_t).max(0.0),
        exhaustion_secs: left_secs,
        exhaustion_interval_secs: interval.map(|ends| ends.map(left)),
        cgroup: shown(worst.claim.cgroup()),
        pid: worst.claim.pid(),
        identity: worst.identity.as_deref().cloned(),
        also: others.iter().take(ALSO_MAX).map(|claim| shown(&claim.claim.label())).collect(),
        claims: incident.claims_total as u64,
        paged: incident.is_paged,
        paged_by: incident.paged_by.as_deref().map(shown),
        actions: notes.iter().map(|note| action_entry(note, moment)).collect(),
    }
}

fn action_entry(note: &ActionNote, moment: ReportTime) -> ActionEntry {
    let (state, why) = match &note.state {
        ActionState::Would => ("would", String::new()),
        ActionState::Ordered => ("ordered", String::new()),
        ActionState::Refused(refusal) => ("refused", shown(&refusal.to_string())),
        ActionState::Done(event, why) => (event.name(), shown(why)),
    };
    ActionEntry {
        action: note.action.name().to_owned(),
        state: state.to_owned(),
        why,
        since: moment.time_of(note.t),
    }
}

fn change_entry(change: &ChangeInEffect, moment: ReportTime) -> ChangeEntry {
    let latest = &change.latest;
    let until = match (latest.event.action(), latest.event) {
        (Action::Shed, _) => "until the queue has been short for a while",
        (_, OutcomeKind::KeptAfterIncident) => "until the memory needs it no longer",
        (_, OutcomeKind::Failed) => "until the next attempt to restore it succeeds",
        _ => "until the incident is over",
    };
    ChangeEntry {
        action: latest.event.action().name().to_owned(),
        subject: shown(&latest.cgroup),
        limit_bytes: latest.limit_bytes,
        since: moment.time_of(change.since_t),
        state: latest.event.name().to_owned(),
        why: shown(&latest.why),
        incidents: latest.cause.incidents().iter().map(|id| shown(&id.to_string())).collect(),
        until: until.to_owned(),
    }
}
