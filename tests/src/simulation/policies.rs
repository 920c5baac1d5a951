//! Policies: who takes which host out, and when.

use std::collections::VecDeque;

use clap::ValueEnum;

/// Policy of a whole group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Policy {
    /// Nobody does anything.
    None,
    /// Alert at 90 % of memory; a human restarts the host ten minutes later, one at a time.
    Threshold,
    /// Each host drains itself when its forecast end is near.
    Uncoordinated,
    /// Drains by each host itself, but at most a tenth of the hosts at a time.
    Count,
    /// Turns by forecast, grants by capacity, a storm brake, and load shed at overloaded hosts.
    Spillway,
    /// Turns, grants and brake without shedding, which is off by default; not among those side by
    /// side.
    Turns,
}

impl Policy {
    /// Policies that are compared side by side.
    pub const ALL: [Self; 5] =
        [Self::None, Self::Threshold, Self::Uncoordinated, Self::Count, Self::Spillway];

    /// Name in output.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Threshold => "threshold",
            Self::Uncoordinated => "uncoordinated",
            Self::Count => "count",
            Self::Spillway => "spillway",
            Self::Turns => "turns",
        }
    }

    /// Returns whether an agent runs on every host.
    pub fn has_agents(self) -> bool {
        !matches!(self, Self::None | Self::Threshold)
    }

    /// Returns whether drains follow the production rules.
    pub fn takes_turns(self) -> bool {
        matches!(self, Self::Spillway | Self::Turns)
    }
}

/// Share of memory in use at which a human is alerted, and the share of the hosts that the policy
/// `count` lets out.
pub const ALERT_SHARE: f64 = 0.9;
pub const COUNT_SHARE: f64 = 0.1;

/// Time from an alert to its human, and of a restart of a host, in seconds.
const RESPONSE_SECS: f64 = 600.0;
const RESTART_SECS: f64 = 180.0;

/// Human who answers alerts, one at a time.
#[derive(Debug, Default)]
pub struct Human {
    alerts: VecDeque<(f64, usize)>,
    is_known: Vec<bool>,
    busy_until: f64,
}

impl Human {
    /// Takes the share of each host's memory that is in use, and returns the host to restart now
    /// and the time at which it is back.
    pub fn next(&mut self, t: f64, used: impl Iterator<Item = f64>) -> Option<(usize, f64)> {
        for (nth, used) in used.enumerate() {
            if nth >= self.is_known.len() {
                self.is_known.push(false);
            }
            if used >= ALERT_SHARE && !self.is_known[nth] {
                self.is_known[nth] = true;
                self.alerts.push_back((t, nth));
            } else if used < ALERT_SHARE && self.is_known[nth] {
                // It has died meanwhile, or was restarted.
                self.is_known[nth] = false;
                self.alerts.retain(|(_, other)| *other != nth);
            }
        }
        let (alerted, nth) = *self.alerts.front()?;
        if t < self.busy_until || t - alerted < RESPONSE_SECS {
            return None;
        }
        self.alerts.pop_front();
        self.busy_until = t + RESTART_SECS;
        Some((nth, self.busy_until))
    }
}
