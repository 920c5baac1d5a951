//! Limits on systemd's units, where systemd runs the host: it writes what it owns whenever it sees fit, and it has to be asked.
//!
//! Seen, and what the action is built on: setting any other property of a service wipes what was written to its memory.high, and with 252 a
//! daemon-reload does as well. A property stays, and setting it to what it is writes the file again.

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
    act::{Event, Journal, Outcome, limit::Limits},
    config::{Config, LimitConfig, Pattern},
    sense::{LEAK_CHILD, ProcessId, REST_CHILD},
};
use spillway_tests::{
    Scratch,
    limit_live::{is_alive, life},
    wait_for,
};

use crate::{
    checks::Seen,
    memory::beside,
    rungs::{Prepared, Rung},
};

const MIB: u64 = 1 << 20;
const SOON: Duration = Duration::from_secs(30);
const ID: &str = "leak-1-1";

/// Judges within seconds, and acts.
const AGENT: &str = "mode = \"enforce\"\n[serve]\nlisten = \"127.0.0.1:0\"\n[sense]\ninterval = \"200ms\"\n\
    [detect.leak]\nwarm_up = \"0s\"\nhorizons = [\"8s\", \"12s\", \"16s\", \"32s\"]\nmin_growth = \"16MiB\"\n\
    [decide]\nlimit_within = \"1d\"\n[act.limit]\nmargin = \"32MiB\"\n";
const AGENT_UNIT: &str = "spillway.service";
const CLAIMED_WITHIN: Duration = Duration::from_secs(60);

/// A unit that goes with its check, and what limits it.
struct Stage {
    name: String,
    cgroup: Arc<str>,
    limits: Limits,
    config: Config,
    _scratch: Scratch,
}

/// systemd runs the host, nothing has failed, and the memory controller is handed on.
pub fn running(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    let first = fs::read_to_string("/proc/1/comm").context("pid 1 has no name")?;
    ensure!(first.trim() == "systemd", "pid 1 is {first}");
    let failed = systemctl(&["list-units", "--failed", "--no-legend", "--plain"])?;
    ensure!(failed.is_empty(), "these have failed: {failed}");
    let controllers =
        fs::read_to_string("/sys/fs/cgroup/system.slice/cgroup.controllers").context("no system.slice")?;
    ensure!(controllers.contains("memory"), "system.slice has {controllers}");
    let version = systemctl(&["--version"])?;
    Ok(Seen { events: 1, detail: version.lines().next().unwrap_or_default().to_owned() })
}

/// A limit lasts, whatever systemd is told of else, and goes without a trace.
pub fn lasting(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    let mut stage = Stage::service("lasting", "CPUWeight=77\nMemoryMax=400M\n")?;
    // What makes all of this necessary.
    fs::write(stage.file("memory.high"), (300 * MIB).to_string())?;
    systemctl(&["set-property", "--runtime", &stage.name, "CPUWeight=66"])?;
    let wiped = stage.high()?;
    ensure!(wiped == "max", "a file that was written lasts here: {wiped}");

    let before = stage.properties()?;
    let limit_bytes = stage.limit()?;
    for args in [&["daemon-reload"][..], &["set-property", "--runtime", &stage.name, "CPUWeight=50"]] {
        systemctl(args)?;
        ensure!(stage.high()? == limit_bytes.to_string(), "memory.high is {} after {args:?}", stage.high()?);
        let looked = stage.limits.look(1.0);
        ensure!(looked.is_empty(), "after {args:?}: {looked:?}");
    }
    stage.undo()?;
    let after = stage.properties()?;
    ensure!(after == before.replace("CPUWeight=66", "CPUWeight=50"), "before: {before}; after: {after}");
    let left = stage.drop_ins();
    ensure!(left == ["50-CPUWeight.conf"], "what is left of it: {left:?}");
    ensure!(stage.high()? == "max", "memory.high is {}", stage.high()?);
    Ok(Seen { events: 1, detail: format!("{limit_bytes} bytes through daemon-reload and set-property") })
}

/// A backstop and less CPU are properties as well: each lasts, and goes without a trace where there was none.
pub fn all_properties(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    let mut stage = Stage::running("all", "leak --rate=4MiB --limit=400MiB", "")?;
    stage.configure(|limit| {
        limit.backstop_bytes = Some(256 * MIB);
        (limit.cpu_weight, limit.cpu_max_percent, limit.cpu_after) = (Some(10), Some(50), Duration::ZERO);
    })?;
    // One of them was set by somebody else, who has the controller handed on by that.
    systemctl(&["set-property", "--runtime", &stage.name, "CPUWeight=200"])?;
    let before = stage.properties()?;
    let limit_bytes = stage.limit()?;
    // It may have outgrown the limit's room before the backstop was set, and have that a little higher.
    let backstop = fs::read_to_string(stage.file("memory.max"))?.trim().to_owned();
    let backstop_bytes: u64 = backstop.parse().with_context(|| format!("memory.max is {backstop}"))?;
    ensure!(
        (limit_bytes + 256 * MIB..limit_bytes + 300 * MIB).contains(&backstop_bytes),
        "{backstop} above {limit_bytes}"
    );
    let slowed = wait_for(SOON, || stage.limits.look(1.0).pop()).context("it is not slowed down")?;
    ensure!(slowed.event == Event::Slowed, "{slowed:?}");
    let wanted = [
        ("memory.high", limit_bytes.to_string()),
        ("memory.max", backstop),
        ("cpu.weight", "10".to_owned()),
        ("cpu.max", "50000 100000".to_owned()),
    ];
    for args in [&["daemon-reload"][..], &["set-property", "--runtime", &stage.name, "TasksMax=99"]] {
        systemctl(args)?;
        for (file, wanted) in &wanted {
            let stands = fs::read_to_string(stage.file(file))?;
            ensure!(stands.trim() == wanted, "after {args:?} {file} is {stands}, not {wanted}");
        }
    }
    stage.undo()?;
    let after = stage.properties()?;
    let tasks = |properties: &str| -> Vec<String> {
        properties.lines().filter(|line| !line.starts_with("TasksMax=")).map(str::to_owned).collect()
    };
    ensure!(tasks(&after) == tasks(&before), "before: {before}; after: {after}");
    let left = stage.drop_ins();
    ensure!(left == ["50-CPUWeight.conf", "50-TasksMax.conf"], "what is left of it: {left:?}");
    for (file, wanted) in
        [("memory.high", "max"), ("memory.max", "max"), ("cpu.weight", "200"), ("cpu.max", "max 100000")]
    {
        let stands = fs::read_to_string(stage.file(file))?;
        ensure!(stands.trim() == wanted, "{file} is {stands}, not {wanted}");
    }
    Ok(Seen { events: 4, detail: slowed.why })
}

/// A limit that was wiped in the cgroup alone stands again.
pub fn wiped(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    let mut stage = Stage::service("wiped", "")?;
    let limit_bytes = stage.limit()?;
    fs::write(stage.file("memory.high"), "max")?;
    let looked = stage.limits.look(1.0);
    stage.is_set_again(&looked)?;
    stage.undo()?;
    ensure!(stage.drop_ins().is_empty(), "what is left of it: {:?}", stage.drop_ins());
    Ok(Seen { events: 1, detail: format!("{limit_bytes} bytes again") })
}

/// Somebody who sets the property himself is heard the fourth time, and left alone with what he set.
pub fn set_by_others(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    let mut stage = Stage::service("others", "")?;
    let limit_bytes = stage.limit()?;
    let theirs = limit_bytes + 64 * MIB;
    let set = |stage: &Stage| systemctl(&["set-property", "--runtime", &stage.name, &format!("MemoryHigh={theirs}")]);
    for turn in 0..3 {
        set(&stage)?;
        let looked = stage.limits.look(1.0 + f64::from(turn));
        stage.is_set_again(&looked)?;
    }
    set(&stage)?;
    let looked = stage.limits.look(5.0);
    ensure!(matches!(&looked[..], [one] if one.event == Event::Yielded), "{looked:?}");
    ensure!(stage.limits.undo_all(6.0).is_empty(), "it is not undone any more");
    ensure!(stage.high()? == theirs.to_string(), "memory.high is {}", stage.high()?);
    ensure!(stage.drop_ins() == ["50-MemoryHigh.conf"], "what they set is gone: {:?}", stage.drop_ins());
    Ok(Seen { events: 4, detail: "three times, and then theirs".to_owned() })
}

/// A service that is started again begins without the limit of its last life.
pub fn restarted(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    let mut stage = Stage::service("restarted", "")?;
    let before = stage.properties()?;
    stage.limit()?;
    systemctl(&["restart", &stage.name])?;
    let looked = stage.limits.look(1.0);
    ensure!(matches!(&looked[..], [one] if one.event == Event::Gone), "{looked:?}");
    ensure!(stage.high()? == "max" && stage.drop_ins().is_empty(), "{} {:?}", stage.high()?, stage.drop_ins());
    ensure!(stage.properties()? == before, "before: {before}; after: {}", stage.properties()?);
    Ok(Seen { events: 1, detail: "without a limit".to_owned() })
}

/// A scope, as container runtimes make them, is a unit as well; what is below it is its own affair.
pub fn scope(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    let mut stage = Stage::scope("box")?;
    let limit_bytes = stage.limit()?;
    systemctl(&["daemon-reload"])?;
    ensure!(stage.high()? == limit_bytes.to_string(), "memory.high is {}", stage.high()?);
    stage.undo()?;
    ensure!(stage.high()? == "max" && stage.drop_ins().is_empty(), "{} {:?}", stage.high()?, stage.drop_ins());

    let below = stage.file("child");
    fs::create_dir(&below)?;
    let pid = stage.pid()?;
    fs::write(below.join("cgroup.procs"), pid.to_string())?;
    fs::write(stage.file("cgroup.subtree_control"), "+memory")?;
    let child = format!("{}/child", stage.cgroup).into();
    let outcome = stage.limits.limit(10.0, ID, &child, life(pid));
    ensure!(outcome.event == Event::Limited && outcome.why.starts_with("memory.high set"), "{outcome:?}");
    systemctl(&["daemon-reload"])?;
    let stands = fs::read_to_string(below.join("memory.high"))?;
    ensure!(outcome.limit_bytes.map(|bytes| bytes.to_string()).as_deref() == Some(stands.trim()), "{stands}");
    stage.undo()?;
    let stands = fs::read_to_string(below.join("memory.high"))?;
    ensure!(stands.trim() == "max", "{stands}");
    Ok(Seen { events: 2, detail: "by its property; a cgroup below it by its file".to_owned() })
}

/// A service that several programs share is divided where it has Delegate=yes, which systemd does not mind, and only there.
pub fn shared(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    let mut stage = Stage::shared("shared", "")?;
    let outcome = stage.limits.limit(0.0, ID, &stage.cgroup, life(stage.pid()?));
    ensure!(outcome.event == Event::Refused, "{outcome:?}");
    let owned = "is not divided: /system.slice/spillway-shared.service is systemd's own";
    ensure!(outcome.why.contains(owned), "{outcome:?}");
    ensure!(stage.children()?.is_empty(), "{:?}", stage.children()?);
    drop(stage);

    let mut stage = Stage::shared("delegated", "Delegate=yes\n")?;
    let (before, control) = (stage.properties()?, fs::read_to_string(stage.file("cgroup.subtree_control"))?);
    let limit = |stage: &mut Stage| -> anyhow::Result<()> {
        let outcome = stage.limits.limit(0.0, ID, &stage.cgroup, life(stage.pid()?));
        // The shell that started both stays with the other.
        let moved = "it was moved to spillway-leak, a child of its cgroup; memory.high set to ";
        ensure!(outcome.event == Event::Limited && outcome.why.starts_with(moved), "{outcome:?}");
        ensure!(stage.children()? == [LEAK_CHILD, REST_CHILD], "{:?}", stage.children()?);
        Ok(())
    };
    limit(&mut stage)?;
    let stands = fs::read_to_string(stage.file("spillway-leak/memory.high"))?;
    for args in [&["daemon-reload"][..], &["set-property", "--runtime", &stage.name, "CPUWeight=50"]] {
        systemctl(args)?;
        let now = fs::read_to_string(stage.file("spillway-leak/memory.high"))?;
        ensure!(now == stands, "memory.high is {now} after {args:?}");
        let looked = stage.limits.look(1.0);
        ensure!(looked.is_empty(), "after {args:?}: {looked:?}");
    }
    stage.undo()?;
    let after = stage.properties()?;
    ensure!(after.replace("CPUWeight=50", "CPUWeight=[not set]") == before, "before: {before}; after: {after}");
    ensure!(stage.children()?.is_empty(), "{:?}", stage.children()?);
    ensure!(fs::read_to_string(stage.file("cgroup.subtree_control"))? == control, "its controllers are others");

    limit(&mut stage)?;
    systemctl(&["restart", &stage.name])?;
    let looked = stage.limits.look(2.0);
    ensure!(matches!(&looked[..], [one] if one.event == Event::Gone), "{looked:?}");
    ensure!(stage.children()?.is_empty(), "{:?}", stage.children()?);
    let runs = wait_for(SOON, || stage.pid().ok());
    ensure!(runs.is_some(), "it does not run again");

    limit(&mut stage)?;
    let leaker = stage.pid()?;
    systemctl(&["stop", &stage.name])?;
    ensure!(!is_alive(leaker) && !stage.file("").exists(), "systemd has not found everybody");
    Ok(Seen { events: 3, detail: "divided through daemon-reload and set-property, restarted, stopped".to_owned() })
}

/// The agent as it is installed holds a service that would take the whole machine, is hard to get rid of, and leaves nothing behind when
/// it is killed.
pub fn agent(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    let stage = Stage::running("leak", "leak --rate=10MiB --limit=2GiB", "")?;
    let before = stage.properties()?;
    let agent = Installed::start()?;
    let limit_bytes = wait_for(CLAIMED_WITHIN, || stage.high().ok()?.parse::<u64>().ok());
    let limit_bytes = limit_bytes.with_context(|| format!("it limits nothing: {}", agent.said()))?;
    let (mut most_bytes, mut least_available) = (0, 1.0_f64);
    for _ in 0..100 {
        most_bytes = most_bytes.max(fs::read_to_string(stage.file("memory.current"))?.trim().parse::<u64>()?);
        least_available = least_available.min(available_share()?);
        sleep(Duration::from_millis(100));
    }
    ensure!(stage.high()? == limit_bytes.to_string(), "memory.high is {}: {}", stage.high()?, agent.said());
    ensure!(most_bytes <= limit_bytes + 16 * MIB, "{most_bytes} bytes are used, {limit_bytes} is the limit");
    ensure!(least_available > 0.1, "{least_available:.2} of the memory were available");
    let events = fs::read_to_string(stage.file("memory.events"))?;
    ensure!(events.contains("oom_kill 0"), "somebody was killed: {events}");
    agent.is_hard_to_get_rid_of()?;

    systemctl(&["kill", "--signal=KILL", AGENT_UNIT])?;
    let undone = wait_for(SOON, || (stage.high().ok()? == "max").then_some(()));
    ensure!(undone.is_some(), "what a killed agent has set stands: {}", agent.said());
    let undone = wait_for(SOON, || stage.drop_ins().is_empty().then_some(()));
    ensure!(undone.is_some() && stage.properties()? == before, "{} {:?}", stage.properties()?, stage.drop_ins());
    let detail = format!(
        "held at {} MiB, {} KiB over at most; at least {:.0} % of the memory were available",
        limit_bytes / MIB,
        most_bytes.saturating_sub(limit_bytes) / 1024,
        least_available * 100.0
    );
    Ok(Seen { events: 1, detail })
}

/// The agent as a service, by the unit file that it comes with.
struct Installed;

impl Installed {
    fn start() -> anyhow::Result<Self> {
        fs::write("/etc/spillway.toml", AGENT)?;
        let unit = include_str!("../../../configs/systemd/spillway.service");
        fs::write(Path::new("/run/systemd/system").join(AGENT_UNIT), unit)?;
        systemctl(&["daemon-reload"])?;
        let agent = Self;
        systemctl(&["start", AGENT_UNIT])?;
        Ok(agent)
    }

    /// What it logged and printed.
    fn said(&self) -> String {
        let output = Command::new("journalctl").args(["--unit", AGENT_UNIT, "--output=cat", "--no-pager"]).output();
        output.map_or_else(|error| error.to_string(), |output| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Its memory is its own, and others are killed before it.
    fn is_hard_to_get_rid_of(&self) -> anyhow::Result<()> {
        let pid = systemctl(&["show", "--property=MainPID", "--value", AGENT_UNIT])?;
        let read = |path: &str| fs::read_to_string(path).with_context(|| format!("{path} cannot be read"));
        let score = read(&format!("/proc/{pid}/oom_score_adj"))?;
        ensure!(score.trim() == "-900", "its OOM score is moved by {score}");
        let min = read(&format!("/sys/fs/cgroup/system.slice/{AGENT_UNIT}/memory.min"))?;
        ensure!(min.trim() == (32 * MIB).to_string(), "its memory.min is {min}");
        let status = read(&format!("/proc/{pid}/status"))?;
        let locked =
            status.lines().find_map(|line| line.strip_prefix("VmLck:")).context("the kernel tells no VmLck")?;
        ensure!(locked.trim() != "0 kB", "none of its memory is locked");
        Ok(())
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        let _ = systemctl(&["stop", AGENT_UNIT]);
    }
}

/// Share of the host's memory that is available.
fn available_share() -> anyhow::Result<f64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_suffix(" kB"));
        line.and_then(|kib| kib.trim().parse::<f64>().ok()).with_context(|| format!("there is no {name}"))
    };
    Ok(field("MemAvailable:")? / field("MemTotal:")?)
}

impl Stage {
    /// A service that holds some memory.
    fn service(name: &str, settings: &str) -> anyhow::Result<Self> {
        Self::running(name, "touch --anon-bytes=8MiB", settings)
    }

    /// A service that runs a workload.
    fn running(name: &str, workload: &str, settings: &str) -> anyhow::Result<Self> {
        let unit = format!("spillway-{name}.service");
        let command = beside("workload")?.get_program().to_string_lossy().into_owned();
        let text = format!("[Service]\nExecStart={command} {workload}\n{settings}");
        fs::write(Path::new("/run/systemd/system").join(&unit), text)?;
        systemctl(&["daemon-reload"])?;
        systemctl(&["start", &unit])?;
        Self::of(unit)
    }

    /// A service of two programs that have nothing to do with one another.
    fn shared(name: &str, settings: &str) -> anyhow::Result<Self> {
        let unit = format!("spillway-{name}.service");
        let workload = beside("workload")?.get_program().to_string_lossy().into_owned();
        let command = format!("'{workload} touch --anon-bytes=8MiB & sleep 100000 & wait'");
        let text = format!("[Service]\nExecStart=/bin/sh -c {command}\n{settings}");
        fs::write(Path::new("/run/systemd/system").join(&unit), text)?;
        systemctl(&["daemon-reload"])?;
        systemctl(&["start", &unit])?;
        Self::of(unit)
    }

    /// The same in a scope that may have cgroups of its own.
    fn scope(name: &str) -> anyhow::Result<Self> {
        let unit = format!("spillway-{name}.scope");
        let mut command = Command::new("systemd-run");
        command.args(["--scope", "--quiet", "--collect", "--slice=system.slice", "--property=Delegate=yes"]);
        command.arg(format!("--unit={unit}")).arg(beside("workload")?.get_program());
        command.args(["touch", "--anon-bytes=8MiB"]).stdout(std::process::Stdio::null());
        command.spawn().context("systemd-run does not start")?;
        Self::of(unit)
    }

    fn of(unit: String) -> anyhow::Result<Self> {
        let scratch = Scratch::make(&unit);
        let mut config = Config::default();
        config.record.state_dir = scratch.0.join("state");
        config.act.limit.delegated = vec![Pattern::new(&unit).map_err(anyhow::Error::msg)?];
        let limits = Limits::new(&config, Ok(Journal::claim(&config.record.state_dir)?));
        let cgroup = format!("/system.slice/{unit}").into();
        let stage = Self { name: unit, cgroup, limits, config, _scratch: scratch };
        let started = wait_for(SOON, || stage.pid().ok());
        ensure!(started.is_some(), "{} does not start", stage.name);
        Ok(stage)
    }

    /// Has what limits it configured otherwise.
    fn configure(&mut self, change: impl FnOnce(&mut LimitConfig)) -> anyhow::Result<()> {
        change(&mut self.config.act.limit);
        // The journal is one agent's: the one that is replaced gives it up first.
        self.limits = Limits::new(&self.config, Err("it is somebody else's".to_owned()));
        self.limits = Limits::new(&self.config, Ok(Journal::claim(&self.config.record.state_dir)?));
        Ok(())
    }

    fn file(&self, name: &str) -> PathBuf {
        Path::new("/sys/fs/cgroup").join(&self.cgroup[1..]).join(name)
    }

    fn high(&self) -> anyhow::Result<String> {
        Ok(fs::read_to_string(self.file("memory.high")).context("its cgroup is gone")?.trim().to_owned())
    }

    /// The workload: not systemd's own process, before it becomes that, and wherever it was moved.
    fn pid(&self) -> anyhow::Result<u32> {
        let directories = ["cgroup.procs", "spillway-leak/cgroup.procs"].map(|file| self.file(file));
        let pids = directories.iter().filter_map(|file| fs::read_to_string(file).ok()).collect::<String>();
        let mut pids = pids.lines().filter_map(|pid| pid.parse().ok());
        let is_it = |pid: &u32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with("workload"));
        pids.find(is_it).context("no workload is in it")
    }

    /// The cgroups below it.
    fn children(&self) -> anyhow::Result<Vec<String>> {
        let entries = fs::read_dir(self.file(""))?.collect::<Result<Vec<_>, _>>()?;
        let children = entries.into_iter().filter(|entry| entry.path().is_dir());
        let mut names: Vec<_> = children.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        Ok(names)
    }

    /// Limits it, and gives the limit.
    fn limit(&mut self) -> anyhow::Result<u64> {
        let culprit: ProcessId = life(self.pid()?);
        let outcome = self.limits.limit(0.0, ID, &self.cgroup, culprit);
        ensure!(outcome.event == Event::Limited && outcome.why.starts_with("MemoryHigh set"), "{outcome:?}");
        let limit_bytes = outcome.limit_bytes.context("it says no limit")?;
        ensure!(self.high()? == limit_bytes.to_string(), "memory.high is {}", self.high()?);
        Ok(limit_bytes)
    }

    /// Whether a look has set the limit again: to what it was, or a little more where more is used by now.
    fn is_set_again(&self, looked: &[Outcome]) -> anyhow::Result<()> {
        let [Outcome { event: Event::Reasserted, limit_bytes: Some(bytes), .. }] = looked else { bail!("{looked:?}") };
        ensure!(self.high()? == bytes.to_string(), "memory.high is {}, not {bytes}", self.high()?);
        Ok(())
    }

    /// Puts everything back, as another process would that finds the journal.
    fn undo(&mut self) -> anyhow::Result<()> {
        let journal = Journal::find(&self.config.record.state_dir)?.context("there is no journal")?;
        let undone: Vec<Outcome> = spillway_agent::act::undo_all(&journal).iter().map(|one| one.outcome(9.0)).collect();
        ensure!(matches!(&undone[..], [one] if one.event == Event::Undone), "{undone:?}");
        let looked = self.limits.look(9.0);
        ensure!(matches!(&looked[..], [one] if one.event == Event::Undone), "{looked:?}");
        Ok(())
    }

    /// What a limit must not change, and what it changes.
    fn properties(&self) -> anyhow::Result<String> {
        const PROPERTIES: &str = "MemoryHigh,MemoryMax,MemoryLow,CPUWeight,CPUQuotaPerSecUSec,TasksMax,IOWeight";
        systemctl(&["show", &format!("--property={PROPERTIES}"), &self.name])
    }

    /// Files of properties that are set for this boot, of both kinds of units.
    fn drop_ins(&self) -> Vec<String> {
        let directories = ["/run/systemd/system.control", "/run/systemd/transient"];
        let entries =
            directories.iter().filter_map(|directory| fs::read_dir(format!("{directory}/{}.d", self.name)).ok());
        let mut names: Vec<_> =
            entries.flatten().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        // How a scope was started is kept there as well.
        names.retain(|name| !name.ends_with("Delegate.conf"));
        names.sort();
        names
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = systemctl(&["stop", &self.name]);
        let _ = fs::remove_file(Path::new("/run/systemd/system").join(&self.name));
        let _ = fs::remove_dir_all(Path::new("/run/systemd/system.control").join(format!("{}.d", self.name)));
    }
}

fn systemctl(args: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("systemctl").args(args).output().context("systemctl does not start")?;
    if !output.status.success() {
        bail!("systemctl {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
