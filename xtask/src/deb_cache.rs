//! Programs from Debian's packages that are not installed: they are unpacked into the cache and run
//! from there.
//!
//! A test must not leave a web server enabled on its user's machine. Nor may it replace installed
//! packages: an emulator of another version cannot be installed beside the machine's own. Each
//! package comes with those of its dependencies that the machine lacks. A set counts as present
//! only if all its programs run, since an upgrade of the distribution can remove their libraries.
//! Needs apt-get and dpkg, and root only if apt has no package lists.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::apt::{apt, has_candidate, installed};
use crate::child::{self, OnInterrupt};
use crate::debian_archive::{Archive, Sites, to_be_installed};
use crate::sudo::authenticate;
use crate::workspace::{cache_dir, on_path};

/// Script that unpacks the packages. Absolute links would leave the directory: where they lead to
/// something in it, they are made to stay.
const UNPACK: &str = r#"
for package in *.deb; do dpkg -x "$package" root && rm "$package" || exit 1; done
find root -lname '/*' | while read -r link; do
    inside="$PWD/root$(readlink "$link")"
    if [ -e "$inside" ]; then ln -sfn "$inside" "$link" || exit 1; fi
done
"#;

/// Set of programs that are used together.
pub struct Unpacked {
    /// Directory in the cache.
    pub name: &'static str,
    /// Description of the set.
    pub what: &'static str,
    /// Purpose of the set, after "needed".
    pub why: &'static str,
    /// Packages of Debian.
    pub packages: &'static [&'static str],
    /// Suite that has them; `None` for this machine's. Of another suite's packages, the ones that
    /// they need are not unpacked.
    pub suite: Option<&'static str>,
    /// Path of each program, in which `*` stands for any part of a name, the argument that prints
    /// its version, and the exit code of that call.
    pub programs: &'static [(&'static str, &'static str, i32)],
    /// Paths of files that are no programs.
    pub files: &'static [&'static str],
    /// Set if an installed program serves as well as an unpacked one.
    pub may_be_installed: bool,
}

impl Unpacked {
    /// Returns the root directory of the unpacked files, whether it exists or not.
    pub fn root(&self) -> anyhow::Result<PathBuf> {
        Ok(cache_dir()?.join(self.name).join("root"))
    }

    /// Returns true if all programs run and all files are there.
    pub fn is_there(&self) -> anyhow::Result<bool> {
        let installed = self.may_be_installed.then(|| PathBuf::from("/"));
        let roots: Vec<_> = [Some(self.root()?), installed].into_iter().flatten().collect();
        let has = |file: &&str| roots.iter().any(|root| root.join(file).is_file());
        let run = |(program, version, code): &(&str, &str, i32)| {
            let runs = |root: &PathBuf| {
                let output = command(root, &first_match(root, program)).arg(version).output();
                output.is_ok_and(|output| output.status.code() == Some(*code))
            };
            roots.iter().any(runs)
        };
        Ok(self.programs.iter().all(run) && self.files.iter().all(has))
    }

    /// Unpacks the set unless it is present; returns its root directory.
    pub fn provide(&self) -> anyhow::Result<PathBuf> {
        let (root, what) = (self.root()?, self.what);
        if self.is_there()? {
            return Ok(root);
        }
        let dir = cache_dir()?.join(self.name);
        eprintln!("setup: unpacking {what}, needed {}, into {}", self.why, dir.display());
        match self.suite {
            None => unpack_into(&dir, what, self.packages, || self.with_needs())?,
            Some(suite) => unpack_from(suite, &dir, what, self.packages)?,
        }
        if !self.is_there()? {
            bail!(
                "{what}: unpacked into {}, but does not run\n  hint: run it by hand to \
                see the error",
                root.display()
            );
        }
        Ok(root)
    }

    /// Returns the packages, and those that apt would install with them on this machine.
    fn with_needs(&self) -> BTreeSet<String> {
        let wanted: Vec<_> = self
            .packages
            .iter()
            .copied()
            .filter(|package| !(self.may_be_installed && installed(package)))
            .collect();
        let mut simulate = Command::new("apt-get");
        simulate.args(["install", "--simulate", "--no-install-recommends"]).args(&wanted);
        // The messages are parsed below.
        let simulated = child::output_of(simulate.env("LC_ALL", "C")).unwrap_or_default();
        to_be_installed(&simulated).chain(wanted).map(str::to_owned).collect()
    }
}

/// Unpacks Debian's packages below `dir`, which is emptied first: `packages`, and those that
/// `with_needs` returns. `what` describes them.
pub fn unpack_into(
    dir: &Path,
    what: &str,
    packages: &[&str],
    with_needs: impl Fn() -> BTreeSet<String>,
) -> anyhow::Result<()> {
    if let Some(missing) =
        ["apt-get", "dpkg"].into_iter().find(|program| on_path(program).is_none())
    {
        bail!("{what}: cannot be unpacked from Debian's packages: no {missing}");
    }
    let hint = "check the network and the package lists";
    if !packages.iter().all(|package| has_candidate(package)) {
        update(hint)?;
    }
    empty(dir)?;
    let download = || {
        let mut download = Command::new("apt-get");
        download.args(["download", "-q"]).args(with_needs()).current_dir(dir);
        child::quiet(&format!("download {what}"), &mut download, hint, OnInterrupt::Stop)
    };
    if download().is_err() {
        // Outdated lists name packages that the archive no longer has.
        update(hint)?;
        download()?;
    }
    unpack(dir, what)
}

/// Unpacks packages of another suite of Debian below `dir`, which is emptied first.
fn unpack_from(suite: &str, dir: &Path, what: &str, packages: &[&str]) -> anyhow::Result<()> {
    empty(dir)?;
    let archive = Archive::open(&dir.join("apt"), Sites::find()?.list(suite, true))?;
    archive.update(&format!("packages of Debian {suite}"))?;
    let packages: Vec<_> = packages.iter().map(|&package| package.to_owned()).collect();
    archive.download(what, &packages, dir)?;
    fs::remove_dir_all(dir.join("apt")).ok();
    unpack(dir, what)
}

fn empty(dir: &Path) -> anyhow::Result<()> {
    fs::remove_dir_all(dir).ok();
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))
}

/// Unpacks the packages in `dir`.
fn unpack(dir: &Path, what: &str) -> anyhow::Result<()> {
    let mut unpack = Command::new("sh");
    unpack.args(["-c", UNPACK]).current_dir(dir);
    child::quiet(
        &format!("unpack {what}"),
        &mut unpack,
        "check the free disk space",
        OnInterrupt::Stop,
    )
}

/// Returns the path below `root` of the first file that a pattern matches; the pattern itself if
/// there is none.
fn first_match(root: &Path, pattern: &str) -> String {
    let mut found = vec![String::new()];
    for part in pattern.split('/') {
        let Some((before, after)) = part.split_once('*') else {
            found.iter_mut().for_each(|path| path.push_str(&format!("/{part}")));
            continue;
        };
        let in_one = |path: String| {
            let names = fs::read_dir(root.join(&path[path.len().min(1)..])).into_iter().flatten();
            let mut names: Vec<_> = names
                .flatten()
                .filter_map(|entry| entry.file_name().into_string().ok())
                .filter(|name| name.starts_with(before) && name.ends_with(after))
                .collect();
            names.sort();
            names.into_iter().map(move |name| format!("{path}/{name}")).collect::<Vec<_>>()
        };
        found = found.into_iter().flat_map(in_one).collect();
    }
    let paths = found.iter().map(|path| &path[1..]);
    paths.into_iter().find(|path| root.join(path).is_file()).unwrap_or(pattern).to_owned()
}

/// Returns a command that runs one of the programs, with the unpacked libraries.
pub fn command(root: &Path, program: &str) -> Command {
    let mut command = Command::new(root.join(program));
    let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"]
        .map(|part| root.join(part).display().to_string());
    command.env("LD_LIBRARY_PATH", libraries.join(":"));
    command.env("PYTHONPATH", root.join("usr/lib/python3/dist-packages"));
    command
}

fn update(hint: &str) -> anyhow::Result<()> {
    authenticate("apt-get update")?;
    child::quiet("apt-get update", &mut apt(&["update"]), hint, OnInterrupt::Finish)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_in_paths_are_found() {
        let root = std::env::temp_dir().join(format!("spillway-match-{}", std::process::id()));
        for dir in ["usr/lib/a/9/bin", "usr/lib/a/15/bin", "usr/lib/a/empty/bin", "usr/sbin"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        for file in ["usr/lib/a/9/bin/one", "usr/lib/a/15/bin/one", "usr/sbin/fpm8.2"] {
            fs::write(root.join(file), "").unwrap();
        }
        let found = [
            ("usr/lib/a/*/bin/one", "usr/lib/a/15/bin/one"),
            ("usr/sbin/fpm*", "usr/sbin/fpm8.2"),
            ("usr/sbin/fpm8.2", "usr/sbin/fpm8.2"),
            ("usr/lib/b/*/bin/one", "usr/lib/b/*/bin/one"),
        ]
        .map(|(pattern, path)| (first_match(&root, pattern), path));
        fs::remove_dir_all(&root).unwrap();
        found.iter().for_each(|(found, path)| assert_eq!(found, path));
    }
}
