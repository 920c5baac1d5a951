//! Time that the connections of one listener waited for accept() between two scans, from a
//! cumulative histogram.
//!
//! Cold start: the first interval is everything since the hook was attached. Counts wrap as the
//! kernel's do. A histogram that was reset, because the kernel reused the socket's memory for
//! another, is a cold start.

use aya::maps::{HashMap, MapData};
use spillway_ebpf::{SOJOURN_BUCKETS, Sojourn};

use crate::bpf::{
    Fallback, FallbackChain, Hook, Loader, Need, Probe, ProgramKind, SharedStruct, Unavailable,
    btf_offsets::members, fallbacks::Cause, kernel_offset::KernelOffset,
};

/// Histograms by the listener's socket address.
pub(super) type Sojourns = HashMap<MapData, u64, SharedStruct<Sojourn>>;

/// The histogram of one listener at the last scan; `None` before its first connection.
#[derive(Default)]
pub struct AcceptLatency {
    last: Option<Box<Sojourn>>,
}

/// Waits of the connections that were accepted between two scans, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LatencyInterval {
    /// Shortest wait; at most 1/16 too low.
    pub(super) min_us: u64,
    /// Mean wait, exactly.
    pub(super) mean_us: u64,
    /// 99th percentile, within 1/32.
    pub(super) p99_us: u64,
}

const READS: &[KernelOffset] =
    &[members::SOCK_FAMILY, members::SOCK_PROTOCOL, members::TCP_ESTABLISHED];

impl AcceptLatency {
    /// Trampoline at the exit of accept().
    pub const FEXIT: Hook = Hook::new("accept_fexit");
    /// Kprobes on the way of accept().
    pub const KPROBE: Hook = Hook::new("accept_kprobe");

    /// Sources of waits.
    pub const PROBE: FallbackChain = FallbackChain {
        probe: Probe::AcceptSojourn,
        fallbacks: &[
            Fallback::bpf(
                Self::FEXIT,
                "fexit inet_csk_accept",
                &[Need::Probe(Probe::AcceptQueue), Need::Function("inet_csk_accept")],
            )
            .reading(READS),
            Fallback::bpf(
                Self::KPROBE,
                "kprobes inet_csk_accept, security_sock_graft",
                &[
                    Need::Probe(Probe::AcceptQueue),
                    Need::Programs(ProgramKind::Kprobe),
                    Need::Function("inet_csk_accept"),
                    Need::Function("security_sock_graft"),
                ],
            )
            .reading(READS),
            Fallback::without_bpf(Hook::new("queue_head"), "age of the queue's head")
                .needing(&[Need::Probe(Probe::AcceptQueue)])
                .lacking("only the connection that waits longest is timed"),
        ],
    };

    /// Attaches a hook to accept(); `None` if waits are not timed.
    pub(super) fn attach(bpf: &mut Loader) -> Option<Sojourns> {
        bpf.attach(&Self::PROBE, |context, hook| {
            if hook == Self::FEXIT {
                // The return value follows the arguments, so there is a program for each number of
                // arguments.
                let program = match context.parameters_of("inet_csk_accept") {
                    Some(2) => "accept_exit_2",
                    Some(4) => "accept_exit_4",
                    other => return Err(unknown_parameters(other)),
                };
                context.fexit(program, "inet_csk_accept")?;
            } else {
                // The listener first: a connection whose thread was not seen to call accept() is
                // not counted.
                context.kprobe("accept_enter", "inet_csk_accept")?;
                context.kprobe("accept_graft", "security_sock_graft")?;
            }
            context.take("SOJOURNS")
        })
    }

    /// Connections accepted until the last scan.
    pub(super) fn accepted_total(&self) -> u64 {
        self.last.as_ref().map_or(0, |last| last.accepted_total)
    }

    /// Takes the latest histogram; returns `None` if nothing was accepted since the last.
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
        // Another CPU may be between its three additions, so that the buckets are ahead of the
        // totals or behind them.
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

fn unknown_parameters(count: Option<usize>) -> Unavailable {
    let count = count.map_or("an unknown number of".to_owned(), |count| count.to_string());
    let reason = format!("this kernel's inet_csk_accept takes {count} parameters, not 2 or 4");
    Unavailable::new(Cause::Unsupported, reason)
}

/// Returns the middle of a bucket, in microseconds.
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
    fn interval_covers_connections_since_the_last_scan() {
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
    fn histogram_that_was_reset_is_a_cold_start() {
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
    fn wrapped_counts_are_subtracted_correctly() {
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
