//! Judgement of one run: which overloads each rule claimed, when, and what it claimed wrongly.
//!
//! A claim is right if it is made between the onset of an overload of the run's address and a
//! second after its end, because a reading may be late, and neither right nor wrong while connections
//! wait nearly as long. Any other claim is false, however near. An overload that begins while a right claim about an earlier one is still active counts as claimed.

use std::path::Path;

use anyhow::bail;
use serde::Serialize;
use spillway_agent::sense::{Fact, Observation};

use super::super::{
    manifest::Entry,
    rules::{Claim, rules},
    run::Stream,
    truth::{Kind, Overload},
};
use crate::corpus::Compared;

/// Time after its end in which an overload may still be claimed.
const GRACE_SECS: f64 = 1.0;

/// Connections that must wait for a stopped acceptor to be harmful, or their total waiting time: a
/// slow request causes fewer.
const HARMED: u32 = 4;
const HARMED_SECS: f64 = 6.0;

/// Run with its outcomes.
#[derive(Debug, Clone, Serialize)]
pub struct Scored {
    /// Entry in the manifest.
    #[serde(flatten)]
    pub entry: Entry,
    /// Days in which its address was not overloaded.
    pub healthy_days: f64,
    /// Outcome of each rule, in the order of [`rules`].
    pub outcomes: Vec<Outcome>,
}

/// Outcome of one rule on one run.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Outcome {
    /// Name of the rule.
    pub rule: &'static str,
    /// Claim on each overload of the run, in order.
    pub found: Vec<Option<Found>>,
    /// Number of wrong claims.
    pub false_alarms: u64,
    /// First wrong claim: time and explanation.
    pub first_false_alarm: Option<(f64, String)>,
}

/// Right claim.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Found {
    /// Seconds since the onset.
    pub after_secs: f64,
    /// True if it came before the first drop; `None` if nothing was dropped.
    pub before_overflow: Option<bool>,
    /// Seconds since a stopped acceptor became harmful; `None` if it did not stop.
    pub after_stop_secs: Option<f64>,
    /// True if it names the scarce resource correctly; `None` if either is unknown.
    pub scarce_is_right: Option<bool>,
    /// Explanation by the rule.
    pub why: String,
}

impl Outcome {
    /// Compares the claims of a rule with the truth. `harmed_secs` is when each overload of a
    /// stopped acceptor became harmful.
    pub(super) fn new(
        rule: &'static str,
        claims: &[Claim],
        entry: &Entry,
        harmed_secs: &[Option<f64>],
    ) -> Self {
        let rightly = |claim: &Claim, overload: &Overload| {
            let span = overload.onset_secs..=overload.end_secs + GRACE_SECS;
            claim.addr == entry.addr && span.contains(&claim.raised_secs)
        };
        let right =
            |claim: &&Claim| entry.overloads.iter().any(|overload| rightly(claim, overload));
        let find = |(overload, harmed_secs): (&Overload, &Option<f64>)| {
            let counts = |claim: &&Claim| {
                let cleared = claim.cleared_secs.unwrap_or(f64::INFINITY);
                rightly(claim, overload)
                    || (right(claim) && (claim.raised_secs..cleared).contains(&overload.onset_secs))
            };
            let claim = claims.iter().find(counts)?;
            let since = |then: f64| (claim.raised_secs - then).max(0.0);
            Some(Found {
                after_secs: since(overload.onset_secs),
                before_overflow: overload
                    .overflow_secs
                    .map(|overflow| claim.raised_secs <= overflow),
                after_stop_secs: harmed_secs.map(since),
                scarce_is_right: claim.scarce.zip(overload.scarce).map(|(said, is)| said == is),
                why: claim.why.clone(),
            })
        };
        let tolerated = |claim: &Claim| {
            let within =
                |span: &(f64, f64)| (span.0..=span.1 + GRACE_SECS).contains(&claim.raised_secs);
            claim.addr == entry.addr && entry.tolerated.iter().any(within)
        };
        let wrong: Vec<_> =
            claims.iter().filter(|claim| !right(claim) && !tolerated(claim)).collect();
        Self {
            rule,
            found: entry.overloads.iter().zip(harmed_secs).map(find).collect(),
            false_alarms: wrong.len() as u64,
            first_false_alarm: wrong.first().map(|claim| (claim.raised_secs, claim.why.clone())),
        }
    }

    /// Returns true if every overload of the run was claimed; false for a healthy run.
    pub(super) fn found_all(&self) -> bool {
        !self.found.is_empty() && self.found.iter().all(Option::is_some)
    }
}

/// Pairs of an overload and one rule's claim on it.
pub(super) fn overloads<'a>(
    entry: &'a Entry,
    outcome: &'a Outcome,
) -> impl Iterator<Item = (&'a Overload, Option<&'a Found>)> {
    entry.overloads.iter().zip(outcome.found.iter().map(Option::as_ref))
}

/// Time from the onset to the first drop; `None` if nothing was dropped, or if the overload
/// consists of drops.
pub(super) fn warning_secs(overload: &Overload) -> Option<f64> {
    overload
        .overflow_secs
        .filter(|_| overload.kind != Kind::Drops)
        .map(|overflow| overflow - overload.onset_secs)
}

/// Records when a stopped acceptor first keeps enough connections waiting.
fn note_harm(observation: &Observation, entry: &Entry, harmed_secs: &mut [Option<f64>]) {
    let Fact::Listener(fact) = &observation.fact else { return };
    let waited_secs = f64::from(fact.backlog) * fact.oldest_wait_us.unwrap_or(0) as f64 / 1e6;
    if *fact.addr != *entry.addr || (fact.backlog < HARMED && waited_secs < HARMED_SECS) {
        return;
    }
    for (overload, harmed_secs) in entry.overloads.iter().zip(harmed_secs) {
        if overload
            .stopped_secs
            .is_some_and(|stopped_secs| (stopped_secs..=overload.end_secs).contains(&observation.t))
        {
            harmed_secs.get_or_insert(observation.t);
        }
    }
}

/// Runs the compared rules over a run; `dir` is the corpus's directory.
///
/// # Errors
///
/// Returns an error if the run cannot be generated or read, or if its simulation disagrees with the
/// manifest.
pub fn score_run(entry: &Entry, dir: &Path, compared: Compared) -> anyhow::Result<Scored> {
    let mut stream = Stream::open(entry, dir)?;
    let mut rules = rules(stream.host(), compared);
    let mut claims = vec![Vec::new(); rules.len()];
    let mut harmed_secs = vec![None; entry.overloads.len()];
    for observation in stream.by_ref() {
        let observation = observation?;
        note_harm(&observation, entry, &mut harmed_secs);
        for ((_, rule), claims) in rules.iter_mut().zip(&mut claims) {
            rule.observe(&observation, claims);
        }
    }
    if stream.truth().is_some_and(|truth| truth != entry.overloads) {
        bail!(
            "its label differs from its simulation\n  hint: run `cargo xtask corpus queues \
            write-manifest`"
        );
    }
    let overloaded: f64 =
        entry.overloads.iter().map(|overload| overload.end_secs - overload.onset_secs).sum();
    Ok(Scored {
        entry: entry.clone(),
        healthy_days: (entry.secs - overloaded) / 86_400.0,
        outcomes: rules
            .iter()
            .zip(&claims)
            .map(|((rule, _), claims)| Outcome::new(rule, claims, entry, &harmed_secs))
            .collect(),
    })
}
