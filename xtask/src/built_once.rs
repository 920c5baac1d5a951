//! Programs that no package has: they are built once from Debian's sources, and kept in the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::child;
use crate::workspace::{cache_dir, on_path};

/// Set of programs from one build.
pub struct BuiltOnce<'a> {
    /// Directory in the cache.
    pub name: &'a str,
    /// Description of the set.
    pub what: &'a str,
    /// Time that a build takes.
    pub takes: &'a str,
    /// Names of the programs. Each accepts `--version`.
    pub programs: &'a [&'a str],
}

impl BuiltOnce<'_> {
    /// Builds the programs unless they are there; returns their directory. `build` leaves them in
    /// `bin` below the directory that it is given, which is removed afterwards.
    pub fn provide(
        &self,
        build: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<PathBuf> {
        let Self { name, what, takes, programs } = self;
        let dir = cache_dir()?.join(name);
        let bin = dir.join("bin");
        if programs.iter().all(|program| runs(&bin.join(program))) {
            return Ok(bin);
        }
        if let Some(missing) = ["apt-get", "dpkg-deb", "dpkg-source"]
            .into_iter()
            .find(|program| on_path(program).is_none())
        {
            bail!("{what}: cannot be built: no {missing}\n  hint: install dpkg-dev, on Debian");
        }
        eprintln!("setup: building {what} into {}; once, {takes}", dir.display());
        // Beside it: an unfinished build is not taken for a finished one.
        let work = cache_dir()?.join("build");
        fs::remove_dir_all(&work).ok();
        fs::create_dir_all(work.join("bin"))
            .with_context(|| format!("cannot create {}", work.display()))?;
        let built = build(&work).and_then(|()| {
            fs::remove_dir_all(&dir).ok();
            fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
            fs::rename(work.join("bin"), &bin).context("the programs cannot be moved")
        });
        fs::remove_dir_all(&work).ok();
        built?;
        match programs.iter().find(|program| !runs(&bin.join(program))) {
            None => Ok(bin),
            Some(program) => bail!(
                "{program} was built, but does not run\n  hint: run {} by hand to see the error",
                bin.join(program).display()
            ),
        }
    }
}

fn runs(program: &Path) -> bool {
    child::output_of(Command::new(program).arg("--version")).is_some()
}
