//! Cells of the tables: values as they are shown, and as they are sorted by. Pure.

use std::cmp::Ordering;

use crate::units::{Count, Frequency, Size, Span, clock_time};

/// Text in place of a value that is unknown.
const UNKNOWN: &str = "-";

/// Value of a cell: as it is shown, and as it is sorted by.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum CellValue {
    /// Name or sentence.
    Text(String),
    /// Word for a severity, the worst of which is the largest.
    Severity(String),
    /// Time, and that of the report, which has its date.
    Time(String, String),
    /// Number.
    Count(Option<u64>),
    /// Process id.
    Pid(u32),
    /// Length of a queue, and its limit.
    Queue(u64, u64),
    /// Size in bytes.
    Bytes(Option<f64>),
    /// Growth in bytes per second.
    Pace(Option<f64>),
    /// Span in seconds.
    Secs(Option<f64>),
    /// Number per second.
    PerSec(Option<f64>),
    /// Share of a limit.
    Share(u64, u64),
}

impl CellValue {
    /// Returns the text to show.
    pub(super) fn text(&self) -> String {
        let shown = match self {
            Self::Text(text) if text.is_empty() => None,
            Self::Text(text) => Some(text.clone()),
            Self::Severity(severity) => Some(severity.to_uppercase()),
            Self::Time(time, _) if time.is_empty() => None,
            // The day is enough for one that is not today; everything else is explained.
            Self::Time(time, at) if time.get(..10) != at.get(..10) => {
                Some(time.get(..10).unwrap_or(time).to_owned())
            }
            Self::Time(time, at) => Some(clock_time(time, at)),
            Self::Count(count) => count.map(|count| Count(count).to_string()),
            Self::Pid(pid) => Some(pid.to_string()),
            Self::Queue(length, max) => Some(format!("{}/{}", Count(*length), Count(*max))),
            Self::Bytes(bytes) => known(bytes).map(|bytes| Size(bytes).to_string()),
            Self::Pace(bytes) => known(bytes).map(pace),
            Self::Secs(secs) => known(secs).map(|secs| Span(secs).to_string()),
            Self::PerSec(rate) => known(rate).map(|rate| match rate {
                0.0 => "0".to_owned(),
                rate => Frequency(rate).to_string(),
            }),
            Self::Share(_, 0) => None,
            Self::Share(used, limit) => Some(format!("{:.0} %", percent(*used, *limit))),
        };
        shown.unwrap_or_else(|| UNKNOWN.to_owned())
    }

    /// Returns the number that cells with numbers are sorted by; `None` if it is unknown.
    fn number(&self) -> Option<f64> {
        match self {
            Self::Text(_) | Self::Time(..) => None,
            Self::Severity(severity) => Some(f64::from(rank(severity))),
            Self::Count(count) => count.map(|count| count as f64),
            Self::Pid(pid) => Some(f64::from(*pid)),
            Self::Queue(length, _) => Some(*length as f64),
            Self::Bytes(value) | Self::Pace(value) | Self::Secs(value) | Self::PerSec(value) => {
                known(value)
            }
            Self::Share(_, 0) => None,
            Self::Share(used, limit) => Some(percent(*used, *limit)),
        }
    }

    /// Returns whether it is aligned to the right, as numbers are.
    pub(super) fn is_number(&self) -> bool {
        !matches!(self, Self::Text(_) | Self::Severity(_) | Self::Time(..))
    }

    /// Compares two cells of one column; what is unknown comes last in either order.
    pub(super) fn compare(&self, other: &Self, is_falling: bool) -> Ordering {
        let turned = |order: Ordering| if is_falling { order.reverse() } else { order };
        let name = |value: &Self| match value {
            Self::Text(text) | Self::Time(text, _) if !text.is_empty() => Some(text.to_lowercase()),
            _ => None,
        };
        match (self.number(), other.number(), name(self), name(other)) {
            (Some(one), Some(another), ..) => turned(one.total_cmp(&another)),
            (.., Some(one), Some(another)) => turned(one.cmp(&another)),
            (one, another, name, other_name) => {
                let is_unknown =
                    |number: Option<f64>, name: Option<String>| number.is_none() && name.is_none();
                is_unknown(one, name).cmp(&is_unknown(another, other_name))
            }
        }
    }
}

fn known(value: &Option<f64>) -> Option<f64> {
    value.filter(|value| value.is_finite())
}

fn percent(used: u64, limit: u64) -> f64 {
    100.0 * used as f64 / limit as f64
}

/// Returns the rank of a severity, the worst the highest.
pub(super) fn rank(severity: &str) -> u8 {
    match severity {
        "critical" => 3,
        "warning" => 2,
        "info" => 1,
        _ => 0,
    }
}

/// Prints a growth per second, minute, hour or day: by the shortest in which it is a KiB.
pub(super) fn pace(bytes_per_sec: f64) -> String {
    let units = [("s", 1.0), ("min", 60.0), ("h", 3_600.0), ("day", 86_400.0)];
    match units.iter().find(|(_, secs)| (bytes_per_sec * secs).abs() >= 1_024.0) {
        Some((unit, secs)) => format!("{}/{unit}", Size(bytes_per_sec * secs)),
        None => "0".to_owned(),
    }
}
