//! Cgroup whose processes get a share of one CPU, by the kernel's bandwidth control, in the
//! hierarchy of cgroup v1 or v2 that has it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

use anyhow::Context as _;
use spillway_tests::wait_for;

/// The kernel's own default.
const PERIOD_US: u64 = 100_000;

/// Cgroup with a quota; removed when dropped, by when its processes must have ended.
pub(crate) struct Quota(PathBuf);

impl Quota {
    /// Makes one with this share of a CPU.
    pub(crate) fn make(share: f64) -> anyhow::Result<Self> {
        let quota_us = (share * PERIOD_US as f64) as u64;
        let root = Path::new("/sys/fs/cgroup");
        let v1 = root.join("cpu");
        let is_v1 = v1.join("cpu.cfs_quota_us").exists() || v1.join("cgroup.procs").exists();
        let parent = if is_v1 { v1 } else { root.to_owned() };
        let quota = Self(parent.join(format!("spillway-record-{}", std::process::id())));
        fs::create_dir(&quota.0).with_context(|| format!("cannot create {}", quota.0.display()))?;
        if is_v1 {
            quota.set("cpu.cfs_period_us", &PERIOD_US.to_string())?;
            quota.set("cpu.cfs_quota_us", &quota_us.to_string())?;
        } else {
            quota.set("cpu.max", &format!("{quota_us} {PERIOD_US}"))?;
        }
        Ok(quota)
    }

    fn set(&self, name: &str, value: &str) -> anyhow::Result<()> {
        let path = self.0.join(name);
        fs::write(&path, value).with_context(|| {
            format!("cannot write {value} to {}: no CPU quota here", path.display())
        })
    }

    /// Moves a process and its children there.
    pub(crate) fn hold(&self, pid: u32) -> anyhow::Result<()> {
        for pid in children(pid)?.into_iter().chain([pid]) {
            self.set("cgroup.procs", &pid.to_string())?;
        }
        Ok(())
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        // Its last process may take a moment to go.
        wait_for(Duration::from_secs(5), || fs::remove_dir(&self.0).ok());
    }
}

/// Returns the children of a process, once it has some.
pub(crate) fn children(pid: u32) -> io::Result<Vec<u32>> {
    // nginx listens before it forks its workers.
    sleep(Duration::from_millis(300));
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(child) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        // A process that has gone meanwhile is no child any more.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        if parent == Some(pid) {
            children.push(child);
        }
    }
    Ok(children)
}
