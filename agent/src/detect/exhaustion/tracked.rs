//! One count that is watched: its window, its users, and its open claim.

use super::{
    at_limit::{self, LimitWatch},
    claim::{Course, ExhaustionClaim},
    rise::{self, Climb, Worth, horizons},
    users::EarlierUsers,
    verdict,
    words::{UNLIMITED_GROWTH_BYTES_MIN, UNLIMITED_GROWTH_MIN, amount, words},
};
use crate::{
    detect::{
        Context, Findings,
        window::{KIB, Window},
    },
    sense::{CountFact, CountedResource},
    units::Span,
};

/// Share of what was left that a climb has to take before it is claimed: a count that follows the
/// load fluctuates more. Both leave time before a quarter of it is gone. Chosen on the corpus of
/// counts: at a tenth, caches that fill to half of what is left were claimed twice as often.
const SHARE: f64 = 0.16;
const SHARE_OF_LOAD: f64 = 0.17;

/// Shortest climb that is judged, in seconds. Conntrack keeps a closed connection for two minutes,
/// and the kernel a socket in TIME_WAIT for one: a load that begins climbs for as long, and then
/// levels off at once.
const CLIMB_SECS: f64 = 50.0;
const CLIMB_SECS_OF_LOAD: f64 = 170.0;

/// Shortest climb of a count without a limit, in seconds: no end forces a claim sooner.
const UNLIMITED_CLIMB_SECS: f64 = 6.0 * 3_600.0;

/// Growth that is worth a claim in any case: a handful is no climb.
const GROWTH_MIN: f64 = 16.0;

/// Share of the growth since the beginning that, once given back, ends a claim.
const ENDED_SHARE: f64 = 0.5;

/// A climb has stopped when it has not grown for the longer of ten minutes and so many of the
/// buckets that showed it.
const STOPPED_SECS_MIN: f64 = 600.0;
const STOPPED_BUCKETS: f64 = 3.0;

/// Time for which a level that was reached and left is remembered, in seconds: a week and a day, so
/// that what comes every week is no news.
const REMEMBERED_SECS: f64 = 8.0 * 86_400.0;

/// Decay of the longest gap between two facts, by each fact.
const GAP_DECAY: f64 = 0.9;

/// A count that is watched.
#[derive(Debug)]
pub(super) struct TrackedCount {
    origin_t: f64,
    window: Window,
    seen_t: f64,
    gap_secs: f64,
    /// Highest level of late, and the last time at which it was reached.
    top: (u64, f64),
    users: EarlierUsers,
    limit_watch: LimitWatch,
    open: Option<OpenClaim>,
    /// Set once a claim has ended because the count fell. The first time its level before does not
    /// count as one that is reached and left again: somebody has helped. Later it does.
    is_pardoned: bool,
}

/// An open claim.
#[derive(Debug, Clone)]
struct OpenClaim {
    claim: ExhaustionClaim,
    confidence: f64,
    /// The climb; `None` if the count is at its limit without one.
    climb: Option<FollowedClimb>,
}

/// A climb that is claimed.
#[derive(Debug, Clone, Copy)]
struct FollowedClimb {
    climb: Climb,
    began_t: f64,
    /// Lowest count of the bucket that closes at `closes_t`.
    floor: f64,
    closes_t: f64,
    highest: f64,
    grew_t: f64,
}

/// A fact in the units of the window.
struct CountReading {
    used: f64,
    left: Option<f64>,
    /// Size of a unit.
    unit: f64,
}

impl CountReading {
    fn of(context: &Context<'_>, fact: &CountFact) -> Self {
        let unit = if fact.resource.is_bytes() { KIB } else { 1.0 };
        let used = fact.used as f64;
        let room = fact.limit.map(|limit| (limit as f64 - used).max(0.0));
        let available = context.host.map(|host| host.mem_available_bytes as f64);
        let left = match available {
            Some(available) if is_kernel_memory(&fact.resource) => {
                Some(room.map_or(available, |room| room.min(available)))
            }
            _ => room,
        };
        Self { used: used / unit, left: left.map(|left| left / unit), unit }
    }

    /// Room below the limit, in the resource's own unit.
    fn left_amount(&self) -> Option<f64> {
        self.left.map(|left| left * self.unit)
    }

    fn window_bytes(&self) -> u64 {
        (self.used * KIB) as u64
    }
}

/// Returns whether a resource ends with the memory of the host.
fn is_kernel_memory(resource: &CountedResource) -> bool {
    use CountedResource as R;
    matches!(resource, R::SlabBytes | R::PageTableBytes | R::VmallocBytes | R::PercpuBytes)
}

impl TrackedCount {
    pub(super) fn new(t: f64) -> Self {
        Self {
            origin_t: t,
            window: Window::default(),
            seen_t: t,
            gap_secs: 0.0,
            top: (0, t),
            users: EarlierUsers::default(),
            limit_watch: LimitWatch::default(),
            open: None,
            is_pardoned: false,
        }
    }

    pub(super) fn seen_t(&self) -> f64 {
        self.seen_t
    }

    /// Longest time between two facts, of late.
    pub(super) fn gap_secs(&self) -> f64 {
        self.gap_secs
    }

    pub(super) fn is_raised(&self) -> bool {
        self.open.is_some()
    }

    /// Takes a fact about the count.
    pub(super) fn observe(
        &mut self,
        context: &Context<'_>,
        fact: &CountFact,
        findings: &mut Findings,
    ) {
        let t = context.t;
        self.gap_secs = (t - self.seen_t).max(GAP_DECAY * self.gap_secs);
        self.seen_t = t;
        if fact.used >= self.top.0 {
            self.top = (fact.used, t);
        } else if t - self.top.1 > REMEMBERED_SECS {
            self.window.forget_past_peaks();
            self.top = (fact.used, t);
        }
        let sample = CountReading::of(context, fact);
        let closed = self.window.observe(horizons(), t - self.origin_t, sample.window_bytes());
        let is_at_limit = self.limit_watch.observe(t, fact);
        if self.open.is_some() {
            self.follow(context, fact, &sample, findings);
        } else if let Some(climb) = (closed.horizons != 0)
            .then(|| rise::climb(&self.window, &worth(fact, &sample)))
            .flatten()
        {
            self.claim_climb(context, fact, &sample, climb, findings);
        } else if is_at_limit {
            self.claim_limit(context, fact, findings);
        }
        self.users.observe(t, fact);
    }

    /// Clears the open claim, if there is one.
    pub(super) fn clear(&mut self, context: &Context<'_>, because: &str, findings: &mut Findings) {
        if let Some(OpenClaim { claim, confidence, .. }) = self.open.take() {
            findings.verdicts.push(verdict::cleared(context, claim, confidence, because));
        }
    }

    fn claim_climb(
        &mut self,
        context: &Context<'_>,
        fact: &CountFact,
        sample: &CountReading,
        climb: Climb,
        findings: &mut Findings,
    ) {
        let began_t = context.t - climb.secs;
        let culprit = self.users.culprit(began_t, fact);
        let course = Course::Climb { taken_share: climb.taken_share, secs: climb.secs };
        let claim = verdict::claim(fact, Some(climb.per_sec * sample.unit), culprit, course);
        let raised = verdict::raised_climb(
            context,
            fact,
            &climb,
            sample.unit,
            sample.left_amount(),
            claim.clone(),
        );
        let followed = FollowedClimb {
            climb,
            began_t,
            floor: sample.used,
            closes_t: context.t + climb.bucket_secs,
            highest: climb.highest,
            grew_t: context.t,
        };
        self.open = Some(OpenClaim { claim, confidence: raised.confidence, climb: Some(followed) });
        findings.verdicts.push(raised);
    }

    fn claim_limit(&mut self, context: &Context<'_>, fact: &CountFact, findings: &mut Findings) {
        let course = if self.limit_watch.has_been_far() { Course::Jump } else { Course::Full };
        let culprit = self.users.culprit(context.t, fact);
        let claim = verdict::claim(fact, None, culprit, course);
        let raised = verdict::raised_at_limit(context, fact, claim.clone());
        self.open = Some(OpenClaim { claim, confidence: raised.confidence, climb: None });
        findings.verdicts.push(raised);
    }

    /// Follows the open claim: ends it, or forecasts it anew.
    fn follow(
        &mut self,
        context: &Context<'_>,
        fact: &CountFact,
        sample: &CountReading,
        findings: &mut Findings,
    ) {
        let Some(open) = &mut self.open else { return };
        (open.claim.used, open.claim.limit) = (fact.used, fact.limit);
        let Some(followed) = &mut open.climb else {
            if at_limit::has_left(fact) {
                self.clear(context, &format!("{} is free again", free(fact)), findings);
            }
            return;
        };
        match followed.observe(context.t, fact, sample) {
            ClimbUpdate::Nothing => {}
            ClimbUpdate::GaveBack(gave_back) => {
                let because = format!(
                    "{} of it is free again",
                    amount(&fact.resource, gave_back * sample.unit)
                );
                self.clear(context, &because, findings);
                if !std::mem::replace(&mut self.is_pardoned, true) {
                    (self.window, self.origin_t) = (Window::default(), context.t);
                }
            }
            ClimbUpdate::Stopped(secs) => {
                let because = format!("it has not grown for {}", Span(secs));
                self.clear(context, &because, findings);
            }
            ClimbUpdate::Grows => {
                let climb = followed.climb;
                let per_sec = rise::rate_now(&self.window, climb.bucket_secs)
                    .filter(|per_sec| *per_sec > 0.0)
                    .unwrap_or(climb.per_sec)
                    * sample.unit;
                let culprit = self.users.culprit(followed.began_t, fact);
                let course =
                    Course::Climb { taken_share: followed.taken_share(sample), secs: climb.secs };
                let culprit = culprit.or_else(|| open.claim.culprit.clone());
                open.claim = verdict::claim(fact, Some(per_sec), culprit, course);
                let left = sample.left_amount();
                let (confidence, claim) = (open.confidence, open.claim.clone());
                findings
                    .forecasts
                    .push(verdict::forecast(context, fact, per_sec, left, confidence, claim));
            }
        }
    }
}

/// Growth that is worth a claim.
fn worth(fact: &CountFact, sample: &CountReading) -> Worth {
    let is_load = words(&fact.resource).is_load;
    if sample.left.is_none() {
        let least = if fact.resource.is_bytes() {
            UNLIMITED_GROWTH_BYTES_MIN / sample.unit
        } else {
            UNLIMITED_GROWTH_MIN
        };
        return Worth { left: None, share: 0.0, least, secs: UNLIMITED_CLIMB_SECS };
    }
    Worth {
        left: sample.left,
        share: if is_load { SHARE_OF_LOAD } else { SHARE },
        least: GROWTH_MIN,
        secs: if is_load { CLIMB_SECS_OF_LOAD } else { CLIMB_SECS },
    }
}

/// Part of the limit that is not in use.
fn free(fact: &CountFact) -> String {
    amount(&fact.resource, fact.limit.unwrap_or(fact.used).saturating_sub(fact.used) as f64)
}

/// State of a climb that is claimed.
enum ClimbUpdate {
    Nothing,
    /// Over: so much of it is given back.
    GaveBack(f64),
    /// It has not grown for so many seconds.
    Stopped(f64),
    Grows,
}

impl FollowedClimb {
    fn observe(&mut self, t: f64, fact: &CountFact, sample: &CountReading) -> ClimbUpdate {
        self.floor = self.floor.min(sample.used);
        if t < self.closes_t {
            return ClimbUpdate::Nothing;
        }
        let closed = std::mem::replace(&mut self.floor, sample.used);
        self.closes_t = t + self.climb.bucket_secs;
        let grew = closed > self.highest;
        if grew {
            (self.highest, self.grew_t) = (closed, t);
        }
        let (grown, gave_back) = (self.highest - self.climb.from, self.highest - closed);
        let stopped_secs = STOPPED_SECS_MIN.max(STOPPED_BUCKETS * self.climb.bucket_secs);
        let is_at_end = at_limit::is_near(fact);
        if gave_back >= ENDED_SHARE * grown {
            ClimbUpdate::GaveBack(gave_back)
        } else if t - self.grew_t >= stopped_secs && !is_at_end {
            ClimbUpdate::Stopped(t - self.grew_t)
        } else if grew {
            ClimbUpdate::Grows
        } else {
            ClimbUpdate::Nothing
        }
    }

    /// Share of what was left at the beginning that is taken by now.
    fn taken_share(&self, sample: &CountReading) -> Option<f64> {
        sample.left.map(|left| rise::share_taken(sample.used - self.climb.from, left))
    }
}
