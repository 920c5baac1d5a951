//! What a score looks like: the targets, the rules beside each other, and each family by itself.

use std::fmt::Write as _;

use serde::Serialize;

use super::{
    judge::Scored,
    stats::Figure,
    targets::{Row, Target, rows},
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

/// One family's runs.
#[derive(Debug, Clone, Serialize)]
pub struct FamilyRow {
    /// Its name.
    pub family: String,
    /// Whether its subjects leak.
    pub label: Label,
    /// How many runs.
    pub runs: usize,
    /// By rule, runs in which the leak was found.
    pub found: Vec<usize>,
    /// By rule, runs in which something healthy was claimed.
    pub wrong: Vec<usize>,
}

impl Report {
    /// Adds up the runs of one part.
    pub fn new(part: Part, scored: &[Scored]) -> Self {
        let runs: Vec<&Scored> = scored.iter().filter(|run| run.entry.part == part).collect();
        let mut names: Vec<&str> = runs.iter().map(|run| run.entry.family.as_str()).collect();
        names.sort_by_key(|name| FAMILIES.iter().position(|family| family.name == *name).unwrap_or(usize::MAX));
        names.dedup();
        Self {
            part,
            runs: runs.len(),
            leaks: runs.iter().filter(|run| run.entry.label == Label::Leak).count(),
            healthy_process_days: runs.iter().map(|run| run.healthy_process_days).sum(),
            rules: runs.first().map_or(Vec::new(), |run| run.outcomes.iter().map(|outcome| outcome.rule).collect()),
            rows: rows(&runs, COLUMNS),
            families: names.into_iter().map(|name| FamilyRow::new(name, &runs)).collect(),
        }
    }

    /// Whether the detector meets every target.
    pub fn met(&self) -> bool {
        self.rows.iter().all(|row| row.met() != Some(false))
    }

    /// For a terminal.
    pub fn render(&self) -> String {
        let mut text = String::new();
        let part = match self.part {
            Part::Tuning => "tuning",
            Part::HeldOut => "held-out",
            Part::Untellable => "untellable",
        };
        let (leaks, healthy, days) = (self.leaks, self.runs - self.leaks, self.healthy_process_days);
        let _ =
            writeln!(text, "{part} part: {leaks} leak runs, {healthy} healthy runs, {days:.0} healthy process-days\n");
        let _ = write!(text, "{:<36}", "");
        for (place, rule) in self.rules.iter().enumerate() {
            let _ = if place == 0 {
                write!(text, "{:>28}", format!("{rule} [95 % interval]"))
            } else {
                write!(text, "{rule:>14}")
            };
        }
        let _ = writeln!(text, "  {:>8}", "target");
        for row in &self.rows {
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
        let _ =
            writeln!(text, "\n{:<36}{:>6}  runs found (leaks) and runs with a false alarm, by rule", "family", "runs");
        for family in &self.families {
            let _ = write!(text, "{:<36}{:>6}", family.family, family.runs);
            for (found, wrong) in family.found.iter().zip(&family.wrong) {
                let cell = match family.label {
                    Label::Leak => format!("{found} found, {wrong}"),
                    Label::Healthy => wrong.to_string(),
                };
                let _ = write!(text, "{cell:>14}");
            }
            text.push('\n');
        }
        text
    }
}

impl FamilyRow {
    fn new(name: &str, runs: &[&Scored]) -> Self {
        let own: Vec<_> = runs.iter().filter(|run| run.entry.family == name).collect();
        let label = if own.iter().any(|run| run.entry.label == Label::Leak) { Label::Leak } else { Label::Healthy };
        let found = |rule: usize| own.iter().filter(|run| run.outcomes[rule].detection.is_some()).count();
        let wrong = |rule: usize| own.iter().filter(|run| run.outcomes[rule].false_alarm_days > 0).count();
        Self {
            family: name.to_owned(),
            label,
            runs: own.len(),
            found: (0..COLUMNS).map(found).collect(),
            wrong: (0..COLUMNS).map(wrong).collect(),
        }
    }
}

fn with_interval(figure: &Figure) -> String {
    if figure.value.is_nan() {
        return "none".to_owned();
    }
    format!("{} [{}, {}] n={}", number(figure.value), number(figure.low), number(figure.high), figure.n)
}

fn number(value: f64) -> String {
    match value {
        value if value.is_nan() => "none".to_owned(),
        value if value.abs() < 10.0 => format!("{value:.3}"),
        value => format!("{value:.0}"),
    }
}
