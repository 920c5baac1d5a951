//! What a score looks like: the targets, the rules beside each other, and each family by itself.

use serde::Serialize;

use super::{
    judge::Scored,
    table::{FamilyRow, Table},
    targets::{Row, rows},
};
use crate::corpus::{
    baselines::COLUMNS,
    families::FAMILIES,
    manifest::{Label, Part},
};

/// The score of one part of the corpus.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Which part.
    pub part: Part,
    /// How many runs, and how many of them leak.
    pub runs: usize,
    /// Those that leak.
    pub leaks: usize,
    /// Days of healthy processes watched.
    pub healthy_process_days: f64,
    /// The rules' names, by column.
    pub rules: Vec<&'static str>,
    /// The figures.
    pub rows: Vec<Row>,
    /// Each family: its name, its runs, and by rule the runs found or wrongly claimed.
    pub families: Vec<FamilyRow>,
}

impl Report {
    /// Adds up the runs of one part.
    pub fn new(part: Part, scored: &[Scored]) -> Self {
        let runs: Vec<&Scored> = scored.iter().filter(|run| run.entry.part == part).collect();
        let mut names: Vec<&str> = runs.iter().map(|run| run.entry.family.as_str()).collect();
        names.sort_by_key(|name| {
            FAMILIES.iter().position(|family| family.name == *name).unwrap_or(usize::MAX)
        });
        names.dedup();
        Self {
            part,
            runs: runs.len(),
            leaks: runs.iter().filter(|run| run.entry.label == Label::Leak).count(),
            healthy_process_days: runs.iter().map(|run| run.healthy_process_days).sum(),
            rules: runs.first().map_or(Vec::new(), |run| {
                run.outcomes.iter().map(|outcome| outcome.rule).collect()
            }),
            rows: rows(&runs, COLUMNS),
            families: names.into_iter().map(|name| family(name, &runs)).collect(),
        }
    }

    /// Whether the detector meets every target.
    pub fn met(&self) -> bool {
        self.rows.iter().all(|row| row.met() != Some(false))
    }

    /// For a terminal.
    pub fn render(&self) -> String {
        let (leaks, healthy, days) =
            (self.leaks, self.runs - self.leaks, self.healthy_process_days);
        let what =
            format!("{leaks} leak runs, {healthy} healthy runs, {days:.0} healthy process-days");
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

fn family(name: &str, runs: &[&Scored]) -> FamilyRow {
    let own: Vec<_> = runs.iter().filter(|run| run.entry.family == name).collect();
    let found =
        |rule: usize| own.iter().filter(|run| run.outcomes[rule].detection.is_some()).count();
    let wrong =
        |rule: usize| own.iter().filter(|run| run.outcomes[rule].false_alarm_days > 0).count();
    FamilyRow {
        family: name.to_owned(),
        positives: own.iter().filter(|run| run.entry.label == Label::Leak).count(),
        runs: own.len(),
        found: (0..COLUMNS).map(found).collect(),
        wrong: (0..COLUMNS).map(wrong).collect(),
    }
}
