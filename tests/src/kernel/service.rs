//! The agent as a service of systemd: what it tells its manager and journald, its memory, its
//! credentials, and its end and new start if it hangs.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::{
    checks::Seen,
    installed::{AGENT_UNIT, CLAIMED_WITHIN, ENFORCE, Installed, QUICK},
    rungs::{Prepared, Rung},
    unit_stage::{MIB, SOON, Stage, systemctl, until},
};

/// Memory that the unit may use.
const MEMORY_MAX_BYTES: u64 = 64 * MIB;

/// Credential of the service, and the file that it is made from.
const CREDENTIAL: (&str, &str) = ("hook", "/etc/spillway-hook");
const LOADS_IT: &str = "[Service]\nLoadCredential=hook:/etc/spillway-hook\n";

/// Drop-in for a hang that is noticed within the time of a check.
const IMPATIENT: &str = "[Service]\nWatchdogSec=5s\n";

/// Removes a file at the end of a check.
struct Removed(&'static str);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.0);
    }
}

/// Checks that systemd knows when the agent is ready and what it sees, that each record in the
/// journal has its priority and fields, that a secret can be a credential, that `spillway status`
/// answers, and that the agent needs less memory than it may use.
pub fn notified(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    let stage = Stage::running("leak", "leak --rate=6MiB --limit=400MiB", "")?;
    fs::write(CREDENTIAL.1, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n")?;
    let _file = Removed(CREDENTIAL.1);
    let config = format!(
        "{QUICK}[act.page.webhook]\nurl = \"http://127.0.0.1:1/\"\nsecret_file = \
         \"credential:{}\"\n",
        CREDENTIAL.0
    );
    let agent =
        Installed::start_with(&config, &[("enforce.conf", ENFORCE), ("secret.conf", LOADS_IT)])?;
    ensure!(show("Type")? == "notify" && show("ActiveState")? == "active", "{}", agent.said());
    let text = show("StatusText")?;
    ensure!(text.starts_with("Watching and acting; "), "{text:?}");
    let limited = until(CLAIMED_WITHIN, || stage.high().ok()?.parse::<u64>().ok());
    ensure!(limited.is_some(), "no limit was set: {}", agent.said());
    let told = until(SOON, || {
        show("StatusText")
            .ok()
            .filter(|text| text.contains("open incident") && !text.contains("no open"))
    });
    let told = told.with_context(|| format!("it said: {:?}", show("StatusText")))?;

    let peak_bytes = memory_peak()?;
    ensure!(show("MemoryMax")? == MEMORY_MAX_BYTES.to_string(), "{}", show("MemoryMax")?);
    ensure!(peak_bytes.is_none_or(|bytes| bytes < MEMORY_MAX_BYTES * 3 / 4), "{peak_bytes:?}");
    let records = records()?;
    let log =
        find(&records, |record| record["MESSAGE"].as_str()?.contains("is watching").then_some(()))?;
    ensure!(log["PRIORITY"] == "6" && log["SPILLWAY_MODE"] == "enforce", "{log:#}");
    let verdict = find(&records, |record| (record["SPILLWAY_EVENT"] == "verdict").then_some(()))?;
    ensure!(matches!(verdict["PRIORITY"].as_str(), Some("2" | "4" | "6")), "{verdict:#}");
    let outcome = find(&records, |record| (record["SPILLWAY_OUTCOME"] == "limited").then_some(()))?;
    ensure!(outcome["PRIORITY"] == "5", "{outcome:#}");
    ensure!(
        outcome["SPILLWAY_ID"].as_str().is_some_and(|id| id.starts_with("leak-")),
        "{outcome:#}"
    );
    let is_of_unit = |record: &Value| record["_SYSTEMD_UNIT"] == AGENT_UNIT;
    ensure!(records.iter().all(is_of_unit), "a record is of another unit");
    ensure!(!agent.said().contains("credential:"), "{}", agent.said());

    let mode = |path: &str| -> anyhow::Result<u32> {
        use std::os::unix::fs::PermissionsExt as _;
        Ok(fs::metadata(path)?.permissions().mode() & 0o777)
    };
    let modes = (mode("/run/spillway")?, mode("/run/spillway/status.sock")?);
    ensure!(modes == (0o750, 0o660), "{modes:?}");
    // The path of the executable comes from BPF: the unit has no CAP_SYS_PTRACE.
    let report =
        until(SOON, || status().ok().filter(|report| identity(report)["executable"].is_string()));
    let report = report.with_context(|| format!("no executable in {:#?}", status()))?;
    ensure!(report["changes"][0]["subject"].is_string(), "{report:#}");
    let identity = identity(&report);
    let is_unit = |unit: &str| unit.ends_with(".service") && unit != AGENT_UNIT;
    ensure!(identity["unit"].as_str().is_some_and(is_unit), "{report:#}");
    ensure!(identity["user"] == "root" && identity["started"].is_string(), "{report:#}");
    ensure!(identity["command"].as_str().is_some_and(|text| text.contains("6MiB")), "{report:#}");

    systemctl(&["reload", AGENT_UNIT])?;
    let reloaded = until(SOON, || agent.said().contains("SIGHUP: reloaded").then_some(()));
    ensure!(reloaded.is_some() && show("ActiveState")? == "active", "{}", agent.said());
    drop(agent);
    ensure!(!Path::new("/run/spillway").exists(), "the stopped service left /run/spillway");
    let peak = peak_bytes.map_or_else(
        || "unknown on this kernel".to_owned(),
        |bytes| format!("{:.1} MiB at most", bytes as f64 / MIB as f64),
    );
    Ok(Seen { events: records.len() as u64, detail: format!("{told:?}; memory {peak}") })
}

/// Checks that a hung agent is ended and started anew, and one that works is left alone.
pub fn watchdog(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    let agent = Installed::start_with(QUICK, &[("impatient.conf", IMPATIENT)])?;
    let first = show("MainPID")?;
    std::thread::sleep(Duration::from_secs(12));
    ensure!(show("MainPID")? == first, "a working agent was ended: {}", agent.said());
    systemctl(&["kill", "--kill-whom=main", "--signal=STOP", AGENT_UNIT])
        .or_else(|_| systemctl(&["kill", "--kill-who=main", "--signal=STOP", AGENT_UNIT]))?;
    let is_new = |pid: &String| *pid != first && pid != "0";
    let restarted = until(SOON, || {
        let pid = show("MainPID").ok().filter(is_new)?;
        (show("ActiveState").ok()? == "active").then_some(pid)
    });
    ensure!(restarted.is_some(), "the hung agent was not started anew: {}", agent.said());
    Ok(Seen { events: 1, detail: format!("{} restart", show("NRestarts")?) })
}

/// Asks the agent for its status.
fn status() -> anyhow::Result<Value> {
    let status = Command::new("/usr/local/bin/spillway").args(["status", "--json"]).output()?;
    ensure!(status.status.success(), "{status:?}");
    Ok(serde_json::from_slice(&status.stdout)?)
}

/// Returns whom the worst incident of a report is about.
fn identity(report: &Value) -> &Value {
    &report["incidents"][0]["identity"]
}

fn show(property: &str) -> anyhow::Result<String> {
    systemctl(&["show", &format!("--property={property}"), "--value", AGENT_UNIT])
}

/// Returns the most memory that the unit has used, if the kernel tells.
fn memory_peak() -> anyhow::Result<Option<u64>> {
    let path = format!("/sys/fs/cgroup{}/memory.peak", show("ControlGroup")?);
    Ok(fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()))
}

/// Returns the records of the unit's present run with their fields.
fn records() -> anyhow::Result<Vec<Value>> {
    let run = format!("_SYSTEMD_INVOCATION_ID={}", show("InvocationID")?);
    let output =
        Command::new("journalctl").args([&run, "--output=json", "--all", "--no-pager"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

fn find(records: &[Value], is_it: impl Fn(&Value) -> Option<()>) -> anyhow::Result<&Value> {
    let found = records.iter().find(|record| is_it(record).is_some());
    found.with_context(|| format!("no such record in {records:#?}"))
}
