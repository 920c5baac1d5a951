//! What waits, for whom, and what became of it: the queues of all sinks over one spool.
//!
//! No thread and no socket is here: it is told what came and what was answered, and says what to
//! send. What the disk does not take is kept in memory and put there as soon as it can be. Pages
//! and bytes are bounded, whatever comes: newer pages replace older ones, and beyond the bounds the
//! page that is missed least is dropped and counted. Cold start: what an earlier run left waits
//! again, with the identities that it had.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    Notification, Update,
    delivery_queue::{DeliveryQueue, NextDelivery, QueueItem, WAITING_MAX},
    owner::owner,
    sink::{Delivery, OutgoingRequest, Sink, SinkKind},
};
use crate::act::notify::spool::{IncidentChange, Spool, SpoolEntry, SpoolError};

/// Most bytes of pages that wait, all sinks together. A guess: twice what a full queue of usual
/// pages takes. With what was told last of open incidents (160 pages of 4 KiB at most) the disk
/// holds little more than a MiB, whatever comes.
const WAITING_BYTES_MAX: usize = 512 << 10;

/// Time between two tries to put on disk what it did not take.
const SAVE_EVERY_SECS: f64 = 5.0;

/// The queues of all sinks.
pub struct Outbox {
    spool: Spool,
    sinks: Vec<(Sink, DeliveryQueue)>,
    next_nth: u64,
    /// Size of each page that waits.
    bytes: BTreeMap<u64, usize>,
    /// What waits and is not on disk.
    unsaved: BTreeMap<u64, SpoolEntry<Notification>>,
    /// How incidents stand where that is not on disk; `None` for one that is over.
    untold: BTreeMap<String, Option<Notification>>,
    /// What is delivered and still on disk.
    unsettled: Vec<(u64, Option<SinkKind>)>,
    /// When to try again, where the disk has not taken something.
    retries_at: Option<f64>,
    /// The spool may be smaller once it was saved: an earlier version's was not bounded.
    shrinks: bool,
    events: Vec<OutboxEvent>,
}

/// Something that is worth a line in the log, or a count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutboxEvent {
    /// So many pages are on disk, and survive a kill from now on.
    Kept(usize),
    /// A page is delivered.
    Delivered(SinkKind),
    /// A call was in vain, and will be made again.
    Failed(SinkKind, String),
    /// A sink takes a page never.
    Refused(SinkKind, String),
    /// A sink takes nothing any more.
    Closed(SinkKind, String),
    /// So many pages were replaced by newer ones of their incidents, or were over before they were
    /// sent.
    Merged(usize),
    /// Pages were lost for want of room.
    Lost(usize),
    /// The disk does not take what waits.
    NotSaved(String),
    /// It does again.
    Saved,
}

impl Outbox {
    /// Goes on with what a spool held. `unix_ms` is now: numbers begin there, so that they are
    /// higher than those of earlier runs even where nobody could read them.
    pub fn new(
        spool: Spool,
        sinks: Vec<Sink>,
        found: Vec<(u64, SpoolEntry<Notification>)>,
        unix_ms: u64,
    ) -> Self {
        // A clock that is far off leaves room for those that follow.
        let begun_at = unix_ms.saturating_mul(1_000).min(u64::MAX / 2);
        let next_nth = found.last().map_or(0, |(nth, _)| nth.saturating_add(1)).max(begun_at);
        let sinks = sinks.into_iter().map(|sink| (sink, DeliveryQueue::default())).collect();
        let mut desk = Self {
            spool,
            sinks,
            next_nth,
            bytes: BTreeMap::new(),
            unsaved: BTreeMap::new(),
            untold: BTreeMap::new(),
            unsettled: Vec::new(),
            retries_at: None,
            shrinks: false,
            events: Vec::new(),
        };
        for (nth, entry) in found {
            // Who is no longer told has no part in it.
            let has_none = desk.queue(nth, &entry, true) == 0;
            if has_none {
                desk.unsettled.push((nth, None));
            }
            // As it goes: an earlier version's spool may hold any number.
            if desk.bytes.len() > 2 * WAITING_MAX {
                desk.bound();
            }
        }
        desk.bound();
        if !desk.unsettled.is_empty() {
            (desk.retries_at, desk.shrinks) = (Some(f64::NEG_INFINITY), true);
        }
        desk
    }

    /// Takes pages: once this returns they are on disk, or in memory where it takes nothing.
    pub fn accept(&mut self, t: f64, pages: Vec<Notification>) {
        let mut entries = Vec::new();
        for page in pages {
            let to = self
                .sinks
                .iter()
                .filter(|(sink, _)| sink.wants(page.news))
                .map(|(sink, _)| sink.kind().name().to_owned());
            let to: Vec<_> = to.collect();
            match page.news {
                Update::Raised | Update::Updated => {
                    drop(self.untold.insert(page.incident.clone(), Some(page.clone())))
                }
                Update::Resolved => drop(self.untold.insert(page.incident.clone(), None)),
                Update::Changed => {}
            }
            if !to.is_empty() {
                entries.push((self.next_nth, SpoolEntry { to, what: page }));
                self.next_nth += 1;
            }
        }
        for (nth, entry) in entries {
            self.queue(nth, &entry, false);
            self.unsaved.insert(nth, entry);
        }
        self.bound();
        self.save(t);
    }

    /// What to send now, and to which sink; each has to be answered. `unix_secs` is now.
    pub fn due(&mut self, t: f64, unix_secs: u64, chance: f64) -> Vec<(usize, OutgoingRequest)> {
        let mut due = Vec::new();
        for at in 0..self.sinks.len() {
            while let NextDelivery::Send(nth) = self.sinks[at].1.next(t) {
                let (sink, queue) = &mut self.sinks[at];
                let page = match self.unsaved.get(&nth) {
                    Some(entry) => Ok(Some(entry.what.clone())),
                    None => self
                        .spool
                        .get::<Notification>(nth)
                        .map(|entry| entry.map(|entry| entry.what)),
                };
                match page.map_err(|error| error.to_string()).and_then(|page| match page {
                    Some(page) => sink.post(&page, unix_secs),
                    None => Ok(None),
                }) {
                    Ok(Some(post)) => {
                        due.push((at, post));
                        break;
                    }
                    // Gone, or none of its business.
                    Ok(None) => self.settle(at),
                    Err(why) => {
                        let kind = sink.kind();
                        let needless = queue.failed(t, None, false, chance);
                        self.drop_needless(kind, needless);
                        self.events.push(OutboxEvent::Failed(kind, why));
                    }
                }
            }
        }
        due
    }

    /// A call was answered, or not.
    pub fn answered(&mut self, t: f64, at: usize, fate: Delivery, chance: f64) {
        let Some((sink, queue)) = self.sinks.get_mut(at) else { return };
        let kind = sink.kind();
        let event = match fate {
            Delivery::Taken => {
                self.settle(at);
                OutboxEvent::Delivered(kind)
            }
            Delivery::Refused(why) => {
                self.settle(at);
                OutboxEvent::Refused(kind, why)
            }
            Delivery::Later(after, why) => {
                let needless = queue.failed(t, after, false, chance);
                self.drop_needless(kind, needless);
                OutboxEvent::Failed(kind, why)
            }
            Delivery::Unknown(why) => {
                let needless = queue.failed(t, None, true, chance);
                self.drop_needless(kind, needless);
                OutboxEvent::Failed(kind, why)
            }
            Delivery::Closed(why) => {
                let dropped = queue.close();
                self.forget(kind, dropped);
                OutboxEvent::Closed(kind, why)
            }
        };
        self.events.push(event);
        self.save(t);
    }

    /// How a sink reads an answer.
    pub fn fate(
        &self,
        at: usize,
        status: u16,
        retry_after: Option<Duration>,
        body: &[u8],
    ) -> Delivery {
        let Some((sink, _)) = self.sinks.get(at) else {
            return Delivery::Refused("no such sink".to_owned());
        };
        sink.fate(status, retry_after, body)
    }

    /// When to ask again what is due, and to catch up, at the latest; `None` where nothing waits.
    pub fn wakes_at(&self, t: f64) -> Option<f64> {
        let queues = self.sinks.iter().filter_map(|(_, queue)| queue.wakes_at(t));
        queues.chain(self.retries_at).min_by(f64::total_cmp)
    }

    /// Puts on disk what it has not taken, if it is time for that.
    pub fn catch_up(&mut self, t: f64) {
        if self.retries_at.is_some_and(|at| t >= at) {
            self.save(t);
            if self.retries_at.is_none() && std::mem::take(&mut self.shrinks) {
                self.spool.shrink();
            }
        }
    }

    /// What happened since the last time.
    pub fn events(&mut self) -> Vec<OutboxEvent> {
        std::mem::take(&mut self.events)
    }

    /// How many calls are still to be made, all sinks together.
    pub fn waiting(&self) -> usize {
        self.sinks.iter().map(|(_, queue)| queue.len()).sum()
    }

    /// Puts a page into the queues of those who have not got it; gives how many there are.
    /// `may_be_known` says that an earlier run may have sent it.
    fn queue(&mut self, nth: u64, entry: &SpoolEntry<Notification>, may_be_known: bool) -> usize {
        let page = &entry.what;
        let item = QueueItem {
            incident: Arc::from(page.incident.as_str()),
            owner: Arc::from(owner(&page.group)),
            news: page.news,
            severity: page.severity,
            may_be_known,
        };
        self.bytes.insert(nth, page.bytes());
        let mut queued = 0;
        for at in 0..self.sinks.len() {
            let (sink, queue) = &mut self.sinks[at];
            let kind = sink.kind();
            if entry.to.iter().any(|to| to == kind.name()) {
                queued += 1;
                let needless = queue.add(nth, item.clone());
                self.drop_needless(kind, needless);
            }
        }
        queued
    }

    /// A sink is done with what was being sent to it.
    fn settle(&mut self, at: usize) {
        let Some((sink, queue)) = self.sinks.get_mut(at) else { return };
        let kind = sink.kind();
        let settled = queue.settled();
        self.forget(kind, settled);
    }

    fn drop_needless(&mut self, kind: SinkKind, needless: Vec<u64>) {
        if !needless.is_empty() {
            self.events.push(OutboxEvent::Merged(needless.len()));
            self.forget(kind, needless);
        }
    }

    fn forget(&mut self, kind: SinkKind, nths: impl IntoIterator<Item = u64>) {
        self.unsettled.extend(nths.into_iter().map(|nth| (nth, Some(kind))));
    }

    /// Drops pages until what waits is within its bounds.
    fn bound(&mut self) {
        let mut lost = 0;
        for at in 0..self.sinks.len() {
            while self.sinks[at].1.len() > WAITING_MAX && self.give_way(at) {
                lost += 1;
            }
        }
        while self.waiting_bytes() > WAITING_BYTES_MAX {
            let longest = (0..self.sinks.len()).max_by_key(|at| self.sinks[*at].1.len());
            if !longest.is_some_and(|at| self.give_way(at)) {
                break;
            }
            lost += 1;
        }
        if lost > 0 {
            self.events.push(OutboxEvent::Lost(lost));
        }
    }

    /// Lets the page of a sink go that is missed least; `false` if there is none.
    fn give_way(&mut self, at: usize) -> bool {
        let Some((sink, queue)) = self.sinks.get_mut(at) else { return false };
        let (kind, gone) = (sink.kind(), queue.give_way());
        self.forget(kind, gone);
        gone.is_some()
    }

    /// Bytes of the pages that wait for any sink.
    fn waiting_bytes(&mut self) -> usize {
        let sinks = &self.sinks;
        self.bytes.retain(|nth, _| sinks.iter().any(|(_, queue)| queue.holds(*nth)));
        self.bytes.values().sum()
    }

    fn save(&mut self, t: f64) {
        match self.try_save() {
            Ok(()) if self.retries_at.take().is_some_and(f64::is_finite) => {
                self.events.push(OutboxEvent::Saved)
            }
            Ok(()) => {}
            Err(error) => {
                if !self.retries_at.replace(t + SAVE_EVERY_SECS).is_some_and(f64::is_finite) {
                    self.events.push(OutboxEvent::NotSaved(error.to_string()));
                }
            }
        }
    }

    fn try_save(&mut self) -> Result<(), SpoolError> {
        let mut on_disk = Vec::new();
        for (nth, kind) in &self.unsettled {
            let to = kind.map(SinkKind::name);
            match self.unsaved.get_mut(nth) {
                Some(entry) => entry.to.retain(|other| to.is_some_and(|to| other != to)),
                None => on_disk.push((*nth, to)),
            }
        }
        self.unsaved.retain(|_, entry| !entry.to.is_empty());
        let entries: Vec<_> =
            self.unsaved.iter().map(|(nth, entry)| (*nth, entry.clone())).collect();
        let told = self.untold.iter().map(|(incident, last)| match last {
            Some(page) => IncidentChange::Last(incident.as_str(), page),
            None => IncidentChange::Over(incident.as_str()),
        });
        let told: Vec<_> = told.collect();
        if !(on_disk.is_empty() && entries.is_empty() && told.is_empty()) {
            self.spool.change(&on_disk, &entries, &told)?;
        }
        if !entries.is_empty() {
            self.events.push(OutboxEvent::Kept(entries.len()));
        }
        self.unsettled.clear();
        self.unsaved.clear();
        self.untold.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
