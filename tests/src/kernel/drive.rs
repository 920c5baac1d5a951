//! Slow drive of an emulated Debian, used as swap: if memory is short, every process waits for it.

use std::{fs, process::Command};

use anyhow::{Context as _, bail, ensure};

use crate::checks::NotOffered;

const DRIVE: &str = "/dev/nvme0n1";

/// Active swap space; switched off when dropped.
pub struct Swap;

impl Swap {
    /// Turns that many bytes of the drive into swap.
    pub fn on(bytes: u64) -> anyhow::Result<Self> {
        if !fs::exists(DRIVE)? {
            return Err(NotOffered(format!("there is no {DRIVE} to swap to")).into());
        }
        // Left by a check that was stopped.
        let _ = run(&["swapoff", DRIVE]);
        run(&["mkswap", DRIVE, &(bytes / 1024).to_string()])?;
        run(&["swapon", DRIVE])?;
        Ok(Self)
    }

    /// Returns the swap in use, in bytes.
    pub fn used_bytes(&self) -> anyhow::Result<u64> {
        let swaps = fs::read_to_string("/proc/swaps")?;
        let line = swaps
            .lines()
            .find(|line| line.starts_with(DRIVE))
            .context("the drive is no longer swap")?;
        let kib = line.split_whitespace().nth(3).and_then(|kib| kib.parse::<u64>().ok());
        Ok(kib.with_context(|| format!("cannot parse /proc/swaps: {line}"))? * 1024)
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        let _ = run(&["swapoff", DRIVE]);
    }
}

/// Keeps the check itself out of the measurement: its pages are locked, and others are killed
/// before it.
pub fn be_there() -> anyhow::Result<()> {
    // SAFETY: mlockall takes flags and touches no memory of ours.
    let locked = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) };
    ensure!(locked == 0, "cannot lock the check's memory: {}", std::io::Error::last_os_error());
    fs::write("/proc/self/oom_score_adj", "-1000").context("cannot lower the check's OOM score")
}

/// Reads a counter of /proc/vmstat.
pub fn vmstat(name: &str) -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/vmstat")?;
    let value =
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.with_context(|| format!("/proc/vmstat has no {name}"))
}

fn run(args: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(args[0])
        .args(&args[1..])
        .output()
        .with_context(|| format!("no {}", args[0]))?;
    if !output.status.success() {
        bail!("{}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
