//! The score: each rule over each run, its outcome, and the comparison with the targets.
//!
//! The rules see only observations; the labels are read here. Misses are counted and shown, never
//! left out.

mod judge;
mod report;
mod stats;
mod table;
mod targets;

pub use judge::{Scored, score_run};
pub use report::Report;

pub(crate) use stats::{Figure, quantile, rate, share};
pub use table::PartScore;
pub(crate) use table::{FamilyRow, Table, counts};
pub(crate) use targets::{Row, Target};
