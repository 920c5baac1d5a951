//! Check that a cgroup may be limited because of a process, or of all of them together: by this
//! kernel, by the other processes in the cgroup, and by the operator.
//!
//! The guards have already checked what the path of the cgroup shows. The rest needs the host: the
//! program, and the owner of the pod. The labels of a pod are read only if nothing else decides.

use std::path::{Path, PathBuf};

use super::{
    LimitError, LimitRefusal, PodLookup,
    cgroup::{Cgroup, Version},
    cgroup_procs::{CgroupProcess, unrelated},
    failed,
};
use crate::{
    config::{DecideConfig, Pattern},
    decide::always_protected,
    os::host,
    sense::{
        ProcessId, ProgramList,
        kubepods::{self, CgroupOwner},
        printable::printable_path,
        proc_files,
    },
};

/// First kernel whose `memory.high` does not make a process reclaim memory for minutes inside one
/// system call.
const MEMORY_HIGH_SINCE: (u32, u32) = (5, 9);

/// Subject that leaks.
#[derive(Debug, Clone, Copy)]
pub enum Culprit {
    /// A process.
    Process(ProcessId),
    /// The cgroup, in none of its processes.
    Cgroup {
        /// Oldest process, which may have ended since.
        oldest: ProcessId,
    },
}

impl Culprit {
    /// Process that the claim names.
    pub fn id(self) -> ProcessId {
        match self {
            Self::Process(id) | Self::Cgroup { oldest: id } => id,
        }
    }
}

/// Checks that a cgroup may be limited. Returns the unrelated processes that share it; `None` if it
/// has none. A cgroup that leaks itself may have none, since it is unknown which of them leaks.
///
/// # Errors
///
/// Returns the reason if it may not.
pub fn permit(
    decide: &DecideConfig,
    pods: &mut PodLookup,
    programs: Option<&ProgramList>,
    t: f64,
    target: &Cgroup,
    cgroup: &str,
    culprit: Culprit,
) -> Result<Option<String>, LimitError> {
    if target.version() == Version::V2 {
        is_high_safe(host::kernel_version())?;
    }
    let (program, shared) = program_and_sharers(decide, target, culprit, programs)?;
    LimitRequest { decide, t, cgroup, program: &program }.of(pods)?;
    Ok(shared)
}

/// Subject of a limit, and the operator's rules for it.
struct LimitRequest<'a> {
    decide: &'a DecideConfig,
    t: f64,
    cgroup: &'a str,
    program: &'a Path,
}

impl LimitRequest<'_> {
    /// Checks the operator's rules that need more than the path of the cgroup.
    fn of(&self, pods: &mut PodLookup) -> Result<(), LimitRefusal> {
        if let Some(pattern) =
            self.decide.protected.iter().find(|pattern| pattern.is_of(self.program))
        {
            return Err(LimitRefusal::Protected(pattern.clone()));
        }
        match kubepods::owner(self.cgroup) {
            CgroupOwner::Pod(uid) => self.of_pod(&uid, pods),
            CgroupOwner::Unnamed => Err(LimitRefusal::NoPod),
            CgroupOwner::Host if self.is_allowed(|_| false) => Ok(()),
            CgroupOwner::Host => Err(self.not_allowed()),
        }
    }

    fn of_pod(&self, uid: &str, pods: &mut PodLookup) -> Result<(), LimitRefusal> {
        let protected = || always_protected().iter().chain(&self.decide.protected);
        let name = pods.name(uid)?;
        let is_of = |pattern: &Pattern| pattern.is_namespace(&name.namespace);
        if let Some(pattern) = protected().find(|pattern| is_of(pattern)) {
            return Err(LimitRefusal::PodProtected {
                pod: name.to_string(),
                pattern: pattern.clone(),
            });
        }
        let labels_allow =
            self.decide.allow.iter().any(Pattern::is_label) && !self.is_allowed(is_of);
        if !labels_allow && !protected().any(Pattern::is_label) {
            return if self.is_allowed(is_of) { Ok(()) } else { Err(self.not_allowed()) };
        }
        let labels = pods.labels(self.t, uid, &name)?;
        if let Some(pattern) = protected().find(|pattern| pattern.is_among(labels)) {
            return Err(LimitRefusal::PodProtected {
                pod: name.to_string(),
                pattern: pattern.clone(),
            });
        }
        let is_of = |pattern: &Pattern| is_of(pattern) || pattern.is_among(labels);
        if self.is_allowed(is_of) { Ok(()) } else { Err(self.not_allowed()) }
    }

    fn is_allowed(&self, is_of_pod: impl Fn(&Pattern) -> bool) -> bool {
        let allows = |pattern: &Pattern| {
            pattern.covers(self.cgroup) || pattern.is_of(self.program) || is_of_pod(pattern)
        };
        self.decide.allow.is_empty() || self.decide.allow.iter().any(allows)
    }

    fn not_allowed(&self) -> LimitRefusal {
        LimitRefusal::NotAllowed(printable_path(self.program).to_string())
    }
}

/// Returns the program of the leaking process, and the unrelated processes in its cgroup.
fn program_and_sharers(
    decide: &DecideConfig,
    target: &Cgroup,
    culprit: Culprit,
    programs: Option<&ProgramList>,
) -> Result<(PathBuf, Option<String>), LimitError> {
    let pids = target.pids().map_err(failed("cannot list the processes of the cgroup"))?;
    // A systemd unit of the agent is protected by its name; a container may have any.
    if pids.contains(&std::process::id()) {
        return Err(LimitRefusal::Own.into());
    }
    let members = CgroupProcess::all(&pids, programs)
        .map_err(failed("cannot read the programs in the cgroup"))?;
    let id = culprit.id();
    let named = members
        .iter()
        .find(|member| member.pid == id.pid)
        .filter(|_| start_ticks(id.pid) == Some(id.start_ticks));
    let leaker = match culprit {
        Culprit::Process(_) => named,
        // Its memory stays when a process ends.
        Culprit::Cgroup { .. } => named.or(members.first()),
    };
    let leaker = leaker.ok_or(LimitRefusal::Left)?;
    let mut others = unrelated(&members, leaker.pid).into_iter();
    let shared = others.next().map(|first| match others.count() {
        0 => first.to_string(),
        more => format!("{first} and {more} more"),
    });
    if let Culprit::Cgroup { .. } = culprit {
        if let Some(shared) = shared {
            return Err(LimitRefusal::SharedLeak(shared).into());
        }
        let is_of = |pattern: &&Pattern| members.iter().any(|one| pattern.is_of(&one.program));
        if let Some(pattern) = decide.protected.iter().find(is_of) {
            return Err(LimitRefusal::Protected(pattern.clone()).into());
        }
    }
    Ok((leaker.program.clone(), shared))
}

/// Returns the start time of a process in clock ticks since boot; `None` if it has ended.
pub fn start_ticks(pid: u32) -> Option<u64> {
    proc_files::stat_of(pid).map(|stat| stat.start_ticks)
}

fn is_high_safe(kernel: Option<(u32, u32)>) -> Result<(), LimitRefusal> {
    match kernel {
        Some(version) if version >= MEMORY_HIGH_SINCE => Ok(()),
        _ => Err(LimitRefusal::KernelTooOld(host::kernel_release())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_high_is_refused_before_5_9_or_if_unknown() {
        for version in [(5, 9), (5, 10), (6, 18), (10, 0)] {
            assert_eq!(is_high_safe(Some(version)), Ok(()), "{version:?}");
        }
        for version in [Some((5, 8)), Some((4, 19)), Some((3, 10)), None] {
            assert!(is_high_safe(version).is_err(), "{version:?}");
        }
    }
}
