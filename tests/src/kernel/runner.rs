//! Runs checks, each in a process of its own, and writes one JSON line a result.

use std::{
    io::{Read as _, Write},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    panic,
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde_json::{Value, json};
use tracing_subscriber::filter::LevelFilter;

use crate::{
    checks::{self, Check, NotOffered, Seen},
    rungs,
};

/// Runs every check whose name contains `only`, and says whether none failed.
pub fn run_all(out: &mut dyn Write, only: Option<&str>) -> ExitCode {
    let chosen: Vec<Check> =
        checks::all().into_iter().filter(|check| only.is_none_or(|only| check.name().contains(only))).collect();
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = thread::available_parallelism().map_or(0, usize::from);
    let mut failed = say(out, &json!({"kernel": release.trim(), "cpus": cpus, "checks": chosen.len()})).is_err();
    for check in &chosen {
        let start = now();
        let mut line =
            in_own_process(check).unwrap_or_else(|error| json!({"pass": false, "detail": format!("{error:#}")}));
        failed |= line["pass"] == false;
        line["probe"] = check.about.name().into();
        line["rung"] = rungs::name(check.about, check.rung).into();
        line["check"] = check.what.into();
        line["secs"] = ((start.elapsed().as_secs_f64() * 100.0).round() / 100.0).into();
        failed |= say(out, &line).is_err();
        reap();
    }
    failed |= say(out, &json!({"done": true})).is_err();
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Runs one check in this process, and prints its result.
pub fn check_here(name: &str) -> ExitCode {
    tracing_subscriber::fmt().with_max_level(LevelFilter::DEBUG).with_ansi(false).with_writer(std::io::stderr).init();
    let outcome = match checks::all().into_iter().find(|check| check.name() == name) {
        Some(check) => panic::catch_unwind(|| check.run()).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            Err(anyhow::anyhow!("panicked: {}", text.unwrap_or("for no reason given")))
        }),
        None => Err(anyhow::anyhow!("there is no check {name:?}")),
    };
    let line = match &outcome {
        Ok(Seen { events, detail }) => json!({"pass": true, "events": events, "detail": detail}),
        Err(error) if error.is::<NotOffered>() => json!({"pass": null, "detail": error.to_string()}),
        Err(error) => json!({"pass": false, "detail": format!("{error:#}")}),
    };
    let said = say(&mut std::io::stdout(), &line);
    if said.is_ok() && line["pass"] != false { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn in_own_process(check: &Check) -> anyhow::Result<Value> {
    eprintln!("--- {}", check.name());
    let mut command = Command::new(std::env::current_exe().context("the name of this program is not known")?);
    command.args(["--check", &check.name()]).stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
    let mut child = command.spawn().context("the check cannot be started")?;
    let mut stdout = child.stdout.take().context("standard output is piped")?;
    // A workload that outlives the check may hold the pipe open: whoever waits for it waits in a thread.
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut text = String::new();
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = stdout.read(&mut buffer) {
            text.push_str(&String::from_utf8_lossy(&buffer[..read]));
            if text.ends_with('\n') {
                let _ = sender.send(text.clone());
            }
        }
    });
    let status = wait(&mut child, check.limit)?;
    let said = || {
        receiver.recv_timeout(Duration::from_millis(200)).ok().map(|first| receiver.try_iter().last().unwrap_or(first))
    };
    match status {
        None => anyhow::bail!("took longer than {} s and was stopped", check.limit.as_secs()),
        Some(status) => said()
            .and_then(|text| serde_json::from_str(text.lines().last()?).ok())
            .with_context(|| format!("ended without a result: {}", ending(status))),
    }
}

fn ending(status: ExitStatus) -> String {
    status.signal().map_or_else(|| status.to_string(), |signal| format!("killed by signal {signal}"))
}

/// Waits for the end; kills the whole process group at the limit.
fn wait(child: &mut Child, limit: Duration) -> anyhow::Result<Option<ExitStatus>> {
    let start = now();
    loop {
        if let Some(status) = child.try_wait().context("the check's state cannot be read")? {
            return Ok(Some(status));
        }
        if start.elapsed() > limit {
            // SAFETY: kill takes two integers; the group is that of a child which is not reaped yet.
            unsafe { libc::kill(-(child.id() as i32), libc::SIGKILL) };
            child.wait().context("the check was not reaped")?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// As pid 1 this inherits every orphan. It is called where no child of its own runs.
fn reap() {
    if std::process::id() == 1 {
        // SAFETY: waitpid may be given no place for the status.
        while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } > 0 {}
    }
}

fn say(out: &mut dyn Write, line: &Value) -> std::io::Result<()> {
    writeln!(out, "{line}")?;
    out.flush()
}

/// The monotonic clock, now.
#[expect(clippy::disallowed_methods, reason = "checks hold what is seen against their own clock")]
pub fn now() -> Instant {
    Instant::now()
}
