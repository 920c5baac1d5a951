//! Comparison of the demo's results with the expected ones: pure, so that every kind of failure is
//! tested.

use serde_json::{Value, json};

use super::verdict::{Paint, Verdict, bytes, duration};

/// Tolerance of a leak's stated growth, as a share of the true growth: a verdict that names the
/// right process for a wrong reason does not count.
const GROWTH_TOLERANCE: f64 = 0.5;

/// Expected results.
#[derive(Debug, Clone)]
pub struct Expected {
    /// Pid of the leaking process.
    pub leaker: u32,
    /// True growth of the leaking process.
    pub leak_bytes_per_sec: f64,
    /// Pid of the healthy process, which grows and then stops.
    pub cache: u32,
    /// Address of the listener that stops accepting.
    pub addr: String,
    /// Maximum delay of the overload verdict after the listener's last accept().
    pub overload_within_secs: f64,
}

/// Observed results.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// All verdicts, in order.
    pub verdicts: Vec<Verdict>,
    /// Time at which the server stopped accepting, in seconds since the workloads started.
    pub stopped_at: Option<f64>,
    /// True if the agent ended before it was stopped.
    pub agent_died: bool,
    /// Exit code of the agent.
    pub agent_exit: Option<i32>,
    /// Processes and files that still existed after everything was stopped.
    pub left_behind: Vec<String>,
}

/// Line of the summary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Subject of the comparison.
    pub what: &'static str,
    /// Expected result.
    pub expected: String,
    /// Observed result.
    pub seen: String,
    /// True if they match.
    pub ok: bool,
}

/// Returns true if all expected verdicts were raised.
pub fn complete(expected: &Expected, verdicts: &[Verdict]) -> bool {
    let leak = verdicts.iter().any(|v| v.raised("leak") && v.pid() == Some(expected.leaker.into()));
    let overload =
        verdicts.iter().any(|v| v.raised("overload") && v.addr() == Some(&expected.addr));
    leak && overload
}

/// Compares the results, line by line.
pub fn rows(expected: &Expected, seen: &Seen) -> Vec<Row> {
    let leaks = || seen.verdicts.iter().filter(|v| v.raised("leak"));
    let overloads = || seen.verdicts.iter().filter(|v| v.raised("overload"));
    let risks = || seen.verdicts.iter().filter(|v| v.raised("cascade_risk"));
    let (leaker, cache) = (Some(u64::from(expected.leaker)), Some(u64::from(expected.cache)));
    let leak = leaks().find(|v| v.pid() == leaker);
    let overload = overloads().find(|v| v.addr() == Some(&expected.addr));
    let agent = match (seen.agent_died, seen.agent_exit) {
        (true, code) => format!("ended by itself, exit code {}", code.unwrap_or(-1)),
        (false, Some(code)) => format!("exit code {code}"),
        (false, None) => "did not end, was killed".into(),
    };
    let left =
        if seen.left_behind.is_empty() { "nothing".into() } else { seen.left_behind.join(", ") };
    vec![
        Row {
            what: "leak: the process",
            expected: format!("pid {}", expected.leaker),
            seen: leak
                .map_or("none".into(), |v| format!("pid {} at {:.1} s", expected.leaker, v.at)),
            ok: leak.is_some(),
        },
        leak_evidence(expected.leak_bytes_per_sec, leak),
        none_of("leak: the healthy cache", leaks().filter(|v| v.pid() == cache)),
        none_of(
            "leak: any other process",
            leaks().filter(|v| v.pid() != leaker && v.pid() != cache),
        ),
        overload_row(expected, seen.stopped_at, overload),
        none_of(
            "overload: any other listener",
            overloads().filter(|v| v.addr() != Some(&expected.addr)),
        ),
        // The clients' connects to the stuck server fail: that risk is a correct verdict.
        none_of("cascade risk: any other", risks().filter(|v| v.addr() != Some(&expected.addr))),
        Row {
            what: "the agent",
            expected: "exit code 0 on SIGTERM".into(),
            seen: agent,
            ok: !seen.agent_died && seen.agent_exit == Some(0),
        },
        Row {
            what: "left behind",
            expected: "nothing".into(),
            seen: left,
            ok: seen.left_behind.is_empty(),
        },
    ]
}

fn leak_evidence(truth: f64, leak: Option<&Verdict>) -> Row {
    let growth = leak.and_then(Verdict::growth_bytes_per_sec);
    let forecast = leak.and_then(Verdict::exhaustion_secs);
    let seen = match (leak, growth) {
        (None, _) => "none".into(),
        (Some(_), growth) => format!(
            "{}, {}",
            growth.map_or("no growth".into(), |growth| format!("{}/s", bytes(growth))),
            forecast
                .map_or("no forecast".into(), |secs| format!("exhausted in {}", duration(secs)))
        ),
    };
    let right = growth.is_some_and(|growth| (growth - truth).abs() <= truth * GROWTH_TOLERANCE);
    let tolerance = GROWTH_TOLERANCE * 100.0;
    Row {
        what: "leak: its evidence",
        expected: format!("{}/s \u{b1} {tolerance:.0} %, a forecast", bytes(truth)),
        seen,
        ok: right && forecast.is_some(),
    }
}

fn overload_row(expected: &Expected, stopped_at: Option<f64>, overload: Option<&Verdict>) -> Row {
    let delay = overload.zip(stopped_at).map(|(verdict, stopped)| verdict.at - stopped);
    let seen = match (overload, delay) {
        (None, _) => "none".into(),
        (Some(verdict), None) => format!("at {:.1} s, while it still accepted", verdict.at),
        (Some(_), Some(delay)) if delay < 0.0 => format!("{:.1} s before it stopped", -delay),
        (Some(_), Some(delay)) => format!("{} {delay:.1} s after", expected.addr),
    };
    Row {
        what: "overload: the listener",
        expected: format!(
            "{} within {:.0} s of its last accept()",
            expected.addr, expected.overload_within_secs
        ),
        seen,
        ok: delay.is_some_and(|delay| (0.0..=expected.overload_within_secs).contains(&delay)),
    }
}

fn none_of<'a>(what: &'static str, wrong: impl Iterator<Item = &'a Verdict>) -> Row {
    let wrong: Vec<_> = wrong.map(|v| format!("{} at {:.1} s", v.subject(), v.at)).collect();
    let seen = if wrong.is_empty() { "none".into() } else { wrong.join(", ") };
    Row { what, expected: "none".into(), seen, ok: wrong.is_empty() }
}

/// Formats the rows as a table.
pub fn table(rows: &[Row], paint: Paint) -> String {
    let width = |of: fn(&Row) -> &str, head: &str| {
        rows.iter().map(|row| of(row).chars().count()).max().unwrap_or(0).max(head.chars().count())
    };
    let (a, b, c) =
        (width(|r| r.what, "what"), width(|r| &r.expected, "expected"), width(|r| &r.seen, "seen"));
    let mut text = format!("{:a$}  {:b$}  {:c$}  match\n", "what", "expected", "seen");
    text.push_str(&format!("{}\n", "-".repeat(a + b + c + 11)));
    for row in rows {
        let mark = paint.outcome(row.ok, if row.ok { "yes" } else { "NO" });
        text.push_str(&format!("{:a$}  {:b$}  {:c$}  {mark}\n", row.what, row.expected, row.seen));
    }
    text
}

/// Returns the rows and verdicts as JSON.
pub fn to_json(rows: &[Row], seen: &Seen) -> Value {
    let rows_json = |row: &Row| json!({"what": row.what, "expected": row.expected, "seen": row.seen, "ok": row.ok});
    json!({
        "ok": rows.iter().all(|row| row.ok),
        "rows": rows.iter().map(rows_json).collect::<Vec<_>>(),
        "stopped_accepting_at_secs": seen.stopped_at,
        "verdicts": seen.verdicts.iter().map(|v| json!({"at_secs": v.at, "line": v.line})).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected() -> Expected {
        let addr = "127.0.0.1:4000".to_owned();
        Expected {
            leaker: 10,
            leak_bytes_per_sec: 4e6,
            cache: 11,
            addr,
            overload_within_secs: 12.0,
        }
    }

    fn verdict(at: f64, line: Value) -> Verdict {
        Verdict::parse(&line.to_string(), at).unwrap()
    }

    fn leak(pid: u32, growth: f64) -> Verdict {
        let forecast = 400.0;
        let line = json!({"verdict": "leak", "state": "raised", "pid": pid, "comm": "x", "growth_bytes_per_sec": growth, "exhaustion_secs": forecast});
        verdict(20.0, line)
    }

    fn overload(at: f64, addr: &str) -> Verdict {
        verdict(at, json!({"verdict": "overload", "state": "raised", "addr": addr, "pid": 12}))
    }

    fn good() -> Seen {
        Seen {
            verdicts: vec![overload(11.0, "127.0.0.1:4000"), leak(10, 4.2e6)],
            stopped_at: Some(8.0),
            agent_died: false,
            agent_exit: Some(0),
            left_behind: vec![],
        }
    }

    /// Returns the rows that did not match.
    fn wrong(seen: &Seen) -> Vec<&'static str> {
        rows(&expected(), seen).iter().filter(|row| !row.ok).map(|row| row.what).collect()
    }

    fn with(change: impl FnOnce(&mut Seen)) -> Vec<&'static str> {
        let mut seen = good();
        change(&mut seen);
        wrong(&seen)
    }

    #[test]
    fn expected_results_match() {
        assert_eq!(wrong(&good()), [""; 0]);
        assert!(complete(&expected(), &good().verdicts));
        assert_eq!(to_json(&rows(&expected(), &good()), &good())["ok"], true);
    }

    #[test]
    fn missing_verdicts_are_incomplete() {
        let missing = ["leak: the process", "leak: its evidence", "overload: the listener"];
        assert_eq!(with(|seen| seen.verdicts.clear()), missing);
        assert!(!complete(&expected(), &[leak(10, 4e6)]));
    }

    #[test]
    fn a_wrong_process_does_not_match() {
        assert_eq!(with(|seen| seen.verdicts.push(leak(11, 4e6))), ["leak: the healthy cache"]);
        assert_eq!(with(|seen| seen.verdicts.push(leak(99, 4e6))), ["leak: any other process"]);
        assert_eq!(
            with(|seen| seen.verdicts.push(overload(20.0, "0.0.0.0:22"))),
            ["overload: any other listener"]
        );
        let risk = |addr: &str| {
            verdict(20.0, json!({"verdict": "cascade_risk", "state": "raised", "addr": addr}))
        };
        assert_eq!(with(|seen| seen.verdicts.push(risk("127.0.0.1:4000"))), [""; 0]);
        assert_eq!(
            with(|seen| seen.verdicts.push(risk("10.0.0.5:5432"))),
            ["cascade risk: any other"]
        );
    }

    #[test]
    fn wrong_evidence_does_not_match() {
        assert_eq!(with(|seen| seen.verdicts[1] = leak(10, 9e6)), ["leak: its evidence"]);
        assert_eq!(
            with(|seen| seen.verdicts[1].line["exhaustion_secs"] = Value::Null),
            ["leak: its evidence"]
        );
    }

    #[test]
    fn an_overload_too_early_or_too_late_does_not_match() {
        for at in [7.0, 21.0] {
            assert_eq!(with(|seen| seen.verdicts[0].at = at), ["overload: the listener"]);
        }
        assert_eq!(with(|seen| seen.stopped_at = None), ["overload: the listener"]);
    }

    #[test]
    fn a_cleared_verdict_is_not_a_wrong_one() {
        let cleared = |mut verdict: Verdict| {
            verdict.line["state"] = "cleared".into();
            verdict
        };
        assert_eq!(with(|seen| seen.verdicts.push(cleared(leak(99, 4e6)))), [""; 0]);
    }

    #[test]
    fn an_agent_that_dies_or_lingers_does_not_match() {
        assert_eq!(with(|seen| seen.agent_exit = Some(1)), ["the agent"]);
        assert_eq!(with(|seen| seen.agent_exit = None), ["the agent"]);
        assert_eq!(with(|seen| seen.agent_died = true), ["the agent"]);
        assert_eq!(with(|seen| seen.left_behind.push("a cgroup".into())), ["left behind"]);
    }

    #[test]
    fn the_table_lines_up() {
        let table = table(&rows(&expected(), &good()), Paint(false));
        let marks: Vec<_> = table.lines().skip(2).map(|line| line.chars().count()).collect();
        assert!(marks.windows(2).all(|pair| pair[0] == pair[1]), "{table}");
    }
}
