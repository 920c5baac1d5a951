//! Table of scenes, and how many were judged correctly.

use super::{
    run::{Outcome, Seen},
    scene::{Expected, Scene},
};

/// Returns the table, a line each.
pub fn table(outcomes: &[Outcome]) -> String {
    let mut rows = vec![
        ["scene", "expected", "seen", "after, s", "cleared, s", "severity", "judged"]
            .map(str::to_owned),
    ];
    rows.extend(outcomes.iter().map(row));
    let width =
        |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or_default();
    let widths: [usize; 7] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        for (cell, width) in row.iter().zip(widths) {
            text.push_str(&format!("{cell:width$}  "));
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

/// Returns how many scenes were judged correctly, of all: one that could not be judged is not right.
pub fn rightly(outcomes: &[Outcome]) -> (usize, usize) {
    let is_right = |outcome: &&Outcome| {
        outcome.seen.as_ref().is_ok_and(|seen| seen.judged.is_right == Some(true))
    };
    (outcomes.iter().filter(is_right).count(), outcomes.len())
}

fn row(outcome: &Outcome) -> [String; 7] {
    let (name, expected) = (outcome.name.clone(), expected(&outcome.scene).to_owned());
    let dash = || "–".to_owned();
    match &outcome.seen {
        Err(reason) => {
            let first = reason.lines().next().unwrap_or_default();
            [name, expected, dash(), dash(), dash(), dash(), format!("not run: {first}")]
        }
        Ok(Seen { judged, .. }) => {
            let number = |secs: Option<f64>| secs.map_or_else(dash, |secs| format!("{secs:.1}"));
            let fault = judged.fault.clone().unwrap_or_default();
            let judgement = match judged.is_right {
                Some(true) => "right".to_owned(),
                Some(false) => format!("WRONG: {fault}"),
                None => format!("void: {fault}"),
            };
            [
                name,
                expected,
                judged.seen.clone(),
                number(judged.claimed_secs),
                number(judged.cleared_secs),
                judged.severity.clone(),
                judgement,
            ]
        }
    }
}

fn expected(scene: &Scene) -> &'static str {
    match scene.expected {
        Expected::Healthy => "healthy",
        Expected::Dependency => "dependency",
        Expected::Overload => "overload",
    }
}
