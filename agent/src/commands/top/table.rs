//! Tables of the views: columns that are listed once and have everything else made of them, from
//! the width to the sort order. Pure.

use std::{borrow::Cow, cmp::Ordering};

use super::{cell::CellValue, details::Detail};
use crate::status::StatusReport;

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
