//! Check that a shared cgroup may be divided: by the operator, by systemd, and by its state.
//!
//! The state is read first and then judged by a pure function. Nothing is written.

use std::{fs, io, path::Path};

use super::{
    super::{
        LimitError, LimitRefusal,
        cgroup::{Cgroup, Version},
        cgroup_procs::CgroupProcess,
        failed, systemd,
    },
    LEAK_CHILD, MEMORY, REST_CHILD, SUBTREE_CONTROL, children_of, controllers, pids_in,
};
use crate::{
    act::journal::IsolatedCgroup,
    config::Pattern,
    sense::{ProgramList, proc_files},
};

/// Extended attributes by which systemd marks a cgroup whose children are delegated: as root, and
/// where it may not set trusted attributes.
const DELEGATED: [&str; 2] = ["trusted.delegate", "user.delegate"];

/// Suffixes of systemd units that can contain processes or units.
const UNITS: [&str; 3] = [".service", ".scope", ".slice"];

/// View of a shared cgroup.
#[derive(Debug, Clone)]
struct SharedCgroupView {
    /// Processes directly in it, with their programs.
    pids: Vec<u32>,
    members: Vec<CgroupProcess>,
    /// Children with the agent's names that exist already.
    taken: Vec<&'static str>,
    /// Details that only this version has.
    of: Of,
}

#[derive(Debug, Clone)]
enum Of {
    V1 {
        /// Set if the usage of its children counts as its own.
        is_hierarchical: bool,
    },
    V2 {
        /// `cgroup.type`.
        kind: String,
        subtree_control: String,
        /// Names of children that have processes.
        populated: Vec<String>,
        /// Set if it has protected memory in which its children would have no part.
        loses_protection: bool,
    },
}

/// Checks that a cgroup may be divided, and returns its state before.
///
/// # Errors
///
/// Returns a refusal that names the processes that share the cgroup.
pub fn permit(
    delegated: &[Pattern],
    protected: &[Pattern],
    programs: Option<&ProgramList>,
    target: &Cgroup,
    cgroup: &str,
    shared: String,
) -> Result<IsolatedCgroup, LimitError> {
    if !delegated.iter().any(|pattern| pattern.covers(cgroup)) {
        return Err(LimitRefusal::Shared(shared).into());
    }
    let refused =
        |why: String, hint| LimitRefusal::NotDivided { shared: shared.clone(), why, hint }.into();
    if systemd::is_running()
        && let Err(owned) = check_delegated(&target.directory, cgroup)
    {
        return Err(refused(
            format!("{owned} is managed by systemd"),
            "set Delegate=yes in its unit",
        ));
    }
    let view = SharedCgroupView::of(target, programs)
        .map_err(failed(format!("cannot read the state of {cgroup}")))?;
    match objection(&view, protected, std::process::id()) {
        Some(why) => Err(refused(why, "give the service a unit or container of its own")),
        None => Ok(IsolatedCgroup {
            subtree_control: match view.of {
                Of::V1 { .. } => None,
                Of::V2 { subtree_control, .. } => Some(subtree_control),
            },
        }),
    }
}

/// Returns the reason against dividing it; `None` if there is none.
fn objection(view: &SharedCgroupView, protected: &[Pattern], own_pid: u32) -> Option<String> {
    if view.pids.contains(&0) {
        return Some("some of its processes are outside of the agent's pid namespace".to_owned());
    }
    if view.pids.contains(&own_pid) {
        return Some("Spillway runs in it".to_owned());
    }
    if let Some(child) = view.taken.first() {
        return Some(format!("it already has a child {child}"));
    }
    match &view.of {
        Of::V1 { is_hierarchical: false } => {
            Some("its limits do not apply to its children (memory.use_hierarchy=0)".to_owned())
        }
        Of::V1 { .. } => None,
        Of::V2 { kind, subtree_control, populated, loses_protection } => {
            let is_protected = |member: &&CgroupProcess| {
                protected.iter().any(|pattern| pattern.is_of(&member.program))
            };
            if kind != "domain" {
                Some(format!("its cgroup.type is {kind}"))
            } else if controllers(subtree_control).contains(MEMORY) {
                Some("it already enables the memory controller for its children".to_owned())
            } else if let Some(child) = populated.first() {
                Some(format!("it has a child {child} with processes"))
            } else if *loses_protection {
                Some(
                    "its memory.min or memory.low would not protect the processes that are moved"
                        .to_owned(),
                )
            } else {
                let member = view.members.iter().find(is_protected)?;
                Some(format!("{member} is protected, and would have to be moved"))
            }
        }
    }
}

impl SharedCgroupView {
    fn of(target: &Cgroup, programs: Option<&ProgramList>) -> io::Result<Self> {
        let directory = &target.directory;
        let pids = pids_in(directory)?;
        let members = CgroupProcess::all(&pids, programs)?;
        let taken = [LEAK_CHILD, REST_CHILD]
            .into_iter()
            .filter(|child| directory.join(child).exists())
            .collect();
        let of = match target.version() {
            // Kernels without the switch have no other way.
            Version::V1 => Of::V1 {
                is_hierarchical: target
                    .read("memory.use_hierarchy")
                    .map_or(true, |value| value != "0"),
            },
            Version::V2 => {
                let mut populated = Vec::new();
                for child in children_of(directory)? {
                    if fs::read_to_string(child.join("cgroup.events"))?
                        .lines()
                        .any(|line| line == "populated 1")
                    {
                        populated.push(
                            child.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                        );
                    }
                }
                let protects = |file| target.read(file).is_ok_and(|value| value != "0");
                Of::V2 {
                    kind: fs::read_to_string(directory.join("cgroup.type"))?.trim().to_owned(),
                    subtree_control: fs::read_to_string(directory.join(SUBTREE_CONTROL))?
                        .trim()
                        .to_owned(),
                    populated,
                    loses_protection: (protects("memory.min") || protects("memory.low"))
                        && !protects_children(),
                }
            }
        };
        Ok(Self { pids, members, taken, of })
    }
}

/// Returns whether a cgroup's memory protection extends to its children
/// (`memory_recursiveprot`).
fn protects_children() -> bool {
    let mounts = proc_files::mounts();
    mounts.is_ok_and(|mounts| {
        let mut options = mounts
            .into_iter()
            .filter(|mount| mount.fs_type == "cgroup2")
            .map(|mount| mount.super_options);
        options.any(|options| options.contains_key("memory_recursiveprot"))
    })
}

/// Checks that systemd has delegated a cgroup. The error names the cgroup's owner: the innermost
/// unit on its path, or the cgroup itself if there is none.
fn check_delegated(directory: &Path, cgroup: &str) -> Result<(), String> {
    let (unit, below) = innermost_unit(cgroup);
    let is_delegated = directory.ancestors().nth(below).is_some_and(|unit| {
        DELEGATED.iter().any(|name| {
            let mut value = [0];
            rustix::fs::getxattr(unit, *name, &mut value).is_ok_and(|length| length == 1)
                && value == *b"1"
        })
    });
    if is_delegated { Ok(()) } else { Err(unit.to_owned()) }
}

/// Returns the path up to the innermost unit, and the number of components below it.
fn innermost_unit(cgroup: &str) -> (&str, usize) {
    let mut path = cgroup;
    let mut below = 0;
    while let Some((parent, name)) = path.rsplit_once('/') {
        if UNITS.iter().any(|suffix| name.ends_with(suffix)) {
            return (path, below);
        }
        (path, below) = (parent, below + 1);
    }
    (cgroup, 0)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn view(of: Of) -> SharedCgroupView {
        let member =
            |pid, program: &str| CgroupProcess { pid, ppid: 1, program: PathBuf::from(program) };
        SharedCgroupView {
            pids: vec![10, 11],
            members: vec![member(10, "/api"), member(11, "/db")],
            taken: Vec::new(),
            of,
        }
    }

    fn v1(is_hierarchical: bool) -> SharedCgroupView {
        view(Of::V1 { is_hierarchical })
    }

    fn v2(
        kind: &str,
        subtree_control: &str,
        populated: &[&str],
        loses_protection: bool,
    ) -> SharedCgroupView {
        let (kind, subtree_control) = (kind.to_owned(), subtree_control.to_owned());
        let populated = populated.iter().map(ToString::to_string).collect();
        view(Of::V2 { kind, subtree_control, populated, loses_protection })
    }

    fn why(view: &SharedCgroupView) -> Option<String> {
        objection(view, &[], 1)
    }

    #[test]
    fn plain_cgroup_may_be_divided() {
        assert_eq!(why(&v1(true)), None);
        assert_eq!(why(&v2("domain", "", &[], false)), None);
    }

    #[test]
    fn cgroup_whose_division_would_do_harm_is_refused() {
        let reason = |view: &SharedCgroupView| why(view).unwrap_or_default();
        assert!(reason(&v1(false)).starts_with("its limits do not apply to its children"));
        assert_eq!(
            reason(&v2("domain threaded", "", &[], false)),
            "its cgroup.type is domain threaded"
        );
        assert_eq!(
            reason(&v2("domain", "io memory", &[], false)),
            "it already enables the memory controller for its children"
        );
        assert_eq!(reason(&v2("domain", "", &["box"], false)), "it has a child box with processes");
        assert!(reason(&v2("domain", "", &[], true)).starts_with("its memory.min or memory.low"));
        for plain in [v1(true), v2("domain", "", &[], false)] {
            let view = SharedCgroupView { pids: vec![10, 0], ..plain.clone() };
            assert_eq!(
                reason(&view),
                "some of its processes are outside of the agent's pid namespace"
            );
            assert_eq!(objection(&plain, &[], 11).as_deref(), Some("Spillway runs in it"));
            let view = SharedCgroupView { taken: vec![LEAK_CHILD], ..plain };
            assert_eq!(reason(&view), "it already has a child spillway-leak");
        }
    }

    #[test]
    fn protected_program_stays_beside_a_leaker() {
        let protected = [Pattern::new("exe:/db").unwrap()];
        assert_eq!(objection(&v1(true), &protected, 1), None);
        let reason = objection(&v2("domain", "", &[], false), &protected, 1);
        assert_eq!(reason.as_deref(), Some("db (pid 11) is protected, and would have to be moved"));
    }

    #[test]
    fn innermost_unit_owns_a_cgroup() {
        assert_eq!(innermost_unit("/system.slice/a.service"), ("/system.slice/a.service", 0));
        assert_eq!(
            innermost_unit("/system.slice/a.service/box/one"),
            ("/system.slice/a.service", 2)
        );
        let nested = "/user.slice/user-0.slice/user@0.service/app.slice/b.service";
        assert_eq!(innermost_unit(nested), (nested, 0), "another systemd's own");
        assert_eq!(innermost_unit("/a/b"), ("/a/b", 0));
    }

    #[test]
    fn directory_without_the_attribute_is_not_delegated() {
        assert_eq!(check_delegated(&std::env::temp_dir(), "/tmp"), Err("/tmp".to_owned()));
    }
}
