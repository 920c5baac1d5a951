//! Control law of `shed`: the length of an accept queue that its server can work off in time.
//!
//! A server whose queue is longer than its clients' patience works for clients that have gone. So
//! the queue is bounded to what is accepted within `act.shed.wait`, by Little's law: the rate of
//! accepts times that wait. Requests that were accepted and not read yet wait too, and count as
//! part of the queue. The rate is the highest of the last ten seconds, because a queue that is too
//! short would lower it, and with it the next bound.
//!
//! A queue that is half empty for a second is doubled, up to the original length. Once the incident
//! is over it is only widened, and ends at exactly the original length: once the queue was calm for
//! long enough, or after a minute in any case. A program that calls listen() again meant another
//! length: that becomes the original one, and from the third time on the queue is left to it.
//!
//! Pure: time is an argument. Cold start: without a known rate the queue begins at the floor, and
//! the rate follows from how fast the rest of it drains, since nothing enters a queue that is over
//! its limit. Failure: a server that accepts nothing is not helped, and gets its length back.

/// Minimum length. A guess: a browser opens some connections at once, and workers that become free
/// together should each find one.
const FLOOR: u32 = 4;

/// Time over which a rate is taken: at 20 accepts a second, 20 connections.
const RATE_SECS: f64 = 1.0;

/// Number of rates of which the highest counts.
const RATES: usize = 10;

/// Time between two changes of the length. One step has to show in the queue before the next.
const STEP_SECS: f64 = 1.0;

/// Relative change of the bound below which the length stays.
const CHANGE_MIN: f64 = 0.1;

/// Time after the end of the incident in which the original length is restored in any case.
const RELEASE_SECS: f64 = 60.0;

/// Time without an accept, while connections wait, after which the server is stuck. Longer than the
/// pauses of garbage collectors.
const STUCK_SECS: f64 = 3.0;

/// Calls of listen() by others from which on the queue is left to them.
const RELISTENS_MAX: u32 = 3;

/// One reading of a listener, over all its sockets.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct QueueReading {
    /// Time on the observations' clock, in seconds.
    pub t: f64,
    /// Sockets that it has; 0 counts as one.
    pub sockets: u32,
    /// Connections that wait for accept().
    pub backlog: u32,
    /// Connections accepted so far; `None` if they are not counted.
    pub accepted_total: Option<u64>,
    /// Connections refused so far because the queue was full; `None` if they are not counted.
    pub refused_total: Option<u64>,
    /// Wait of the oldest connection, in seconds; `None` if it is unknown.
    pub oldest_wait_secs: Option<f64>,
    /// Requests on accepted connections that the server has not read; `None` if unknown.
    pub unread: Option<u32>,
}

/// Change that the law asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShedStep {
    /// The length stays.
    Keep,
    /// The length is to become this.
    Set(u32),
    /// The original length is to be restored: the overload is over.
    Restore,
    /// The original length is to be restored: nothing is accepted, so that a bound does not help.
    Stuck,
}

/// Connections accepted and refused while load was shed.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ShedFigures {
    /// Duration, in seconds.
    pub secs: f64,
    /// Connections accepted; `None` if they are not counted.
    pub accepted: Option<u64>,
    /// Connection attempts refused; `None` if they are not counted. A client repeats one that was
    /// dropped, so that it may count several times.
    pub refused: Option<u64>,
    /// Longest wait of a connection since the oldest one was first within the wait aimed at, in
    /// seconds; `None` if it is unknown.
    pub longest_wait_secs: Option<f64>,
}

/// Returns the longer wait of those that are known.
pub(super) fn longest(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    one.into_iter().chain(other).reduce(f64::max)
}

/// Control of one listener's queue.
#[derive(Debug, Clone)]
pub struct ShedControl {
    wait_secs: f64,
    original: u32,
    length: u32,
    /// Last rates in accepts per second, oldest first; at the beginning that of the claim.
    rates: Vec<f64>,
    /// Seconds and accepts of the rate that is being taken.
    taking: (f64, u64),
    first: QueueReading,
    last: QueueReading,
    changed_t: f64,
    calm_since_t: Option<f64>,
    ended_t: Option<f64>,
    stuck_since_t: Option<f64>,
    relistens: u32,
    /// Set once the oldest connection was within the wait: those before are not the bound's doing.
    is_within: bool,
    longest_wait_secs: Option<f64>,
}

impl ShedControl {
    /// Begins with the first reading of a queue of length `original`, to be accepted within
    /// `wait_secs`. `accepts_per_sec` is the present rate, if it is known.
    pub fn new(
        wait_secs: f64,
        original: u32,
        accepts_per_sec: Option<f64>,
        first: QueueReading,
    ) -> Self {
        let known = accepts_per_sec.into_iter().filter(|rate| rate.is_finite() && *rate >= 0.0);
        let mut control = Self {
            wait_secs,
            original,
            length: original,
            rates: known.collect(),
            taking: (0.0, 0),
            first,
            last: first,
            changed_t: first.t,
            calm_since_t: None,
            ended_t: None,
            stuck_since_t: None,
            relistens: 0,
            is_within: false,
            longest_wait_secs: None,
        };
        control.length = control.bound();
        control
    }

    /// Length that is to be in effect, over all sockets of the listener.
    pub fn length(&self) -> u32 {
        self.length
    }

    /// Length before, and again in the end.
    pub fn original(&self) -> u32 {
        self.original
    }

    /// Figures so far.
    pub fn figures(&self) -> ShedFigures {
        let rise = |total: fn(&QueueReading) -> Option<u64>| {
            Some(total(&self.last)?.saturating_sub(total(&self.first)?))
        };
        ShedFigures {
            secs: self.last.t - self.first.t,
            accepted: rise(|reading| reading.accepted_total),
            refused: rise(|reading| reading.refused_total),
            longest_wait_secs: self.longest_wait_secs,
        }
    }

    /// Ends the incident: from now on the length only grows.
    pub fn end(&mut self, t: f64) {
        self.ended_t.get_or_insert(t);
    }

    /// Continues, because the incident has returned.
    pub fn resume(&mut self) {
        self.ended_t = None;
    }

    /// Takes a length that somebody else has set, over all sockets. Returns whether the bound is to
    /// be set again; if not, the queue is left to them.
    pub fn relisten(&mut self, t: f64, original: u32) -> bool {
        self.relistens += 1;
        self.original = original;
        (self.length, self.changed_t) = (self.bound().min(self.length), t);
        self.relistens < RELISTENS_MAX
    }

    /// Takes a reading and returns the change that it calls for.
    pub fn step(&mut self, reading: QueueReading) -> ShedStep {
        let secs = reading.t - self.last.t;
        // Of one moment, or of a clock that ran backwards.
        if secs.is_nan() || secs <= 0.0 {
            return ShedStep::Keep;
        }
        let accepted = self.accepted_until(&reading);
        self.take_rate(secs, accepted);
        self.note_wait(&reading);
        self.stuck_since_t = match accepted {
            _ if reading.backlog == 0 => None,
            Some(0) => self.stuck_since_t.or(Some(self.last.t)),
            Some(_) => None,
            // An unknown number of accepts proves neither.
            None => self.stuck_since_t,
        };
        let is_calm = reading.backlog <= self.length / 2;
        self.calm_since_t = is_calm.then(|| self.calm_since_t.unwrap_or(reading.t));
        self.last = reading;
        if self.stuck_since_t.is_some_and(|since_t| reading.t - since_t >= STUCK_SECS) {
            return ShedStep::Stuck;
        }
        if let Some(ended_t) = self.ended_t
            && (self.length >= self.original || reading.t - ended_t >= RELEASE_SECS)
        {
            self.length = self.original;
            return ShedStep::Restore;
        }
        self.change(reading.t)
    }

    /// Returns the next length, at most once in [`STEP_SECS`].
    fn change(&mut self, t: f64) -> ShedStep {
        let since_t = self.calm_since_t.unwrap_or(t).max(self.changed_t);
        let next = if self.calm_since_t.is_some() && t - since_t >= STEP_SECS {
            self.length.saturating_mul(2).max(self.length + 1).min(self.original)
        } else if self.calm_since_t.is_none() && t - self.changed_t >= STEP_SECS {
            self.followed()
        } else {
            self.length
        };
        if next == self.length {
            return ShedStep::Keep;
        }
        (self.length, self.changed_t) = (next, t);
        if self.ended_t.is_some() && next >= self.original {
            return ShedStep::Restore;
        }
        ShedStep::Set(next)
    }

    /// Length of a queue that is in use, by the present bound.
    fn followed(&self) -> u32 {
        let bound = self.bound();
        let is_near = f64::from(bound.abs_diff(self.length)) < CHANGE_MIN * f64::from(self.length);
        let is_narrower = bound < self.length;
        if is_near || is_narrower && (self.ended_t.is_some() || self.last.backlog <= bound) {
            self.length
        } else {
            bound
        }
    }

    /// Length that is accepted within the wait.
    fn bound(&self) -> u32 {
        let floor = FLOOR.min(self.original);
        let best = self.rates.iter().copied().max_by(f64::total_cmp);
        let Some(rate) = best else { return floor };
        // The cast saturates.
        let waiting = (rate * self.wait_secs).ceil() as u32;
        // The kernel lets one more wait than the length says.
        let length = waiting.saturating_sub(self.last.unread.unwrap_or(0)).saturating_sub(1);
        length.clamp(floor, self.original)
    }

    /// Returns the connections accepted since the last reading; `None` if that is unknown.
    fn accepted_until(&self, reading: &QueueReading) -> Option<u64> {
        if let (Some(now), Some(before)) = (reading.accepted_total, self.last.accepted_total) {
            return Some(now.saturating_sub(before));
        }
        // While more wait than may, nothing enters. The kernel lets one more wait at each socket
        // than its length says, and the length is rounded up for each.
        let most = self.length.saturating_add(reading.sockets.max(1).saturating_mul(2));
        let was_over = self.last.backlog > most && reading.backlog > most;
        was_over.then(|| u64::from(self.last.backlog.saturating_sub(reading.backlog)))
    }

    fn take_rate(&mut self, secs: f64, accepted: Option<u64>) {
        let Some(accepted) = accepted else { return };
        let (taken_secs, taken) = self.taking;
        self.taking = (taken_secs + secs, taken.saturating_add(accepted));
        let (secs, count) = self.taking;
        if secs >= RATE_SECS {
            self.taking = (0.0, 0);
            if self.rates.len() == RATES {
                self.rates.remove(0);
            }
            self.rates.push(count as f64 / secs);
        }
    }

    fn note_wait(&mut self, reading: &QueueReading) {
        // The connections that waited before the queue was bounded are accepted first.
        self.is_within |= reading.oldest_wait_secs.is_some_and(|secs| secs <= self.wait_secs);
        if self.is_within {
            self.longest_wait_secs = longest(self.longest_wait_secs, reading.oldest_wait_secs);
        }
    }
}

#[cfg(test)]
mod tests;
