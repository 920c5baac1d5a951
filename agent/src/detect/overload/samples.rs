//! The last few looks at one accept queue: how fast it grows, and whether it drains or fills.
//!
//! Arrivals and accepts are counts of independent events, so what two looks differ by scatters as
//! the root of how many came and went between them. Every question below is asked against that: a
//! server of twenty connections a second is not held to the evenness of one of twenty thousand.
//! Bounded by construction: [`LOOKS_MAX`] looks. It refuses nothing; with too few looks nothing
//! grows, drains or fills.

use crate::detect::regression::{POINTS_MAX, Point, theil_sen};

/// Looks kept: at the default interval a second and a half.
const LOOKS_MAX: usize = POINTS_MAX;

/// How far a queue must have moved to be on its way, in standard deviations of what came and went
/// since. One only: what is in doubt is asked again at the next look.
const TREND_SIGMAS: f64 = 1.0;

/// Rises that may be one burst of 100 ms or one pause of 200 ms, in looks of the default
/// interval...
const BURST_LOOKS: usize = 3;

/// ...if each is farther than this from what chance does, in standard deviations of one look.
const BURST_SIGMAS: f64 = 3.0;

/// Looks in a row with growth and accepts that show a queue filling. A pause of 200 ms or a burst
/// of 100 ms shows growth in three looks at most, and one of them then saw no accept.
const FILLS_LOOKS: usize = 3;

/// Accepts that count as going on, for each connection by which the queue grew meanwhile: counters
/// of a moving queue are off by one, and at nine times of capacity nobody waits for three looks.
const FILLS_ACCEPTED_SHARE: f64 = 0.125;

/// How far it must have grown in them, in standard deviations: a busy queue is asked 36,000 times
/// an hour.
const FILLS_SIGMAS: f64 = 4.5;

/// Share of that which each look must show at least of its third: behind a burst the queue goes on
/// to grow by chance.
const FILLS_EVENLY: f64 = 0.5;

/// Where a queue is on its way to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trend {
    /// To be empty, as what a burst or a pause has left behind.
    Drains,
    /// Neither is sure.
    Unclear,
    /// To overflow.
    Grows,
}

/// One look.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sample {
    /// When, in seconds.
    pub(super) t: f64,
    /// Connections waiting.
    pub(super) depth: u32,
    /// Connections accepted since the look before; `None` where that is not known.
    pub(super) accepted: Option<u64>,
}

/// The last [`LOOKS_MAX`] looks.
#[derive(Debug, Clone, Default)]
pub(super) struct Samples {
    looks: [Sample; LOOKS_MAX],
    len: usize,
}

impl Samples {
    /// Takes a look.
    pub(super) fn push(&mut self, look: Sample) {
        if self.len == LOOKS_MAX {
            self.looks.rotate_left(1);
            self.len -= 1;
        }
        self.looks[self.len] = look;
        self.len += 1;
    }

    fn all(&self) -> &[Sample] {
        &self.looks[..self.len]
    }

    /// How fast the queue grows, in connections a second; negative while it shrinks, 0 where
    /// unknown.
    pub(super) fn growth_per_sec(&self) -> f64 {
        let mut points = [Point::default(); LOOKS_MAX];
        for (point, look) in points.iter_mut().zip(self.all()) {
            *point = Point { x: look.t, y: f64::from(look.depth) };
        }
        theil_sen(&points[..self.len]).unwrap_or(0.0)
    }

    /// Where the queue is on its way to, but for what a burst or a pause has put in it.
    pub(super) fn trend(&self) -> Trend {
        let peak = self
            .all()
            .iter()
            .rposition(|look| self.all().iter().all(|other| other.depth <= look.depth));
        let (Some(peak), Some(last)) = (peak, self.all().last()) else { return Trend::Unclear };
        let since_peak = &self.all()[peak..];
        let fallen = f64::from(since_peak[0].depth) - f64::from(last.depth);
        if fallen >= 1.0 && fallen >= TREND_SIGMAS * scatter(since_peak) {
            return Trend::Drains;
        }
        let mut bursts = [0.0; BURST_LOOKS];
        let (mut moved, mut variance) = (0.0, 0.0);
        for pair in self.all().windows(2) {
            let (rise, noise) =
                (f64::from(pair[1].depth) - f64::from(pair[0].depth), scatter(pair));
            moved += rise;
            variance += noise * noise;
            if rise >= BURST_SIGMAS * noise {
                // The smallest of the largest makes room.
                bursts.sort_by(f64::total_cmp);
                bursts[0] = rise.max(bursts[0]);
            }
        }
        let moved = moved - bursts.iter().sum::<f64>();
        match TREND_SIGMAS * variance.sqrt() {
            noise if moved >= noise.max(1.0) => Trend::Grows,
            noise if moved <= -noise.max(1.0) => Trend::Drains,
            _ => Trend::Unclear,
        }
    }

    /// How fast the queue fills from look to look; `None` where it does not. While connections are
    /// accepted all along, or else whether any are.
    pub(super) fn fills_per_sec(&self, while_accepting: bool) -> Option<f64> {
        let window = &self.all()[self.len.checked_sub(FILLS_LOOKS + 1)?..];
        let (first, last) = (window[0], window[FILLS_LOOKS]);
        let grown = f64::from(last.depth) - f64::from(first.depth);
        let goes_on = |pair: &[Sample]| {
            let here = f64::from(pair[1].depth) - f64::from(pair[0].depth);
            let accepted = pair[1].accepted.unwrap_or(0) as f64;
            let accepts = accepted > 1.0 && accepted >= FILLS_ACCEPTED_SHARE * here;
            here >= FILLS_EVENLY * grown / FILLS_LOOKS as f64 && (accepts || !while_accepting)
        };
        let fills = window.windows(2).all(goes_on) && grown >= FILLS_SIGMAS * scatter(window);
        fills.then(|| grown / (last.t - first.t))
    }
}

/// Connections accepted in these looks; `None` where one did not count.
fn accepted(looks: &[Sample]) -> Option<f64> {
    looks.iter().map(|look| look.accepted.map(|count| count as f64)).sum()
}

/// One standard deviation of how much a queue differs between the first and the last of these looks
/// if as many come as go. Where accepts are not counted, the queue itself is the best guess at how
/// many came and went.
fn scatter(looks: &[Sample]) -> f64 {
    scatter_of(accepted(&looks[1..]).unwrap_or_else(|| f64::from(looks[0].depth)))
}

/// The same where so many went, and as many came.
pub(super) fn scatter_of(gone: f64) -> f64 {
    (2.0 * gone).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(depths: impl IntoIterator<Item = u32>, accepted: Option<u64>) -> Samples {
        let mut looks = Samples::default();
        for (step, depth) in depths.into_iter().enumerate() {
            looks.push(Sample { t: step as f64 / 10.0, depth, accepted });
        }
        looks
    }

    #[test]
    fn growth_is_that_of_the_last_sixteen_looks() {
        let looks = looks((0..100).map(|i| i * 2), Some(50));
        assert!((looks.growth_per_sec() - 20.0).abs() < 1e-9);
        assert_eq!(Samples::default().growth_per_sec(), 0.0);
    }

    #[test]
    fn what_a_pause_left_behind_drains_and_a_queue_that_stands_does_not() {
        // Eight tenths of a thousand a second arrive after 200 ms without an accept.
        assert_eq!(looks([0, 80, 160, 140, 120, 100, 80], Some(100)).trend(), Trend::Drains);
        assert_eq!(looks([40; 16], Some(100)).trend(), Trend::Unclear);
        assert_eq!(
            looks([0, 80, 160], Some(100)).trend(),
            Trend::Unclear,
            "so far it may be a pause"
        );
        assert_eq!(looks([0, 80, 160, 240, 320, 400], Some(100)).trend(), Trend::Grows);
        assert_eq!(looks([0, 8, 16, 24, 32, 40, 48], Some(100)).trend(), Trend::Grows);
        // For a long time yet, but surely.
        assert_eq!(
            looks([4_000, 3_900, 3_800, 3_700, 3_600, 3_500], Some(1_000)).trend(),
            Trend::Drains
        );
        // By no more than chance.
        assert_eq!(looks([0, 80, 160, 155], Some(100)).trend(), Trend::Unclear);
        assert_eq!(looks([50, 49, 50, 48, 49, 48], Some(100)).trend(), Trend::Unclear);
        assert_eq!(looks([30, 25, 20, 15, 10, 5], None).trend(), Trend::Drains);
    }

    #[test]
    fn a_queue_fills_while_connections_are_accepted_all_along() {
        let fills = looks([5, 45, 85, 125], Some(100)).fills_per_sec(true).unwrap();
        assert!((fills - 400.0).abs() < 1e-6);
        assert_eq!(looks([5, 45, 85, 125], Some(0)).fills_per_sec(true), None);
        assert!(looks([5, 45, 85, 125], Some(0)).fills_per_sec(false).is_some());
        assert_eq!(looks([5, 45, 85, 125], None).fills_per_sec(true), None);
        assert_eq!(looks([5, 45, 85, 85], Some(100)).fills_per_sec(true), None);
        assert_eq!(
            looks([5, 30, 55, 80], Some(200)).fills_per_sec(true),
            None,
            "within what chance does"
        );
        assert_eq!(
            looks([5, 105, 205, 210], Some(100)).fills_per_sec(true),
            None,
            "a burst and what follows it"
        );
        assert_eq!(looks([45, 85, 125], Some(100)).fills_per_sec(true), None);
    }
}
