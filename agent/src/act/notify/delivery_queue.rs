//! The pages that wait for one sink, and the next of them to send.
//!
//! Pure: time and chance are arguments. Pages of one incident keep their order, and a newer one
//! replaces those that it makes needless, so that an incident has two pages waiting at most, its
//! change of this host and one that is being sent aside. A raise that was never sent goes with its
//! resolve. Critical pages go first; owners of cgroups take turns among equals. Some of the calls
//! of a minute are kept for critical pages, and the last of them for owners that had no call in
//! this minute: a flood cannot use them up. If the sink fails, the whole sink rests, twice as long
//! each time; the page that was tried least goes next, so that one that is never taken holds up no
//! other. Cold start: nothing waits.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::Update;
use crate::decide::Severity;

/// Most pages that wait for a sink. A guess: more than 256 pages are 25 minutes of calls, and
/// nobody reads them.
pub const WAITING_MAX: usize = 256;

/// Calls in any minute.
const CALLS_PER_MINUTE_MAX: usize = 10;
/// Of these, calls that are made for pages that are not critical.
const CALLS_FOR_ANY: usize = 7;
/// Of these, calls that are made for owners that had one in this minute already.
const CALLS_FOR_SAME_OWNER: usize = 8;
const MINUTE_SECS: f64 = 60.0;

/// The first retry comes within a second; each later one waits up to twice as long, to at most
/// this.
const FIRST_RETRY_SECS: f64 = 1.0;
const RETRY_SECS_MAX: f64 = 300.0;
/// A critical page that was not tried yet waits at most this long for a sink that failed, unless
/// the sink asked for more.
const CRITICAL_RETRY_SECS_MAX: f64 = 10.0;

/// The pages that wait for one sink.
#[derive(Debug, Default)]
pub struct DeliveryQueue {
    waiting: BTreeMap<u64, Waiting>,
    /// The one that is being sent.
    sending: Option<u64>,
    /// The last calls, the oldest first.
    calls: VecDeque<(f64, Arc<str>)>,
    calls_total: u64,
    /// The last call for each owner of which something waits.
    turns: BTreeMap<Arc<str>, u64>,
    failures: u32,
    last_failed: Option<u64>,
    /// Pages of more than one kind failed one after the other: the sink is down, and no page is to
    /// blame.
    is_down: bool,
    rests_until: f64,
    critical_rests_until: f64,
    is_closed: bool,
}

/// A page, as far as its place in the queue depends on it.
#[derive(Debug, Clone)]
pub struct QueueItem {
    /// The incident that it belongs to.
    pub incident: Arc<str>,
    /// The owner of the cgroup that it is about.
    pub owner: Arc<str>,
    /// The change of the incident.
    pub news: Update,
    /// The severity of the incident.
    pub severity: Severity,
    /// An earlier run may have sent it.
    pub may_be_known: bool,
}

#[derive(Debug)]
struct Waiting {
    item: QueueItem,
    tries: u32,
}

/// The next page of an incident.
struct Candidate<'a> {
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

/// Effect of a newer page of an incident on an older one.
enum Fold {
    Keep,
    /// The older one is needless; the newer one follows on something that the sink may know.
    Replace {
        may_be_known: bool,
    },
    /// Both are needless: nobody has heard of it.
    Cancel,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum NextDelivery {
    /// Send this.
    Send(u64),
    /// Ask again then.
    At(f64),
    /// Nothing waits that could go, until something is added or answered.
    Nothing,
}

impl DeliveryQueue {
    /// Adds a page with a number that is higher than every one before. Gives those that are
    /// needless now, itself among them if it is.
    pub fn add(&mut self, nth: u64, mut item: QueueItem) -> Vec<u64> {
        if self.is_closed {
            return vec![nth];
        }
        let (mut needless, mut is_cancelled) = (Vec::new(), false);
        for (older_nth, older) in &self.waiting {
            if older.item.incident != item.incident || self.sending == Some(*older_nth) {
                continue;
            }
            match fold(&older.item, &item) {
                Fold::Keep => continue,
                Fold::Replace { may_be_known } => item.may_be_known |= may_be_known,
                Fold::Cancel => is_cancelled = true,
            }
            needless.push(*older_nth);
        }
        needless.iter().for_each(|nth| drop(self.waiting.remove(nth)));
        if is_cancelled {
            needless.push(nth);
        } else {
            self.waiting.insert(nth, Waiting { item, tries: 0 });
        }
        needless
    }

    /// What to do at `t`. What is to be sent counts as being sent from then on.
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

    /// What was sent is done with: delivered, or never to be.
    pub fn settled(&mut self) -> Option<u64> {
        if self.is_down {
            // None of them was to blame: the critical ones go first again.
            self.waiting.values_mut().for_each(|waiting| waiting.tries = 0);
        }
        (self.failures, self.last_failed, self.is_down) = (0, None, false);
        (self.rests_until, self.critical_rests_until) = (0.0, 0.0);
        let nth = self.sending.take()?;
        self.waiting.remove(&nth);
        Some(nth)
    }

    /// What was sent has to be sent again, not before `after` where the sink says so.
    /// `may_be_known` says that the sink may have it nonetheless, `chance` is 0 to 1, anew each
    /// time. Gives those that are needless now.
    pub fn failed(
        &mut self,
        t: f64,
        after: Option<Duration>,
        may_be_known: bool,
        chance: f64,
    ) -> Vec<u64> {
        self.failures = self.failures.saturating_add(1);
        let longest =
            (FIRST_RETRY_SECS * 2_f64.powi(self.failures.min(30) as i32 - 1)).min(RETRY_SECS_MAX);
        // Half of it by chance, so that many agents do not come back at once.
        let rest = longest * (0.5 + chance.clamp(0.0, 1.0) / 2.0);
        let asked = after.map_or(0.0, |after| after.as_secs_f64());
        self.rests_until = t + rest.max(asked);
        self.critical_rests_until = t + rest.min(CRITICAL_RETRY_SECS_MAX).max(asked);

        let Some(nth) = self.sending.take() else { return Vec::new() };
        self.is_down |= self.last_failed.replace(nth).is_some_and(|last| last != nth);
        let Some(failed) = self.waiting.get_mut(&nth) else { return Vec::new() };
        failed.tries = failed.tries.saturating_add(1);
        failed.item.may_be_known |= may_be_known;
        // What came meanwhile could not replace it while it was being sent.
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
                    let needless = vec![nth, *newer_nth];
                    needless.iter().for_each(|nth| drop(self.waiting.remove(nth)));
                    return needless;
                }
            }
        }
        Vec::new()
    }

    /// The sink takes nothing any more. Gives what waited.
    pub fn close(&mut self) -> Vec<u64> {
        self.is_closed = true;
        self.sending = None;
        std::mem::take(&mut self.waiting).into_keys().collect()
    }

    /// Takes out the page that is missed least; `None` if none waits that is not being sent.
    pub fn give_way(&mut self) -> Option<u64> {
        let missed = |waiting: &Waiting| match (waiting.item.news, waiting.item.severity) {
            (Update::Changed, _) => 0,
            (Update::Updated, _) => 1,
            (Update::Raised, severity) if severity < Severity::Critical => 2,
            (Update::Resolved, _) => 3,
            (Update::Raised, _) => 4,
        };
        let may_go = self.waiting.iter().filter(|(nth, _)| self.sending != Some(**nth));
        let nth =
            may_go.min_by_key(|(nth, waiting)| (missed(waiting), **nth)).map(|(nth, _)| *nth)?;
        self.waiting.remove(&nth);
        Some(nth)
    }

    /// When something may go that waits; `None` where nothing does, or something is being sent.
    pub fn wakes_at(&self, t: f64) -> Option<f64> {
        if self.sending.is_some() {
            return None;
        }
        self.candidates().map(|candidate| self.allowed_at(&candidate, t)).min_by(f64::total_cmp)
    }

    /// Tells if this waits, or is being sent.
    pub fn holds(&self, nth: u64) -> bool {
        self.waiting.contains_key(&nth)
    }

    /// How many wait, with what is being sent.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The next page of each incident. It is as urgent as the most urgent one behind it.
    fn candidates(&self) -> impl Iterator<Item = Candidate<'_>> {
        let mut candidates = BTreeMap::<&Arc<str>, Candidate<'_>>::new();
        for (nth, Waiting { item, tries }) in &self.waiting {
            let rank = rank(item);
            let candidate = Candidate { nth: *nth, tries: *tries, rank, owner: &item.owner };
            let first = candidates.entry(&item.incident).or_insert(candidate);
            first.rank = first.rank.min(rank);
        }
        candidates.into_values()
    }

    /// When this may be sent at the earliest.
    fn allowed_at(&self, candidate: &Candidate<'_>, t: f64) -> f64 {
        // When fewer calls than these were made in the minute before.
        let fewer_at = |calls: usize| {
            let nth = self.calls.len().checked_sub(calls);
            nth.and_then(|nth| self.calls.get(nth)).map_or(t, |(call, _)| call + MINUTE_SECS)
        };
        if candidate.rank > Rank::Critical {
            return t.max(self.rests_until).max(fewer_at(CALLS_FOR_ANY));
        }
        let of_owner = self.calls.iter().rev().find(|(_, owner)| owner == candidate.owner);
        let reserved_at =
            fewer_at(CALLS_PER_MINUTE_MAX).max(of_owner.map_or(t, |(call, _)| call + MINUTE_SECS));
        let rests_until =
            if candidate.tries == 0 { self.critical_rests_until } else { self.rests_until };
        t.max(rests_until).max(fewer_at(CALLS_FOR_SAME_OWNER).min(reserved_at))
    }
}

fn rank(item: &QueueItem) -> Rank {
    match item.news {
        Update::Raised | Update::Updated if item.severity >= Severity::Critical => Rank::Critical,
        Update::Raised | Update::Resolved => Rank::Warning,
        Update::Updated => Rank::Update,
        Update::Changed => Rank::Change,
    }
}

/// Effect of a newer page on an older one of the same incident that waits.
fn fold(older: &QueueItem, newer: &QueueItem) -> Fold {
    match (older.news, newer.news) {
        (Update::Changed, Update::Changed) if older.owner == newer.owner => {
            Fold::Replace { may_be_known: false }
        }
        (Update::Changed, _) | (_, Update::Changed) | (Update::Raised, Update::Updated) => {
            Fold::Keep
        }
        (Update::Raised, Update::Resolved) if !older.may_be_known => Fold::Cancel,
        (Update::Raised, _) => Fold::Replace { may_be_known: older.may_be_known },
        // The sink was told that it began, so it has to be told that it ended.
        (Update::Updated | Update::Resolved, _) => Fold::Replace { may_be_known: true },
    }
}

#[cfg(test)]
mod tests;
