//! The manifest of the request queues: one JSON line a run, with its label.
//! `tests/corpus/requests/manifest.jsonl` is written by `cargo xtask corpus requests
//! write-manifest`. Only the scorer reads labels, and it compares them with what the simulation
//! says each time.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::truth::Overload;
use crate::corpus::{Part, manifest::read};

/// Run with its label.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Name: the family and the seed.
    pub run: String,
    /// The mechanism.
    pub family: String,
    /// Part that it belongs to.
    pub part: Part,
    /// The seed.
    pub seed: u64,
    /// The address that it is about.
    pub addr: String,
    /// Overloads, in order of time; none if it is healthy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overloads: Vec<Overload>,
    /// Times in which requests wait noticeably: a claim is neither right nor wrong in one that is
    /// no overload.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerated: Vec<(f64, f64)>,
    /// Length of the run.
    pub secs: f64,
    /// Time between two samples.
    pub interval_secs: f64,
}

/// Reads the manifest.
///
/// # Errors
///
/// If it cannot be read, or a line is no entry.
pub fn load(path: &Path) -> anyhow::Result<Vec<Entry>> {
    read(path, "requests write-manifest")
}
