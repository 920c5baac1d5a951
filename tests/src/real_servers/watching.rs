//! Agent that watches the scenes on its defaults, and what it claims.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::Stdio,
    time::Instant,
};

use anyhow::Context as _;
use flate2::{Compression, write::GzEncoder};
use serde_json::Value;

use crate::{ANY_PORT, Program, Running, Scratch, agent, run_with};

/// Agent that watches, and its recorder if traces are wanted.
pub struct Watching {
    agent: Running,
    recorder: Option<(Program, PathBuf)>,
    scratch: Scratch,
}

/// Claim about a server.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Time at which it was printed.
    pub at: Instant,
    /// `raised`, `updated` or `cleared`.
    pub state: String,
    /// Address that it is about; empty for a dependency.
    pub addr: String,
    /// `overload` or `cascade_risk`.
    pub verdict: String,
    /// Severity.
    pub severity: String,
    /// What the service is short of.
    pub scarce: Option<String>,
    /// Sentence.
    pub why: String,
}

impl Watching {
    /// Starts an agent for which the scenes' cgroups are services, as an operator lists them: about
    /// others it says nothing that is more than `info`. With `records`, everything that its sensors
    /// report is kept too.
    ///
    /// # Panics
    ///
    /// Panics if the agent does not start.
    pub fn start(name: &str, records: bool) -> Self {
        let scratch = Scratch::make(name);
        let config = format!("{ANY_PORT}[decide]\nservices = [\"/spillway-*\"]\n");
        let mut command = run_with(&scratch.file("spillway.toml", &config));
        command.arg("--json");
        let recorder = records.then(|| {
            let out = scratch.0.join("all.jsonl");
            let mut command = agent();
            command.args(["record", "--duration", "10h", "--out"]).arg(&out);
            (Program::start(command.stdout(Stdio::null()).stderr(Stdio::null())), out)
        });
        Self { agent: Running::start(command), recorder, scratch }
    }

    /// Claims about the server at these addresses or about its dependency, in order.
    pub fn claims(&self, netns: u32, watched: &[String], dependency: Option<&str>) -> Vec<Claim> {
        let mut claims = Vec::new();
        for printed in self.agent.printed_at() {
            let Ok(line) = serde_json::from_str::<Value>(&printed.line) else { continue };
            let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            let (verdict, addr) = (text("verdict"), text("addr"));
            let is_its = watched.contains(&addr)
                && (line["netns"] == netns || addr.starts_with("unix:") || line["netns"].is_null());
            let is_about_dependency = verdict == "cascade_risk"
                && dependency.is_some_and(|dependency| printed.line.contains(dependency));
            if (verdict == "overload" && is_its) || is_about_dependency {
                claims.push(Claim {
                    at: printed.at,
                    state: text("state"),
                    severity: text("severity"),
                    scarce: line["scarce"].as_str().map(str::to_owned),
                    why: text("why"),
                    verdict,
                    addr,
                });
            }
        }
        claims
    }

    /// Returns whether all claims about these addresses have been cleared; `None` if there is none.
    pub fn is_cleared(&self, netns: u32, watched: &[String]) -> Option<bool> {
        let claims = self.claims(netns, watched, None);
        let is_open = |addr: &String| {
            let last = claims.iter().rfind(|claim| claim.addr == *addr);
            last.is_some_and(|claim| claim.state != "cleared")
        };
        (!claims.is_empty()).then(|| !watched.iter().any(is_open))
    }

    /// Writes the part of the recording that concerns these addresses and the programs of this
    /// network namespace.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no recording or a file cannot be used.
    pub fn cut(&self, netns: u32, addresses: &[String], to: &Path) -> anyhow::Result<()> {
        let (_, all) = self.recorder.as_ref().context("nothing was recorded")?;
        let mut lines = BufReader::new(fs::File::open(all)?).lines();
        let header = lines.next().context("the recording is empty")??;
        let mut cut = GzEncoder::new(fs::File::create(to)?, Compression::best());
        writeln!(cut, "{header}")?;
        for line in lines.map_while(Result::ok) {
            let Ok(fact) = serde_json::from_str::<Value>(&line) else { continue };
            // The kernel gives the number of a namespace that is gone to the next one.
            let is_its = || {
                let addr = fact["addr"].as_str().unwrap_or_default();
                addresses.iter().any(|one| one == addr)
            };
            let keeps = match fact["kind"].as_str().unwrap_or_default() {
                "listener" | "requests" => is_its(),
                "outbound" => fact["netns"] == netns,
                "sensing" => true,
                _ => false,
            };
            if keeps {
                writeln!(cut, "{line}")?;
            }
        }
        cut.finish()?;
        Ok(())
    }

    /// Ends the agent.
    ///
    /// # Panics
    ///
    /// Panics if it fails.
    pub fn stop(self) {
        let (code, log) = self.agent.stop();
        assert_eq!(code, Some(0), "{log}");
        drop(self.recorder);
        drop(self.scratch);
    }
}
