//! The reference library of Standard Webhooks in Python, with which the tests verify signatures
//! independently of the agent's own code.
//!
//! It is one wheel in the cache that needs only Python, pinned by its hash. pip installs it: the
//! machine's own, or Debian's, which is also a wheel and is unpacked beside it. Needs root only if
//! there is no python3. A wheel with another hash is rejected.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::child::{self, OnInterrupt};
use crate::deb_cache;
use crate::workspace::cache_dir;

/// Description of the library.
pub const WHAT: &str = "the reference library of Standard Webhooks";

/// Directory in the cache.
const NAME: &str = "standardwebhooks-1.1.0";
const REQUIREMENT: &str = "standardwebhooks==1.1.0 \
                           --hash=sha256:9a88d48a1f198be61517fc7ad328cf58ba02b73f0fbd8941d4213e9c0b6c2a61\n";

/// Debian's package of pip as a wheel, and the path of the wheel in it.
const PIP: (&str, &str) = ("python3-pip-whl", "root/usr/share/python-wheels");

/// Returns true if the library can be imported.
pub fn is_there() -> anyhow::Result<bool> {
    Ok(works(&dir()?))
}

/// Installs the library unless it is present, and returns the directory for PYTHONPATH. Needs
/// python3.
pub fn provide() -> anyhow::Result<PathBuf> {
    let dir = dir()?;
    if works(&dir) {
        return Ok(dir);
    }
    eprintln!(
        "setup: installing {WHAT}, which verifies the agent's signatures, into {}",
        dir.display()
    );
    fs::remove_dir_all(&dir).ok();
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let requirements = dir.join("requirements.txt");
    fs::write(&requirements, REQUIREMENT)
        .with_context(|| format!("cannot write {}", requirements.display()))?;
    let mut pip = pip(&dir)?;
    pip.args(["install", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps"]);
    pip.args(["--require-hashes", "--only-binary=:all:", "--root-user-action=ignore", "--target"])
        .arg(&dir);
    pip.arg("--requirement").arg(&requirements);
    child::quiet(&format!("download {WHAT}"), &mut pip, "check the network", OnInterrupt::Stop)?;
    if !works(&dir) {
        bail!(
            "{WHAT}: installed into {}, but cannot be imported\n  hint: import it by hand to \
            see the error",
            dir.display()
        );
    }
    Ok(dir)
}

fn dir() -> anyhow::Result<PathBuf> {
    Ok(cache_dir()?.join(NAME))
}

fn works(dir: &Path) -> bool {
    let mut python = Command::new("python3");
    child::output_of(python.args(["-c", "import standardwebhooks"]).env("PYTHONPATH", dir))
        .is_some()
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
