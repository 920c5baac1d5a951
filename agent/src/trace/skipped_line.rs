//! Lines of a trace that cannot be used, with the reason. A bad line is skipped; it never ends a
//! replay.

use serde::Deserialize;
use strum::VariantNames as _;
use thiserror::Error;

use crate::sense::FactKind;

/// Maximum length of a kind or of a parser's message in an error, in characters.
const QUOTE_CHARS_MAX: usize = 120;

/// A line that cannot be used.
#[derive(Debug, Clone, PartialEq, Error)]
#[error("line {line}: {problem}")]
pub struct SkippedLine {
    /// Number of the line, starting at 1.
    pub line: u64,
    /// Problem with it.
    pub problem: LineProblem,
}

/// Problem with a line.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum LineProblem {
    /// It is longer than any record.
    #[error("longer than 1 MiB")]
    TooLong,
    /// The stream ended in the middle of the line.
    #[error("cut off: the trace ends in the middle of the line")]
    CutOff,
    /// It is not text.
    #[error("not UTF-8")]
    NotUtf8,
    /// It is not JSON. Neither is `NaN`, nor a number too large for a float.
    #[error("not JSON: {0}")]
    NotJson(String),
    /// It has a kind that this version does not know; the name is shortened.
    #[error("unknown kind {0:?}")]
    UnknownKind(String),
    /// It has a known kind, and a field is missing, negative or of the wrong type.
    #[error("not a record: {0}")]
    NotARecord(String),
    /// A well-formed field has a value that no kernel reports.
    #[error("impossible value: {0}")]
    Impossible(&'static str),
    /// It is earlier than the line before it.
    #[error("time runs backwards, from {last_t} to {t}")]
    Backwards {
        /// Time of the line.
        t: f64,
        /// Latest time before it.
        last_t: f64,
    },
}

impl LineProblem {
    /// Name of this sort of problem, for counting.
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

    /// Classifies a parser's error.
    pub(super) fn of(error: &serde_json::Error, line: &str) -> Self {
        #[derive(Deserialize)]
        struct LineKind {
            kind: String,
        }
        // serde_json parses one line and would call it line 1, as if it were the trace's first.
        let text = error.to_string();
        let text = text.split(" at line ").next().unwrap_or_default();
        let message = quote(&format!("{text} in column {}", error.column()));
        if !error.is_data() {
            return Self::NotJson(message);
        }
        match serde_json::from_str::<LineKind>(line) {
            Ok(LineKind { kind }) if !FactKind::VARIANTS.contains(&kind.as_str()) => {
                Self::UnknownKind(quote(&kind))
            }
            _ => Self::NotARecord(message),
        }
    }
}

fn quote(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(QUOTE_CHARS_MAX).collect()
}
