//! `spillway status`: asks the running agent for its state, and prints it.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::Path,
    time::Duration,
};

use anyhow::anyhow;

use super::{CommandError, load};
use crate::{
    act::{
        Journal, Pause,
        drain::{DrainPhase, StateFile},
    },
    sense::printable::is_printable,
    status::{
        StatusReport,
        client::{AskError, ask},
        text,
    },
};

/// Time for the agent to answer. It takes milliseconds, and a starved host has a thousand times as
/// long.
pub(super) const ANSWERS_WITHIN: Duration = Duration::from_secs(3);

/// Prints the status of the running agent.
///
/// # Errors
///
/// Returns an error if the configuration is invalid, or no agent answers;
/// [`CommandError::AlreadyReported`] if it no longer watches.
pub fn status(config: Option<&Path>, json: bool) -> Result<(), CommandError> {
    let state_dir = load(config)?.record.state_dir;
    let (answer, report) = ask_once(&state_dir)?;
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", printable_json(&String::from_utf8_lossy(&answer)))?;
    } else {
        let has_colour = out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let arguments =
            config.map_or_else(String::new, |file| format!(" --config {}", file.display()));
        out.write_all(text::print(&report, has_colour, &arguments).as_bytes())?;
    }
    if report.is_watching() { Ok(()) } else { Err(CommandError::AlreadyReported) }
}

/// Asks the agent for its report, and says what to do if there is none.
///
/// # Errors
///
/// Returns an error if no agent answers.
pub(super) fn ask_once(state_dir: &Path) -> Result<(Vec<u8>, StatusReport), CommandError> {
    ask(state_dir, ANSWERS_WITHIN).map_err(|error| {
        CommandError::Failed(match error {
            AskError::NoAgent(_) => anyhow!("{error}{}", left_behind(state_dir)),
            error => error.into(),
        })
    })
}

/// Describes what an agent that runs no more has left, and what to do.
fn left_behind(state_dir: &Path) -> String {
    let mut text = String::new();
    let entries =
        Journal::find(state_dir).ok().flatten().and_then(|journal| journal.entries().ok());
    if entries.is_some_and(|(entries, _)| !entries.is_empty()) {
        text.push_str("\n  an agent that was killed has left limits; `spillway undo` lifts them");
    }
    if StateFile::below(state_dir).peek().is_some_and(|saved| saved.phase != DrainPhase::Healthy) {
        text.push_str("\n  this node is out of rotation; the next agent goes on with that");
    }
    if Pause::below(state_dir).is_on() {
        text.push_str("\n  the next agent will start paused");
    }
    text + "\n  hint: `systemctl start spillway` starts one, `systemctl status spillway` says why \
            none runs; an agent with another record.state_dir is asked with --config FILE"
}

/// Escapes the characters of a JSON document that a terminal would act on. They are inside of
/// strings, or white space around values.
fn printable_json(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.trim().chars() {
        match c {
            '\t' | '\n' | '\r' => text.push(' '),
            c if is_printable(c) => text.push(c),
            c => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| {
                text.push_str(&format!("\\u{unit:04x}"));
            }),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_for_a_terminal_has_the_same_value() {
        let hostile = "{\"a\": [1,\n \"\u{202e}\u{9b}31m\u{e0041}é\", \"\\u001b\"]}\n";
        let shown = printable_json(hostile);
        assert!(shown.chars().all(is_printable), "{shown}");
        let [one, other] =
            [hostile, &shown].map(|text| serde_json::from_str::<serde_json::Value>(text).unwrap());
        assert_eq!(one, other);
    }
}
