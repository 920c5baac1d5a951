//! Processes that would be limited as well: the others in the leaking process's cgroup.

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

/// Those that have nothing to do with the leak: neither the same program, nor above the leaker, nor
/// below it. A worker's siblings and its master are one service; a wrapper lives by what it wraps;
/// and what the leaker started is the leaker's.
pub fn unrelated(members: &[CgroupProcess], leaker: u32) -> Vec<&CgroupProcess> {
    let Some(culprit) = find(members, leaker) else { return members.iter().collect() };
    let is_related = |member: &CgroupProcess| {
        same_program(&member.program, &culprit.program)
            || lineage(members, leaker).any(|above| above.pid == member.pid)
            || lineage(members, member.pid).any(|above| above.pid == leaker)
    };
    members.iter().filter(|member| !is_related(member)).collect()
}

/// Those that are limited with the leaker where the innocents are not: the others, but for who
/// started innocents as well and is none of the leaker's program. A supervisor wraps them all, and
/// what it starts next begins where it is itself.
pub fn related(members: &[CgroupProcess], leaker: u32) -> Vec<&CgroupProcess> {
    let Some(culprit) = find(members, leaker) else { return Vec::new() };
    let innocents = unrelated(members, leaker);
    let starts_innocents = |member: &CgroupProcess| {
        innocents.iter().any(|innocent| lineage(members, innocent.pid).any(|above| above == member))
    };
    let stays = |member: &CgroupProcess| {
        starts_innocents(member) && !same_program(&member.program, &culprit.program)
    };
    members.iter().filter(|member| !innocents.contains(member) && !stays(member)).collect()
}

fn find(members: &[CgroupProcess], pid: u32) -> Option<&CgroupProcess> {
    members.iter().find(|member| member.pid == pid)
}

/// A process, and those above it. As long as there are members at most: pids may be reused while
/// they are read, and then go in a circle.
fn lineage(members: &[CgroupProcess], pid: u32) -> impl Iterator<Item = &CgroupProcess> {
    std::iter::successors(find(members, pid), |member| find(members, member.ppid))
        .take(members.len())
}

/// Whether two processes run one program, were it replaced since one of them was started.
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

    fn innocent(members: &[(u32, u32, &str)], leaker: u32) -> Vec<u32> {
        unrelated(&all(members), leaker).iter().map(|member| member.pid).collect()
    }

    fn goes(members: &[(u32, u32, &str)], leaker: u32) -> Vec<u32> {
        related(&all(members), leaker).iter().map(|member| member.pid).collect()
    }

    #[test]
    fn a_service_of_one_program_has_no_innocents() {
        let nginx = [(10, 1, "/nginx"), (11, 10, "/nginx (deleted)"), (12, 10, "/nginx")];
        assert_eq!(innocent(&nginx, 12), [0; 0]);
    }

    #[test]
    fn wrappers_and_children_are_the_leakers_own() {
        let container = [
            (10, 9, "/tini"),
            (11, 10, "/sh"),
            (12, 11, "/api"),
            (13, 12, "/convert"),
            (14, 13, "/gs"),
        ];
        assert_eq!(innocent(&container, 12), [0; 0]);
    }

    #[test]
    fn another_program_beside_it_is_innocent_with_all_its_own() {
        let omnibus =
            [(10, 1, "/runsvdir"), (11, 10, "/puma"), (12, 10, "/postgres"), (13, 12, "/postgres")];
        assert_eq!(innocent(&omnibus, 11), [12, 13]);
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
        assert_eq!(goes(&omnibus, 13), [11, 12, 13]);
        let master =
            [(10, 1, "/nginx"), (11, 10, "/nginx"), (12, 10, "/logger"), (13, 11, "/convert")];
        assert_eq!(goes(&master, 11), [10, 11, 13]);
        assert_eq!(goes(&[(10, 1, "/api"), (11, 1, "/db")], 10), [10]);
        assert_eq!(goes(&[(10, 1, "/api")], 11), [0; 0]);
    }

    #[test]
    fn a_leaker_that_has_left_leaves_innocents_alone() {
        assert_eq!(innocent(&[(10, 1, "/api")], 11), [10]);
    }

    #[test]
    fn pids_that_go_in_a_circle_end() {
        assert_eq!(innocent(&[(10, 11, "/a"), (11, 10, "/b"), (12, 12, "/c")], 12), [10, 11]);
    }
}
