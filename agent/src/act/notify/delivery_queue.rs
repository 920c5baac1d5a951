//! The queue of one sink: notifications that wait, and the next one to send.
//!
//! Pure: time and jitter are arguments. Notifications of one incident keep their order, and a newer
//! one replaces those that it makes obsolete, so that an incident has at most two waiting: its news
//! and a change of this host, besides one in flight. A raise that was never sent is cancelled by
//! its resolve. Critical notifications go first; among equals, owners of cgroups take turns. Some
//! of a minute's calls are reserved for critical notifications, and the last ones for owners
//! without a call in that minute, so that a flood cannot use them up. After a failure the whole
//! sink pauses, twice as long each time; the notification with the fewest attempts goes next, so
//! that one that is never taken blocks no other. Cold start: empty.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::Update;
use crate::{decide::Severity, net::backoff::Backoff};

/// Maximum number of notifications that wait for a sink. A guess: 256 take 25 minutes of calls, and
/// no human reads more.
pub const WAITING_MAX: usize = 256;

/// Maximum number of calls in any minute.
const CALLS_PER_MINUTE_MAX: usize = 10;
/// Calls of these that may be for notifications that are not critical.
const CALLS_FOR_ANY: usize = 7;
/// Calls of these that may be for owners that had one in this minute.
const CALLS_FOR_SAME_OWNER: usize = 8;
const MINUTE_SECS: f64 = 60.0;

/// Maximum delay after a failure of the sink, unless the sink asks for more.
const RETRY_SECS_MAX: f64 = 300.0;
/// Maximum delay of a critical notification that was not tried yet after a failure of the sink,
/// unless the sink asks for more.
const CRITICAL_RETRY_SECS_MAX: f64 = 10.0;

/// Notifications that wait for one sink.
#[derive(Debug)]
pub struct DeliveryQueue {
    waiting: BTreeMap<u64, Waiting>,
    /// The notification in flight.
    sending: Option<u64>,
    /// Times and owners of the last calls, the oldest first.
    calls: VecDeque<(f64, Arc<str>)>,
    calls_total: u64,
    /// Number of the last call for each owner with a notification that waits.
    turns: BTreeMap<Arc<str>, u64>,
    backoff: Backoff,
    last_failed: Option<u64>,
    /// Set if two notifications failed one after the other: the sink is down, and neither
    /// notification is the cause.
    is_down: bool,
    paused_until: f64,
    critical_paused_until: f64,
    is_closed: bool,
}

/// The properties of a notification that decide its place in the queue.
#[derive(Debug, Clone)]
pub struct QueueItem {
    /// Key of its incident.
    pub incident: Arc<str>,
    /// Owner of its cgroup.
    pub owner: Arc<str>,
    /// Kind of news.
    pub update: Update,
    /// Severity of the incident.
    pub severity: Severity,
    /// Set if the sink may have it already: an earlier run or a failed call may have sent it.
    pub may_be_known: bool,
}

#[derive(Debug)]
struct Waiting {
    item: QueueItem,
    tries: u32,
}

/// The next notification of an incident.
struct NextUpdate<'a> {
    nth: u64,
    tries: u32,
    rank: Rank,
    owner: &'a Arc<str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Critical,
    Warning,
    Update,
    Change,
}

/// Effect of a newer notification of an incident on an older one that waits.
enum Fold {
    Keep,
    /// The older one is obsolete; `may_be_known` is passed on to the newer one.
    Replace {
        may_be_known: bool,
    },
    /// Both are obsolete: the sink never heard of the incident.
    Cancel,
}

/// Next action for a queue.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum NextDelivery {
    /// Send this notification.
    Send(u64),
    /// Ask again at this time.
    At(f64),
    /// Nothing can be sent until a notification is added or a call is answered.
    Nothing,
}

impl Default for DeliveryQueue {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            sending: None,
            calls: VecDeque::new(),
            calls_total: 0,
            turns: BTreeMap::new(),
            backoff: Backoff::new(RETRY_SECS_MAX, None),
            last_failed: None,
            is_down: false,
            paused_until: 0.0,
            critical_paused_until: 0.0,
            is_closed: false,
        }
    }
}

impl DeliveryQueue {
    /// Adds a notification, whose number is higher than all before. Returns those that are obsolete
    /// now, which may include the new one.
    pub fn add(&mut self, nth: u64, mut item: QueueItem) -> Vec<u64> {
        if self.is_closed {
            return vec![nth];
        }
        let (mut obsolete, mut is_cancelled) = (Vec::new(), false);
        for (older_nth, older) in &self.waiting {
            if older.item.incident != item.incident || self.sending == Some(*older_nth) {
                continue;
            }
            match fold(&older.item, &item) {
                Fold::Keep => continue,
                Fold::Replace { may_be_known } => item.may_be_known |= may_be_known,
                Fold::Cancel => is_cancelled = true,
            }
            obsolete.push(*older_nth);
        }
        obsolete.iter().for_each(|nth| drop(self.waiting.remove(nth)));
        if is_cancelled {
            obsolete.push(nth);
        } else {
            self.waiting.insert(nth, Waiting { item, tries: 0 });
        }
        obsolete
    }

    /// Returns the next action at `t`. A notification to send is in flight from then on.
    pub fn next(&mut self, t: f64) -> NextDelivery {
        if self.sending.is_some() {
            return NextDelivery::Nothing;
        }
        let (mut first, mut at) = (None, f64::INFINITY);
        for candidate in self.candidates() {
            let allowed_at = self.allowed_at(&candidate, t);
            at = at.min(allowed_at);
            if allowed_at <= t {
                let turn = self.turns.get(candidate.owner).copied().unwrap_or_default();
                let order = (candidate.tries, candidate.rank, turn, candidate.nth);
                first = first.into_iter().chain([order]).min();
            }
        }
        let Some((_, _, _, nth)) = first else {
            return if at.is_finite() { NextDelivery::At(at) } else { NextDelivery::Nothing };
        };
        let Some(owner) = self.waiting.get(&nth).map(|waiting| waiting.item.owner.clone()) else {
            return NextDelivery::Nothing;
        };
        self.calls_total += 1;
        self.turns.insert(owner.clone(), self.calls_total);
        self.calls.push_back((t, owner));
        if self.calls.len() > CALLS_PER_MINUTE_MAX {
            self.calls.pop_front();
        }
        if self.turns.len() > WAITING_MAX {
            let waiting = &self.waiting;
            self.turns
                .retain(|owner, _| waiting.values().any(|waiting| waiting.item.owner == *owner));
        }
        self.sending = Some(nth);
        NextDelivery::Send(nth)
    }

    /// Ends the delivery in flight, which succeeded or is given up; returns its notification.
    pub fn settled(&mut self) -> Option<u64> {
        if self.is_down {
            // The sink was down, so no attempt counts: critical notifications go first again.
            self.waiting.values_mut().for_each(|waiting| waiting.tries = 0);
        }
        self.backoff.reset();
        (self.last_failed, self.is_down) = (None, false);
        (self.paused_until, self.critical_paused_until) = (0.0, 0.0);
        let nth = self.sending.take()?;
        self.waiting.remove(&nth);
        Some(nth)
    }

    /// Ends the delivery in flight, which failed and has to be repeated, not before `delay` if the
    /// sink asked for one. `may_be_known` is set if the sink may have taken it nonetheless;
    /// `jitter` is 0 to 1, drawn each time. Returns the notifications that are obsolete now.
    pub fn failed(
        &mut self,
        t: f64,
        delay: Option<Duration>,
        may_be_known: bool,
        jitter: f64,
    ) -> Vec<u64> {
        let pause_secs = self.backoff.delay_secs(jitter);
        let asked_secs = delay.map_or(0.0, |delay| delay.as_secs_f64());
        self.paused_until = t + pause_secs.max(asked_secs);
        self.critical_paused_until = t + pause_secs.min(CRITICAL_RETRY_SECS_MAX).max(asked_secs);

        let Some(nth) = self.sending.take() else { return Vec::new() };
        self.is_down |= self.last_failed.replace(nth).is_some_and(|last| last != nth);
        let Some(failed) = self.waiting.get_mut(&nth) else { return Vec::new() };
        failed.tries = failed.tries.saturating_add(1);
        failed.item.may_be_known |= may_be_known;
        // Notifications that came meanwhile could not replace it while it was in flight.
        let older = failed.item.clone();
        let behind = self
            .waiting
            .range_mut(nth + 1..)
            .filter(|(_, newer)| newer.item.incident == older.incident);
        for (newer_nth, newer) in behind {
            match fold(&older, &newer.item) {
                Fold::Keep => continue,
                Fold::Replace { may_be_known } => {
                    newer.item.may_be_known |= may_be_known;
                    self.waiting.remove(&nth);
                    return vec![nth];
                }
                Fold::Cancel => {
                    let obsolete = vec![nth, *newer_nth];
                    obsolete.iter().for_each(|nth| drop(self.waiting.remove(nth)));
                    return obsolete;
                }
            }
        }
        Vec::new()
    }

    /// Closes the queue: the sink takes nothing any more. Returns what waited.
    pub fn close(&mut self) -> Vec<u64> {
        self.is_closed = true;
        self.sending = None;
        std::mem::take(&mut self.waiting).into_keys().collect()
    }

    /// Removes the least important notification; returns `None` if all that wait are in flight.
    pub fn drop_least_important(&mut self) -> Option<u64> {
        let importance = |waiting: &Waiting| match (waiting.item.update, waiting.item.severity) {
            (Update::Changed, _) => 0,
            (Update::Updated, _) => 1,
            (Update::Raised, severity) if severity < Severity::Critical => 2,
            (Update::Resolved, _) => 3,
            (Update::Raised, _) => 4,
        };
        let may_go = self.waiting.iter().filter(|(nth, _)| self.sending != Some(**nth));
        let nth = may_go
            .min_by_key(|(nth, waiting)| (importance(waiting), **nth))
            .map(|(nth, _)| *nth)?;
        self.waiting.remove(&nth);
        Some(nth)
    }

    /// Returns the time at which the next notification may be sent; `None` if there is none, or one
    /// is in flight.
    pub fn wakes_at(&self, t: f64) -> Option<f64> {
        if self.sending.is_some() {
            return None;
        }
        self.candidates().map(|candidate| self.allowed_at(&candidate, t)).min_by(f64::total_cmp)
    }

    /// Returns whether a notification waits or is in flight.
    pub fn holds(&self, nth: u64) -> bool {
        self.waiting.contains_key(&nth)
    }

    /// Number of notifications that wait or are in flight.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Returns the next notification of each incident, with the rank of the most urgent one
    /// behind it.
    fn candidates(&self) -> impl Iterator<Item = NextUpdate<'_>> {
        let mut candidates = BTreeMap::<&Arc<str>, NextUpdate<'_>>::new();
        for (nth, Waiting { item, tries }) in &self.waiting {
            let rank = rank(item);
            let candidate = NextUpdate { nth: *nth, tries: *tries, rank, owner: &item.owner };
            let first = candidates.entry(&item.incident).or_insert(candidate);
            first.rank = first.rank.min(rank);
        }
        candidates.into_values()
    }

    /// Returns the earliest time at which a candidate may be sent.
    fn allowed_at(&self, candidate: &NextUpdate<'_>, t: f64) -> f64 {
        // Time from which the minute before has had fewer than `calls` calls.
        let fewer_at = |calls: usize| {
            let nth = self.calls.len().checked_sub(calls);
            nth.and_then(|nth| self.calls.get(nth)).map_or(t, |(call, _)| call + MINUTE_SECS)
        };
        if candidate.rank > Rank::Critical {
            return t.max(self.paused_until).max(fewer_at(CALLS_FOR_ANY));
        }
        let of_owner = self.calls.iter().rev().find(|(_, owner)| owner == candidate.owner);
        let reserved_at =
            fewer_at(CALLS_PER_MINUTE_MAX).max(of_owner.map_or(t, |(call, _)| call + MINUTE_SECS));
        let paused_until =
            if candidate.tries == 0 { self.critical_paused_until } else { self.paused_until };
        t.max(paused_until).max(fewer_at(CALLS_FOR_SAME_OWNER).min(reserved_at))
    }
}

fn rank(item: &QueueItem) -> Rank {
    match item.update {
        Update::Raised | Update::Updated if item.severity >= Severity::Critical => Rank::Critical,
        Update::Raised | Update::Resolved => Rank::Warning,
        Update::Updated => Rank::Update,
        Update::Changed => Rank::Change,
    }
}

/// Returns the effect of a newer notification on an older one of the same incident that waits.
fn fold(older: &QueueItem, newer: &QueueItem) -> Fold {
    match (older.update, newer.update) {
        (Update::Changed, Update::Changed) if older.owner == newer.owner => {
            Fold::Replace { may_be_known: false }
        }
        (Update::Changed, _) | (_, Update::Changed) | (Update::Raised, Update::Updated) => {
            Fold::Keep
        }
        (Update::Raised, Update::Resolved) if !older.may_be_known => Fold::Cancel,
        (Update::Raised, _) => Fold::Replace { may_be_known: older.may_be_known },
        // The sink may know that the incident began, so it has to hear of its end.
        (Update::Updated | Update::Resolved, _) => Fold::Replace { may_be_known: true },
    }
}

#[cfg(test)]
mod tests;
