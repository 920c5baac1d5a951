//! Weight of a node: the share of its work that it takes, by the nearest end of a leak and by its
//! queues.
//!
//! Pure. The whole share while the nearest end of the open leaks is as far off as
//! `decide.limit_within`, the floor where it is as near as `decide.drain_within`, and even steps in
//! between. A standing queue lowers it by one step at a time and only while the queue does not
//! shrink: nodes that are overloaded together stay close to each other, and none sends the other
//! its whole load. A weight rises a step at a time after some calm, slower than it falls, so that
//! it does not swing. Cold start: the whole share.

use crate::config::DecideConfig;

/// Full weight, in percent.
pub const WHOLE: u8 = 100;
/// One step, in percent.
const STEP: u8 = 10;
/// Time before it rises, in seconds. A guess: a few of HAProxy's checks.
const RISES_AFTER_SECS: f64 = 10.0;
/// Minimum time between two steps for a queue, in seconds. A guess: HAProxy knows of a step after a
/// second or two, and the queue shows it as long after that.
const FALLS_EVERY_SECS: f64 = 4.0;

/// Current weight.
#[derive(Debug, Clone)]
pub struct Weight {
    far_secs: f64,
    near_secs: f64,
    floor: u8,
    percent: u8,
    since: f64,
    /// Of the queue that stands.
    shed: Option<Shed>,
}

/// Last step for a queue.
#[derive(Debug, Clone, Copy)]
struct Shed {
    percent: u8,
    at: f64,
    queued: u64,
}

impl Weight {
    /// Creates the full weight. It never falls below `floor_percent`.
    pub fn new(config: &DecideConfig, floor_percent: u32) -> Self {
        let (far_secs, near_secs) =
            (config.limit_within.as_secs_f64(), config.drain_within.as_secs_f64());
        let floor = u8::try_from(floor_percent).unwrap_or(WHOLE).clamp(1, WHOLE);
        Self { far_secs, near_secs, floor, percent: WHOLE, since: 0.0, shed: None }
    }

    /// Follows other distances; the weight moves as it does otherwise.
    pub fn reload(&mut self, config: &DecideConfig) {
        let Self { far_secs, near_secs, .. } = Self::new(config, u32::from(self.floor));
        (self.far_secs, self.near_secs) = (far_secs, near_secs);
    }

    /// Takes the nearest end of a leak, in seconds from `now`, and the length of a queue that is to
    /// be relieved; `None` if there is none. Returns the weight in percent.
    pub fn note(&mut self, now: f64, leak_secs: Option<f64>, queued: Option<u64>) -> u8 {
        let for_leak = leak_secs.map_or(WHOLE, |secs| self.due(secs));
        let due = for_leak.min(self.shed(now, queued)).max(self.floor);
        if due < self.percent {
            (self.percent, self.since) = (due, now);
        } else if due == self.percent {
            self.since = now;
        } else if now - self.since >= RISES_AFTER_SECS {
            (self.percent, self.since) = ((self.percent + STEP).min(due), now);
        }
        self.percent
    }

    fn shed(&mut self, now: f64, queued: Option<u64>) -> u8 {
        self.shed = queued.map(|queued| {
            let lower = |percent: u8| Shed {
                percent: percent.saturating_sub(STEP).max(self.floor),
                at: now,
                queued,
            };
            match self.shed {
                None => lower(self.percent),
                Some(last) if now - last.at >= FALLS_EVERY_SECS && queued >= last.queued => {
                    lower(last.percent)
                }
                Some(last) => last,
            }
        });
        self.shed.map_or(WHOLE, |shed| shed.percent)
    }

    fn due(&self, secs: f64) -> u8 {
        if !secs.is_finite() || secs >= self.far_secs {
            return WHOLE;
        }
        let span = (self.far_secs - self.near_secs).max(f64::MIN_POSITIVE);
        let share = ((secs - self.near_secs) / span).clamp(0.0, 1.0);
        let percent = f64::from(self.floor) + share * f64::from(WHOLE - self.floor);
        ((percent / f64::from(STEP)) as u8 * STEP).max(self.floor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn weight(floor_percent: u32) -> Weight {
        Weight::new(&DecideConfig::default(), floor_percent)
    }

    #[test]
    fn weight_falls_with_time_left_and_rises_by_steps() {
        let fallen = |floor: u32| -> Vec<_> {
            let mut weight = weight(floor);
            let ends = [7_200.0, 3_600.0, 3_599.0, 2_100.0, 601.0, 5.0, -1.0];
            ends.iter().map(|&secs| weight.note(0.0, Some(secs), None)).collect()
        };
        assert_eq!(fallen(10), [100, 100, 90, 50, 10, 10, 10]);
        assert_eq!(fallen(50), [100, 100, 90, 70, 50, 50, 50]);
        assert_eq!(fallen(100), [100; 7]);
        let mut weight = weight(50);
        weight.note(0.0, Some(5.0), None);
        let risen: Vec<_> =
            (0..8).map(|tens| weight.note(f64::from(tens) * 10.0, None, None)).collect();
        assert_eq!(risen, [50, 60, 70, 80, 90, 100, 100, 100]);
    }

    #[test]
    fn a_queue_lowers_it_step_by_step_only_while_it_does_not_shrink() {
        let mut weight = weight(50);
        let mut at = |now: f64, queued: Option<u64>| weight.note(now, None, queued);
        assert_eq!([at(0.0, Some(100)), at(3.9, Some(200)), at(4.0, Some(200))], [90, 90, 80]);
        assert_eq!([at(8.0, Some(199)), at(30.0, Some(150)), at(31.0, Some(200))], [80, 80, 70]);
        assert_eq!([at(35.0, Some(300)), at(39.0, Some(400)), at(80.0, Some(900))], [60, 50, 50]);
        // Another overload begins where the weight is by then.
        assert_eq!(
            [at(85.0, None), at(90.0, None), at(91.0, Some(5)), at(92.0, None)],
            [50, 60, 50, 50]
        );
    }

    /// A node of the simulation: requests that wait, and its claim by depth, as without BPF.
    struct Node {
        weight: Weight,
        percent: u8,
        queue: f64,
        stood_secs: u32,
        well_secs: u32,
        is_claimed: bool,
    }

    /// Two nodes that serve `capacities` requests a second behind a balancer that splits `load_at`
    /// by weight, for ten minutes; gives the longest queue, and the lowest weights.
    fn simulate(capacities: [f64; 2], floor: u32, load_at: impl Fn(u32) -> f64) -> (f64, [u8; 2]) {
        let node = || Node {
            weight: weight(floor),
            percent: WHOLE,
            queue: 0.0,
            stood_secs: 0,
            well_secs: 0,
            is_claimed: false,
        };
        let (mut nodes, mut longest, mut lowest) = ([node(), node()], 0.0_f64, [WHOLE; 2]);
        for second in 0..600 {
            let weights: f64 = nodes.iter().map(|node| f64::from(node.percent)).sum();
            for (nth, node) in nodes.iter_mut().enumerate() {
                let comes = load_at(second) * f64::from(node.percent) / weights;
                node.queue = (node.queue + comes - capacities[nth]).max(0.0);
                let stands = node.queue >= 32.0;
                (node.stood_secs, node.well_secs) =
                    if stands { (node.stood_secs + 1, 0) } else { (0, node.well_secs + 1) };
                node.is_claimed = node.stood_secs >= 2 || node.is_claimed && node.well_secs < 5;
                // HAProxy asks once a second.
                let queued = node.is_claimed.then_some(node.queue as u64);
                node.percent = node.weight.note(f64::from(second), None, queued);
                longest = longest.max(node.queue);
                lowest[nth] = lowest[nth].min(node.percent);
            }
        }
        (longest, lowest)
    }

    #[test]
    fn nodes_that_are_overloaded_together_do_not_swing() {
        let in_turn = |low: f64, high: f64| {
            move |second: u32| if (second / 20).is_multiple_of(2) { low } else { high }
        };
        for capacities in [[80.0, 80.0], [78.0, 81.0], [74.0, 81.0], [70.0, 85.0]] {
            // A floor of all is no weight at all.
            let (with, lowest) = simulate(capacities, 50, in_turn(110.0, 165.0));
            let (without, _) = simulate(capacities, 100, in_turn(110.0, 165.0));
            assert!(
                with <= without * 1.25,
                "{capacities:?}: {with} wait with weights, {without} without: {lowest:?}"
            );
        }
        // What is wrong with one alone moves to the other, which has room.
        let (with, lowest) = simulate([50.0, 120.0], 50, |_| 140.0);
        let (without, _) = simulate([50.0, 120.0], 100, |_| 140.0);
        assert!(
            with < without / 10.0 && lowest[1] == WHOLE,
            "{with} wait with weights, {without} without: {lowest:?}"
        );
    }

    proptest! {
        #[test]
        fn wavering_forecast_raises_weight_one_step_in_ten_seconds(
            forecasts in prop::collection::vec(
                (0.0..3.0_f64, prop::option::of(0.0..5_000.0_f64), prop::option::of(0..9_u64)),
                1..300,
            ),
            floor in 10..=100_u32,
        ) {
            let (mut weight, mut now, mut last, mut changed) = (weight(floor), 0.0, WHOLE, f64::NEG_INFINITY);
            for (later, nearest, queued) in forecasts {
                now += later;
                let percent = weight.note(now, nearest, queued);
                prop_assert!((floor as u8..=WHOLE).contains(&percent));
                if percent > last {
                    prop_assert!(percent - last <= STEP && now - changed >= RISES_AFTER_SECS);
                }
                if percent != last {
                    (last, changed) = (percent, now);
                }
            }
        }
    }
}
