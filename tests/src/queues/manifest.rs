//! The manifest of accept queues: one JSON line per run, with its label.
//! `tests/corpus/queues/manifest.jsonl` is written by `cargo xtask corpus queues write-manifest`;
//! `recorded/manifest.jsonl` beside it has the recorded runs and may be missing.
//!
//! Only the scorer reads labels. It compares those of synthetic runs with their simulation each
//! time.

use std::{fs, path::Path};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::truth::Overload;
use crate::corpus::{Part, Source, manifest::read, render};

/// Run with its label.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Name: the family and the seed, or the name of a recording.
    pub run: String,
    /// Mechanism.
    pub family: String,
    /// Part of the corpus that the family belongs to.
    pub part: Part,
    /// Source of the observations.
    pub source: Source,
    /// Seed of a synthetic run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Trace of a recorded run, relative to `tests/corpus/queues/`; compressed if its name ends in
    /// `.gz`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// Address that the run is about; everything else in it is healthy.
    pub addr: String,
    /// Overloads in order of time; empty if it is healthy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overloads: Vec<Overload>,
    /// Times in which connections wait nearly as long as in an overload: a claim is neither right
    /// nor wrong in them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerated: Vec<(f64, f64)>,
    /// Length of the run.
    pub secs: f64,
    /// Interval between two readings of its listeners.
    pub interval_secs: f64,
    /// Description of a recorded run in one sentence; a synthetic run has its family's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// Reads the manifest of synthetic runs, then the one of recorded runs beside it if it exists.
///
/// # Errors
///
/// Returns an error if either cannot be read or a line is invalid.
pub fn load(path: &Path) -> anyhow::Result<Vec<Entry>> {
    let mut entries = read(path, "queues write-manifest")?;
    let recorded = path.with_file_name("recorded").join("manifest.jsonl");
    if recorded.exists() {
        entries.extend(read::<Entry>(&recorded, "queues record")?);
    }
    Ok(entries)
}

/// Adds a recorded run to its manifest, replacing the one of the same name.
///
/// # Errors
///
/// Returns an error if the manifest cannot be read or written.
pub fn put(path: &Path, entry: Entry) -> anyhow::Result<()> {
    let mut entries: Vec<Entry> =
        if path.exists() { read(path, "queues record")? } else { Vec::new() };
    entries.retain(|other| other.run != entry.run);
    entries.push(entry);
    entries.sort_by(|a, b| a.run.cmp(&b.run));
    fs::write(path, render(&entries)?).with_context(|| format!("writing {}", path.display()))
}
