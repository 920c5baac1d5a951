//! nginx, HAProxy and wrk, which the live tests and the bench load and load with: Debian's packages, unpacked into the cache.
//!
//! Nothing is installed: a test must not leave a web server enabled on its user's machine. They count as there only if all run,
//! since an upgrade of the distribution can take their libraries away. Needs apt-get and dpkg, and root only where apt has no lists.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::apt::{apt, has_candidate};
use crate::step::{self, OnInterrupt};
use crate::sudo::authenticate;
use crate::workspace::{cache_dir, on_path};

/// What is unpacked: the programs, and libraries that a bare Debian 12 may lack.
const PACKAGES: [&str; 9] = [
    "nginx",
    "haproxy",
    "wrk",
    "libluajit-5.1-2",
    "libluajit-5.1-common",
    "liblua5.3-0",
    "libopentracing-c-wrapper0",
    "libopentracing1",
    "libssl3",
];

/// Makes sure that they are there; gives the root of what was unpacked.
pub fn provide() -> anyhow::Result<PathBuf> {
    let dir = cache_dir()?.join("servers");
    let root = dir.join("root");
    if run(&root) {
        return Ok(root);
    }
    if let Some(missing) = ["apt-get", "dpkg"].into_iter().find(|program| on_path(program).is_none()) {
        bail!("nginx, HAProxy and wrk are unpacked from Debian's packages, and there is no {missing}");
    }
    eprintln!(
        "setup: no nginx, HAProxy and wrk yet, which the live tests load; they are unpacked into {}",
        dir.display()
    );
    let hint = "the network or the package lists may be at fault";
    if !["nginx", "haproxy", "wrk"].iter().all(|package| has_candidate(package)) {
        authenticate("apt-get update")?;
        step::quiet("apt-get update", &mut apt(&["update"]), hint, OnInterrupt::Finish)?;
    }
    fs::remove_dir_all(&dir).ok();
    fs::create_dir_all(&dir).with_context(|| format!("{} cannot be made", dir.display()))?;
    let known = PACKAGES.into_iter().filter(|package| has_candidate(package));
    let mut download = Command::new("apt-get");
    download.args(["download", "-q"]).args(known).current_dir(&dir);
    step::quiet("download nginx, HAProxy and wrk", &mut download, hint, OnInterrupt::Stop)?;
    for package in fs::read_dir(&dir)?.flatten().filter(|file| file.path().extension().is_some_and(|end| end == "deb"))
    {
        let mut unpack = Command::new("dpkg");
        unpack.arg("-x").arg(package.path()).arg(&root);
        let what = format!("unpack {}", package.file_name().to_string_lossy());
        step::quiet(&what, &mut unpack, "the disk may be full", OnInterrupt::Stop)?;
    }
    if !run(&root) {
        bail!(
            "nginx, HAProxy and wrk were unpacked into {} and do not run\n  hint: run them by hand to see why",
            root.display()
        );
    }
    Ok(root)
}

/// Whether they are there.
pub fn provided() -> anyhow::Result<bool> {
    Ok(run(&cache_dir()?.join("servers/root")))
}

/// Whether all run with what was unpacked. wrk tells its version and calls that a failure.
fn run(root: &Path) -> bool {
    [("usr/sbin/nginx", 0), ("usr/sbin/haproxy", 0), ("usr/bin/wrk", 1)].into_iter().all(|(program, code)| {
        let mut command = Command::new(root.join(program));
        command.arg("-v").env("LD_LIBRARY_PATH", root.join("usr/lib/x86_64-linux-gnu"));
        command.output().is_ok_and(|output| output.status.code() == Some(code))
    })
}
