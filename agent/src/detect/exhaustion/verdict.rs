//! Verdicts about counts, with their sentences.

use std::fmt::Write as _;

use super::{
    claim::{Course, ExhaustionClaim},
    rise::Climb,
    users::CountCulprit,
    words::{amount, rate, resource_of, words},
};
use crate::{
    detect::{Context, confidence::Rule, verdict::Verdict},
    sense::CountFact,
    units::{Span, rounded},
};

/// Standard errors on either side of a rate in its 95 % interval, with as few floors as are judged.
const ERRORS_95: f64 = 2.8;

/// Confidence of a claim that a count is at its limit: the kernel says so.
const AT_LIMIT_CONFIDENCE: f64 = 0.95;

/// Lowest confidence of a climb that was believed.
const CLIMB_CONFIDENCE_MIN: f64 = 0.5;

/// Digits of a rate in output: one a day is a hundred-thousandth a second.
const RATE_DIGITS: i32 = 6;

/// Claims a climb, `left` below its limit.
pub(super) fn raised_climb(
    context: &Context<'_>,
    fact: &CountFact,
    climb: &Climb,
    unit: f64,
    left: Option<f64>,
    claim: ExhaustionClaim,
) -> Verdict {
    let (per_sec, error) = (climb.per_sec * unit, climb.per_sec_error * unit);
    let mut why = format!(
        "{} grew by {} in {} ({}), without slowing down, to {}",
        resource_of(&fact.resource, &fact.subject),
        amount(&fact.resource, climb.grown * unit),
        Span(climb.secs),
        rate(&fact.resource, per_sec),
        level(fact),
    );
    let in_secs = |per_sec: f64| left.map(|left| left / per_sec).filter(|secs| secs.is_finite());
    let exhaustion_secs = in_secs(per_sec);
    let slow = per_sec - ERRORS_95 * error;
    let interval = (slow > 0.0)
        .then(|| Some([in_secs(per_sec + ERRORS_95 * error)?, in_secs(slow)?]))
        .flatten();
    // Writing to a String cannot fail.
    if let Some(secs) = exhaustion_secs {
        let _ = write!(why, "; if it goes on, it runs out in {}", Span(secs));
        let ends = interval.map(|ends| ends.map(|secs| Span(secs).to_string()));
        if let Some([soonest, latest]) = ends.filter(|[soonest, latest]| soonest != latest) {
            let _ = write!(why, " ({soonest} to {latest})");
        }
        let _ = write!(why, "; then {}", words(&fact.resource).end);
    }
    if let Some(culprit) = &claim.culprit {
        let _ = write!(why, "; {}", culprit.sentence());
    }
    let confidence = (1.0 - error / per_sec).clamp(CLIMB_CONFIDENCE_MIN, 1.0);
    let confidence = context.sensor_health.weigh(Rule::Count, context.t, confidence, &mut why);
    Verdict {
        exhaustion_secs: exhaustion_secs.map(|secs| rounded(secs, 1)),
        exhaustion_interval_secs: interval.map(|ends| ends.map(|secs| rounded(secs, 1))),
        ..Verdict::raised(context.t, claim, confidence, why)
    }
}

/// Claims that a count is at its limit, after a jump or as it was found.
pub(super) fn raised_at_limit(
    context: &Context<'_>,
    fact: &CountFact,
    claim: ExhaustionClaim,
) -> Verdict {
    let how = if claim.course == Course::Jump { "jumped to" } else { "is at" };
    let mut why = format!(
        "{} {how} its limit: {}; {}",
        resource_of(&fact.resource, &fact.subject),
        level(fact),
        words(&fact.resource).end,
    );
    if let Some(culprit) = &claim.culprit {
        let _ = write!(why, "; {}", culprit.sentence());
    }
    let confidence =
        context.sensor_health.weigh(Rule::Count, context.t, AT_LIMIT_CONFIDENCE, &mut why);
    let exhaustion_secs = Some(0.0);
    Verdict { exhaustion_secs, ..Verdict::raised(context.t, claim, confidence, why) }
}

/// Forecasts an open claim of a climb anew.
pub(super) fn forecast(
    context: &Context<'_>,
    fact: &CountFact,
    per_sec: f64,
    left: Option<f64>,
    confidence: f64,
    claim: ExhaustionClaim,
) -> Verdict {
    let exhaustion_secs = left.map(|left| left / per_sec).filter(|secs| secs.is_finite());
    let mut why = format!(
        "{}: {}, still growing by {}",
        resource_of(&fact.resource, &fact.subject),
        level(fact),
        rate(&fact.resource, per_sec),
    );
    if let Some(secs) = exhaustion_secs {
        let _ = write!(why, "; it runs out in {}; then {}", Span(secs), words(&fact.resource).end);
    }
    if let Some(culprit) = &claim.culprit {
        let _ = write!(why, "; {}", culprit.sentence());
    }
    Verdict {
        exhaustion_secs: exhaustion_secs.map(|secs| rounded(secs, 1)),
        ..Verdict::raised(context.t, claim, confidence, why)
    }
}

/// Clears a claim.
pub(super) fn cleared(
    context: &Context<'_>,
    claim: ExhaustionClaim,
    confidence: f64,
    because: &str,
) -> Verdict {
    let of = resource_of(&claim.resource, &claim.subject);
    let why = format!("{of} no longer runs out: {because}");
    Verdict::cleared(context.t, claim, confidence, why)
}

/// Makes the claim about a count as it is now.
pub(super) fn claim(
    fact: &CountFact,
    per_sec: Option<f64>,
    culprit: Option<CountCulprit>,
    course: Course,
) -> ExhaustionClaim {
    ExhaustionClaim {
        resource: fact.resource.clone(),
        subject: fact.subject.clone(),
        used: fact.used,
        limit: fact.limit,
        growth_per_sec: per_sec.map(|per_sec| rounded(per_sec, RATE_DIGITS)),
        culprit,
        course,
    }
}

/// Level of a count, such as `1.0 GiB of 2.0 GiB`.
fn level(fact: &CountFact) -> String {
    let used = amount(&fact.resource, fact.used as f64);
    match fact.limit {
        Some(limit) => format!("{used} of {}", amount(&fact.resource, limit as f64)),
        None => used,
    }
}
