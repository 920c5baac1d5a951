//! The corpus on the command line; `cargo xtask corpus` builds and runs it.
//!
//! Exit codes: 0 done, 1 failed, or with `--check` a target is missed.

use std::{
    fs,
    io::{BufWriter, IsTerminal as _, Write as _},
    num::NonZero,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};
use flate2::{Compression, write::GzEncoder};
use spillway_agent::record::Writer;
use spillway_tests::corpus::{
    Entry, FAMILIES, Part, Report, Run, Scored, Source, Stream, load, render, score_run, synthetic,
};

/// The published corpus of leaks and of healthy processes.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the families, or the runs of one
    List(Choice),
    /// Write runs as compressed traces
    Write {
        /// Where to
        dir: PathBuf,
        #[command(flatten)]
        choice: Choice,
    },
    /// Write tests/corpus/manifest.jsonl, the synthetic runs' lines
    WriteManifest,
    /// Run the detector and the reference rules over the corpus
    Score {
        #[command(flatten)]
        choice: Choice,
        /// Fail if the detector misses a target on the held-out part
        #[arg(long)]
        check: bool,
        /// Print figures and each run as JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Choice {
    /// Only this part
    #[arg(long)]
    part: Option<Part>,
    /// Only this family
    #[arg(long)]
    family: Option<String>,
    /// Only this run
    #[arg(long)]
    run: Option<String>,
}

impl Choice {
    fn entries(&self) -> anyhow::Result<Vec<Entry>> {
        let mut entries = load(&manifest())?;
        entries.retain(|entry| {
            self.part.is_none_or(|part| entry.part == part)
                && self.family.as_ref().is_none_or(|family| entry.family == *family)
                && self.run.as_ref().is_none_or(|run| entry.run == *run)
        });
        if entries.is_empty() {
            bail!("no run is chosen by {self:?}\n  hint: `cargo xtask corpus list` names the families");
        }
        Ok(entries)
    }
}

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn manifest() -> PathBuf {
    dir().join("manifest.jsonl")
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::List(choice) => list(&choice),
        Command::Write { dir, choice } => write(&dir, &choice),
        Command::WriteManifest => write_manifest(),
        Command::Score { choice, check, json } => score(&choice, check, json),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn list(choice: &Choice) -> anyhow::Result<ExitCode> {
    let entries = choice.entries()?;
    if choice.family.is_some() || choice.run.is_some() {
        print!("{}", render(&entries)?);
        return Ok(ExitCode::SUCCESS);
    }
    for family in FAMILIES.iter().filter(|family| choice.part.is_none_or(|part| family.part == part)) {
        println!("{:<26} {:<9} {:>3} runs  {}", family.name, format!("{:?}", family.part), family.runs, family.why);
    }
    for entry in entries.iter().filter(|entry| entry.source == Source::Recorded) {
        println!("{:<26} {:<9} recorded  {}", entry.run, format!("{:?}", entry.part), entry.why);
    }
    Ok(ExitCode::SUCCESS)
}

fn write(to: &Path, choice: &Choice) -> anyhow::Result<ExitCode> {
    fs::create_dir_all(to).with_context(|| format!("{} cannot be made", to.display()))?;
    for entry in choice.entries()? {
        let path = to.join(format!("{}.jsonl.gz", entry.run.replace('/', "-")));
        let file = fs::File::create(&path).with_context(|| format!("{} cannot be written", path.display()))?;
        let stream = Stream::open(&entry, &dir())?;
        let output = BufWriter::new(GzEncoder::new(file, Compression::default()));
        let mut writer = Writer::new(output, stream.host, entry.interval_secs)?;
        for observation in stream.observations {
            writer.write(&observation?)?;
        }
        writer.finish()?.into_inner().map_err(|error| error.into_error())?.finish()?.flush()?;
        println!("{}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn write_manifest() -> anyhow::Result<ExitCode> {
    let path = manifest();
    let entries: Vec<_> = synthetic(None).map(|(family, seed)| Run::new(family, seed).entry).collect();
    fs::create_dir_all(dir())?;
    fs::write(&path, render(&entries)?).with_context(|| format!("{} cannot be written", path.display()))?;
    println!("{}: {} runs", path.display(), entries.len());
    Ok(ExitCode::SUCCESS)
}

fn score(choice: &Choice, check: bool, json: bool) -> anyhow::Result<ExitCode> {
    let scored = score_all(&choice.entries()?)?;
    let parts = [Part::Tuning, Part::HeldOut, Part::Untellable].into_iter();
    let reports: Vec<_> = parts.map(|part| Report::new(part, &scored)).filter(|report| report.runs > 0).collect();
    if json {
        println!("{}", serde_json::json!({ "reports": reports, "runs": scored }));
    } else {
        reports.iter().for_each(|report| println!("{}", report.render()));
        if choice.run.is_some() {
            println!("{}", serde_json::to_string_pretty(&scored)?);
        }
    }
    let mut held_out = reports.iter().filter(|report| report.part == Part::HeldOut);
    if check && held_out.any(|report| !report.met()) {
        eprintln!("error: the detector misses targets on the held-out part\n  hint: the rows above say which");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Scores runs on all processors; the longest first would be better, but any order does.
fn score_all(entries: &[Entry]) -> anyhow::Result<Vec<Scored>> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(entries.len())));
    let shows = std::io::stderr().is_terminal();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(entry) = entries.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let scored = score_run(entry, &dir());
                    let mut results = results.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    results.push((entry.run.clone(), scored));
                    if shows {
                        eprint!("\r{} of {} runs", results.len(), entries.len());
                    }
                }
            });
        }
    });
    if shows {
        eprint!("\r\x1b[K");
    }
    let mut results = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    results.sort_by(|a, b| a.0.cmp(&b.0));
    results.into_iter().map(|(run, scored)| scored.with_context(|| format!("{run} cannot be scored"))).collect()
}
