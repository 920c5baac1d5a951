//! Undelivered notifications: one queue for each sink, over one spool.
//!
//! No thread and no socket: the caller passes in notifications and the results of calls, and gets
//! the requests to send. What the disk does not take is kept in memory and written as soon as
//! possible. Notifications and bytes are bounded: newer notifications replace older ones, and
//! beyond the bounds the least important one is dropped and counted. Cold start: what an earlier
//! run left is queued again, with the same identities.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{
    Notification, Update,
    delivery_queue::{DeliveryQueue, NextDelivery, QueueItem, WAITING_MAX},
    owner::owner,
    sink::{Delivery, OutgoingRequest, Sink, SinkReply},
    spool::{IncidentChange, Spool, SpoolEntry, SpoolError},
};

/// Maximum size of the notifications that wait, all sinks together. A guess: twice a full queue of
/// usual notifications. With the last notification of each open incident (160 of 4 KiB at most) the
/// disk holds little more than 1 MiB.
const WAITING_BYTES_MAX: usize = 512 << 10;

/// Time between two attempts to write what the disk did not take.
const SAVE_EVERY_SECS: f64 = 5.0;

/// The queues of all sinks.
pub struct Outbox {
    spool: Spool,
    sinks: Vec<SinkQueue>,
    next_nth: u64,
    /// Size of each notification that waits.
    bytes: BTreeMap<u64, usize>,
    /// Notifications that wait and are not on disk.
    unsaved: BTreeMap<u64, SpoolEntry<Notification>>,
    /// Last notification of incidents of which the disk does not have it; `None` if the incident
    /// is over.
    unsaved_incidents: BTreeMap<String, Option<Notification>>,
    /// Notifications that are still on disk although they are done, with the sink or for all.
    unsettled: Vec<(u64, Option<&'static str>)>,
    /// Time of the next attempt to write; `None` if the disk took everything.
    retries_at: Option<f64>,
    /// Set if the spool may shrink after the next write: that of an earlier version had no bound.
    shrinks: bool,
    events: Vec<OutboxEvent>,
}

/// A sink and its queue.
struct SinkQueue {
    sink: Box<dyn Sink>,
    queue: DeliveryQueue,
    /// The notification that was sent last, so that further attempts neither read nor encode it.
    last: Option<Encoded>,
}

/// A notification in the form of a sink.
struct Encoded {
    nth: u64,
    notification: Notification,
    body: Bytes,
}

/// An event for the log or the metrics. A sink is given by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutboxEvent {
    /// So many notifications were written to disk, and survive a kill from now on.
    Kept(usize),
    /// A notification was delivered.
    Delivered(&'static str),
    /// An attempt failed, and will be repeated.
    Failed(&'static str, String),
    /// A sink will never take a notification.
    Refused(&'static str, String),
    /// A sink will never take any notification.
    Closed(&'static str, String),
    /// So many notifications were replaced by newer ones of their incidents, or were obsolete
    /// before they were sent.
    Merged(usize),
    /// So many notifications were dropped for lack of room.
    Lost(usize),
    /// The disk does not take notifications.
    NotSaved(String),
    /// The disk takes notifications again.
    Saved,
}

impl Outbox {
    /// Continues with the contents of a spool. Numbers begin at `unix_ms`, which is now: they are
    /// then higher than those of earlier runs even if the spool could not be read.
    pub fn new(
        spool: Spool,
        sinks: Vec<Box<dyn Sink>>,
        found: Vec<(u64, SpoolEntry<Notification>)>,
        unix_ms: u64,
    ) -> Self {
        // A clock that is far ahead leaves room for the numbers of later runs.
        let begun_at = unix_ms.saturating_mul(1_000).min(u64::MAX / 2);
        let next_nth = found.last().map_or(0, |(nth, _)| nth.saturating_add(1)).max(begun_at);
        let sinks = sinks.into_iter().map(|sink| SinkQueue {
            sink,
            queue: DeliveryQueue::default(),
            last: None,
        });
        let mut outbox = Self {
            spool,
            sinks: sinks.collect(),
            next_nth,
            bytes: BTreeMap::new(),
            unsaved: BTreeMap::new(),
            unsaved_incidents: BTreeMap::new(),
            unsettled: Vec::new(),
            retries_at: None,
            shrinks: false,
            events: Vec::new(),
        };
        for (nth, entry) in found {
            // A receiver that is no longer configured gets nothing.
            let has_none = outbox.queue(nth, &entry, true) == 0;
            if has_none {
                outbox.unsettled.push((nth, None));
            }
            // During the loop, because the spool of an earlier version may hold any number.
            if outbox.bytes.len() > 2 * WAITING_MAX {
                outbox.bound();
            }
        }
        outbox.bound();
        if !outbox.unsettled.is_empty() {
            (outbox.retries_at, outbox.shrinks) = (Some(f64::NEG_INFINITY), true);
        }
        outbox
    }

    /// Takes notifications. When this returns they are on disk, or in memory if the disk fails.
    pub fn accept(&mut self, t: f64, notifications: Vec<Notification>) {
        let mut entries = Vec::new();
        for notification in notifications {
            let wants = |at: &&SinkQueue| at.sink.wants(notification.update);
            let receivers = self.sinks.iter().filter(wants).map(|at| at.sink.name().to_owned());
            let to: Vec<_> = receivers.collect();
            let incident = &notification.incident;
            match notification.update {
                Update::Raised | Update::Updated => drop(
                    self.unsaved_incidents.insert(incident.clone(), Some(notification.clone())),
                ),
                Update::Resolved => drop(self.unsaved_incidents.insert(incident.clone(), None)),
                Update::Changed => {}
            }
            if !to.is_empty() {
                entries.push((self.next_nth, SpoolEntry { to, what: notification }));
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

    /// Returns the requests to send now, each with the index of its sink; each has to be answered.
    /// `unix_secs` is now; `jitter` is 0 to 1.
    pub fn due(&mut self, t: f64, unix_secs: u64, jitter: f64) -> Vec<(usize, OutgoingRequest)> {
        let mut due = Vec::new();
        for at in 0..self.sinks.len() {
            while let NextDelivery::Send(nth) = self.sinks[at].queue.next(t) {
                match self.request(at, nth, unix_secs) {
                    Ok(Some(request)) => {
                        due.push((at, request));
                        break;
                    }
                    // It is gone from the disk, or not for this sink.
                    Ok(None) => self.settle(at),
                    Err(why) => {
                        let SinkQueue { sink, queue, .. } = &mut self.sinks[at];
                        let name = sink.name();
                        let obsolete = queue.failed(t, None, false, jitter);
                        self.drop_obsolete(name, obsolete);
                        self.events.push(OutboxEvent::Failed(name, why));
                    }
                }
            }
        }
        due
    }

    /// Makes the request of one attempt; `None` if there is nothing to send.
    fn request(
        &mut self,
        at: usize,
        nth: u64,
        unix_secs: u64,
    ) -> Result<Option<OutgoingRequest>, String> {
        let SinkQueue { sink, last, .. } = &mut self.sinks[at];
        if last.as_ref().is_none_or(|last| last.nth != nth) {
            let notification = match self.unsaved.get(&nth) {
                Some(entry) => Some(entry.what.clone()),
                None => {
                    let entry = self.spool.get::<Notification>(nth);
                    entry.map_err(|error| error.to_string())?.map(|entry| entry.what)
                }
            };
            let wanted = notification.filter(|notification| sink.wants(notification.update));
            *last = wanted.map(|notification| Encoded {
                nth,
                body: sink.encode(&notification),
                notification,
            });
        }
        let Some(Encoded { notification, body, .. }) = last else { return Ok(None) };
        let request = sink.request(notification, body.clone(), unix_secs);
        request.map(Some).map_err(|error| error.to_string())
    }

    /// Takes the result of a call.
    pub fn answered(&mut self, t: f64, at: usize, delivery: Delivery, jitter: f64) {
        let Some(SinkQueue { sink, queue, .. }) = self.sinks.get_mut(at) else { return };
        let name = sink.name();
        let event = match delivery {
            Delivery::Taken => {
                self.settle(at);
                OutboxEvent::Delivered(name)
            }
            Delivery::Refused(why) => {
                self.settle(at);
                OutboxEvent::Refused(name, why)
            }
            Delivery::Later(delay, why) => {
                let obsolete = queue.failed(t, delay, false, jitter);
                self.drop_obsolete(name, obsolete);
                OutboxEvent::Failed(name, why)
            }
            Delivery::Unknown(why) => {
                let obsolete = queue.failed(t, None, true, jitter);
                self.drop_obsolete(name, obsolete);
                OutboxEvent::Failed(name, why)
            }
            Delivery::Closed(why) => {
                let dropped = queue.close();
                self.forget(name, dropped);
                OutboxEvent::Closed(name, why)
            }
        };
        self.events.push(event);
        self.save(t);
    }

    /// Reads a reply as its sink does.
    pub fn classify(&self, at: usize, reply: &SinkReply<'_>) -> Delivery {
        match self.sinks.get(at) {
            Some(SinkQueue { sink, .. }) => sink.classify(reply),
            None => Delivery::Refused(format!("there is no sink number {at}")),
        }
    }

    /// Returns the time by which to ask again for due requests and to catch up; `None` if nothing
    /// waits.
    pub fn wakes_at(&self, t: f64) -> Option<f64> {
        let queues = self.sinks.iter().filter_map(|at| at.queue.wakes_at(t));
        queues.chain(self.retries_at).min_by(f64::total_cmp)
    }

    /// Writes what the disk did not take, if it is time for another attempt.
    pub fn catch_up(&mut self, t: f64) {
        if self.retries_at.is_some_and(|at| t >= at) {
            self.save(t);
            if self.retries_at.is_none() && std::mem::take(&mut self.shrinks) {
                self.spool.shrink();
            }
        }
    }

    /// Returns the events since the last call.
    pub fn events(&mut self) -> Vec<OutboxEvent> {
        std::mem::take(&mut self.events)
    }

    /// Returns the number of deliveries that are still to be made, all sinks together.
    pub fn waiting(&self) -> usize {
        self.sinks.iter().map(|at| at.queue.len()).sum()
    }

    /// Puts a notification into the queues of the receivers that have not got it, and returns their
    /// number. `may_be_known` is set if an earlier run may have sent it.
    fn queue(&mut self, nth: u64, entry: &SpoolEntry<Notification>, may_be_known: bool) -> usize {
        let notification = &entry.what;
        let item = QueueItem {
            incident: Arc::from(notification.incident.as_str()),
            owner: Arc::from(owner(&notification.group)),
            update: notification.update,
            severity: notification.severity,
            may_be_known,
        };
        self.bytes.insert(nth, notification.bytes());
        let mut queued = 0;
        for at in 0..self.sinks.len() {
            let SinkQueue { sink, queue, .. } = &mut self.sinks[at];
            let name = sink.name();
            if entry.to.iter().any(|to| to == name) {
                queued += 1;
                let obsolete = queue.add(nth, item.clone());
                self.drop_obsolete(name, obsolete);
            }
        }
        queued
    }

    /// Ends the delivery in progress of a sink.
    fn settle(&mut self, at: usize) {
        let Some(SinkQueue { sink, queue, last }) = self.sinks.get_mut(at) else { return };
        let (name, settled) = (sink.name(), queue.settled());
        *last = None;
        self.forget(name, settled);
    }

    fn drop_obsolete(&mut self, sink: &'static str, obsolete: Vec<u64>) {
        if !obsolete.is_empty() {
            self.events.push(OutboxEvent::Merged(obsolete.len()));
            self.forget(sink, obsolete);
        }
    }

    fn forget(&mut self, sink: &'static str, nths: impl IntoIterator<Item = u64>) {
        self.unsettled.extend(nths.into_iter().map(|nth| (nth, Some(sink))));
    }

    /// Drops notifications until those that wait are within their bounds.
    fn bound(&mut self) {
        let mut lost = 0;
        for at in 0..self.sinks.len() {
            while self.sinks[at].queue.len() > WAITING_MAX && self.drop_least_important(at) {
                lost += 1;
            }
        }
        while self.waiting_bytes() > WAITING_BYTES_MAX {
            let longest = (0..self.sinks.len()).max_by_key(|at| self.sinks[*at].queue.len());
            if !longest.is_some_and(|at| self.drop_least_important(at)) {
                break;
            }
            lost += 1;
        }
        if lost > 0 {
            self.events.push(OutboxEvent::Lost(lost));
        }
    }

    /// Drops the least important notification of a sink; returns `false` if there is none.
    fn drop_least_important(&mut self, at: usize) -> bool {
        let Some(SinkQueue { sink, queue, .. }) = self.sinks.get_mut(at) else { return false };
        let (name, dropped) = (sink.name(), queue.drop_least_important());
        self.forget(name, dropped);
        dropped.is_some()
    }

    /// Returns the size of the notifications that wait for any sink.
    fn waiting_bytes(&mut self) -> usize {
        let sinks = &self.sinks;
        self.bytes.retain(|nth, _| sinks.iter().any(|at| at.queue.holds(*nth)));
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
        for (nth, sink) in &self.unsettled {
            match self.unsaved.get_mut(nth) {
                Some(entry) => entry.to.retain(|other| sink.is_some_and(|sink| other != sink)),
                None => on_disk.push((*nth, *sink)),
            }
        }
        self.unsaved.retain(|_, entry| !entry.to.is_empty());
        let entries: Vec<_> =
            self.unsaved.iter().map(|(nth, entry)| (*nth, entry.clone())).collect();
        let incidents = self.unsaved_incidents.iter().map(|(incident, last)| match last {
            Some(notification) => IncidentChange::Last(incident.as_str(), notification),
            None => IncidentChange::Over(incident.as_str()),
        });
        let incidents: Vec<_> = incidents.collect();
        if !(on_disk.is_empty() && entries.is_empty() && incidents.is_empty()) {
            self.spool.change(&on_disk, &entries, &incidents)?;
        }
        if !entries.is_empty() {
            self.events.push(OutboxEvent::Kept(entries.len()));
        }
        self.unsettled.clear();
        self.unsaved.clear();
        self.unsaved_incidents.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
