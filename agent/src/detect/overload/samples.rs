//! Last few samples of one accept queue: its growth, and whether it drains or fills.
//!
//! Arrivals and accepts are counts of independent events, so the difference between two samples
//! scatters as the root of the number that arrived and were accepted between them. Every question
//! below is asked against that scatter: a server of twenty connections a second is not held to the
//! evenness of one of twenty thousand. Bounded by [`SAMPLES_MAX`]. With too few samples a queue
//! neither grows, drains nor fills.

use crate::detect::regression::{POINTS_MAX, Point, theil_sen};

/// Samples kept: a second and a half at the default interval.
const SAMPLES_MAX: usize = POINTS_MAX;

/// Distance that a queue must have moved to have a direction, in standard deviations of the
/// connections that arrived and were accepted since. One only: doubts are settled by the next
/// sample.
const TREND_SIGMAS: f64 = 1.0;

/// Rises that may be one burst of 100 ms or one pause of 200 ms, in samples at the default
/// interval...
const BURST_SAMPLES: usize = 3;

/// ...if each is larger than this, in standard deviations of one sample.
const BURST_SIGMAS: f64 = 3.0;

/// Samples in a row with growth and accepts that show a queue filling. A pause of 200 ms or a burst
/// of 100 ms shows growth in three samples at most, and one of them then has no accept.
const FILLS_SAMPLES: usize = 3;

/// Accepts that count as going on, for each connection by which the queue grew meanwhile: counters
/// of a moving queue are off by one, and at nine times of capacity a claim does not wait for three
/// samples.
const FILLS_ACCEPTED_SHARE: f64 = 0.125;

/// Growth required in them, in standard deviations: a busy queue is asked 36,000 times an hour.
const FILLS_SIGMAS: f64 = 4.5;

/// Share of its third of the growth that each sample must show at least: behind a burst the queue
/// goes on to grow by chance.
const FILLS_EVENLY: f64 = 0.5;

/// Direction of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trend {
    /// Towards empty, as after a burst or a pause.
    Drains,
    /// Neither is certain.
    Unclear,
    /// Towards overflow.
    Grows,
}

/// One sample.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sample {
    /// Time in seconds.
    pub(super) t: f64,
    /// Connections waiting.
    pub(super) depth: u32,
    /// Connections accepted since the sample before; `None` if that is unknown.
    pub(super) accepted: Option<u64>,
}

/// The last [`SAMPLES_MAX`] samples.
#[derive(Debug, Clone, Default)]
pub(super) struct Samples {
    samples: [Sample; SAMPLES_MAX],
    len: usize,
}

impl Samples {
    /// Takes a sample.
    pub(super) fn push(&mut self, sample: Sample) {
        if self.len == SAMPLES_MAX {
            self.samples.rotate_left(1);
            self.len -= 1;
        }
        self.samples[self.len] = sample;
        self.len += 1;
    }

    fn all(&self) -> &[Sample] {
        &self.samples[..self.len]
    }

    /// Growth of the queue, in connections a second; negative while it shrinks, 0 if unknown.
    pub(super) fn growth_per_sec(&self) -> f64 {
        let mut points = [Point::default(); SAMPLES_MAX];
        for (point, sample) in points.iter_mut().zip(self.all()) {
            *point = Point { x: sample.t, y: f64::from(sample.depth) };
        }
        theil_sen(&points[..self.len]).unwrap_or(0.0)
    }

    /// Direction of the queue, apart from what a burst or a pause has added.
    pub(super) fn trend(&self) -> Trend {
        let peak = self
            .all()
            .iter()
            .rposition(|sample| self.all().iter().all(|other| other.depth <= sample.depth));
        let (Some(peak), Some(last)) = (peak, self.all().last()) else { return Trend::Unclear };
        let since_peak = &self.all()[peak..];
        let fallen = f64::from(since_peak[0].depth) - f64::from(last.depth);
        if fallen >= 1.0 && fallen >= TREND_SIGMAS * scatter(since_peak) {
            return Trend::Drains;
        }
        let mut bursts = [0.0; BURST_SAMPLES];
        let (mut moved, mut variance) = (0.0, 0.0);
        for pair in self.all().windows(2) {
            let (rise, noise) =
                (f64::from(pair[1].depth) - f64::from(pair[0].depth), scatter(pair));
            moved += rise;
            variance += noise * noise;
            if rise >= BURST_SIGMAS * noise {
                // The smallest of the largest is replaced.
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

    /// Rate at which the queue fills from sample to sample; `None` if it does not.
    /// `while_accepting` requires accepts all along.
    pub(super) fn fills_per_sec(&self, while_accepting: bool) -> Option<f64> {
        let window = &self.all()[self.len.checked_sub(FILLS_SAMPLES + 1)?..];
        let (first, last) = (window[0], window[FILLS_SAMPLES]);
        let grown = f64::from(last.depth) - f64::from(first.depth);
        let goes_on = |pair: &[Sample]| {
            let here = f64::from(pair[1].depth) - f64::from(pair[0].depth);
            let accepted = pair[1].accepted.unwrap_or(0) as f64;
            let accepts = accepted > 1.0 && accepted >= FILLS_ACCEPTED_SHARE * here;
            here >= FILLS_EVENLY * grown / FILLS_SAMPLES as f64 && (accepts || !while_accepting)
        };
        let fills = window.windows(2).all(goes_on) && grown >= FILLS_SIGMAS * scatter(window);
        fills.then(|| grown / (last.t - first.t))
    }
}

/// Connections accepted in these samples; `None` if one has no count.
fn accepted(samples: &[Sample]) -> Option<f64> {
    samples.iter().map(|sample| sample.accepted.map(|count| count as f64)).sum()
}

/// Standard deviation of the difference between the first and the last of these samples if as many
/// connections arrive as are accepted. If accepts are not counted, the queue itself is the best
/// guess at their number.
fn scatter(samples: &[Sample]) -> f64 {
    scatter_of(accepted(&samples[1..]).unwrap_or_else(|| f64::from(samples[0].depth)))
}

/// Standard deviation if `gone` connections were accepted, and as many arrived.
pub(super) fn scatter_of(gone: f64) -> f64 {
    (2.0 * gone).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(depths: impl IntoIterator<Item = u32>, accepted: Option<u64>) -> Samples {
        let mut samples = Samples::default();
        for (step, depth) in depths.into_iter().enumerate() {
            samples.push(Sample { t: step as f64 / 10.0, depth, accepted });
        }
        samples
    }

    #[test]
    fn growth_is_that_of_the_last_sixteen_looks() {
        let samples = samples((0..100).map(|i| i * 2), Some(50));
        assert!((samples.growth_per_sec() - 20.0).abs() < 1e-9);
        assert_eq!(Samples::default().growth_per_sec(), 0.0);
    }

    #[test]
    fn queue_left_by_a_pause_drains_and_a_standing_one_does_not() {
        // Eight tenths of a thousand a second arrive after 200 ms without an accept.
        assert_eq!(samples([0, 80, 160, 140, 120, 100, 80], Some(100)).trend(), Trend::Drains);
        assert_eq!(samples([40; 16], Some(100)).trend(), Trend::Unclear);
        assert_eq!(
            samples([0, 80, 160], Some(100)).trend(),
            Trend::Unclear,
            "so far it may be a pause"
        );
        assert_eq!(samples([0, 80, 160, 240, 320, 400], Some(100)).trend(), Trend::Grows);
        assert_eq!(samples([0, 8, 16, 24, 32, 40, 48], Some(100)).trend(), Trend::Grows);
        // For a long time yet, but surely.
        assert_eq!(
            samples([4_000, 3_900, 3_800, 3_700, 3_600, 3_500], Some(1_000)).trend(),
            Trend::Drains
        );
        // By no more than chance.
        assert_eq!(samples([0, 80, 160, 155], Some(100)).trend(), Trend::Unclear);
        assert_eq!(samples([50, 49, 50, 48, 49, 48], Some(100)).trend(), Trend::Unclear);
        assert_eq!(samples([30, 25, 20, 15, 10, 5], None).trend(), Trend::Drains);
    }

    #[test]
    fn a_queue_fills_while_connections_are_accepted_all_along() {
        let fills = samples([5, 45, 85, 125], Some(100)).fills_per_sec(true).unwrap();
        assert!((fills - 400.0).abs() < 1e-6);
        assert_eq!(samples([5, 45, 85, 125], Some(0)).fills_per_sec(true), None);
        assert!(samples([5, 45, 85, 125], Some(0)).fills_per_sec(false).is_some());
        assert_eq!(samples([5, 45, 85, 125], None).fills_per_sec(true), None);
        assert_eq!(samples([5, 45, 85, 85], Some(100)).fills_per_sec(true), None);
        assert_eq!(
            samples([5, 30, 55, 80], Some(200)).fills_per_sec(true),
            None,
            "within what chance does"
        );
        assert_eq!(
            samples([5, 105, 205, 210], Some(100)).fills_per_sec(true),
            None,
            "a burst and what follows it"
        );
        assert_eq!(samples([45, 85, 125], Some(100)).fills_per_sec(true), None);
    }
}
