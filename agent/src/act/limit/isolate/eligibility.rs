//! Whether a shared cgroup may be divided: by the operator, by systemd, and by what it is.
//!
//! What is seen of it is gathered first and then judged; the judgement is pure. Nothing is written.

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

/// By which systemd says of a cgroup that what is below it is somebody else's: as root, and where
/// it may set no attribute of root's.
const DELEGATED: [&str; 2] = ["trusted.delegate", "user.delegate"];

/// Suffixes of systemd units that can contain processes or units.
const UNITS: [&str; 3] = [".service", ".scope", ".slice"];

/// View of a shared cgroup.
#[derive(Debug, Clone)]
struct SharedCgroupView {
    /// Processes directly in it, with their programs.
    pids: Vec<u32>,
    members: Vec<CgroupProcess>,
    /// Those of our children that are there already.
    taken: Vec<&'static str>,
    /// Details that only this version has.
    of: Of,
}

#[derive(Debug, Clone)]
enum Of {
    V1 {
        /// Whether what its children use counts as used by it.
        is_hierarchical: bool,
    },
    V2 {
        /// `cgroup.type`.
        kind: String,
        subtree_control: String,
        /// Names of children that have processes.
        peopled: Vec<String>,
        /// Whether it is promised memory that its children would not have a part of.
        loses_protection: bool,
    },
}

/// Whether it may, and what it is before.
///
/// # Errors
///
/// Returns a refusal that names the processes that share it.
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
        && let Err(owned) = handed_over(&target.directory, cgroup)
    {
        return Err(refused(
            format!("{owned} is systemd's own"),
            "Delegate=yes in its unit hands it over",
        ));
    }
    let sight = SharedCgroupView::of(target, programs)
        .map_err(failed(format!("what {cgroup} is cannot be told")))?;
    match objection(&sight, protected, std::process::id()) {
        Some(why) => Err(refused(why, "give the service a unit or container of its own")),
        None => Ok(IsolatedCgroup {
            subtree_control: match sight.of {
                Of::V1 { .. } => None,
                Of::V2 { subtree_control, .. } => Some(subtree_control),
            },
        }),
    }
}

/// Why it is not to be divided; `None` where it may be.
fn objection(sight: &SharedCgroupView, protected: &[Pattern], own_pid: u32) -> Option<String> {
    if sight.pids.contains(&0) {
        return Some("not every process of it is seen from here".to_owned());
    }
    if sight.pids.contains(&own_pid) {
        return Some("Spillway is among them".to_owned());
    }
    if let Some(child) = sight.taken.first() {
        return Some(format!("it has a child {child} already"));
    }
    match &sight.of {
        Of::V1 { is_hierarchical: false } => {
            Some("its limits do not hold for its children (memory.use_hierarchy=0)".to_owned())
        }
        Of::V1 { .. } => None,
        Of::V2 { kind, subtree_control, peopled, loses_protection } => {
            let is_protected = |member: &&CgroupProcess| {
                protected.iter().any(|pattern| pattern.is_of(&member.program))
            };
            if kind != "domain" {
                Some(format!("its cgroup.type is {kind}"))
            } else if controllers(subtree_control).contains(MEMORY) {
                Some("it hands the memory controller on already".to_owned())
            } else if let Some(child) = peopled.first() {
                Some(format!("it has a child {child} with processes"))
            } else if *loses_protection {
                Some(
                    "its memory.min or memory.low would not hold for those who are moved"
                        .to_owned(),
                )
            } else {
                let member = sight.members.iter().find(is_protected)?;
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
                let mut peopled = Vec::new();
                for child in children_of(directory)? {
                    if fs::read_to_string(child.join("cgroup.events"))?
                        .lines()
                        .any(|line| line == "populated 1")
                    {
                        peopled.push(
                            child.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                        );
                    }
                }
                let promised = |file| target.read(file).is_ok_and(|value| value != "0");
                Of::V2 {
                    kind: fs::read_to_string(directory.join("cgroup.type"))?.trim().to_owned(),
                    subtree_control: fs::read_to_string(directory.join(SUBTREE_CONTROL))?
                        .trim()
                        .to_owned(),
                    peopled,
                    loses_protection: (promised("memory.min") || promised("memory.low"))
                        && !protects_children(),
                }
            }
        };
        Ok(Self { pids, members, taken, of })
    }
}

/// Whether what a cgroup is promised holds for its children without being said of each.
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

/// Whether systemd has handed a cgroup over; the error names whose it is: the innermost unit on its
/// path, or itself where there is none.
fn handed_over(directory: &Path, cgroup: &str) -> Result<(), String> {
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

/// The path up to the innermost unit, and how far below it the whole path ends.
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

    fn sight(of: Of) -> SharedCgroupView {
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
        sight(Of::V1 { is_hierarchical })
    }

    fn v2(
        kind: &str,
        subtree_control: &str,
        peopled: &[&str],
        loses_protection: bool,
    ) -> SharedCgroupView {
        let (kind, subtree_control) = (kind.to_owned(), subtree_control.to_owned());
        let peopled = peopled.iter().map(ToString::to_string).collect();
        sight(Of::V2 { kind, subtree_control, peopled, loses_protection })
    }

    fn why(sight: &SharedCgroupView) -> Option<String> {
        objection(sight, &[], 1)
    }

    #[test]
    fn a_plain_cgroup_may_be_divided() {
        assert_eq!(why(&v1(true)), None);
        assert_eq!(why(&v2("domain", "", &[], false)), None);
    }

    #[test]
    fn what_would_not_hold_or_is_not_ours_to_move_is_not_divided() {
        let told = |sight: &SharedCgroupView| why(sight).unwrap_or_default();
        assert!(told(&v1(false)).starts_with("its limits do not hold for its children"));
        assert_eq!(
            told(&v2("domain threaded", "", &[], false)),
            "its cgroup.type is domain threaded"
        );
        assert_eq!(
            told(&v2("domain", "io memory", &[], false)),
            "it hands the memory controller on already"
        );
        assert_eq!(told(&v2("domain", "", &["box"], false)), "it has a child box with processes");
        assert!(told(&v2("domain", "", &[], true)).starts_with("its memory.min or memory.low"));
        for plain in [v1(true), v2("domain", "", &[], false)] {
            let sight = SharedCgroupView { pids: vec![10, 0], ..plain.clone() };
            assert_eq!(told(&sight), "not every process of it is seen from here");
            assert_eq!(objection(&plain, &[], 11).as_deref(), Some("Spillway is among them"));
            let sight = SharedCgroupView { taken: vec![LEAK_CHILD], ..plain };
            assert_eq!(told(&sight), "it has a child spillway-leak already");
        }
    }

    #[test]
    fn protected_program_stays_beside_a_leaker() {
        let protected = [Pattern::new("exe:/db").unwrap()];
        assert_eq!(objection(&v1(true), &protected, 1), None);
        let told = objection(&v2("domain", "", &[], false), &protected, 1);
        assert_eq!(told.as_deref(), Some("db (pid 11) is protected, and would have to be moved"));
    }

    #[test]
    fn the_innermost_unit_says_whose_a_cgroup_is() {
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
    fn what_is_no_cgroup_or_has_no_attribute_is_not_handed_over() {
        assert_eq!(handed_over(&std::env::temp_dir(), "/tmp"), Err("/tmp".to_owned()));
    }
}
