//! The score: each rule over each run, what came of it, and how that stands against the targets.
//!
//! The rules see observations alone; the labels are read here. What is missed is counted and shown,
//! never left out.

mod judge;
mod report;
mod stats;
mod table;
mod targets;

pub use judge::{Scored, score_run};
pub use report::Report;

pub(crate) use stats::{Figure, quantile, rate, share};
pub(crate) use table::{FamilyRow, Table};
pub(crate) use targets::{Row, Target};
