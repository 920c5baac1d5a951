//! Layout of a score: the targets, the rules side by side, and each family.

use serde::Serialize;

use super::{
    judge::Scored,
    table::{FamilyRow, PartScore, Table, counts},
    targets::{Row, is_in_time, rows, rows_of_broad},
};
use crate::corpus::{
    families::FAMILIES,
    manifest::{Label, Part},
};

/// Score of one part of the corpus.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Part of the corpus.
    pub part: Part,
    /// Number of runs.
    pub runs: usize,
    /// Number of runs with a leak.
    pub leaks: usize,
    /// Process-days of healthy processes.
    pub healthy_process_days: f64,
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
        Self {
            part,
            runs: runs.len(),
            leaks: runs.iter().filter(|run| run.entry.label == Label::Leak).count(),
            healthy_process_days: runs.iter().map(|run| run.healthy_process_days).sum(),
            rows: if part == Part::Broad {
                rows_of_broad(&runs, rules.len())
            } else {
                rows(&runs, rules.len())
            },
            families: names.into_iter().map(|name| family(name, &runs, rules.len())).collect(),
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
        let what = counts(self.leaks, self.runs - self.leaks, self.healthy_process_days);
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

fn family(name: &str, runs: &[&Scored], rules: usize) -> FamilyRow {
    FamilyRow::count(
        (name, |run: &Scored| run.entry.family.as_str()),
        runs,
        rules,
        |run| run.entry.label == Label::Leak,
        |run, rule| is_in_time(run, &run.outcomes[rule]),
        |run, rule| run.outcomes[rule].false_alarm_days > 0,
    )
}
