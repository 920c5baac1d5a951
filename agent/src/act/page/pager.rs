//! Pages for a human: once when an incident is raised, again when it changed or something else is done about it, and when it is over.
//!
//! Pure: time is an argument. Updates of an incident are a minute apart, unless it becomes critical; the newest counts. Incidents that come too fast or
//! are too many are members of a summary ([`Storms`]). Cold start: what an earlier run has told of and not ended is given to it; an
//! incident that is raised again goes on without a word, one that is not seen again for as long as the agent takes to be sure of it is over. Bounded
//! by [`OPEN_MAX`](super::storm::OPEN_MAX) and the bounds of summaries.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::{Map, Value};

use super::{
    KEY_BYTES_MAX, NAME_CHARS_MAX, News, Page,
    owner::owner,
    storm::{Raise, Scope, Storms, Summary},
    summary,
    text::printable,
    timestamp,
};
use crate::{
    act::outcome::{Event, Outcome},
    decide::{Action, Decision, IncidentId, Severity},
    detect::Verdict,
    detect::words::Size,
};

/// Time between two updates of an incident, unless it becomes critical.
const UPDATE_EVERY_SECS: f64 = 60.0;

/// Time from the first page of a summary to its first update, in which a flood shows how large it is.
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
pub struct Teller {
    /// This host's name.
    pub host: String,
    /// Tells this run of the agent from every other.
    pub run: String,
    /// An incident of an earlier run that is not raised again within this time is over.
    pub sure_after: Duration,
}

/// The incidents that a human knows of.
pub struct Pager {
    teller: Teller,
    pages_total: u64,
    open: BTreeMap<String, Open>,
    storms: Storms,
    summaries: BTreeMap<Scope, Told>,
}

/// An incident that a human knows of.
struct Open {
    /// What was told last.
    page: Page,
    /// What was claimed last; `None` for one of an earlier run that was not raised again.
    verdict: Option<Verdict>,
    /// Present state.
    standing: Standing,
    /// State as it was last sent.
    told: Standing,
    /// When it was updated last.
    updated_at: f64,
    /// Since when this run knows of it.
    known_since: f64,
}

/// State of an incident, as far as a change of it is worth an update.
#[derive(Debug, Clone, PartialEq)]
struct Standing {
    severity: Severity,
    /// The reason for the severity; `None` for one of an earlier run that was not raised again.
    why: Option<String>,
    /// Action that was taken.
    done: Option<String>,
}

/// A summary that a human knows of.
struct Told {
    page: Page,
    /// Names of its members, as they were last sent.
    members: String,
    /// When it may be updated.
    next_at: f64,
}

impl Pager {
    /// Goes on with what an earlier run has told last of each incident that it did not end. `t` is now.
    pub fn new(teller: Teller, told: Vec<Page>, t: f64) -> Self {
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
                pager.summaries.insert(scope, Told { page, members: String::new(), next_at: t + UPDATE_EVERY_SECS });
                continue;
            }
            let standing = Standing { severity: page.severity, why: None, done: None };
            let told = standing.clone();
            let (updated_at, known_since) = (f64::NEG_INFINITY, t);
            let open = Open { verdict: None, standing, told, updated_at, known_since, page };
            pager.open.insert(open.page.incident.clone(), open);
        }
        pager
    }

    /// What is to be told on account of a decision. `verdicts` are those that it followed from.
    pub fn decided(&mut self, now: Now, decision: &Decision, verdicts: &[Verdict]) -> Option<Page> {
        let incident = self.key(&decision.id.to_string());
        match decision.action {
            Action::Page { severity } => {
                let verdict = verdicts.iter().rev().find(|verdict| IncidentId::from(*verdict) == decision.id);
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
            Action::Limit | Action::Unlimit | Action::Weigh | Action::Unweigh | Action::Drain | Action::Undrain => None,
        }
    }

    /// What is to be told on account of what was done: how its incident stands now, and the change to this host.
    pub fn done(&mut self, now: Now, outcome: &Outcome) -> Vec<Page> {
        let size = outcome.limit_bytes.map(|bytes| Size(bytes as f64).to_string());
        let why = outcome.why.lines().next().unwrap_or_default();
        let done = match outcome.event {
            Event::Limited => format!("its memory is held below {}", size.unwrap_or_default()),
            Event::Still => format!("its memory is held below {} and grows no more", size.unwrap_or_default()),
            Event::Undone | Event::Gone => "its limit is lifted".to_owned(),
            Event::Refused => format!("it is not limited: {why}"),
            Event::Failed => format!("it could not be limited: {why}"),
            Event::Yielded => format!("its limit is left to somebody else: {why}"),
            Event::BackedOff | Event::Thrashing => format!("a limit does not help: {why}"),
            Event::Slowed => format!("its memory is held below {}, and it gets less CPU", size.unwrap_or_default()),
            Event::Draining => "this node is drained".to_owned(),
            Event::DrainRefused => format!("this node could not be drained: {why}"),
            Event::DrainUseless => format!("this node takes work again: {why}"),
            Event::Undrained => "this node takes work again".to_owned(),
            Event::UndrainFailed => format!("this node does not get its work back: {why}"),
            Event::DrainRequested | Event::Drained | Event::Verifying | Event::UndrainRequested => return Vec::new(),
            Event::Reasserted | Event::Tightened | Event::Widened | Event::Held => return Vec::new(),
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
        if matches!(outcome.event, Event::Limited | Event::Undone | Event::Draining | Event::Undrained) {
            let incident = incidents.into_iter().next().unwrap_or_default();
            pages.push(self.change(now, incident, outcome));
        }
        pages
    }

    /// Pages that are due because time went by: updates that had to wait, summaries that changed, and the end of what an earlier run has told of
    /// and nothing was seen of since.
    pub fn due(&mut self, now: Now) -> Vec<Page> {
        let sure_after_secs = self.teller.sure_after.as_secs_f64();
        let is_forgotten = |open: &Open| open.verdict.is_none() && now.t - open.known_since >= sure_after_secs;
        let (mut forgotten, mut changed) = (Vec::new(), Vec::new());
        for (incident, open) in &self.open {
            if is_forgotten(open) {
                forgotten.push(incident.clone());
            } else if open.standing != open.told {
                changed.push(incident.clone());
            }
        }
        let why = "Nothing was seen of it since the agent was started again.";
        let mut pages: Vec<_> = forgotten.iter().filter_map(|incident| self.resolve(now, incident, why)).collect();
        pages.extend(changed.iter().filter_map(|incident| self.update_if_due(now, incident)));
        for (scope, summary) in self.storms.over(now.t) {
            pages.extend(self.end_summary(now, &scope, &summary));
        }
        let scopes: Vec<_> = self.summaries.keys().cloned().collect();
        pages.extend(scopes.iter().filter_map(|scope| self.tell_summary(now, scope)));
        pages
    }

    fn raise(&mut self, now: Now, incident: String, severity: Severity, why: &str, verdict: &Verdict) -> Option<Page> {
        let claim = &verdict.claim;
        let digest = fnv1a(incident.as_bytes());
        if severity < Severity::Warning {
            let scope = self.storms.leave(now.t, digest)?;
            return self.tell_summary(now, &scope);
        }
        let group = printable(claim.cgroup(), NAME_CHARS_MAX);
        let open_of_owner = self.open.values().filter(|open| owner(&open.page.group) == owner(&group)).count();
        let raise = Raise { owner: owner(&group), severity, open_of_owner, open: self.open.len() };
        let scope = match self.storms.scope_of(digest) {
            Some(scope) => Some(scope.clone()),
            None => self.storms.place(now.t, &raise),
        };
        if let Some(scope) = scope {
            let name = format!("{} ({})", summary::component(claim), summary::class(claim));
            self.storms.join(&scope, digest, severity, &name);
            return self.tell_summary(now, &scope);
        }
        let page = Page {
            id: self.next_id(),
            incident: incident.clone(),
            news: News::Raised,
            severity,
            summary: summary::standing(verdict, &self.teller.host, &clock_time(now.unix_ms), None),
            host: self.teller.host.clone(),
            component: summary::component(claim),
            group,
            class: summary::class(claim),
            raised_at_ms: now.unix_ms,
            at_ms: now.unix_ms,
            details: details(verdict),
        };
        let page = page.bounded();
        let standing = Standing { severity, why: Some(why.to_owned()), done: None };
        let told = standing.clone();
        let (verdict, updated_at, known_since) = (Some(verdict.clone()), f64::NEG_INFINITY, now.t);
        let open = Open { page: page.clone(), verdict, standing, told, updated_at, known_since };
        self.open.insert(incident, open);
        Some(page)
    }

    /// The update of an incident that changed, if it is time for one.
    fn update_if_due(&mut self, now: Now, incident: &str) -> Option<Page> {
        let open = self.open.get(incident)?;
        let becomes_critical = open.standing.severity >= Severity::Critical && open.told.severity < Severity::Critical;
        let is_due = now.t - open.updated_at >= UPDATE_EVERY_SECS || becomes_critical;
        if open.standing == open.told || !is_due {
            return None;
        }
        let (id, host) = (self.next_id(), &self.teller.host);
        let open = self.open.get_mut(incident)?;
        let Open { page, standing, told, .. } = open;
        (page.id, page.news, page.severity, page.at_ms) = (id, News::Updated, standing.severity, now.unix_ms);
        if let Some(verdict) = &open.verdict {
            page.summary = summary::standing(verdict, host, &clock_time(page.raised_at_ms), standing.done.as_deref());
            page.class = summary::class(&verdict.claim);
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

    fn resolve(&mut self, now: Now, incident: &str, why: &str) -> Option<Page> {
        let Some(Open { page, .. }) = self.open.remove(incident) else {
            let scope = self.storms.leave(now.t, fnv1a(incident.as_bytes()))?;
            return self.tell_summary(now, &scope);
        };
        Some(self.end(now, page, why))
    }

    fn end(&mut self, now: Now, page: Page, why: &str) -> Page {
        let secs = now.unix_ms.saturating_sub(page.raised_at_ms) as f64 / 1e3;
        let summary = summary::over(&page.component, &page.class, &page.host, secs, why);
        Page { id: self.next_id(), news: News::Resolved, at_ms: now.unix_ms, summary, ..page }.bounded()
    }

    /// A summary as it stands, if it is time to tell it.
    fn tell_summary(&mut self, now: Now, scope: &Scope) -> Option<Page> {
        let summary = self.storms.get(scope)?.clone();
        let members = summary.members();
        let told = self.summaries.get(scope);
        let severity = summary.severity();
        let becomes_critical = severity.is_some_and(|severity| severity >= Severity::Critical)
            && told.is_none_or(|told| told.page.severity < Severity::Critical);
        if told.is_some_and(|told| (now.t < told.next_at && !becomes_critical) || told.members == members) {
            return None;
        }
        let (page, next_at) = match self.summaries.remove(scope) {
            Some(Told { page, .. }) => (Page { news: News::Updated, ..page }, now.t + UPDATE_EVERY_SECS),
            None => (self.begin_summary(now, scope), now.t + FIRST_SUMMARY_SECS),
        };
        let severity = severity.unwrap_or(page.severity);
        let since = clock_time(page.raised_at_ms);
        let text = summary::many(&page.component, &page.host, summary.total, &members, &since);
        let page = Page { id: self.next_id(), severity, summary: text, at_ms: now.unix_ms, ..page }.bounded();
        self.summaries.insert(scope.clone(), Told { page: page.clone(), members, next_at });
        Some(page)
    }

    fn begin_summary(&self, now: Now, scope: &Scope) -> Page {
        let (incident, component, group) = match scope {
            Scope::Owner(owner) if owner.is_empty() => ("many".to_owned(), "unknown cgroups".to_owned(), String::new()),
            Scope::Owner(owner) => (format!("many-{owner}"), owner.to_string(), owner.to_string()),
            Scope::Host => ("many-everywhere".to_owned(), "all of it".to_owned(), String::new()),
        };
        let mut details = Map::new();
        if *scope == Scope::Host {
            details.insert(HOST.to_owned(), true.into());
        }
        Page {
            id: String::new(),
            incident: self.key(&incident),
            news: News::Raised,
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

    fn end_summary(&mut self, now: Now, scope: &Scope, summary: &Summary) -> Option<Page> {
        let Told { page, .. } = self.summaries.remove(scope)?;
        let why = format!("{} incidents are over; none came back for some minutes.", summary.total);
        Some(self.end(now, page, &why))
    }

    fn change(&mut self, now: Now, incident: String, outcome: &Outcome) -> Page {
        let (host, cgroup) = (&self.teller.host, outcome.cgroup.to_string());
        let sentence = format!("Spillway on {host}: {} {cgroup}: {}", outcome.event, outcome.why.replace('\n', ";"));
        let page = Page {
            summary: sentence,
            host: host.clone(),
            id: self.next_id(),
            incident,
            news: News::Changed,
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
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests;
