//! Extracts from a host's trace the lines that one program's verdict needs: the host, the program's
//! own processes and three processes of the load generators, each with its images, handles and end.
//!
//! Other processes of the host are private and are dropped, and so are listeners. The pid at the
//! end of the cgroups' names is cut off, so that names stay the same from one recording to the
//! next. A program is not kept if its start is not in the trace, if its limit was changed, if its
//! leaking version did not grow, or if its fixed version did: a label that contradicts its trace is
//! worse than a missing one. The trace is compressed with gzip, and its line in `manifest.jsonl` is
//! replaced.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::program::Program;
use super::trace_summary::{self, Gathered, Id};

/// Number of the load generators' processes that are kept beside the program's.
const BYSTANDERS: usize = 3;
/// Share of its expected rate at which a leaking version must grow: with less, the load did not
/// reach the leak. The fixed version must stay below it.
const SEEN_SHARE: f64 = 0.1;
/// Scans from the program's first one to the start of its leak in the label: the free memory before
/// it must have been seen once, and no rule can raise anything from two points.
const SCANS_BEFORE_LEAK: f64 = 2.0;

/// Recorded program.
#[derive(Debug)]
pub struct Subject {
    /// Family and version.
    pub id: String,
    family: String,
    version: String,
    leaks: bool,
    cgroup: String,
    spec: Value,
}

impl Subject {
    /// Creates the subject of a program in the cgroup of that name.
    pub fn of(program: &Program, cgroup: String) -> Self {
        Self {
            id: program.id(),
            family: program.family.clone(),
            version: program.version.clone(),
            leaks: program.leaks,
            cgroup,
            spec: program.spec.clone(),
        }
    }

    fn number(&self, key: &str) -> f64 {
        self.spec[key].as_f64().unwrap_or(0.0)
    }

    fn text(&self, key: &str) -> &str {
        self.spec[key].as_str().unwrap_or_default()
    }

    /// Returns true if the program ends and is started again all the time, so that its memory over
    /// the whole recording has no slope.
    fn is_killed(&self) -> bool {
        self.spec["killed"] == true
    }

    /// Checks the trace against `program.json`.
    ///
    /// # Errors
    ///
    /// Returns an error if they contradict each other.
    fn check(&self, gathered: &Gathered, rate: f64) -> anyhow::Result<()> {
        if !gathered.begins() {
            bail!(
                "its exec is not in the trace\n  hint: the recorder was not ready when it started; \
                record it again"
            );
        }
        let limit = self.spec["memory_max_bytes"].as_u64();
        if gathered.limits.iter().any(|seen| *seen != limit) {
            bail!(
                "its limit should be {limit:?} and was {:?}\n  hint: do not change memory.max \
                during the recording",
                gathered.limits
            );
        }
        if self.is_killed() {
            return Ok(());
        }
        let least = self.number("expected_bytes_per_sec") * SEEN_SHARE;
        if self.leaks && rate < least {
            bail!(
                "it grew only {rate:.0} bytes/s after its warm-up, but should leak\n  hint: \
                check its load"
            );
        }
        if !self.leaks && least > 0.0 && rate >= least {
            bail!(
                "it grew {rate:.0} bytes/s after its warm-up, but should not\n  hint: give it a \
                longer warm-up"
            );
        }
        Ok(())
    }
}

/// Writes the subject's trace and its line of the manifest.
pub fn keep(trace: &Path, subject: &Subject, load: &str, recorded: &Path) -> anyhow::Result<()> {
    let header = trace_summary::lines(trace)?.next().context("the trace is empty")?;
    let interval =
        header["interval_secs"].as_f64().context("the trace's header has no interval_secs")?;
    let gathered = Gathered::read(trace, &subject.cgroup, load)?;
    let main = gathered.main().context("the trace contains none of its processes")?;
    let begin = gathered.curve.first().map_or(0.0, |point| point.0);
    let grown = gathered.line_from(begin + subject.number("warm_up_secs"));
    subject.check(&gathered, grown.slope)?;
    let name = format!("{}.jsonl.gz", subject.id);
    let kept: Vec<_> =
        gathered.own.keys().copied().chain(gathered.longest_loads(BYSTANDERS)).collect();
    let bytes = write(trace, &recorded.join(&name), &kept)?;
    let label = if subject.leaks { "leak" } else { "healthy" };
    let exhausted = grown
        .reaches(subject.number("memory_max_bytes"))
        .filter(|_| subject.leaks && !subject.is_killed());
    let due = gathered.third_end().filter(|_| subject.leaks && subject.is_killed());
    let rate = match subject.is_killed() {
        true => subject.number("expected_bytes_per_sec"),
        false => grown.slope,
    };
    let entry = json!({
        "run": format!("{}/{}", subject.family, subject.version),
        "family": subject.family,
        "part": subject.spec["part"],
        "source": "recorded",
        "trace": format!("recorded/{name}"),
        "label": label,
        // A workload of many processes names the process that counts: its largest one may be a
        // helper.
        "subject": {
            "cgroup": format!("/{}", stable(&subject.cgroup)),
            "comm": subject.spec["comm"].as_str().unwrap_or(&main.comm),
        },
        "leak_start_secs": subject.leaks.then(|| (begin + SCANS_BEFORE_LEAK * interval).ceil()),
        "leak_bytes_per_sec": subject.leaks.then(|| rate.round()),
        "exhausted_secs": exhausted.map(f64::round),
        "due_secs": due,
        "secs": gathered.last.round(),
        "interval_secs": interval,
        "program": {
            "runtime": subject.spec["runtime"], "package": subject.spec["package"], "version": subject.version,
            "reference": subject.spec["reference"],
        },
        "why": format!("{} {} under load: \
                        {}", subject.text("package"), subject.version, subject.text("load")),
    });
    update(&recorded.join("manifest.jsonl"), &entry)?;
    eprintln!(
        "  kept: {:<22} {label:<8} {:>9.0} bytes/s after warm-up, peak {:.1} MB, {bytes} bytes",
        subject.id,
        grown.slope,
        gathered.peak() / 1e6
    );
    Ok(())
}

/// Writes the lines of the host and of the chosen processes, compressed; returns the size in bytes.
fn write(trace: &Path, out: &Path, kept: &[Id]) -> anyhow::Result<u64> {
    let file = File::create(out).with_context(|| format!("cannot write {}", out.display()))?;
    let mut gzip = Command::new("gzip");
    let mut gzip = gzip
        .arg("-9n")
        .stdin(Stdio::piped())
        .stdout(file)
        .spawn()
        .context("gzip could not be started")?;
    let mut pipe = gzip.stdin.take().context("gzip has no standard input")?;
    let text = BufReader::new(File::open(trace)?);
    for (number, line) in text.lines().enumerate() {
        let line = line.with_context(|| format!("cannot read {}", trace.display()))?;
        if !trace_summary::may_matter(&line) {
            continue;
        }
        let Ok(value) = serde_json::from_str::<Value>(&line) else { continue };
        let wanted = match value["kind"].as_str() {
            None => number == 0,
            Some("host" | "sensing") => true,
            Some("listener") => false,
            Some(_) => trace_summary::id_of(&value).is_some_and(|id| kept.contains(&id)),
        };
        if !wanted {
            continue;
        }
        let line = match value["cgroup"]
            .as_str()
            .map(|cgroup| (cgroup.to_owned(), stable(cgroup).to_owned()))
        {
            Some((cgroup, stable)) => line.replacen(&cgroup, &stable, 1),
            None => line,
        };
        writeln!(pipe, "{line}").context("gzip stopped reading")?;
    }
    drop(pipe);
    let status = gzip.wait().context("gzip's state could not be read")?;
    if !status.success() {
        bail!("gzip failed ({status}) on {}", out.display());
    }
    Ok(out.metadata()?.len())
}

/// Adds a line to the manifest, or replaces the line of the same run.
fn update(path: &Path, entry: &Value) -> anyhow::Result<()> {
    let text = if path.exists() { fs::read_to_string(path)? } else { String::new() };
    let mut entries: Vec<Value> = text
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .with_context(|| format!("{} is not JSON Lines", path.display()))?;
    entries.retain(|other| other["run"] != entry["run"]);
    entries.push(entry.clone());
    entries.sort_by(|a, b| a["run"].as_str().cmp(&b["run"].as_str()));
    let text: String = entries.iter().map(|entry| format!("{entry}\n")).collect();
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Returns a cgroup's name without the pid at its end.
fn stable(cgroup: &str) -> &str {
    let cgroup = cgroup.strip_suffix(".scope").unwrap_or(cgroup);
    match cgroup.rsplit_once('-') {
        Some((name, pid)) if pid.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => cgroup,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_the_recordings_pid_only() {
        assert_eq!(stable("/spillway-corpus-ujson-5.11.0-4711"), "/spillway-corpus-ujson-5.11.0");
        assert_eq!(stable("/system.slice/ssh.service"), "/system.slice/ssh.service");
        assert_eq!(stable("spillway-corpus-load-9.scope"), "spillway-corpus-load");
    }
}
