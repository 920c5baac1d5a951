//! The agent of the demo: the real one, with `configs/demo.toml`. Its standard output carries
//! verdicts.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::bail;

use super::supervised::Held;
use crate::progress::Progress;
use crate::workspace::is_root;
use crate::{clock, signals};

/// Line on the agent's standard error once its probes are attached.
const READY: &str = "spillway is watching";
/// Maximum time until that line: loading BPF programs takes a second or two, on an emulated CPU
/// ten.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// Starts the agent and waits until its probes are attached.
pub fn start(binary: &Path, config: &Path) -> anyhow::Result<Held> {
    if !is_root() {
        eprintln!("demo: the agent runs under sudo, since loading BPF programs needs root");
    }
    let mut agent =
        Held::start(Command::new(binary).args(["run", "--json", "--config"]).arg(config))?;
    let start = clock::now();
    let mut progress = Progress::new();
    while !agent.log().contains(READY) {
        signals::check().inspect_err(|_| progress.clear())?;
        progress.show("the agent is attaching its probes", start.elapsed(), "");
        agent.next_line(Duration::from_millis(100));
        let ended = agent.ended()?;
        if let Some(code) = ended {
            progress.clear();
            agent.next_line(Duration::from_millis(200));
            let log = agent.log();
            bail!(
                "the agent ended with exit code {code} before it was ready\n  its \
                log:{log}\n  hint: try `spillway doctor`"
            );
        }
        if start.elapsed() > READY_WITHIN {
            progress.clear();
            let (limit, log) = (READY_WITHIN.as_secs(), agent.log());
            bail!(
                "the agent did not print \"{READY}\" within {limit} s\n  its log:{log}\n  hint: \
                try `spillway doctor`"
            );
        }
    }
    progress.clear();
    eprintln!("  ok  the agent is watching ({:.1} s)", start.elapsed().as_secs_f64());
    Ok(agent)
}
