//! Archive for every other distribution: the program, and the files of the repository that its
//! installation by hand needs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use super::stage::Stage;
use super::{VERSION, made, run};

/// Files and directories of the repository in the archive.
const SOURCES: [&str; 6] =
    ["CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT", "README.md", "SECURITY.md", "configs"];

impl Stage {
    /// Makes the archive in a directory.
    pub fn tarball(&self, directory: &Path) -> anyhow::Result<PathBuf> {
        let name = format!("spillway-{VERSION}-{}", self.arch.kernel);
        let package = directory.join(format!("{name}.tar.xz"));
        let top = directory.join("stage").join(&name);
        fs::remove_dir_all(&top).ok();
        fs::create_dir_all(&top).with_context(|| format!("{} cannot be created", top.display()))?;
        let mut copy = Command::new("cp");
        copy.args(["-r", "--no-preserve=mode"]).args(SOURCES.map(|path| self.source.join(path)));
        copy.args(["man", "completions"].map(|part| self.manuals.join(part)));
        run("collect the files of the tarball", copy.arg(&top))?;
        fs::copy(self.root.join("usr/bin/spillway"), top.join("spillway"))
            .context("the program cannot be copied")?;
        let mut pack = Command::new("tar");
        pack.args([
            "--sort=name",
            "--owner=0",
            "--group=0",
            "--numeric-owner",
            "--mode=go=rX,u+rw",
        ]);
        pack.args(["--format=ustar", &format!("--mtime=@{}", self.epoch), "-cJf"]).arg(&package);
        pack.arg("-C").arg(directory.join("stage")).arg(&name);
        run("pack the tarball", &mut pack)?;
        made(package)
    }
}
