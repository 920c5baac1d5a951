//! The loop that reads the sensors: wait for a timer or a signal, read, pass the event on.
//!
//! One task owns all state. Two timers wake it; each read becomes a [`Batch`] of observations for
//! the engine (`spillway run`) or a trace (`spillway record`). Reads are short (a scan of 2,000
//! processes takes less than a millisecond), so they run on the loop itself. Process starts and
//! exits do not wake it: they wait in the kernel's ring buffer and come first in the next batch.

use std::{
    future::{self, Future},
    pin::pin,
    time::Duration,
};

use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::{
    clock::Clock,
    sense::{Observation, Sensors},
    spare_room,
};

/// Maximum share of one core for reads of one kind. A guess at what an operator would still call
/// cheap. With BPF a scan reaches it at 50,000 processes, without BPF at some 1,000.
const READ_SHARE_MAX: f64 = 0.05;

/// Kind of read that a batch comes from. Both also bring the process starts and exits since the
/// last read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScanKind {
    /// The host and every process.
    Processes,
    /// Every listener.
    Listeners,
}

/// Event of the loop.
pub enum Event<'a> {
    /// The sensors were read.
    Scan(Batch<'a>),
    /// A signal asks to read the configuration again.
    Reload,
    /// The loop still runs: see [`Intervals::alive`].
    Alive,
}

/// Result of one read.
pub struct Batch<'a> {
    /// Kind of read.
    pub read: ScanKind,
    /// Observations, all at the same `t`.
    pub observations: &'a [Observation],
    /// Duration of the read, in seconds.
    pub took_secs: f64,
    /// Time before the read in which the loop could notice nothing, in seconds: see [`gap_secs`].
    pub gap_secs: f64,
    /// Time until the next read of this kind.
    pub next_in: Duration,
    /// The sensors, for their own status and losses.
    pub sensors: &'a mut Sensors,
}

/// Intervals between reads.
#[derive(Debug, Clone, Copy)]
pub struct Intervals {
    /// Time between two scans of every process.
    pub processes: Duration,
    /// Time between two scans of every listener.
    pub listeners: Duration,
    /// Time between two signs of life; `None` if nobody waits for them.
    pub alive: Option<Duration>,
}

/// Reads until `stop` completes, and passes every event to `consume`; `hangup` waits for a signal
/// to reload. A late tick is not made up for, because a loop that was held up must not scan in a
/// burst.
///
/// # Errors
///
/// Returns the first error of `consume`.
pub async fn watch<E>(
    mut sensors: Sensors,
    intervals: Intervals,
    clock: Clock,
    stop: impl Future<Output = ()>,
    mut hangup: impl AsyncFnMut(),
    mut consume: impl FnMut(Event<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut stop = pin!(stop);
    let mut processes = ticks(intervals.processes);
    let mut listeners = ticks(intervals.listeners);
    let mut alive = intervals.alive.map(ticks);
    let mut observations = Vec::new();
    let mut last_took_secs = (0.0, 0.0);
    let mut last_t = clock.now();
    loop {
        let waits_from = clock.now();
        // Neither a reload nor a sign of life ends the wait.
        let (read, due) = loop {
            tokio::select! {
                biased;
                () = &mut stop => return Ok(()),
                () = hangup() => consume(Event::Reload)?,
                () = next(&mut alive) => consume(Event::Alive)?,
                due = listeners.tick() => break (ScanKind::Listeners, due),
                due = processes.tick() => break (ScanKind::Processes, due),
            }
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
            ScanKind::Processes => (&mut processes, intervals.processes, &mut last_took_secs.0),
            ScanKind::Listeners => (&mut listeners, intervals.listeners, &mut last_took_secs.1),
        };
        // A single slow read is bad luck or a burst of new processes; resting for long after it
        // would only blind the agent.
        let next_in =
            rest_after(took_secs.min(std::mem::replace(last_took_secs, took_secs)), period);
        if next_in > period {
            ticks.reset_after(next_in);
        }
        if read == ScanKind::Processes {
            spare_room::of_vec(&mut observations);
        }
        let observations = &observations;
        consume(Event::Scan(Batch {
            read,
            observations,
            took_secs,
            gap_secs,
            next_in,
            sensors: &mut sensors,
        }))?;
    }
}

/// Time in which nothing could be noticed between two turns that began at `last_t` and `t`: all of
/// it except the wait, from `waits_from`, until the second turn was due. This is the duration of
/// the first turn and the delay of the second.
fn gap_secs(last_t: f64, waits_from: f64, due: f64, t: f64) -> f64 {
    t - last_t - (due - waits_from).max(0.0)
}

/// Time until the next read after one that took `took_secs`. Slow reads run less often, so that
/// those of one kind take no more than [`READ_SHARE_MAX`] of a core.
fn rest_after(took_secs: f64, period: Duration) -> Duration {
    Duration::try_from_secs_f64(took_secs / READ_SHARE_MAX).map_or(period, |rest| rest.max(period))
}

/// Waits for the next tick, or for ever without a timer.
async fn next(ticks: &mut Option<Interval>) {
    match ticks {
        Some(ticks) => drop(ticks.tick().await),
        None => future::pending().await,
    }
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
    fn sign_of_life_is_no_gap() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (mut alive, mut gaps) = (0, Vec::new());
        let slow = Duration::from_millis(400);
        let intervals =
            Intervals { processes: slow, listeners: slow, alive: Some(Duration::from_millis(50)) };
        runtime
            .block_on(async {
                let stop = tokio::time::sleep(Duration::from_secs(1));
                let consume = |event: Event<'_>| {
                    match event {
                        Event::Alive => alive += 1,
                        Event::Scan(batch) => gaps.push(batch.gap_secs),
                        Event::Reload => {}
                    }
                    Ok::<(), ()>(())
                };
                let sensors = Sensors::without_bpf("a test uses none");
                let no_hangup = async || future::pending().await;
                watch(sensors, intervals, Clock::start(), stop, no_hangup, consume).await
            })
            .unwrap();
        assert!(alive >= 10 && gaps.len() >= 4, "{alive} {gaps:?}");
        // Reads of `/proc` and the load of the machine are gaps too.
        let last = gaps.split_off(2);
        assert!(last.iter().any(|gap| *gap < 0.2), "{last:?}");
    }

    #[test]
    fn gap_is_the_length_of_a_turn_and_the_delay_of_the_next() {
        let is =
            |gap: f64, wanted: f64| assert!((gap - wanted).abs() < 1e-9, "{gap}, not {wanted}");
        // A turn of 20 ms, and the next one on time.
        is(gap_secs(1.0, 1.02, 1.1, 1.1), 0.02);
        // The next one late by half a second: nobody woke the loop.
        is(gap_secs(1.0, 1.02, 1.1, 1.6), 0.52);
        // A turn longer than the interval, so that the next was due before it ended.
        is(gap_secs(1.0, 3.0, 1.1, 3.0), 2.0);
    }

    #[test]
    fn slow_reads_run_less_often() {
        let second = Duration::from_secs(1);
        assert_eq!(rest_after(0.001, second), second);
        assert_eq!(rest_after(0.05, second), second);
        assert_eq!(rest_after(0.25, second), Duration::from_secs(5));
        assert_eq!(rest_after(f64::NAN, second), second);
    }
}
