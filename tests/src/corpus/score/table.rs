//! Printed score of any corpus: figures with their intervals, the rules side by side, and the
//! families.

use std::fmt::Write as _;

use serde::Serialize;

use super::{
    stats::Figure,
    targets::{Row, Target},
};
use crate::corpus::manifest::Part;

/// Runs of one family.
#[derive(Debug, Clone, Serialize)]
pub struct FamilyRow {
    /// Name of the family.
    pub family: String,
    /// Runs that contain something to find.
    pub positives: usize,
    /// Number of runs.
    pub runs: usize,
    /// Per rule, runs in which it was found.
    pub found: Vec<usize>,
    /// Per rule, runs in which something healthy was claimed.
    pub wrong: Vec<usize>,
}

impl FamilyRow {
    /// Counts the runs of a family: per rule, those in which it found something, and those with a
    /// wrong claim. `runs` may contain other families.
    pub(crate) fn count<R>(
        (family, family_of): (&str, impl Fn(&R) -> &str),
        runs: &[&R],
        columns: usize,
        is_positive: impl Fn(&R) -> bool,
        found: impl Fn(&R, usize) -> bool,
        wrong: impl Fn(&R, usize) -> bool,
    ) -> Self {
        let own: Vec<&R> = runs.iter().copied().filter(|run| family_of(run) == family).collect();
        let count = |is: &dyn Fn(&R, usize) -> bool, rule: usize| {
            own.iter().filter(|run| is(run, rule)).count()
        };
        Self {
            family: family.to_owned(),
            positives: own.iter().filter(|run| is_positive(run)).count(),
            runs: own.len(),
            found: (0..columns).map(|rule| count(&found, rule)).collect(),
            wrong: (0..columns).map(|rule| count(&wrong, rule)).collect(),
        }
    }
}

/// Score of one part of a corpus, whose runs are `S`.
pub trait PartScore<S>: Serialize {
    /// Aggregates the runs of one part.
    fn new(part: Part, scored: &[S]) -> Self;

    /// Number of runs.
    fn runs(&self) -> usize;

    /// Figures of the score.
    fn rows(&self) -> &[Row];

    /// Renders the report for a terminal.
    fn render(&self) -> String;

    /// Returns true if the detector meets every target.
    fn met(&self) -> bool {
        self.rows().iter().all(|row| row.met() != Some(false))
    }
}

/// Report, ready to print.
pub(crate) struct Table<'a> {
    pub(crate) part: Part,
    /// Contents of the part.
    pub(crate) what: String,
    pub(crate) rules: &'a [&'static str],
    pub(crate) rows: &'a [Row],
    pub(crate) families: &'a [FamilyRow],
}

/// Describes the runs of a report about leaks.
pub(crate) fn counts(leaks: usize, healthy: usize, days: f64) -> String {
    format!("{leaks} leak runs, {healthy} healthy runs, {days:.0} healthy process-days")
}

impl Table<'_> {
    /// Renders the table for a terminal.
    pub(crate) fn render(&self) -> String {
        self.figures() + &self.by_family()
    }

    /// Renders the figures.
    pub(crate) fn figures(&self) -> String {
        let mut text = String::new();
        let part = match self.part {
            Part::Tuning => "tuning",
            Part::HeldOut => "held-out",
            Part::Broad => "broad",
            Part::Untellable => "untellable",
            Part::Independent => "independent",
            Part::Scenes => "scenes",
        };
        let _ = writeln!(text, "{part} part: {}\n", self.what);
        let _ = write!(text, "{:<36}", "");
        for (place, rule) in self.rules.iter().enumerate() {
            let _ = if place == 0 {
                write!(text, "{:>28}", format!("{rule} [95 % interval]"))
            } else {
                write!(text, "{rule:>14}")
            };
        }
        let _ = writeln!(text, "  {:>8}", "target");
        for row in self.rows {
            let _ = write!(text, "{:<36}", row.what);
            for (place, figure) in row.figures.iter().enumerate() {
                let _ = if place == 0 {
                    write!(text, "{:>28}", with_interval(figure))
                } else {
                    write!(text, "{:>14}", number(figure.value))
                };
            }
            let target = match row.target {
                Some(Target::AtLeast(least)) => format!("≥ {least}"),
                Some(Target::AtMost(most)) => format!("≤ {most}"),
                None => String::new(),
            };
            let met = row.met().map_or("", |met| if met { "met" } else { "missed" });
            let _ = writeln!(text, "  {target:>8}  {met}");
        }
        text
    }

    fn by_family(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(
            text,
            "\n{:<36}{:>6}  runs found and runs with a false alarm, by rule",
            "family", "runs"
        );
        for family in self.families {
            let _ = write!(text, "{:<36}{:>6}", family.family, family.runs);
            for (found, wrong) in family.found.iter().zip(&family.wrong) {
                let cell = if family.positives > 0 {
                    format!("{found} found, {wrong}")
                } else {
                    wrong.to_string()
                };
                let _ = write!(text, "{cell:>14}");
            }
            text.push('\n');
        }
        text
    }
}

fn with_interval(figure: &Figure) -> String {
    if figure.value.is_nan() {
        return "none".to_owned();
    }
    format!(
        "{} [{}, {}] n={}",
        number(figure.value),
        number(figure.low),
        number(figure.high),
        figure.n
    )
}

fn number(value: f64) -> String {
    match value {
        value if value.is_nan() => "none".to_owned(),
        value if value.abs() < 10.0 => format!("{value:.3}"),
        value => format!("{value:.0}"),
    }
}
