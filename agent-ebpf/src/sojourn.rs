//! Histogram of the time that connections wait for accept(), filled by the BPF side and read by the
//! agent.
//!
//! Buckets are log-linear: sixteen to each doubling, so that a bucket's width is at most 1/16 of
//! its values, and one a microsecond below 16 µs. Waits beyond 16.8 s are in the last bucket.

/// Buckets of a doubling, as a power of two.
const SUB_BITS: u32 = 4;

/// Number of doublings: waits of 2²⁴ µs and more share the last bucket. Clients give up long
/// before.
const OCTAVES: u32 = 24;

/// Number of buckets.
pub const SOJOURN_BUCKETS: usize = ((OCTAVES - SUB_BITS + 1) << SUB_BITS) as usize;

/// Waits of one listener's connections, from established to accept().
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sojourn {
    /// Connections that accept() returned.
    pub accepted_total: u64,
    /// Sum of their waits, in microseconds.
    pub wait_us_total: u64,
    /// Connections by wait, see [`Sojourn::bucket`]; each count wraps.
    pub buckets: [u32; SOJOURN_BUCKETS],
}

impl Sojourn {
    /// Histogram without connections.
    pub const EMPTY: Self =
        Self { accepted_total: 0, wait_us_total: 0, buckets: [0; SOJOURN_BUCKETS] };

    /// Returns the bucket of a wait in microseconds.
    #[inline(always)]
    pub const fn bucket(wait_us: u64) -> usize {
        if wait_us < 1 << SUB_BITS {
            return wait_us as usize;
        }
        let octave = wait_us.ilog2();
        if octave >= OCTAVES {
            return SOJOURN_BUCKETS - 1;
        }
        let within = (wait_us >> (octave - SUB_BITS)) as usize & ((1 << SUB_BITS) - 1);
        (((octave - SUB_BITS + 1) as usize) << SUB_BITS) + within
    }

    /// Returns the shortest wait in a bucket, in microseconds.
    pub const fn least_us(bucket: usize) -> u64 {
        let (octave, within) = (bucket >> SUB_BITS, (bucket & ((1 << SUB_BITS) - 1)) as u64);
        if octave == 0 { within } else { (within + (1 << SUB_BITS)) << (octave - 1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bucket_begins_where_the_last_one_ends() {
        for bucket in 0..SOJOURN_BUCKETS {
            let least = Sojourn::least_us(bucket);
            assert_eq!(Sojourn::bucket(least), bucket);
            assert!(bucket == 0 || Sojourn::bucket(least - 1) == bucket - 1, "{bucket}");
        }
    }

    #[test]
    fn bucket_is_at_most_a_sixteenth_wide() {
        for bucket in 16..SOJOURN_BUCKETS - 1 {
            let (from, to) = (Sojourn::least_us(bucket), Sojourn::least_us(bucket + 1));
            assert!((to - from) * 16 <= from, "{from}..{to}");
        }
    }

    #[test]
    fn longest_waits_are_in_the_last_bucket() {
        assert_eq!(Sojourn::bucket(1 << 24), SOJOURN_BUCKETS - 1);
        assert_eq!(Sojourn::bucket(u64::MAX), SOJOURN_BUCKETS - 1);
        assert_eq!(Sojourn::bucket((1 << 24) - 1), SOJOURN_BUCKETS - 1);
    }
}
