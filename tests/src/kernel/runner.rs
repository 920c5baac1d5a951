//! Runs checks, each in a process of its own, and writes one JSON line per result.
//!
//! Attaching takes an emulated processor seconds, so the sensors of a rung are started once, and
//! each check of that rung is a fork that finds them ready. No thread is started here, so that a
//! fork is complete.

use std::{
    fs::File,
    io::{self, Read as _, Write},
    os::fd::{FromRawFd as _, OwnedFd},
    panic,
    process::ExitCode,
    thread,
    time::Duration,
};

use anyhow::Context as _;
use serde_json::{Value, json};
pub use spillway_tests::now;
use tracing_subscriber::filter::LevelFilter;

use crate::{
    checks::{Check, NotOffered, Seen},
    rungs::{self, Prepared},
};

/// Runs the checks whose name contains `only`; returns whether all passed.
pub fn run_all(out: &mut dyn Write, checks: Vec<Check>, only: Option<&str>) -> ExitCode {
    let chosen: Vec<Check> = checks
        .into_iter()
        .filter(|check| only.is_none_or(|only| check.name().contains(only)))
        .collect();
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = thread::available_parallelism().map_or(0, usize::from);
    let mut failed =
        say(out, &json!({"kernel": release.trim(), "cpus": cpus, "checks": chosen.len()})).is_err();
    log_to_stderr();
    let mut prepared = Prepared::default();
    for check in &chosen {
        let start = now();
        eprintln!("--- {}", check.name());
        let mut line = match check.elsewhere() {
            Some(machines) => json!({"pass": null, "elsewhere": machines, "detail": ""}),
            None => made_here(check, &mut prepared),
        };
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

/// Logs Spillway's messages to standard error, including the verifier's.
fn log_to_stderr() {
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::DEBUG)
        .with_ansi(false)
        .with_writer(io::stderr)
        .init();
}

/// Runs a check in this process, and returns its result.
fn result(check: &Check, prepared: &mut Prepared) -> Value {
    let outcome = panic::catch_unwind(panic::AssertUnwindSafe(|| check.run(prepared)))
        .unwrap_or_else(|panic| {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or(panic.downcast_ref::<&str>().copied());
            Err(anyhow::anyhow!("panicked: {}", text.unwrap_or("for no reason given")))
        });
    match outcome {
        Ok(Seen { events, detail }) => json!({"pass": true, "events": events, "detail": detail}),
        Err(error) if error.is::<NotOffered>() => {
            json!({"pass": null, "detail": error.to_string()})
        }
        Err(error) => json!({"pass": false, "detail": format!("{error:#}")}),
    }
}

/// Runs a check in a process of its own with the sensors of its rung, and returns its result.
fn made_here(check: &Check, prepared: &mut Prepared) -> Value {
    if check.fresh {
        prepared.clear();
    } else {
        prepared.start(check.about, check.rung);
    }
    in_a_fork(check, prepared)
        .unwrap_or_else(|error| json!({"pass": false, "detail": format!("{error:#}")}))
}

fn in_a_fork(check: &Check, prepared: &mut Prepared) -> anyhow::Result<Value> {
    let mut ends = [0; 2];
    // SAFETY: pipe2 writes two descriptors.
    done(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })
        .context("cannot create a pipe")?;
    // SAFETY: both were just made, and nobody else has them.
    let [reader, writer] = ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) });
    // SAFETY: this process has one thread, so that its copy is whole.
    let child = done(unsafe { libc::fork() }).context("cannot start the check")?;
    if child == 0 {
        // SAFETY: a process may lead a group of its own.
        unsafe { libc::setpgid(0, 0) };
        drop(reader);
        let line = result(check, prepared);
        let said = say(&mut File::from(writer), &line);
        // Nothing is dropped: what is prepared belongs to the parent, and detaching it here would
        // detach it there. SAFETY: it ends this process and nothing else.
        unsafe { libc::_exit(i32::from(said.is_err())) };
    }
    drop(writer);
    let status = wait(child, check.limit)?;
    let status = status
        .with_context(|| format!("took longer than {} s and was stopped", check.limit.as_secs()))?;
    // A line is shorter than a pipe's buffer, so that all of it is there now. A workload that
    // outlives the check does not keep this pipe open: it is closed on exec.
    let mut text = String::new();
    File::from(reader).read_to_string(&mut text).context("cannot read the result")?;
    serde_json::from_str(&text).with_context(|| {
        let signal = libc::WIFSIGNALED(status)
            .then(|| format!("killed by signal {}", libc::WTERMSIG(status)));
        format!("ended without a result: {}", signal.unwrap_or_else(|| format!("status {status}")))
    })
}

/// Waits for the end; kills the whole process group at the limit.
fn wait(child: libc::pid_t, limit: Duration) -> anyhow::Result<Option<libc::c_int>> {
    let start = now();
    let mut status = 0;
    loop {
        // SAFETY: waitpid writes one status, which lives here.
        if done(unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) })
            .context("cannot wait for the check")?
            != 0
        {
            return Ok(Some(status));
        }
        if start.elapsed() > limit {
            // SAFETY: kill takes two integers; the group is that of a child which is not reaped
            // yet. Then it is.
            unsafe {
                libc::kill(-child, libc::SIGKILL);
                libc::kill(child, libc::SIGKILL);
                libc::waitpid(child, &raw mut status, 0);
            }
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Returns the result of a system call, or the reason that it failed.
pub fn done(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Reaps orphans, which pid 1 inherits. It is called only while no child of its own runs.
fn reap() {
    if std::process::id() == 1 {
        // SAFETY: waitpid may be given no place for the status.
        while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } > 0 {}
    }
}

fn say(out: &mut dyn Write, line: &Value) -> io::Result<()> {
    writeln!(out, "{line}")?;
    out.flush()
}
