//! The action `limit`: a leaker's cgroup gets a little more memory than it uses, and no more.
//!
//! What is set leaves the margin above what is used, looked at again just before: a limit below use would kill, or stall. It is put on
//! disk first, with what it replaces. Then it is held: [`Hold`] says what to do as others change it, as the cgroup thrashes, or as the
//! incident ends. Cold start: no limit stands; what an earlier run has left was put back before. Failure: what was half done is undone, and told.
//! It refuses a cgroup that others live in, one that it does not see whole, and one that has a lower limit already.

mod hold;
mod members;
mod systemd;
mod target;
mod undo;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    journal::{ChangedUnit, Entry, Journal},
    outcome::{Event, Outcome},
    pause::Pause,
};
use crate::{
    config::{Config, DecideConfig, Pattern},
    sense::{Hierarchy, ProcessId},
};

use hold::{Hold, Reading, Step, least_bytes};
use members::{Member, innocents};
use systemd::DropIn;
use target::{Target, Version};

pub use undo::{Undone, undo_all};

/// Times that a limit is computed anew because the cgroup outgrew it before it was set.
const TRIES: u32 = 3;

/// Least kernel whose `memory.high` does not make a process free memory for minutes inside of one system call.
const MEMORY_HIGH_SINCE: (u32, u32) = (5, 9);

/// Why a cgroup is not limited.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// Somebody stopped every action.
    #[error("paused by {0}\n  hint: `spillway resume` lets it act again")]
    Paused(PathBuf),
    /// Nothing can be put on disk.
    #[error("there is no journal: {0}\n  hint: record.state_dir has to be a directory that the agent may write")]
    NoJournal(String),
    /// It is not there, or not seen whole from here, or the memory controller is not.
    #[error("no cgroup with a limit is there, seen from here")]
    NotHere,
    /// `memory.high` does harm here.
    #[error("memory.high is not safe before Linux 5.9, and this is {0}")]
    KernelTooOld(String),
    /// The process has left it, or has ended.
    #[error("the process is not in it any more")]
    Left,
    /// Its program is protected.
    #[error("its program is protected ({0})")]
    Protected(Pattern),
    /// Neither its program nor its cgroup is one that may be limited.
    #[error("{0} is not among those of decide.allow")]
    NotAllowed(String),
    /// Others would be limited with it.
    #[error("it is shared with {0}\n  hint: give the service a unit or container of its own")]
    Shared(String),
    /// There is a limit already that is lower.
    #[error("it has {file}={found} already, below the {wanted_bytes} that it would get")]
    Lower {
        /// The file.
        file: &'static str,
        /// What it says.
        found: String,
        /// What it would get, in bytes.
        wanted_bytes: u64,
    },
    /// It outgrew every limit before that was set.
    #[error("it grows faster than it can be limited")]
    TooFast,
}

/// Why a limit was not set.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It must not be.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The kernel or the disk refused.
    #[error("{what}: {error}")]
    Failed {
        /// What was tried.
        what: String,
        /// What came of it.
        error: io::Error,
    },
}

/// Every limit that stands.
pub struct Limits {
    journal: Result<Journal, String>,
    pause: Pause,
    mount: Option<PathBuf>,
    margin_bytes: u64,
    decide: DecideConfig,
    standing: BTreeMap<Arc<str>, Standing>,
}

struct Standing {
    target: Target,
    entry: Entry,
    hold: Hold,
    /// Whether it was to be put back and could not be.
    is_stuck: bool,
}

impl Limits {
    /// No limit stands yet. Without a journal none will.
    pub fn new(config: &Config, journal: Result<Journal, String>) -> Self {
        Self {
            journal,
            pause: Pause::below(&config.record.state_dir),
            mount: Hierarchy::detect().mount().map(Path::to_owned),
            margin_bytes: config.act.limit.margin_bytes,
            decide: config.decide.clone(),
            standing: BTreeMap::new(),
        }
    }

    /// Limits the cgroup of a process that leaks.
    pub fn limit(&mut self, t: f64, id: &str, cgroup: &Arc<str>, culprit: ProcessId) -> Outcome {
        let outcome =
            |event, limit_bytes, why| Outcome { t, event, id: id.into(), cgroup: cgroup.clone(), limit_bytes, why };
        match self.try_limit(t, id, cgroup, culprit) {
            Ok((limit_bytes, why)) => outcome(Event::Limited, Some(limit_bytes), why),
            Err(Failure::Refused(refusal)) => outcome(Event::Refused, None, refusal.to_string()),
            Err(failure) => outcome(Event::Failed, None, failure.to_string()),
        }
    }

    fn try_limit(&mut self, t: f64, id: &str, cgroup: &Arc<str>, culprit: ProcessId) -> Result<(u64, String), Failure> {
        if self.pause.is_on() {
            return Err(Refusal::Paused(self.pause.path().to_owned()).into());
        }
        let journal = self.journal.as_ref().map_err(|error| Refusal::NoJournal(error.clone()))?;
        if let Some(standing) = self.standing.get_mut(cgroup) {
            // Another process of it leaks, or the same again.
            standing.hold.resume();
            standing.entry.incidents.insert(id.to_owned());
            journal.put(&standing.entry).map_err(failed("the journal cannot be written"))?;
            return Ok((standing.hold.limit_bytes(), "it is limited already".to_owned()));
        }
        let target = Target::find(self.mount.as_deref().ok_or(Refusal::NotHere)?, cgroup)?;
        if target.version() == Version::V2 {
            is_high_safe(&kernel_release())?;
        }
        is_allowed(&self.decide, cgroup, &alone(&target, culprit)?)?;

        let mut entry = journal.entry(target.directory.clone(), target.inode);
        if let Some(unit) = target.unit() {
            let had_drop_in = DropIn::of(unit).is_there().map_err(failed("its drop-in cannot be looked for"))?;
            entry.unit = Some(ChangedUnit { name: unit.to_owned(), had_drop_in });
        }
        entry.incidents.insert(id.to_owned());
        let usage_bytes = target.usage_bytes().map_err(failed("what it uses cannot be read"))?;
        let limit_bytes = set(journal, &target, &mut entry, self.margin_bytes, None).inspect_err(|_| {
            // Half of it may be there. What cannot be put back now is in the journal.
            undo::undo(journal, &entry);
        })?;
        if !journal.holds(&entry) {
            // `spillway undo` came between the journal and the write.
            undo::undo(journal, &entry);
            return Err(Refusal::Paused(PathBuf::from("spillway undo")).into());
        }
        let hold = Hold::new(t, limit_bytes, usage_bytes, self.margin_bytes);
        let why = format!("{} set to {limit_bytes} bytes, above the {usage_bytes} in use", target.limit_file());
        self.standing.insert(cgroup.clone(), Standing { target, entry, hold, is_stuck: false });
        Ok((limit_bytes, why))
    }

    /// An incident is over. Its limit goes with the last of them, at the next look that finds it not needed.
    pub fn end(&mut self, id: &str) {
        for standing in self.standing.values_mut() {
            if standing.entry.incidents.remove(id) && standing.entry.incidents.is_empty() {
                // Told of to the end.
                standing.entry.incidents.insert(id.to_owned());
                standing.hold.end();
            }
        }
    }

    /// Looks at every limit that stands and does what is next.
    pub fn look(&mut self, t: f64) -> Vec<Outcome> {
        let Ok(journal) = &self.journal else { return Vec::new() };
        let mut outcomes = Vec::new();
        self.standing.retain(|cgroup, standing| {
            let (event, why, stays) = match standing.step(t, journal, &self.pause, self.margin_bytes) {
                Next::Nothing => return true,
                Next::Tell(event, why) => (event, why, true),
                Next::End(event, why) => (event, why, false),
            };
            let limit_bytes = stays.then(|| standing.hold.limit_bytes());
            let id = standing.entry.incidents.iter().next().map_or_else(|| Arc::from(""), |id| Arc::from(id.as_str()));
            outcomes.push(Outcome { t, event, id, cgroup: cgroup.clone(), limit_bytes, why });
            stays
        });
        outcomes
    }

    /// Puts everything back, as at the end of the agent.
    pub fn undo_all(&mut self, t: f64) -> Vec<Outcome> {
        self.standing.clear();
        match &self.journal {
            Ok(journal) => undo_all(journal).into_iter().map(|undone| undone.outcome(t)).collect(),
            Err(_) => Vec::new(),
        }
    }
}

enum Next {
    Nothing,
    Tell(Event, String),
    End(Event, String),
}

impl Standing {
    fn step(&mut self, t: f64, journal: &Journal, pause: &Pause, margin_bytes: u64) -> Next {
        if !journal.holds(&self.entry) {
            return Next::End(Event::Undone, "by `spillway undo`, or the journal was removed".to_owned());
        }
        let file = self.target.limit_file();
        let found = self.target.limit_now().and_then(|found| Ok((found, self.target.usage_bytes()?)));
        let (found, usage_bytes) = match found {
            Ok(found) if self.target.is_there() => found,
            // Removed since, or for a moment not to be read: the next look will tell.
            _ if self.target.is_there() => return Next::Nothing,
            _ => return self.lift(journal, Event::Gone),
        };
        let limit_bytes = target::limit_bytes(&found);
        let full_pressure = self.target.full_pressure();
        let before = self.hold.clone();
        let Some(step) = self.hold.look(Reading { t, limit_bytes, usage_bytes, full_pressure }) else {
            return Next::Nothing;
        };
        let event = match step {
            Step::Reassert(_) => Event::Reasserted,
            Step::Tighten(_) => Event::Tightened,
            Step::BackOff(_) => Event::BackedOff,
            Step::Thrashing => {
                return Next::Tell(Event::Thrashing, "it waits for memory, and got all that it gets".to_owned());
            }
            Step::Still => {
                return Next::Tell(
                    Event::Still,
                    format!("it stands still at {usage_bytes} bytes below {}", self.hold.limit_bytes()),
                );
            }
            Step::Held => return Next::Tell(Event::Held, "without it the memory would grow again".to_owned()),
            Step::Lift => return self.lift(journal, Event::Undone),
            Step::Yield => return self.lift(journal, Event::Yielded),
        };
        if pause.is_on() {
            self.hold = before;
            return Next::Nothing;
        }
        let wanted_bytes = self.hold.limit_bytes();
        let why = match event {
            Event::Reasserted => format!("somebody set {file} to {found}"),
            Event::BackedOff => {
                format!("all of it waited for memory for 10 s; {file} is {wanted_bytes} bytes now, from {found}")
            }
            _ => format!("{usage_bytes} bytes are in use; {file} is {wanted_bytes} bytes now, from {found}"),
        };
        match set(journal, &self.target, &mut self.entry, margin_bytes, Some(wanted_bytes)) {
            Ok(_) => Next::Tell(event, why),
            // It grew meanwhile: the next look says what is due then.
            Err(Failure::Refused(_)) => {
                self.hold = before;
                Next::Nothing
            }
            Err(failure) => {
                self.hold = before;
                Next::Tell(Event::Failed, failure.to_string())
            }
        }
    }

    /// Ends the limit: puts back what is still ours to put back.
    fn lift(&mut self, journal: &Journal, event: Event) -> Next {
        let undone = undo::undo(journal, &self.entry);
        match undone.is_done() {
            true => Next::End(event, undone.to_string()),
            // Tried again with every look, and told once.
            false if std::mem::replace(&mut self.is_stuck, true) => Next::Nothing,
            false => Next::Tell(Event::Failed, undone.to_string()),
        }
    }
}

/// Puts a limit on disk and then in place: `wanted_bytes`, or the least that there may be. Looks at what is used just before, so that
/// the margin is whole when the kernel gets it.
fn set(
    journal: &Journal,
    target: &Target,
    entry: &mut Entry,
    margin_bytes: u64,
    wanted_bytes: Option<u64>,
) -> Result<u64, Failure> {
    let usage = || target.usage_bytes().map_err(failed("what it uses cannot be read"));
    for _ in 0..TRIES {
        let limit_bytes = match wanted_bytes {
            Some(bytes) => bytes,
            None => least_bytes(usage()?, margin_bytes),
        };
        let mut due = Vec::new();
        for (file, value) in target.values(limit_bytes) {
            let found = target.read(file).map_err(failed(format!("{file} cannot be read")))?;
            let is_lower =
                file == target.limit_file() && target::limit_bytes(&found).is_some_and(|bytes| bytes <= limit_bytes);
            if is_lower && !entry.is_ours(file, &found) {
                return Err(Refusal::Lower { file, found, wanted_bytes: limit_bytes }.into());
            }
            // What stands in the cgroup may have been changed behind systemd's back.
            if found != value || wanted_bytes.is_some() {
                entry.want(file, &found, &value);
                due.push((file, value));
            }
        }
        journal.put(entry).map_err(failed("the journal cannot be written"))?;
        if usage()?.saturating_add(margin_bytes) > limit_bytes {
            if wanted_bytes.is_some() {
                break;
            }
            continue;
        }
        for (file, value) in due {
            write(target, file, value)?;
        }
        return Ok(limit_bytes);
    }
    Err(Refusal::TooFast.into())
}

/// Writes a value and reads it back.
fn write(target: &Target, file: &'static str, value: String) -> Result<(), Failure> {
    let what = match target.unit() {
        Some(unit) => format!("{file}={value} of {unit}"),
        None => format!("{}/{file}={value}", target.directory.display()),
    };
    target.write(file, &value).map_err(failed(&what))?;
    let found = target.read(file).map_err(failed(&what))?;
    if found != value {
        return Err(failed(&what)(io::Error::other(format!("it says {found} after the write"))));
    }
    if file == target.limit_file() {
        let stands = target.limit_now().map_err(failed(&what))?;
        if target::limit_bytes(&stands) != target::limit_bytes(&value) {
            return Err(failed(&what)(io::Error::other(format!("{stands} stands in the cgroup after the write"))));
        }
    }
    Ok(())
}

fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> Failure {
    let what = what.into();
    move |error| Failure::Failed { what, error }
}

/// Whether an operator lets a program be limited. What can be told of a cgroup alone is told before.
fn is_allowed(decide: &DecideConfig, cgroup: &str, program: &Path) -> Result<(), Refusal> {
    if let Some(pattern) = decide.protected.iter().find(|pattern| pattern.is_of(program)) {
        return Err(Refusal::Protected(pattern.clone()));
    }
    let allows = |pattern: &Pattern| pattern.covers(cgroup) || pattern.is_of(program);
    if !decide.allow.is_empty() && !decide.allow.iter().any(allows) {
        return Err(Refusal::NotAllowed(program.display().to_string()));
    }
    Ok(())
}

/// The culprit's program, where its cgroup holds what belongs to it and nobody else.
fn alone(target: &Target, culprit: ProcessId) -> Result<PathBuf, Failure> {
    let pids = target.pids().map_err(failed("its processes cannot be told"))?;
    let members: Vec<_> = pids.into_iter().filter_map(Member::of).collect();
    let leaker = members.iter().find(|member| member.pid == culprit.pid);
    let leaker = leaker.filter(|_| start_ticks(culprit.pid) == Some(culprit.start_ticks)).ok_or(Refusal::Left)?;
    let mut others = innocents(&members, culprit.pid).into_iter();
    let Some(first) = others.next() else { return Ok(leaker.program.clone()) };
    let more = others.count();
    let shared = if more == 0 { first.to_string() } else { format!("{first} and {more} more") };
    Err(Refusal::Shared(shared).into())
}

fn start_ticks(pid: u32) -> Option<u64> {
    procfs::process::Process::new(pid as i32).ok()?.stat().ok().map(|stat| stat.starttime)
}

fn kernel_release() -> String {
    nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default()
}

fn is_high_safe(release: &str) -> Result<(), Refusal> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) if (major, minor) >= MEMORY_HIGH_SINCE => Ok(()),
        _ => Err(Refusal::KernelTooOld(release.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_high_is_refused_before_5_9_and_where_the_kernel_is_not_known() {
        for release in ["5.9.0", "5.10.0-30-cloud-amd64", "6.18.44", "10.0"] {
            assert_eq!(is_high_safe(release), Ok(()), "{release}");
        }
        for release in ["5.8.18", "4.19.0-27-amd64", "3.10.0-1160.el7", "", "linux"] {
            assert!(is_high_safe(release).is_err(), "{release}");
        }
    }
}
