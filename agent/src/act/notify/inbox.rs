//! Pages between the loop and the thread that puts them on disk, bounded while a disk hangs.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Notification, Update, outbox::OutboxEvent};

/// Most pages that are in it. A guess: more than the pages that can be open, with their ends.
const PAGES_MAX: usize = 512;

/// Pages that are on their way to the disk.
#[derive(Debug, Default)]
pub struct Inbox(Mutex<Vec<Notification>>);

impl Inbox {
    /// Adds pages, in this order. Gives whether it was empty, so that the thread has to be woken,
    /// and what became of those that are not in it now.
    pub fn put(&self, pages: Vec<Notification>) -> (bool, Vec<OutboxEvent>) {
        let mut inbox = self.lock();
        let was_empty = inbox.is_empty();
        let before = inbox.len() + pages.len();
        for page in pages {
            let is_of_it = |other: &Notification| {
                other.incident == page.incident && other.news != Update::Changed
            };
            match page.news {
                Update::Resolved => {
                    // Nobody was told that it began, so nobody is told that it ended. What came
                    // before it began stays.
                    let begun_at = inbox
                        .iter()
                        .rposition(|other| is_of_it(other) && other.news == Update::Raised);
                    let mut at = 0;
                    inbox.retain(|other| {
                        let is_needless = is_of_it(other)
                            && begun_at
                                .map_or(other.news == Update::Updated, |begun_at| at >= begun_at);
                        at += 1;
                        !is_needless
                    });
                    if begun_at.is_some() {
                        continue;
                    }
                }
                Update::Updated => {
                    inbox.retain(|other| !(is_of_it(other) && other.news == Update::Updated))
                }
                Update::Raised | Update::Changed => {}
            }
            inbox.push(page);
        }
        let merged = before - inbox.len();
        let lost = inbox.len().saturating_sub(PAGES_MAX);
        for _ in 0..lost {
            let at = inbox
                .iter()
                .enumerate()
                .min_by_key(|(at, page)| (missed(page), *at))
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

    /// Takes all that is in it.
    pub fn take(&self) -> Vec<Notification> {
        std::mem::take(&mut self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Notification>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Weight of a page when one has to be dropped.
fn missed(page: &Notification) -> u8 {
    match page.news {
        Update::Changed => 0,
        Update::Updated => 1,
        Update::Raised | Update::Resolved => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::act::notify::tests::page;

    fn held(inbox: &Inbox) -> Vec<String> {
        inbox.lock().iter().map(|page| page.id.clone()).collect()
    }

    #[test]
    fn an_incident_that_flaps_while_a_disk_hangs_takes_two_pages_at_most() {
        let inbox = Inbox::default();
        inbox.put(vec![page("1", "a", Update::Resolved), page("c", "a", Update::Changed)]);
        for _ in 0..1_000 {
            inbox.put(vec![
                page("2", "a", Update::Raised),
                page("3", "a", Update::Updated),
                page("4", "a", Update::Updated),
            ]);
            assert_eq!(held(&inbox), ["1", "c", "2", "4"]);
            let (_, merged) = inbox.put(vec![page("5", "a", Update::Resolved)]);
            assert_eq!(
                (held(&inbox), merged),
                (vec!["1".to_owned(), "c".to_owned()], vec![OutboxEvent::Merged(3)])
            );
        }
    }

    #[test]
    fn it_is_bounded_and_what_is_missed_least_goes_first() {
        let inbox = Inbox::default();
        inbox.put((0..PAGES_MAX).map(|nth| page("r", &format!("{nth}"), Update::Raised)).collect());
        let (_, lost) =
            inbox.put(vec![page("u", "0", Update::Updated), page("c", "1", Update::Changed)]);
        assert_eq!((held(&inbox).len(), lost), (PAGES_MAX, vec![OutboxEvent::Lost(2)]));
        assert!(held(&inbox).iter().all(|id| id == "r"));
    }
}
