//! All limits in effect, and those that wait until the owner of a pod is known.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    LimitError, LimitRefusal,
    active_limit::{ActiveLimit, NewLimit, Tick},
    apply::apply,
    cgroup::{Cgroup, MEMORY_MAX, MEMORY_SWAP_MAX},
    controller::LimitController,
    cpu_throttle,
    eligibility::{Culprit, permit},
    failed,
    isolate::{self, Recharge},
    pod_lookup::PodLookup,
    undo::{self, undo_all},
};
use crate::{
    act::{
        journal::{ChangedUnit, IsolatedCgroup, Journal, JournalEntry},
        outcome::{Outcome, OutcomeCause, OutcomeKind},
        pause::Pause,
    },
    config::{Config, DecideConfig, LimitConfig},
    decide::IncidentId,
    os::is_read_only,
    sense::{Hierarchy, LEAK_CHILD, ProcessId, ProgramList},
};

/// Time until a deferred limit is tried again. An attempt may take three seconds, in which no limit
/// is checked.
const RETRY_SECS: f64 = 30.0;

/// A limit that waits until namespace and labels of its pod are known.
struct DeferredLimit {
    tried_at: f64,
    cgroup: Arc<str>,
    culprit: ProcessId,
}

/// All limits in effect.
pub struct ActiveLimits {
    journal: Result<Journal, String>,
    pause: Pause,
    mount: Option<PathBuf>,
    config: LimitConfig,
    decide: DecideConfig,
    pods: PodLookup,
    programs: Option<Arc<ProgramList>>,
    active: BTreeMap<Arc<str>, ActiveLimit>,
    /// By incident.
    deferred: BTreeMap<IncidentId, DeferredLimit>,
}

impl ActiveLimits {
    /// Starts without limits. Without a journal, none will be set.
    pub fn new(config: &Config, journal: Result<Journal, String>) -> Self {
        Self::with(config, journal, PodLookup::from_env(config))
    }

    /// Starts like [`ActiveLimits::new`], with the given pods.
    pub fn with(config: &Config, journal: Result<Journal, String>, pods: PodLookup) -> Self {
        Self {
            journal,
            pause: Pause::below(&config.record.state_dir),
            mount: Hierarchy::detect().mount().map(Path::to_owned),
            config: config.act.limit.clone(),
            decide: config.decide.clone(),
            pods,
            programs: None,
            active: BTreeMap::new(),
            deferred: BTreeMap::new(),
        }
    }

    /// Reads the programs of other users' processes from this list.
    pub fn listing_programs(self, programs: Option<Arc<ProgramList>>) -> Self {
        Self { programs, ..self }
    }

    /// Takes another policy. Limits in effect stay.
    pub fn reload(&mut self, config: &Config) {
        self.decide.clone_from(&config.decide);
        self.pods = PodLookup::from_env(config);
    }

    /// Limits the cgroup of a leaking process.
    pub fn limit(
        &mut self,
        t: f64,
        id: &IncidentId,
        cgroup: &Arc<str>,
        culprit: ProcessId,
    ) -> Outcome {
        let outcome = |event, limit_bytes, why| Outcome {
            t,
            event,
            cause: id.clone().into(),
            cgroup: cgroup.clone(),
            limit_bytes,
            why,
        };
        let tried = self.try_limit(t, id, cgroup, culprit);
        match &tried {
            Err(LimitError::Refused(LimitRefusal::PodUnknown(_))) => {
                let deferred = DeferredLimit { tried_at: t, cgroup: cgroup.clone(), culprit };
                self.deferred.insert(id.clone(), deferred);
            }
            _ => drop(self.deferred.remove(id)),
        }
        match tried {
            Ok((limit_bytes, why)) => outcome(OutcomeKind::Limited, Some(limit_bytes), why),
            Err(LimitError::Refused(refusal)) => {
                outcome(OutcomeKind::Refused, None, refusal.to_string())
            }
            Err(failure) => outcome(OutcomeKind::Failed, None, failure.to_string()),
        }
    }

    fn try_limit(
        &mut self,
        t: f64,
        id: &IncidentId,
        cgroup: &Arc<str>,
        culprit: ProcessId,
    ) -> Result<(u64, String), LimitError> {
        if self.pause.is_on() {
            return Err(LimitRefusal::Paused(self.pause.path().to_owned()).into());
        }
        let journal =
            self.journal.as_ref().map_err(|error| LimitRefusal::NoJournal(error.clone()))?;
        if let Some(active) = self.active.get_mut(cgroup) {
            if !active.applies_to(culprit.pid) {
                return Err(LimitRefusal::Divided.into());
            }
            // Another process of this cgroup leaks, or the same one again.
            active.controller.resume();
            active.entry.incidents.insert(id.clone());
            journal.write(&mut active.entry).map_err(failed("cannot write the journal"))?;
            return Ok((
                active.controller.limit_bytes(),
                "the cgroup is limited already".to_owned(),
            ));
        }
        let mount = self.mount.as_deref().ok_or(LimitRefusal::NotHere)?;
        if is_read_only(mount) {
            return Err(LimitRefusal::ReadOnly(mount.to_owned()).into());
        }
        let target = Cgroup::find(mount, cgroup)?;
        let programs = self.programs.as_deref();
        let culprit = match id {
            IncidentId::CgroupLeak(_) => Culprit::Cgroup { oldest: culprit },
            _ => Culprit::Process(culprit),
        };
        let shared = permit(&self.decide, &mut self.pods, programs, t, &target, cgroup, culprit)?;
        let culprit = culprit.id();
        let (delegated, protected) = (&self.config.delegated, &self.decide.protected);
        let isolated = shared
            .map(|shared| isolate::permit(delegated, protected, programs, &target, cgroup, shared))
            .transpose()?;

        let mut entry = journal.entry(target.directory.clone(), target.inode);
        if journal.contains(&entry) {
            // Only the earlier entry has the original values.
            return Err(LimitRefusal::NotUndone.into());
        }
        entry.incidents.insert(id.clone());
        entry.unit = target.unit().filter(|_| isolated.is_none()).map(ChangedUnit::new);
        let limited = match isolated {
            None => self.limit_cgroup(t, journal, target, &mut entry),
            Some(isolated) => {
                self.limit_in_child(t, journal, &target, &mut entry, isolated, (cgroup, culprit))
            }
        };
        let (limited, why) = limited.inspect_err(|_| {
            // A part may have been changed. The journal keeps what cannot be restored now.
            undo::undo(journal, &entry);
        })?;
        if !journal.contains(&entry) {
            // `spillway undo` ran between the journal and the write.
            undo::undo(journal, &entry);
            return Err(LimitRefusal::Paused(PathBuf::from("spillway undo")).into());
        }
        let limit_bytes = limited.controller.limit_bytes();
        self.active.insert(cgroup.clone(), ActiveLimit::new(limited, entry));
        Ok((limit_bytes, why))
    }

    fn limit_cgroup(
        &self,
        t: f64,
        journal: &Journal,
        mut target: Cgroup,
        entry: &mut JournalEntry,
    ) -> Result<(NewLimit, String), LimitError> {
        let usage_bytes =
            target.usage_bytes().map_err(failed("cannot read the memory usage of the cgroup"))?;
        let limit_bytes = apply(journal, &mut target, entry, &self.config, None)?;
        let controller =
            LimitController::new(t, limit_bytes, usage_bytes, self.config.margin_bytes);
        let mut why = format!(
            "{} set to {limit_bytes} bytes, above the {usage_bytes} in use",
            target.limit_file()
        );
        for beside in [MEMORY_SWAP_MAX, MEMORY_MAX].map(|file| target.name(file)) {
            if let Some(bytes) = entry.change(beside).and_then(|change| change.wanted.last()) {
                why.push_str(&format!(", and {beside} to {bytes}"));
            }
        }
        if target.bypasses_systemd() {
            why.push_str("; systemd does not answer and will be informed later");
        }
        let spin_detector = cpu_throttle::watch(&self.config, &target).unwrap_or_else(|obstacle| {
            why.push_str(&format!("; the CPU cannot be throttled: {obstacle}"));
            None
        });
        Ok((NewLimit { target, controller, spin_detector, recharge: None }, why))
    }

    /// Limits a child cgroup to which the leaking process is moved.
    fn limit_in_child(
        &self,
        t: f64,
        journal: &Journal,
        target: &Cgroup,
        entry: &mut JournalEntry,
        isolated: IsolatedCgroup,
        (cgroup, culprit): (&str, ProcessId),
    ) -> Result<(NewLimit, String), LimitError> {
        let programs = self.programs.as_deref();
        let (leak, moved) = isolate::isolate(journal, entry, target, isolated, culprit, programs)?;
        let recharge = Recharge::start(&leak);
        let (limited, set) = self.limit_cgroup(t, journal, leak, entry)?;
        let action = match moved {
            0 | 1 => "moved the process".to_owned(),
            moved => format!("moved the process and {} related ones", moved - 1),
        };
        let why = format!(
            "{action} to {LEAK_CHILD}, a child of its cgroup; {set} there; memory in use before \
             stays charged to {cgroup}, so the limit covers what is allocated from now on"
        );
        Ok((NewLimit { recharge: Some(recharge), ..limited }, why))
    }

    /// Ends an incident. The limit is lifted after its last incident has ended, as soon as the
    /// memory does not press against it.
    pub fn end(&mut self, id: &IncidentId) {
        self.deferred.remove(id);
        for active in self.active.values_mut() {
            if active.entry.incidents.remove(id) && active.entry.incidents.is_empty() {
                // Kept for the outcomes until the limit is lifted.
                active.entry.incidents.insert(id.clone());
                active.controller.end();
            }
        }
    }

    /// Checks every limit in effect, and tries one of those that were deferred.
    pub fn look(&mut self, t: f64) -> Vec<Outcome> {
        let mut outcomes = self.retry_deferred(t).into_iter().collect();
        self.check_active(t, &mut outcomes);
        outcomes
    }

    /// Tries to set one deferred limit. Only a result other than the first refusal is reported.
    fn retry_deferred(&mut self, t: f64) -> Option<Outcome> {
        if self.pause.is_on() {
            return None;
        }
        let is_due = |deferred: &DeferredLimit| t - deferred.tried_at >= RETRY_SECS;
        let (id, deferred) = self.deferred.iter().find(|(_, deferred)| is_due(deferred))?;
        let (id, cgroup, culprit) = (id.clone(), deferred.cgroup.clone(), deferred.culprit);
        let outcome = self.limit(t, &id, &cgroup, culprit);
        (!self.deferred.contains_key(&id)).then_some(outcome)
    }

    fn check_active(&mut self, t: f64, outcomes: &mut Vec<Outcome>) {
        let Ok(journal) = &self.journal else { return };
        self.active.retain(|cgroup, active| {
            if !self.pause.is_on() {
                active.sync_with_systemd(cgroup, journal);
            }
            let (event, why, stays) = match active.step(t, journal, &self.pause, &self.config) {
                Tick::Nothing => return true,
                Tick::Report(event, why) => (event, why, true),
                Tick::End(event, why) => (event, why, false),
            };
            let limit_bytes = stays.then(|| active.controller.limit_bytes());
            let first = active.entry.incidents_by_name().into_iter().take(1).collect();
            let cause = OutcomeCause::Incidents(first);
            outcomes.push(Outcome { t, event, cause, cgroup: cgroup.clone(), limit_bytes, why });
            stays
        });
    }

    /// Restores everything, as at the end of the agent.
    pub fn undo_all(&mut self, t: f64) -> Vec<Outcome> {
        self.active.clear();
        self.deferred.clear();
        match &self.journal {
            Ok(journal) => undo_all(journal).into_iter().map(|undone| undone.outcome(t)).collect(),
            Err(_) => Vec::new(),
        }
    }
}
