//! Report of the agent's status for a person at a terminal: the worst incident first, what was done
//! about it, and which command to run next. Pure.
//!
//! Lines have at most [`COLUMNS`] columns. Everything in the report is made printable, because its
//! names are chosen by others and the report itself comes from another process.

use std::{fmt::Write as _, mem};

use super::report::{
    ActionEntry, ChangeEntry, DrainSection, FleetMargin, FleetSection, IncidentEntry, StatusReport,
};
use crate::{
    act::notify::printable,
    sense::identity::Identity,
    units::{Count, Size, Span, clock_time},
};

/// Width of a line.
const COLUMNS: usize = 80;

/// Width of the labels at its beginning.
const LABEL: usize = 10;

/// Incidents, and changes, that are printed. `--json` has more.
const LISTED_MAX: usize = 5;

/// Maximum length of a printed text, in characters.
const TEXT_CHARS_MAX: usize = 1_000;

/// Age of the last question of a balancer from which none seems to ask. A guess: the longest usual
/// interval of checks, several times.
pub const ASKS_WITHIN_SECS: f64 = 300.0;

/// Colour of a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Paint {
    Plain,
    Bold,
    Yellow,
    Red,
}

/// Text in the making.
struct Page {
    text: String,
    has_colour: bool,
}

/// Prints a report. `arguments` follow each command that it names, such as ` --config FILE`.
pub fn print(report: &StatusReport, has_colour: bool, arguments: &str) -> String {
    let mut page = Page { text: String::new(), has_colour };
    page.head(report);
    page.incidents(report);
    page.changes(report);
    page.line("Rotation", Paint::Bold, &rotation(&report.drain, &report.at));
    if let Some(fleet) = &report.fleet {
        page.line("Group", Paint::Bold, &group(fleet));
    }
    page.line("Actions", Paint::Bold, &actions(report));
    page.line("Notifies", Paint::Bold, &notifies(report));
    page.sight(report);
    page.commands(report, arguments);
    page.text
}

impl Page {
    /// Adds a line, wrapped behind its label.
    fn line(&mut self, label: &str, paint: Paint, text: &str) {
        let text = printable(text, TEXT_CHARS_MAX);
        let mut label = printable(label, LABEL - 1);
        for line in wrapped(&text, COLUMNS - LABEL) {
            let painted = self.painted(&format!("{label:LABEL$}"), paint);
            let _ = writeln!(self.text, "{}", format!("{painted}{line}").trim_end());
            label.clear();
        }
    }

    fn painted(&self, text: &str, paint: Paint) -> String {
        let code = match paint {
            _ if !self.has_colour || text.trim().is_empty() => return text.to_owned(),
            Paint::Plain => return text.to_owned(),
            Paint::Bold => "1",
            Paint::Yellow => "1;33",
            Paint::Red => "1;31",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    fn blank(&mut self) {
        self.text.push('\n');
    }

    fn head(&mut self, report: &StatusReport) {
        let StatusReport { version, host, pid, mode, .. } = report;
        let state = match (report.paused, report.mode.as_str()) {
            (true, "observe") => "only observes, and is paused as well",
            (true, _) => "is PAUSED: it watches, and starts no action",
            (false, "observe") => "only observes: it changes nothing on this host",
            (false, _) => "watches and acts",
        };
        let text = format!("Spillway {version} on {host} {state}");
        for line in wrapped(&printable(&text, TEXT_CHARS_MAX), COLUMNS) {
            let line = self.painted(&line, Paint::Bold);
            let _ = writeln!(self.text, "{line}");
        }
        let hang = report.health.reasons.iter().find(|reason| reason.kind == "hang");
        if let Some(hang) = hang {
            let text = format!(
                "it no longer watches this host: {}. `systemctl restart spillway` starts it anew; \
                 `journalctl -u spillway` has its log",
                hang.detail
            );
            self.line("HANGS", Paint::Red, &text);
        }
        let up = Span(report.uptime_secs);
        let file = report.config.as_deref().unwrap_or("no configuration file");
        self.line(
            "Agent",
            Paint::Bold,
            &format!("up for {up}; pid {pid}; mode = \"{mode}\"; {file}"),
        );
        self.blank();
    }

    fn incidents(&mut self, report: &StatusReport) {
        if report.incidents.is_empty() {
            self.line("Incidents", Paint::Bold, "none is open");
            return self.blank();
        }
        for incident in report.incidents.iter().take(LISTED_MAX) {
            self.incident(incident, report);
            self.blank();
        }
        let listed = report.incidents.len().min(LISTED_MAX) as u64;
        if report.incidents_total > listed {
            let more = Count(report.incidents_total - listed);
            let text =
                format!("{more} more incidents are open; `spillway status --json` lists them");
            self.line("and", Paint::Bold, &text);
            self.blank();
        }
    }

    fn incident(&mut self, incident: &IncidentEntry, report: &StatusReport) {
        let paint = match incident.severity.as_str() {
            "critical" => Paint::Red,
            "warning" => Paint::Yellow,
            _ => Paint::Bold,
        };
        self.line(&incident.severity.to_uppercase(), paint, &incident.headline);
        let sure = incident.confidence * 100.0;
        let since = clock_time(&incident.since, &report.at);
        let mut since = format!("{since}, for {}; {sure:.0} % sure", Span(incident.lasted_secs));
        if incident.claims > 1 {
            let _ = write!(since, "; {} claims, one cause", Count(incident.claims));
        }
        self.line("  since", Paint::Plain, &since);
        let evidence = incident.first_evidence();
        self.line("  why", Paint::Plain, evidence);
        if incident.why != evidence {
            self.line("  now", Paint::Plain, &incident.why);
        }
        if !incident.severity_why.is_empty() && incident.severity_why != incident.why {
            self.line("  harm", Paint::Plain, &incident.severity_why);
        }
        if !incident.also.is_empty() {
            self.line("  also", Paint::Plain, &incident.also.join(", "));
        }
        let wants = if report.mode == "observe" { "  would" } else { "  not set" };
        for (label, is_it) in [
            ("  done", (|state| !matches!(state, "would" | "refused")) as fn(&str) -> bool),
            (wants, |state| state == "would"),
            ("  refused", |state| state == "refused"),
        ] {
            let texts: Vec<_> = incident
                .actions
                .iter()
                .filter(|action| is_it(&action.state))
                .map(|action| action_text(action, report))
                .collect();
            if !texts.is_empty() {
                self.line(label, Paint::Plain, &texts.join("; "));
            }
        }
        if let Some(node) = &incident.paged_by {
            self.line("  paged", Paint::Plain, &format!("by node {node}, which has it too"));
        }
        let workload = incident.identity.as_ref().map(Identity::sentence).unwrap_or_default();
        if !workload.is_empty() {
            self.line("  what", Paint::Plain, &workload);
        }
        self.line("  to do", Paint::Plain, &incident.advice);
    }

    fn changes(&mut self, report: &StatusReport) {
        let mut label = "Changed";
        for change in report.changes.iter().take(LISTED_MAX) {
            self.line(label, Paint::Bold, &change_text(change, &report.at));
            label = "";
        }
        let listed = report.changes.len().min(LISTED_MAX) as u64;
        if report.changes_total > listed {
            let more = Count(report.changes_total - listed);
            self.line(
                "",
                Paint::Bold,
                &format!("{more} more; `spillway status --json` lists them"),
            );
        }
        if report.changes.is_empty() {
            self.line(label, Paint::Bold, "nothing on this host");
        }
    }

    /// Adds what the agent sees, and what it does not.
    fn sight(&mut self, report: &StatusReport) {
        let attached = report.probes.iter().filter(|probe| probe.state == "attached").count();
        let (seen, all) = (attached, report.probes.len());
        let text = match all - seen {
            _ if all == 0 => "nothing before the first scan".to_owned(),
            0 => format!("everything: all {all} probes are at their best"),
            _ => format!("{seen} of {all} probes are at their best"),
        };
        self.line("Sees", Paint::Bold, &text);
        for probe in report.probes.iter().filter(|probe| probe.state != "attached") {
            let lacks = probe.lacks.as_deref().unwrap_or("less than it could");
            self.line("  less", Paint::Plain, &format!("{}: {lacks}", probe.probe));
        }
        let told = ["probe", "hang", "notification"];
        let others = report.health.reasons.iter();
        for reason in others.filter(|reason| !told.contains(&reason.kind.as_str())) {
            self.line("  trouble", Paint::Yellow, &reason.detail);
        }
    }

    /// Adds the commands that make sense now.
    fn commands(&mut self, report: &StatusReport, arguments: &str) {
        let acts = report.mode != "observe";
        let by_operator = report.drain.operator.is_some();
        let has_changes = report.changes_total > 0;
        let has_less = report.probes.iter().any(|probe| probe.state != "attached");
        let commands = [
            (acts && !report.paused, "pause", "stop all new actions"),
            (report.paused, "resume", "allow actions again"),
            (!report.paused && by_operator, "resume", "leave the rotation to Spillway again"),
            (has_changes || report.drain.out, "undo", "restore everything that it changed"),
            (!report.drain.out, "drain", "take this node out of rotation"),
            (report.drain.out, "undrain", "take this node back into rotation"),
            (has_less, "doctor", "see why a probe is not at its best"),
        ];
        let commands: Vec<_> = commands
            .into_iter()
            .filter(|(makes_sense, ..)| *makes_sense)
            .map(|(_, command, effect)| {
                let command = format!("spillway {command}{arguments}");
                (printable(&command, TEXT_CHARS_MAX), effect)
            })
            .collect();
        let width = commands.iter().map(|(command, _)| command.chars().count()).max();
        let width = width.unwrap_or_default();
        let fits = |effect: &str| 2 + width + 2 + effect.len() <= COLUMNS;
        let is_table = commands.iter().all(|(_, effect)| fits(effect));
        self.blank();
        for (command, effect) in commands {
            let _ = match is_table {
                true => writeln!(self.text, "  {command:width$}  {effect}"),
                // A command is not broken, so that it can be copied.
                false => writeln!(self.text, "  to {effect}:\n    {command}"),
            };
        }
    }
}

/// Returns what the group could lose, or why this node does not know.
pub(crate) fn group(fleet: &FleetSection) -> String {
    let FleetSection { group, backend, .. } = fleet;
    match (fleet.coordinated, &fleet.problem) {
        (None, _) => return format!("{group}; {backend} has not answered yet"),
        (Some(false), problem) => {
            let why = problem.as_deref().unwrap_or("it does not answer");
            return format!("{group}; without its coordinator this node does not leave: {why}");
        }
        (Some(true), _) => {}
    }
    let mut text = format!("{group}; {backend} answers");
    for margin in &fleet.margins {
        let can = if margin.can_be_lost { "could" } else { "could NOT" };
        let ratio = match margin.ratio {
            Some(ratio) => format!("the others have room for {ratio:.1} times its load"),
            None => "it has no load".to_owned(),
        };
        let FleetMargin { domain, name, .. } = margin;
        // Writing to a String cannot fail.
        let _ = write!(text, "; it {can} lose {domain} {name}: {ratio}");
    }
    text
}

/// Describes where the node is in its rotation.
pub fn rotation(drain: &DrainSection, at: &str) -> String {
    let mut text = match drain.state.as_str() {
        "healthy" if drain.out => "no new work is accepted".to_owned(),
        "healthy" => format!("in service ({})", drain.answer),
        "drain_requested" => "a drain is requested, and not granted yet".to_owned(),
        "draining" => "draining: no new work is accepted".to_owned(),
        "drained" => "drained: out of service".to_owned(),
        "verifying" => "out of service until it is certain that the reason is over".to_owned(),
        "undrain_requested" => "coming back: balancers are asked to send work again".to_owned(),
        other => other.to_owned(),
    };
    if let Some(work) = drain.work.as_ref().filter(|_| drain.out) {
        let _ = write!(text, "; {work}");
    }
    if let Some(since) = drain.since.as_ref().filter(|_| drain.state != "healthy") {
        let _ = write!(text, "; since {}", clock_time(since, at));
    }
    match (drain.operator.as_deref(), &drain.why) {
        (Some("undrain"), _) => text.push_str("; kept in service by an operator"),
        (Some(_), _) => text.push_str("; by an operator"),
        (None, Some(why)) if drain.state != "healthy" => {
            let _ = write!(text, "; because {why}");
        }
        _ => {}
    }
    if let Some(until) = &drain.until {
        let _ = write!(text, "; {until}");
    }
    if let Some(obstacle) = &drain.obstacle {
        let _ = write!(text, ". Last reply: {obstacle}");
    }
    text
}

pub(crate) fn actions(report: &StatusReport) -> String {
    let budget = &report.budget;
    let mut text = match (report.paused, report.mode.as_str()) {
        (true, _) => "paused until `spillway resume`; ".to_owned(),
        (false, "observe") => "none is taken, because of mode = \"observe\"; ".to_owned(),
        _ => String::new(),
    };
    let _ = write!(text, "{} of {} are left this hour", budget.left, budget.per_hour);
    if budget.for_drain > 0 {
        let _ = write!(text, ", {} of them for a drain alone", budget.for_drain);
    }
    if let Some(secs) = budget.next_secs.filter(|_| budget.left == 0) {
        let _ = write!(text, ", the next in {}", Span(secs));
    }
    text
}

pub(super) fn notifies(report: &StatusReport) -> String {
    let notifications = &report.notifications;
    if notifications.receivers.is_empty() {
        let observes = match report.mode.as_str() {
            "observe" => ", or act.page.in_observe is not",
            _ => "",
        };
        return format!("nobody: no receiver is set in [act.page]{observes}");
    }
    let mut text = notifications.receivers.join(", ");
    match notifications.waiting {
        0 => text.push_str("; everything is delivered"),
        1 => text.push_str("; 1 notification is not delivered yet"),
        waiting => {
            let _ = write!(text, "; {} notifications are not delivered yet", Count(waiting));
        }
    }
    for problem in &notifications.problems {
        let _ = write!(text, "; {problem}");
    }
    text
}

/// Returns a word for the state of an action.
pub(crate) fn action_label(state: &str) -> &'static str {
    match state {
        "would" => "would",
        "refused" => "refused",
        _ => "done",
    }
}

/// Describes an action for an incident.
pub(crate) fn action_text(action: &ActionEntry, report: &StatusReport) -> String {
    let ActionEntry { action, state, why, .. } = action;
    let effect = match action.as_str() {
        "page" => "page a person",
        "limit" => "limit its memory",
        "shed" => "shed load",
        "weigh" => "lower this node's weight",
        "drain" => "drain this node",
        other => other,
    };
    let done = match state.as_str() {
        "would" => return effect.to_owned(),
        "refused" => effect,
        "ordered" if action == "page" => {
            return match report.notifications.receivers.as_slice() {
                [] => "paged".to_owned(),
                receivers => format!("paged by {}", receivers.join(", ")),
            };
        }
        "ordered" if action == "weigh" => return "lowered this node's weight".to_owned(),
        "ordered" => return format!("begins to {effect}"),
        "limited" | "tightened" => "limited",
        "failed" => "could not limit its memory",
        "reasserted" => "limited again",
        "yielded" => "gave the limit up",
        "backed_off" | "widened" => "raised the limit",
        "slowed" => "throttled its CPU",
        "thrashing" => "the limit does not help",
        "still" => "contained",
        "held" => "keeps the limit",
        "undone" => "lifted the limit",
        "gone" => "the cgroup is gone",
        "drain_refused" => "could not drain this node",
        "drain_useless" => "gave the drain up",
        "shedding" => "sheds load",
        "shed_refused" | "shed_failed" => "sheds no load",
        "shed_yielded" => "gave shedding up",
        "unshed" => "sheds no load any more",
        other => return with_reason(&other.replace('_', " "), why),
    };
    with_reason(done, why)
}

fn with_reason(done: &str, why: &str) -> String {
    if why.is_empty() { done.to_owned() } else { format!("{done}: {why}") }
}

pub(crate) fn change_text(change: &ChangeEntry, at: &str) -> String {
    let ChangeEntry { subject, until, .. } = change;
    let since = clock_time(&change.since, at);
    match change.limit_bytes {
        Some(bytes) => {
            let size = Size(bytes as f64);
            format!("{subject} may use {size} of memory since {since}, {until}")
        }
        None => format!("{subject} has a shorter accept queue since {since}, {until}"),
    }
}

/// Breaks a text into lines of at most so many characters: between words, or within one that is
/// longer than a line.
pub(crate) fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let (mut lines, mut line, mut used) = (Vec::new(), String::new(), 0);
    for word in text.split(' ') {
        let chars: Vec<char> = word.chars().collect();
        let mut pieces = chars.chunks(columns).peekable();
        if used > 0 && used + 1 + chars.len() > columns {
            lines.push(mem::take(&mut line));
            used = 0;
        } else if used > 0 {
            line.push(' ');
            used += 1;
        }
        while let Some(piece) = pieces.next() {
            line.extend(piece);
            used += piece.len();
            if pieces.peek().is_some() {
                lines.push(mem::take(&mut line));
                used = 0;
            }
        }
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests;
