//! Programs that Debian packages and nobody here wants installed: unpacked into the cache, and run
//! from there.
//!
//! A test must not leave a web server enabled on its user's machine, nor replace packages that are
//! there: an emulator of another version than what the machine already has of it cannot be
//! installed beside it. With each package come those of its needs that the machine lacks. A set
//! counts as there only if all its programs run, since an upgrade of the distribution can take
//! their libraries away. Needs apt-get and dpkg, and root only where apt has no lists.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::apt::{apt, has_candidate};
use crate::child::{self, OnInterrupt};
use crate::sudo::authenticate;
use crate::workspace::{cache_dir, on_path};

/// Programs that are used together.
pub struct Unpacked {
    /// Its directory in the cache.
    pub name: &'static str,
    /// What it is, in words.
    pub what: &'static str,
    /// Who wants it, in words.
    pub why: &'static str,
    /// Debian's packages.
    pub packages: &'static [&'static str],
    /// Where its programs are, the argument that makes each tell its version, and its exit code
    /// then.
    pub programs: &'static [(&'static str, &'static str, i32)],
}

impl Unpacked {
    /// Where it is, or would be.
    pub fn root(&self) -> anyhow::Result<PathBuf> {
        Ok(cache_dir()?.join(self.name).join("root"))
    }

    /// Whether it is there.
    pub fn is_there(&self) -> anyhow::Result<bool> {
        let root = self.root()?;
        Ok(self.programs.iter().all(|(program, version, code)| {
            command(&root, program)
                .arg(version)
                .output()
                .is_ok_and(|output| output.status.code() == Some(*code))
        }))
    }

    /// Makes sure that it is there; gives the root of what was unpacked.
    pub fn provide(&self) -> anyhow::Result<PathBuf> {
        let (root, what) = (self.root()?, self.what);
        if self.is_there()? {
            return Ok(root);
        }
        let dir = cache_dir()?.join(self.name);
        eprintln!("setup: no {what} yet, {}; unpacked into {}", self.why, dir.display());
        unpack_into(&dir, what, self.packages, || self.with_needs())?;
        if !self.is_there()? {
            bail!(
                "{what}: unpacked into {} and does not run\n  hint: run it by hand to see why",
                root.display()
            );
        }
        Ok(root)
    }

    /// Its packages, and what apt would install with them here.
    fn with_needs(&self) -> BTreeSet<String> {
        let mut simulate = Command::new("apt-get");
        simulate.args(["install", "--simulate", "--no-install-recommends"]).args(self.packages);
        // Messages are read here.
        let simulated = child::output_of(simulate.env("LC_ALL", "C")).unwrap_or_default();
        let names =
            simulated.lines().filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next());
        names.chain(self.packages.iter().copied()).map(str::to_owned).collect()
    }
}

/// Unpacks Debian's packages below `dir`, which it empties: `packages`, and what `with_needs` names
/// with them. `what` they are is in words.
pub fn unpack_into(
    dir: &Path,
    what: &str,
    packages: &[&str],
    with_needs: impl Fn() -> BTreeSet<String>,
) -> anyhow::Result<()> {
    if let Some(missing) =
        ["apt-get", "dpkg"].into_iter().find(|program| on_path(program).is_none())
    {
        bail!("{what}: unpacked from Debian's packages, and there is no {missing}");
    }
    let hint = "the network or the package lists may be at fault";
    if !packages.iter().all(|package| has_candidate(package)) {
        update(hint)?;
    }
    fs::remove_dir_all(dir).ok();
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let download = || {
        let mut download = Command::new("apt-get");
        download.args(["download", "-q"]).args(with_needs()).current_dir(dir);
        child::quiet(&format!("download {what}"), &mut download, hint, OnInterrupt::Stop)
    };
    if download().is_err() {
        // Lists of before the last update name packages that the archive no longer has.
        update(hint)?;
        download()?;
    }
    let mut unpack = Command::new("sh");
    let each =
        r#"for package in *.deb; do dpkg -x "$package" root && rm "$package" || exit 1; done"#;
    unpack.args(["-c", each]).current_dir(dir);
    child::quiet(&format!("unpack {what}"), &mut unpack, "the disk may be full", OnInterrupt::Stop)
}

/// One of its programs, with the libraries that came with it.
pub fn command(root: &Path, program: &str) -> Command {
    let mut command = Command::new(root.join(program));
    let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"]
        .map(|part| root.join(part).display().to_string());
    command.env("LD_LIBRARY_PATH", libraries.join(":"));
    command
}

fn update(hint: &str) -> anyhow::Result<()> {
    authenticate("apt-get update")?;
    child::quiet("apt-get update", &mut apt(&["update"]), hint, OnInterrupt::Finish)
}
