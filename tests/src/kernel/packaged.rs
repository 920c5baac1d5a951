//! The package on a booted Debian: installed, upgraded and downgraded with a limit in place,
//! removed, and purged without a trace.
//!
//! `cargo xtask vm` puts two packages into the machine. Without `--previous` they are one build
//! with two versions, which shows what the maintainer scripts do; with it, the older one is a
//! release that has its own formats of state.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, ensure};
use spillway_tests::{Scratch, find_metric, http_get};

use crate::{
    checks::{NotOffered, Seen},
    installed::{AGENT_UNIT, CLAIMED_WITHIN, QUICK, SERVES},
    rungs::{Prepared, Rung},
    uninstall::Found,
    unit_stage::{SOON, Stage, systemctl, until},
};

/// Packages of an earlier version and of this one.
const PREVIOUS: &str = "/packages/previous.deb";
const CURRENT: &str = "/packages/current.deb";

/// Directory that apt expects; the machine's file system was made without it.
const APT_ARCHIVES: &str = "/var/cache/apt/archives/partial";

const EMPTY_PACKAGE: &str = "Package: spillway-empty\nVersion: 1\nArchitecture: all\n\
                             Maintainer: nobody <nobody@localhost>\nDescription: nothing\n";

const CONFIG: &str = "/etc/spillway/spillway.toml";
const STATE: &str = "/var/lib/spillway";
const DROP_IN: &str = "/etc/systemd/system/spillway.service.d/enforce.conf";

/// Drop-in with which a killed agent is like one on a machine that lost power: nothing runs after
/// it, and its limits stay in effect.
const NOTHING_AFTER: (&str, &str) = (
    "/run/systemd/system/spillway.service.d/nothing-after.conf",
    "[Service]\nExecStopPost=\nRestart=no\n",
);

/// Checks that the package runs when it is installed, that dpkg knows each file, that a removed one
/// keeps its configuration, and that a purge leaves nothing.
pub fn purged(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    are_there()?;
    let stage = Stage::service("bystander", "")?;
    used_once()?;
    let before = Found::before(&stage)?;
    install(CURRENT)?;
    let files = Found::read(&stage)?.paths.difference(&before.paths).count();
    is_running()?;
    ensure!(systemctl(&["is-enabled", AGENT_UNIT])? == "enabled", "the service is not enabled");
    let changed = dpkg(&["--verify", "spillway"])?;
    ensure!(changed.is_empty(), "dpkg says that files differ: {changed}");
    let shown = output(Command::new("/usr/bin/spillway").arg("--version"))?;

    let edited = format!("{}\n# Edited.\n", fs::read_to_string(CONFIG)?);
    fs::write(CONFIG, &edited)?;
    apt(&["install", "--reinstall", CURRENT])?;
    ensure!(fs::read_to_string(CONFIG)? == edited, "an edited configuration was replaced");
    apt(&["remove", "spillway"])?;
    ensure!(fs::read_to_string(CONFIG)? == edited, "the removal took the configuration");
    ensure!(!Path::new("/usr/bin/spillway").exists(), "the program is still there");
    ensure!(systemctl(&["is-active", AGENT_UNIT]).is_err(), "the removed service runs");
    apt(&["purge", "spillway"])?;
    before.is_restored(&stage)?;
    Ok(Seen { events: 1, detail: format!("{} came and went with {files} paths", shown.trim()) })
}

/// Checks that a limit outlives an upgrade, and a downgrade after a crash, and is gone with the
/// package.
pub fn upgraded(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    are_there()?;
    let stage = Stage::running("leak", "leak --rate=3MiB --limit=400MiB", "")?;
    used_once()?;
    let before = Found::before(&stage)?;
    install(PREVIOUS)?;
    fs::write(CONFIG, QUICK)?;
    let drop_in = Path::new("/usr/share/spillway/systemd/enforce.conf");
    fs::create_dir_all(Path::new(DROP_IN).parent().context("it has a directory")?)?;
    fs::copy(drop_in, DROP_IN)?;
    systemctl(&["daemon-reload"])?;
    systemctl(&["restart", AGENT_UNIT])?;
    let limits = [limited(&stage)?];

    // A balancer that asks whether the node is ready hears of the drain.
    ensure!(is_drained().is_none(), "the node is drained already: {}", journal()?);
    let drained = output(Command::new("/usr/bin/spillway").args(["drain", "--config", CONFIG]))?;
    ensure!(drained.contains("This node is drain"), "{drained}");
    ensure!(until(SOON, is_drained).is_some(), "the node is not drained: {}", journal()?);
    install(CURRENT)?;
    is_running()?;
    ensure!(until(SOON, is_drained).is_some(), "the upgrade ended the drain: {}", journal()?);
    let limits = [limits[0], limited(&stage)?];

    // A limit that the newer version recorded, and the older one finds.
    fs::create_dir_all(Path::new(NOTHING_AFTER.0).parent().context("it has a directory")?)?;
    fs::write(NOTHING_AFTER.0, NOTHING_AFTER.1)?;
    systemctl(&["daemon-reload"])?;
    systemctl(&["kill", "--signal=KILL", AGENT_UNIT])?;
    let dead = until(SOON, || systemctl(&["is-active", AGENT_UNIT]).is_err().then_some(()));
    ensure!(dead.is_some(), "the killed agent still runs");
    fs::remove_dir_all(Path::new(NOTHING_AFTER.0).parent().context("it has a directory")?)?;
    systemctl(&["daemon-reload"])?;
    let left = stage.high()?;
    ensure!(left.parse::<u64>().is_ok(), "no limit outlived the agent: memory.high is {left}");
    install(PREVIOUS)?;
    is_running()?;
    let said = journal()?;
    ensure!(said.contains("restored") || said.contains("undone"), "it restored nothing: {said}");
    let last = limited(&stage)?;

    apt(&["remove", "spillway"])?;
    ensure!(stage.high()? == "max", "the removal left a limit: memory.high is {}", stage.high()?);
    ensure!(stage.drop_ins().is_empty(), "it left properties: {:?}", stage.drop_ins());
    let drain = fs::read_to_string(Path::new(STATE).join("drain.json")).unwrap_or_default();
    ensure!(drain.contains("\"healthy\""), "the removal left the node drained: {drain}");
    apt(&["purge", "spillway"])?;
    before.is_restored(&stage)?;
    let [first, second] = limits;
    Ok(Seen {
        events: 3,
        detail: format!("limits: {first} before, {second} upgraded, {last} downgraded"),
    })
}

fn are_there() -> anyhow::Result<()> {
    let there = [PREVIOUS, CURRENT].iter().all(|package| Path::new(package).exists());
    ensure!(there, NotOffered("this machine was started without packages".to_owned()));
    Ok(())
}

/// Lets apt, dpkg and what they start create the files that they keep from their first use on: an
/// empty package comes and goes.
fn used_once() -> anyhow::Result<()> {
    let scratch = Scratch::make("empty-package");
    let control = scratch.0.join("empty/DEBIAN");
    fs::create_dir_all(&control)?;
    fs::create_dir_all(APT_ARCHIVES)?;
    fs::write(control.join("control"), EMPTY_PACKAGE)?;
    let (tree, package) = (scratch.0.join("empty"), scratch.0.join("empty.deb"));
    output(Command::new("dpkg-deb").arg("--build").args([&tree, &package]))?;
    install(&package.display().to_string())?;
    apt(&["purge", "spillway-empty"])
}

/// Installs a package in the way that the README says, upgrading or downgrading it.
fn install(package: &str) -> anyhow::Result<()> {
    apt(&["install", "--allow-downgrades", package])
}

fn apt(args: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new("apt");
    command.arg("--yes").args(args).env("DEBIAN_FRONTEND", "noninteractive");
    output(&mut command).map(drop)
}

/// Waits until the unit is active and its agent serves metrics.
fn is_running() -> anyhow::Result<()> {
    let seen = until(SOON, || {
        let metrics = http_get(SERVES, "/metrics").ok()?;
        find_metric(&metrics, "spillway_processes").filter(|&processes| processes > 0.0)
    });
    ensure!(
        seen.is_some() && systemctl(&["is-active", AGENT_UNIT])? == "active",
        "the agent does not watch: {}",
        journal()?
    );
    Ok(())
}

/// Returns something if load balancers are told that the node takes no work.
fn is_drained() -> Option<()> {
    let ready = http_get(SERVES, "/ready").ok()?;
    ready.starts_with("HTTP/1.1 503").then_some(())
}

/// Waits for a limit, and returns it.
fn limited(stage: &Stage) -> anyhow::Result<u64> {
    let limit = until(CLAIMED_WITHIN, || stage.high().ok()?.parse().ok());
    limit.with_context(|| format!("no limit was set: {}", journal().unwrap_or_default()))
}

/// Returns what the agent has said.
fn journal() -> anyhow::Result<String> {
    let mut command = Command::new("journalctl");
    output(command.args(["--unit", AGENT_UNIT, "--output=cat", "--no-pager", "--lines=60"]))
}

fn dpkg(args: &[&str]) -> anyhow::Result<String> {
    output(Command::new("dpkg").args(args).env("DEBIAN_FRONTEND", "noninteractive"))
}

/// Returns the standard output of a command that has to succeed.
fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    let said = [&output.stdout[..], b"\n", &output.stderr].concat();
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&said).trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
