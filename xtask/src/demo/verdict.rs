//! Verdicts: the agent's lines, and their text for the screen.
//!
//! Lines without a `verdict`, such as decisions, are skipped, and so are lines that are not JSON.

use std::io::{IsTerminal as _, Write as _};

use serde_json::Value;

/// A verdict, with the time at which it was seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Seconds since the workloads started.
    pub at: f64,
    /// Line of the agent.
    pub line: Value,
}

impl Verdict {
    /// Reads one line of the agent's standard output.
    pub fn parse(line: &str, at: f64) -> Option<Self> {
        let line: Value = serde_json::from_str(line).ok()?;
        line.get("verdict")?.as_str()?;
        Some(Self { at, line })
    }

    /// Returns true if a verdict of this kind is raised, not cleared.
    pub fn raised(&self, kind: &str) -> bool {
        self.line["verdict"] == kind && self.line["state"] == "raised"
    }

    /// Returns the pid, if the verdict names one.
    pub fn pid(&self) -> Option<u64> {
        self.line["pid"].as_u64()
    }

    /// Returns the listener, if the verdict names one.
    pub fn addr(&self) -> Option<&str> {
        self.line["addr"].as_str()
    }

    /// Returns a leak's growth.
    pub fn growth_bytes_per_sec(&self) -> Option<f64> {
        self.line["growth_bytes_per_sec"].as_f64()
    }

    /// Returns the forecast time to exhaustion.
    pub fn exhaustion_secs(&self) -> Option<f64> {
        self.line["exhaustion_secs"].as_f64()
    }

    /// Names the process or listener that the verdict is about.
    pub fn subject(&self) -> String {
        if let Some(addr) = self.addr() {
            return addr.to_owned();
        }
        let comm = self.line["comm"].as_str().unwrap_or("?");
        self.pid().map_or_else(|| comm.to_owned(), |pid| format!("{comm} (pid {pid})"))
    }

    /// Formats the complete verdict, on a few lines.
    pub fn describe(&self, paint: Paint) -> String {
        let kind = self.line["verdict"].as_str().unwrap_or("?").to_uppercase();
        let state = self.line["state"].as_str().unwrap_or("?");
        let colour = if state == "raised" { RED } else { GREEN };
        let head = paint.with(colour, &format!("{kind} {state}"));
        let mut text = format!("{:7.1} s  {head}  {}", self.at, paint.with(BOLD, &self.subject()));
        if let Some(cgroup) = self.line["cgroup"].as_str().filter(|cgroup| !cgroup.is_empty()) {
            text.push_str(&format!(" in {cgroup}"));
        }
        let mut facts = Vec::new();
        if let Some(growth) = self.growth_bytes_per_sec() {
            facts.push(format!("grows {}/s", bytes(growth)));
        }
        if let (Some(backlog), Some(max)) =
            (self.line["backlog"].as_u64(), self.line["backlog_max"].as_u64())
        {
            facts.push(format!("{backlog} of {max} connections waiting"));
        }
        if let Some(growth) = self.line["backlog_growth_per_sec"].as_f64() {
            facts.push(format!("{growth:+.1}/s"));
        }
        facts.push(
            self.exhaustion_secs()
                .map_or("no forecast".into(), |secs| format!("exhausted in {}", duration(secs))),
        );
        if let Some(confidence) = self.line["confidence"].as_f64() {
            facts.push(format!("confidence {:.0} %", confidence * 100.0));
        }
        text.push_str(&format!("\n           {}", facts.join(", ")));
        if let Some(why) = self.line["why"].as_str() {
            text.push_str(&format!("\n           why: {why}"));
        }
        text
    }
}

/// Formats a size with a binary unit.
pub fn bytes(bytes: f64) -> String {
    const UNITS: [&str; 4] = ["B", "KiB", "MiB", "GiB"];
    let mut value = bytes;
    let mut unit = 0;
    while value.abs() >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Formats a duration in its two largest units.
pub fn duration(secs: f64) -> String {
    let total_secs = secs.max(0.0).round() as u64;
    match total_secs {
        0..60 => format!("{:.1} s", secs.max(0.0)),
        60..3600 => format!("{} min {} s", total_secs / 60, total_secs % 60),
        3600..86_400 => format!("{} h {} min", total_secs / 3600, total_secs % 3600 / 60),
        _ => format!("{} d {} h", total_secs / 86_400, total_secs % 86_400 / 3600),
    }
}

const RED: &str = "31;1";
const GREEN: &str = "32";
const BOLD: &str = "1";

/// Switch for coloured output.
#[derive(Debug, Clone, Copy)]
pub struct Paint(pub bool);

impl Paint {
    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Colours a text: green if `ok`, otherwise red.
    pub fn outcome(self, ok: bool, text: &str) -> String {
        self.with(if ok { GREEN } else { RED }, text)
    }
}

/// Output for people: standard output, or standard error if standard output carries JSON.
#[derive(Debug, Clone, Copy)]
pub struct Screen {
    json: bool,
    /// Colours of this output.
    pub paint: Paint,
}

impl Screen {
    /// Creates the screen; with `json`, standard output is left to the JSON.
    pub fn new(json: bool) -> Self {
        let terminal =
            if json { std::io::stderr().is_terminal() } else { std::io::stdout().is_terminal() };
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { json, paint: Paint(terminal && !refused) }
    }

    /// Prints a line. A closed output is ignored, so that the demo can still clean up.
    pub fn line(self, text: &str) {
        if self.json {
            writeln!(std::io::stderr(), "{text}").ok();
        } else {
            writeln!(std::io::stdout(), "{text}").ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAK: &str = r#"{"t":412.0,"verdict":"leak","state":"raised","pid":812,"start_ticks":4711,"comm":"api","cgroup":"/a",
        "growth_bytes_per_sec":4194304.0,"exhaustion_secs":451.2,"confidence":0.98,"why":"grew in 20 of 20 windows"}"#;

    #[test]
    fn a_leak_is_described_with_evidence_and_forecast() {
        let verdict = Verdict::parse(LEAK, 20.0).unwrap();
        assert!(verdict.raised("leak") && !verdict.raised("overload"));
        assert_eq!(
            verdict.describe(Paint(false)),
            "   20.0 s  LEAK raised  api (pid 812) in /a\n           grows 4.0 MiB/s, exhausted in \
            7 min 31 s, confidence \
             98 %\n           why: grew in 20 of 20 windows"
        );
    }

    #[test]
    fn other_lines_are_skipped() {
        assert_eq!(Verdict::parse(r#"{"t":1.0,"decision":"page"}"#, 0.0), None);
        assert_eq!(Verdict::parse("not json", 0.0), None);
        assert_eq!(Verdict::parse("", 0.0), None);
    }

    #[test]
    fn sizes_and_durations_are_readable() {
        assert_eq!(bytes(4_194_304.0), "4.0 MiB");
        assert_eq!(bytes(-2048.0), "-2.0 KiB");
        assert_eq!(bytes(5e15), "4656612.9 GiB");
        assert_eq!(duration(9.96), "10.0 s");
        assert_eq!(duration(59.7), "1 min 0 s");
        assert_eq!(duration(8100.0), "2 h 15 min");
        assert_eq!(duration(200_000.0), "2 d 7 h");
    }
}
