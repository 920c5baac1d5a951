//! Layout of a score: the targets, the rules side by side, and each family.

use serde::Serialize;

use super::{super::families::FAMILIES, judge::Scored, targets::rows};
use crate::corpus::{
    Part,
    score::{FamilyRow, PartScore, Row, Table},
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

impl PartScore<Scored> for Report {
    fn new(part: Part, scored: &[Scored]) -> Self {
        let runs: Vec<&Scored> = scored.iter().filter(|run| run.entry.part == part).collect();
        let mut names: Vec<&str> = runs.iter().map(|run| run.entry.family.as_str()).collect();
        names.sort_by_key(|name| {
            FAMILIES.iter().position(|family| family.name == *name).unwrap_or(usize::MAX)
        });
        names.dedup();
        let rules: Vec<_> = runs
            .first()
            .map_or(Vec::new(), |run| run.outcomes.iter().map(|outcome| outcome.rule).collect());
        let family = |name: &str| {
            FamilyRow::count(
                (name, |run: &Scored| run.entry.family.as_str()),
                &runs,
                rules.len(),
                |run| !run.entry.overloads.is_empty(),
                |run, rule| run.outcomes[rule].found_all(),
                |run, rule| run.outcomes[rule].false_alarms > 0,
            )
        };
        Self {
            part,
            runs: runs.len(),
            overloaded: runs.iter().filter(|run| !run.entry.overloads.is_empty()).count(),
            healthy_days: runs.iter().map(|run| run.healthy_days).sum(),
            rows: rows(&runs, rules.len()),
            families: names.into_iter().map(family).collect(),
            rules,
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
