//! Layout of a score: the targets, the rules side by side, and each family.

use serde::Serialize;

use super::{
    super::{families::FAMILIES, rules::COLUMNS},
    judge::Scored,
    targets::rows,
};
use crate::corpus::{
    Part,
    score::{FamilyRow, Row, Table},
};

/// Score of one part of the corpus.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Part of the corpus.
    pub part: Part,
    /// Number of runs.
    pub runs: usize,
    /// Number of runs with an overload.
    pub overloaded: usize,
    /// Days in which an address was watched while not overloaded.
    pub healthy_days: f64,
    /// Names of the rules, by column.
    pub rules: Vec<&'static str>,
    /// Figures of the score.
    pub rows: Vec<Row>,
    /// Families: name, number of runs, and per rule the runs found or wrongly claimed.
    pub families: Vec<FamilyRow>,
}

impl Report {
    /// Aggregates the runs of one part.
    pub fn new(part: Part, scored: &[Scored]) -> Self {
        let runs: Vec<&Scored> = scored.iter().filter(|run| run.entry.part == part).collect();
        let mut names: Vec<&str> = runs.iter().map(|run| run.entry.family.as_str()).collect();
        names.sort_by_key(|name| {
            FAMILIES.iter().position(|family| family.name == *name).unwrap_or(usize::MAX)
        });
        names.dedup();
        let family = |name: &str| {
            let own: Vec<_> = runs.iter().filter(|run| run.entry.family == name).collect();
            let count = |rule: usize, is: &dyn Fn(&super::judge::Outcome) -> bool| {
                own.iter().filter(|run| is(&run.outcomes[rule])).count()
            };
            FamilyRow {
                family: name.to_owned(),
                positives: own.iter().filter(|run| !run.entry.overloads.is_empty()).count(),
                runs: own.len(),
                found: (0..COLUMNS)
                    .map(|rule| count(rule, &|outcome| outcome.found_all()))
                    .collect(),
                wrong: (0..COLUMNS)
                    .map(|rule| count(rule, &|outcome| outcome.false_alarms > 0))
                    .collect(),
            }
        };
        Self {
            part,
            runs: runs.len(),
            overloaded: runs.iter().filter(|run| !run.entry.overloads.is_empty()).count(),
            healthy_days: runs.iter().map(|run| run.healthy_days).sum(),
            rules: runs.first().map_or(Vec::new(), |run| {
                run.outcomes.iter().map(|outcome| outcome.rule).collect()
            }),
            rows: rows(&runs, COLUMNS),
            families: names.into_iter().map(family).collect(),
        }
    }

    /// Returns true if the detector meets every target.
    pub fn met(&self) -> bool {
        self.rows.iter().all(|row| row.met() != Some(false))
    }

    /// Renders the report for a terminal.
    pub fn render(&self) -> String {
        let (overloaded, healthy) = (self.overloaded, self.runs - self.overloaded);
        let what = format!(
            "{overloaded} overloads, {healthy} healthy runs, {:.1} healthy listener-days",
            self.healthy_days
        );
        Table {
            part: self.part,
            what,
            rules: &self.rules,
            rows: &self.rows,
            families: &self.families,
        }
        .render()
    }
}
