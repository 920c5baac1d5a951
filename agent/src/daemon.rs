//! The loop: wait, read, hand on.
//!
//! One task owns all state. Two timers wake it; each read becomes a [`Batch`] of observations that is handed to whoever
//! asked: the core in `spillway run`, a trace in `spillway record`. Reads are short (a scan of 2,000 processes takes under
//! a millisecond), so they are made on the loop itself. Births and deaths wake nobody: they wait in the kernel's ring for
//! the next read and come first in its batch.

use std::{future::Future, pin::pin, time::Duration};

use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::{
    clock::Clock,
    sense::{Observation, Sensors},
};

/// Which read a batch comes from; either also brings the births and deaths since the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Read {
    /// The host and every process.
    Processes,
    /// Every listener.
    Listeners,
}

/// What one read gave.
pub struct Batch<'a> {
    /// Which read.
    pub read: Read,
    /// What was seen, all at the same `t`.
    pub observations: &'a [Observation],
    /// How long the read took, in seconds.
    pub took_secs: f64,
    /// The sensors, for what else they know.
    pub sensors: &'a mut Sensors,
}

/// How often to read.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Time between two scans of every process.
    pub processes: Duration,
    /// Time between two looks at every listener.
    pub listeners: Duration,
}

/// Reads until `stop` is done, and hands every batch to `consume`. A late tick is not made up for: a loop that was held
/// up must not scan in a burst.
///
/// # Errors
///
/// The first error of `consume`.
pub async fn watch<E>(
    mut sensors: Sensors,
    pace: Pace,
    clock: Clock,
    stop: impl Future<Output = ()>,
    mut consume: impl FnMut(Batch<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut stop = pin!(stop);
    let mut processes = ticks(pace.processes);
    let mut listeners = ticks(pace.listeners);
    let mut observations = Vec::new();
    loop {
        let read = tokio::select! {
            biased;
            () = &mut stop => return Ok(()),
            _ = listeners.tick() => Read::Listeners,
            _ = processes.tick() => Read::Processes,
        };
        let t = clock.now();
        observations.clear();
        sensors.drain_life(t, &mut observations);
        match read {
            Read::Processes => sensors.scan_processes(t, &mut observations),
            Read::Listeners => sensors.scan_listeners(t, &mut observations),
        }
        let took_secs = clock.now() - t;
        consume(Batch { read, observations: &observations, took_secs, sensors: &mut sensors })?;
    }
}

fn ticks(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
