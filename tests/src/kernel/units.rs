//! Limits on systemd's units on a host that runs systemd: it rewrites the files that it owns at any
//! time, so that limits must go through it.
//!
//! Observed, and the basis of the action: setting any other property of a service wipes a value
//! that was written to its memory.high, and with 252 a daemon-reload does so too. A property stays,
//! and setting it to its current value writes the file again.

use std::{fs, process::Command, thread::sleep, time::Duration};

use anyhow::{Context as _, ensure};
use spillway_agent::{
    act::OutcomeKind,
    sense::{LEAK_CHILD, REST_CHILD},
};
use spillway_tests::{
    http_get,
    limit_live::{Share, is_alive, killed_anywhere, life},
    wait_for,
};

use crate::{
    checks::Seen,
    drive::Swap,
    guest::{self, is_thorough},
    installed::{
        AGENT_UNIT, CLAIMED_WITHIN, ENFORCE, EXPOSURE_ENFORCING_MAX, EXPOSURE_MAX,
        EXPOSURE_RESETTING_MAX, EXPOSURE_SHEDDING_MAX, Installed, QUICK, SERVES, SHED, SHED_RESET,
        is_exposed_when_shedding,
    },
    memory::beside,
    rungs::{Prepared, Rung},
    unit_stage::{ID, MIB, SOON, Stage, available_share, systemctl},
};

/// Part of its limit by which a leaker may exceed it. The kernel delays it by the square of the
/// excess, so that it creeps on: by an eighth of a limit of 200 MiB in half a minute; without the
/// limit it would be there in two and a half seconds.
const OVER: u64 = 8;

/// Checks that systemd runs the host, that nothing has failed, and that the memory controller is
/// delegated.
pub fn running(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    let first = fs::read_to_string("/proc/1/comm").context("pid 1 has no name")?;
    ensure!(first.trim() == "systemd", "pid 1 is {first}");
    let failed = systemctl(&["list-units", "--failed", "--no-legend", "--plain"])?;
    ensure!(failed.is_empty(), "these have failed: {failed}");
    let controllers = fs::read_to_string("/sys/fs/cgroup/system.slice/cgroup.controllers")
        .context("no system.slice")?;
    ensure!(controllers.contains("memory"), "system.slice has {controllers}");
    let version = systemctl(&["--version"])?;
    Ok(Seen { events: 1, detail: version.lines().next().unwrap_or_default().to_owned() })
}

/// Checks that a limit stays whatever else is set in systemd, and is removed without a trace.
pub fn lasting(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    let mut stage = Stage::service("lasting", "CPUWeight=77\nMemoryMax=400M\n")?;
    // The reason for using properties.
    fs::write(stage.file("memory.high"), (300 * MIB).to_string())?;
    systemctl(&["set-property", "--runtime", &stage.name, "CPUWeight=66"])?;
    let wiped = stage.high()?;
    ensure!(wiped == "max", "a written file stays here: {wiped}");

    let before = stage.properties()?;
    let limit_bytes = stage.limit()?;
    for args in
        [&["daemon-reload"][..], &["set-property", "--runtime", &stage.name, "CPUWeight=50"]]
    {
        systemctl(args)?;
        ensure!(
            stage.high()? == limit_bytes.to_string(),
            "memory.high is {} after {args:?}",
            stage.high()?
        );
        let looked = stage.limits.look(1.0);
        ensure!(looked.is_empty(), "after {args:?}: {looked:?}");
    }
    stage.undo()?;
    let after = stage.properties()?;
    ensure!(
        after == before.replace("CPUWeight=66", "CPUWeight=50"),
        "before: {before}; after: {after}"
    );
    let left = stage.drop_ins();
    ensure!(left == ["50-CPUWeight.conf"], "left behind: {left:?}");
    ensure!(stage.high()? == "max", "memory.high is {}", stage.high()?);
    Ok(Seen {
        events: 1,
        detail: format!("{limit_bytes} bytes through daemon-reload and set-property"),
    })
}

/// Checks that a backstop and less CPU are properties too: each stays, and is removed without a
/// trace if there was none before.
pub fn all_properties(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    let mut stage = Stage::running("all", "leak --rate=4MiB --limit=400MiB", "")?;
    stage.configure(|limit| {
        limit.backstop_bytes = Some(256 * MIB);
        (limit.cpu_weight, limit.cpu_max_percent, limit.cpu_after) =
            (Some(10), Some(50), Duration::ZERO);
    })?;
    // One of them was set by another program, which enables the controller.
    systemctl(&["set-property", "--runtime", &stage.name, "CPUWeight=200"])?;
    let before = stage.properties()?;
    let limit_bytes = stage.limit()?;
    // It may have outgrown the limit's room before the backstop was set, which is then slightly
    // higher.
    let backstop = fs::read_to_string(stage.file("memory.max"))?.trim().to_owned();
    let backstop_bytes: u64 =
        backstop.parse().with_context(|| format!("memory.max is {backstop}"))?;
    ensure!(
        (limit_bytes + 256 * MIB..limit_bytes + 300 * MIB).contains(&backstop_bytes),
        "{backstop} above {limit_bytes}"
    );
    let slowed = wait_for(SOON, || stage.limits.look(1.0).pop())
        .context("the process is not slowed down")?;
    ensure!(slowed.event == OutcomeKind::CpuThrottled, "{slowed:?}");
    let wanted = [
        ("memory.high", limit_bytes.to_string()),
        ("memory.max", backstop),
        ("cpu.weight", "10".to_owned()),
        ("cpu.max", "50000 100000".to_owned()),
    ];
    for args in [&["daemon-reload"][..], &["set-property", "--runtime", &stage.name, "TasksMax=99"]]
    {
        systemctl(args)?;
        for (file, wanted) in &wanted {
            let found = fs::read_to_string(stage.file(file))?;
            ensure!(found.trim() == wanted, "after {args:?} {file} is {found}, not {wanted}");
        }
    }
    stage.undo()?;
    let after = stage.properties()?;
    let tasks = |properties: &str| -> Vec<String> {
        properties
            .lines()
            .filter(|line| !line.starts_with("TasksMax="))
            .map(str::to_owned)
            .collect()
    };
    ensure!(tasks(&after) == tasks(&before), "before: {before}; after: {after}");
    let left = stage.drop_ins();
    ensure!(left == ["50-CPUWeight.conf", "50-TasksMax.conf"], "left behind: {left:?}");
    for (file, wanted) in [
        ("memory.high", "max"),
        ("memory.max", "max"),
        ("cpu.weight", "200"),
        ("cpu.max", "max 100000"),
    ] {
        let found = fs::read_to_string(stage.file(file))?;
        ensure!(found.trim() == wanted, "{file} is {found}, not {wanted}");
    }
    Ok(Seen { events: 4, detail: slowed.why })
}

/// Checks that a limit that was wiped only in the cgroup is set again.
pub fn wiped(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    let mut stage = Stage::service("wiped", "")?;
    let limit_bytes = stage.limit()?;
    fs::write(stage.file("memory.high"), "max")?;
    let looked = stage.limits.look(1.0);
    stage.is_set_again(&looked)?;
    stage.undo()?;
    ensure!(stage.drop_ins().is_empty(), "left behind: {:?}", stage.drop_ins());
    Ok(Seen { events: 1, detail: format!("{limit_bytes} bytes again") })
}

/// Checks that the agent backs off, with the other value in effect, when the property is set by
/// hand for the fourth time.
pub fn set_by_others(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    let mut stage = Stage::service("others", "")?;
    let limit_bytes = stage.limit()?;
    let theirs = limit_bytes + 64 * MIB;
    let set = |stage: &Stage| {
        systemctl(&["set-property", "--runtime", &stage.name, &format!("MemoryHigh={theirs}")])
    };
    for turn in 0..3 {
        set(&stage)?;
        let looked = stage.limits.look(1.0 + f64::from(turn));
        stage.is_set_again(&looked)?;
    }
    set(&stage)?;
    let looked = stage.limits.look(5.0);
    ensure!(matches!(&looked[..], [one] if one.event == OutcomeKind::Overridden), "{looked:?}");
    ensure!(stage.limits.undo_all(6.0).is_empty(), "the limit is still in effect");
    ensure!(stage.high()? == theirs.to_string(), "memory.high is {}", stage.high()?);
    ensure!(
        stage.drop_ins() == ["50-MemoryHigh.conf"],
        "the other value is gone: {:?}",
        stage.drop_ins()
    );
    Ok(Seen { events: 4, detail: "set again three times, then left alone".to_owned() })
}

/// Checks that a restarted service begins without its last run's limit.
pub fn restarted(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    let mut stage = Stage::service("restarted", "")?;
    let before = stage.properties()?;
    stage.limit()?;
    systemctl(&["restart", &stage.name])?;
    let looked = stage.limits.look(1.0);
    ensure!(matches!(&looked[..], [one] if one.event == OutcomeKind::CgroupRemoved), "{looked:?}");
    ensure!(
        stage.high()? == "max" && stage.drop_ins().is_empty(),
        "{} {:?}",
        stage.high()?,
        stage.drop_ins()
    );
    ensure!(stage.properties()? == before, "before: {before}; after: {}", stage.properties()?);
    Ok(Seen { events: 1, detail: "without a limit".to_owned() })
}

/// Checks that an agent killed between any two system calls leaves a state that undo restores
/// through properties: also of swap, if there is some.
pub fn killed(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    let _swap = Swap::on(64 * MIB)?;
    let mut stage = Stage::service("killed", "")?;
    let (state_dir, pid) = (stage.leave_journal()?, stage.pid()?);
    let (crash_target, life) = (beside("crash_target")?.get_program().to_owned(), life(pid));
    let contain = || {
        let mut command = Command::new(&crash_target);
        command.arg("limit").arg("--state-dir").arg(&state_dir).args(["--cgroup", &stage.cgroup]);
        command.arg("--wipe").arg(stage.file("memory.high")).arg("max");
        command
            .args([format!("--pid={}", life.pid), format!("--start-ticks={}", life.start_ticks)]);
        command
    };
    let state = || {
        let properties = stage.properties().expect("systemd answers");
        (properties, stage.high().expect("the cgroup is gone"), stage.drop_ins())
    };
    // One kill takes most of a second if emulated, so that each Debian takes other ones.
    let share = match guest::machine().as_deref() {
        _ if is_thorough() => Share::WHOLE,
        Some("debian12") => Share { of: 6, nth: 0 },
        _ => Share { of: 6, nth: 3 },
    };
    let killed = killed_anywhere(&state_dir, share, contain, state, || {});
    Ok(Seen { events: u64::from(killed.kills), detail: killed.to_string() })
}

/// Checks that a scope, as container runtimes make them, is a unit too; cgroups below it are its
/// own affair.
pub fn scope(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    let mut stage = Stage::scope("box")?;
    let limit_bytes = stage.limit()?;
    systemctl(&["daemon-reload"])?;
    ensure!(stage.high()? == limit_bytes.to_string(), "memory.high is {}", stage.high()?);
    stage.undo()?;
    ensure!(
        stage.high()? == "max" && stage.drop_ins().is_empty(),
        "{} {:?}",
        stage.high()?,
        stage.drop_ins()
    );

    let below = stage.file("child");
    fs::create_dir(&below)?;
    let pid = stage.pid()?;
    fs::write(below.join("cgroup.procs"), pid.to_string())?;
    fs::write(stage.file("cgroup.subtree_control"), "+memory")?;
    let child = format!("{}/child", stage.cgroup).into();
    let outcome = stage.limits.limit(10.0, &ID, &child, life(pid));
    ensure!(
        outcome.event == OutcomeKind::Limited && outcome.why.starts_with("memory.high set"),
        "{outcome:?}"
    );
    systemctl(&["daemon-reload"])?;
    let found = fs::read_to_string(below.join("memory.high"))?;
    ensure!(
        outcome.limit_bytes.map(|bytes| bytes.to_string()).as_deref() == Some(found.trim()),
        "{found}"
    );
    stage.undo()?;
    let found = fs::read_to_string(below.join("memory.high"))?;
    ensure!(found.trim() == "max", "{found}");
    Ok(Seen { events: 2, detail: "by its property; a cgroup below it by its file".to_owned() })
}

/// Checks that a service of several programs is divided only with Delegate=yes, which systemd
/// accepts.
pub fn shared(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    let mut stage = Stage::shared("shared", "")?;
    let outcome = stage.limits.limit(0.0, &ID, &stage.cgroup, life(stage.pid()?));
    ensure!(outcome.event == OutcomeKind::Refused, "{outcome:?}");
    let owned = "is not divided: /system.slice/spillway-shared.service is managed by systemd";
    ensure!(outcome.why.contains(owned), "{outcome:?}");
    ensure!(stage.children()?.is_empty(), "{:?}", stage.children()?);
    drop(stage);

    let mut stage = Stage::shared("delegated", "Delegate=yes\n")?;
    let (before, control) =
        (stage.properties()?, fs::read_to_string(stage.file("cgroup.subtree_control"))?);
    let limit = |stage: &mut Stage| -> anyhow::Result<()> {
        let outcome = stage.limits.limit(0.0, &ID, &stage.cgroup, life(stage.pid()?));
        // The shell that started both stays with the other one.
        let moved =
            "moved the process to spillway-leak, a child of its cgroup; memory.high set to ";
        ensure!(
            outcome.event == OutcomeKind::Limited && outcome.why.starts_with(moved),
            "{outcome:?}"
        );
        ensure!(stage.children()? == [LEAK_CHILD, REST_CHILD], "{:?}", stage.children()?);
        Ok(())
    };
    limit(&mut stage)?;
    let found = fs::read_to_string(stage.file("spillway-leak/memory.high"))?;
    for args in
        [&["daemon-reload"][..], &["set-property", "--runtime", &stage.name, "CPUWeight=50"]]
    {
        systemctl(args)?;
        let now = fs::read_to_string(stage.file("spillway-leak/memory.high"))?;
        ensure!(now == found, "memory.high is {now} after {args:?}");
        let looked = stage.limits.look(1.0);
        ensure!(looked.is_empty(), "after {args:?}: {looked:?}");
    }
    stage.undo()?;
    let after = stage.properties()?;
    ensure!(
        after.replace("CPUWeight=50", "CPUWeight=[not set]") == before,
        "before: {before}; after: {after}"
    );
    ensure!(stage.children()?.is_empty(), "{:?}", stage.children()?);
    ensure!(
        fs::read_to_string(stage.file("cgroup.subtree_control"))? == control,
        "its controllers changed"
    );

    limit(&mut stage)?;
    systemctl(&["restart", &stage.name])?;
    let looked = stage.limits.look(2.0);
    ensure!(matches!(&looked[..], [one] if one.event == OutcomeKind::CgroupRemoved), "{looked:?}");
    ensure!(stage.children()?.is_empty(), "{:?}", stage.children()?);
    let runs = wait_for(SOON, || stage.pid().ok());
    ensure!(runs.is_some(), "it is not restarted");

    limit(&mut stage)?;
    let leaker = stage.pid()?;
    systemctl(&["stop", &stage.name])?;
    ensure!(!is_alive(leaker) && !stage.file("").exists(), "systemd left a process behind");
    Ok(Seen {
        events: 3,
        detail: "divided through daemon-reload and set-property, restarted, stopped".to_owned(),
    })
}

/// Checks the unit without enforce.conf: it sees everything, and logs that it limits nothing.
pub fn without_enforce_conf(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    let agent = Installed::start_with(QUICK, &[])?;
    agent.is_confined(EXPOSURE_MAX)?;
    let text = "nothing will be limited: /sys/fs/cgroup is mounted read-only for the agent";
    for hint in [text, "enforce.conf"] {
        ensure!(agent.said().contains(hint), "{hint:?} is not in {}", agent.said());
    }
    let health = http_get(SERVES, "/healthz")?;
    ensure!(health.contains("mounted read-only"), "{health}");
    is_exposed_when_shedding()?;
    drop(agent);
    let may_reset = may_reset()?;
    let detail = format!(
        "exposure at most {EXPOSURE_MAX}, with shed.conf {EXPOSURE_SHEDDING_MAX}; {may_reset}"
    );
    Ok(Seen { events: 2, detail })
}

/// Checks that with shed-reset.conf nothing is known to prevent `act.shed.reset`.
fn may_reset() -> anyhow::Result<String> {
    let drop_ins =
        [("enforce.conf", ENFORCE), ("shed.conf", SHED), ("shed-reset.conf", SHED_RESET)];
    let config = format!("{QUICK}[act.shed]\nenabled = true\nreset = true\n");
    for (drop_ins, expected) in [(&drop_ins[..2], true), (&drop_ins[..], false)] {
        let agent = Installed::start_with(&config, drop_ins)?;
        let said = agent.said();
        ensure!(said.contains("act.shed.reset has no effect") == expected, "{said}");
        if !expected {
            agent.is_confined(EXPOSURE_RESETTING_MAX)?;
        }
    }
    Ok(format!("resets are possible with {EXPOSURE_RESETTING_MAX}"))
}

/// Checks that the installed agent limits a service that would take the whole machine, is hard to
/// kill, and leaves nothing behind if it is killed.
pub fn agent(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    let stage = Stage::running("leak", "leak --rate=10MiB --limit=2GiB", "")?;
    let before = stage.properties()?;
    let agent = Installed::start(QUICK)?;
    let limit_bytes = wait_for(CLAIMED_WITHIN, || stage.high().ok()?.parse::<u64>().ok());
    let limit_bytes = limit_bytes.with_context(|| format!("no limit was set: {}", agent.said()))?;
    let (mut most_bytes, mut least_available) = (0, 1.0_f64);
    for _ in 0..100 {
        most_bytes = most_bytes
            .max(fs::read_to_string(stage.file("memory.current"))?.trim().parse::<u64>()?);
        least_available = least_available.min(available_share()?);
        sleep(Duration::from_millis(100));
    }
    ensure!(
        stage.high()? == limit_bytes.to_string(),
        "memory.high is {}: {}",
        stage.high()?,
        agent.said()
    );
    ensure!(
        most_bytes <= limit_bytes + limit_bytes / OVER,
        "{most_bytes} bytes are used, {limit_bytes} is the limit"
    );
    ensure!(least_available > 0.1, "{least_available:.2} of the memory were available");
    let events = fs::read_to_string(stage.file("memory.events"))?;
    ensure!(events.contains("oom_kill 0"), "a process was killed: {events}");
    agent.is_protected()?;
    agent.is_confined(EXPOSURE_ENFORCING_MAX)?;

    systemctl(&["kill", "--signal=KILL", AGENT_UNIT])?;
    let undone = wait_for(SOON, || (stage.high().ok()? == "max").then_some(()));
    ensure!(undone.is_some(), "the limit of the killed agent is still in effect: {}", agent.said());
    let undone = wait_for(SOON, || stage.drop_ins().is_empty().then_some(()));
    ensure!(
        undone.is_some() && stage.properties()? == before,
        "{} {:?}",
        stage.properties()?,
        stage.drop_ins()
    );
    let detail = format!(
        "limited at {} MiB, {} KiB over at most; at least {:.0} % of the memory were available",
        limit_bytes / MIB,
        most_bytes.saturating_sub(limit_bytes) / 1024,
        least_available * 100.0
    );
    Ok(Seen { events: 1, detail })
}
