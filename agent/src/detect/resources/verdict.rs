//! Verdicts about leaks of files, threads or sockets, with their sentences.

use std::{fmt::Write as _, sync::Arc};

use super::{
    kind::CountSample,
    tracker::{OpenRise, SteadyRise},
};
use crate::{
    detect::{
        Context, confidence::Rule, leak_claim::LeakClaim, resource::Resource, verdict::Verdict,
    },
    sense::ProcessId,
    units::{Count, Frequency, Span, rounded},
};

/// Standard errors on either side of a slope in its 95 % interval, with as many floors as are
/// judged.
const ERRORS_95: f64 = 2.2;

/// Subject of a claim.
#[derive(Debug, Clone)]
pub(super) struct LeakingProcess {
    pub(super) id: ProcessId,
    pub(super) comm: Arc<str>,
    pub(super) cgroup: Arc<str>,
}

impl LeakingProcess {
    /// Raises a claim of a rise.
    pub(super) fn raised(
        &self,
        context: &Context<'_>,
        sample: &CountSample,
        rise: &SteadyRise,
    ) -> Verdict {
        let mut why = format!(
            "{} (pid {}) holds {} more {} than {} ago ({}), without slowing down",
            self.comm,
            self.id.pid,
            Count(rise.grown.into()),
            sample.resource.noun(),
            Span(rise.secs),
            Frequency(rise.per_sec),
        );
        if sample.resource == Resource::CloseWait {
            why.push_str("; their peers have closed them, and the program has not");
        }
        let exhaustion_secs = sample.exhaustion_secs(rise.per_sec);
        if let (Some(secs), Some(max)) = (exhaustion_secs, sample.files_max) {
            // Writing to a String cannot fail.
            let _ = write!(
                why,
                "; if it goes on, its limit of {} open files is reached in {}",
                Count(max),
                Span(secs)
            );
        }
        // Straight lines are certain; the share of the slope that may be scatter is not.
        let confidence = (1.0 - rise.per_sec_error / rise.per_sec).clamp(0.0, 1.0);
        let confidence =
            context.sensor_health.weigh(Rule::Handles, context.t, confidence, &mut why);
        let error = ERRORS_95 * rise.per_sec_error;
        let ends = [rise.per_sec + error, rise.per_sec - error]
            .map(|per_sec| sample.exhaustion_secs(per_sec));
        let interval =
            if let [Some(soonest), Some(latest)] = ends { Some([soonest, latest]) } else { None };
        let claim = self.claim(sample.resource, rise.per_sec);
        Verdict {
            exhaustion_secs: exhaustion_secs.map(|secs| rounded(secs, 1)),
            exhaustion_interval_secs: interval
                .filter(|_| rise.per_sec > error)
                .map(|interval| interval.map(|secs| rounded(secs, 1))),
            ..Verdict::raised(context.t, claim, confidence, why)
        }
    }

    /// Forecasts an open claim anew.
    pub(super) fn forecast(
        &self,
        context: &Context<'_>,
        sample: &CountSample,
        open: &OpenRise,
        per_sec: f64,
    ) -> Verdict {
        let exhaustion_secs = sample.exhaustion_secs(per_sec);
        let mut why = format!(
            "{} (pid {}) holds {} {} and still gains {}",
            self.comm,
            self.id.pid,
            Count(sample.count.into()),
            sample.resource.noun(),
            Frequency(per_sec),
        );
        if let (Some(secs), Some(max)) = (exhaustion_secs, sample.files_max) {
            let _ = write!(
                why,
                "; its limit of {} open files is reached in {}",
                Count(max),
                Span(secs)
            );
        }
        let claim = self.claim(sample.resource, per_sec);
        Verdict {
            exhaustion_secs: exhaustion_secs.map(|secs| rounded(secs, 1)),
            ..Verdict::raised(context.t, claim, open.confidence, why)
        }
    }

    /// Clears a claim.
    pub(super) fn cleared(
        &self,
        context: &Context<'_>,
        resource: Resource,
        open: &OpenRise,
        because: &str,
    ) -> Verdict {
        let (comm, pid, noun) = (&self.comm, self.id.pid, resource.noun());
        let why = format!("{comm} (pid {pid}) is no longer leaking {noun}: {because}");
        let claim = self.claim(resource, open.rise.per_sec);
        Verdict::cleared(context.t, claim, open.confidence, why)
    }

    fn claim(&self, resource: Resource, per_sec: f64) -> LeakClaim {
        LeakClaim::of_handles(resource, self.id, &self.comm, &self.cgroup, per_sec)
    }
}
