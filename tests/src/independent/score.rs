//! Score of the engine on a set: by run for precision and recall, by process-day for
//! false alarms.
//!
//! The engine is judged by what it prints, as any reader of `spillway replay` could: its verdicts as
//! JSON. A claim is right if it is about the subject, by process or by cgroup, and the leak goes on.
//! Any other is false; several about one process or cgroup in a day count once, with the worst
//! severity. A leak is found in time if a right claim stands by its `due`.

use std::{collections::HashMap, fmt::Write as _};

use serde::{Deserialize as _, Serialize};
use serde_json::Value;
use spillway_agent::{
    config::{Config, ServicePattern},
    detect::Severity,
    engine::{Engine, Output},
};

use super::{
    Set,
    facts::Sight,
    run::{Entry, Run},
    shapes::DAY,
    truth::Due,
    world::observations,
};
use crate::corpus::{
    Part, PartScore,
    manifest::Label,
    score::{Figure, Row, Table, Target, counts, quantile, rate, share},
};

/// Wrong claims about one process or cgroup in one day.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Wrong {
    /// First moment, on the run's clock.
    pub t: f64,
    /// Process or cgroup.
    pub about: String,
    /// Worst severity.
    pub severity: Severity,
    /// Explanation of the first.
    pub why: String,
}

/// Run with its outcome.
#[derive(Debug, Clone, Serialize)]
pub struct Scored {
    /// Entry in the set.
    #[serde(flatten)]
    pub entry: Entry,
    /// Truth about the leak.
    pub due: Option<Due>,
    /// Moment of the first right claim, on the run's clock.
    pub found_secs: Option<f64>,
    /// Worst severity of right claims.
    pub severity: Option<Severity>,
    /// Wrong claims.
    pub wrong: Vec<Wrong>,
    /// Verdicts other than leaks of memory, which count for nothing here.
    pub others: usize,
    /// Days of healthy processes watched, summed over processes.
    pub healthy_process_days: f64,
    /// Length of the run.
    pub lasted_secs: f64,
}

impl Scored {
    fn leaks(&self) -> bool {
        self.entry.label == Label::Leak
    }

    /// True if a right claim stood by the time it was due; a scan's length counts as at once.
    pub fn in_time(&self) -> bool {
        self.due
            .zip(self.found_secs)
            .is_some_and(|(due, found)| found <= due.due_secs + self.entry.interval_secs)
    }

    fn wrong_at_least(&self, severity: Severity) -> usize {
        self.wrong.iter().filter(|wrong| wrong.severity >= severity).count()
    }
}

/// Claim about memory, as printed.
struct Claim<'a> {
    t: f64,
    comm: &'a str,
    cgroup: &'a str,
    process: Option<(u64, u64)>,
    raised: bool,
    severity: Severity,
    why: &'a str,
}

impl<'a> Claim<'a> {
    /// `None` for other verdicts and for the end of a claim.
    fn new(verdict: &'a Value) -> Option<Self> {
        let text = |name: &str| verdict.get(name).and_then(Value::as_str);
        let resource = text("resource").unwrap_or("memory");
        let state = text("state")?;
        if text("verdict")? != "leak" || resource != "memory" || state == "cleared" {
            return None;
        }
        let number = |name: &str| verdict.get(name).and_then(Value::as_u64);
        Some(Self {
            t: verdict.get("t")?.as_f64()?,
            comm: text("comm").unwrap_or_default(),
            cgroup: text("cgroup").unwrap_or_default(),
            process: number("pid").zip(number("start_ticks")),
            raised: state == "raised",
            severity: verdict
                .get("severity")
                .and_then(|severity| Severity::deserialize(severity).ok())
                .unwrap_or(Severity::Info),
            why: text("why").unwrap_or_default(),
        })
    }

    fn is_about_subject(&self, entry: &Entry) -> bool {
        let subject = &entry.subject;
        // The container of a pod, or the pod of a container, stands for the workload.
        let inside = |outer: &str, inner: &str| {
            inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let same = inside(&subject.cgroup, self.cgroup);
        let pod = self.process.is_none() && inside(self.cgroup, &subject.cgroup);
        let whole = subject.comm.is_empty() || self.process.is_none() || self.comm.is_empty();
        (same || pod) && (whole || self.comm == subject.comm)
    }

    fn is_right(&self, entry: &Entry) -> bool {
        entry.leak_start_secs.is_some_and(|start| self.t >= start) && self.is_about_subject(entry)
    }
}

/// Sums of claims over a run.
#[derive(Default)]
struct Tally {
    found: Option<(f64, Severity)>,
    wrong: Vec<Wrong>,
    /// Place in `wrong` of the last about each subject, and its day.
    last: HashMap<String, (usize, u64)>,
    others: usize,
}

impl Tally {
    fn note(&mut self, verdict: &Value, entry: &Entry) {
        let Some(claim) = Claim::new(verdict) else {
            let raised = verdict.get("state").is_some_and(|state| state == "raised");
            self.others += usize::from(raised);
            return;
        };
        if claim.is_right(entry) {
            let (t, severity) = self.found.unwrap_or((claim.t, claim.severity));
            self.found = Some((t, severity.max(claim.severity)));
            return;
        }
        let about = claim.process.map_or_else(
            || claim.cgroup.to_owned(),
            |(pid, ticks)| format!("{} {pid}/{ticks} in {}", claim.comm, claim.cgroup),
        );
        let day = (claim.t / DAY) as u64;
        match self.last.get(&about) {
            Some((place, known)) if *known == day || !claim.raised => {
                let wrong = &mut self.wrong[*place];
                wrong.severity = wrong.severity.max(claim.severity);
            }
            _ => {
                self.last.insert(about.clone(), (self.wrong.len(), day));
                let (severity, why) = (claim.severity, claim.why.to_owned());
                self.wrong.push(Wrong { t: claim.t, about, severity, why });
            }
        }
    }
}

/// Runs the engine over a run. Every workload counts as a service that the operator named, so that no
/// claim is milder for being about somebody unknown.
///
/// # Errors
///
/// Returns an error if the run cannot be built or a verdict cannot be printed.
pub fn score_run(entry: &Entry) -> anyhow::Result<Scored> {
    let mut run = Run::open(entry)?;
    let mut config = Config::default();
    config.decide.services = vec![ServicePattern::new("/*").map_err(anyhow::Error::msg)?];
    let (mut engine, mut output) = (Engine::new(&config, run.host()), Output::default());
    let (mut tally, mut healthy, mut t) = (Tally::default(), 0_u64, 0.0);
    while let Some(seen) = run.scan() {
        for observation in observations(&seen) {
            t = observation.t;
            engine.apply_into(&observation, &mut output);
            output.decisions.clear();
            for verdict in output.verdicts.drain(..) {
                tally.note(&serde_json::to_value(&verdict)?, entry);
            }
        }
        let leaking = entry.leak_start_secs.is_some_and(|start| t >= start);
        healthy += seen
            .iter()
            .filter(|sight| match sight {
                Sight::Process(_, process) => {
                    !(leaking
                        && process.cgroup.starts_with(&entry.subject.cgroup)
                        && (*process.comm == *entry.subject.comm || entry.subject.comm.is_empty()))
                }
                _ => false,
            })
            .count() as u64;
    }
    Ok(Scored {
        entry: entry.clone(),
        due: run.due(),
        found_secs: tally.found.map(|found| found.0),
        severity: tally.found.map(|found| found.1),
        wrong: tally.wrong,
        others: tally.others,
        healthy_process_days: healthy as f64 * entry.interval_secs / DAY,
        lasted_secs: t,
    })
}

/// Outcomes of one mechanism.
#[derive(Debug, Clone, Serialize)]
pub struct MechanismRow {
    /// Name.
    pub mechanism: String,
    /// Number of runs.
    pub runs: usize,
    /// Leaks found in time, late, and never; `None` if it is healthy.
    pub found: Option<[usize; 3]>,
    /// Runs with a wrong claim of any kind, and with a wrong warning or critical.
    pub wrong: [usize; 2],
    /// True if nobody can tell it from a leak: in no target.
    pub untellable: bool,
}

/// Score of a set.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Part of the corpus.
    pub part: Part,
    /// Seed of the set.
    pub seed: u64,
    /// Number of runs that count.
    pub runs: usize,
    /// Number of them with a leak.
    pub leaks: usize,
    /// Process-days of healthy processes in them.
    pub healthy_process_days: f64,
    /// Figures of the score.
    pub rows: Vec<Row>,
    /// Outcomes by mechanism.
    pub mechanisms: Vec<MechanismRow>,
}

fn rows(scored: &[&Scored]) -> Vec<Row> {
    let row = |what, target, figure: Figure| Row { what, figures: vec![figure], target };
    let precision = |least: Severity| {
        let right = scored.iter().filter(|run| run.severity.is_some_and(|is| is >= least)).count();
        let wrong = scored.iter().filter(|run| run.wrong_at_least(least) > 0).count();
        share(right, right + wrong)
    };
    let days = scored.iter().map(|run| run.healthy_process_days).sum::<f64>();
    let false_alarms = |least: Severity| {
        rate(scored.iter().map(|run| run.wrong_at_least(least) as u64).sum(), days / 1_000.0)
    };
    let leaks: Vec<_> = scored.iter().filter(|run| run.leaks()).collect();
    let found = leaks.iter().filter(|run| run.found_secs.is_some()).count();
    let in_time = leaks.iter().filter(|run| run.in_time()).count();
    let spent: Vec<_> = leaks
        .iter()
        .filter_map(|run| {
            let (due, found) = (run.due?, run.found_secs?);
            let from = due.start_secs.max(0.0);
            Some((found - from) / (due.due_secs - from))
        })
        .collect();
    vec![
        row(
            "precision of warning and critical",
            Some(Target::AtLeast(0.99)),
            precision(Severity::Warning),
        ),
        row("precision of all verdicts", Some(Target::AtLeast(0.97)), precision(Severity::Info)),
        row("recall in time", Some(Target::AtLeast(0.97)), share(in_time, leaks.len())),
        row("recall at any time", None, share(found, leaks.len())),
        row(
            "false warnings in 1,000 process-days",
            Some(Target::AtMost(1.0)),
            false_alarms(Severity::Warning),
        ),
        row(
            "false of any kind in 1,000 p.-days",
            Some(Target::AtMost(3.0)),
            false_alarms(Severity::Info),
        ),
        row("median share of the time that was used", None, quantile(&spent, 0.5)),
    ]
}

impl PartScore<Scored> for Report {
    fn new(part: Part, scored: &[Scored]) -> Self {
        // A score is of one set: all runs, or none.
        let set = scored.first().map(|run| run.entry.set).filter(|set| set.part() == part);
        let all: &[Scored] = if set.is_some() { scored } else { &[] };
        let counted: Vec<_> = all.iter().filter(|run| !run.entry.untellable).collect();
        let of = |name: &str| {
            let own: Vec<_> = all.iter().filter(|run| run.entry.mechanism == name).collect();
            let count = |is: &dyn Fn(&Scored) -> bool| own.iter().filter(|run| is(run)).count();
            let in_time = count(&Scored::in_time);
            let found = count(&|run| run.found_secs.is_some());
            let first = own.first()?;
            Some(MechanismRow {
                mechanism: name.to_owned(),
                runs: own.len(),
                found: first.leaks().then(|| [in_time, found - in_time, own.len() - found]),
                wrong: [Severity::Info, Severity::Warning]
                    .map(|least| count(&|run| run.wrong_at_least(least) > 0)),
                untellable: first.entry.untellable,
            })
        };
        Self {
            part,
            seed: all.first().map_or(0, |run| run.entry.seed),
            runs: counted.len(),
            leaks: counted.iter().filter(|run| run.leaks()).count(),
            healthy_process_days: counted.iter().map(|run| run.healthy_process_days).sum(),
            rows: rows(&counted),
            mechanisms: set
                .into_iter()
                .flat_map(Set::mechanisms)
                .filter_map(|(mechanism, _)| of(mechanism.name))
                .collect(),
        }
    }

    fn runs(&self) -> usize {
        self.runs
    }

    fn rows(&self) -> &[Row] {
        &self.rows
    }

    fn render(&self) -> String {
        let counts = counts(self.leaks, self.runs - self.leaks, self.healthy_process_days);
        let what = format!("seed {}, {counts}", self.seed);
        let table =
            Table { part: self.part, what, rules: &["spillway"], rows: &self.rows, families: &[] };
        let mut text = table.figures();
        let _ = writeln!(
            text,
            "\n{:<24}{:>6}{:>10}{:>7}{:>7}{:>9}{:>13}",
            "mechanism", "runs", "in time", "late", "never", "wrong", "as warning"
        );
        for row in &self.mechanisms {
            let _ = write!(text, "{:<24}{:>6}", row.mechanism, row.runs);
            let [in_time, late, never] = row.found.map_or_else(
                || [const { String::new() }; 3],
                |found| found.map(|count| count.to_string()),
            );
            let _ = write!(text, "{in_time:>10}{late:>7}{never:>7}");
            let _ = write!(text, "{:>9}{:>13}", row.wrong[0], row.wrong[1]);
            text.push_str(if row.untellable { "  untellable: in no target\n" } else { "\n" });
        }
        text
    }
}
