//! Targets of the detector on the held-out part, and how each figure is counted.
//!
//! Precision and recall count runs: a run with any false claim is a false positive, and a leak run
//! may both be found and have a false claim. Deadlines require 95 of 100 leaks of constant rate in
//! a single process, each at its rate or faster. A missed leak has used all of its headroom.
//! Forecasts are judged if the truth is known.

use serde::Serialize;
use spillway_agent::detect::Severity;

use super::{
    judge::{Outcome, Scored},
    stats::{Figure, median, rate, share},
};
use crate::corpus::{curve::DAY, manifest::Label};

/// Share of leaks that must meet a deadline. A guess at the meaning of "within" for many runs; the
/// same as recall.
const WITHIN: f64 = 0.95;

/// Minimum rate of each deadline in bytes per second (slightly lower, for rounding) and the
/// deadline in seconds.
const DEADLINES: [(&str, f64, f64); 3] = [
    ("1 MB/s and more within 60 s", 1e6, 60.0),
    ("100 KB/s to 1 MB/s within 10 min", 1e5, 600.0),
    ("64 MB/day to 100 KB/s within 24 h", 64e6 / DAY, DAY),
];

/// Families with straight-line leaks in one process.
const STRAIGHT: [&str; 2] = ["constant-leak", "late-leak"];

/// Figure and its target.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Name of the figure.
    pub what: &'static str,
    /// Figure of each rule.
    pub figures: Vec<Figure>,
    /// Lower or upper bound required of the detector.
    pub target: Option<Target>,
}

/// Required bound of a figure.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Lower bound.
    AtLeast(f64),
    /// Upper bound.
    AtMost(f64),
}

impl Row {
    /// Returns true if the detector, which is the first rule, meets the target; NaN does not.
    pub fn met(&self) -> Option<bool> {
        let value = self.figures.first()?.value;
        Some(match self.target? {
            Target::AtLeast(least) => value >= least,
            Target::AtMost(most) => value <= most,
        })
    }
}

/// Outcome of one rule in each run.
type Pairs<'a> = [(&'a Scored, &'a Outcome)];

/// Rows of the report over some runs with deadlines of their own.
pub(super) fn rows_of_broad(scored: &[&Scored], rules: usize) -> Vec<Row> {
    let days: f64 = scored.iter().map(|run| run.healthy_process_days).sum();
    let row = |what, target, figure: &dyn Fn(&Pairs<'_>) -> Figure| {
        let figures = (0..rules).map(|rule| {
            figure(&scored.iter().map(|run| (*run, &run.outcomes[rule])).collect::<Vec<_>>())
        });
        Row { what, figures: figures.collect(), target: Some(target) }
    };
    let precision = |runs: &Pairs<'_>, right: fn(&Outcome) -> bool, wrong: fn(&Outcome) -> bool| {
        let count = |is: fn(&Outcome) -> bool| runs.iter().filter(|(_, one)| is(one)).count();
        share(count(right), count(right) + count(wrong))
    };
    let is_severe = |outcome: &Outcome| outcome.severity > Some(Severity::Info);
    vec![
        row("precision of warning and critical", Target::AtLeast(0.99), &|runs| {
            precision(runs, is_severe, |outcome| outcome.false_severe_days > 0)
        }),
        row("precision of all, by run", Target::AtLeast(0.97), &|runs| {
            precision(
                runs,
                |outcome| outcome.detection.is_some(),
                |outcome| outcome.false_alarm_days > 0,
            )
        }),
        row("recall in time, by run", Target::AtLeast(0.97), &|runs| {
            let leaks = || runs.iter().filter(|(run, _)| run.entry.label == Label::Leak);
            let in_time = leaks().filter(|(run, outcome)| is_in_time(run, outcome)).count();
            share(in_time, leaks().count())
        }),
        row("false and paged in 1,000 process-days", Target::AtMost(1.0), &|runs| {
            let wrong = runs.iter().map(|(_, outcome)| outcome.false_severe_days).sum();
            rate(wrong, days / 1_000.0)
        }),
        row("false alarms in 1,000 process-days", Target::AtMost(3.0), &|runs| {
            let wrong = runs.iter().map(|(_, outcome)| outcome.false_alarm_days).sum();
            rate(wrong, days / 1_000.0)
        }),
    ]
}

/// Returns whether a leak was found by the time at which it was due, or at all if it has none.
pub(super) fn is_in_time(run: &Scored, outcome: &Outcome) -> bool {
    let start = run.entry.leak_start_secs.unwrap_or(0.0);
    let within = run.entry.due_secs.map_or(f64::INFINITY, |due| due - start);
    outcome.detection.is_some_and(|found| found.after_secs <= within)
}

/// Rows of the report over some runs.
pub(super) fn rows(scored: &[&Scored], rules: usize) -> Vec<Row> {
    let row = |what, target, figure: &dyn Fn(&Pairs<'_>) -> Figure| {
        let figures = (0..rules).map(|rule| {
            figure(&scored.iter().map(|run| (*run, &run.outcomes[rule])).collect::<Vec<_>>())
        });
        Row { what, figures: figures.collect(), target }
    };
    let is_leak = |run: &Scored| run.entry.label == Label::Leak;
    let mut rows = vec![
        row("precision, by run", Some(Target::AtLeast(0.97)), &|runs| {
            let right = runs.iter().filter(|(_, outcome)| outcome.detection.is_some()).count();
            share(
                right,
                right + runs.iter().filter(|(_, outcome)| outcome.false_alarm_days > 0).count(),
            )
        }),
        row("recall, by run", Some(Target::AtLeast(0.95)), &|runs| {
            let leaks = || runs.iter().filter(|(run, _)| is_leak(run));
            share(
                leaks().filter(|(_, outcome)| outcome.detection.is_some()).count(),
                leaks().count(),
            )
        }),
        row("false alarms in 1,000 process-days", Some(Target::AtMost(1.0)), &|runs| {
            let days: f64 = runs.iter().map(|(run, _)| run.healthy_process_days).sum();
            rate(runs.iter().map(|(_, outcome)| outcome.false_alarm_days).sum(), days / 1_000.0)
        }),
    ];
    for (place, (what, from, within)) in DEADLINES.into_iter().enumerate() {
        let below = if place == 0 { f64::INFINITY } else { DEADLINES[place - 1].1 };
        rows.push(row(what, Some(Target::AtLeast(WITHIN)), &|runs| {
            let class = || {
                runs.iter().filter(|(run, _)| {
                    let rate = run.entry.leak_bytes_per_sec.unwrap_or(0.0).round();
                    let straight = STRAIGHT.iter().any(|name| run.entry.family.starts_with(name));
                    straight && is_leak(run) && rate >= from.floor() && rate < below.floor()
                })
            };
            let in_time = |outcome: &Outcome| {
                outcome.detection.is_some_and(|found| found.after_secs <= within)
            };
            share(class().filter(|(_, outcome)| in_time(outcome)).count(), class().count())
        }));
    }
    rows.push(row("flagged before 25 % of headroom", Some(Target::AtLeast(0.95)), &|runs| {
        let leaks = || runs.iter().filter(|(run, _)| is_leak(run));
        let early =
            |outcome: &Outcome| outcome.detection.is_some_and(|found| found.headroom_used <= 0.25);
        share(leaks().filter(|(_, outcome)| early(outcome)).count(), leaks().count())
    }));
    rows.push(row("median error of time to exhaustion", Some(Target::AtMost(0.15)), &|runs| {
        let errors = runs.iter().filter_map(|(_, outcome)| outcome.detection?.forecast_error);
        median(&errors.collect::<Vec<_>>())
    }));
    rows.push(row("forecast intervals that hold the truth", None, &|runs| {
        let held: Vec<bool> =
            runs.iter().filter_map(|(_, outcome)| outcome.detection?.interval_holds).collect();
        share(held.iter().filter(|held| **held).count(), held.len())
    }));
    rows.push(row("median headroom used when flagged", None, &|runs| {
        let used = runs.iter().filter_map(|(_, outcome)| Some(outcome.detection?.headroom_used));
        median(&used.collect::<Vec<_>>())
    }));
    rows.push(row("median seconds to detection", None, &|runs| {
        let after = runs.iter().filter_map(|(_, outcome)| Some(outcome.detection?.after_secs));
        median(&after.collect::<Vec<_>>())
    }));
    rows
}
