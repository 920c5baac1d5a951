//! The manifest: one JSON line per run, with its label. `tests/corpus/manifest.jsonl` has the
//! synthetic runs and is written by `cargo xtask corpus write-manifest`; `recorded/manifest.jsonl`
//! beside it has the recorded runs and is written by `cargo xtask corpus record`. Each command
//! writes only its own file, and both files are always read.
//!
//! Only the scorer reads labels. An unreadable line aborts scoring: a corpus that silently shrinks
//! scores well.

use std::{fs, path::Path};

use anyhow::Context as _;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

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
    /// Trace of a recorded run, relative to `tests/corpus/`; compressed if its name ends in `.gz`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// Label of the subject.
    pub label: Label,
    /// Workload that the run is about; everything else in it is healthy.
    pub subject: Subject,
    /// Start of the leak; `None` if there is none.
    pub leak_start_secs: Option<f64>,
    /// Mean rate of the leak in the whole workload, from its start to the end of the run.
    pub leak_bytes_per_sec: Option<f64>,
    /// Time of exhaustion without intervention, on the run's clock; `None` if unknown or never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exhausted_secs: Option<f64>,
    /// Time by which the leak is to be found; `None` where deadlines are by rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_secs: Option<f64>,
    /// Length of the run.
    pub secs: f64,
    /// Interval between two scans.
    pub interval_secs: f64,
    /// Description in one sentence.
    pub why: String,
}

/// Part of the corpus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// For work on the detector.
    Tuning,
    /// For published figures.
    HeldOut,
    /// For work on the detector, on hosts of any size.
    Broad,
    /// Healthy, but identical to a leak until its end: reported, without targets.
    Untellable,
    /// For published figures too, by a second generator (see [`crate::independent`]).
    Independent,
    /// For work on the detector, by that generator: held out until somebody looked into it.
    Scenes,
}

/// Source of observations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Family and seed.
    Synthetic,
    /// Trace of real programs.
    Recorded,
}

/// Truth about a run's subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Label {
    /// The subject leaks.
    Leak,
    /// The subject does not leak.
    Healthy,
}

/// Workload, independent of its pids.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Subject {
    /// Cgroup of the workload.
    pub cgroup: String,
    /// Name of its processes.
    pub comm: String,
}

/// Reads a manifest of synthetic runs, then the one of recorded runs beside it.
///
/// # Errors
///
/// Returns an error if either cannot be read or a line is invalid.
pub fn load(path: &Path) -> anyhow::Result<Vec<Entry>> {
    let mut entries = read(path, "write-manifest")?;
    entries.extend(read(&path.with_file_name("recorded").join("manifest.jsonl"), "record")?);
    Ok(entries)
}

/// Reads the entries of one file; `writer` is the subcommand that writes it.
pub(crate) fn read<E: DeserializeOwned>(path: &Path, writer: &str) -> anyhow::Result<Vec<E>> {
    let text = fs::read_to_string(path).with_context(|| {
        format!(
            "reading the manifest {}\n  hint: `cargo xtask corpus {writer}` writes it",
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

/// Renders entries as lines of the manifest.
///
/// # Errors
///
/// Returns an error if a number is not finite.
pub fn render<E: Serialize>(entries: &[E]) -> anyhow::Result<String> {
    let mut text = String::new();
    for (index, entry) in entries.iter().enumerate() {
        text.push_str(
            &serde_json::to_string(entry).with_context(|| format!("serialising entry {index}"))?,
        );
        text.push('\n');
    }
    Ok(text)
}
