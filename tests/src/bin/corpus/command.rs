//! Commands common to all corpora: list, traces, manifest and score.

use std::{
    fs,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use flate2::{Compression, write::GzEncoder};
use serde::Serialize;
use spillway_agent::{engine::HostInfo, sense::Observation, trace::TraceWriter};
use spillway_tests::corpus::{Compared, Part, PartScore, render};

use crate::each::each;

/// A corpus.
pub(crate) trait Corpus: Sized {
    /// Line of its manifest.
    type Entry: Serialize + Clone + Send + Sync;
    /// Run with its result.
    type Scored: Serialize + Send;
    /// Score of one part.
    type Report: PartScore<Self::Scored>;

    /// Directory, below that of the corpora.
    const DIR: &str;

    /// Returns all families: name, part, number of runs and description.
    fn families() -> Vec<(&'static str, Part, u64, &'static str)>;
    /// Returns the seed of the first run of a family in a part.
    fn first_seed(_part: Part) -> u64 {
        0
    }
    /// Returns all runs that may be chosen from.
    fn chosen(choice: &Choice) -> anyhow::Result<Vec<Self::Entry>> {
        if choice.seed.is_some() || choice.runs.is_some() {
            bail!(
                "`--seed` and `--runs` are for `--part independent` and `--part scenes`\n  hint: the \
                other parts are in a manifest"
            );
        }
        Self::load(&manifest::<Self>())
    }
    /// Loads all runs of the manifest at this path.
    fn load(manifest: &Path) -> anyhow::Result<Vec<Self::Entry>>;
    /// Generates a run of a family.
    fn make(family: &str, seed: u64) -> Option<Self::Entry>;
    fn about(entry: &Self::Entry) -> About<'_>;
    fn observations(entry: &Self::Entry, dir: &Path) -> anyhow::Result<(HostInfo, Observations)>;
    fn score(entry: &Self::Entry, dir: &Path, compared: Compared) -> anyhow::Result<Self::Scored>;
}

pub(crate) type Observations = Box<dyn Iterator<Item = anyhow::Result<Observation>>>;

/// Description of any run.
pub(crate) struct About<'a> {
    pub(crate) run: &'a str,
    pub(crate) family: &'a str,
    pub(crate) part: Part,
    /// Description of a recorded run; `None` for a synthetic one.
    pub(crate) recorded: Option<&'a str>,
    pub(crate) interval_secs: f64,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the families, or the runs of one
    List(Choice),
    /// Write runs as compressed traces
    Write {
        /// Directory to write to
        dir: PathBuf,
        #[command(flatten)]
        choice: Choice,
    },
    /// Write the synthetic runs' lines of the corpus's manifest.jsonl
    WriteManifest,
    /// Run the detector and the reference rules over the corpus
    Score {
        #[command(flatten)]
        choice: Choice,
        /// Leave out the reference rules, which have no targets and take half the time
        #[arg(long)]
        detector_only: bool,
        /// Fail if the detector misses a target on the held-out part
        #[arg(long)]
        check: bool,
        /// Print the figures and each run as JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Choice {
    /// Only this part
    #[arg(long)]
    pub(crate) part: Option<Part>,
    /// Only this family
    #[arg(long)]
    family: Option<String>,
    /// Only this run
    #[arg(long)]
    run: Option<String>,
    /// Seed of the parts independent and scenes: each makes other runs [default: the one that
    /// figures are quoted on]
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Number of runs of the parts independent and scenes [default: four of each mechanism]
    #[arg(long)]
    pub(crate) runs: Option<usize>,
}

impl Choice {
    fn entries<C: Corpus>(&self) -> anyhow::Result<Vec<C::Entry>> {
        let mut entries = C::chosen(self)?;
        entries.retain(|entry| {
            let about = C::about(entry);
            self.part.is_none_or(|part| about.part == part)
                && self.family.as_ref().is_none_or(|family| about.family == *family)
                && self.run.as_ref().is_none_or(|run| about.run == *run)
        });
        if entries.is_empty() {
            bail!("no run matches {self:?}\n  hint: `list` names the families");
        }
        Ok(entries)
    }
}

pub(crate) fn dir<C: Corpus>() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(C::DIR)
}

pub(crate) fn manifest<C: Corpus>() -> PathBuf {
    dir::<C>().join("manifest.jsonl")
}

impl Command {
    /// Part that was asked for.
    pub(crate) fn part(&self) -> Option<Part> {
        match self {
            Self::List(choice) | Self::Write { choice, .. } | Self::Score { choice, .. } => {
                choice.part
            }
            Self::WriteManifest => None,
        }
    }

    pub(crate) fn run<C: Corpus>(&self) -> anyhow::Result<ExitCode> {
        match self {
            Self::List(choice) => list::<C>(choice),
            Self::Write { dir, choice } => write::<C>(dir, choice),
            Self::WriteManifest => write_manifest::<C>(),
            Self::Score { choice, detector_only, check, json } => {
                let compared = if *detector_only { Compared::Detector } else { Compared::All };
                score::<C>(choice, compared, *check, *json)
            }
        }
    }
}

fn list<C: Corpus>(choice: &Choice) -> anyhow::Result<ExitCode> {
    let entries = choice.entries::<C>()?;
    if choice.family.is_some() || choice.run.is_some() {
        print!("{}", render(&entries)?);
        return Ok(ExitCode::SUCCESS);
    }
    for (name, part, runs, why) in C::families() {
        if choice.part.is_none_or(|chosen| part == chosen) {
            println!("{name:<26} {:<9} {runs:>3} runs  {why}", format!("{part:?}"));
        }
    }
    for about in entries.iter().map(C::about) {
        if let Some(why) = about.recorded {
            println!("{:<26} {:<9} recorded  {why}", about.run, format!("{:?}", about.part));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn write<C: Corpus>(to: &Path, choice: &Choice) -> anyhow::Result<ExitCode> {
    fs::create_dir_all(to).with_context(|| format!("cannot generate {}", to.display()))?;
    for entry in choice.entries::<C>()? {
        let about = C::about(&entry);
        let path = to.join(format!("{}.jsonl.gz", about.run.replace('/', "-")));
        let file =
            fs::File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let (host, observations) = C::observations(&entry, &dir::<C>())?;
        let output = BufWriter::new(GzEncoder::new(file, Compression::default()));
        let mut writer = TraceWriter::new(output, host, about.interval_secs)?;
        for observation in observations {
            writer.write(&observation?)?;
        }
        writer.finish()?.into_inner().map_err(|error| error.into_error())?.finish()?.flush()?;
        println!("{}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn write_manifest<C: Corpus>() -> anyhow::Result<ExitCode> {
    let path = manifest::<C>();
    let runs: Vec<_> = C::families()
        .iter()
        .flat_map(|(name, part, runs, _)| {
            (0..*runs).map(|seed| (*name, C::first_seed(*part) + seed))
        })
        .collect();
    let entries: Vec<_> =
        each(&runs, |(family, seed)| C::make(family, *seed)).into_iter().flatten().collect();
    fs::create_dir_all(dir::<C>())?;
    fs::write(&path, render(&entries)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("{}: {} runs", path.display(), entries.len());
    Ok(ExitCode::SUCCESS)
}

fn score<C: Corpus>(
    choice: &Choice,
    compared: Compared,
    check: bool,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let mut entries = choice.entries::<C>()?;
    entries.sort_by(|a, b| C::about(a).run.cmp(C::about(b).run));
    let scored = each(&entries, |entry| {
        C::score(entry, &dir::<C>(), compared)
            .with_context(|| format!("cannot score {}", C::about(entry).run))
    });
    let scored = scored.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let parts = [
        Part::Tuning,
        Part::Broad,
        Part::Scenes,
        Part::HeldOut,
        Part::Untellable,
        Part::Independent,
    ];
    let reports = parts.into_iter().map(|part| (part, C::Report::new(part, &scored)));
    let reports: Vec<_> = reports.filter(|(_, report)| report.runs() > 0).collect();
    if json {
        let reports: Vec<_> = reports.iter().map(|report| &report.1).collect();
        println!("{}", serde_json::json!({ "reports": reports, "runs": scored }));
    } else {
        reports.iter().for_each(|(_, report)| println!("{}", report.render()));
        if choice.run.is_some() {
            println!("{}", serde_json::to_string_pretty(&scored)?);
        }
    }
    if check && reports.iter().any(|(part, report)| *part == Part::HeldOut && !report.met()) {
        eprintln!(
            "error: the detector misses targets on the held-out part\n  hint: the rows above say \
            which"
        );
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}
