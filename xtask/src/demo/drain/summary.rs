//! Comparison of the requests of both runs: pure.
//!
//! The number of failed requests is compared. The share that succeeded depends on how long requests
//! are counted, because HAProxy sends requests that no backend has started to another one.

use serde_json::{Value, json};

use super::super::summary::Row;
use super::super::verdict::Paint;

/// Minimum share of all requests that has to succeed with the agent.
const SHARE_MIN: f64 = 0.999;

/// Result of one run.
#[derive(Debug, Clone, PartialEq)]
struct Ran {
    requests: u64,
    failed: u64,
    drained_at_secs: Option<f64>,
    died_at_secs: Option<f64>,
}

/// Results of both runs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Drains {
    /// Reason if the scenario was not run.
    pub not_run: Option<String>,
    /// True if one of their processes still existed at the end.
    pub left_behind: bool,
    without: Option<Ran>,
    with: Option<Ran>,
}

impl Drains {
    /// Creates the result of a scenario that was not run, with the reason.
    pub fn not_run(why: String) -> Self {
        Self { not_run: Some(why), ..Self::default() }
    }

    /// Records a line of the scenario; returns the text to print, if any.
    pub fn note(&mut self, line: &Value) -> Option<String> {
        if let Some(why) = line["not_run"].as_str() {
            self.not_run = Some(why.to_owned());
            return None;
        }
        let with_agent = line["with_agent"].as_bool()?;
        if let Some(ran) = Ran::parse(&line["ran"]) {
            *(if with_agent { &mut self.with } else { &mut self.without }) = Some(ran);
            return None;
        }
        let (at, happened) = (line["at_secs"].as_f64()?, &line["happened"]);
        let text = match happened["event"].as_str()? {
            "loaded" => format!("under load for {} s", happened["secs"]),
            "drained" => format!(
                "the leaking backend is drained\n           why: {}",
                happened["why"].as_str()?
            ),
            "died" => "the leaking backend is killed, at its cgroup's limit".to_owned(),
            _ => return None,
        };
        Some(format!(
            "{at:7.1} s  {} the agent: {text}",
            if with_agent { "with" } else { "without" }
        ))
    }

    /// Returns the run in progress.
    pub fn doing(&self) -> &'static str {
        if self.without.is_none() { "without the agent" } else { "with the agent" }
    }

    /// Returns both runs as JSON.
    pub fn to_json(&self) -> Value {
        let ran = |ran: &Option<Ran>| ran.as_ref().map(Ran::to_json);
        json!({"not_run": self.not_run, "without_agent": ran(&self.without), "with_agent": ran(&self.with)})
    }
}

impl Ran {
    fn parse(ran: &Value) -> Option<Self> {
        Some(Self {
            requests: ran["requests"].as_u64()?,
            failed: ran["failed"].as_u64()?,
            drained_at_secs: ran["drained_at_secs"].as_f64(),
            died_at_secs: ran["died_at_secs"].as_f64(),
        })
    }

    fn share(&self) -> f64 {
        1.0 - self.failed as f64 / (self.requests as f64).max(1.0)
    }

    fn to_json(&self) -> Value {
        json!({
            "requests": self.requests,
            "failed": self.failed,
            "succeeded_share": self.share(),
            "drained_at_secs": self.drained_at_secs,
            "died_at_secs": self.died_at_secs,
        })
    }

    fn describe(&self) -> String {
        let at = |what: &str, secs: Option<f64>| {
            secs.map(|secs| format!("{what} at {secs:.1} s, ")).unwrap_or_default()
        };
        let (drained, died) =
            (at("drained", self.drained_at_secs), at("killed", self.died_at_secs));
        format!("{drained}{died}{} of {} failed", self.failed, self.requests)
    }
}

/// Compares the runs, for the demo's summary; empty if they were not run.
pub fn rows(drains: &Drains) -> Vec<Row> {
    if drains.not_run.is_some() {
        return Vec::new();
    }
    let seen = |ran: &Option<Ran>| ran.as_ref().map_or("no result".to_owned(), Ran::describe);
    let fails = |ran: &Ran| ran.died_at_secs.is_some() && ran.failed > 0;
    let saved = |ran: &Ran| {
        ran.drained_at_secs.is_some()
            && ran.died_at_secs.is_none()
            && ran.failed == 0
            && ran.share() >= SHARE_MIN
    };
    vec![
        Row {
            what: "drain: without the agent",
            expected: "a backend is killed, requests fail".into(),
            seen: seen(&drains.without),
            ok: drains.without.as_ref().is_some_and(fails),
        },
        Row {
            what: "drain: with the agent",
            expected: "drained before a request fails".into(),
            seen: seen(&drains.with),
            ok: drains.with.as_ref().is_some_and(saved),
        },
    ]
}

/// Formats both runs side by side; `None` if one is missing.
pub fn table(drains: &Drains, paint: Paint) -> Option<String> {
    let (without, with) = (drains.without.as_ref()?, drains.with.as_ref()?);
    let secs =
        |secs: Option<f64>| secs.map_or("\u{2013}".to_owned(), |secs| format!("{secs:.1} s"));
    let line = |what: &str, of: &dyn Fn(&Ran) -> String| {
        format!("{what:13}  {:>17}  {:>14}\n", of(without), of(with))
    };
    let mut text = format!(
        "{:13}  {:>17}  {:>14}\n{}\n",
        "",
        "without the agent",
        "with the agent",
        "-".repeat(48)
    );
    text.push_str(&line("requests", &|ran| ran.requests.to_string()));
    let failed = |ran: &Ran, width: usize| {
        paint.outcome(ran.failed == 0, &format!("{:>width$}", ran.failed))
    };
    text.push_str(&format!("{:13}  {}  {}\n", "failed", failed(without, 17), failed(with, 14)));
    text.push_str(&line("succeeded", &|ran| format!("{:.3} %", ran.share() * 100.0)));
    text.push_str(&line("drained after", &|ran| secs(ran.drained_at_secs)));
    text.push_str(&line("killed after", &|ran| secs(ran.died_at_secs)));
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(requests: u64, failed: u64, drained: Option<f64>, died: Option<f64>) -> Ran {
        Ran { requests, failed, drained_at_secs: drained, died_at_secs: died }
    }

    fn good() -> Drains {
        let (without, with) = (ran(10_153, 29, None, Some(12.3)), ran(9_968, 0, Some(4.2), None));
        Drains { without: Some(without), with: Some(with), ..Drains::default() }
    }

    /// Returns the rows that did not match.
    fn wrong(change: impl FnOnce(&mut Drains)) -> Vec<&'static str> {
        let mut drains = good();
        change(&mut drains);
        rows(&drains).iter().filter(|row| !row.ok).map(|row| row.what).collect()
    }

    #[test]
    fn lines_are_read_and_described() {
        let mut drains = Drains::default();
        let mut note = |line: Value| drains.note(&line);
        let loaded = json!({"with_agent": false, "at_secs": 0.0, "happened": {"event": "loaded", "secs": 16}});
        assert_eq!(note(loaded).unwrap(), "    0.0 s  without the agent: under load for 16 s");
        let drained = json!({"with_agent": true, "at_secs": 4.16, "happened": {"event": "drained", "why": "it leaks"}});
        let told =
            "    4.2 s  with the agent: the leaking backend is drained\n           why: it leaks";
        assert_eq!(note(drained).unwrap(), told);
        assert_eq!(note(json!("gibberish")), None);
        let mut ran = good().without.unwrap().to_json();
        assert_eq!(note(json!({"with_agent": false, "ran": ran})), None);
        ran = good().with.unwrap().to_json();
        assert_eq!(note(json!({"with_agent": true, "ran": ran})), None);
        assert_eq!(drains, good());
    }

    #[test]
    fn only_a_drain_before_any_failure_matches() {
        assert_eq!(wrong(|_| {}), [""; 0]);
        assert_eq!(
            wrong(|drains| drains.with = Some(ran(9_968, 1, Some(4.2), None))),
            ["drain: with the agent"]
        );
        assert_eq!(
            wrong(|drains| drains.with = Some(ran(9_968, 0, None, None))),
            ["drain: with the agent"]
        );
        assert_eq!(
            wrong(|drains| drains.with = Some(ran(9_968, 0, Some(4.2), Some(9.0)))),
            ["drain: with the agent"]
        );
        assert_eq!(wrong(|drains| drains.with = None), ["drain: with the agent"]);
        // Without a failure there is nothing to prevent, so nothing was shown.
        assert_eq!(
            wrong(|drains| drains.without = Some(ran(10_153, 0, None, Some(12.3)))),
            ["drain: without the agent"]
        );
        assert_eq!(
            wrong(|drains| drains.without = Some(ran(10_153, 29, None, None))),
            ["drain: without the agent"]
        );
        assert_eq!(wrong(|drains| drains.not_run = Some("no apt-get".into())), [""; 0]);
    }

    #[test]
    fn both_runs_are_shown_side_by_side() {
        let table = table(&good(), Paint(false)).unwrap();
        let expected = [
            "               without the agent  with the agent",
            "------------------------------------------------",
            "requests                   10153            9968",
            "failed                        29               0",
            "succeeded               99.714 %       100.000 %",
            "drained after                  \u{2013}           4.2 s",
            "killed after              12.3 s               \u{2013}",
        ];
        assert_eq!(table.lines().collect::<Vec<_>>(), expected);
    }
}
