//! The installed agent: a service that runs by its unit file.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use spillway_tests::{find_metric, http_get};

use crate::unit_stage::{MIB, SOON, systemctl, until};

/// Name of its unit.
pub const AGENT_UNIT: &str = "spillway.service";
/// Text of the unit file.
pub const UNIT_FILE: &str = include_str!("../../../configs/systemd/spillway.service");
/// Text of the drop-in for `mode = "enforce"`.
pub const ENFORCE: &str = include_str!("../../../configs/systemd/enforce.conf");
/// Maximum time until a leak is reported: emulated, an agent takes seconds to start, and the
/// shortest horizons begin after that.
pub const CLAIMED_WITHIN: Duration = Duration::from_secs(120);

/// Configuration that judges within seconds, and acts.
pub const QUICK: &str = "mode = \"enforce\"\n[sense]\ninterval = \"200ms\"\n\
    [detect.leak]\nwarm_up = \"0s\"\nhorizons = [\"8s\", \"12s\", \"16s\", \"32s\"]\nmin_growth \
    = \"16MiB\"\n\
    [decide]\nlimit_within = \"1d\"\n[act.limit]\nmargin = \"32MiB\"\n";

/// Text of the drop-ins for `act.shed` and `act.shed.reset`.
pub const SHED: &str = include_str!("../../../configs/systemd/shed.conf");
pub const SHED_RESET: &str = include_str!("../../../configs/systemd/shed-reset.conf");

/// Maximum exposures that `systemd-analyze security` reports for the unit alone, with enforce.conf,
/// with shed.conf as well, and with shed-reset.conf as well; see configs/README.md, "Privileges".
pub const EXPOSURE_MAX: f64 = 2.0;
pub const EXPOSURE_ENFORCING_MAX: f64 = 2.6;
pub const EXPOSURE_SHEDDING_MAX: f64 = 2.8;
pub const EXPOSURE_RESETTING_MAX: f64 = 3.4;

/// Default address that it serves.
pub const SERVES: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9646);

/// Only difference from the installed unit: it prints JSON.
const FOR_A_PROGRAM: &str = "[Service]\nExecStart=\nExecStart=/usr/local/bin/spillway run --json \
--config /etc/spillway/spillway.toml\n";

/// Running agent; stopped when dropped.
pub struct Installed {
    /// Invocation id of the unit's run.
    invocation: String,
}

impl Installed {
    /// Starts it with enforce.conf, and waits until it sees processes.
    pub fn start(config: &str) -> anyhow::Result<Self> {
        Self::start_with(config, &[("enforce.conf", ENFORCE)])
    }

    /// Starts it with these drop-ins, each a name and its text, and waits until it sees processes.
    pub fn start_with(config: &str, drop_ins: &[(&str, &str)]) -> anyhow::Result<Self> {
        fs::create_dir_all("/etc/spillway")?;
        fs::write("/etc/spillway/spillway.toml", config)?;
        let units = Path::new("/run/systemd/system");
        fs::write(units.join(AGENT_UNIT), UNIT_FILE)?;
        fs::create_dir_all(units.join("spillway.service.d"))?;
        for (name, text) in drop_ins {
            fs::write(units.join("spillway.service.d").join(name), text)?;
        }
        fs::write(units.join("spillway.service.d/for-a-program.conf"), FOR_A_PROGRAM)?;
        systemctl(&["daemon-reload"])?;
        systemctl(&["start", AGENT_UNIT])?;
        let invocation = systemctl(&["show", "--property=InvocationID", "--value", AGENT_UNIT])?;
        let agent = Self { invocation };
        let watches = until(SOON, || agent.metric("spillway_processes").filter(|&seen| seen > 0.0));
        ensure!(watches.is_some(), "the agent sees no processes: {}", agent.said());
        Ok(agent)
    }

    /// Returns its log and output.
    pub fn said(&self) -> String {
        let ours = format!("_SYSTEMD_INVOCATION_ID={}", self.invocation);
        let output =
            Command::new("journalctl").args([&ours, "--output=cat", "--no-pager"]).output();
        output.map_or_else(
            |error| error.to_string(),
            |output| String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    }

    /// Returns the lines that it printed as JSON: verdicts, decisions and outcomes.
    pub fn printed(&self) -> Vec<Value> {
        self.said().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Returns a metric by its name with labels; `None` if it is missing.
    pub fn metric(&self, name: &str) -> Option<f64> {
        find_metric(&http_get(SERVES, "/metrics").ok()?, name)
    }

    /// Checks that its memory is protected and locked, and that others are killed before it.
    pub fn is_protected(&self) -> anyhow::Result<()> {
        let pid = systemctl(&["show", "--property=MainPID", "--value", AGENT_UNIT])?;
        let read =
            |path: &str| fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
        let score = read(&format!("/proc/{pid}/oom_score_adj"))?;
        ensure!(score.trim() == "-900", "its oom_score_adj is {score}");
        let cgroup = read(&format!("/proc/{pid}/cgroup"))?;
        let own = Path::new(
            cgroup.trim().strip_prefix("0::/").context("it is not in a cgroup of version 2")?,
        );
        // A cgroup is protected only as far as its ancestors are. The root cgroup has no limit.
        for above in own.ancestors().filter(|above| !above.as_os_str().is_empty()) {
            let min = read(&format!("/sys/fs/cgroup/{}/memory.min", above.display()))?;
            let min_bytes: u64 = min.trim().parse().unwrap_or(u64::MAX);
            ensure!(min_bytes >= 32 * MIB, "memory.min of {} is {min_bytes}", above.display());
        }
        let status = read(&format!("/proc/{pid}/status"))?;
        let locked = status
            .lines()
            .find_map(|line| line.strip_prefix("VmLck:"))
            .context("the kernel reports no VmLck")?;
        ensure!(locked.trim() != "0 kB", "none of its memory is locked");
        Ok(())
    }
}

impl Installed {
    /// Checks that it has only the privileges of its unit file, and still sees everything that it
    /// sees without the restrictions.
    pub fn is_confined(&self, exposure_max: f64) -> anyhow::Result<()> {
        is_exposed(exposure_max)?;
        let doctor = Command::new("/usr/local/bin/spillway").args(["doctor", "--json"]).output()?;
        let unconfined: Value =
            serde_json::from_slice(&doctor.stdout).context("the doctor prints no JSON")?;
        let probes = unconfined["probes"].as_array().context("the doctor names no probes")?;
        let said = self.said();
        ensure!(!said.contains("BPF is not used"), "{said}");
        // It may neither enter namespaces nor read other users' programs from /proc.
        ensure!(!said.contains("a BPF program cannot be attached"), "{said}");
        for name in probes
            .iter()
            .filter(|probe| probe["state"] == "attached")
            .filter_map(|probe| probe["probe"].as_str())
        {
            ensure!(
                !said.contains(&format!("probe {name} ")),
                "{name} is attached only without the unit's restrictions: {said}"
            );
        }
        Ok(())
    }
}

/// Checks the exposure of the unit with enforce.conf and shed.conf, which a running agent does not
/// have before it is restarted.
pub fn is_exposed_when_shedding() -> anyhow::Result<()> {
    let drop_ins = Path::new("/run/systemd/system/spillway.service.d");
    for (name, text) in [("enforce.conf", ENFORCE), ("shed.conf", SHED)] {
        fs::write(drop_ins.join(name), text)?;
    }
    systemctl(&["daemon-reload"])?;
    is_exposed(EXPOSURE_SHEDDING_MAX)
}

fn is_exposed(exposure_max: f64) -> anyhow::Result<()> {
    let output =
        Command::new("systemd-analyze").args(["security", "--no-pager", AGENT_UNIT]).output()?;
    let analysed = String::from_utf8_lossy(&output.stdout);
    let level = analysed.rsplit_once("exposure level for spillway.service: ");
    let level = level.and_then(|(_, rest)| rest.split_whitespace().next()?.parse::<f64>().ok());
    let level = level.with_context(|| format!("no level in {analysed}"))?;
    ensure!(level <= exposure_max, "its exposure is {level}, more than {exposure_max}: {analysed}");
    Ok(())
}

impl Drop for Installed {
    fn drop(&mut self) {
        let _ = systemctl(&["stop", AGENT_UNIT]);
        let _ = systemctl(&["clean", "--what=state", AGENT_UNIT]);
        let units = Path::new("/run/systemd/system");
        let _ = fs::remove_dir_all(units.join("spillway.service.d"));
        let _ = fs::remove_file(units.join(AGENT_UNIT));
        let _ = fs::remove_dir_all("/etc/spillway");
        let _ = systemctl(&["daemon-reload"]);
    }
}

/// Returns the first of these lines with this value in this field.
pub fn line_of<'a>(printed: &'a [Value], field: &str, value: &str) -> Option<&'a Value> {
    printed.iter().find(|line| line[field] == value)
}

/// Returns the time of a line, in seconds of the agent's clock.
pub fn t_of(line: &Value) -> anyhow::Result<f64> {
    line["t"].as_f64().with_context(|| format!("the line has no time: {line}"))
}
