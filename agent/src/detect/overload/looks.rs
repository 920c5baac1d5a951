//! The last few looks at one accept queue: how fast it grows, and whether it drains or fills.
//!
//! Arrivals and accepts are counts of independent events, so what two looks differ by scatters as the root of how many
//! came and went between them. Every question below is asked against that: a server of twenty connections a second is not
//! held to the evenness of one of twenty thousand. Bounded by construction: [`LOOKS_MAX`] looks. It refuses nothing;
//! with too few looks nothing grows, drains or fills.

use crate::detect::trend::{POINTS_MAX, Point, theil_sen};

/// Looks kept: at the default interval a second and a half.
const LOOKS_MAX: usize = POINTS_MAX;

/// Over how long a queue is seen to drain: what is left of half a second, after which queues are judged, behind a pause of 200 ms.
const DRAINS_OVER_SECS: f64 = 0.3;

/// How far a queue must have fallen to be draining, in standard deviations of what came and went. Half of one, because the
/// doubt is the other way round here: a queue that stands falls so far by chance in three of ten looks, and is claimed a look later.
const DRAINS_SIGMAS: f64 = 0.5;

/// A queue that at this pace takes longer to drain than this does not drain. Two seconds: the rest of a pause of 200 ms at nine
/// tenths of capacity.
const DRAINS_WITHIN_SECS: f64 = 2.0;

/// Looks in a row with growth and accepts that show a queue filling. A pause of 200 ms or a burst of 100 ms shows growth in three
/// looks at most, and one of them then saw no accept.
const FILLS_LOOKS: usize = 3;

/// Accepts that count as going on, for each connection by which the queue grew meanwhile: counters of a moving queue are off by one, and at
/// nine times of capacity nobody waits for three looks.
const FILLS_ACCEPTED_SHARE: f64 = 0.125;

/// How far it must have grown in them, in standard deviations. Few, because the looks beside each other say it again. A guess.
const FILLS_SIGMAS: f64 = 3.0;

/// One look.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Look {
    /// When, in seconds.
    pub(super) t: f64,
    /// Connections waiting.
    pub(super) depth: u32,
    /// Connections accepted since the look before; `None` where that is not known.
    pub(super) accepted: Option<u64>,
}

/// The last [`LOOKS_MAX`] looks.
#[derive(Debug, Clone, Default)]
pub(super) struct Looks {
    looks: [Look; LOOKS_MAX],
    len: usize,
}

impl Looks {
    /// Takes a look.
    pub(super) fn push(&mut self, look: Look) {
        if self.len == LOOKS_MAX {
            self.looks.rotate_left(1);
            self.len -= 1;
        }
        self.looks[self.len] = look;
        self.len += 1;
    }

    fn all(&self) -> &[Look] {
        &self.looks[..self.len]
    }

    /// How fast the queue grows, in connections a second; negative while it shrinks, 0 where unknown.
    pub(super) fn growth_per_sec(&self) -> f64 {
        let mut points = [Point::default(); LOOKS_MAX];
        for (point, look) in points.iter_mut().zip(self.all()) {
            *point = Point { x: look.t, y: f64::from(look.depth) };
        }
        theil_sen(&points[..self.len]).unwrap_or(0.0)
    }

    /// Whether the queue is about to be empty by itself: what a burst or a pause has left behind.
    pub(super) fn drains(&self) -> bool {
        let Some(last) = self.all().last() else { return false };
        let from = self.all().partition_point(|look| look.t + 1e-6 < last.t - DRAINS_OVER_SECS);
        let window = &self.all()[from..];
        let (first, secs) = (window[0], last.t - window[0].t);
        let fallen = f64::from(first.depth) - f64::from(last.depth);
        let left_secs = f64::from(last.depth) / fallen * secs;
        fallen >= 1.0 && fallen >= DRAINS_SIGMAS * scatter(window) && left_secs <= DRAINS_WITHIN_SECS
    }

    /// How fast the queue fills while connections are accepted all along; `None` where it does not.
    pub(super) fn fills_per_sec(&self) -> Option<f64> {
        let window = &self.all()[self.len.checked_sub(FILLS_LOOKS + 1)?..];
        let goes_on = |pair: &[Look]| {
            let grown = f64::from(pair[1].depth) - f64::from(pair[0].depth);
            let accepted = pair[1].accepted.unwrap_or(0) as f64;
            grown > 0.0 && accepted > 1.0 && accepted >= FILLS_ACCEPTED_SHARE * grown
        };
        let (first, last) = (window[0], window[FILLS_LOOKS]);
        let grown = f64::from(last.depth) - f64::from(first.depth);
        let fills = window.windows(2).all(goes_on) && grown >= FILLS_SIGMAS * scatter(window);
        fills.then(|| grown / (last.t - first.t))
    }
}

/// Connections accepted in these looks; `None` where one did not count.
fn accepted(looks: &[Look]) -> Option<f64> {
    looks.iter().map(|look| look.accepted).sum::<Option<u64>>().map(|count| count as f64)
}

/// One standard deviation of how much a queue differs between the first and the last of these looks if as many come as go. Where
/// accepts are not counted, the queue itself is the best guess at how many came and went.
fn scatter(looks: &[Look]) -> f64 {
    let gone = accepted(&looks[1..]).unwrap_or_else(|| f64::from(looks[0].depth));
    (2.0 * gone).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(depths: impl IntoIterator<Item = u32>, accepted: Option<u64>) -> Looks {
        let mut looks = Looks::default();
        for (step, depth) in depths.into_iter().enumerate() {
            looks.push(Look { t: step as f64 / 10.0, depth, accepted });
        }
        looks
    }

    #[test]
    fn growth_is_that_of_the_last_sixteen_looks() {
        let looks = looks((0..100).map(|i| i * 2), Some(50));
        assert!((looks.growth_per_sec() - 20.0).abs() < 1e-9);
        assert_eq!(Looks::default().growth_per_sec(), 0.0);
    }

    #[test]
    fn what_a_pause_left_behind_drains_and_a_queue_that_stands_does_not() {
        // Eight tenths of a thousand a second arrive after 200 ms without an accept.
        assert!(looks([0, 80, 160, 140, 120, 100, 80], Some(100)).drains());
        assert!(!looks([40; 16], Some(100)).drains());
        assert!(!looks([0, 80, 160], Some(100)).drains());
        // Falling, but for a long time yet.
        assert!(!looks([4_000, 3_900, 3_800, 3_700, 3_600, 3_500], Some(1_000)).drains());
        // By no more than chance.
        assert!(!looks([50, 49, 50, 48, 49, 48], Some(100)).drains());
        assert!(looks([30, 25, 20, 15, 10, 5], None).drains());
        assert!(!looks([0, 80, 160, 140], Some(100)).drains());
    }

    #[test]
    fn a_queue_fills_while_connections_are_accepted_all_along() {
        let fills = looks([5, 45, 85, 125], Some(100)).fills_per_sec().unwrap();
        assert!((fills - 400.0).abs() < 1e-6);
        assert_eq!(looks([5, 45, 85, 125], Some(0)).fills_per_sec(), None);
        assert_eq!(looks([5, 45, 85, 125], None).fills_per_sec(), None);
        assert_eq!(looks([5, 45, 85, 85], Some(100)).fills_per_sec(), None);
        assert_eq!(looks([5, 10, 15, 20], Some(100)).fills_per_sec(), None, "within what chance does");
        assert_eq!(looks([45, 85, 125], Some(100)).fills_per_sec(), None);
    }
}
