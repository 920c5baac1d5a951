//! What waits to be told to one sink, and what goes next.
//!
//! Pure: time and chance are arguments. What is told of an incident goes in its order: a resolve never overtakes its trigger. Where the sink does not take
//! it the whole sink is left alone for a while, twice as long each time, so that many incidents make no more calls than one; of several incidents the
//! one tried least goes first, so that one that is never taken holds up no other. Calls are bounded a minute. What only says how an incident
//! stands gives way to what says it better. Cold start: nothing waits.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::News;

/// Calls in any minute.
const CALLS_PER_MINUTE_MAX: usize = 10;
const MINUTE_SECS: f64 = 60.0;

/// The first retry comes within a second; each later one waits up to twice as long, to at most this.
const FIRST_RETRY_SECS: f64 = 1.0;
const RETRY_SECS_MAX: f64 = 300.0;

/// What waits for one sink.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: BTreeMap<u64, Waiting>,
    /// What is being sent.
    sending: Option<u64>,
    /// Calls of the last minute, the oldest first.
    calls: VecDeque<f64>,
    failures: u32,
    rests_until: f64,
    is_closed: bool,
}

#[derive(Debug)]
struct Waiting {
    incident: Arc<str>,
    news: News,
    tries: u32,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Next {
    /// Send this.
    Send(u64),
    /// Ask again then.
    At(f64),
    /// Nothing waits that could go, until something is added or answered.
    Nothing,
}

impl Queue {
    /// Adds a page with a number that is higher than every one before. Gives those that it makes needless.
    pub fn add(&mut self, nth: u64, incident: Arc<str>, news: News) -> Vec<u64> {
        if self.is_closed {
            return vec![nth];
        }
        let is_needless = |(other, waiting): (&u64, &Waiting)| {
            let is = waiting.news == News::Updated && waiting.incident == incident && self.sending != Some(*other);
            is.then_some(*other)
        };
        let needless: Vec<_> = match news {
            News::Updated | News::Resolved => self.waiting.iter().filter_map(is_needless).collect(),
            News::Raised | News::Changed => Vec::new(),
        };
        needless.iter().for_each(|nth| drop(self.waiting.remove(nth)));
        self.waiting.insert(nth, Waiting { incident, news, tries: 0 });
        needless
    }

    /// What to do at `t`. What is to be sent counts as being sent from then on.
    pub fn next(&mut self, t: f64) -> Next {
        if self.sending.is_some() || self.waiting.is_empty() {
            return Next::Nothing;
        }
        if t < self.rests_until {
            return Next::At(self.rests_until);
        }
        while self.calls.front().is_some_and(|call| t - call >= MINUTE_SECS) {
            self.calls.pop_front();
        }
        if let Some(first) = self.calls.front().filter(|_| self.calls.len() >= CALLS_PER_MINUTE_MAX) {
            return Next::At(first + MINUTE_SECS);
        }
        let mut first_of = BTreeMap::new();
        for (nth, waiting) in &self.waiting {
            first_of.entry(&waiting.incident).or_insert((waiting.tries, *nth));
        }
        let Some(nth) = first_of.into_values().min().map(|(_, nth)| nth) else { return Next::Nothing };
        self.calls.push_back(t);
        self.sending = Some(nth);
        Next::Send(nth)
    }

    /// What was sent is done with: delivered, or never to be.
    pub fn settled(&mut self) -> Option<u64> {
        self.failures = 0;
        let nth = self.sending.take()?;
        self.waiting.remove(&nth);
        Some(nth)
    }

    /// What was sent has to be sent again, not before `after` where the sink says so. `chance` is 0 to 1, anew each time.
    pub fn failed(&mut self, t: f64, after: Option<Duration>, chance: f64) {
        if let Some(waiting) = self.sending.take().and_then(|nth| self.waiting.get_mut(&nth)) {
            waiting.tries = waiting.tries.saturating_add(1);
        }
        self.failures = self.failures.saturating_add(1);
        let longest = (FIRST_RETRY_SECS * 2_f64.powi(self.failures.min(30) as i32 - 1)).min(RETRY_SECS_MAX);
        // Half of it by chance, so that many agents do not come back at once.
        let rest = longest * (0.5 + chance.clamp(0.0, 1.0) / 2.0);
        self.rests_until = t + rest.max(after.map_or(0.0, |after| after.as_secs_f64()));
    }

    /// The sink takes nothing any more. Gives what waited.
    pub fn close(&mut self) -> Vec<u64> {
        self.is_closed = true;
        self.sending = None;
        std::mem::take(&mut self.waiting).into_keys().collect()
    }

    /// Takes out the oldest that may be lost; `None` where there is none.
    pub fn give_way(&mut self) -> Option<u64> {
        let may_go = |(nth, waiting): (&u64, &Waiting)| {
            (waiting.news.is_informational() && self.sending != Some(*nth)).then_some(*nth)
        };
        let nth = self.waiting.iter().find_map(may_go)?;
        self.waiting.remove(&nth);
        Some(nth)
    }

    /// When something may go that waits; `None` where nothing does, or something is being sent.
    pub fn wakes_at(&self, t: f64) -> Option<f64> {
        if self.sending.is_some() || self.waiting.is_empty() {
            return None;
        }
        let first = self.calls.iter().rev().nth(CALLS_PER_MINUTE_MAX - 1);
        let allowed_at = first.map_or(t, |call| call + MINUTE_SECS);
        Some(t.max(self.rests_until).max(allowed_at))
    }

    /// How many wait, with what is being sent.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn add(queue: &mut Queue, nth: u64, incident: &str, news: News) -> Vec<u64> {
        queue.add(nth, Arc::from(incident), news)
    }

    #[test]
    fn an_incident_is_told_in_its_order_and_what_is_older_news_gives_way() {
        let mut queue = Queue::default();
        add(&mut queue, 1, "a", News::Raised);
        assert_eq!(queue.next(0.0), Next::Send(1));
        assert!(add(&mut queue, 2, "a", News::Updated).is_empty());
        assert_eq!(add(&mut queue, 3, "a", News::Updated), [2]);
        assert_eq!(queue.next(0.0), Next::Nothing, "one call at a time");
        assert_eq!(add(&mut queue, 4, "a", News::Resolved), [3]);
        queue.failed(0.0, None, 1.0);
        assert_eq!(queue.next(0.5), Next::At(1.0));
        assert_eq!(queue.next(1.0), Next::Send(1));
        assert_eq!(queue.settled(), Some(1));
        assert_eq!(queue.next(1.0), Next::Send(4));
    }

    #[test]
    fn an_incident_that_is_never_taken_holds_up_no_other() {
        let mut queue = Queue::default();
        for (nth, incident) in [(1, "a"), (2, "a"), (3, "b")] {
            add(&mut queue, nth, incident, News::Raised);
        }
        assert_eq!(queue.next(0.0), Next::Send(1));
        queue.failed(0.0, None, 0.0);
        assert_eq!(queue.next(10.0), Next::Send(3));
        queue.settled();
        assert_eq!(queue.next(10.0), Next::Send(1));
    }

    #[test]
    fn the_first_retry_comes_within_a_second_and_later_ones_further_apart_to_a_bound() {
        let mut queue = Queue::default();
        add(&mut queue, 1, "a", News::Raised);
        let (mut t, mut rests) = (0.0, Vec::new());
        for _ in 0..12 {
            // A minute's calls do not bound what rests longer.
            assert_eq!(queue.next(t), Next::Send(1));
            queue.failed(t, None, 1.0);
            let Next::At(at) = queue.next(t) else { panic!() };
            rests.push(at - t);
            t = at.max(t + 6.0);
        }
        assert_eq!(rests[..5], [1.0, 2.0, 4.0, 8.0, 16.0]);
        assert_eq!(rests[11], 300.0);
        queue.next(t);
        queue.failed(t, Some(Duration::from_secs(1_000)), 0.0);
        assert_eq!(queue.next(t), Next::At(t + 1_000.0));
    }

    #[test]
    fn no_more_than_ten_calls_in_any_minute() {
        let mut queue = Queue::default();
        for nth in 0..20 {
            add(&mut queue, nth, &format!("{nth}"), News::Raised);
        }
        for nth in 0..10 {
            assert_eq!(queue.next(nth as f64), Next::Send(nth));
            queue.settled();
        }
        assert_eq!(queue.next(9.0), Next::At(60.0));
        assert_eq!(queue.next(60.0), Next::Send(10));
        queue.settled();
        assert_eq!(queue.next(60.0), Next::At(61.0));
    }

    #[test]
    fn what_begins_and_ends_an_incident_never_gives_way() {
        let mut queue = Queue::default();
        add(&mut queue, 1, "a", News::Raised);
        add(&mut queue, 2, "a", News::Updated);
        add(&mut queue, 3, "", News::Changed);
        add(&mut queue, 4, "b", News::Resolved);
        assert_eq!((queue.give_way(), queue.give_way(), queue.give_way()), (Some(2), Some(3), None));
        assert_eq!(queue.close(), [1, 4]);
        assert_eq!(add(&mut queue, 5, "a", News::Raised), [5]);
        assert_eq!(queue.next(0.0), Next::Nothing);
    }

    proptest! {
        #[test]
        fn however_it_is_answered_nothing_is_lost_or_overtakes_and_calls_stay_in_their_bounds(
            pages in prop::collection::vec((0..4_u8, 0..4_u8), 1..60),
            answers in prop::collection::vec((0.0..30.0_f64, 0..3_u8), 400),
        ) {
            const NEWS: [News; 4] = [News::Raised, News::Updated, News::Resolved, News::Changed];
            let mut queue = Queue::default();
            let told: Vec<_> = pages.iter().map(|(incident, news)| (format!("{incident}"), NEWS[*news as usize])).collect();
            let (mut needless, mut taken, mut calls) = (Vec::new(), Vec::new(), Vec::new());
            let mut pending = told.iter().enumerate();
            let mut t = 0.0;
            for (later, answer) in answers {
                t += later;
                if let Some((nth, (incident, news))) = pending.next() {
                    needless.extend(add(&mut queue, nth as u64, incident, *news));
                }
                match queue.next(t) {
                    Next::Send(_) => {
                        calls.push(t);
                        match answer {
                            0 => queue.failed(t, None, 0.5),
                            _ => taken.extend(queue.settled()),
                        }
                    }
                    Next::At(at) => prop_assert!(at > t),
                    Next::Nothing => {}
                }
            }
            prop_assert!(calls.windows(11).all(|calls| calls[10] - calls[0] >= 60.0));
            for nth in &needless {
                prop_assert!(!taken.contains(nth) && told[*nth as usize].1 == News::Updated);
            }
            for incident in 0..4 {
                let of_incident = |nth: &&u64| told[**nth as usize].0 == format!("{incident}");
                let order: Vec<_> = taken.iter().filter(of_incident).collect();
                prop_assert!(order.is_sorted());
            }
            let waits = queue.len();
            prop_assert_eq!(needless.len() + taken.len() + waits, told.len().min(400));
        }
    }
}
