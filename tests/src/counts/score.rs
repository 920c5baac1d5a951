//! Score of the engine on the corpus of counts.

use std::fmt::Write as _;

use serde::Serialize;
use spillway_agent::{
    config::Config,
    detect::{Claim, ClaimState, ExhaustionClaim, HostInfo, Severity, Verdict},
    engine::Engine,
    sense::{Fact, HostFact, Observation},
};

use super::{Course, DAY, KINDS, RUNS_OF_EACH, exhausting, healthy};
use crate::corpus::rng::Rng;

/// Share of what was left at the onset by which a claim is in time.
const IN_TIME_SHARE: f64 = 0.25;

/// Targets: claims in time and right culprits as shares, and false claims in 1,000 host-days.
const IN_TIME_MIN: f64 = 0.95;
const CULPRITS_MIN: f64 = 0.95;
const FALSE_MAX: f64 = 1.0;

/// False claims in 1,000 host-days that were reached, which must not rise while the target is missed.
const FALSE_REACHED: f64 = 10.0;

/// Outcome of one run.
#[derive(Debug, Serialize)]
pub struct CountRun {
    /// Resource and subject.
    pub about: String,
    /// Shape of its course.
    pub shape: &'static str,
    /// Share of what was left that was gone when it was claimed; `None` if it never was.
    pub found_share: Option<f64>,
    /// Set if the right user was named.
    pub is_culprit_right: bool,
    /// Claims that are wrong, with the worst severity and the reason.
    pub wrong: Vec<(Severity, String)>,
    /// Set if the resource was exhausted.
    pub is_exhausted: bool,
    /// Length in days, up to the onset if the resource was exhausted.
    pub healthy_days: f64,
}

/// Score of all runs of a seed.
#[derive(Debug, Serialize)]
pub struct CountsReport {
    /// Seed.
    pub seed: u64,
    /// Share of exhausted resources that were claimed in time.
    pub in_time: f64,
    /// Share of those claimed of which the right user was named.
    pub culprits: f64,
    /// Wrong claims of any severity, and of a warning or more, in 1,000 host-days.
    pub wrong: [f64; 2],
    /// Runs.
    pub runs: Vec<CountRun>,
}

/// Scores all runs of a seed, on all processors through `each`.
pub fn score(
    seed: u64,
    each: impl Fn(usize, &(dyn Fn(usize) -> CountRun + Sync)) -> Vec<CountRun>,
) -> CountsReport {
    let runs_of_kind = 2 * RUNS_OF_EACH;
    let runs = each(KINDS.len() * runs_of_kind, &|place| {
        let (kind, number) = (&KINDS[place / runs_of_kind], place % runs_of_kind);
        let mut rng = Rng::new("counts", seed.wrapping_mul(1_000_003).wrapping_add(place as u64));
        let course = if number < RUNS_OF_EACH {
            exhausting::course(&mut rng, kind, number)
        } else {
            healthy::course(&mut rng, kind, number)
        };
        run(&course)
    });
    CountsReport::new(seed, runs)
}

fn run(course: &Course) -> CountRun {
    let info = HostInfo { mem_total_bytes: 16 << 30, cpus: 4 };
    let mut engine = Engine::new(&Config::default(), info);
    let is_exhausted = course.added.is_some();
    let mut outcome = CountRun {
        about: format!("{} of {}", course.kind.resource, course.kind.subject),
        shape: course.name,
        found_share: None,
        is_culprit_right: false,
        wrong: Vec::new(),
        is_exhausted,
        healthy_days: if is_exhausted { course.onset_t } else { course.lasts_secs } / DAY,
    };
    let mut t = 0.0;
    while t < course.lasts_secs {
        let host = HostFact { mem_available_bytes: 8 << 30, psi_memory_some_avg10: None };
        for fact in [Fact::Host(host), Fact::Count(course.fact(t))] {
            let verdicts = engine.apply(&Observation { t, fact }).verdicts;
            verdicts.iter().for_each(|verdict| outcome.take(course, verdict));
        }
        t += course.interval_secs;
    }
    outcome
}

impl CountRun {
    fn take(&mut self, course: &Course, verdict: &Verdict) {
        let Claim::Exhaustion(claim) = &verdict.claim else { return };
        let severity = verdict.harm.as_ref().map_or(Severity::Info, |harm| harm.severity);
        let (is_right, t) = (self.is_exhausted && verdict.t >= course.onset_t, verdict.t);
        match verdict.state {
            ClaimState::Raised if is_right && self.found_share.is_none() => {
                self.found_share = Some(course.taken(t));
                self.is_culprit_right = is_culprit(course, claim);
            }
            ClaimState::Raised if !is_right => self.wrong.push((severity, verdict.why.clone())),
            ClaimState::Updated if !is_right => {
                if let Some(last) = self.wrong.last_mut() {
                    last.0 = last.0.max(severity);
                }
            }
            _ => {}
        }
    }

    /// Returns whether it was claimed while there was time.
    pub fn is_in_time(&self) -> bool {
        self.found_share.is_some_and(|share| share <= IN_TIME_SHARE)
    }
}

fn is_culprit(course: &Course, claim: &ExhaustionClaim) -> bool {
    claim.culprit.as_ref().is_some_and(|culprit| *culprit.name == *course.kind.users[0])
}

impl CountsReport {
    fn new(seed: u64, runs: Vec<CountRun>) -> Self {
        let share = |part: usize, whole: usize| part as f64 / whole.max(1) as f64;
        let exhausted = || runs.iter().filter(|run| run.is_exhausted);
        let in_time = exhausted().filter(|run| run.is_in_time()).count();
        let found = exhausted().filter(|run| run.found_share.is_some()).count();
        let named = exhausted().filter(|run| run.is_culprit_right).count();
        let days: f64 = runs.iter().map(|run| run.healthy_days).sum();
        let wrong = [Severity::Info, Severity::Warning].map(|least| {
            let claims = runs.iter().flat_map(|run| &run.wrong);
            claims.filter(|(severity, _)| *severity >= least).count() as f64 / days * 1_000.0
        });
        let (in_time, culprits) = (share(in_time, exhausted().count()), share(named, found));
        Self { seed, in_time, culprits, wrong, runs }
    }

    /// Returns whether every target is met, or for false claims what was reached.
    pub fn met(&self) -> bool {
        self.in_time >= IN_TIME_MIN
            && self.culprits >= CULPRITS_MIN
            && self.wrong[0] <= FALSE_REACHED
    }

    /// Renders the report for a terminal.
    pub fn render(&self) -> String {
        let days: f64 = self.runs.iter().map(|run| run.healthy_days).sum();
        let mut text = format!(
            "counts: seed {}, {} runs, {days:.0} healthy host-days\n\
             claimed by a quarter of what was left   {:.3}  (target {IN_TIME_MIN})\n\
             right culprit                           {:.3}  (target {CULPRITS_MIN})\n\
             false claims in 1,000 host-days         {:.1}  (target {FALSE_MAX})\n\
             false warnings in 1,000 host-days       {:.1}\n\n",
            self.seed,
            self.runs.len(),
            self.in_time,
            self.culprits,
            self.wrong[0],
            self.wrong[1],
        );
        let mut groups: Vec<_> =
            self.runs.iter().map(|run| (run.is_exhausted, run.shape)).collect();
        groups.sort_unstable();
        groups.dedup();
        for (is_exhausted, shape) in groups {
            let of = || {
                self.runs
                    .iter()
                    .filter(move |run| run.is_exhausted == is_exhausted && run.shape == shape)
            };
            let wrong: usize = of().map(|run| run.wrong.len()).sum();
            // Writing to a String cannot fail.
            let _ = if is_exhausted {
                let found = of().filter(|run| run.is_in_time()).count();
                writeln!(
                    text,
                    "{shape:<14} {found:>3} of {:>3} in time, {wrong} false",
                    of().count()
                )
            } else {
                writeln!(text, "{shape:<14} {wrong:>3} false in {} runs", of().count())
            };
        }
        text
    }
}
