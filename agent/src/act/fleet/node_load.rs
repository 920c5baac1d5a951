//! Load of this node: CPUs in use, and requests that its listed services answer.

use procfs::{CurrentSI as _, KernelStats};

/// Minimum time between two readings of `/proc/stat`, in seconds: loads are compared over minutes.
const READ_SECS: f64 = 5.0;

/// Reader of the CPUs in use, from `/proc/stat`.
#[derive(Debug, Default)]
pub(super) struct CpuLoad {
    /// Time of the last reading, and ticks in use until then.
    last: Option<(f64, u64)>,
    cpus: Option<f64>,
}

/// Rate of the requests answered, from their total.
#[derive(Debug, Default)]
pub(super) struct RequestLoad {
    /// Time of the last total, and the total.
    last: Option<(f64, u64)>,
    per_sec: Option<f64>,
}

impl CpuLoad {
    /// Reads the CPUs in use since the last reading, if that is five seconds ago, and a second at
    /// first; `None` until then.
    pub fn read(&mut self, now: f64) -> Option<f64> {
        let pause_secs = if self.cpus.is_some() { READ_SECS } else { 1.0 };
        if self.last.is_some_and(|(then, _)| now - then < pause_secs) {
            return self.cpus;
        }
        let Ok(KernelStats { total, .. }) = KernelStats::current() else { return self.cpus };
        // Guests are part of `user` and `nice`.
        let used = [total.user, total.nice, total.system];
        let more = [total.irq, total.softirq].map(Option::unwrap_or_default);
        let ticks: u64 = used.into_iter().chain(more).sum();
        if let Some((then, before)) = self.last {
            let secs = ticks.saturating_sub(before) as f64 / procfs::ticks_per_second() as f64;
            self.cpus = Some(secs / (now - then));
        }
        self.last = Some((now, ticks));
        self.cpus
    }
}

impl RequestLoad {
    /// Returns whether the next total is due, a second after the last.
    pub fn is_due(&self, now: f64) -> bool {
        self.last.is_none_or(|(then, _)| now - then >= 1.0)
    }

    /// Takes the responses so far; `None` if they are unknown.
    pub fn take(&mut self, now: f64, answered_total: Option<u64>) {
        let rate = |(then, before): (f64, u64)| {
            let answered = answered_total?.checked_sub(before)?;
            (now > then).then(|| answered as f64 / (now - then))
        };
        self.per_sec = self.last.and_then(rate);
        self.last = answered_total.map(|total| (now, total));
    }

    /// Returns the requests answered per second; `None` if that is unknown.
    pub fn per_sec(&self) -> Option<f64> {
        self.per_sec
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn rate_is_known_from_the_second_total_on_and_not_across_a_gap() {
        let mut load = RequestLoad::default();
        assert!(load.is_due(0.0));
        load.take(0.0, Some(1_000));
        assert_eq!(load.per_sec(), None);
        assert!(!load.is_due(0.5) && load.is_due(1.0));
        load.take(2.0, Some(1_100));
        assert_eq!(load.per_sec(), Some(50.0));
        load.take(3.0, Some(5));
        assert_eq!(load.per_sec(), None, "a service was forgotten");
        load.take(4.0, Some(35));
        assert_eq!(load.per_sec(), Some(30.0));
        load.take(5.0, None);
        assert_eq!(load.per_sec(), None);
    }

    #[test]
    fn cpu_in_use_is_at_least_what_this_thread_uses() {
        let mut load = CpuLoad::default();
        assert_eq!(load.read(0.0), None);
        let clock = Clock::start();
        while clock.now() < 1.05 {
            std::hint::spin_loop();
        }
        let cpus = load.read(clock.now()).unwrap();
        // A busy machine may leave this thread without a CPU, but then another one uses it.
        assert!(cpus > 0.5, "{cpus}");
    }
}
