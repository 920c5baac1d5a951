//! Incidents that humans were notified of: once when an incident is raised, again when it changes
//! or an action is taken, and when it is over.
//!
//! Pure: time is an argument. Updates of an incident are a minute apart, unless it becomes
//! critical; the newest state counts. Incidents that come too fast or are too many become members
//! of a summary ([`Storms`]). Cold start: the incidents that an earlier run left open are passed
//! in; one that is raised again continues silently, and one that is not seen again for as long as
//! the agent takes to be sure is over. Bounded by [`OPEN_MAX`](super::storm::OPEN_MAX) and the
//! bounds of summaries.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::{Map, Value};

use super::{
    KEY_BYTES_MAX, NAME_CHARS_MAX, Notification, Update, message,
    owner::owner,
    storm::{Raise, Scope, Storms, Summary},
    text::printable,
    timestamp,
};
use crate::{
    act::outcome::{Outcome, OutcomeKind},
    decide::{Action, Decision, IncidentId, Severity},
    detect::Verdict,
    units::Size,
};

/// Minimum time between two updates of an incident, unless it becomes critical.
const UPDATE_EVERY_SECS: f64 = 60.0;

/// Time from the first notification of a summary to its first update, in which a flood shows its
/// size.
const FIRST_SUMMARY_SECS: f64 = 10.0;

/// Class of summaries.
const SUMMARY_CLASS: &str = "many incidents";

/// Detail that marks the summary of the whole host.
const HOST: &str = "all_of_host";

/// A time on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// On the observations' clock, in seconds.
    pub t: f64,
    /// Milliseconds since 1970.
    pub unix_ms: u64,
}

/// The agent as the sender of notifications.
#[derive(Debug, Clone)]
pub struct Reporter {
    /// Name of this host.
    pub host: String,
    /// Identity of this run of the agent.
    pub run: String,
    /// Time after which an incident of an earlier run that was not raised again is over.
    pub sure_after: Duration,
}

/// Incidents that humans were notified of.
pub struct IncidentTracker {
    reporter: Reporter,
    notifications_total: u64,
    open: BTreeMap<String, OpenIncident>,
    storms: Storms,
    summaries: BTreeMap<Scope, ReportedSummary>,
}

/// An incident that humans were notified of.
struct OpenIncident {
    /// Last notification.
    notification: Notification,
    /// Last verdict; `None` for an incident of an earlier run that was not raised again.
    verdict: Option<Verdict>,
    /// Present state.
    state: IncidentState,
    /// State in the last notification.
    reported: IncidentState,
    /// Time of the last update.
    updated_at: f64,
    /// Time since which this run knows of it.
    known_since: f64,
}

/// The part of an incident of which a change is worth an update.
#[derive(Debug, Clone, PartialEq)]
struct IncidentState {
    severity: Severity,
    /// Reason for the severity; `None` for an incident of an earlier run that was not raised again.
    why: Option<String>,
    /// Action taken.
    done: Option<String>,
}

/// A summary that humans were notified of.
struct ReportedSummary {
    notification: Notification,
    /// Its members in the last notification.
    members: String,
    /// Time from which it may be updated.
    next_at: f64,
}

impl IncidentTracker {
    /// Continues with the last notification of each incident that an earlier run left open. `t` is
    /// now.
    pub fn new(reporter: Reporter, left_open: Vec<Notification>, t: f64) -> Self {
        let mut tracker = Self {
            reporter,
            notifications_total: 0,
            open: BTreeMap::new(),
            storms: Storms::default(),
            summaries: BTreeMap::new(),
        };
        for notification in left_open {
            if notification.class == SUMMARY_CLASS {
                let scope = match notification.group.as_str() {
                    "" if notification.details.contains_key(HOST) => Scope::Host,
                    group => Scope::Owner(Arc::from(group)),
                };
                tracker.storms.restore(scope.clone(), t, tracker.reporter.sure_after.as_secs_f64());
                tracker.summaries.insert(
                    scope,
                    ReportedSummary {
                        notification,
                        members: String::new(),
                        next_at: t + UPDATE_EVERY_SECS,
                    },
                );
                continue;
            }
            let state = IncidentState { severity: notification.severity, why: None, done: None };
            let reported = state.clone();
            let (updated_at, known_since) = (f64::NEG_INFINITY, t);
            let open = OpenIncident {
                verdict: None,
                state,
                reported,
                updated_at,
                known_since,
                notification,
            };
            tracker.open.insert(open.notification.incident.clone(), open);
        }
        tracker
    }

    /// Returns the notification that a decision calls for. `verdicts` are those that the decision
    /// followed from.
    pub fn on_decision(
        &mut self,
        now: Now,
        decision: &Decision,
        verdicts: &[Verdict],
    ) -> Option<Notification> {
        let incident = self.key(&decision.id.to_string());
        match decision.action {
            Action::Page { severity } => {
                let verdict =
                    verdicts.iter().rev().find(|verdict| IncidentId::from(*verdict) == decision.id);
                let Some(open) = self.open.get_mut(&incident) else {
                    return self.raise(now, incident, severity, &decision.why, verdict?);
                };
                open.verdict = verdict.cloned().or(open.verdict.take());
                open.state.severity = severity;
                if open.state.why.replace(decision.why.clone()).is_none() {
                    // The same incident with the reason of another run is no news.
                    open.reported.why.clone_from(&open.state.why);
                }
                self.update_if_due(now, &incident)
            }
            Action::Resolve => self.resolve(now, &incident, &decision.why),
            Action::Limit
            | Action::Unlimit
            | Action::Shed
            | Action::Unshed
            | Action::Weigh
            | Action::Unweigh
            | Action::Drain
            | Action::Undrain => None,
        }
    }

    /// Returns the notifications that an outcome calls for: an update of its incident, and the
    /// change to this host.
    pub fn on_outcome(&mut self, now: Now, outcome: &Outcome) -> Vec<Notification> {
        let size = outcome.limit_bytes.map(|bytes| Size(bytes as f64).to_string());
        let why = outcome.why.lines().next().unwrap_or_default();
        let done = match outcome.event {
            OutcomeKind::Limited => {
                format!("memory limited to {}", size.unwrap_or_default())
            }
            OutcomeKind::GrowthStopped => {
                format!("memory limited to {}; growth stopped", size.unwrap_or_default())
            }
            OutcomeKind::Undone | OutcomeKind::CgroupRemoved => "limit removed".to_owned(),
            OutcomeKind::Refused => format!("no limit set: {why}"),
            OutcomeKind::Failed => format!("setting a limit failed: {why}"),
            OutcomeKind::Overridden => format!("limit given up: {why}"),
            OutcomeKind::Relaxed | OutcomeKind::Thrashing => {
                format!("a limit does not help: {why}")
            }
            OutcomeKind::CpuThrottled => {
                format!("memory limited to {}, CPU throttled", size.unwrap_or_default())
            }
            OutcomeKind::Draining => "node is being drained".to_owned(),
            OutcomeKind::DrainRefused => format!("node not drained: {why}"),
            OutcomeKind::DrainUseless => format!("drain undone: {why}"),
            OutcomeKind::Undrained => "node back in service".to_owned(),
            OutcomeKind::UndrainFailed => format!("node still out of service: {why}"),
            OutcomeKind::Shedding => format!("shedding load: {why}"),
            OutcomeKind::ShedRefused => format!("no load shed: {why}"),
            OutcomeKind::ShedFailed => format!("shedding load failed: {why}"),
            OutcomeKind::ShedYielded => format!("gave up shedding load: {why}"),
            OutcomeKind::Unshed => format!("no load shed any more: {why}"),
            OutcomeKind::DrainRequested
            | OutcomeKind::Drained
            | OutcomeKind::Verifying
            | OutcomeKind::UndrainRequested => return Vec::new(),
            OutcomeKind::Reasserted
            | OutcomeKind::Tightened
            | OutcomeKind::Widened
            | OutcomeKind::KeptAfterIncident => return Vec::new(),
        };
        let ids = outcome.cause.incidents().iter();
        let incidents: Vec<_> = ids.map(|id| self.key(&id.to_string())).collect();
        let mut notifications = Vec::new();
        for incident in &incidents {
            let Some(open) = self.open.get_mut(incident) else { continue };
            let before = open.state.done.replace(done.clone());
            // The policy makes an incident with a setback critical, and that decision is reported.
            if outcome.event.is_setback() && open.notification.severity < Severity::Critical {
                continue;
            }
            if before.as_ref() != Some(&done) {
                notifications.extend(self.update_if_due(now, incident));
            }
        }
        if matches!(
            outcome.event,
            OutcomeKind::Limited
                | OutcomeKind::Undone
                | OutcomeKind::Draining
                | OutcomeKind::Undrained
        ) {
            let incident = incidents.into_iter().next();
            let incident = incident.unwrap_or_else(|| self.key(&outcome.cause.to_string()));
            notifications.push(self.change(now, incident, outcome));
        }
        notifications
    }

    /// Returns the notifications that are due because time has passed: updates that had to wait,
    /// summaries that changed, and the end of incidents of an earlier run that were not seen again.
    pub fn due(&mut self, now: Now) -> Vec<Notification> {
        let sure_after_secs = self.reporter.sure_after.as_secs_f64();
        let is_forgotten = |open: &OpenIncident| {
            open.verdict.is_none() && now.t - open.known_since >= sure_after_secs
        };
        let (mut forgotten, mut changed) = (Vec::new(), Vec::new());
        for (incident, open) in &self.open {
            if is_forgotten(open) {
                forgotten.push(incident.clone());
            } else if open.state != open.reported {
                changed.push(incident.clone());
            }
        }
        let why = "It was not seen again after the agent restarted.";
        let mut notifications: Vec<_> =
            forgotten.iter().filter_map(|incident| self.resolve(now, incident, why)).collect();
        notifications
            .extend(changed.iter().filter_map(|incident| self.update_if_due(now, incident)));
        for (scope, summary) in self.storms.over(now.t) {
            notifications.extend(self.end_summary(now, &scope, &summary));
        }
        let scopes: Vec<_> = self.summaries.keys().cloned().collect();
        notifications.extend(scopes.iter().filter_map(|scope| self.update_summary(now, scope)));
        notifications
    }

    fn raise(
        &mut self,
        now: Now,
        incident: String,
        severity: Severity,
        why: &str,
        verdict: &Verdict,
    ) -> Option<Notification> {
        let claim = &verdict.claim;
        let digest = fnv1a(incident.as_bytes());
        if severity < Severity::Warning {
            let scope = self.storms.leave(now.t, digest)?;
            return self.update_summary(now, &scope);
        }
        let group = printable(claim.cgroup(), NAME_CHARS_MAX);
        let open_of_owner = self
            .open
            .values()
            .filter(|open| owner(&open.notification.group) == owner(&group))
            .count();
        let raise = Raise { owner: owner(&group), severity, open_of_owner, open: self.open.len() };
        let scope = match self.storms.scope_of(digest) {
            Some(scope) => Some(scope.clone()),
            None => self.storms.place(now.t, &raise),
        };
        if let Some(scope) = scope {
            let name = format!("{} ({})", message::component(claim), message::class(claim));
            self.storms.join(&scope, digest, severity, &name);
            return self.update_summary(now, &scope);
        }
        let notification = Notification {
            id: self.next_id(),
            incident: incident.clone(),
            update: Update::Raised,
            severity,
            summary: message::open(
                verdict,
                &self.reporter.host,
                &clock_time(now.unix_ms),
                None,
                None,
            ),
            host: self.reporter.host.clone(),
            component: message::component(claim),
            group,
            class: message::class(claim),
            raised_at_ms: now.unix_ms,
            at_ms: now.unix_ms,
            details: details(verdict),
        };
        let notification = notification.bounded();
        let state = IncidentState { severity, why: Some(why.to_owned()), done: None };
        let reported = state.clone();
        let (verdict, updated_at, known_since) = (Some(verdict.clone()), f64::NEG_INFINITY, now.t);
        let open = OpenIncident {
            notification: notification.clone(),
            verdict,
            state,
            reported,
            updated_at,
            known_since,
        };
        self.open.insert(incident, open);
        Some(notification)
    }

    /// Returns the update of an incident that changed, if it is time for one.
    fn update_if_due(&mut self, now: Now, incident: &str) -> Option<Notification> {
        let open = self.open.get(incident)?;
        let becomes_critical = open.state.severity >= Severity::Critical
            && open.reported.severity < Severity::Critical;
        let is_due = now.t - open.updated_at >= UPDATE_EVERY_SECS || becomes_critical;
        if open.state == open.reported || !is_due {
            return None;
        }
        let (id, host) = (self.next_id(), &self.reporter.host);
        let open = self.open.get_mut(incident)?;
        let OpenIncident { notification, state, reported, .. } = open;
        (notification.id, notification.update, notification.severity, notification.at_ms) =
            (id, Update::Updated, state.severity, now.unix_ms);
        if let Some(verdict) = &open.verdict {
            notification.summary = message::open(
                verdict,
                host,
                &clock_time(notification.raised_at_ms),
                state.done.as_deref(),
                state.why.as_deref().filter(|_| state.why != reported.why),
            );
            notification.class = message::class(&verdict.claim);
            notification.details = details(verdict);
        }
        notification.details.insert("done".to_owned(), state.done.clone().into());
        notification.details.insert("reason".to_owned(), state.why.clone().into());
        *notification = notification.clone().bounded();
        (*reported, open.updated_at) = (state.clone(), now.t);
        Some(notification.clone())
    }

    fn resolve(&mut self, now: Now, incident: &str, why: &str) -> Option<Notification> {
        let Some(OpenIncident { notification, .. }) = self.open.remove(incident) else {
            let scope = self.storms.leave(now.t, fnv1a(incident.as_bytes()))?;
            return self.update_summary(now, &scope);
        };
        Some(self.end(now, notification, why))
    }

    fn end(&mut self, now: Now, notification: Notification, why: &str) -> Notification {
        let secs = now.unix_ms.saturating_sub(notification.raised_at_ms) as f64 / 1e3;
        let summary = message::resolved(
            &notification.component,
            &notification.class,
            &notification.host,
            secs,
            why,
        );
        Notification {
            id: self.next_id(),
            update: Update::Resolved,
            at_ms: now.unix_ms,
            summary,
            ..notification
        }
        .bounded()
    }

    /// Returns the notification of a summary that changed, if it is time for one.
    fn update_summary(&mut self, now: Now, scope: &Scope) -> Option<Notification> {
        let summary = self.storms.get(scope)?.clone();
        let members = summary.members();
        let reported = self.summaries.get(scope);
        let severity = summary.severity();
        let becomes_critical = severity.is_some_and(|severity| severity >= Severity::Critical)
            && reported.is_none_or(|reported| reported.notification.severity < Severity::Critical);
        if reported.is_some_and(|reported| {
            (now.t < reported.next_at && !becomes_critical) || reported.members == members
        }) {
            return None;
        }
        let (notification, next_at) = match self.summaries.remove(scope) {
            Some(ReportedSummary { notification, .. }) => (
                Notification { update: Update::Updated, ..notification },
                now.t + UPDATE_EVERY_SECS,
            ),
            None => (self.begin_summary(now, scope), now.t + FIRST_SUMMARY_SECS),
        };
        let severity = severity.unwrap_or(notification.severity);
        let since = clock_time(notification.raised_at_ms);
        let text = message::many(
            &notification.component,
            &notification.host,
            summary.total,
            &members,
            &since,
        );
        let notification = Notification {
            id: self.next_id(),
            severity,
            summary: text,
            at_ms: now.unix_ms,
            ..notification
        }
        .bounded();
        self.summaries.insert(
            scope.clone(),
            ReportedSummary { notification: notification.clone(), members, next_at },
        );
        Some(notification)
    }

    fn begin_summary(&self, now: Now, scope: &Scope) -> Notification {
        let (incident, component, group) = match scope {
            Scope::Owner(owner) if owner.is_empty() => {
                ("many".to_owned(), "unknown cgroups".to_owned(), String::new())
            }
            Scope::Owner(owner) => (format!("many-{owner}"), owner.to_string(), owner.to_string()),
            Scope::Host => ("many-everywhere".to_owned(), "all cgroups".to_owned(), String::new()),
        };
        let mut details = Map::new();
        if *scope == Scope::Host {
            details.insert(HOST.to_owned(), true.into());
        }
        Notification {
            id: String::new(),
            incident: self.key(&incident),
            update: Update::Raised,
            severity: Severity::Warning,
            summary: String::new(),
            host: self.reporter.host.clone(),
            component,
            group,
            class: SUMMARY_CLASS.to_owned(),
            raised_at_ms: now.unix_ms,
            at_ms: now.unix_ms,
            details,
        }
    }

    fn end_summary(&mut self, now: Now, scope: &Scope, summary: &Summary) -> Option<Notification> {
        let ReportedSummary { notification, .. } = self.summaries.remove(scope)?;
        let why = format!("{} incidents are over; none came back for 5 minutes.", summary.total);
        Some(self.end(now, notification, &why))
    }

    fn change(&mut self, now: Now, incident: String, outcome: &Outcome) -> Notification {
        let (host, cgroup) = (&self.reporter.host, outcome.cgroup.to_string());
        let sentence = format!(
            "Spillway on {host}: {} {cgroup}: {}",
            outcome.event,
            outcome.why.replace('\n', ";")
        );
        let notification = Notification {
            summary: sentence,
            host: host.clone(),
            id: self.next_id(),
            incident,
            update: Update::Changed,
            severity: Severity::Warning,
            component: cgroup.clone(),
            group: cgroup,
            class: "limit of memory".to_owned(),
            raised_at_ms: now.unix_ms,
            at_ms: now.unix_ms,
            details: object(outcome),
        };
        notification.bounded()
    }

    /// Returns the key of an incident for receivers of notifications from many hosts.
    fn key(&self, incident: &str) -> String {
        let exact = format!("spillway/{}/{incident}", self.reporter.host);
        let key = printable(&exact, KEY_BYTES_MAX);
        if key == exact && key.len() <= KEY_BYTES_MAX {
            return key;
        }
        // The digest keeps keys apart that differ only in what is cut off or replaced.
        let digest = format!("#{:016x}", fnv1a(exact.as_bytes()));
        let mut end = key.len().min(KEY_BYTES_MAX - digest.len());
        while !key.is_char_boundary(end) {
            end -= 1;
        }
        format!("{}{digest}", &key[..end])
    }

    fn next_id(&mut self) -> String {
        self.notifications_total += 1;
        format!("{}-{}", self.reporter.run, self.notifications_total)
    }
}

/// Formats a time of day, such as `14:02 UTC`.
fn clock_time(unix_ms: u64) -> String {
    let timestamp = timestamp(unix_ms);
    format!("{} UTC", timestamp.get(11..16).unwrap_or(&timestamp))
}

/// Returns a verdict as it is printed for programs.
fn details(verdict: &Verdict) -> Map<String, Value> {
    object(verdict)
}

fn object(fields: &impl serde::Serialize) -> Map<String, Value> {
    match serde_json::to_value(fields) {
        Ok(Value::Object(object)) => object,
        _ => Map::new(),
    }
}

/// Hashes bytes in the same way in every version of this program: Fowler, Noll and Vo's 1a.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests;
