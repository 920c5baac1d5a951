//! Pages between the loop and the thread that puts them on disk, bounded while a disk hangs.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{News, Page, desk::Event};

/// Most pages that are in it. A guess: more than the pages that can be open, with their ends.
const PAGES_MAX: usize = 512;

/// Pages that are on their way to the disk.
#[derive(Debug, Default)]
pub struct Inbox(Mutex<Vec<Page>>);

impl Inbox {
    /// Adds pages, in this order. Gives whether it was empty, so that the thread has to be woken, and what became of those that are not in it now.
    pub fn put(&self, pages: Vec<Page>) -> (bool, Vec<Event>) {
        let mut inbox = self.lock();
        let was_empty = inbox.is_empty();
        let before = inbox.len() + pages.len();
        for page in pages {
            let is_of_it = |other: &Page| other.incident == page.incident && other.news != News::Changed;
            match page.news {
                News::Resolved => {
                    // Nobody was told that it began, so nobody is told that it ended. What came before it began stays.
                    let begun_at = inbox.iter().rposition(|other| is_of_it(other) && other.news == News::Raised);
                    let mut at = 0;
                    inbox.retain(|other| {
                        let is_needless =
                            is_of_it(other) && begun_at.map_or(other.news == News::Updated, |begun_at| at >= begun_at);
                        at += 1;
                        !is_needless
                    });
                    if begun_at.is_some() {
                        continue;
                    }
                }
                News::Updated => inbox.retain(|other| !(is_of_it(other) && other.news == News::Updated)),
                News::Raised | News::Changed => {}
            }
            inbox.push(page);
        }
        let merged = before - inbox.len();
        let lost = inbox.len().saturating_sub(PAGES_MAX);
        for _ in 0..lost {
            let at = inbox.iter().enumerate().min_by_key(|(at, page)| (missed(page), *at)).map_or(0, |(at, _)| at);
            inbox.remove(at);
        }
        let events = [(merged, Event::Merged as fn(usize) -> Event), (lost, Event::Lost)];
        let events = events.into_iter().filter(|(count, _)| *count > 0).map(|(count, event)| event(count)).collect();
        (was_empty, events)
    }

    /// Takes all that is in it.
    pub fn take(&self) -> Vec<Page> {
        std::mem::take(&mut self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Page>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Weight of a page when one has to be dropped.
fn missed(page: &Page) -> u8 {
    match page.news {
        News::Changed => 0,
        News::Updated => 1,
        News::Raised | News::Resolved => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::act::page::tests::page;

    fn held(inbox: &Inbox) -> Vec<String> {
        inbox.lock().iter().map(|page| page.id.clone()).collect()
    }

    #[test]
    fn an_incident_that_flaps_while_a_disk_hangs_takes_two_pages_at_most() {
        let inbox = Inbox::default();
        inbox.put(vec![page("1", "a", News::Resolved), page("c", "a", News::Changed)]);
        for _ in 0..1_000 {
            inbox.put(vec![page("2", "a", News::Raised), page("3", "a", News::Updated), page("4", "a", News::Updated)]);
            assert_eq!(held(&inbox), ["1", "c", "2", "4"]);
            let (_, merged) = inbox.put(vec![page("5", "a", News::Resolved)]);
            assert_eq!((held(&inbox), merged), (vec!["1".to_owned(), "c".to_owned()], vec![Event::Merged(3)]));
        }
    }

    #[test]
    fn it_is_bounded_and_what_is_missed_least_goes_first() {
        let inbox = Inbox::default();
        inbox.put((0..PAGES_MAX).map(|nth| page("r", &format!("{nth}"), News::Raised)).collect());
        let (_, lost) = inbox.put(vec![page("u", "0", News::Updated), page("c", "1", News::Changed)]);
        assert_eq!((held(&inbox).len(), lost), (PAGES_MAX, vec![Event::Lost(2)]));
        assert!(held(&inbox).iter().all(|id| id == "r"));
    }
}
