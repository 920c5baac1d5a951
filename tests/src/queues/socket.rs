//! A simulated listening socket: its accept queue and the process that accepts from it.
//!
//! The limit is the kernel's: a connection is dropped once the queue *exceeds* it, so one more than
//! the limit may wait.

use std::collections::VecDeque;

use super::plan::{self, Accepts, STOP_SECS};

/// Nanoseconds since the start of the run.
pub type Nanos = u64;

pub(super) const SECOND: f64 = 1e9;

/// Period of a CPU quota, as in the kernel's default.
const QUOTA_PERIOD: Nanos = 100_000_000;

pub(super) fn nanos(secs: f64) -> Nanos {
    if secs.is_finite() { (secs * SECOND) as Nanos } else { Nanos::MAX / 2 }
}

/// Client that waits for a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Client {
    /// Client that the simulation does not track.
    Stranger,
    /// Client of a closed loop, by the loop's index.
    Looped(u16),
    /// Client that gives up after a while, by its number.
    Patient(u64),
}

pub(super) struct Waiting {
    pub(super) since: Nanos,
    pub(super) client: Client,
}

/// Counters of a socket since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) arrived: u64,
    pub(super) accepted: u64,
    pub(super) dropped: u64,
    /// Connections waiting when it was closed.
    pub(super) reset: u64,
}

pub(super) struct Socket {
    pub(super) plan: plan::Socket,
    pub(super) open: bool,
    pub(super) queue: VecDeque<Waiting>,
    pub(super) counts: Counts,
    /// Waits of connections accepted since the last reading, in microseconds.
    pub(super) waits_us: Vec<u32>,
    /// Time at which the queue was last empty.
    pub(super) empty_t: Nanos,
    /// Time at which an arriving connection last found it empty.
    pub(super) found_empty: Option<Nanos>,
    /// Worker-nanoseconds of service since the start of the run.
    pub(super) busy_total: u64,
    /// Time since which accepting has stopped.
    pub(super) stopped: Option<Nanos>,
    /// Time of its next turn, if it has to wait for one.
    pub(super) turn: Option<Nanos>,
    workers: u32,
    busy: u32,
    lost: usize,
    busy_t: Nanos,
    /// Index of the first pause that is not over.
    pause: usize,
    pauses: Vec<(Nanos, Nanos)>,
    quota_is_flat: bool,
}

impl Socket {
    pub(super) fn new(plan: plan::Socket) -> Self {
        let workers = match plan.accepts {
            Accepts::Workers(workers) => workers,
            Accepts::Turns { .. } => 1,
        };
        Self {
            open: false,
            queue: VecDeque::new(),
            counts: Counts::default(),
            waits_us: Vec::new(),
            empty_t: 0,
            found_empty: None,
            busy_total: 0,
            stopped: None,
            turn: None,
            workers,
            busy: 0,
            lost: 0,
            busy_t: 0,
            pause: 0,
            pauses: plan.pauses.iter().map(|pause| (nanos(pause.0), nanos(pause.1))).collect(),
            quota_is_flat: plan.quota.breaks().count() == 1,
            plan,
        }
    }

    pub(super) fn workers(&self) -> u32 {
        self.workers
    }

    pub(super) fn has_idle(&self) -> bool {
        self.busy + (self.lost as u32) < self.workers
    }

    pub(super) fn head_age(&self, now: Nanos) -> Option<Nanos> {
        self.queue.front().map(|head| now - head.since)
    }

    /// Returns true if another connection fits, at a limit of `backlog_max`.
    pub(super) fn has_room(&self, backlog_max: u32) -> bool {
        self.queue.len() as u64 <= u64::from(backlog_max)
    }

    /// Accepts the head of the queue.
    pub(super) fn accept(&mut self, now: Nanos) -> Option<Client> {
        let head = self.queue.pop_front()?;
        self.counts.accepted += 1;
        self.waits_us.push(((now - head.since) / 1_000).min(u64::from(u32::MAX)) as u32);
        if self.queue.is_empty() {
            self.empty_t = now;
        }
        Some(head.client)
    }

    /// Begins service by a worker. Returns true if the worker will come back.
    pub(super) fn begin(&mut self, now: Nanos) -> bool {
        self.account(now);
        if self.plan.lost_workers.get(self.lost).is_some_and(|t| nanos(*t) <= now) {
            self.lost += 1;
            if self.lost as u32 >= self.workers {
                self.stopped = Some(now);
            }
            return false;
        }
        self.busy += 1;
        true
    }

    /// Ends service by a worker.
    pub(super) fn done(&mut self, now: Nanos) {
        self.account(now);
        self.busy -= 1;
    }

    /// Accumulates service time until `now`. Workers that never come back are not counted, because
    /// their activity is unknown.
    pub(super) fn account(&mut self, now: Nanos) {
        self.busy_total += u64::from(self.busy) * (now - self.busy_t);
        self.busy_t = now;
    }

    /// Time until which no service may begin; `None` if it may begin now. Records when a stop
    /// begins and ends.
    pub(super) fn held_until(&mut self, now: Nanos) -> Option<Nanos> {
        while self.pauses.get(self.pause).is_some_and(|pause| pause.1 <= now) {
            self.pause += 1;
            if (self.lost as u32) < self.workers {
                self.stopped = None;
            }
        }
        if let Some(&(from, to)) = self.pauses.get(self.pause).filter(|pause| pause.0 <= now) {
            if (to - from) as f64 >= STOP_SECS * SECOND {
                self.stopped.get_or_insert(from);
            }
            return Some(to);
        }
        let off = self.runs_in_period(now)?;
        let period = now - now % QUOTA_PERIOD;
        (now - period >= off).then_some(period + QUOTA_PERIOD)
    }

    /// Time that it may run in the quota's period at `now`; `None` without a limit.
    fn runs_in_period(&self, now: Nanos) -> Option<Nanos> {
        if self.quota_is_flat {
            return None;
        }
        let share = self.plan.quota.at((now - now % QUOTA_PERIOD) as f64 / SECOND);
        (share < 1.0).then(|| ((share * QUOTA_PERIOD as f64) as Nanos).max(1))
    }

    /// Time at which `work` that begins now is done; pauses stop everything.
    pub(super) fn finish(&self, now: Nanos, mut work: Nanos) -> Nanos {
        let (mut t, mut place) = (now, self.pause);
        loop {
            let pause = self.pauses.get(place).copied();
            if let Some((from, to)) = pause.filter(|pause| pause.0 <= t) {
                t = t.max(to).max(from);
                place += 1;
                continue;
            }
            // It runs until the next pause or until its share of this period is used.
            let pause_t = pause.map_or(Nanos::MAX, |pause| pause.0);
            let (runs_to, goes_on) = match self.runs_in_period(t) {
                None if self.quota_is_flat => (Nanos::MAX, Nanos::MAX),
                None => (t - t % QUOTA_PERIOD + QUOTA_PERIOD, t - t % QUOTA_PERIOD + QUOTA_PERIOD),
                Some(off) => {
                    let period = t - t % QUOTA_PERIOD;
                    (t.max(period + off), period + QUOTA_PERIOD)
                }
            };
            let stop = runs_to.min(pause_t);
            if work <= stop - t {
                return t + work;
            }
            work -= stop - t;
            t = if pause_t <= runs_to { pause_t } else { goes_on };
        }
    }
}
