//! Notifications on their way from the loop to the thread that writes them to disk, bounded while
//! a disk hangs.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Notification, Update, outbox::OutboxEvent};

/// Maximum number of notifications in it. A guess: more than the incidents that can be open, with
/// their ends.
const NOTIFICATIONS_MAX: usize = 512;

/// Notifications on their way to the disk.
#[derive(Debug, Default)]
pub struct Inbox(Mutex<Vec<Notification>>);

impl Inbox {
    /// Adds notifications, in this order. Returns whether the inbox was empty, so that the thread
    /// has to be woken, and the fate of those that are not in it now.
    pub fn put(&self, notifications: Vec<Notification>) -> (bool, Vec<OutboxEvent>) {
        let mut inbox = self.lock();
        let was_empty = inbox.is_empty();
        let before = inbox.len() + notifications.len();
        for notification in notifications {
            let is_of_incident = |other: &Notification| {
                other.incident == notification.incident && other.update != Update::Changed
            };
            match notification.update {
                Update::Resolved => {
                    // No receiver heard that it began, so none hears that it ended. Notifications
                    // from before it began stay.
                    let begun_at = inbox
                        .iter()
                        .rposition(|other| is_of_incident(other) && other.update == Update::Raised);
                    let mut at = 0;
                    inbox.retain(|other| {
                        let is_obsolete = is_of_incident(other)
                            && begun_at
                                .map_or(other.update == Update::Updated, |begun_at| at >= begun_at);
                        at += 1;
                        !is_obsolete
                    });
                    if begun_at.is_some() {
                        continue;
                    }
                }
                Update::Updated => inbox
                    .retain(|other| !(is_of_incident(other) && other.update == Update::Updated)),
                Update::Raised | Update::Changed => {}
            }
            inbox.push(notification);
        }
        let merged = before - inbox.len();
        let lost = inbox.len().saturating_sub(NOTIFICATIONS_MAX);
        for _ in 0..lost {
            let at = inbox
                .iter()
                .enumerate()
                .min_by_key(|(at, notification)| (importance(notification), *at))
                .map_or(0, |(at, _)| at);
            inbox.remove(at);
        }
        let events =
            [(merged, OutboxEvent::Merged as fn(usize) -> OutboxEvent), (lost, OutboxEvent::Lost)];
        let events = events
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, event)| event(count))
            .collect();
        (was_empty, events)
    }

    /// Takes everything out of it.
    pub fn take(&self) -> Vec<Notification> {
        std::mem::take(&mut self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Notification>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the importance of a notification when one has to be dropped.
fn importance(notification: &Notification) -> u8 {
    match notification.update {
        Update::Changed => 0,
        Update::Updated => 1,
        Update::Raised | Update::Resolved => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::act::notify::tests::notification;

    fn held(inbox: &Inbox) -> Vec<String> {
        inbox.lock().iter().map(|notification| notification.id.clone()).collect()
    }

    #[test]
    fn a_flapping_incident_takes_two_places_while_a_disk_hangs() {
        let inbox = Inbox::default();
        inbox.put(vec![
            notification("1", "a", Update::Resolved),
            notification("c", "a", Update::Changed),
        ]);
        for _ in 0..1_000 {
            inbox.put(vec![
                notification("2", "a", Update::Raised),
                notification("3", "a", Update::Updated),
                notification("4", "a", Update::Updated),
            ]);
            assert_eq!(held(&inbox), ["1", "c", "2", "4"]);
            let (_, merged) = inbox.put(vec![notification("5", "a", Update::Resolved)]);
            assert_eq!(
                (held(&inbox), merged),
                (vec!["1".to_owned(), "c".to_owned()], vec![OutboxEvent::Merged(3)])
            );
        }
    }

    #[test]
    fn beyond_the_bound_the_least_important_is_dropped() {
        let inbox = Inbox::default();
        inbox.put(
            (0..NOTIFICATIONS_MAX)
                .map(|nth| notification("r", &format!("{nth}"), Update::Raised))
                .collect(),
        );
        let (_, lost) = inbox.put(vec![
            notification("u", "0", Update::Updated),
            notification("c", "1", Update::Changed),
        ]);
        assert_eq!((held(&inbox).len(), lost), (NOTIFICATIONS_MAX, vec![OutboxEvent::Lost(2)]));
        assert!(held(&inbox).iter().all(|id| id == "r"));
    }
}
