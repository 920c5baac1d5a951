//! All listeners whose accept queues are bounded.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use super::{
    active_shed::{ActiveShed, ShedTick},
    control::{QueueReading, ShedControl},
    entry::ShedJournal,
    error::{ShedError, ShedRefusal, SocketError},
    foreign_listener::ForeignListener,
    overflow_resets::OverflowResets,
    target::ShedTarget,
    undo::undo_all,
};
use crate::{
    act::{
        outcome::{Outcome, OutcomeKind},
        pause::Pause,
    },
    config::Config,
    decide::IncidentId,
    sense::{CgroupPaths, Hierarchy},
};

/// Maximum number of sockets that are bounded at once. A guess: the listeners of a few services,
/// each with a socket for every CPU.
const SOCKETS_MAX: usize = 64;

/// All listeners whose accept queues are bounded.
pub struct ActiveSheds {
    journal: Result<ShedJournal, String>,
    pause: Pause,
    wait_secs: f64,
    cgroups: CgroupPaths,
    active: Vec<ActiveShed>,
    resets: OverflowResets,
}

impl ActiveSheds {
    /// Starts without any. Without a journal, there will be none.
    pub fn new(config: &Config, journal: Result<ShedJournal, String>) -> Self {
        Self {
            journal,
            pause: Pause::below(&config.record.state_dir),
            wait_secs: config.act.shed.wait.as_secs_f64(),
            cgroups: CgroupPaths::new(Hierarchy::detect()),
            active: Vec::new(),
            resets: OverflowResets::new(config),
        }
    }

    /// Bounds the accept queue of a listener, or goes on with it.
    pub fn begin(&mut self, t: f64, target: &ShedTarget) -> Outcome {
        let (event, why) = match self.try_begin(t, target) {
            Ok(why) => (OutcomeKind::Shedding, why),
            Err(ShedError::Refused(refusal)) => (OutcomeKind::ShedRefused, refusal.to_string()),
            Err(error) => (OutcomeKind::ShedFailed, error.to_string()),
        };
        outcome(t, event, &target.id, &target.addr, why)
    }

    fn try_begin(&mut self, t: f64, target: &ShedTarget) -> Result<String, ShedError> {
        if let Some(shed) = self.active.iter_mut().find(|shed| shed.id == target.id) {
            shed.resume();
            return Ok(shed.describe());
        }
        if self.pause.is_on() {
            return Err(ShedRefusal::Paused(self.pause.path().display().to_string()).into());
        }
        let journal =
            self.journal.as_ref().map_err(|error| ShedRefusal::NoJournal(error.clone()))?;
        let addr = target.addr.parse().map_err(|_| ShedRefusal::Unix)?;
        let found = self.sockets_of(target, addr)?;
        let bounded: usize = self.active.iter().map(ActiveShed::sockets).sum();
        if bounded + found.len() > SOCKETS_MAX {
            return Err(ShedRefusal::TooMany(bounded).into());
        }
        let control = |original| {
            ShedControl::new(self.wait_secs, original, target.accepts_per_sec, target.first)
        };
        let shed = ActiveShed::begin(journal, &target.id, &target.addr, found, control, t)?;
        let why = format!("{}{}", shed.describe(), self.resets.begin(target, &self.cgroups));
        self.active.push(shed);
        Ok(why)
    }

    /// Finds the sockets of a listener, each once, however many processes hold it.
    fn sockets_of(
        &self,
        target: &ShedTarget,
        addr: SocketAddr,
    ) -> Result<Vec<(ForeignListener, u32)>, ShedError> {
        let mut sockets: Vec<(ForeignListener, u32)> = Vec::new();
        for &pid in &target.pids {
            let found = match ForeignListener::find(pid, target.netns, addr) {
                Err(SocketError::Gone) => continue,
                found => found?,
            };
            // A process may have taken the pid, or left the service, since it was seen.
            let cgroup = self.cgroups.of_process(pid);
            if cgroup != target.cgroup {
                return Err(ShedRefusal::OtherCgroup {
                    pid,
                    found: cgroup.to_string(),
                    expected: target.cgroup.to_string(),
                }
                .into());
            }
            for (listener, length) in found {
                if !sockets.iter().any(|(other, _)| other.id == listener.id) {
                    sockets.push((listener, length));
                }
            }
        }
        if sockets.is_empty() { Err(ShedRefusal::NoHolder.into()) } else { Ok(sockets) }
    }

    /// Ends an incident: its queue is widened step by step, and restored in the end.
    pub fn end(&mut self, t: f64, id: &IncidentId) {
        self.active.iter_mut().filter(|shed| shed.id == *id).for_each(|shed| shed.end(t));
    }

    /// Takes a reading of a listener.
    pub fn read(&mut self, id: &IncidentId, reading: QueueReading) -> Vec<Outcome> {
        let is_paused = self.pause.is_on();
        self.step(reading.t, |shed, journal| {
            if shed.id == *id { shed.read(journal, reading, is_paused) } else { ShedTick::Nothing }
        })
    }

    /// Checks every listener.
    pub fn look(&mut self, t: f64) -> Vec<Outcome> {
        let is_paused = self.pause.is_on();
        self.step(t, |shed, journal| shed.check(journal, t, is_paused))
    }

    fn step(
        &mut self,
        t: f64,
        mut tick: impl FnMut(&mut ActiveShed, &ShedJournal) -> ShedTick,
    ) -> Vec<Outcome> {
        let Self { journal, active, resets, .. } = self;
        let Ok(journal) = journal else { return Vec::new() };
        let mut outcomes = Vec::new();
        active.retain_mut(|shed| {
            let (event, why) = match tick(shed, journal) {
                ShedTick::Nothing => return true,
                ShedTick::Report(why) => {
                    outcomes.push(outcome(t, OutcomeKind::Shedding, &shed.id, &shed.addr, why));
                    return true;
                }
                ShedTick::Restore(why) => (OutcomeKind::Unshed, why),
                ShedTick::Yield(why) => (OutcomeKind::ShedYielded, why),
                ShedTick::Fail(error) => (OutcomeKind::ShedFailed, error.to_string()),
            };
            let mut undone = shed.undo(journal);
            undone.extend(resets.end(&shed.id));
            let is_done = undone.iter().all(|undone| undone.is_done());
            let event = if is_done { event } else { OutcomeKind::ShedFailed };
            let states: BTreeSet<_> = undone.iter().map(ToString::to_string).collect();
            let parts = states.into_iter().chain([why]).collect::<Vec<_>>();
            outcomes.push(outcome(t, event, &shed.id, &shed.addr, parts.join("; ")));
            false
        });
        outcomes
    }

    /// Restores everything, as at the end of the agent.
    pub fn undo_all(&mut self, t: f64) -> Vec<Outcome> {
        self.active.clear();
        let mut undone = self.journal.as_ref().map(undo_all).unwrap_or_default();
        undone.extend(self.resets.undo_all());
        undone.iter().map(|one| one.outcome(t)).collect()
    }
}

fn outcome(t: f64, event: OutcomeKind, id: &IncidentId, addr: &Arc<str>, why: String) -> Outcome {
    Outcome { t, event, cause: id.clone().into(), cgroup: addr.clone(), limit_bytes: None, why }
}

#[cfg(test)]
mod tests;
