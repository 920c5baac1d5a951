//! Targets of the detector on the held-out part, and how each figure is counted.
//!
//! Precision and recall count runs: a run with any false claim is a false positive, a run is found
//! if each of its overloads is claimed, and a run may be both. Everything else counts overloads.
//! Those that drop a connection within 300 ms of their onset cannot be detected before that at ten
//! readings a second: they count for recall, and separately.

use super::{
    super::truth::{Kind, Overload},
    judge::{Found, Outcome, Scored, overloads, warning_secs},
};
use crate::corpus::score::{Figure, Row, Target, quantile, rate, share};

/// Minimum time before a drop in which an overload can be detected: three readings.
const WARNING_SECS: f64 = 0.3;

/// Time within which a stopped acceptor must be claimed after it becomes harmful: four connections
/// wait, or fewer for six seconds in total.
const STOP_CLAIMED_SECS: f64 = 1.0;

/// Healthy days in which one false alarm is acceptable.
const DAYS: f64 = 10.0;

/// Outcome of one rule in each run.
type Pairs<'a> = [(&'a Scored, &'a Outcome)];

/// Rows of the report over some runs.
pub(super) fn rows(scored: &[&Scored], rules: usize) -> Vec<Row> {
    let row = |what, target, figure: &dyn Fn(&Pairs<'_>) -> Figure| {
        let figures = (0..rules).map(|rule| {
            figure(&scored.iter().map(|run| (*run, &run.outcomes[rule])).collect::<Vec<_>>())
        });
        Row { what, figures: figures.collect(), target }
    };
    // Share of the claimed overloads of some kind for which a condition is true.
    let claimed =
        |runs: &Pairs<'_>, of: &dyn Fn(&Overload) -> bool, is: &dyn Fn(&Found) -> bool| {
            let all: Vec<_> =
                runs.iter().flat_map(|(run, outcome)| overloads(&run.entry, outcome)).collect();
            let of: Vec<_> = all.into_iter().filter(|(overload, _)| of(overload)).collect();
            share(of.iter().filter(|(_, found)| found.is_some_and(is)).count(), of.len())
        };
    let warned =
        |overload: &Overload| warning_secs(overload).is_some_and(|secs| secs >= WARNING_SECS);
    let untellable =
        |overload: &Overload| warning_secs(overload).is_some_and(|secs| secs < WARNING_SECS);
    let delay = |runs: &Pairs<'_>, q: f64| {
        let all = runs.iter().flat_map(|(run, outcome)| overloads(&run.entry, outcome));
        quantile(&all.filter_map(|(_, found)| Some(found?.after_secs)).collect::<Vec<_>>(), q)
    };
    vec![
        row("precision, by run", Some(Target::AtLeast(0.98)), &|runs| {
            let right = runs.iter().filter(|(_, outcome)| outcome.found_all()).count();
            share(
                right,
                right + runs.iter().filter(|(_, outcome)| outcome.false_alarms > 0).count(),
            )
        }),
        row("recall, by run", Some(Target::AtLeast(0.97)), &|runs| {
            let overloaded = || runs.iter().filter(|(run, _)| !run.entry.overloads.is_empty());
            share(
                overloaded().filter(|(_, outcome)| outcome.found_all()).count(),
                overloaded().count(),
            )
        }),
        row("false alarms in 10 listener-days", Some(Target::AtMost(2.0)), &|runs| {
            let days: f64 = runs.iter().map(|(run, _)| run.healthy_days).sum();
            rate(runs.iter().map(|(_, outcome)| outcome.false_alarms).sum(), days / DAYS)
        }),
        row("claimed before the first drop", Some(Target::AtLeast(0.90)), &|runs| {
            claimed(runs, &warned, &|found| found.before_overflow == Some(true))
        }),
        row("stopped: claimed within 1 s", Some(Target::AtLeast(1.0)), &|runs| {
            let in_time =
                |found: &Found| found.after_stop_secs.is_some_and(|secs| secs <= STOP_CLAIMED_SECS);
            // An overload that ends before it does harm needs no claim.
            let harmed = |found: &Found| found.after_stop_secs.is_some();
            let all = runs.iter().flat_map(|(run, outcome)| overloads(&run.entry, outcome));
            let stopped: Vec<_> =
                all.filter(|(overload, _)| overload.stopped_secs.is_some()).collect();
            let found = || stopped.iter().filter_map(|(_, found)| *found);
            let missed = stopped.iter().filter(|(_, found)| found.is_none()).count();
            share(
                found().filter(|found| in_time(found)).count(),
                found().filter(|found| harmed(found)).count() + missed,
            )
        }),
        row("drop within 300 ms: claimed at all", None, &|runs| {
            claimed(runs, &untellable, &|_| true)
        }),
        row("drops of a short queue: claimed", None, &|runs| {
            claimed(runs, &|overload| overload.kind == Kind::Drops, &|_| true)
        }),
        row("says rightly what is scarce", None, &|runs| {
            let all = runs.iter().flat_map(|(run, outcome)| overloads(&run.entry, outcome));
            let said: Vec<bool> = all.filter_map(|(_, found)| found?.scarce_is_right).collect();
            share(said.iter().filter(|right| **right).count(), said.len())
        }),
        row("median seconds from onset", None, &|runs| delay(runs, 0.5)),
        row("95th percentile of them", None, &|runs| delay(runs, 0.95)),
    ]
}
