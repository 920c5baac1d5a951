//! Lines of a trace that cannot be used, and why. A bad line costs that line; it never ends a
//! replay.

use serde::Deserialize;
use strum::VariantNames as _;
use thiserror::Error;

use crate::sense::FactKind;

/// Longest kind or parser's message that is repeated back, in characters.
const QUOTE_CHARS_MAX: usize = 120;

/// A line that cannot be used.
#[derive(Debug, Clone, PartialEq, Error)]
#[error("line {line}: {problem}")]
pub struct SkippedLine {
    /// Number of the line, from 1.
    pub line: u64,
    /// Problem.
    pub problem: LineProblem,
}

/// Problem of a line.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum LineProblem {
    /// Longer than any record.
    #[error("longer than 1 MiB")]
    TooLong,
    /// The stream ended in the middle of it.
    #[error("cut off: the trace ends in the middle of the line")]
    CutOff,
    /// Not text.
    #[error("not UTF-8")]
    NotUtf8,
    /// Not JSON; `NaN` is none, nor is a number too large for a float.
    #[error("not JSON: {0}")]
    NotJson(String),
    /// JSON of a kind that this version does not know; its name, shortened.
    #[error("unknown kind {0:?}")]
    UnknownKind(String),
    /// A known kind with a field missing, negative or of the wrong type.
    #[error("not a record: {0}")]
    NotARecord(String),
    /// A well-formed field with a value that cannot be.
    #[error("impossible value: {0}")]
    Impossible(&'static str),
    /// Earlier than the line before.
    #[error("time runs backwards, from {last_t} to {t}")]
    Backwards {
        /// The line's time.
        t: f64,
        /// The latest time before it.
        last_t: f64,
    },
}

impl LineProblem {
    /// A few words for counting, the same for every problem of the sort.
    pub fn sort(&self) -> &'static str {
        match self {
            Self::TooLong => "too long",
            Self::CutOff => "cut off",
            Self::NotUtf8 => "not UTF-8",
            Self::NotJson(_) => "not JSON",
            Self::UnknownKind(_) => "unknown kind",
            Self::NotARecord(_) => "not a record",
            Self::Impossible(_) => "impossible value",
            Self::Backwards { .. } => "time runs backwards",
        }
    }

    /// Why a line did not parse.
    pub(super) fn of(error: &serde_json::Error, line: &str) -> Self {
        #[derive(Deserialize)]
        struct LineKind {
            kind: String,
        }
        // serde_json counts lines from the one it was given, which would read as the trace's first.
        let text = error.to_string();
        let text = text.split(" at line ").next().unwrap_or_default();
        let said = quote(&format!("{text} in column {}", error.column()));
        if !error.is_data() {
            return Self::NotJson(said);
        }
        match serde_json::from_str::<LineKind>(line) {
            Ok(LineKind { kind }) if !FactKind::VARIANTS.contains(&kind.as_str()) => {
                Self::UnknownKind(quote(&kind))
            }
            _ => Self::NotARecord(said),
        }
    }
}

fn quote(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(QUOTE_CHARS_MAX).collect()
}
