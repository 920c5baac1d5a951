//! Whether a cgroup may be limited on account of a process: by this kernel, by who else lives in
//! it, and by the operator.
//!
//! What can be told of a cgroup by its path alone was asked before, of the guards. Here is what
//! needs the host: which program it is, and whose the pod. The labels of a pod are asked for only
//! where nothing else decides.

use std::path::{Path, PathBuf};

use super::{
    LimitError, LimitRefusal, PodLookup,
    cgroup::{Cgroup, Version},
    cgroup_procs::{CgroupProcess, unrelated},
    failed,
};
use crate::{
    config::{DecideConfig, Pattern},
    decide::{
        always_protected,
        kubepods::{self, CgroupOwner},
    },
    sense::{ProcessId, ProgramList, printable::printable_path},
};

/// Least kernel whose `memory.high` does not make a process free memory for minutes inside of one
/// system call.
const MEMORY_HIGH_SINCE: (u32, u32) = (5, 9);

/// Whether it may, and with whom it is shared; `None` where the culprit is alone in it, with what
/// belongs to it.
///
/// # Errors
///
/// Returns the reason if it may not be.
pub fn permit(
    decide: &DecideConfig,
    pods: &mut PodLookup,
    programs: Option<&ProgramList>,
    t: f64,
    target: &Cgroup,
    cgroup: &str,
    culprit: ProcessId,
) -> Result<Option<String>, LimitError> {
    if target.version() == Version::V2 {
        is_high_safe(&kernel_release())?;
    }
    let (program, shared) = company(target, culprit, programs)?;
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
    /// Whether an operator lets it be limited. What can be told of a cgroup alone is told before.
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

/// The culprit's program, and who is in its cgroup that does not belong to it.
fn company(
    target: &Cgroup,
    culprit: ProcessId,
    programs: Option<&ProgramList>,
) -> Result<(PathBuf, Option<String>), LimitError> {
    let pids = target.pids().map_err(failed("its processes cannot be told"))?;
    // As a unit it is protected by its name; a container of it may have any.
    if pids.contains(&std::process::id()) {
        return Err(LimitRefusal::Own.into());
    }
    let members = CgroupProcess::all(&pids, programs)
        .map_err(failed("programs of its processes cannot be read"))?;
    let leaker = members.iter().find(|member| member.pid == culprit.pid);
    let leaker = leaker
        .filter(|_| start_ticks(culprit.pid) == Some(culprit.start_ticks))
        .ok_or(LimitRefusal::Left)?;
    let mut others = unrelated(&members, culprit.pid).into_iter();
    let shared = others.next().map(|first| match others.count() {
        0 => first.to_string(),
        more => format!("{first} and {more} more"),
    });
    Ok((leaker.program.clone(), shared))
}

/// When a process was started; `None` where it is gone.
pub fn start_ticks(pid: u32) -> Option<u64> {
    procfs::process::Process::new(pid as i32).ok()?.stat().ok().map(|stat| stat.starttime)
}

fn kernel_release() -> String {
    nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn is_high_safe(release: &str) -> Result<(), LimitRefusal> {
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) if (major, minor) >= MEMORY_HIGH_SINCE => Ok(()),
        _ => Err(LimitRefusal::KernelTooOld(release.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_high_is_refused_before_5_9_or_if_unknown() {
        for release in ["5.9.0", "5.10.0-30-cloud-amd64", "6.18.44", "10.0"] {
            assert_eq!(is_high_safe(release), Ok(()), "{release}");
        }
        for release in ["5.8.18", "4.19.0-27-amd64", "3.10.0-1160.el7", "", "linux"] {
            assert!(is_high_safe(release).is_err(), "{release}");
        }
    }
}
