//! How long the connections of one listener waited between two looks, from a histogram that only
//! ever grows.
//!
//! Cold start: the first look's interval is everything since the hook was attached. Counts wrap as
//! the kernel's do. A histogram that was begun anew, because the kernel gave the socket's place to
//! another, is a new start.

use spillway_ebpf::{SOJOURN_BUCKETS, Sojourn};

/// The histogram at the last look; `None` before the first connection.
#[derive(Default)]
pub(super) struct AcceptLatency {
    last: Option<Box<Sojourn>>,
}

/// Waits of the connections that were accepted between two looks, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LatencyInterval {
    /// The shortest: at most 1/16 below it.
    pub(super) min_us: u64,
    /// The mean, exactly.
    pub(super) mean_us: u64,
    /// The 99th percentile, good to 1/32.
    pub(super) p99_us: u64,
}

impl AcceptLatency {
    /// Connections accepted until the last look.
    pub(super) fn accepted_total(&self) -> u64 {
        self.last.as_ref().map_or(0, |last| last.accepted_total)
    }

    /// Takes the latest histogram; `None` where nothing was accepted since the last.
    pub(super) fn advance(&mut self, latest: &Sojourn) -> Option<LatencyInterval> {
        let last = self.last.get_or_insert_with(|| Box::new(Sojourn::EMPTY));
        if latest.accepted_total < last.accepted_total {
            **last = Sojourn::EMPTY;
        }
        let counts = || {
            latest
                .buckets
                .iter()
                .zip(&last.buckets)
                .map(|(latest, last)| latest.wrapping_sub(*last))
        };
        // Another CPU may be between its three additions: what the buckets say is then ahead of the
        // totals, or behind.
        let counted: u64 = counts().map(u64::from).sum();
        let rank = counted - counted / 100;
        let mut below = 0;
        let p99 = counts().position(|count| {
            below += u64::from(count);
            below >= rank
        });
        let accepted = latest.accepted_total - last.accepted_total;
        let interval = (accepted > 0 && counted > 0).then(|| LatencyInterval {
            min_us: Sojourn::least_us(counts().position(|count| count > 0).unwrap_or(0)),
            mean_us: latest.wait_us_total.saturating_sub(last.wait_us_total) / accepted,
            p99_us: middle_us(p99.unwrap_or(SOJOURN_BUCKETS - 1)),
        });
        **last = *latest;
        interval
    }
}

/// The middle of a bucket, in microseconds.
fn middle_us(bucket: usize) -> u64 {
    Sojourn::least_us(bucket).midpoint(Sojourn::least_us(bucket + 1) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(to: &mut Sojourn, waits_us: impl IntoIterator<Item = u64>) {
        for wait_us in waits_us {
            to.accepted_total += 1;
            to.wait_us_total += wait_us;
            let bucket = &mut to.buckets[Sojourn::bucket(wait_us)];
            *bucket = bucket.wrapping_add(1);
        }
    }

    #[test]
    fn an_interval_is_what_came_since_the_last_look() {
        let (mut waits, mut histogram) = (AcceptLatency::default(), Sojourn::EMPTY);
        add(&mut histogram, [10; 50]);
        assert_eq!(
            waits.advance(&histogram),
            Some(LatencyInterval { min_us: 10, mean_us: 10, p99_us: 10 })
        );
        assert_eq!(waits.advance(&histogram), None);
        add(&mut histogram, (0..98).map(|_| 100).chain([20_000, 20_000]));
        let interval = waits.advance(&histogram).expect("a hundred were accepted");
        assert_eq!((interval.min_us, interval.mean_us), (100, 498));
        assert!(interval.p99_us.abs_diff(20_000) <= 20_000 / 32, "{interval:?}");
        assert_eq!(waits.accepted_total(), 150);
    }

    #[test]
    fn a_histogram_begun_anew_is_a_new_start() {
        let (mut waits, mut histogram) = (AcceptLatency::default(), Sojourn::EMPTY);
        add(&mut histogram, [5; 9]);
        waits.advance(&histogram);
        let mut anew = Sojourn::EMPTY;
        add(&mut anew, [7]);
        assert_eq!(
            waits.advance(&anew),
            Some(LatencyInterval { min_us: 7, mean_us: 7, p99_us: 7 })
        );
    }

    #[test]
    fn counts_wrap() {
        let (mut waits, mut histogram) = (AcceptLatency::default(), Sojourn::EMPTY);
        histogram.accepted_total = u64::from(u32::MAX);
        histogram.buckets[3] = u32::MAX;
        waits.advance(&histogram);
        add(&mut histogram, [3, 3]);
        assert_eq!(
            waits.advance(&histogram),
            Some(LatencyInterval { min_us: 3, mean_us: 3, p99_us: 3 })
        );
    }
}
