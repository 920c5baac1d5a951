//! Landlock: everything can be read, and only some directories can be written.

use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, CompatLevel, Compatible as _, PathBeneath, PathFd,
    Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus, make_bitflags,
};

/// Extent to which the kernel enforces the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforced {
    Fully,
    Partly,
    Not,
}

/// Rights that are restricted: those of Linux 6.10. An older kernel restricts those that it knows.
const KNOWN: ABI = ABI::V5;

/// Restricts this thread and its descendants. No program can be executed.
pub fn restrict(
    state_dir: &Path,
    runtime_dir: &Path,
    cgroups: Option<&Path>,
) -> Result<Enforced, RulesetError> {
    let read = make_bitflags!(AccessFs::{ReadFile | ReadDir});
    let all = AccessFs::from_all(KNOWN);
    // A rule needs an existing directory. If the state directory is created only later, the rule
    // is for the closest one above it.
    let state_dir = state_dir.ancestors().find(|path| path.is_dir()).unwrap_or(state_dir);
    let limits = read | make_bitflags!(AccessFs::{WriteFile | Truncate | MakeDir | RemoveDir});
    let default_mount = Path::new("/sys/fs/cgroup");
    let rules: [(&Path, BitFlags<AccessFs>); 6] = [
        // /proc, /sys, the configuration, secrets, certificates, the resolver's files.
        (Path::new("/"), read),
        // Journal, spool, drain state and locks.
        (state_dir, all & !AccessFs::Execute),
        // Limits, and a child for a leaking process that shares its cgroup.
        (default_mount, limits),
        (cgroups.unwrap_or(default_mount), limits),
        // Drop-ins of properties that were set until the next boot, which are removed with the
        // limit; see `act/limit/systemd.rs`.
        (Path::new("/run/systemd"), read | make_bitflags!(AccessFs::{RemoveFile | RemoveDir})),
        // The status socket, which is made anew if another agent had it, and removed at the end.
        (
            runtime_dir,
            read | make_bitflags!(AccessFs::{MakeSock | MakeDir | RemoveFile | RemoveDir}),
        ),
    ];
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .create()?;
    for (path, access) in rules {
        // A missing directory cannot be written either.
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
    fn restricted_thread_writes_only_to_the_state_directory() {
        let base = std::env::temp_dir().join(format!("spillway-landlock-{}", std::process::id()));
        let (state, other) = (base.join("state"), base.join("other"));
        fs::create_dir_all(&other).unwrap();
        fs::create_dir_all(&state).unwrap();
        fs::write(other.join("file"), "before").unwrap();
        let (inside, outside) = (state.join("file"), other.join("file"));
        let restricted = thread::spawn(move || {
            if restrict(&state, &state, None).unwrap() == Enforced::Not {
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
