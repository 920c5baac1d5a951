//! The loop: wait, read, hand on.
//!
//! One task owns all state. Timers and the kernel's ring wake it; each read becomes a [`Batch`] of observations that is
//! handed to whoever asked: the core in `spillway run`, a trace in `spillway record`. Reads are short (a scan of 2,000
//! processes takes under a millisecond), so they are made on the loop itself.

use std::{future::Future, os::fd::OwnedFd, pin::pin, time::Duration};

use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Interval, MissedTickBehavior, interval},
};

use crate::{
    clock::Clock,
    sense::{Observation, Sensors},
};

/// Which read a batch comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Read {
    /// The host and every process.
    Processes,
    /// Every listener.
    Listeners,
    /// Births and deaths.
    Life,
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
    let life = sensors.life_fd().and_then(readable);
    let mut observations = Vec::new();
    loop {
        let read = tokio::select! {
            biased;
            () = &mut stop => return Ok(()),
            () = ready(life.as_ref()) => Read::Life,
            _ = listeners.tick() => Read::Listeners,
            _ = processes.tick() => Read::Processes,
        };
        let t = clock.now();
        observations.clear();
        match read {
            Read::Processes => sensors.scan_processes(t, &mut observations),
            Read::Listeners => sensors.scan_listeners(t, &mut observations),
            Read::Life => sensors.drain_life(t, &mut observations),
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

fn readable(fd: OwnedFd) -> Option<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by the AsyncFd and stays open for as long as it is registered.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }
        .inspect_err(|error| tracing::warn!(%error, "births and deaths are read with each scan only"))
        .ok()
}

/// Done once the ring has something; never without a ring.
async fn ready(life: Option<&AsyncFd<OwnedFd>>) {
    match life {
        Some(life) => match life.readable().await {
            // The ring is emptied right after, so that readiness starts anew.
            Ok(mut guard) => guard.clear_ready(),
            Err(_) => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}
