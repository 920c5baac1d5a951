//! Processes of a cgroup, and which of them are related to the one that leaks.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use crate::{
    os::proc_reader::unrestricted,
    sense::{
        ProgramList,
        printable::printable_path,
        proc_files::{self, Stat},
    },
};

/// A process of a cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupProcess {
    /// Process id.
    pub pid: u32,
    /// Parent process id.
    pub ppid: u32,
    /// The program that it runs.
    pub program: PathBuf,
}

impl CgroupProcess {
    /// Reads these processes, in this order. Those that have ended are left out.
    ///
    /// `/proc` shows the program of another user's process only with CAP_SYS_PTRACE; otherwise it
    /// comes from `programs`.
    ///
    /// # Errors
    ///
    /// Returns an error if the program of one of them is unknown: it may be one that must not be
    /// limited.
    pub fn all(pids: &[u32], programs: Option<&ProgramList>) -> io::Result<Vec<Self>> {
        let mut hidden = Vec::new();
        let mut members = Vec::with_capacity(pids.len());
        for &pid in pids {
            let Some(stat) = stat_of(pid) else { continue };
            let program = match unrestricted(move || fs::read_link(format!("/proc/{pid}/exe"))) {
                Ok(program) => program,
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    hidden.push(pid);
                    PathBuf::new()
                }
                Err(_) => continue,
            };
            members.push(Self { pid, ppid: stat.ppid, program });
        }
        if hidden.is_empty() {
            return Ok(members);
        }
        let listed = programs.map(|programs| programs.programs(&hidden)).transpose();
        let mut listed =
            listed.map_err(|error| unknown(&hidden, &error.to_string()))?.unwrap_or_default();
        for member in members.iter_mut().filter(|member| member.is_unknown()) {
            member.program = listed.remove(&member.pid).unwrap_or_default();
        }
        let unlisted: Vec<_> = members
            .iter()
            .filter(|member| member.is_unknown() && stat_of(member.pid).is_some())
            .map(|member| member.pid)
            .collect();
        if !unlisted.is_empty() {
            return Err(unknown(&unlisted, "CAP_SYS_PTRACE is missing, and BPF does not list it"));
        }
        // The others have ended since.
        members.retain(|member| !member.is_unknown());
        Ok(members)
    }

    fn is_unknown(&self) -> bool {
        self.program.as_os_str().is_empty()
    }
}

/// Reads the status of a process that runs a program; `None` if it has ended or is a kernel thread.
fn stat_of(pid: u32) -> Option<Stat> {
    proc_files::stat_of(pid).filter(|stat| stat.has_memory)
}

fn unknown(pids: &[u32], why: &str) -> io::Error {
    let pid = pids.first().copied().unwrap_or(0);
    let text = format!("the program of pid {pid} cannot be read: {why}");
    io::Error::new(io::ErrorKind::PermissionDenied, text)
}

impl fmt::Display for CgroupProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = printable_path(self.program.file_name().unwrap_or_default().as_ref());
        write!(f, "{name} (pid {})", self.pid)
    }
}

/// Returns the processes that have nothing to do with the leak: they run another program, and are
/// neither ancestors nor descendants of the leaking process. A worker, its siblings and its master
/// are one service; a wrapper lives as long as what it wraps; and children belong to their parent.
pub fn unrelated(members: &[CgroupProcess], leaker: u32) -> Vec<&CgroupProcess> {
    let Some(culprit) = find(members, leaker) else { return members.iter().collect() };
    let is_related = |member: &CgroupProcess| {
        same_program(&member.program, &culprit.program)
            || lineage(members, leaker).any(|above| above.pid == member.pid)
            || lineage(members, member.pid).any(|above| above.pid == leaker)
    };
    members.iter().filter(|member| !is_related(member)).collect()
}

/// Returns the processes that are limited with the leaking one if the unrelated ones are not: all
/// others, except ancestors of unrelated processes that run another program. Such a supervisor has
/// to stay, because what it starts next begins in its own cgroup.
pub fn related(members: &[CgroupProcess], leaker: u32) -> Vec<&CgroupProcess> {
    let Some(culprit) = find(members, leaker) else { return Vec::new() };
    let unrelated = unrelated(members, leaker);
    let supervises = |member: &CgroupProcess| {
        unrelated.iter().any(|other| lineage(members, other.pid).any(|above| above == member))
    };
    let stays = |member: &CgroupProcess| {
        supervises(member) && !same_program(&member.program, &culprit.program)
    };
    members.iter().filter(|member| !unrelated.contains(member) && !stays(member)).collect()
}

fn find(members: &[CgroupProcess], pid: u32) -> Option<&CgroupProcess> {
    members.iter().find(|member| member.pid == pid)
}

/// Returns a process and its ancestors in the cgroup; at most as many as the cgroup has processes,
/// because pids that are reused during the read may form a cycle.
fn lineage(members: &[CgroupProcess], pid: u32) -> impl Iterator<Item = &CgroupProcess> {
    std::iter::successors(find(members, pid), |member| find(members, member.ppid))
        .take(members.len())
}

/// Returns whether two processes run the same program, even if its file was replaced in between.
fn same_program(one: &Path, other: &Path) -> bool {
    let name = |path: &Path| path.to_string_lossy().trim_end_matches(" (deleted)").to_owned();
    name(one) == name(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(members: &[(u32, u32, &str)]) -> Vec<CgroupProcess> {
        let member = |&(pid, ppid, program): &(u32, u32, &str)| CgroupProcess {
            pid,
            ppid,
            program: PathBuf::from(program),
        };
        members.iter().map(member).collect()
    }

    fn unrelated_pids(members: &[(u32, u32, &str)], leaker: u32) -> Vec<u32> {
        unrelated(&all(members), leaker).iter().map(|member| member.pid).collect()
    }

    fn related_pids(members: &[(u32, u32, &str)], leaker: u32) -> Vec<u32> {
        related(&all(members), leaker).iter().map(|member| member.pid).collect()
    }

    #[test]
    fn service_of_one_program_has_no_unrelated_process() {
        let nginx = [(10, 1, "/nginx"), (11, 10, "/nginx (deleted)"), (12, 10, "/nginx")];
        assert_eq!(unrelated_pids(&nginx, 12), [0; 0]);
    }

    #[test]
    fn wrappers_and_children_are_related() {
        let container = [
            (10, 9, "/tini"),
            (11, 10, "/sh"),
            (12, 11, "/api"),
            (13, 12, "/convert"),
            (14, 13, "/gs"),
        ];
        assert_eq!(unrelated_pids(&container, 12), [0; 0]);
    }

    #[test]
    fn another_program_and_its_children_are_unrelated() {
        let omnibus =
            [(10, 1, "/runsvdir"), (11, 10, "/puma"), (12, 10, "/postgres"), (13, 12, "/postgres")];
        assert_eq!(unrelated_pids(&omnibus, 11), [12, 13]);
    }

    #[test]
    fn wrapper_moves_with_the_leaker_and_supervisor_stays() {
        let omnibus = [
            (10, 1, "/runsvdir"),
            (11, 10, "/sh"),
            (12, 11, "/puma"),
            (13, 12, "/puma"),
            (14, 10, "/postgres"),
        ];
        assert_eq!(related_pids(&omnibus, 13), [11, 12, 13]);
        let master =
            [(10, 1, "/nginx"), (11, 10, "/nginx"), (12, 10, "/logger"), (13, 11, "/convert")];
        assert_eq!(related_pids(&master, 11), [10, 11, 13]);
        assert_eq!(related_pids(&[(10, 1, "/api"), (11, 1, "/db")], 10), [10]);
        assert_eq!(related_pids(&[(10, 1, "/api")], 11), [0; 0]);
    }

    #[test]
    fn without_the_leaker_every_process_is_unrelated() {
        assert_eq!(unrelated_pids(&[(10, 1, "/api")], 11), [10]);
    }

    #[test]
    fn cycle_of_pids_ends() {
        assert_eq!(unrelated_pids(&[(10, 11, "/a"), (11, 10, "/b"), (12, 12, "/c")], 12), [10, 11]);
    }
}
