//! Tables of the views: columns that are listed once and have everything else made of them, from
//! the width to the sort order. Pure.

use std::{borrow::Cow, cmp::Ordering};

use super::details::Detail;
use crate::{
    status::StatusReport,
    units::{Count, Frequency, Size, Span, clock_time},
};

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
    fn is_number(&self) -> bool {
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

/// Order in which a column is sorted unless it is reversed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sorted {
    /// The largest first.
    Falling,
    /// The smallest first, or by the alphabet.
    Rising,
}

/// Title and place of a column.
#[derive(Debug, Clone, Copy)]
pub(super) struct ColumnHead {
    /// Title.
    pub(super) title: &'static str,
    /// Width; 0 takes what the others leave.
    pub(super) width: u16,
    /// Width of the terminal from which it is shown.
    pub(super) from: u16,
    /// Order.
    pub(super) order: Sorted,
    /// Set if its values are aligned to the right.
    pub(super) is_number: bool,
}

/// Column of a table.
pub(super) struct TopColumn<T> {
    title: &'static str,
    width: u16,
    from: u16,
    order: Sorted,
    cell: fn(&T, &StatusReport) -> CellValue,
}

/// Lists a column: its title, its width (0 takes what the others leave), the width of the terminal
/// from which it is shown, its order and its value.
pub(super) const fn column<T>(
    title: &'static str,
    width: u16,
    from: u16,
    order: Sorted,
    cell: fn(&T, &StatusReport) -> CellValue,
) -> TopColumn<T> {
    TopColumn { title, width, from, order, cell }
}

/// Line of a table.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TopRow {
    /// Identity, the same from one report to the next.
    pub(super) id: String,
    /// Cells, one for each column.
    pub(super) cells: Vec<CellValue>,
    /// Severity of the incident that it has; empty if that is not listed.
    pub(super) severity: Option<String>,
    /// Number that rows with equal cells are sorted by, the largest first.
    tie: f64,
}

/// View of a list in the report.
pub(super) struct TopTable<T: Clone + Default + 'static> {
    /// Title of its tab.
    pub(super) title: &'static str,
    /// Text in place of an empty table.
    pub(super) none: &'static str,
    /// Entries.
    pub(super) items: for<'a> fn(&'a StatusReport) -> Cow<'a, [T]>,
    /// Number of entries, of which not all are listed.
    pub(super) total: fn(&StatusReport) -> u64,
    /// Identity of an entry, the same from one report to the next.
    pub(super) id: fn(&T) -> String,
    /// Incident of an entry.
    pub(super) incident: for<'a> fn(&'a T) -> Option<&'a str>,
    /// Number that entries with equal cells are sorted by, the largest first.
    pub(super) tie: fn(&T) -> f64,
    /// Everything about an entry.
    pub(super) details: fn(&T, &StatusReport) -> Vec<Detail>,
    /// Remark on all entries; empty if there is none.
    pub(super) note: fn(&StatusReport) -> String,
    /// Columns. The first is the one that the table is sorted by at the beginning.
    pub(super) columns: &'static [TopColumn<T>],
}

/// View, whatever it lists.
pub(super) trait TopView: Sync {
    /// Returns the title of its tab.
    fn title(&self) -> &'static str;
    /// Returns the text in place of an empty table.
    fn none(&self) -> &'static str;
    /// Returns the titles of its columns.
    fn heads(&self) -> Vec<ColumnHead>;
    /// Returns its rows, in the order of the report.
    fn rows(&self, report: &StatusReport) -> Vec<TopRow>;
    /// Returns the number of entries that are listed.
    fn listed(&self, report: &StatusReport) -> u64;
    /// Returns the number of its entries, of which not all are listed.
    fn total(&self, report: &StatusReport) -> u64;
    /// Returns everything about an entry; `None` if it is no longer listed.
    fn details(&self, report: &StatusReport, id: &str) -> Option<Vec<Detail>>;
    /// Returns a remark on all entries; empty if there is none.
    fn note(&self, report: &StatusReport) -> String;
}

impl<T: Clone + Default> TopView for TopTable<T> {
    fn title(&self) -> &'static str {
        self.title
    }

    fn none(&self) -> &'static str {
        self.none
    }

    fn heads(&self) -> Vec<ColumnHead> {
        let head = |column: &TopColumn<T>| {
            let TopColumn { title, width, from, order, cell } = *column;
            // The kind of a value does not depend on the entry.
            let is_number = cell(&T::default(), &StatusReport::default()).is_number();
            ColumnHead { title, width, from, order, is_number }
        };
        self.columns.iter().map(head).collect()
    }

    fn rows(&self, report: &StatusReport) -> Vec<TopRow> {
        let row = |item: &T| {
            let cells: Vec<_> =
                self.columns.iter().map(|column| (column.cell)(item, report)).collect();
            let severity = (self.incident)(item).map(|id| {
                let found = report.incidents.iter().find(|incident| incident.id == id);
                found.map_or_else(String::new, |incident| incident.severity.clone())
            });
            TopRow { id: (self.id)(item), cells, severity, tie: (self.tie)(item) }
        };
        (self.items)(report).iter().map(row).collect()
    }

    fn listed(&self, report: &StatusReport) -> u64 {
        (self.items)(report).len() as u64
    }

    fn total(&self, report: &StatusReport) -> u64 {
        (self.total)(report).max(self.listed(report))
    }

    fn details(&self, report: &StatusReport, id: &str) -> Option<Vec<Detail>> {
        let items = (self.items)(report);
        items.iter().find(|item| (self.id)(item) == id).map(|item| (self.details)(item, report))
    }

    fn note(&self, report: &StatusReport) -> String {
        (self.note)(report)
    }
}

/// Sorts rows by a column; those that are equal keep the order of the report.
pub(super) fn sort(rows: &mut [TopRow], column: usize, is_falling: bool) {
    rows.sort_by(|one, another| {
        let cells = (one.cells.get(column), another.cells.get(column));
        let order = match cells {
            (Some(one), Some(another)) => one.compare(another, is_falling),
            _ => Ordering::Equal,
        };
        order.then_with(|| another.tie.total_cmp(&one.tie))
    });
}

/// Keeps the rows that contain a text, in any case: in a cell, shown or not, or in their identity.
pub(super) fn filter(rows: &mut Vec<TopRow>, text: &str) {
    if text.is_empty() {
        return;
    }
    let wanted = text.to_lowercase();
    let has = |text: &str| text.to_lowercase().contains(&wanted);
    rows.retain(|row| has(&row.id) || row.cells.iter().any(|cell| has(&cell.text())));
}
