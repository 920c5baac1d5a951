//! State machine of a drain: healthy, drain requested, draining, drained, verifying, undrain
//! requested.
//!
//! Pure: `now` is an argument, in seconds on any monotonic clock. No work is taken from the node
//! before somebody granted it, and none given back before somebody was asked to. An answer that
//! never came is taken for a no, and is withdrawn, because it may have been a yes that was lost.
//! Cold start: healthy, and free to ask at once. What an operator says is done first, and at once;
//! everything else waits out the least time of each state, so that no order of events takes the
//! node out and back faster than that.

use serde::{Deserialize, Serialize};

/// A state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrainPhase {
    /// It takes work.
    Healthy,
    /// It takes work until somebody grants that it need not.
    DrainRequested,
    /// It takes no new work, and ends what it has.
    Draining,
    /// It has none, or none that is waited for.
    Drained,
    /// The reason for the drain seems to be over.
    Verifying,
    /// It is over, and somebody is asked to give it work again.
    UndrainRequested,
}

/// Override by the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Override {
    /// Out of service, whatever the agent sees.
    Drain,
    /// The same, and nobody is to look at it once it has no work.
    Maintenance,
    /// In service, whatever the agent sees.
    Undrain,
}

/// Times, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct DrainTimings {
    /// Least time in each state that does not wait for an answer.
    pub dwell_secs: f64,
    /// Maximum wait for connections to close.
    pub drained_within_secs: f64,
    /// Time without a reason before a drain ends.
    pub verify_secs: f64,
    /// Time before a refused drain is requested again.
    pub ask_again_secs: f64,
}

/// Inputs of one step.
#[derive(Debug, Clone, Copy)]
pub struct Inputs {
    /// Now.
    pub now: f64,
    /// Whether something is wrong for which the node should be drained.
    pub wanted: bool,
    /// Whether a new drain may be asked for on that account.
    pub may_drain: bool,
    /// Set if the drain does not help, so that it ends at once.
    pub is_useless: bool,
    /// Override by the operator.
    pub word: Option<Override>,
    /// Connections that are served; `None` where nobody knows.
    pub connections: Option<u64>,
}

/// Reply to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// Yes.
    Granted,
    /// No.
    Refused,
    /// Nothing, within the time that there was.
    Nothing,
    /// Never again.
    Closed,
}

/// A step from one state to another, or from a request to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// From where.
    pub from: DrainPhase,
    /// To where.
    pub to: DrainPhase,
}

/// State of the node.
#[derive(Debug, Clone)]
pub struct DrainState {
    pace: DrainTimings,
    phase: DrainPhase,
    since: f64,
    /// Whether work is taken from it: of a drain that was granted and not ended yet.
    is_out: bool,
    /// Since when nothing calls for the drain.
    calm_since: Option<f64>,
    /// Until when nothing is asked for.
    held_until: f64,
    /// Override at the last step.
    word: Option<Override>,
}

impl DrainPhase {
    /// Every one.
    pub const ALL: [Self; 6] = [
        Self::Healthy,
        Self::DrainRequested,
        Self::Draining,
        Self::Drained,
        Self::Verifying,
        Self::UndrainRequested,
    ];

    /// As it is printed and kept.
    pub fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::DrainRequested => "drain_requested",
            Self::Draining => "draining",
            Self::Drained => "drained",
            Self::Verifying => "verifying",
            Self::UndrainRequested => "undrain_requested",
        }
    }

    /// Whether an answer is waited for.
    pub fn is_request(self) -> bool {
        matches!(self, Self::DrainRequested | Self::UndrainRequested)
    }
}

impl Override {
    /// Whether it keeps the node out of service.
    pub fn is_drain(self) -> bool {
        matches!(self, Self::Drain | Self::Maintenance)
    }
}

impl DrainState {
    /// Healthy, and free to ask at once.
    pub fn new(pace: DrainTimings) -> Self {
        Self::resume(pace, DrainPhase::Healthy, f64::NEG_INFINITY, false)
    }

    /// Resumes the state of an earlier run, entered at `since`.
    pub fn resume(pace: DrainTimings, phase: DrainPhase, since: f64, is_out: bool) -> Self {
        Self {
            pace,
            phase,
            since,
            is_out,
            calm_since: None,
            held_until: f64::NEG_INFINITY,
            word: None,
        }
    }

    /// Returns the current phase.
    pub fn phase(&self) -> DrainPhase {
        self.phase
    }

    /// Since when.
    pub fn since(&self) -> f64 {
        self.since
    }

    /// Whether work is taken from it.
    pub fn is_out(&self) -> bool {
        self.is_out
    }

    /// Whether something is asked for, or asked for again, only later.
    pub fn is_held(&self, now: f64) -> bool {
        now < self.held_until
    }

    /// Goes on if it may. Of [`DrainPhase::UndrainRequested`] to itself it asks again.
    pub fn step(&mut self, facts: Inputs) -> Option<Transition> {
        let Inputs { now, wanted, may_drain, is_useless, word, connections } = facts;
        if std::mem::replace(&mut self.word, word) != word && word.is_some() {
            // Who says something new is not kept waiting by what was answered before.
            self.held_until = f64::NEG_INFINITY;
        }
        let (says_drain, says_undrain) =
            (word.is_some_and(Override::is_drain), word == Some(Override::Undrain));
        let called_for = says_drain || wanted && !says_undrain;
        match called_for {
            true => self.calm_since = None,
            false => self.calm_since = self.calm_since.or(Some(now)),
        }
        let age = now - self.since;
        let rested = age >= self.pace.dwell_secs;
        let to = match self.phase {
            DrainPhase::Healthy => {
                let may = says_drain || called_for && may_drain && rested;
                (may && !self.is_held(now)).then_some(DrainPhase::DrainRequested)
            }
            DrainPhase::DrainRequested => (!called_for).then_some(DrainPhase::UndrainRequested),
            DrainPhase::Draining | DrainPhase::Drained | DrainPhase::Verifying
                if says_undrain || is_useless && !says_drain =>
            {
                Some(DrainPhase::UndrainRequested)
            }
            _ if !rested && self.phase != DrainPhase::UndrainRequested => None,
            DrainPhase::Draining | DrainPhase::Drained if !called_for => {
                Some(DrainPhase::Verifying)
            }
            DrainPhase::Draining => (connections == Some(0)
                || age >= self.pace.drained_within_secs)
                .then_some(DrainPhase::Drained),
            DrainPhase::Drained => None,
            DrainPhase::Verifying if called_for => Some(DrainPhase::Draining),
            DrainPhase::Verifying => {
                let calm_secs = self.calm_since.map_or(0.0, |since| now - since.max(self.since));
                (calm_secs >= self.pace.verify_secs).then_some(DrainPhase::UndrainRequested)
            }
            // Asked again once it was held for a while: see `answered`.
            DrainPhase::UndrainRequested => {
                let due = self.held_until > f64::NEG_INFINITY && !self.is_held(now);
                due.then_some(if called_for {
                    DrainPhase::DrainRequested
                } else {
                    DrainPhase::UndrainRequested
                })
            }
        };
        to.map(|to| self.go(now, to))
    }

    /// Takes the answer to what was asked last; nothing where nothing was.
    pub fn answered(&mut self, now: f64, answer: Reply) -> Option<Transition> {
        let to = match (self.phase, answer) {
            (DrainPhase::DrainRequested, Reply::Granted) => {
                self.is_out = true;
                DrainPhase::Draining
            }
            (DrainPhase::DrainRequested, Reply::Refused | Reply::Closed) => {
                // One that was out, and whose undrain could not be had, may be so still.
                let was_out = std::mem::replace(&mut self.is_out, false);
                let stays = was_out && answer == Reply::Refused;
                let step = self.go(
                    now,
                    if stays { DrainPhase::UndrainRequested } else { DrainPhase::Healthy },
                );
                if !stays {
                    self.held_until = now + self.pace.ask_again_secs;
                }
                return Some(step);
            }
            (DrainPhase::DrainRequested, Reply::Nothing) => DrainPhase::UndrainRequested,
            (DrainPhase::UndrainRequested, Reply::Granted | Reply::Closed) => {
                self.is_out = false;
                DrainPhase::Healthy
            }
            (DrainPhase::UndrainRequested, Reply::Refused | Reply::Nothing) => {
                // A node that stays out for the want of an answer is asked for again soon.
                self.held_until = now + self.pace.dwell_secs;
                return None;
            }
            _ => return None,
        };
        Some(self.go(now, to))
    }

    fn go(&mut self, now: f64, to: DrainPhase) -> Transition {
        let from = std::mem::replace(&mut self.phase, to);
        (self.since, self.held_until) = (now, f64::NEG_INFINITY);
        Transition { from, to }
    }
}

#[cfg(test)]
mod tests;
