//! Landlock: the directories that may be written, of a file system that may be read as a whole.

use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, CompatLevel, Compatible as _, PathBeneath, PathFd,
    Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus, make_bitflags,
};

/// Extent to which a kernel enforces it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforced {
    Fully,
    Partly,
    Not,
}

/// Rights that are bounded: those of Linux 6.10, of which an older kernel bounds what it knows.
const KNOWN: ABI = ABI::V5;

/// Restricts this thread and its descendants. Nothing may be executed.
pub fn restrict(state_dir: &Path, cgroups: Option<&Path>) -> Result<Enforced, RulesetError> {
    let read = make_bitflags!(AccessFs::{ReadFile | ReadDir});
    let all = AccessFs::from_all(KNOWN);
    // A rule needs its directory. Of one that is yet to be made, because somebody may want it
    // later, the one above is as close as it gets.
    let state_dir = state_dir.ancestors().find(|path| path.is_dir()).unwrap_or(state_dir);
    let limits = read | make_bitflags!(AccessFs::{WriteFile | Truncate | MakeDir | RemoveDir});
    let usual = Path::new("/sys/fs/cgroup");
    let rules: [(&Path, BitFlags<AccessFs>); 5] = [
        // /proc, /sys, the configuration, secrets, certificates, the resolver's files.
        (Path::new("/"), read),
        // Journal, spool, drain state and locks.
        (state_dir, all & !AccessFs::Execute),
        // Limits, and a child for a leaker that shares its cgroup.
        (usual, limits),
        (cgroups.unwrap_or(usual), limits),
        // Drop-ins of properties that were set for this boot, which are removed with the limit; see
        // `act/limit/systemd.rs`.
        (Path::new("/run/systemd"), read | make_bitflags!(AccessFs::{RemoveFile | RemoveDir})),
    ];
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .create()?;
    for (path, access) in rules {
        // What is not there cannot be written either.
        if let Ok(directory) = PathFd::new(path) {
            ruleset = ruleset.add_rule(PathBeneath::new(directory, access))?;
        }
    }
    Ok(match ruleset.restrict_self()?.ruleset {
        RulesetStatus::FullyEnforced => Enforced::Fully,
        RulesetStatus::PartiallyEnforced => Enforced::Partly,
        RulesetStatus::NotEnforced => Enforced::Not,
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, thread};

    use super::*;

    #[test]
    fn a_thread_writes_nothing_but_its_own_directory() {
        let base = std::env::temp_dir().join(format!("spillway-landlock-{}", std::process::id()));
        let (state, other) = (base.join("state"), base.join("other"));
        fs::create_dir_all(&other).unwrap();
        fs::create_dir_all(&state).unwrap();
        fs::write(other.join("file"), "before").unwrap();
        let (inside, outside) = (state.join("file"), other.join("file"));
        let restricted = thread::spawn(move || {
            if restrict(&state, None).unwrap() == Enforced::Not {
                return None;
            }
            fs::write(&inside, "in its place").unwrap();
            std::os::unix::fs::symlink(&outside, state.join("link")).unwrap();
            let refused = [
                fs::write(&outside, "after"),
                fs::write(state.join("link"), "after"),
                fs::remove_file(&outside),
            ];
            let inherited = thread::spawn(move || fs::write(outside, "after")).join().unwrap();
            let kinds =
                refused.into_iter().chain([inherited]).map(|result| result.unwrap_err().kind());
            let run =
                std::process::Command::new("/bin/true").status().map(drop).unwrap_err().kind();
            Some(kinds.chain([run]).collect::<Vec<_>>())
        });
        let refused = restricted.join().unwrap();
        let kept = fs::read_to_string(other.join("file")).unwrap();
        fs::remove_dir_all(&base).unwrap();
        if let Some(refused) = refused {
            assert_eq!(refused, [std::io::ErrorKind::PermissionDenied; 5]);
            assert_eq!(kept, "before");
        }
    }
}
