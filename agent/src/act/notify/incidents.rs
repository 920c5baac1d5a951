//! Pages for a human: once when an incident is raised, again when it changed or something else is
//! done about it, and when it is over.
//!
//! Pure: time is an argument. Updates of an incident are a minute apart, unless it becomes
//! critical; the newest counts. Incidents that come too fast or are too many are members of a
//! summary ([`Storms`]). Cold start: what an earlier run has told of and not ended is given to it;
//! an incident that is raised again goes on without a word, one that is not seen again for as long
//! as the agent takes to be sure of it is over. Bounded by [`OPEN_MAX`](super::storm::OPEN_MAX) and
//! the bounds of summaries.

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

/// Time between two updates of an incident, unless it becomes critical.
const UPDATE_EVERY_SECS: f64 = 60.0;

/// Time from the first page of a summary to its first update, in which a flood shows how large it
/// is.
const FIRST_SUMMARY_SECS: f64 = 10.0;

/// The class of summaries.
const SUMMARY_CLASS: &str = "many incidents";

/// Marks the summary of the whole host among its details.
const HOST: &str = "all_of_host";

/// A moment, on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// On the observations' clock, in seconds.
    pub t: f64,
    /// Milliseconds since 1970.
    pub unix_ms: u64,
}

/// Who tells.
#[derive(Debug, Clone)]
pub struct Reporter {
    /// This host's name.
    pub host: String,
    /// Tells this run of the agent from every other.
    pub run: String,
    /// An incident of an earlier run that is not raised again within this time is over.
    pub sure_after: Duration,
}

/// The incidents that a human knows of.
pub struct IncidentTracker {
    teller: Reporter,
    pages_total: u64,
    open: BTreeMap<String, OpenIncident>,
    storms: Storms,
    summaries: BTreeMap<Scope, ReportedSummary>,
}

/// An incident that a human knows of.
struct OpenIncident {
    /// What was told last.
    page: Notification,
    /// What was claimed last; `None` for one of an earlier run that was not raised again.
    verdict: Option<Verdict>,
    /// Present state.
    standing: IncidentState,
    /// State as it was last sent.
    told: IncidentState,
    /// When it was updated last.
    updated_at: f64,
    /// Since when this run knows of it.
    known_since: f64,
}

/// State of an incident, as far as a change of it is worth an update.
#[derive(Debug, Clone, PartialEq)]
struct IncidentState {
    severity: Severity,
    /// The reason for the severity; `None` for one of an earlier run that was not raised again.
    why: Option<String>,
    /// Action that was taken.
    done: Option<String>,
}

/// A summary that a human knows of.
struct ReportedSummary {
    page: Notification,
    /// Names of its members, as they were last sent.
    members: String,
    /// When it may be updated.
    next_at: f64,
}

impl IncidentTracker {
    /// Goes on with what an earlier run has told last of each incident that it did not end. `t` is
    /// now.
    pub fn new(teller: Reporter, told: Vec<Notification>, t: f64) -> Self {
        let mut pager = Self {
            teller,
            pages_total: 0,
            open: BTreeMap::new(),
            storms: Storms::default(),
            summaries: BTreeMap::new(),
        };
        for page in told {
            if page.class == SUMMARY_CLASS {
                let scope = match page.group.as_str() {
                    "" if page.details.contains_key(HOST) => Scope::Host,
                    group => Scope::Owner(Arc::from(group)),
                };
                pager.storms.restore(scope.clone(), t, pager.teller.sure_after.as_secs_f64());
                pager.summaries.insert(
                    scope,
                    ReportedSummary {
                        page,
                        members: String::new(),
                        next_at: t + UPDATE_EVERY_SECS,
                    },
                );
                continue;
            }
            let standing = IncidentState { severity: page.severity, why: None, done: None };
            let told = standing.clone();
            let (updated_at, known_since) = (f64::NEG_INFINITY, t);
            let open =
                OpenIncident { verdict: None, standing, told, updated_at, known_since, page };
            pager.open.insert(open.page.incident.clone(), open);
        }
        pager
    }

    /// What is to be told on account of a decision. `verdicts` are those that it followed from.
    pub fn decided(
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
                open.standing.severity = severity;
                if open.standing.why.replace(decision.why.clone()).is_none() {
                    // The same incident in another run's words is no news.
                    open.told.why.clone_from(&open.standing.why);
                }
                self.update_if_due(now, &incident)
            }
            Action::Resolve => self.resolve(now, &incident, &decision.why),
            Action::Limit
            | Action::Unlimit
            | Action::Weigh
            | Action::Unweigh
            | Action::Drain
            | Action::Undrain => None,
        }
    }

    /// What is to be told on account of what was done: how its incident stands now, and the change
    /// to this host.
    pub fn done(&mut self, now: Now, outcome: &Outcome) -> Vec<Notification> {
        let size = outcome.limit_bytes.map(|bytes| Size(bytes as f64).to_string());
        let why = outcome.why.lines().next().unwrap_or_default();
        let done = match outcome.event {
            OutcomeKind::Limited => {
                format!("its memory is held below {}", size.unwrap_or_default())
            }
            OutcomeKind::GrowthStopped => {
                format!("its memory is held below {} and grows no more", size.unwrap_or_default())
            }
            OutcomeKind::Undone | OutcomeKind::CgroupRemoved => "its limit is lifted".to_owned(),
            OutcomeKind::Refused => format!("it is not limited: {why}"),
            OutcomeKind::Failed => format!("it could not be limited: {why}"),
            OutcomeKind::Overridden => format!("its limit is left to somebody else: {why}"),
            OutcomeKind::Relaxed | OutcomeKind::Thrashing => {
                format!("a limit does not help: {why}")
            }
            OutcomeKind::CpuThrottled => {
                format!(
                    "its memory is held below {}, and it gets less CPU",
                    size.unwrap_or_default()
                )
            }
            OutcomeKind::Draining => "this node is drained".to_owned(),
            OutcomeKind::DrainRefused => format!("this node could not be drained: {why}"),
            OutcomeKind::DrainUseless => format!("this node takes work again: {why}"),
            OutcomeKind::Undrained => "this node takes work again".to_owned(),
            OutcomeKind::UndrainFailed => format!("this node does not get its work back: {why}"),
            OutcomeKind::DrainRequested
            | OutcomeKind::Drained
            | OutcomeKind::Verifying
            | OutcomeKind::UndrainRequested => return Vec::new(),
            OutcomeKind::Reasserted
            | OutcomeKind::Tightened
            | OutcomeKind::Widened
            | OutcomeKind::KeptAfterIncident => return Vec::new(),
        };
        // Whoever was told in an earlier run is told of by its names.
        let incidents: Vec<_> = outcome.id.split(", ").map(|id| self.key(id)).collect();
        let mut pages = Vec::new();
        for incident in &incidents {
            let Some(open) = self.open.get_mut(incident) else { continue };
            let before = open.standing.done.replace(done.clone());
            // A setback that was none before is decided to be urgent, and told of then.
            if outcome.event.is_setback() && open.page.severity < Severity::Critical {
                continue;
            }
            if before.as_ref() != Some(&done) {
                pages.extend(self.update_if_due(now, incident));
            }
        }
        if matches!(
            outcome.event,
            OutcomeKind::Limited
                | OutcomeKind::Undone
                | OutcomeKind::Draining
                | OutcomeKind::Undrained
        ) {
            let incident = incidents.into_iter().next().unwrap_or_default();
            pages.push(self.change(now, incident, outcome));
        }
        pages
    }

    /// Pages that are due because time went by: updates that had to wait, summaries that changed,
    /// and the end of what an earlier run has told of and nothing was seen of since.
    pub fn due(&mut self, now: Now) -> Vec<Notification> {
        let sure_after_secs = self.teller.sure_after.as_secs_f64();
        let is_forgotten = |open: &OpenIncident| {
            open.verdict.is_none() && now.t - open.known_since >= sure_after_secs
        };
        let (mut forgotten, mut changed) = (Vec::new(), Vec::new());
        for (incident, open) in &self.open {
            if is_forgotten(open) {
                forgotten.push(incident.clone());
            } else if open.standing != open.told {
                changed.push(incident.clone());
            }
        }
        let why = "Nothing was seen of it since the agent was started again.";
        let mut pages: Vec<_> =
            forgotten.iter().filter_map(|incident| self.resolve(now, incident, why)).collect();
        pages.extend(changed.iter().filter_map(|incident| self.update_if_due(now, incident)));
        for (scope, summary) in self.storms.over(now.t) {
            pages.extend(self.end_summary(now, &scope, &summary));
        }
        let scopes: Vec<_> = self.summaries.keys().cloned().collect();
        pages.extend(scopes.iter().filter_map(|scope| self.tell_summary(now, scope)));
        pages
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
            return self.tell_summary(now, &scope);
        }
        let group = printable(claim.cgroup(), NAME_CHARS_MAX);
        let open_of_owner =
            self.open.values().filter(|open| owner(&open.page.group) == owner(&group)).count();
        let raise = Raise { owner: owner(&group), severity, open_of_owner, open: self.open.len() };
        let scope = match self.storms.scope_of(digest) {
            Some(scope) => Some(scope.clone()),
            None => self.storms.place(now.t, &raise),
        };
        if let Some(scope) = scope {
            let name = format!("{} ({})", message::component(claim), message::class(claim));
            self.storms.join(&scope, digest, severity, &name);
            return self.tell_summary(now, &scope);
        }
        let page = Notification {
            id: self.next_id(),
            incident: incident.clone(),
            news: Update::Raised,
            severity,
            summary: message::standing(verdict, &self.teller.host, &clock_time(now.unix_ms), None),
            host: self.teller.host.clone(),
            component: message::component(claim),
            group,
            class: message::class(claim),
            raised_at_ms: now.unix_ms,
            at_ms: now.unix_ms,
            details: details(verdict),
        };
        let page = page.bounded();
        let standing = IncidentState { severity, why: Some(why.to_owned()), done: None };
        let told = standing.clone();
        let (verdict, updated_at, known_since) = (Some(verdict.clone()), f64::NEG_INFINITY, now.t);
        let open =
            OpenIncident { page: page.clone(), verdict, standing, told, updated_at, known_since };
        self.open.insert(incident, open);
        Some(page)
    }

    /// The update of an incident that changed, if it is time for one.
    fn update_if_due(&mut self, now: Now, incident: &str) -> Option<Notification> {
        let open = self.open.get(incident)?;
        let becomes_critical =
            open.standing.severity >= Severity::Critical && open.told.severity < Severity::Critical;
        let is_due = now.t - open.updated_at >= UPDATE_EVERY_SECS || becomes_critical;
        if open.standing == open.told || !is_due {
            return None;
        }
        let (id, host) = (self.next_id(), &self.teller.host);
        let open = self.open.get_mut(incident)?;
        let OpenIncident { page, standing, told, .. } = open;
        (page.id, page.news, page.severity, page.at_ms) =
            (id, Update::Updated, standing.severity, now.unix_ms);
        if let Some(verdict) = &open.verdict {
            page.summary = message::standing(
                verdict,
                host,
                &clock_time(page.raised_at_ms),
                standing.done.as_deref(),
            );
            page.class = message::class(&verdict.claim);
            page.details = details(verdict);
        }
        if let (Some(why), true) = (&standing.why, standing.why != told.why) {
            page.summary = format!("{} Now: {}.", page.summary, why.trim_end_matches('.'));
        }
        page.details.insert("done".to_owned(), standing.done.clone().into());
        page.details.insert("reason".to_owned(), standing.why.clone().into());
        *page = page.clone().bounded();
        (*told, open.updated_at) = (standing.clone(), now.t);
        Some(page.clone())
    }

    fn resolve(&mut self, now: Now, incident: &str, why: &str) -> Option<Notification> {
        let Some(OpenIncident { page, .. }) = self.open.remove(incident) else {
            let scope = self.storms.leave(now.t, fnv1a(incident.as_bytes()))?;
            return self.tell_summary(now, &scope);
        };
        Some(self.end(now, page, why))
    }

    fn end(&mut self, now: Now, page: Notification, why: &str) -> Notification {
        let secs = now.unix_ms.saturating_sub(page.raised_at_ms) as f64 / 1e3;
        let summary = message::over(&page.component, &page.class, &page.host, secs, why);
        Notification {
            id: self.next_id(),
            news: Update::Resolved,
            at_ms: now.unix_ms,
            summary,
            ..page
        }
        .bounded()
    }

    /// A summary as it stands, if it is time to tell it.
    fn tell_summary(&mut self, now: Now, scope: &Scope) -> Option<Notification> {
        let summary = self.storms.get(scope)?.clone();
        let members = summary.members();
        let told = self.summaries.get(scope);
        let severity = summary.severity();
        let becomes_critical = severity.is_some_and(|severity| severity >= Severity::Critical)
            && told.is_none_or(|told| told.page.severity < Severity::Critical);
        if told.is_some_and(|told| {
            (now.t < told.next_at && !becomes_critical) || told.members == members
        }) {
            return None;
        }
        let (page, next_at) = match self.summaries.remove(scope) {
            Some(ReportedSummary { page, .. }) => {
                (Notification { news: Update::Updated, ..page }, now.t + UPDATE_EVERY_SECS)
            }
            None => (self.begin_summary(now, scope), now.t + FIRST_SUMMARY_SECS),
        };
        let severity = severity.unwrap_or(page.severity);
        let since = clock_time(page.raised_at_ms);
        let text = message::many(&page.component, &page.host, summary.total, &members, &since);
        let page = Notification {
            id: self.next_id(),
            severity,
            summary: text,
            at_ms: now.unix_ms,
            ..page
        }
        .bounded();
        self.summaries
            .insert(scope.clone(), ReportedSummary { page: page.clone(), members, next_at });
        Some(page)
    }

    fn begin_summary(&self, now: Now, scope: &Scope) -> Notification {
        let (incident, component, group) = match scope {
            Scope::Owner(owner) if owner.is_empty() => {
                ("many".to_owned(), "unknown cgroups".to_owned(), String::new())
            }
            Scope::Owner(owner) => (format!("many-{owner}"), owner.to_string(), owner.to_string()),
            Scope::Host => ("many-everywhere".to_owned(), "all of it".to_owned(), String::new()),
        };
        let mut details = Map::new();
        if *scope == Scope::Host {
            details.insert(HOST.to_owned(), true.into());
        }
        Notification {
            id: String::new(),
            incident: self.key(&incident),
            news: Update::Raised,
            severity: Severity::Warning,
            summary: String::new(),
            host: self.teller.host.clone(),
            component,
            group,
            class: SUMMARY_CLASS.to_owned(),
            raised_at_ms: now.unix_ms,
            at_ms: now.unix_ms,
            details,
        }
    }

    fn end_summary(&mut self, now: Now, scope: &Scope, summary: &Summary) -> Option<Notification> {
        let ReportedSummary { page, .. } = self.summaries.remove(scope)?;
        let why = format!("{} incidents are over; none came back for some minutes.", summary.total);
        Some(self.end(now, page, &why))
    }

    fn change(&mut self, now: Now, incident: String, outcome: &Outcome) -> Notification {
        let (host, cgroup) = (&self.teller.host, outcome.cgroup.to_string());
        let sentence = format!(
            "Spillway on {host}: {} {cgroup}: {}",
            outcome.event,
            outcome.why.replace('\n', ";")
        );
        let page = Notification {
            summary: sentence,
            host: host.clone(),
            id: self.next_id(),
            incident,
            news: Update::Changed,
            severity: Severity::Warning,
            component: cgroup.clone(),
            group: cgroup,
            class: "limit of memory".to_owned(),
            raised_at_ms: now.unix_ms,
            at_ms: now.unix_ms,
            details: object(outcome),
        };
        page.bounded()
    }

    /// An incident's name for those who are told of many hosts.
    fn key(&self, incident: &str) -> String {
        let exact = format!("spillway/{}/{incident}", self.teller.host);
        let key = printable(&exact, KEY_BYTES_MAX);
        if key == exact && key.len() <= KEY_BYTES_MAX {
            return key;
        }
        // What is cut off or not shown still tells it from another.
        let digest = format!("#{:016x}", fnv1a(exact.as_bytes()));
        let mut end = key.len().min(KEY_BYTES_MAX - digest.len());
        while !key.is_char_boundary(end) {
            end -= 1;
        }
        format!("{}{digest}", &key[..end])
    }

    fn next_id(&mut self) -> String {
        self.pages_total += 1;
        format!("{}-{}", self.teller.run, self.pages_total)
    }
}

/// The time of day, as `14:02 UTC`.
fn clock_time(unix_ms: u64) -> String {
    let timestamp = timestamp(unix_ms);
    format!("{} UTC", timestamp.get(11..16).unwrap_or(&timestamp))
}

/// Everything that is claimed, as it is printed for programs.
fn details(verdict: &Verdict) -> Map<String, Value> {
    object(verdict)
}

fn object(fields: &impl serde::Serialize) -> Map<String, Value> {
    match serde_json::to_value(fields) {
        Ok(Value::Object(object)) => object,
        _ => Map::new(),
    }
}

/// A hash that is the same in every version of this program: Fowler, Noll and Vo's 1a.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests;
