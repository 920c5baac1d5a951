//! Network namespaces in which full accept queues reset connections while load is shed there, with
//! `act.shed.reset`.
//!
//! A namespace belongs to everything inside, so only one that is a service's own is changed; each
//! change is journalled first. A refusal here never prevents load from being shed.

use std::collections::BTreeSet;

use super::{
    error::ResetRefusal,
    netns_sysctl::{ForeignNetns, NAME, SettingChange, resets_on_overflow},
    proc_sockets::netns_of,
    reset_entry::{ResetEntry, ResetJournal},
    target::ShedTarget,
    undo::ShedUndone,
};
use crate::{
    act::outcome::OutcomeKind, config::Config, decide::IncidentId, os::trusted::reason,
    sense::CgroupPaths,
};

/// All namespaces that are changed.
pub struct OverflowResets {
    /// Journal; `None` if none is to be changed.
    journal: Option<Result<ResetJournal, String>>,
    active: Vec<ActiveReset>,
}

/// A namespace that is changed.
struct ActiveReset {
    entry: ResetEntry,
    /// Incidents that load is shed for in it.
    incidents: BTreeSet<IncidentId>,
}

impl OverflowResets {
    /// Starts without any.
    pub fn new(config: &Config) -> Self {
        let state_dir = &config.record.state_dir;
        let journal = config.act.shed.reset.then(|| {
            ResetJournal::claim(state_dir)
                .map_err(|error| format!("{}: {}", state_dir.display(), reason(&error, state_dir)))
        });
        Self { journal, active: Vec::new() }
    }

    /// Makes the service's own namespace reset connections. Returns what the kernel does with
    /// connections that find the queue full, as a part of a sentence; empty if unknown.
    pub fn begin(&mut self, target: &ShedTarget, cgroups: &CgroupPaths) -> String {
        match self.try_begin(target, cgroups) {
            Ok(text) => text,
            Err(refusal) => format!("; {NAME} is not changed: {refusal}"),
        }
    }

    fn try_begin(
        &mut self,
        target: &ShedTarget,
        cgroups: &CgroupPaths,
    ) -> Result<String, ResetRefusal> {
        let journal = match &self.journal {
            None => return Ok(overflow_text(target.netns)),
            Some(journal) => {
                journal.as_ref().map_err(|error| ResetRefusal::NoJournal(error.clone()))?
            }
        };
        let is_one = format!("; {NAME} is 1 in the service's network namespace");
        if let Some(active) = self.active.iter_mut().find(|one| one.entry.netns == target.netns) {
            active.incidents.insert(target.id.clone());
            return Ok(is_one);
        }
        let first = target.pids.first().copied().unwrap_or_default();
        let netns = ForeignNetns::find(target.netns, first)
            .map_err(ResetRefusal::failed("cannot find a process in the network namespace"))?
            .ok_or(ResetRefusal::Gone)?;
        netns.check_owner(cgroups, &target.cgroup)?;
        let cannot = || ResetRefusal::failed("cannot change it");
        if netns.resets().map_err(cannot())? {
            return Ok(is_one);
        }
        let mut entry = ResetEntry::new(journal, target.netns, first, &target.id);
        if journal.contains(&entry) {
            return Err(ResetRefusal::NotUndone);
        }
        journal.write(&mut entry).map_err(ResetRefusal::failed("cannot write the journal"))?;
        if let Err(error) = netns.set_resets(true) {
            // The journal keeps what cannot be restored now.
            undo(journal, &entry);
            return Err(cannot()(error));
        }
        self.active.push(ActiveReset { entry, incidents: [target.id.clone()].into() });
        Ok(format!("{is_one}, 0 before"))
    }

    /// Ends an incident. Returns what became of its namespace if no other incident needs the
    /// setting.
    pub fn end(&mut self, id: &IncidentId) -> Option<ShedUndone> {
        let journal = self.journal.as_ref()?.as_ref().ok()?;
        let nth = self.active.iter_mut().position(|one| one.incidents.remove(id))?;
        if !self.active[nth].incidents.is_empty() {
            return None;
        }
        let ended = self.active.swap_remove(nth);
        journal.contains(&ended.entry).then(|| undo(journal, &ended.entry))
    }

    /// Restores everything, as at the end of the agent.
    pub fn undo_all(&mut self) -> Vec<ShedUndone> {
        self.active.clear();
        match &self.journal {
            Some(Ok(journal)) => undo_all_resets(journal),
            _ => Vec::new(),
        }
    }
}

/// Undoes every entry of a journal.
pub fn undo_all_resets(journal: &ResetJournal) -> Vec<ShedUndone> {
    ShedUndone::of_all(journal, |entry| undo(journal, entry))
}

/// Undoes one entry: what is 1 becomes 0 again. Anything else was set by others.
fn undo(journal: &ResetJournal, entry: &ResetEntry) -> ShedUndone {
    let undone = |event: OutcomeKind, text: &str| Ok((event, format!("{NAME} {text}")));
    let found = ForeignNetns::find(entry.netns, entry.pid);
    let restored = match found.and_then(|netns| netns.map(|one| one.set_resets(false)).transpose())
    {
        Ok(Some(SettingChange::Set)) => undone(OutcomeKind::Unshed, "is 0 again"),
        Ok(Some(SettingChange::Unexpected)) => {
            undone(OutcomeKind::ShedYielded, "was set to 0 by others")
        }
        Ok(None) => undone(OutcomeKind::Unshed, "went with its network namespace"),
        Err(error) => Err(format!("{NAME} is not restored, and kept in the journal: {error}")),
    };
    let subject = format!("net:[{}]", entry.netns);
    ShedUndone::of(journal, entry, &entry.incident, subject, restored)
}

/// Describes what the kernel does with connections that find the queue full, in the agent's own
/// network namespace: that of another one cannot be read without entering it.
fn overflow_text(netns: u32) -> String {
    let is_own = netns_of(std::process::id()).is_ok_and(|own| own == netns);
    match is_own.then(resets_on_overflow).flatten() {
        Some(resets) => format!("; {NAME} is {}", u8::from(resets)),
        None => String::new(),
    }
}
