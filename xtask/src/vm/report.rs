//! Results by kernel: a line as each one arrives, and one table at the end, or JSON.

use std::io::IsTerminal;
use std::path::PathBuf;

use serde_json::{Value, json};

/// Report of one kernel.
#[derive(Debug)]
pub struct Report {
    pub name: &'static str,
    pub outcome: Outcome,
}

/// Outcome of one kernel.
#[derive(Debug)]
pub enum Outcome {
    /// The kernel is unavailable, for this reason.
    Skipped(String),
    /// The checks ran.
    Checked(Checked),
}

/// Results of a kernel's checks.
#[derive(Debug, Default)]
pub struct Checked {
    release: String,
    announced: usize,
    results: Vec<Row>,
    /// Set once the checks reported that they are complete.
    pub done: bool,
    /// Failure of the machine itself.
    pub broken: Option<String>,
    /// Seconds from power-on to power-off.
    pub secs: f64,
    /// File with all other output.
    pub log: PathBuf,
}

/// Result of one check.
#[derive(Debug)]
struct Row {
    probe: String,
    rung: String,
    check: String,
    /// `None` if the kernel does not offer the feature, or if the check runs on another machine.
    pass: Option<bool>,
    /// Machines on which the check runs instead.
    elsewhere: Vec<String>,
    events: Option<u64>,
    secs: f64,
    detail: String,
}

/// All checks of one rung (one way of reading) on one kernel: a line of the table.
struct Line<'a> {
    kernel: &'a str,
    probe: &'a str,
    rung: &'a str,
    rows: Vec<&'a Row>,
}

impl Report {
    /// Returns true if a check or the machine failed.
    pub fn failed(&self) -> bool {
        match &self.outcome {
            Outcome::Skipped(_) => false,
            Outcome::Checked(checked) => checked.broken.is_some() || checked.count(Some(false)) > 0,
        }
    }

    /// Returns the failures, one line each, with the reason.
    fn failures(&self) -> Vec<String> {
        let Outcome::Checked(checked) = &self.outcome else { return vec![] };
        let failed = checked.results.iter().filter(|row| row.pass == Some(false));
        let each =
            failed.map(|row| format!("{} {}: {}", self.name, row.name(), first_line(&row.detail)));
        let broken =
            checked.broken.iter().map(|broken| format!("{}: {}", self.name, first_line(broken)));
        each.chain(broken).collect()
    }

    /// Returns true if the checks completed without `left`, a check that another machine left to
    /// this one.
    fn lacks(&self, left: &Row) -> bool {
        let Outcome::Checked(checked) = &self.outcome else { return false };
        let ran = |row: &Row| row.name() == left.name() && row.elsewhere.is_empty();
        checked.done && !checked.results.iter().any(ran)
    }

    /// Returns true if the machine ran and there was no check to run.
    pub fn is_empty(&self) -> bool {
        match &self.outcome {
            Outcome::Checked(checked) => checked.done && checked.results.is_empty(),
            Outcome::Skipped(_) => false,
        }
    }

    /// Returns the reason if the kernel was skipped.
    pub fn skipped(&self) -> Option<&str> {
        if let Outcome::Skipped(reason) = &self.outcome { Some(reason) } else { None }
    }

    fn lines(&self) -> Vec<Line<'_>> {
        let Outcome::Checked(checked) = &self.outcome else { return vec![] };
        let mut lines: Vec<Line<'_>> = Vec::new();
        for row in &checked.results {
            match lines.iter_mut().find(|line| line.probe == row.probe && line.rung == row.rung) {
                Some(line) => line.rows.push(row),
                None => {
                    lines.push(Line {
                        kernel: self.name,
                        probe: &row.probe,
                        rung: &row.rung,
                        rows: vec![row],
                    });
                }
            }
        }
        lines
    }

    fn summary(&self) -> String {
        let checked = match &self.outcome {
            Outcome::Skipped(reason) => return format!("skipped: {reason}"),
            Outcome::Checked(checked) => checked,
        };
        let release = if checked.release.is_empty() { "did not boot" } else { &checked.release };
        let (passed, failed) = (checked.count(Some(true)), checked.count(Some(false)));
        let elsewhere = checked.results.iter().filter(|row| !row.elsewhere.is_empty()).count();
        let not = checked.count(None) - elsewhere;
        let mut text = format!(
            "{release}: {passed} passed, {failed} failed, {not} not offered, {elsewhere} \
             elsewhere, {:.0} s",
            checked.secs
        );
        if let Some(broken) = &checked.broken {
            text.push_str(&format!("\n  error: {broken}"));
        }
        if self.failed() {
            text.push_str(&format!(
                "\n  hint: its complete output is in {}",
                checked.log.display()
            ));
        }
        text
    }
}

impl Checked {
    /// Records one line; returns the text to print if it is a result.
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
            elsewhere: line["elsewhere"].as_array().map_or_else(Vec::new, |names| {
                names.iter().filter_map(Value::as_str).map(str::to_owned).collect()
            }),
            events: line["events"].as_u64(),
            secs: line["secs"].as_f64().unwrap_or(0.0),
            detail: text("detail"),
        };
        let mark = mark(row.pass, coloured(&std::io::stderr()));
        let text = format!(
            "{mark}  {} by {}: {} ({:.1} s) {}",
            row.probe,
            row.rung,
            row.check,
            row.secs,
            row.why_not()
        );
        self.results.push(row);
        Some(text)
    }

    /// Returns the state of the checks for the progress line.
    pub fn state(&self) -> String {
        if self.announced == 0 {
            return "booting".to_owned();
        }
        format!("{} of {}", self.results.len(), self.announced)
    }

    fn count(&self, pass: Option<bool>) -> usize {
        self.results.iter().filter(|row| row.pass == pass).count()
    }
}

impl Row {
    /// Returns the unique name of the check on its machine, as `--only` takes it.
    fn name(&self) -> String {
        format!("{}/{}/{}", self.probe, self.rung, self.check)
    }

    /// Returns the machines on which the check runs instead, or its detail.
    fn why_not(&self) -> String {
        match &self.elsewhere[..] {
            [] => self.detail.clone(),
            machines => format!("elsewhere: {}", machines.join(" and ")),
        }
    }
}

impl Line<'_> {
    /// Returns false if one check failed, true if one passed, and `None` if no check was offered.
    fn pass(&self) -> Option<bool> {
        let any = |pass| self.rows.iter().any(|row| row.pass == Some(pass));
        if any(false) { Some(false) } else { any(true).then_some(true) }
    }

    fn events(&self) -> String {
        let events: u64 = self.rows.iter().filter_map(|row| row.events).sum();
        if self.rows.iter().any(|row| row.events.is_some()) {
            events.to_string()
        } else {
            "-".to_owned()
        }
    }

    fn checks(&self) -> String {
        let passed = self.rows.iter().filter(|row| row.pass == Some(true)).count();
        format!("{passed}/{}", self.rows.len())
    }

    /// Returns the checks that did not pass, with the reason; equal reasons are grouped.
    fn why(&self) -> String {
        let mut reasons: Vec<(String, Vec<&str>)> = Vec::new();
        for row in self.rows.iter().filter(|row| row.pass != Some(true)) {
            let reason = first_line(&row.why_not()).to_owned();
            match reasons.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, checks)) => checks.push(&row.check),
                None => reasons.push((reason, vec![&row.check])),
            }
        }
        let each = reasons.iter().map(|(reason, checks)| match checks.len() == self.rows.len() {
            true => reason.clone(),
            false => format!("{}: {reason}", checks.join(", ")),
        });
        each.collect::<Vec<_>>().join("; ")
    }
}

/// Number of the slowest checks that are listed.
const SLOWEST: usize = 10;

/// Returns the failures, one line each: the machine, the check and the reason. A check that
/// machines leave to each other, so that it runs on none, has failed too.
pub fn failures(reports: &[Report]) -> Vec<String> {
    let mut failures: Vec<String> = reports.iter().flat_map(Report::failures).collect();
    for report in reports {
        let Outcome::Checked(checked) = &report.outcome else { continue };
        for row in checked.results.iter().filter(|row| !row.elsewhere.is_empty()) {
            // A machine that was not requested, was unavailable or did not complete proves no
            // omission.
            let mut named =
                reports.iter().filter(|other| row.elsewhere.iter().any(|name| name == other.name));
            let failure = format!("{}: {}, but did not run there", row.name(), row.why_not());
            if named.any(|other| other.lacks(row)) && !failures.contains(&failure) {
                failures.push(failure);
            }
        }
    }
    failures
}

/// Formats a line for each rung of each kernel, then a line for each kernel.
pub fn print(reports: &[Report]) -> String {
    print_with(reports, coloured(&std::io::stdout()))
}

fn print_with(reports: &[Report], colour: bool) -> String {
    let lines: Vec<Line<'_>> = reports.iter().flat_map(Report::lines).collect();
    let width = |of: &dyn Fn(&Line<'_>) -> usize| lines.iter().map(of).max().unwrap_or(0).max(5);
    let (probe, rung) = (width(&|line| line.probe.len()), width(&|line| line.rung.len()));
    let mut text = format!(
        "{:<8}  {:<probe$}  {:<rung$}  {:>6}  {:>6}  result",
        "kernel", "probe", "by", "events", "checks"
    );
    for line in &lines {
        let row = format!(
            "\n{:<8}  {:<probe$}  {:<rung$}  {:>6}  {:>6}  {}  {}",
            line.kernel,
            line.probe,
            line.rung,
            line.events(),
            line.checks(),
            mark(line.pass(), colour),
            line.why()
        );
        text.push_str(row.trim_end_matches(' '));
    }
    text.push('\n');
    for report in reports {
        text.push_str(&format!("\n{:<8}  {}", report.name, report.summary()));
    }
    text.push_str(&slowest(reports));
    text
}

/// Formats the slowest checks.
fn slowest(reports: &[Report]) -> String {
    let rows = reports.iter().filter_map(|report| match &report.outcome {
        Outcome::Checked(checked) => Some(checked.results.iter().map(|row| (report.name, row))),
        Outcome::Skipped(_) => None,
    });
    let mut rows: Vec<_> = rows.flatten().filter(|(_, row)| row.secs >= 1.0).collect();
    rows.sort_by(|(_, a), (_, b)| b.secs.total_cmp(&a.secs));
    let each = rows
        .iter()
        .take(SLOWEST)
        .map(|(kernel, row)| format!("\n{:>5.0} s  {kernel:<8}  {}", row.secs, row.name()));
    let each: String = each.collect();
    if each.is_empty() { each } else { format!("\n\nSlowest:{each}") }
}

/// Returns the results as JSON, check by check.
pub fn json(reports: &[Report]) -> Value {
    let row = |row: &Row| {
        json!({"probe": row.probe, "rung": row.rung, "check": row.check, "pass": row.pass, "events": row.events,
               "elsewhere": row.elsewhere, "secs": row.secs, "detail": row.detail})
    };
    let one = |report: &Report| match &report.outcome {
        Outcome::Skipped(reason) => json!({"kernel": report.name, "skipped": reason}),
        Outcome::Checked(checked) => json!({
            "kernel": report.name, "release": checked.release, "secs": checked.secs, "failed": report.failed(),
            "broken": checked.broken, "results": checked.results.iter().map(row).collect::<Vec<_>>(),
        }),
    };
    json!(reports.iter().map(one).collect::<Vec<_>>())
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn coloured(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

fn mark(pass: Option<bool>, colour: bool) -> &'static str {
    match (pass, colour) {
        (Some(true), true) => "\x1b[32mok\x1b[0m  ",
        (Some(true), false) => "ok  ",
        (Some(false), true) => "\x1b[31mFAIL\x1b[0m",
        (Some(false), false) => "FAIL",
        (None, true) => "\x1b[33m-\x1b[0m   ",
        (None, false) => "-   ",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(lines: &[Value]) -> Checked {
        let mut checked = Checked { done: true, ..Checked::default() };
        lines.iter().for_each(|line| drop(checked.take(line)));
        checked
    }

    fn result(check: &str, pass: Option<bool>, detail: &str) -> Value {
        json!({"probe": "p", "rung": "r", "check": check, "pass": pass, "events": 2, "secs": 1.0, "detail": detail})
    }

    #[test]
    fn checks_of_one_rung_share_a_line() {
        let lines = [
            json!({"kernel": "6.1.0", "checks": 3}),
            result("a", Some(true), "fine"),
            result("b", Some(false), "refused"),
            result("c", Some(false), "refused"),
        ];
        let report = Report { name: "6.1", outcome: Outcome::Checked(checked(&lines)) };
        assert!(report.failed());
        let text = print_with(&[report], false);
        assert!(
            text.contains("6.1       p      r           6     1/3  FAIL  b, c: refused\n"),
            "{text}"
        );
        assert!(text.contains("6.1       6.1.0: 1 passed, 2 failed, 0 not offered"), "{text}");
    }

    #[test]
    fn each_failure_is_a_line_with_its_machine_and_reason() {
        let mut checked = checked(&[
            result("a", Some(true), "fine"),
            result("b", Some(false), "28 MiB of 18\nmore"),
        ]);
        checked.broken = Some("it hung\n    tail".to_owned());
        let reports = [Report { name: "5.10", outcome: Outcome::Checked(checked) }];
        assert_eq!(failures(&reports), ["5.10 p/r/b: 28 MiB of 18", "5.10: it hung"]);
    }

    #[test]
    fn a_check_that_runs_on_no_machine_failed() {
        let elsewhere = json!({"probe": "p", "rung": "r", "check": "a", "pass": null, "elsewhere": ["7.2"], "secs": 0.0});
        let report = |name, line: &Value| Report {
            name,
            outcome: Outcome::Checked(checked(std::slice::from_ref(line))),
        };
        let made = [report("6.1", &elsewhere), report("7.2", &result("a", Some(true), "fine"))];
        assert!(failures(&made).is_empty());
        assert!(
            print_with(&made, false).contains("0/1  -     elsewhere: 7.2\n"),
            "{}",
            print_with(&made, false)
        );
        assert!(failures(&made[..1]).is_empty(), "7.2 was not requested");
        let skipped = Report { name: "7.2", outcome: Outcome::Skipped("no network".into()) };
        assert!(failures(&[report("6.1", &elsewhere), skipped]).is_empty());
        let none = [report("6.1", &elsewhere), report("7.2", &result("b", Some(true), "fine"))];
        assert_eq!(failures(&none), ["p/r/a: elsewhere: 7.2, but did not run there"]);
    }

    #[test]
    fn the_slowest_checks_are_named() {
        let slow = json!({"probe": "p", "rung": "r", "check": "slow", "pass": true, "secs": 41.4});
        let report = Report {
            name: "6.1",
            outcome: Outcome::Checked(checked(&[result("a", None, ""), slow])),
        };
        let text = print_with(&[report], false);
        assert!(
            text.ends_with("Slowest:\n   41 s  6.1       p/r/slow\n    1 s  6.1       p/r/a"),
            "{text}"
        );
    }

    #[test]
    fn a_feature_that_is_not_offered_is_no_failure() {
        let report = Report {
            name: "host",
            outcome: Outcome::Checked(checked(&[result("a", None, "no PSI")])),
        };
        assert!(!report.failed());
        assert!(print_with(&[report], false).contains("0/1  -     no PSI"));
    }

    #[test]
    fn an_unavailable_kernel_reports_the_reason() {
        let report = Report { name: "7.2", outcome: Outcome::Skipped("no network".into()) };
        assert_eq!((report.failed(), report.skipped()), (false, Some("no network")));
        assert!(print_with(&[report], false).ends_with("7.2       skipped: no network"));
    }
}
