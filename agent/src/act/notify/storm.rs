//! Storms: many incidents at once, reported as one summary with a count and the first names.
//!
//! Pure: time is an argument. An owner's first incidents are reported one by one. If they come
//! faster, or if too many are open, the owner's next ones become members of its summary, which
//! stays until it has had no member for five minutes; incidents that flap meanwhile change its
//! count and nothing else. The whole host has a summary too, for times in which too many owners
//! have incidents. Critical incidents and others are counted separately there, so that no flood of
//! warnings suppresses a critical one. Cold start: summaries of an earlier run continue, without
//! members. Bounded by constants.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use crate::{act::notify::text::printable, decide::Severity};

/// Maximum number of incidents of an owner that are reported one by one in a minute. A guess: half
/// of the calls that a sink takes.
const RAISES_OF_OWNER_MAX: usize = 5;
/// Maximum number of incidents of all owners that are reported one by one in a minute, for critical
/// ones and for others. A guess: twice what a sink takes.
const RAISES_MAX: usize = 16;
/// The same for the first incident of an owner in a minute: many owners at once have a common
/// cause.
const FIRST_RAISES_MAX: usize = 48;
const MINUTE_SECS: f64 = 60.0;

/// Maximum number of open incidents of an owner, those in summaries aside.
const OPEN_OF_OWNER_MAX: usize = 8;
/// Maximum number of open incidents, those in summaries aside: half of the notifications that may
/// wait for a sink, so that their ends fit too.
pub const OPEN_MAX: usize = 128;
/// Maximum number of summaries; incidents of further owners are in the host's.
const SUMMARIES_MAX: usize = 32;
/// Maximum number of members; further ones are counted, and their ends are missed.
const MEMBERS_MAX: usize = 16_384;

/// Maximum number of members that a summary names.
const NAMES_MAX: usize = 3;
const NAME_CHARS_MAX: usize = 80;

/// Time without a member after which a summary is over.
const CALM_SECS: f64 = 300.0;

/// The scope of a summary.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// The cgroups of an owner.
    Owner(Arc<str>),
    /// All of this host.
    Host,
}

/// An incident that is about to be reported.
pub struct Raise<'a> {
    /// Owner of its cgroup.
    pub owner: &'a str,
    /// Its severity.
    pub severity: Severity,
    /// Number of open incidents of this owner.
    pub open_of_owner: usize,
    /// Number of all open incidents.
    pub open: usize,
}

/// Summaries, and the incidents of the last minute.
#[derive(Debug, Default)]
pub struct Storms {
    raises: BTreeMap<Arc<str>, VecDeque<f64>>,
    /// Times of critical incidents, and of others.
    raises_by_severity: [VecDeque<f64>; 2],
    summaries: BTreeMap<Scope, Summary>,
    members: BTreeMap<u64, (Scope, Severity)>,
}

/// Incidents that are reported as one.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Number of incidents that became members; one that flaps counts each time.
    pub total: u64,
    /// Number of open members: critical ones, and others.
    pub open: [u64; 2],
    names: Vec<(u64, String)>,
    calm_at: Option<f64>,
}

impl Storms {
    /// Returns the summary that an incident belongs to; `None` if it is reported on its own, and
    /// counts it then.
    pub fn place(&mut self, t: f64, raise: &Raise<'_>) -> Option<Scope> {
        let scope = Scope::Owner(Arc::from(raise.owner));
        if self.summaries.contains_key(&scope) {
            return Some(scope);
        }
        self.raises.retain(|_, raises| {
            expire(raises, t);
            !raises.is_empty()
        });
        let of_owner = self.raises.get(raise.owner).map_or(0, VecDeque::len);
        if of_owner >= RAISES_OF_OWNER_MAX || raise.open_of_owner >= OPEN_OF_OWNER_MAX {
            let has_room = self.summaries.len() < SUMMARIES_MAX;
            return Some(if has_room { scope } else { Scope::Host });
        }
        let at_once = &mut self.raises_by_severity[class(raise.severity)];
        expire(at_once, t);
        let raises_max = if of_owner == 0 { FIRST_RAISES_MAX } else { RAISES_MAX };
        if at_once.len() >= raises_max || raise.open >= OPEN_MAX {
            return Some(Scope::Host);
        }
        at_once.push_back(t);
        self.raises.entry(Arc::from(raise.owner)).or_default().push_back(t);
        None
    }

    /// Continues a summary of an earlier run for at least `at_least_secs`.
    pub fn restore(&mut self, scope: Scope, t: f64, at_least_secs: f64) {
        let calm_at = Some(t + at_least_secs.max(CALM_SECS));
        self.summaries.insert(scope, Summary { calm_at, ..Summary::default() });
    }

    /// Adds a member to a summary, which begins if there is none; a member that is there already
    /// gets its new severity.
    pub fn join(&mut self, scope: &Scope, incident: u64, severity: Severity, name: &str) {
        if self.members.contains_key(&incident) {
            return self.change(incident, severity);
        }
        let summary = self.summaries.entry(scope.clone()).or_default();
        summary.total = summary.total.saturating_add(1);
        if self.members.len() >= MEMBERS_MAX {
            return;
        }
        self.members.insert(incident, (scope.clone(), severity));
        summary.open[class(severity)] += 1;
        summary.calm_at = None;
        if severity >= Severity::Critical {
            summary.names.insert(0, (incident, printable(name, NAME_CHARS_MAX)));
            summary.names.truncate(NAMES_MAX);
        } else if summary.names.len() < NAMES_MAX {
            summary.names.push((incident, printable(name, NAME_CHARS_MAX)));
        }
    }

    /// Returns the scope of the summary that an incident is a member of.
    pub fn scope_of(&self, incident: u64) -> Option<&Scope> {
        self.members.get(&incident).map(|(scope, _)| scope)
    }

    /// Removes a member that is over, and returns the scope of its summary.
    pub fn leave(&mut self, t: f64, incident: u64) -> Option<Scope> {
        let (scope, severity) = self.members.remove(&incident)?;
        let summary = self.summaries.get_mut(&scope)?;
        let open = &mut summary.open[class(severity)];
        *open = open.saturating_sub(1);
        summary.names.retain(|(named, _)| *named != incident);
        if summary.open == [0, 0] {
            summary.calm_at = Some(t + CALM_SECS);
        }
        Some(scope)
    }

    /// Removes and returns the summaries that are over.
    pub fn over(&mut self, t: f64) -> Vec<(Scope, Summary)> {
        let is_over = |summary: &Summary| summary.calm_at.is_some_and(|at| t >= at);
        let over = self
            .summaries
            .iter()
            .filter(|(_, summary)| is_over(summary))
            .map(|(scope, _)| scope.clone());
        let over: Vec<_> = over.collect();
        over.into_iter().filter_map(|scope| self.summaries.remove_entry(&scope)).collect()
    }

    /// Returns a summary.
    pub fn get(&self, scope: &Scope) -> Option<&Summary> {
        self.summaries.get(scope)
    }

    fn change(&mut self, incident: u64, severity: Severity) {
        let Some((scope, before)) = self.members.get_mut(&incident) else { return };
        let Some(summary) = self.summaries.get_mut(scope) else { return };
        let open = &mut summary.open[class(*before)];
        *open = open.saturating_sub(1);
        summary.open[class(severity)] += 1;
        *before = severity;
    }
}

impl Summary {
    /// Returns the severity of the most severe open member; `None` if none is open.
    pub fn severity(&self) -> Option<Severity> {
        match self.open {
            [0, 0] => None,
            [0, _] => Some(Severity::Warning),
            _ => Some(Severity::Critical),
        }
    }

    /// Describes the open members in a few words, the first of them by name.
    pub fn members(&self) -> String {
        let [critical, others] = self.open;
        let open = critical.saturating_add(others);
        let names: Vec<_> = self.names.iter().map(|(_, name)| name.as_str()).collect();
        let more = open.saturating_sub(names.len() as u64);
        let named = match (names.is_empty(), more) {
            (true, _) => String::new(),
            (false, 0) => format!(": {}", names.join(", ")),
            (false, more) => format!(": {} and {more} more", names.join(", ")),
        };
        format!("{open} open, {critical} of them critical{named}")
    }
}

fn class(severity: Severity) -> usize {
    usize::from(severity < Severity::Critical)
}

fn expire(times: &mut VecDeque<f64>, t: f64) {
    while times.front().is_some_and(|at| t - at >= MINUTE_SECS) {
        times.pop_front();
    }
}
