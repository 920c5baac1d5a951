//! The manifest: one JSON line a run, with its label. `tests/corpus/manifest.jsonl` is the
//! synthetic runs' lines, made by `cargo xtask corpus write-manifest`; `recorded/manifest.jsonl`
//! beside it is those of recorded runs, made by `cargo xtask corpus record`. Each command writes
//! its own file alone, and both files are always read.
//!
//! Only the scorer reads labels. A line that cannot be read ends the scoring: a corpus that shrinks
//! in silence scores well.

use std::{fs, path::Path};

use anyhow::Context as _;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

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
    /// The trace of a recorded run, from `tests/corpus/`; gzip where its name ends in `.gz`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// Whether its subject leaks.
    pub label: Label,
    /// The workload that the run is about; everything else in it is healthy.
    pub subject: Subject,
    /// When the leak starts; `None` where there is none.
    pub leak_start_secs: Option<f64>,
    /// Its mean rate, of the whole workload, from its start to the end of the run.
    pub leak_bytes_per_sec: Option<f64>,
    /// When memory is gone if nothing is done, on the run's clock; `None` where unknown or never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exhausted_secs: Option<f64>,
    /// How long the run is.
    pub secs: f64,
    /// Time between two scans.
    pub interval_secs: f64,
    /// What it is, in a sentence.
    pub why: String,
}

/// A part of the corpus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// To be looked at while working on the detector.
    Tuning,
    /// For figures that are quoted.
    HeldOut,
    /// Healthy, and up to its end the same as a leak: shown, and in no target.
    Untellable,
}

/// Where observations come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A family and a seed.
    Synthetic,
    /// A trace of real programs.
    Recorded,
}

/// The truth about a run's subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Label {
    /// It leaks.
    Leak,
    /// It does not.
    Healthy,
}

/// A workload: whatever pids carry it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Subject {
    /// Its cgroup.
    pub cgroup: String,
    /// Its processes' name.
    pub comm: String,
}

/// Reads a manifest of synthetic runs, then that of recorded ones beside it.
///
/// # Errors
///
/// Returns an error if either cannot be read, or a line is no entry.
pub fn load(path: &Path) -> anyhow::Result<Vec<Entry>> {
    let mut entries = read(path, "write-manifest")?;
    entries.extend(read(&path.with_file_name("recorded").join("manifest.jsonl"), "record")?);
    Ok(entries)
}

/// Reads the entries of one file; `writer` is the subcommand that writes it.
pub(crate) fn read<E: DeserializeOwned>(path: &Path, writer: &str) -> anyhow::Result<Vec<E>> {
    let text = fs::read_to_string(path).with_context(|| {
        format!(
            "the manifest {} cannot be read\n  hint: `cargo xtask corpus {writer}` writes it",
            path.display()
        )
    })?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            serde_json::from_str(line).with_context(|| {
                format!(
                    "{}:{}: not a manifest entry\n  hint: the manifest.rs of its corpus, in \
                    tests/src/, lists the fields",
                    path.display(),
                    index + 1
                )
            })
        })
        .collect()
}

/// Entries as the manifest keeps them.
///
/// # Errors
///
/// Returns an error if a number is not finite.
pub fn render<E: Serialize>(entries: &[E]) -> anyhow::Result<String> {
    let mut text = String::new();
    for (index, entry) in entries.iter().enumerate() {
        text.push_str(
            &serde_json::to_string(entry)
                .with_context(|| format!("entry {index} cannot be written"))?,
        );
        text.push('\n');
    }
    Ok(text)
}
