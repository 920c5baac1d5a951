//! The score: each rule over each run, its outcome, and the comparison with the targets.
//!
//! A claim is right if it is made in an overload or up to two seconds after it, tolerated in
//! another noticeable wait, and false otherwise. Precision and recall count runs; everything else
//! counts overloads. The target on time applies if the agent samples at least once a second: one
//! that samples every two has seen the condition once by then, or not at all.

use std::path::Path;

use anyhow::bail;
use serde::Serialize;
use spillway_agent::{
    config::Config,
    detect::{self, ClaimState},
    engine::{Engine, HostInfo, Output},
    sense::{Fact, Observation, RequestsFact},
};

use super::{families::FAMILIES, manifest::Entry, run::Stream, truth::Overload};
use crate::{
    corpus::{
        Part,
        score::{FamilyRow, Figure, PartScore, Row, Table, Target, quantile, rate, share},
    },
    queues::{plan::Scarce, rules::scarce},
};

/// Time after its end in which an overload may still be claimed: evidence is a second or two old.
const GRACE_SECS: f64 = 2.0;

/// A claim is in time within so long of the condition...
const IN_TIME_SECS: f64 = 2.0;

/// ...if samples are this far apart at most.
const LOOKS_SECS: f64 = 1.0;

/// A claim is withdrawn too early if requests wait for so long afterwards: those that an upstream
/// still has are old although it is well again.
const EARLY_SECS: f64 = 10.0;

/// Time in which a claim may say what is scarce.
const SAID_SECS: f64 = 5.0;

/// The usual alerts: the oldest request is so old, or so many are in flight, for so long.
const OLD_US: u64 = 1_000_000;
const MANY: u32 = 64;
const ALERT_SECS: f64 = 3.0;
const CLEAR_SECS: f64 = 5.0;

/// Family of all recorded runs.
pub const RECORDED: &str = "recorded";

const NAMES: [&str; 3] = ["spillway", "oldest > 1 s", "64 in flight"];

/// A claim.
#[derive(Debug, Clone)]
struct Claim {
    raised_secs: f64,
    cleared_secs: Option<f64>,
    scarce: Option<Scarce>,
    why: String,
}

/// A rule that is compared.
enum Rule {
    Detector(Box<Engine>, Output),
    Alert { holds: fn(&RequestsFact) -> bool, since: Option<f64>, held: f64 },
}

impl Rule {
    fn all(host: HostInfo) -> [Self; NAMES.len()] {
        let alert = |holds| Self::Alert { holds, since: None, held: 0.0 };
        [
            Self::Detector(Box::new(Engine::new(&Config::default(), host)), Output::default()),
            alert(|fact| fact.oldest_in_flight_us.unwrap_or(0) > OLD_US),
            alert(|fact| fact.in_flight > MANY),
        ]
    }

    fn observe(&mut self, observation: &Observation, addr: &str, claims: &mut Vec<Claim>) {
        let t = observation.t;
        let clear = |claims: &mut Vec<Claim>| {
            if let Some(claim) = claims.last_mut() {
                claim.cleared_secs.get_or_insert(t);
            }
        };
        match self {
            Self::Detector(engine, output) => {
                engine.apply_into(observation, output);
                output.decisions.clear();
                for verdict in output.verdicts.drain(..) {
                    let detect::Claim::Overload(claim) = verdict.claim else { continue };
                    if *claim.addr != *addr {
                        continue;
                    }
                    match verdict.state {
                        ClaimState::Raised => claims.push(Claim {
                            raised_secs: t,
                            cleared_secs: None,
                            scarce: claim.scarce.map(scarce),
                            why: verdict.why,
                        }),
                        // What it says after a moment counts.
                        ClaimState::Updated => {
                            if let (Some(last), Some(said)) = (claims.last_mut(), claim.scarce)
                                && t - last.raised_secs <= SAID_SECS
                            {
                                last.scarce = Some(scarce(said));
                            }
                        }
                        ClaimState::Cleared => clear(claims),
                    }
                }
            }
            Self::Alert { holds, since, held } => {
                let Fact::Requests(fact) = &observation.fact else { return };
                if *fact.addr != *addr {
                    return;
                }
                let is_open = claims.last().is_some_and(|claim| claim.cleared_secs.is_none());
                if holds(fact) {
                    *held = t;
                    if t - *since.get_or_insert(t) >= ALERT_SECS && !is_open {
                        claims.push(Claim {
                            raised_secs: t,
                            cleared_secs: None,
                            scarce: None,
                            why: String::new(),
                        });
                    }
                } else {
                    *since = None;
                    if is_open && t - *held >= CLEAR_SECS {
                        clear(claims);
                    }
                }
            }
        }
    }
}

/// Run with its outcome.
#[derive(Debug, Clone, Serialize)]
pub struct Scored {
    /// The run.
    #[serde(flatten)]
    pub entry: Entry,
    /// Days of it in which no request waited noticeably.
    pub healthy_days: f64,
    /// Outcome of each rule.
    pub outcomes: Vec<Outcome>,
}

/// Outcome of one rule on one run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Outcome {
    /// Each overload of the run in turn: whether and how it was claimed.
    pub found: Vec<Option<Found>>,
    /// Wrong claims, each with its time and sentence.
    pub false_alarms: Vec<(f64, String)>,
}

/// A right claim.
#[derive(Debug, Clone, Serialize)]
pub struct Found {
    /// Seconds from the condition; negative if it came before.
    pub after_condition_secs: f64,
    /// Seconds from the first noticeable wait.
    pub after_onset_secs: f64,
    /// Set if it was withdrawn while requests waited.
    pub is_cleared_early: bool,
    /// Set if it names the scarce resource rightly; `None` if it names none.
    pub scarce_is_right: Option<bool>,
    /// Sentence of the claim.
    pub why: String,
}

impl Outcome {
    fn new(entry: &Entry, claims: &[Claim]) -> Self {
        let within = |claim: &Claim, (from, to): (f64, f64)| {
            (from..=to + GRACE_SECS).contains(&claim.raised_secs)
        };
        let span = |overload: &Overload| (overload.onset_secs, overload.end_secs);
        let is_right =
            |claim: &Claim| entry.overloads.iter().any(|overload| within(claim, span(overload)));
        let find = |overload: &Overload| {
            let claim = claims.iter().find(|claim| {
                let cleared_secs = claim.cleared_secs.unwrap_or(f64::INFINITY);
                within(claim, span(overload))
                    || (claim.raised_secs..cleared_secs).contains(&overload.onset_secs)
            })?;
            Some(Found {
                after_condition_secs: claim.raised_secs - overload.condition_secs,
                after_onset_secs: (claim.raised_secs - overload.onset_secs).max(0.0),
                is_cleared_early: claim
                    .cleared_secs
                    .is_some_and(|cleared_secs| cleared_secs < overload.end_secs - EARLY_SECS),
                scarce_is_right: claim.scarce.map(|said| said == overload.scarce),
                why: claim.why.clone(),
            })
        };
        let is_false = |claim: &&Claim| {
            !is_right(claim) && !entry.tolerated.iter().any(|span| within(claim, *span))
        };
        Self {
            found: entry.overloads.iter().map(find).collect(),
            false_alarms: claims
                .iter()
                .filter(is_false)
                .map(|claim| (claim.raised_secs, claim.why.clone()))
                .collect(),
        }
    }

    fn found_all(&self) -> bool {
        !self.found.is_empty() && self.found.iter().all(Option::is_some)
    }
}

/// Runs every rule over a run.
///
/// # Errors
///
/// If the run cannot be made or read, or its simulation says something else than the manifest.
pub fn score_run(entry: &Entry, dir: &Path) -> anyhow::Result<Scored> {
    let mut stream = Stream::open(entry, dir)?;
    let mut rules = Rule::all(stream.host());
    let mut claims = vec![Vec::new(); rules.len()];
    for observation in stream.by_ref() {
        let observation = observation?;
        for (rule, claims) in rules.iter_mut().zip(&mut claims) {
            rule.observe(&observation, &entry.addr, claims);
        }
    }
    if stream.truth().is_some_and(|truth| truth != entry.overloads) {
        bail!(
            "its label is not what its simulation says\n  hint: run `cargo xtask corpus requests \
            write-manifest`"
        );
    }
    let waits: f64 = entry.tolerated.iter().map(|span| span.1 - span.0).sum();
    Ok(Scored {
        entry: entry.clone(),
        healthy_days: (entry.secs - waits) / 86_400.0,
        outcomes: claims.iter().map(|claims| Outcome::new(entry, claims)).collect(),
    })
}

/// The score of one part of the corpus.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Part of the corpus.
    pub part: Part,
    /// Number of runs.
    pub runs: usize,
    /// Number of runs with an overload.
    pub overloaded: usize,
    /// Days in which no request waited noticeably.
    pub healthy_days: f64,
    /// The figures.
    pub rows: Vec<Row>,
    /// Each family: its name, its runs, and by rule the runs found or wrongly claimed.
    pub families: Vec<FamilyRow>,
}

impl PartScore<Scored> for Report {
    fn new(part: Part, scored: &[Scored]) -> Self {
        let runs: Vec<&Scored> = scored.iter().filter(|run| run.entry.part == part).collect();
        let family = |name: &str| {
            FamilyRow::count(
                (name, |run: &Scored| run.entry.family.as_str()),
                &runs,
                NAMES.len(),
                |run| !run.entry.overloads.is_empty(),
                |run, rule| run.outcomes[rule].found_all(),
                |run, rule| !run.outcomes[rule].false_alarms.is_empty(),
            )
        };
        Self {
            part,
            runs: runs.len(),
            overloaded: runs.iter().filter(|run| !run.entry.overloads.is_empty()).count(),
            healthy_days: runs.iter().map(|run| run.healthy_days).sum(),
            rows: rows(&runs),
            families: FAMILIES
                .iter()
                .map(|one| one.name)
                .chain([RECORDED])
                .map(family)
                .filter(|family| family.runs > 0)
                .collect(),
        }
    }

    fn runs(&self) -> usize {
        self.runs
    }

    fn rows(&self) -> &[Row] {
        &self.rows
    }

    fn render(&self) -> String {
        let (overloaded, healthy) = (self.overloaded, self.runs - self.overloaded);
        let what = format!(
            "{overloaded} overloads, {healthy} healthy runs, {:.1} healthy listener-days",
            self.healthy_days
        );
        Table { part: self.part, what, rules: &NAMES, rows: &self.rows, families: &self.families }
            .render()
    }
}

/// One rule's outcome of each run.
type Pairs<'a> = [(&'a Scored, &'a Outcome)];

fn rows(scored: &[&Scored]) -> Vec<Row> {
    let row = |what, target, figure: &dyn Fn(&Pairs<'_>) -> Figure| {
        let figures = (0..NAMES.len()).map(|rule| {
            figure(&scored.iter().map(|run| (*run, &run.outcomes[rule])).collect::<Vec<_>>())
        });
        Row { what, figures: figures.collect(), target }
    };
    let found = |runs: &Pairs<'_>| -> Vec<Found> {
        runs.iter().flat_map(|(_, outcome)| outcome.found.iter().flatten().cloned()).collect()
    };
    // Missed overloads are late too.
    let in_time = |runs: &Pairs<'_>, often: bool| {
        let all: Vec<_> = runs
            .iter()
            .filter(|(run, _)| (run.entry.interval_secs <= LOOKS_SECS) == often)
            .flat_map(|(_, outcome)| &outcome.found)
            .collect();
        let is_in_time = |found: &&&Option<Found>| {
            found.as_ref().is_some_and(|found| found.after_condition_secs <= IN_TIME_SECS)
        };
        share(all.iter().filter(is_in_time).count(), all.len())
    };
    let delay = |values: &[f64], q: f64| quantile(values, q);
    vec![
        row("precision, by run", Some(Target::AtLeast(0.98)), &|runs| {
            let right = runs.iter().filter(|(_, outcome)| outcome.found_all()).count();
            let wrong = runs.iter().filter(|(_, outcome)| !outcome.false_alarms.is_empty());
            share(right, right + wrong.count())
        }),
        row("recall, by run", Some(Target::AtLeast(0.97)), &|runs| {
            let overloaded = || runs.iter().filter(|(run, _)| !run.entry.overloads.is_empty());
            share(
                overloaded().filter(|(_, outcome)| outcome.found_all()).count(),
                overloaded().count(),
            )
        }),
        row("within 2 s, looks up to 1 s apart", Some(Target::AtLeast(0.95)), &|runs| {
            in_time(runs, true)
        }),
        row("within 2 s, looks 2 s apart", None, &|runs| in_time(runs, false)),
        row("false alarms in 10 listener-days", None, &|runs| {
            let days: f64 = runs.iter().map(|(run, _)| run.healthy_days).sum();
            let alarms: usize = runs.iter().map(|(_, outcome)| outcome.false_alarms.len()).sum();
            rate(alarms as u64, days / 10.0)
        }),
        row("cleared while requests still waited", None, &|runs| {
            let all = found(runs);
            share(all.iter().filter(|found| found.is_cleared_early).count(), all.len())
        }),
        row("says rightly what is scarce", None, &|runs| {
            let said: Vec<bool> =
                found(runs).iter().filter_map(|found| found.scarce_is_right).collect();
            share(said.iter().filter(|right| **right).count(), said.len())
        }),
        row("median seconds from the condition", None, &|runs| {
            let all: Vec<_> = found(runs).iter().map(|found| found.after_condition_secs).collect();
            delay(&all, 0.5)
        }),
        row("95th percentile of them", None, &|runs| {
            let all: Vec<_> = found(runs).iter().map(|found| found.after_condition_secs).collect();
            delay(&all, 0.95)
        }),
        row("median seconds from the onset", None, &|runs| {
            let all: Vec<_> = found(runs).iter().map(|found| found.after_onset_secs).collect();
            delay(&all, 0.5)
        }),
    ]
}
