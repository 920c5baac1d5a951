//! Kernel counter, which may wrap or start over.

/// A counter that the kernel keeps in 32 bits and sensors widen, and that restarts with its socket.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counter {
    last: Option<u64>,
}

impl Counter {
    /// Whether there is an earlier value.
    pub(super) fn is_known(&self) -> bool {
        self.last.is_some()
    }

    /// Returns the rise since the last value; `None` if either is unknown.
    pub(super) fn rise_if_known(&mut self, now: Option<u64>) -> Option<u64> {
        let is_known = self.is_known() && now.is_some();
        let rise = self.rise(now);
        is_known.then_some(rise)
    }

    /// Returns the rise since the last value; 0 for the first value, and after a restart, since the
    /// rise is unknown.
    pub(super) fn rise(&mut self, now: Option<u64>) -> u64 {
        let Some(now) = now else { return 0 };
        let Some(last) = self.last.replace(now) else { return 0 };
        if now >= last {
            return now - last;
        }
        // A step of less than half the range forward, modulo 2^32, is a wrap; anything else started
        // over.
        let wrapped = (now as u32).wrapping_sub(last as u32);
        let narrow = last <= u64::from(u32::MAX);
        if narrow && wrapped < 1 << 31 { u64::from(wrapped) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrap_counts_and_a_restart_does_not() {
        let mut counter = Counter::default();
        let looks = [
            (Some(5), 0),
            (Some(7), 2),
            (None, 0),
            (Some(u64::from(u32::MAX)), 4_294_967_288),
            (Some(2), 3),
        ];
        for (now, rise) in looks {
            assert_eq!(counter.rise(now), rise, "{now:?}");
        }
        assert_eq!(counter.rise(Some(900)), 898);
        assert_eq!(counter.rise(Some(4)), 0);
        assert_eq!(counter.rise(Some(u64::MAX)), u64::MAX - 4);
        assert_eq!(counter.rise(Some(1)), 0);
    }
}
