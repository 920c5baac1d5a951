//! Agent that watches the scenes on its defaults, and what it claims.

use std::{env, time::Instant};

use anyhow::Context as _;
use serde_json::Value;
use spillway_agent::sense::{Fact, Observation};

use crate::{
    ANY_PORT, Running, Scratch,
    recorder::{Head, Recorder},
    run_with,
};

/// Agent that watches, and its recorder if traces are wanted.
pub struct Watching {
    agent: Running,
    recorder: Option<Recorder>,
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
    /// Resource that the service is short of.
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
            let recorder = Recorder::start().expect("sensors can be attached");
            let unix = format!("unix:{}/spillway-", env::temp_dir().display());
            let concerns = move |fact: &Fact| is_of_a_scene(fact, &unix);
            recorder.begin(Box::new(concerns)).expect("it has just been started");
            recorder
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

    /// Returns the part of the recording since `from`, its second 0, that concerns these addresses, and the
    /// connects from this network namespace.
    ///
    /// # Errors
    ///
    /// Returns an error if nothing is recorded.
    pub fn recorded(
        &self,
        from: Instant,
        netns: u32,
        addresses: &[String],
    ) -> anyhow::Result<(Head, Vec<Observation>)> {
        let recorder = self.recorder.as_ref().context("nothing is recorded")?;
        let (head, _) = recorder.so_far(|_| false)?;
        let from_secs = from.saturating_duration_since(head.origin).as_secs_f64();
        let is_its = |addr: &str| addresses.iter().any(|one| one == addr);
        // The kernel gives the number of a namespace that is gone to another one.
        let concerns = |fact: &Fact| match fact {
            Fact::Listener(fact) => is_its(&fact.addr),
            Fact::Requests(fact) => is_its(&fact.addr),
            Fact::Outbound(fact) => fact.netns == netns,
            _ => false,
        };
        let (head, mut own) = recorder.so_far(|observation| match observation.fact {
            Fact::Sensing(_) => true,
            _ => observation.t >= from_secs && concerns(&observation.fact),
        })?;
        own.iter_mut().for_each(|one| one.t = (one.t - from_secs).max(0.0));
        Ok((head, own))
    }

    /// Ends the agent.
    ///
    /// # Panics
    ///
    /// Panics if it fails.
    pub fn stop(self) {
        let (code, log) = self.agent.stop();
        assert_eq!(code, Some(0), "{log}");
        if let Some(recorder) = self.recorder {
            recorder.end().expect("the sensors go on");
        }
        drop(self.scratch);
    }
}

/// Returns true if a fact may be about a scene: others are not kept. `unix` begins the addresses of
/// UNIX listeners.
fn is_of_a_scene(fact: &Fact, unix: &str) -> bool {
    let is_its = |addr: &str| {
        addr.strip_prefix("127.0.0.1:").is_some_and(|port| port.len() == 5 && port.starts_with('2'))
            || addr.starts_with(unix)
    };
    match fact {
        Fact::Listener(fact) => is_its(&fact.addr),
        Fact::Requests(fact) => is_its(&fact.addr),
        Fact::Outbound(_) | Fact::Sensing(_) => true,
        _ => false,
    }
}
