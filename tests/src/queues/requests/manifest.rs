//! The manifest of the request queues: one JSON line a run, with its label.
//! `tests/corpus/requests/manifest.jsonl` is written by `cargo xtask corpus requests
//! write-manifest`; `recorded/manifest.jsonl` beside it has the recorded runs. Only the scorer
//! reads labels, and it compares those of simulated runs with what the simulation says each time.

use std::{fs, path::Path};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::truth::Overload;
use crate::corpus::{Part, manifest::read, render};

/// Run with its label.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Name: the family and the seed, or the name of a recording.
    pub run: String,
    /// The mechanism.
    pub family: String,
    /// Part that it belongs to.
    pub part: Part,
    /// Seed of a simulated run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Trace of a recorded run, relative to `tests/corpus/requests/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
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

/// Reads the manifest of simulated runs, then the one of recorded runs beside it, if it exists.
///
/// # Errors
///
/// If either cannot be read, or a line is no entry.
pub fn load(path: &Path) -> anyhow::Result<Vec<Entry>> {
    let mut entries = read(path, "requests write-manifest")?;
    let recorded = path.with_file_name("recorded").join("manifest.jsonl");
    if recorded.exists() {
        entries.extend(read::<Entry>(&recorded, "requests record")?);
    }
    Ok(entries)
}

/// Adds recorded runs to their manifest, replacing those of the same names.
///
/// # Errors
///
/// Returns an error if the manifest cannot be read or written.
pub fn put(path: &Path, new: Vec<Entry>) -> anyhow::Result<()> {
    let mut entries: Vec<Entry> =
        if path.exists() { read(path, "requests record")? } else { Vec::new() };
    entries.retain(|old| new.iter().all(|new| new.run != old.run));
    entries.extend(new);
    entries.sort_by(|a, b| a.run.cmp(&b.run));
    fs::write(path, render(&entries)?).with_context(|| format!("writing {}", path.display()))
}
