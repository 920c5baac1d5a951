//! Second half of the demo: three backends behind Debian's HAProxy under load, one of which leaks
//! until it is killed, without the agent and with it.
//!
//! The scenario is the one of the tests, run by their `drain` binary; here it is started and its
//! progress is shown. If HAProxy is unavailable, the demo reports that this half was not run.

mod summary;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::bail;
use serde_json::Value;

pub use self::summary::{Drains, rows, table};
use super::supervised::Held;
use super::verdict::Screen;
use crate::progress::Progress;
use crate::signals::Interrupted;
use crate::{clock, setup, signals};

/// Maximum time for both runs: each is under load for a quarter of a minute, and starts five
/// programs before.
const AT_MOST: Duration = Duration::from_secs(120);

/// Returns the directory of HAProxy and wrk, or the reason if they are unavailable.
pub fn servers() -> anyhow::Result<Result<PathBuf, String>> {
    match setup::servers() {
        Ok(root) => Ok(Ok(root)),
        Err(error) if error.is::<Interrupted>() => Err(error),
        Err(error) => Ok(Err(format!("{error:#}"))),
    }
}

/// Runs the scenario, and prints its events.
pub fn watch(
    screen: Screen,
    program: &Path,
    agent: &Path,
    servers: Result<PathBuf, String>,
) -> anyhow::Result<Drains> {
    let servers = match servers {
        Ok(root) => root,
        Err(why) => return Ok(Drains::not_run(why)),
    };
    screen.line(
        "\nNow three backends run behind HAProxy under load, and one leaks with each request \
         until it is killed: first without the agent, then with an agent that works in \
         seconds instead of minutes, and drains the node. A leak needs no grant for this \
         drain; an overload would only lower the node's weight.",
    );
    let variable = |name: &str, value: &Path| format!("{name}={}", value.display());
    let mut command = Command::new("env");
    command
        .arg(variable("SPILLWAY_BIN", agent))
        .arg(variable("SPILLWAY_SERVERS", &servers))
        .arg(program);
    let mut runs = Held::start(&command)?;
    let mut drains = Drains::default();
    let (start, mut progress, mut detail) = (clock::now(), Progress::new(), String::new());
    loop {
        signals::check().inspect_err(|_| progress.clear())?;
        // Checked before the line is read, so that the last line is not missed.
        let ended = runs.ended()?;
        if let Some(line) = runs.next_line(Duration::from_millis(100)) {
            let line = serde_json::from_str(&line).unwrap_or(Value::Null);
            if let Some(text) = drains.note(&line) {
                progress.clear();
                screen.line(&text);
            }
            detail = drains.doing().to_owned();
            continue;
        }
        if let Some(code) = ended {
            progress.clear();
            if code != 0 {
                bail!(
                    "{} ended with exit code {code}\n  its log:{}",
                    program.display(),
                    runs.log()
                );
            }
            break;
        }
        if start.elapsed() > AT_MOST {
            progress.clear();
            bail!(
                "{} did not end within {} s\n  its log:{}",
                program.display(),
                AT_MOST.as_secs(),
                runs.log()
            );
        }
        progress.show("three backends under load", start.elapsed(), &detail);
    }
    drains.left_behind = runs.remains();
    Ok(drains)
}
