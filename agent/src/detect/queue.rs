//! The last few depths of one accept queue, and a drop counter that may wrap or restart.
//!
//! Bounded by construction: [`POINTS_MAX`] depths, one counter. Two sockets that share an address (SO_REUSEPORT) and
//! are reported apart count as their deeper one. It refuses nothing; before two distinct instants there is no growth.

use super::trend::{POINTS_MAX, Point, theil_sen};

/// The last [`POINTS_MAX`] depths.
#[derive(Debug, Clone, Default)]
pub(super) struct Depths {
    points: [Point; POINTS_MAX],
    len: usize,
}

impl Depths {
    /// Takes a depth; of several at the same instant the deepest counts.
    pub(super) fn push(&mut self, t: f64, depth: u32) {
        let depth = f64::from(depth);
        if let Some(newest) = self.points[..self.len].last_mut().filter(|newest| newest.x == t) {
            newest.y = newest.y.max(depth);
            return;
        }
        if self.len == POINTS_MAX {
            self.points.rotate_left(1);
            self.len -= 1;
        }
        self.points[self.len] = Point { x: t, y: depth };
        self.len += 1;
    }

    /// Forgets everything, after a gap.
    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// How fast the queue grows since `from_t`, in connections a second; negative while it shrinks, 0 where unknown.
    pub(super) fn growth_per_sec(&self, from_t: f64) -> f64 {
        let points = &self.points[..self.len];
        theil_sen(&points[points.partition_point(|point| point.x < from_t)..]).unwrap_or(0.0)
    }
}

/// A counter that the kernel keeps in 32 bits and sensors widen, and that restarts with its socket.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counter {
    last: Option<u64>,
}

impl Counter {
    /// By how much it rose since the last look; 0 at the first look, and after a restart, when nobody can know.
    pub(super) fn rise(&mut self, now: Option<u64>) -> u64 {
        let Some(now) = now else { return 0 };
        let Some(last) = self.last.replace(now) else { return 0 };
        if now >= last {
            return now - last;
        }
        // A step of less than half the range forward, modulo 2^32, is a wrap; anything else started over.
        let wrapped = (now as u32).wrapping_sub(last as u32);
        let narrow = last <= u64::from(u32::MAX);
        if narrow && wrapped < 1 << 31 { u64::from(wrapped) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_that_of_the_last_sixteen_depths() {
        let mut depths = Depths::default();
        for i in 0..100_u32 {
            depths.push(f64::from(i) / 10.0, i * 2);
        }
        assert!((depths.growth_per_sec(0.0) - 20.0).abs() < 1e-9);
        depths.clear();
        assert_eq!(depths.growth_per_sec(0.0), 0.0);
    }

    #[test]
    fn at_one_instant_the_deepest_counts_in_any_order() {
        let (mut a, mut b) = (Depths::default(), Depths::default());
        for (depths, order) in [(&mut a, [3, 9]), (&mut b, [9, 3])] {
            depths.push(0.0, 1);
            order.into_iter().for_each(|depth| depths.push(1.0, depth));
        }
        assert_eq!(a.growth_per_sec(0.0), 8.0);
        assert_eq!(b.growth_per_sec(0.0), 8.0);
    }

    #[test]
    fn a_wrap_counts_and_a_restart_does_not() {
        let mut counter = Counter::default();
        let looks = [(Some(5), 0), (Some(7), 2), (None, 0), (Some(u64::from(u32::MAX)), 4_294_967_288), (Some(2), 3)];
        for (now, rise) in looks {
            assert_eq!(counter.rise(now), rise, "{now:?}");
        }
        assert_eq!(counter.rise(Some(900)), 898);
        assert_eq!(counter.rise(Some(4)), 0);
        assert_eq!(counter.rise(Some(u64::MAX)), u64::MAX - 4);
        assert_eq!(counter.rise(Some(1)), 0);
    }
}
