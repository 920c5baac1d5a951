//! Tests of the control law, alone and with simulated servers.

use proptest::prelude::*;

use super::*;

const WAIT_SECS: f64 = 0.1;
const ORIGINAL: u32 = 511;
/// Interval of the listener sensor.
const TICK_SECS: f64 = 0.1;

fn reading(t: f64, backlog: u32, accepted_total: u64) -> QueueReading {
    QueueReading { t, backlog, accepted_total: Some(accepted_total), ..QueueReading::default() }
}

fn control(accepts_per_sec: Option<f64>) -> ShedControl {
    ShedControl::new(WAIT_SECS, ORIGINAL, accepts_per_sec, reading(0.0, 300, 0))
}

/// A queue whose full state is read every tenth of a second while `rate` are accepted.
fn run_full(control: &mut ShedControl, from_t: f64, secs: f64, rate: f64) -> Vec<ShedStep> {
    let ticks = (secs / TICK_SECS).round() as u32;
    let mut steps = Vec::new();
    for tick in 1..=ticks {
        let t = from_t + f64::from(tick) * TICK_SECS;
        steps.push(control.step(reading(t, control.length() + 1, (rate * t) as u64)));
    }
    steps.retain(|step| *step != ShedStep::Keep);
    steps
}

#[test]
fn length_is_what_is_accepted_within_the_wait() {
    // The kernel lets one more wait.
    assert_eq!(control(Some(1_000.0)).length(), 99);
    assert_eq!(control(Some(100.0)).length(), 9);
    assert_eq!(control(Some(3.0)).length(), FLOOR);
    assert_eq!(control(Some(1e9)).length(), ORIGINAL);
    assert_eq!(control(None).length(), FLOOR);
    assert_eq!(control(Some(f64::NAN)).length(), FLOOR);
    let short = ShedControl::new(WAIT_SECS, 2, None, reading(0.0, 3, 0));
    assert_eq!(short.length(), 2, "it is never longer than before");
}

#[test]
fn length_follows_the_rate_that_is_measured() {
    let mut control = control(Some(100.0));
    assert_eq!(run_full(&mut control, 0.0, 3.0, 1_000.0), [ShedStep::Set(99)]);
    // The highest of the last ten rates counts, so that one pause changes nothing.
    assert_eq!(run_full(&mut control, 3.0, 2.0, 1_000.0), []);
}

#[test]
fn rate_follows_from_how_the_queue_drains_if_not_counted() {
    let mut control = ShedControl::new(
        WAIT_SECS,
        ORIGINAL,
        None,
        QueueReading { backlog: 500, ..QueueReading::default() },
    );
    assert_eq!(control.length(), FLOOR);
    let steps: Vec<_> = (1..=12)
        .map(|tick| {
            let (t, backlog) = (f64::from(tick) * TICK_SECS, 500 - tick * 40);
            control.step(QueueReading { t, backlog, ..QueueReading::default() })
        })
        .filter(|step| *step != ShedStep::Keep)
        .collect();
    assert_eq!(steps, [ShedStep::Set(39)]);
}

#[test]
fn full_queue_without_counted_accepts_is_not_stuck() {
    for sockets in [1, 4] {
        let first = QueueReading { sockets, backlog: 300, ..QueueReading::default() };
        let mut control = ShedControl::new(WAIT_SECS, ORIGINAL, Some(100.0), first);
        let steps: Vec<_> = (1..100)
            .map(|tick| {
                let backlog = control.length() + 2 * sockets;
                control.step(QueueReading { t: f64::from(tick) * TICK_SECS, backlog, ..first })
            })
            .collect();
        assert!(steps.iter().all(|step| *step == ShedStep::Keep), "{steps:?}");
        // One that is over its limit and does not fall is.
        let stuck = (100..140)
            .map(|tick| control.step(QueueReading { t: f64::from(tick) * TICK_SECS, ..first }))
            .find(|step| *step != ShedStep::Keep);
        assert_eq!(stuck, Some(ShedStep::Stuck));
    }
}

#[test]
fn accepted_requests_that_wait_count_as_waiting() {
    let first = QueueReading { unread: Some(60), ..reading(0.0, 300, 0) };
    assert_eq!(ShedControl::new(WAIT_SECS, ORIGINAL, Some(1_000.0), first).length(), 39);
}

#[test]
fn calm_widens_step_by_step_to_exactly_the_original_length() {
    let mut control = control(Some(100.0));
    control.end(0.0);
    let steps: Vec<_> = (1..200)
        .map(|tick| control.step(reading(f64::from(tick) * TICK_SECS, 0, 100)))
        .filter(|step| *step != ShedStep::Keep)
        .collect();
    let lengths = [18, 36, 72, 144, 288].map(ShedStep::Set);
    assert_eq!(steps[..5], lengths);
    assert!(steps[5..].iter().all(|step| *step == ShedStep::Restore) && steps.len() > 5);
    assert_eq!(control.length(), ORIGINAL);
}

#[test]
fn queue_that_never_calms_down_is_released_after_a_minute() {
    let mut control = control(Some(100.0));
    control.end(0.0);
    assert_eq!(run_full(&mut control, 0.0, 59.0, 100.0), []);
    assert_eq!(run_full(&mut control, 59.0, 1.5, 100.0).first(), Some(&ShedStep::Restore));
    // An incident that returns continues.
    let mut control = self::control(Some(100.0));
    control.end(0.0);
    control.resume();
    assert_eq!(run_full(&mut control, 0.0, 120.0, 100.0), []);
}

#[test]
fn server_that_accepts_nothing_gets_its_length_back() {
    let mut control = control(Some(100.0));
    let steps = run_full(&mut control, 0.0, 3.5, 0.0);
    assert_eq!(steps.first(), Some(&ShedStep::Stuck));
    // One that is idle is not stuck.
    let mut control = self::control(Some(100.0));
    let idle = (1..60).map(|tick| control.step(reading(f64::from(tick) * TICK_SECS, 0, 0)));
    assert!(!idle.into_iter().any(|step| step == ShedStep::Stuck));
}

#[test]
fn program_that_listens_again_wins_at_the_third_time() {
    let mut control = control(Some(100.0));
    assert!(control.relisten(1.0, 128));
    assert_eq!((control.original(), control.length()), (128, 9));
    assert!(control.relisten(2.0, 6));
    assert_eq!((control.original(), control.length()), (6, 6));
    assert!(!control.relisten(3.0, 128));
}

#[test]
fn figures_count_from_the_first_reading() {
    let full = |t, accepted, refused, oldest_wait_secs| QueueReading {
        refused_total: Some(refused),
        oldest_wait_secs: Some(oldest_wait_secs),
        ..reading(t, 9, accepted)
    };
    let mut control = ShedControl::new(WAIT_SECS, ORIGINAL, Some(100.0), full(10.0, 500, 7, 3.0));
    control.step(full(11.0, 600, 90, 2.9));
    control.step(full(12.0, 700, 180, 0.09));
    control.step(full(14.0, 900, 380, 0.12));
    let figures = control.figures();
    assert_eq!((figures.accepted, figures.refused), (Some(400), Some(373)));
    assert_eq!((figures.secs, figures.longest_wait_secs), (4.0, Some(0.12)));
}

/// A server that accepts `capacity` connections a second, and clients that give up after a second
/// and do not try again.
struct Server {
    capacity: f64,
    /// Arrival times of those that wait.
    queue: std::collections::VecDeque<f64>,
    credit: f64,
    accepted: u64,
    in_time: u64,
}

impl Server {
    fn new(capacity: f64) -> Self {
        Self { capacity, queue: [].into(), credit: 0.0, accepted: 0, in_time: 0 }
    }

    /// Takes `offered` connections a second for a millisecond.
    fn tick(&mut self, t: f64, offered: f64, length: u32) {
        let before = (offered * (t - 0.001)).floor();
        for _ in 0..((offered * t).floor() - before) as u32 {
            if self.queue.len() <= length as usize {
                self.queue.push_back(t);
            }
        }
        self.credit = (self.credit + self.capacity * 0.001).min(1.0 + self.capacity * 0.001);
        while self.credit >= 1.0 {
            let Some(arrived_t) = self.queue.pop_front() else { break };
            self.credit -= 1.0;
            self.accepted += 1;
            self.in_time += u64::from(t - arrived_t < 1.0);
        }
    }

    fn reading(&self, t: f64) -> QueueReading {
        QueueReading {
            oldest_wait_secs: Some(self.queue.front().map_or(0.0, |arrived_t| t - arrived_t)),
            ..reading(t, self.queue.len() as u32, self.accepted)
        }
    }
}

/// Runs 15 seconds at twice the capacity, which is noticed after 1.2 seconds, or never; returns the
/// share of the capacity that was answered in time.
fn surge(capacity: f64, is_shed: bool) -> (f64, Option<ShedControl>) {
    let mut server = Server::new(capacity);
    let mut control: Option<ShedControl> = None;
    for tick in 1..15_000_u32 {
        let t = f64::from(tick) * 0.001;
        server.tick(t, 2.0 * capacity, control.as_ref().map_or(ORIGINAL, ShedControl::length));
        if !tick.is_multiple_of(100) {
            continue;
        }
        match &mut control {
            Some(control) => drop(control.step(server.reading(t))),
            None if is_shed && t >= 1.2 => {
                let first = server.reading(t);
                control = Some(ShedControl::new(WAIT_SECS, ORIGINAL, Some(capacity), first));
            }
            None => {}
        }
    }
    (server.in_time as f64 / (capacity * 15.0), control)
}

#[test]
fn bounded_queue_is_answered_in_time_where_a_long_one_is_not() {
    for capacity in [40.0, 100.0, 300.0] {
        let ((with, control), (without, _)) = (surge(capacity, true), surge(capacity, false));
        assert!(with > 0.85, "{capacity}/s: {with}");
        assert!(without < with, "{capacity}/s: {with} with and {without} without");
        let longest = control.and_then(|control| control.figures().longest_wait_secs);
        assert!(longest.is_some_and(|secs| secs < 2.0 * WAIT_SECS), "{capacity}/s: {longest:?}");
    }
}

proptest! {
    #[test]
    fn length_stays_between_floor_and_original_and_is_restored(
        original in 1_u32..5_000,
        rate in prop::option::of(0.0..10_000.0_f64),
        readings in prop::collection::vec(
            (0.0..2.0_f64, 0_u32..6_000, prop::option::of(0_u64..1_000), 0_u32..200),
            1..200,
        ),
        ends_at in 0_usize..200,
    ) {
        let mut control = ShedControl::new(WAIT_SECS, original, rate, QueueReading::default());
        let (mut t, mut total) = (0.0, 0);
        for (nth, (later, backlog, accepted, unread)) in readings.into_iter().enumerate() {
            t += later;
            total += accepted.unwrap_or(0);
            if nth == ends_at {
                control.end(t);
            }
            let before = control.length();
            let step = control.step(QueueReading {
                t,
                backlog,
                accepted_total: accepted.map(|_| total),
                unread: Some(unread),
                ..QueueReading::default()
            });
            prop_assert!(control.length() >= FLOOR.min(original) && control.length() <= original);
            match step {
                ShedStep::Keep => prop_assert_eq!(control.length(), before),
                ShedStep::Set(length) => prop_assert_eq!(control.length(), length),
                ShedStep::Restore => {
                    prop_assert!(nth >= ends_at);
                    prop_assert_eq!(control.length(), original);
                }
                ShedStep::Stuck => {}
            }
            if nth >= ends_at {
                prop_assert!(control.length() >= before, "it only widens after the end");
            }
        }
        control.end(t);
        let busy = QueueReading { t: t + RELEASE_SECS + 1.0, backlog: 6_000, ..QueueReading::default() };
        let last = control.step(QueueReading { accepted_total: Some(u64::MAX), ..busy });
        prop_assert!(matches!(last, ShedStep::Restore | ShedStep::Stuck), "{last:?}");
    }
}
