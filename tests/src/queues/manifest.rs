//! The manifest of the queues: one JSON line a run, with its label.
//! `tests/corpus/queues/manifest.jsonl` is written by `cargo xtask corpus queues write-manifest`;
//! `recorded/manifest.jsonl` beside it is of recorded runs, and may be missing.
//!
//! Only the scorer reads labels, and it compares those of synthetic runs with what their simulation
//! says each time.

use std::{fs, path::Path};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::truth::Overload;
use crate::corpus::{Part, Source, manifest::read, render};

/// One run and what is known of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name: the family and the seed, or what a recording is called.
    pub run: String,
    /// The mechanism.
    pub family: String,
    /// Which part its family belongs to.
    pub part: Part,
    /// Where its observations come from.
    pub source: Source,
    /// The seed of a synthetic run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// The trace of a recorded run, from `tests/corpus/queues/`; gzip where its name ends in `.gz`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// The address that it is about; everything else in it is healthy.
    pub addr: String,
    /// Its overloads, in order of time; none where it is healthy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overloads: Vec<Overload>,
    /// How long it is.
    pub secs: f64,
    /// Time between two looks at its listeners.
    pub interval_secs: f64,
    /// What a recorded run is, in a sentence; of a synthetic one its family says it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// Reads the manifest of synthetic runs, then that of recorded ones beside it if there is one.
///
/// # Errors
///
/// Returns an error if one cannot be read, or a line is no entry.
pub fn load(path: &Path) -> anyhow::Result<Vec<Entry>> {
    let mut entries = read(path, "queues write-manifest")?;
    let recorded = path.with_file_name("recorded").join("manifest.jsonl");
    if recorded.exists() {
        entries.extend(read::<Entry>(&recorded, "queues record")?);
    }
    Ok(entries)
}

/// Puts a recorded run into its manifest, in place of the one of the same name.
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
    fs::write(path, render(&entries)?)
        .with_context(|| format!("{} cannot be written", path.display()))
}
