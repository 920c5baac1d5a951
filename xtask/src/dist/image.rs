//! Container image, built from `packaging/Containerfile` by Buildah, which needs no daemon.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use super::stage::Stage;
use super::{VERSION, made, run};

/// Certificate authorities of this machine.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

impl Stage {
    /// Builds the image, as an archive that Docker, Podman and containerd load.
    pub fn image(&self, directory: &Path) -> anyhow::Result<PathBuf> {
        let archive = directory.join(format!("spillway-{VERSION}-{}.image.tar", self.arch.kernel));
        let work = directory.join("image");
        let context = work.join("context");
        fs::remove_dir_all(&work).ok();
        fs::remove_file(&archive).ok();
        fs::create_dir_all(&context)
            .with_context(|| format!("{} cannot be created", context.display()))?;
        for (from, to) in [
            (self.root.join("usr/bin/spillway"), "spillway"),
            (PathBuf::from(AUTHORITIES), "ca-certificates.crt"),
            (self.source.join("packaging/Containerfile"), "Containerfile"),
        ] {
            fs::copy(&from, context.join(to))
                .with_context(|| format!("{} cannot be copied", from.display()))?;
        }
        let name = format!("spillway:{VERSION}");
        let mut build = buildah(&work);
        build.args(["build", "--quiet", "--isolation=chroot", "--timestamp", &self.epoch]);
        run("build the image", build.args(["--tag", &name]).arg(&context))?;
        let mut push = buildah(&work);
        let target = format!("docker-archive:{}:{name}", archive.display());
        run("pack the image", push.args(["push", "--quiet", &name, &target]))?;
        fs::remove_dir_all(&work).ok();
        made(archive)
    }
}

/// Returns the command of Buildah with files of its own below this directory.
fn buildah(work: &Path) -> Command {
    let mut command = Command::new("buildah");
    command.args(["--storage-driver", "vfs"]);
    command.arg("--root").arg(work.join("storage")).arg("--runroot").arg(work.join("run"));
    command
}
