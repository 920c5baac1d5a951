//! Builds the packages once more, from a clone in another directory, and compares every byte.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;

use super::run;
use crate::child;
use crate::workspace::Workspace;

/// Returns the packages that differ from those in `directory`, which were made of the same commit.
pub fn differing(workspace: &Workspace, directory: &Path) -> anyhow::Result<Vec<String>> {
    let clone = workspace.target.join("dist/again");
    fs::remove_dir_all(&clone).ok();
    let mut git = Command::new("git");
    git.args(["clone", "--quiet"]).arg(&workspace.root).arg(&clone);
    run("clone the repository", &mut git)?;
    let mut again = Command::new("cargo");
    again.args(["xtask", "dist"]).current_dir(&clone).env_remove("CARGO_TARGET_DIR");
    let built = child::streaming("build everything again", &mut again)?.success();
    anyhow::ensure!(built, "the packages could not be built in {}", clone.display());
    let [ours, theirs] = [directory, &clone.join("target/dist")].map(|directory| {
        let sums = directory.join("SHA256SUMS");
        fs::read_to_string(&sums).with_context(|| format!("{} cannot be read", sums.display()))
    });
    let differing = differing_names(&ours?, &theirs?);
    fs::remove_dir_all(&clone).with_context(|| format!("{} cannot be removed", clone.display()))?;
    Ok(differing)
}

/// Returns the names whose checksums are not the same in both lists.
fn differing_names(ours: &str, theirs: &str) -> Vec<String> {
    let theirs: Vec<_> = theirs.lines().collect();
    let others = ours.lines().filter(|line| !theirs.contains(line));
    others.filter_map(|line| line.split_whitespace().nth(1)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_with_another_checksum_or_none_are_named() {
        let ours = "0a  spillway.deb\n0b  spillway.rpm\n0c  spillway.tar.xz\n";
        assert_eq!(differing_names(ours, ours), [""; 0]);
        assert_eq!(
            differing_names(ours, "0a  spillway.deb\n1b  spillway.rpm\n"),
            ["spillway.rpm", "spillway.tar.xz"]
        );
    }
}
