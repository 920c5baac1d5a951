//! The loop: wait, read, hand on.
//!
//! One task owns all state. Two timers wake it; each read becomes a [`Batch`] of observations that
//! is handed to whoever asked: the core in `spillway run`, a trace in `spillway record`. Reads are
//! short (a scan of 2,000 processes takes under a millisecond), so they are made on the loop
//! itself. Births and deaths wake nobody: they wait in the kernel's ring for the next read and come
//! first in its batch.

use std::{future::Future, pin::pin, time::Duration};

use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::{
    clock::Clock,
    sense::{Observation, Sensors},
};

/// Share of one core that reads of one kind may take. A guess at what an operator would still call
/// cheap; with BPF a scan would need 50,000 processes to reach it, without BPF some 1,000 do.
const READ_SHARE_MAX: f64 = 0.05;

/// Which read a batch comes from; either also brings the births and deaths since the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScanKind {
    /// The host and every process.
    Processes,
    /// Every listener.
    Listeners,
}

/// What one read gave.
pub struct Batch<'a> {
    /// Which read.
    pub read: ScanKind,
    /// What was seen, all at the same `t`.
    pub observations: &'a [Observation],
    /// How long the read took, in seconds.
    pub took_secs: f64,
    /// For how long the loop was away before it, in seconds: see [`gap_secs`].
    pub gap_secs: f64,
    /// When the next read of this kind is due.
    pub next_in: Duration,
    /// The sensors, for what else they know.
    pub sensors: &'a mut Sensors,
}

/// How often to read.
#[derive(Debug, Clone, Copy)]
pub struct Intervals {
    /// Time between two scans of every process.
    pub processes: Duration,
    /// Time between two looks at every listener.
    pub listeners: Duration,
}

/// Reads until `stop` is done, and hands every batch to `consume`. A late tick is not made up for:
/// a loop that was held up must not scan in a burst.
///
/// # Errors
///
/// The first error of `consume`.
pub async fn watch<E>(
    mut sensors: Sensors,
    pace: Intervals,
    clock: Clock,
    stop: impl Future<Output = ()>,
    mut consume: impl FnMut(Batch<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut stop = pin!(stop);
    let mut processes = ticks(pace.processes);
    let mut listeners = ticks(pace.listeners);
    let mut observations = Vec::new();
    let mut last_took_secs = (0.0, 0.0);
    let mut last_t = clock.now();
    loop {
        let waits_from = clock.now();
        let (read, due) = tokio::select! {
            biased;
            () = &mut stop => return Ok(()),
            due = listeners.tick() => (ScanKind::Listeners, due),
            due = processes.tick() => (ScanKind::Processes, due),
        };
        let t = clock.now();
        let gap_secs =
            gap_secs(std::mem::replace(&mut last_t, t), waits_from, clock.at(due.into_std()), t);
        observations.clear();
        sensors.drain_life(t, &mut observations);
        match read {
            ScanKind::Processes => sensors.scan_processes(t, &mut observations),
            ScanKind::Listeners => sensors.scan_listeners(t, &mut observations),
        }
        let took_secs = clock.now() - t;
        let (ticks, period, last_took_secs) = match read {
            ScanKind::Processes => (&mut processes, pace.processes, &mut last_took_secs.0),
            ScanKind::Listeners => (&mut listeners, pace.listeners, &mut last_took_secs.1),
        };
        // One slow read is bad luck, or much that is new at once; a long rest for it would only
        // blind.
        let next_in =
            rest_after(took_secs.min(std::mem::replace(last_took_secs, took_secs)), period);
        if next_in > period {
            ticks.reset_after(next_in);
        }
        let observations = &observations;
        consume(Batch { read, observations, took_secs, gap_secs, next_in, sensors: &mut sensors })?;
    }
}

/// For how long nothing could be noticed between two turns that began at `last_t` and `t`: all of
/// the time but the wait, from `waits_from`, until the second was due. It is what the first took
/// and by how much the second was late.
fn gap_secs(last_t: f64, waits_from: f64, due: f64, t: f64) -> f64 {
    t - last_t - (due - waits_from).max(0.0)
}

/// Time until the next read where reads take so long: slow ones are made less often, so that those
/// of one kind do not take more than [`READ_SHARE_MAX`] of a core.
fn rest_after(took_secs: f64, period: Duration) -> Duration {
    Duration::try_from_secs_f64(took_secs / READ_SHARE_MAX).map_or(period, |rest| rest.max(period))
}

fn ticks(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_what_a_turn_took_and_by_how_much_the_next_was_late() {
        let is =
            |gap: f64, wanted: f64| assert!((gap - wanted).abs() < 1e-9, "{gap}, not {wanted}");
        // A turn of 20 ms, and the next one on time.
        is(gap_secs(1.0, 1.02, 1.1, 1.1), 0.02);
        // The next one late by half a second: nobody woke the loop.
        is(gap_secs(1.0, 1.02, 1.1, 1.6), 0.52);
        // A turn that took longer than the pace, so that the next was due before it ended.
        is(gap_secs(1.0, 3.0, 1.1, 3.0), 2.0);
    }

    #[test]
    fn a_slow_read_is_made_less_often() {
        let second = Duration::from_secs(1);
        assert_eq!(rest_after(0.001, second), second);
        assert_eq!(rest_after(0.05, second), second);
        assert_eq!(rest_after(0.25, second), Duration::from_secs(5));
        assert_eq!(rest_after(f64::NAN, second), second);
    }
}
