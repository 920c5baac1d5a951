//! Many incidents at once, told as one: a summary with a count and the first names.
//!
//! Pure: time is an argument. An owner's first incidents get pages of their own. If they come
//! faster, or if too many are open, the owner's next ones are members of its summary, which stays
//! until it has had no member for some minutes; what flaps meanwhile changes its count and nothing
//! else. The whole host has a summary too, for moments in which too many owners have incidents;
//! critical ones and others are counted apart there, so that no flood of warnings takes a critical
//! incident's page. Cold start: summaries of an earlier run go on, without members. Bounded by
//! constants.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use crate::{act::notify::text::printable, decide::Severity};

/// Most incidents of an owner that get pages of their own in a minute. A guess: half of the calls
/// that a sink takes.
const RAISES_OF_OWNER_MAX: usize = 5;
/// Most incidents of all owners, of critical ones and of others, that get pages of their own in a
/// minute. A guess: twice what a sink takes.
const RAISES_MAX: usize = 16;
/// The same of an owner's first incident in a minute: many owners at once have a cause in common.
const FIRST_RAISES_MAX: usize = 48;
const MINUTE_SECS: f64 = 60.0;

/// Most pages of an owner that are open.
const OPEN_OF_OWNER_MAX: usize = 8;
/// Most pages that are open, summaries aside: half of what may wait for a sink, so that the ends of
/// as many find room.
pub const OPEN_MAX: usize = 128;
/// Most summaries; further owners' incidents are in the host's.
const SUMMARIES_MAX: usize = 32;
/// Most members that are followed; further ones are counted, and their ends are not seen.
const MEMBERS_MAX: usize = 16_384;

/// Members that a summary names.
const NAMES_MAX: usize = 3;
const NAME_CHARS_MAX: usize = 80;

/// A summary without a member for so long is over.
const CALM_SECS: f64 = 300.0;

/// The scope of a summary.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// The cgroups of an owner.
    Owner(Arc<str>),
    /// All of this host.
    Host,
}

/// An incident that is about to be told.
pub struct Raise<'a> {
    /// The owner of its cgroup.
    pub owner: &'a str,
    /// Severity.
    pub severity: Severity,
    /// Pages of this owner that are open.
    pub open_of_owner: usize,
    /// All pages that are open.
    pub open: usize,
}

/// The summaries, and what was told lately.
#[derive(Debug, Default)]
pub struct Storms {
    raises: BTreeMap<Arc<str>, VecDeque<f64>>,
    /// Of incidents that are critical, and of others.
    raises_by_severity: [VecDeque<f64>; 2],
    summaries: BTreeMap<Scope, Summary>,
    members: BTreeMap<u64, (Scope, Severity)>,
}

/// Incidents that are told as one.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Incidents that became members, each as often as it did.
    pub total: u64,
    /// Members that stand now: critical ones, and others.
    pub open: [u64; 2],
    names: Vec<(u64, String)>,
    calm_at: Option<f64>,
}

impl Storms {
    /// The summary that an incident belongs to; `None` if it gets a page of its own, which counts
    /// as told then.
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

    /// Goes on with a summary of an earlier run, for at least so long.
    pub fn restore(&mut self, scope: Scope, t: f64, at_least_secs: f64) {
        let calm_at = Some(t + at_least_secs.max(CALM_SECS));
        self.summaries.insert(scope, Summary { calm_at, ..Summary::default() });
    }

    /// Adds a member to a summary, which is begun if there is none, or follows the member's
    /// severity.
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

    /// The summary that an incident is a member of.
    pub fn scope_of(&self, incident: u64) -> Option<&Scope> {
        self.members.get(&incident).map(|(scope, _)| scope)
    }

    /// A member is over; gives its summary.
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

    /// Takes out the summaries that are over.
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

    /// A summary as it stands.
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
    /// The severity of its most severe member; `None` if it has none now.
    pub fn severity(&self) -> Option<Severity> {
        match self.open {
            [0, 0] => None,
            [0, _] => Some(Severity::Warning),
            _ => Some(Severity::Critical),
        }
    }

    /// The members in a few words, the first of them by name.
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
