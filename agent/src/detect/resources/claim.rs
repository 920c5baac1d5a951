//! What is said of a leak of files, threads or sockets: its verdicts and their sentences.

use std::{fmt::Write, sync::Arc};

use super::{
    super::{
        Context,
        confidence::Rule,
        verdict::{Bound, Claim, ClaimState, LeakClaim, Resource, Verdict},
    },
    kind::CountSample,
    tracker::{OpenRise, SteadyRise},
};
use crate::{
    sense::ProcessId,
    units::{Count, Frequency, Span, rounded},
};

/// Standard errors either way within which a slope lies 19 times of 20, with as many floors as are
/// judged.
const ERRORS_95: f64 = 2.2;

/// Whom a claim is about.
#[derive(Debug, Clone)]
pub(super) struct LeakingProcess {
    pub(super) id: ProcessId,
    pub(super) comm: Arc<str>,
    pub(super) cgroup: Arc<str>,
}

impl LeakingProcess {
    /// A rise is claimed.
    pub(super) fn raised(
        &self,
        context: &Context<'_>,
        look: &CountSample,
        rise: &SteadyRise,
    ) -> Verdict {
        let mut why = format!(
            "{} (pid {}) holds {} more {} than {} ago, {}, without slowing",
            self.comm,
            self.id.pid,
            Count(rise.grown.into()),
            noun(look.resource),
            Span(rise.secs),
            Frequency(rise.per_sec),
        );
        // Writing to a String cannot fail.
        if look.resource == Resource::CloseWait {
            let _ = write!(why, ": their peers are gone, and only the program can close them");
        }
        let exhaustion_secs = look.exhaustion_secs(rise.per_sec);
        if let (Some(secs), Some(max)) = (exhaustion_secs, look.files_max) {
            let of = if look.resource == Resource::CloseWait { " open files" } else { "" };
            let _ = write!(
                why,
                "; its limit of {}{of} is reached in {}, unless it stops before",
                Count(max),
                Span(secs)
            );
        }
        // Straight lines are sure; the share of the slope that may be scatter is not.
        let confidence = (1.0 - rise.per_sec_error / rise.per_sec).clamp(0.0, 1.0);
        let confidence = context.trust.weigh(Rule::Handles, context.t, confidence, &mut why);
        let error = ERRORS_95 * rise.per_sec_error;
        let ends = [rise.per_sec + error, rise.per_sec - error]
            .map(|per_sec| look.exhaustion_secs(per_sec));
        let interval =
            if let [Some(soonest), Some(latest)] = ends { Some([soonest, latest]) } else { None };
        Verdict {
            exhaustion_secs: exhaustion_secs.map(|secs| rounded(secs, 1)),
            exhaustion_interval_secs: interval
                .filter(|_| rise.per_sec > error)
                .map(|interval| interval.map(|secs| rounded(secs, 1))),
            ..self.verdict(
                context,
                look.resource,
                ClaimState::Raised,
                rise.per_sec,
                confidence,
                why,
            )
        }
    }

    /// What was claimed goes on.
    pub(super) fn forecast(
        &self,
        context: &Context<'_>,
        look: &CountSample,
        standing: &OpenRise,
        per_sec: f64,
    ) -> Verdict {
        let (resource, confidence) = (look.resource, standing.confidence);
        let exhaustion_secs = look.exhaustion_secs(per_sec);
        let mut why = format!(
            "{} (pid {}) holds {} {} and still gains {}",
            self.comm,
            self.id.pid,
            Count(look.count.into()),
            noun(resource),
            Frequency(per_sec),
        );
        if let (Some(secs), Some(max)) = (exhaustion_secs, look.files_max) {
            let _ = write!(
                why,
                "; its limit of {} open files is reached in {}",
                Count(max),
                Span(secs)
            );
        }
        let verdict = self.verdict(context, resource, ClaimState::Raised, per_sec, confidence, why);
        Verdict { exhaustion_secs: exhaustion_secs.map(|secs| rounded(secs, 1)), ..verdict }
    }

    /// What was claimed is over.
    pub(super) fn cleared(
        &self,
        context: &Context<'_>,
        resource: Resource,
        standing: &OpenRise,
        because: &str,
    ) -> Verdict {
        let noun = noun(resource);
        let why = format!(
            "{} (pid {}) no longer counts as leaking {noun}: {because}",
            self.comm, self.id.pid
        );
        let (per_sec, confidence) = (standing.rise.per_sec, standing.confidence);
        self.verdict(context, resource, ClaimState::Cleared, per_sec, confidence, why)
    }

    fn verdict(
        &self,
        context: &Context<'_>,
        resource: Resource,
        state: ClaimState,
        per_sec: f64,
        confidence: f64,
        why: String,
    ) -> Verdict {
        Verdict {
            t: context.t,
            claim: Claim::Leak(LeakClaim {
                resource,
                id: self.id,
                comm: self.comm.clone(),
                cgroup: self.cgroup.clone(),
                growth_bytes_per_sec: None,
                // A handle a day is a hundred-thousandth a second.
                growth_handles_per_sec: Some(rounded(per_sec, 6)),
                growth_interval_bytes_per_sec: None,
                bound: Bound::Own,
            }),
            exhaustion_secs: None,
            exhaustion_interval_secs: None,
            harm: None,
            confidence: rounded(confidence, 2),
            state,
            why,
        }
    }
}

fn noun(resource: Resource) -> &'static str {
    match resource {
        Resource::Memory => "bytes",
        Resource::Files => "open files",
        Resource::Threads => "threads",
        Resource::CloseWait => "sockets in CLOSE_WAIT",
    }
}
