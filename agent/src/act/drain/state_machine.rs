//! State machine of a drain: healthy, drain requested, draining, drained, verifying, undrain
//! requested.
//!
//! Pure: `now` is an argument, in seconds on any monotonic clock. The node leaves rotation only
//! after a grant, and returns only after a request. A reply that never came counts as a refusal,
//! and the request is withdrawn, because the reply may have been a grant that was lost. Cold start:
//! healthy, and free to request at once. An operator's override acts first, and at once; everything
//! else waits out the minimum time of each state, so that no order of events can take the node out
//! and back faster than that.

use serde::{Deserialize, Serialize};

/// State of a drain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrainPhase {
    /// The node takes work.
    #[default]
    Healthy,
    /// A drain is requested; the node takes work until a receiver grants it.
    DrainRequested,
    /// The node takes no new work, and finishes its present work.
    Draining,
    /// The node has no work left, or the wait for that has ended.
    Drained,
    /// The reason for the drain seems to be over.
    Verifying,
    /// The reason is over, and a receiver is asked to put the node back.
    UndrainRequested,
}

/// Override by the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Override {
    /// Out of rotation, whatever the agent sees.
    Drain,
    /// Out of rotation like `Drain`; load balancers also stop their checks once it has no work.
    Maintenance,
    /// In rotation, whatever the agent sees.
    Undrain,
}

/// Times, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct DrainTimings {
    /// Minimum time in each state that does not wait for a reply.
    pub dwell_secs: f64,
    /// Maximum wait for the node's work to end.
    pub drained_within_secs: f64,
    /// Time without a reason before a drain ends.
    pub verify_secs: f64,
    /// Time before a refused drain is requested again.
    pub ask_again_secs: f64,
}

/// Inputs of one step.
#[derive(Debug, Clone, Copy)]
pub struct Inputs {
    /// Current time.
    pub now: f64,
    /// Set if there is a reason for a drain.
    pub wanted: bool,
    /// Set if a new drain may be requested for it.
    pub may_drain: bool,
    /// Set if the drain does not help, so that it ends at once.
    pub is_useless: bool,
    /// Override by the operator.
    pub word: Option<Override>,
    /// Set if this node has no work left; not if that is unknown.
    pub is_done: bool,
}

/// Reply to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// The receiver grants the request.
    Granted,
    /// The receiver refuses the request.
    Refused,
    /// There was no reply before the deadline.
    Nothing,
    /// The receiver wants no more requests.
    Closed,
}

/// Transition from one state to another, or from a request to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// State before.
    pub from: DrainPhase,
    /// State after.
    pub to: DrainPhase,
}

/// State of the node.
#[derive(Debug, Clone)]
pub struct DrainState {
    pace: DrainTimings,
    phase: DrainPhase,
    since: f64,
    /// Set while the node is out of rotation, from the grant to the end of the drain.
    is_out: bool,
    /// Time since which there is no reason for the drain.
    calm_since: Option<f64>,
    /// Time until which no request is made.
    held_until: f64,
    /// Override at the last step.
    word: Option<Override>,
}

impl DrainPhase {
    /// All states.
    pub const ALL: [Self; 6] = [
        Self::Healthy,
        Self::DrainRequested,
        Self::Draining,
        Self::Drained,
        Self::Verifying,
        Self::UndrainRequested,
    ];

    /// Name in output and on disk.
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

    /// Returns whether the state waits for a reply.
    pub fn is_request(self) -> bool {
        matches!(self, Self::DrainRequested | Self::UndrainRequested)
    }
}

impl Override {
    /// Returns whether it keeps the node out of rotation.
    pub fn is_drain(self) -> bool {
        matches!(self, Self::Drain | Self::Maintenance)
    }
}

impl DrainState {
    /// Creates a healthy node, free to request a drain at once.
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

    /// Time at which the current phase began.
    pub fn since(&self) -> f64 {
        self.since
    }

    /// Returns whether the node is out of rotation.
    pub fn is_out(&self) -> bool {
        self.is_out
    }

    /// Returns whether requests have to wait.
    pub fn is_held(&self, now: f64) -> bool {
        now < self.held_until
    }

    /// Takes the next transition that the inputs allow. One from
    /// [`DrainPhase::UndrainRequested`] to itself repeats the request.
    pub fn step(&mut self, facts: Inputs) -> Option<Transition> {
        let Inputs { now, wanted, may_drain, is_useless, word, is_done } = facts;
        if std::mem::replace(&mut self.word, word) != word && word.is_some() {
            // A new override does not wait because of an earlier reply.
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
            DrainPhase::Draining => {
                let is_late = age >= self.pace.drained_within_secs;
                (is_done || is_late).then_some(DrainPhase::Drained)
            }
            DrainPhase::Drained => None,
            DrainPhase::Verifying if called_for => Some(DrainPhase::Draining),
            DrainPhase::Verifying => {
                let calm_secs = self.calm_since.map_or(0.0, |since| now - since.max(self.since));
                (calm_secs >= self.pace.verify_secs).then_some(DrainPhase::UndrainRequested)
            }
            // Requested again after a delay: see `answered`.
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

    /// Takes the reply to the last request; `None` if there was none.
    pub fn answered(&mut self, now: f64, answer: Reply) -> Option<Transition> {
        let to = match (self.phase, answer) {
            (DrainPhase::DrainRequested, Reply::Granted) => {
                self.is_out = true;
                DrainPhase::Draining
            }
            (DrainPhase::DrainRequested, Reply::Refused | Reply::Closed) => {
                // A node that was out, and whose undrain failed, may still be out.
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
                // A node that stays out for want of a reply is requested again soon.
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
