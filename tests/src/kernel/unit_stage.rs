//! Shared by the checks on a whole Debian: a unit that ends with its check, and calls of systemctl.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread::sleep,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use spillway_agent::{
    act::{Journal, Outcome, OutcomeKind, Pause, limit::ActiveLimits},
    config::{Config, LimitConfig, Pattern},
    decide::IncidentId,
    detect::Resource,
    sense::ProcessId,
};
use spillway_tests::{Scratch, limit_live::life, now, wait_for};

use crate::memory::beside;

pub const MIB: u64 = 1 << 20;
/// Maximum time until systemd has done a job.
pub const SOON: Duration = Duration::from_secs(30);
/// Incident on whose account a unit is limited.
pub const ID: IncidentId = IncidentId::Leak(ProcessId { pid: 1, start_ticks: 1 }, Resource::Memory);

/// Unit that ends with its check, and the agent's limits.
pub struct Stage {
    pub name: String,
    pub cgroup: Arc<str>,
    pub limits: ActiveLimits,
    config: Config,
    _scratch: Scratch,
}

/// Waits until `done` returns something, for at most `limit`, regardless of how long each call
/// takes.
pub fn until<T>(limit: Duration, mut done: impl FnMut() -> Option<T>) -> Option<T> {
    let start = now();
    loop {
        match done() {
            None if start.elapsed() < limit => sleep(Duration::from_millis(100)),
            came => return came,
        }
    }
}

/// Returns the share of the host's memory that is available.
pub fn available_share() -> anyhow::Result<f64> {
    Ok(available_bytes()? as f64 / meminfo_bytes("MemTotal:")? as f64)
}

/// Returns the available memory of the host, in bytes.
pub fn available_bytes() -> anyhow::Result<u64> {
    meminfo_bytes("MemAvailable:")
}

fn meminfo_bytes(name: &str) -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_suffix(" kB"));
    let kib = line
        .and_then(|kib| kib.trim().parse::<u64>().ok())
        .with_context(|| format!("there is no {name}"))?;
    Ok(kib * 1024)
}

impl Stage {
    /// Starts a service that uses some memory.
    pub fn service(name: &str, settings: &str) -> anyhow::Result<Self> {
        Self::running(name, "touch --anon-bytes=8MiB", settings)
    }

    /// Starts a service that runs a workload.
    pub fn running(name: &str, workload: &str, settings: &str) -> anyhow::Result<Self> {
        let unit = format!("spillway-{name}.service");
        let command = beside("workload")?.get_program().to_string_lossy().into_owned();
        let text = format!("[Service]\nExecStart={command} {workload}\n{settings}");
        fs::write(Path::new("/run/systemd/system").join(&unit), text)?;
        systemctl(&["daemon-reload"])?;
        systemctl(&["start", &unit])?;
        Self::of(unit)
    }

    /// Starts a service of two unrelated programs.
    pub fn shared(name: &str, settings: &str) -> anyhow::Result<Self> {
        let unit = format!("spillway-{name}.service");
        let workload = beside("workload")?.get_program().to_string_lossy().into_owned();
        let command = format!("'{workload} touch --anon-bytes=8MiB & sleep 100000 & wait'");
        let text = format!("[Service]\nExecStart=/bin/sh -c {command}\n{settings}");
        fs::write(Path::new("/run/systemd/system").join(&unit), text)?;
        systemctl(&["daemon-reload"])?;
        systemctl(&["start", &unit])?;
        Self::of(unit)
    }

    /// Starts the same workload in a scope that may have cgroups of its own.
    pub fn scope(name: &str) -> anyhow::Result<Self> {
        let unit = format!("spillway-{name}.scope");
        let mut command = Command::new("systemd-run");
        command.args([
            "--scope",
            "--quiet",
            "--collect",
            "--slice=system.slice",
            "--property=Delegate=yes",
        ]);
        command.arg(format!("--unit={unit}")).arg(beside("workload")?.get_program());
        command.args(["touch", "--anon-bytes=8MiB"]).stdout(std::process::Stdio::null());
        command.spawn().context("cannot start systemd-run")?;
        Self::of(unit)
    }

    fn of(unit: String) -> anyhow::Result<Self> {
        let scratch = Scratch::make(&unit);
        let mut config = Config::default();
        config.record.state_dir = scratch.0.join("state");
        config.act.limit.delegated = vec![Pattern::new(&unit).map_err(anyhow::Error::msg)?];
        let limits = ActiveLimits::new(&config, Ok(Journal::claim(&config.record.state_dir)?));
        let cgroup = format!("/system.slice/{unit}").into();
        let stage = Self { name: unit, cgroup, limits, config, _scratch: scratch };
        let started = wait_for(SOON, || stage.pid().ok());
        ensure!(started.is_some(), "{} does not start", stage.name);
        Ok(stage)
    }

    /// Changes the configuration of the limits.
    pub fn configure(&mut self, change: impl FnOnce(&mut LimitConfig)) -> anyhow::Result<()> {
        change(&mut self.config.act.limit);
        // A journal belongs to one agent: the replaced one releases it first.
        self.limits =
            ActiveLimits::new(&self.config, Err("it belongs to another agent".to_owned()));
        self.limits =
            ActiveLimits::new(&self.config, Ok(Journal::claim(&self.config.record.state_dir)?));
        Ok(())
    }

    /// Leaves its journal, which is empty, to another process, and returns its path.
    pub fn leave_journal(&mut self) -> anyhow::Result<PathBuf> {
        self.limits =
            ActiveLimits::new(&self.config, Err("it belongs to another agent".to_owned()));
        fs::remove_dir_all(&self.config.record.state_dir)?;
        Ok(self.config.record.state_dir.clone())
    }

    /// Returns the pause switch of its limits.
    pub fn pause(&self) -> Pause {
        Pause::below(&self.config.record.state_dir)
    }

    /// Returns the path of one of its cgroup's files.
    pub fn file(&self, name: &str) -> PathBuf {
        Path::new("/sys/fs/cgroup").join(&self.cgroup[1..]).join(name)
    }

    /// Returns the limit of its cgroup.
    pub fn high(&self) -> anyhow::Result<String> {
        Ok(fs::read_to_string(self.file("memory.high"))
            .context("the cgroup is gone")?
            .trim()
            .to_owned())
    }

    /// Returns the charge of its cgroup, in bytes.
    pub fn used_bytes(&self) -> anyhow::Result<u64> {
        Ok(fs::read_to_string(self.file("memory.current"))
            .context("the cgroup is gone")?
            .trim()
            .parse()?)
    }

    /// Returns the workload, also after it was moved; not systemd's own process before its exec.
    pub fn pid(&self) -> anyhow::Result<u32> {
        let directories =
            ["cgroup.procs", "spillway-leak/cgroup.procs"].map(|file| self.file(file));
        let pids =
            directories.iter().filter_map(|file| fs::read_to_string(file).ok()).collect::<String>();
        let mut pids = pids.lines().filter_map(|pid| pid.parse().ok());
        let is_it = |pid: &u32| {
            fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with("workload"))
        };
        pids.find(is_it).context("it has no workload")
    }

    /// Sends a signal to the workload.
    pub fn signal(&self, signal: i32) -> anyhow::Result<()> {
        let pid = i32::try_from(self.pid()?)?;
        // SAFETY: No memory is involved.
        ensure!(unsafe { libc::kill(pid, signal) } == 0, "cannot signal {}", self.name);
        Ok(())
    }

    /// Returns the names of its child cgroups.
    pub fn children(&self) -> anyhow::Result<Vec<String>> {
        let entries = fs::read_dir(self.file(""))?.collect::<Result<Vec<_>, _>>()?;
        let children = entries.into_iter().filter(|entry| entry.path().is_dir());
        let mut names: Vec<_> =
            children.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        Ok(names)
    }

    /// Limits it, and returns the limit.
    pub fn limit(&mut self) -> anyhow::Result<u64> {
        let culprit: ProcessId = life(self.pid()?);
        let outcome = self.limits.limit(0.0, &ID, &self.cgroup, culprit);
        ensure!(
            outcome.event == OutcomeKind::Limited && outcome.why.starts_with("MemoryHigh set"),
            "{outcome:?}"
        );
        let limit_bytes = outcome.limit_bytes.context("the outcome has no limit")?;
        ensure!(self.high()? == limit_bytes.to_string(), "memory.high is {}", self.high()?);
        Ok(limit_bytes)
    }

    /// Checks that the limit was set again: to its old value, or slightly more if more is used by
    /// now.
    pub fn is_set_again(&self, looked: &[Outcome]) -> anyhow::Result<()> {
        let [Outcome { event: OutcomeKind::Reasserted, limit_bytes: Some(bytes), .. }] = looked
        else {
            bail!("{looked:?}")
        };
        ensure!(self.high()? == bytes.to_string(), "memory.high is {}, not {bytes}", self.high()?);
        Ok(())
    }

    /// Puts everything back, as another process does that finds the journal.
    pub fn undo(&mut self) -> anyhow::Result<()> {
        let journal =
            Journal::find(&self.config.record.state_dir)?.context("there is no journal")?;
        let undone: Vec<Outcome> =
            spillway_agent::act::undo_all(&journal).iter().map(|one| one.outcome(9.0)).collect();
        ensure!(matches!(&undone[..], [one] if one.event == OutcomeKind::Undone), "{undone:?}");
        let looked = self.limits.look(9.0);
        ensure!(matches!(&looked[..], [one] if one.event == OutcomeKind::Undone), "{looked:?}");
        Ok(())
    }

    /// Returns the properties that a limit changes, and those that it must not change.
    pub fn properties(&self) -> anyhow::Result<String> {
        const PROPERTIES: &str = "MemoryHigh,MemoryMax,MemorySwapMax,MemoryLow,CPUWeight,CPUQuotaPerSecUSec,TasksMax,IOWeight";
        systemctl(&["show", &format!("--property={PROPERTIES}"), &self.name])
    }

    /// Returns the files of properties that are set for this boot, of both kinds of units.
    pub fn drop_ins(&self) -> Vec<String> {
        let directories = ["/run/systemd/system.control", "/run/systemd/transient"];
        let entries = directories
            .iter()
            .filter_map(|directory| fs::read_dir(format!("{directory}/{}.d", self.name)).ok());
        let mut names: Vec<_> = entries
            .flatten()
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        // The way a scope was started is kept there too.
        names.retain(|name| !name.ends_with("Delegate.conf"));
        names.sort();
        names
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = systemctl(&["stop", &self.name]);
        let _ = fs::remove_file(Path::new("/run/systemd/system").join(&self.name));
        let _ = fs::remove_dir_all(
            Path::new("/run/systemd/system.control").join(format!("{}.d", self.name)),
        );
    }
}

/// Returns the output of systemctl, or the reason that it failed.
pub fn systemctl(args: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("systemctl").args(args).output().context("cannot start systemctl")?;
    if !output.status.success() {
        bail!("systemctl {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
