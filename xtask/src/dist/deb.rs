//! Package for Debian and its relatives, made by dpkg-deb.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use super::stage::{Stage, read};
use super::{made, run};
use crate::child;

/// Compression of a package.
#[derive(Debug, Clone, Copy)]
pub enum Packing {
    /// For users: xz, which the oldest supported release can unpack.
    Small,
    /// For checks, on a machine that is emulated.
    Quick,
}

/// Scripts that dpkg runs when it installs and removes the package.
const SCRIPTS: [&str; 3] = ["postinst", "postrm", "prerm"];

/// Files that dpkg keeps if they were changed.
const CONFFILES: &str = "/etc/spillway/spillway.toml\n";

impl Stage {
    /// Makes the package in a directory.
    pub fn deb(
        &self,
        version: &str,
        packing: Packing,
        directory: &Path,
    ) -> anyhow::Result<PathBuf> {
        let packaging = self.source.join("packaging/debian");
        let date = child::output_of(Command::new("date").args([
            "-u",
            "-R",
            "-d",
            &format!("@{}", self.epoch),
        ]))
        .with_context(|| format!("SOURCE_DATE_EPOCH = {} is not a time", self.epoch))?;
        let changelog = format!(
            "spillway ({version}) unstable; urgency=medium\n\n  * See changelog.gz.\n\n \
             -- {}  {date}",
            maintainer(&read(&packaging.join("control"))?)
        );
        let log = self.write("usr/share/doc/spillway/changelog.Debian", changelog.as_bytes())?;
        self.compress(log)?;
        let overrides = packaging.join("lintian-overrides");
        self.copy(&overrides, "usr/share/lintian/overrides/spillway", 0o644)?;

        let control = read(&packaging.join("control"))?
            .replace("@VERSION@", version)
            .replace("@ARCHITECTURE@", self.arch.debian)
            .replace("@INSTALLED_KIB@", &self.installed_kib()?.to_string());
        let sums = self.md5sums()?;
        self.write("DEBIAN/control", control.as_bytes())?;
        self.write("DEBIAN/conffiles", CONFFILES.as_bytes())?;
        self.write("DEBIAN/md5sums", sums.as_bytes())?;
        for script in SCRIPTS {
            self.copy(&packaging.join(script), &format!("DEBIAN/{script}"), 0o755)?;
        }
        let package = directory.join(format!("spillway_{version}_{}.deb", self.arch.debian));
        fs::create_dir_all(directory)
            .with_context(|| format!("{} cannot be created", directory.display()))?;
        let mut build = Command::new("dpkg-deb");
        build.arg("--root-owner-group").args(match packing {
            Packing::Small => &["-Zxz"][..],
            Packing::Quick => &["-Zgzip", "-z1"],
        });
        build.arg("--build").arg(&self.root).arg(&package);
        build.env("SOURCE_DATE_EPOCH", &self.epoch);
        run(&format!("pack spillway {version} for Debian"), &mut build)?;
        // They belong to this package alone.
        for own in ["DEBIAN", "usr/share/lintian"] {
            fs::remove_dir_all(self.root.join(own)).context("the stage cannot be cleaned")?;
        }
        fs::remove_file(self.root.join("usr/share/doc/spillway/changelog.Debian.gz"))
            .context("the stage cannot be cleaned")?;
        made(package)
    }

    /// Returns the sizes of all files in KiB, each rounded up, as Debian counts.
    fn installed_kib(&self) -> anyhow::Result<u64> {
        let mut find = Command::new("find");
        let sizes = child::output_of(find.arg(&self.root).args(["-type", "f", "-printf", "%s\n"]))
            .context("the staged files cannot be listed by find")?;
        let bytes = sizes.lines().filter_map(|line| line.parse::<u64>().ok());
        Ok(bytes.map(|bytes| bytes.div_ceil(1024)).sum())
    }

    /// Returns the checksums of the files that dpkg can verify: all but the configuration.
    fn md5sums(&self) -> anyhow::Result<String> {
        let mut sum = Command::new("sh");
        sum.args(["-c", "find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum"]);
        child::output_of(sum.current_dir(&self.root))
            .context("the staged files' checksums cannot be computed by md5sum")
    }
}

fn maintainer(control: &str) -> &str {
    control.lines().find_map(|line| line.strip_prefix("Maintainer: ")).unwrap_or_default()
}
