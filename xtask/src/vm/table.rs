//! What was found, kernel by kernel: a line as each result comes, one table at the end, or JSON.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::machine;

/// One kernel.
#[derive(Debug)]
pub struct Report {
    pub name: &'static str,
    pub outcome: Outcome,
    /// From the first look for it to its end.
    pub secs: f64,
}

/// What became of one kernel.
#[derive(Debug)]
pub enum Outcome {
    /// It could not be had, for this reason.
    Skipped(String),
    /// It ran.
    Checked(Checked),
}

/// What a kernel's checks said.
#[derive(Debug, Default)]
pub struct Checked {
    release: String,
    announced: usize,
    results: Vec<Row>,
    /// Whether it came to its end.
    pub done: bool,
    /// How it failed as a whole.
    pub broken: Option<String>,
    tail: String,
    /// Where everything else is that it said.
    pub log: PathBuf,
}

/// One check.
#[derive(Debug)]
struct Row {
    probe: String,
    rung: String,
    check: String,
    /// `None` where the kernel does not offer what is checked.
    pass: Option<bool>,
    events: Option<u64>,
    secs: f64,
    detail: String,
}

impl Report {
    /// Whether something in it failed.
    pub fn failed(&self) -> bool {
        match &self.outcome {
            Outcome::Skipped(_) => false,
            Outcome::Checked(checked) => {
                checked.broken.is_some() || checked.results.iter().any(|row| row.pass == Some(false))
            }
        }
    }

    /// Why it could not be had.
    pub fn skipped(&self) -> Option<&str> {
        if let Outcome::Skipped(reason) = &self.outcome { Some(reason) } else { None }
    }
}

impl Outcome {
    /// Keeps the end of the log, where the machine itself failed.
    pub fn with_tail(mut self, log: &Path) -> Self {
        if let Self::Checked(checked) = &mut self
            && checked.broken.is_some()
        {
            checked.tail = machine::tail(log);
        }
        self
    }
}

impl Checked {
    /// Takes one line; says a result as a person reads it.
    pub fn take(&mut self, line: &Value) -> Option<String> {
        if let Some(release) = line["kernel"].as_str() {
            self.release = release.to_owned();
            self.announced = line["checks"].as_u64().unwrap_or(0) as usize;
        }
        self.done |= line["done"] == true;
        let text = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
        line.get("probe")?;
        let row = Row {
            probe: text("probe"),
            rung: text("rung"),
            check: text("check"),
            pass: line["pass"].as_bool(),
            events: line["events"].as_u64(),
            secs: line["secs"].as_f64().unwrap_or(0.0),
            detail: text("detail"),
        };
        let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let said = format!(
            "  {}  {} by {}: {} ({:.1} s) {}",
            row.mark(colour),
            row.probe,
            row.rung,
            row.check,
            row.secs,
            row.detail
        );
        self.results.push(row);
        Some(said)
    }

    /// How far it is, for the progress line.
    pub fn stands(&self) -> String {
        match self.announced {
            0 => "booting".to_owned(),
            all => format!("{}: {} of {all} checks", self.release, self.results.len()),
        }
    }
}

impl Row {
    fn mark(&self, colour: bool) -> &'static str {
        match (self.pass, colour) {
            (Some(true), true) => "\x1b[32mok\x1b[0m  ",
            (Some(true), false) => "ok  ",
            (Some(false), true) => "\x1b[31mFAIL\x1b[0m",
            (Some(false), false) => "FAIL",
            (None, true) => "\x1b[33m-\x1b[0m   ",
            (None, false) => "-   ",
        }
    }
}

/// Every result of every kernel, one a line, and what failed in full.
pub fn print(reports: &[Report]) -> String {
    print_with(reports, std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none())
}

fn print_with(reports: &[Report], colour: bool) -> String {
    let rows = || {
        reports.iter().filter_map(|report| match &report.outcome {
            Outcome::Checked(checked) => Some(checked.results.iter().map(move |row| (report.name, row))),
            Outcome::Skipped(_) => None,
        })
    };
    let width = |of: &dyn Fn(&Row) -> usize| rows().flatten().map(|(_, row)| of(row)).max().unwrap_or(0);
    let (probe, check, rung) =
        (width(&|row| row.probe.len()), width(&|row| row.check.len()), width(&|row| row.rung.len()));
    let mut text =
        format!("{:<6}  {:<probe$}  {:<check$}  {:<rung$}  {:>7}  result", "kernel", "probe", "check", "by", "events");
    for (kernel, row) in rows().flatten() {
        let events = row.events.map_or_else(|| "-".to_owned(), |events| events.to_string());
        let why = if row.pass == Some(true) {
            String::new()
        } else {
            row.detail.lines().next().unwrap_or_default().to_owned()
        };
        let line = format!(
            "\n{kernel:<6}  {:<probe$}  {:<check$}  {:<rung$}  {events:>7}  {}  {why}",
            row.probe,
            row.check,
            row.rung,
            row.mark(colour)
        );
        text.push_str(line.trim_end_matches(' '));
    }
    text.push('\n');
    for report in reports {
        text.push_str(&format!("\n{:<6}  {}", report.name, summary(report)));
    }
    text
}

fn summary(report: &Report) -> String {
    match &report.outcome {
        Outcome::Skipped(reason) => format!("skipped: {reason}"),
        Outcome::Checked(checked) => {
            let count = |pass| checked.results.iter().filter(|row| row.pass == pass).count();
            let mut text = format!(
                "{}: {} passed, {} failed, {} not offered, {:.0} s",
                checked.release,
                count(Some(true)),
                count(Some(false)),
                count(None),
                report.secs
            );
            if let Some(broken) = &checked.broken {
                text.push_str(&format!("\n  error: it {broken}; its last lines:\n    {}", checked.tail));
            }
            if report.failed() {
                text.push_str(&format!("\n  hint: all that it said is in {}", checked.log.display()));
            }
            text
        }
    }
}

/// The same for a program.
pub fn json(reports: &[Report]) -> Value {
    let row = |row: &Row| {
        json!({"probe": row.probe, "rung": row.rung, "check": row.check, "pass": row.pass, "events": row.events,
               "secs": row.secs, "detail": row.detail})
    };
    let one = |report: &Report| match &report.outcome {
        Outcome::Skipped(reason) => json!({"kernel": report.name, "skipped": reason}),
        Outcome::Checked(checked) => json!({
            "kernel": report.name, "release": checked.release, "secs": report.secs, "failed": report.failed(),
            "broken": checked.broken, "results": checked.results.iter().map(row).collect::<Vec<_>>(),
        }),
    };
    json!(reports.iter().map(one).collect::<Vec<_>>())
}
