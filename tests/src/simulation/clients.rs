//! Clients: they send requests, give up after a time, and try at most three times more.
//!
//! Requests are amounts by the number of attempts. Attempts are mixed evenly, so that those of each
//! number fail alike. A pause before an attempt is drawn evenly from half to one and a half times
//! its mean, which doubles each time.

use super::hosts::{Handled, TIMEOUT_SECS};

/// Attempts of a request.
const ATTEMPTS: usize = 4;

/// Mean pause before the second attempt, in seconds.
const PAUSE_SECS: f64 = 1.0;

/// Seconds ahead for which attempts are kept: more than any timeout and pause.
const AHEAD: usize = 16;

/// All clients of the group.
#[derive(Debug, Default)]
pub struct Clients {
    /// Attempts that are due in the next seconds, as a ring.
    due: [[f64; ATTEMPTS]; AHEAD],
    now: usize,
    /// Requests answered in time, and those that no attempt of which was.
    pub served: f64,
    pub lost: f64,
    /// Requests of the last second, likewise.
    pub served_now: f64,
    pub lost_now: f64,
}

impl Clients {
    /// Number of attempts that are made in the next second, with so many new requests.
    pub fn send(&mut self, fresh: f64) -> f64 {
        self.due[self.now][0] += fresh;
        self.due[self.now].iter().sum()
    }

    /// Takes the results of all attempts of the second. They may differ in sum from what was sent:
    /// only their shares count.
    pub fn take(&mut self, handled: Handled) {
        let attempts = std::mem::take(&mut self.due[self.now]);
        let all = handled.served + handled.refused + handled.late;
        let share = |part: f64| if all > 0.0 { part / all } else { 0.0 };
        let served: f64 = attempts.iter().sum::<f64>() * share(handled.served);
        (self.served_now, self.lost_now) = (served, 0.0);
        if handled.refused + handled.late > 0.0 {
            for (nth, attempts) in attempts.into_iter().enumerate() {
                self.fail(nth, attempts * share(handled.refused), 0.0);
                self.fail(nth, attempts * share(handled.late), TIMEOUT_SECS);
            }
        }
        self.served += self.served_now;
        self.lost += self.lost_now;
        self.now = (self.now + 1) % AHEAD;
    }

    /// Takes requests back that counted as served, and whose host is gone.
    pub fn take_back(&mut self, requests: f64) {
        self.served -= requests;
        self.fail(0, requests, TIMEOUT_SECS);
    }

    fn fail(&mut self, attempt: usize, requests: f64, after_secs: f64) {
        if attempt + 1 >= ATTEMPTS {
            self.lost_now += requests;
            return;
        }
        let pause = PAUSE_SECS * f64::from(1_u32 << attempt);
        let first = (after_secs + pause * 0.5).floor().max(1.0) as usize;
        let last = (after_secs + pause * 1.5).ceil() as usize;
        let each = requests / (last - first + 1) as f64;
        for secs in first..=last {
            self.due[(self.now + secs) % AHEAD][attempt + 1] += each;
        }
    }
}
