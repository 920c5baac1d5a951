//! Truth about a run: the times in which requests wait for so long that it is an overload.
//!
//! The family does not matter. Requests wait from their arrival until a worker begins with
//! them. It is an overload if four or more wait, the longest for half a second, for three seconds
//! in a row, however long a service takes and whatever was usual. Behind a proxy, where waiting
//! cannot be separated from service, they must wait three times as long as a service takes and as
//! anybody waited before. The condition
//! that a claim is timed by holds after the first of these seconds: `sustain`. Where requests wait
//! a quarter of a second for a second or more a claim is tolerated, and its absence too.

use serde::{Deserialize, Serialize};

use super::super::{
    plan::Scarce,
    socket::{Nanos, SECOND, nanos},
};

/// A wait that may be noticed, and for how long.
const NOTICED_SECS: f64 = 0.25;
const NOTICED_FOR_SECS: f64 = 1.0;

/// A wait that is an overload, for how long, and after how long of it the condition holds.
const OVERLOAD_SECS: f64 = 0.5;
const OVERLOAD_FOR_SECS: f64 = 3.0;
const CONDITION_SECS: f64 = 1.0;

/// Multiple of a service, and of the longest wait before, that it must reach behind a proxy.
const FACTOR: f64 = 3.0;

/// Requests that must wait.
const WAITING_MIN: u32 = 4;

/// Time without a noticeable wait after which one is over.
const CALM_SECS: f64 = 0.5;

/// Overloads this near to each other are one.
const APART_SECS: f64 = 10.0;

/// One overload.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Overload {
    /// Time at which requests begin to wait noticeably.
    pub onset_secs: f64,
    /// Time from which the condition holds.
    pub condition_secs: f64,
    /// Time from which none waits noticeably; the end of the run if that never comes.
    pub end_secs: f64,
    /// Resource that is short.
    pub scarce: Scarce,
}

/// Requests that wait now.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Waits {
    pub(crate) count: u32,
    pub(crate) longest: Nanos,
}

/// A time in which requests wait noticeably.
struct Excursion {
    from: Nanos,
    last: Nanos,
    longest: Nanos,
    row: Option<Nanos>,
    condition: Option<Nanos>,
}

pub(crate) struct Truth {
    scarce: Scarce,
    /// Mean service of the upstream of a proxy; `None` for other servers.
    upstream_secs: Option<f64>,
    usual: Nanos,
    excursion: Option<Excursion>,
    pub(crate) overloads: Vec<Overload>,
    /// Times in which a claim is tolerated.
    pub(crate) tolerated: Vec<(f64, f64)>,
}

impl Truth {
    pub(crate) fn new(scarce: Scarce, upstream_secs: Option<f64>) -> Self {
        let (overloads, tolerated) = (Vec::new(), Vec::new());
        Self { scarce, upstream_secs, usual: 0, excursion: None, overloads, tolerated }
    }

    pub(crate) fn poll(&mut self, now: Nanos, waits: Waits) {
        let bar = match self.upstream_secs {
            None => nanos(OVERLOAD_SECS),
            Some(secs) => nanos(OVERLOAD_SECS.max(FACTOR * secs))
                .max(self.usual.saturating_mul(FACTOR as Nanos)),
        };
        if waits.longest >= nanos(NOTICED_SECS) {
            let excursion = self.excursion.get_or_insert(Excursion {
                from: now,
                last: now,
                longest: 0,
                row: None,
                condition: None,
            });
            excursion.last = now;
            excursion.longest = excursion.longest.max(waits.longest);
            if waits.longest >= bar && waits.count >= WAITING_MIN {
                let row = *excursion.row.get_or_insert(now);
                if now - row >= nanos(OVERLOAD_FOR_SECS) {
                    excursion.condition.get_or_insert(row + nanos(CONDITION_SECS));
                }
            } else {
                excursion.row = None;
            }
        } else if self
            .excursion
            .as_ref()
            .is_some_and(|excursion| now - excursion.last >= nanos(CALM_SECS))
        {
            self.end();
        }
    }

    fn end(&mut self) {
        let Some(excursion) = self.excursion.take() else { return };
        let secs = |t: Nanos| (t as f64 / SECOND * 1e3).round() / 1e3;
        let (onset_secs, end_secs) = (secs(excursion.from), secs(excursion.last));
        if end_secs - onset_secs >= NOTICED_FOR_SECS {
            self.tolerated.push((onset_secs, end_secs));
        }
        let Some(condition) = excursion.condition else {
            self.usual = self.usual.max(excursion.longest);
            return;
        };
        match self.overloads.last_mut().filter(|last| onset_secs - last.end_secs <= APART_SECS) {
            Some(last) => last.end_secs = end_secs,
            None => self.overloads.push(Overload {
                onset_secs,
                condition_secs: secs(condition),
                end_secs,
                scarce: self.scarce,
            }),
        }
    }

    /// Ends what goes on.
    pub(crate) fn finish(&mut self) {
        self.end();
    }
}
