//! Baseline of the requests at one address: how many are in flight, and for how long, while nothing
//! is wrong.
//!
//! Samples that are not unusual teach it, ten seconds late, so that an overload that grows
//! slowly is not learnt as it comes; so do unusual times that end of themselves, such as pauses,
//! and those that go on for half a minute without being an overload, such as long polls that a
//! new version of a page makes. Cold start: until some requests were answered everything is usual.

/// Time after which learnt ages and counts halve. Guesses: pauses come back within the hour; counts
/// follow the load of the day.
const AGE_HALF_LIFE_SECS: f64 = 3600.0;
const COUNT_HALF_LIFE_SECS: f64 = 900.0;

/// Time by which usual samples are learnt late, at least.
const BUCKET_SECS: f64 = 10.0;

/// Time and responses after which a baseline is known.
const WARM_SECS: f64 = 4.0;
const WARM_ANSWERED: f64 = 10.0;

/// Time over which the mean response time is averaged.
const MEAN_SECS: f64 = 60.0;

/// Largest values seen.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Extremes {
    /// Requests waiting.
    pub(super) count: f64,
    /// Age of the oldest, in seconds.
    pub(super) age_secs: f64,
    /// Time without a response while requests were in flight, in seconds.
    pub(super) silence_secs: f64,
    /// Share of requests that their clients abandoned.
    pub(super) abandoned_share: f64,
}

impl Extremes {
    /// Takes the larger of each.
    pub(super) fn max(self, other: Self) -> Self {
        Self {
            count: self.count.max(other.count),
            age_secs: self.age_secs.max(other.age_secs),
            silence_secs: self.silence_secs.max(other.silence_secs),
            abandoned_share: self.abandoned_share.max(other.abandoned_share),
        }
    }

    fn after(self, secs: f64) -> Self {
        let left = |half_life: f64| (-secs / half_life).exp2();
        let (ages, counts) = (left(AGE_HALF_LIFE_SECS), left(COUNT_HALF_LIFE_SECS));
        Self {
            count: self.count * counts,
            age_secs: self.age_secs * ages,
            silence_secs: self.silence_secs * ages,
            abandoned_share: self.abandoned_share * ages,
        }
    }
}

/// Baseline of one queue: of requests in flight, or of unread ones.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct UsualRequests {
    t: f64,
    learnt: Extremes,
    /// Extremes of the bucket that is being filled, and of the one before.
    filling: Extremes,
    filled: Extremes,
    bucket_t: f64,
    /// Time of the first response.
    first_t: Option<f64>,
    answered: f64,
    is_warm: bool,
    /// Mean response time, by the number in flight and the responses per second.
    response_secs: TimedMean,
    /// Mean number of requests, and of responses that were seen, per second.
    per_sec: TimedMean,
    answered_per_sec: TimedMean,
}

/// A mean over about a minute.
#[derive(Debug, Clone, Copy, Default)]
struct TimedMean {
    value: f64,
    known_secs: f64,
}

impl TimedMean {
    fn add(&mut self, secs: f64, value: f64) {
        self.known_secs += secs;
        let share = secs / self.known_secs.clamp(f64::MIN_POSITIVE, MEAN_SECS);
        self.value += (value - self.value) * share.min(1.0);
    }
}

/// A sample that is not unusual.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct UsualSample {
    /// Counts and ages.
    pub(super) extremes: Extremes,
    /// Time since the sample before, in seconds.
    pub(super) secs: f64,
    /// Requests that were answered since then.
    pub(super) answered: f64,
    /// Requests per second lately: those answered, or connections made if those are more.
    pub(super) per_sec: f64,
}

impl UsualRequests {
    /// Extremes that count as usual at `t`.
    pub(super) fn at(&self, t: f64) -> Extremes {
        self.learnt.after(t - self.t)
    }

    /// Returns whether the baseline is known.
    pub(super) fn is_warm(&self) -> bool {
        self.is_warm
    }

    /// Mean response time in seconds; 0 if unknown.
    pub(super) fn mean_secs(&self) -> f64 {
        self.response_secs.value
    }

    /// Mean number of requests per second.
    pub(super) fn per_sec(&self) -> f64 {
        self.per_sec.value
    }

    /// Mean number of responses per second that were seen.
    pub(super) fn answered_per_sec(&self) -> f64 {
        self.answered_per_sec.value
    }

    /// Takes a sample that is not unusual.
    pub(super) fn take(&mut self, t: f64, sample: UsualSample) {
        let UsualSample { extremes, secs, answered, per_sec } = sample;
        self.answered += answered;
        if answered > 0.0 {
            self.first_t.get_or_insert(t);
        }
        self.per_sec.add(secs, per_sec);
        if secs > 0.0 {
            self.answered_per_sec.add(secs, answered / secs);
        }
        if extremes.count > 0.0 && per_sec > 0.0 {
            self.response_secs.add(secs, extremes.count / per_sec);
        }
        if !self.is_warm {
            let known_secs = self.first_t.map_or(0.0, |first_t| t - first_t);
            self.is_warm = known_secs >= WARM_SECS && self.answered >= WARM_ANSWERED;
            return self.learn(t, extremes);
        }
        if t - self.bucket_t >= BUCKET_SECS {
            let filled = std::mem::replace(&mut self.filled, self.filling);
            (self.filling, self.bucket_t) = (Extremes::default(), t);
            self.learn(t, filled);
        }
        self.filling = self.filling.max(extremes);
    }

    /// Learns extremes at once.
    pub(super) fn learn(&mut self, t: f64, extremes: Extremes) {
        self.learnt = self.at(t).max(extremes);
        self.t = t;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extremes(count: f64, age_secs: f64) -> Extremes {
        Extremes { count, age_secs, ..Extremes::default() }
    }

    fn sample(count: f64, age_secs: f64, per_sec: f64) -> UsualSample {
        let extremes = extremes(count, age_secs);
        UsualSample { extremes, secs: 1.0, answered: per_sec, per_sec }
    }

    #[test]
    fn baseline_is_known_after_some_responses_and_fades() {
        let mut usual = UsualRequests::default();
        for second in 0..4 {
            usual.take(f64::from(second), sample(9.0, 0.1, 45.0));
            assert!(!usual.is_warm());
        }
        usual.take(4.0, sample(9.0, 0.4, 45.0));
        assert!(usual.is_warm() && (usual.mean_secs() - 0.2).abs() < 1e-9);
        assert_eq!(usual.per_sec(), 45.0);
        assert_eq!(usual.at(4.0), extremes(9.0, 0.4));
        assert_eq!(usual.at(4.0 + COUNT_HALF_LIFE_SECS).count, 4.5);
        assert_eq!(usual.at(4.0 + AGE_HALF_LIFE_SECS).age_secs, 0.2);
    }

    #[test]
    fn silent_address_never_has_a_baseline() {
        let mut usual = UsualRequests::default();
        for second in 0..100 {
            usual.take(f64::from(second), sample(50.0, f64::from(second), 0.0));
        }
        assert!(!usual.is_warm());
    }

    #[test]
    fn usual_samples_are_learnt_late() {
        let mut usual = UsualRequests::default();
        usual.learn(0.0, extremes(1.0, 0.1));
        usual.is_warm = true;
        let mut learnt_at = None;
        for step in 0..100 {
            let t = f64::from(step) / 2.0;
            usual.take(t, sample(5.0, 0.1, 5.0));
            if usual.at(t).count > 4.0 {
                learnt_at.get_or_insert(t);
            }
        }
        assert_eq!(learnt_at, Some(20.0));
    }
}
