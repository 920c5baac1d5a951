//! The agent on a kernel that refuses it something: it runs with the rest, logs one line for each
//! refusal, and stays up.

use std::{fs, os::unix::process::CommandExt as _, time::Duration};

use anyhow::{Context as _, ensure};
use spillway_agent::bpf::{Probe, ProbeState};
use spillway_tests::{ANY_PORT, Running, STARTS_WITHIN, Scratch, find_metric, wait_for, warnings};

use crate::{
    checks::{NotOffered, Seen},
    guest,
    memory::beside,
    rungs::{Prepared, Rung, kernel_version},
};

const LOCKDOWN: &str = "/sys/kernel/security/lockdown";

/// Factor by which emulation is assumed to be slower than hardware.
const EMULATED: u32 = 12;

/// Message of the agent, instead of one per probe, if it may load no program.
const NO_BPF: &str = "BPF is not used";

/// The limit on locked memory that Debian's 5.10 gives: maps count against it until 5.11.
const MEMLOCK_BYTES: u64 = 64 << 10;

/// Checks the agent under a low limit on locked memory that it may not raise.
pub fn low_memlock(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    let lower = || {
        let limit = libc::rlimit { rlim_cur: MEMLOCK_BYTES, rlim_max: MEMLOCK_BYTES };
        // CAP_SYS_RESOURCE of include/uapi/linux/capability.h: with it the limit could be raised.
        let capability: libc::c_ulong = 24;
        // SAFETY: setrlimit reads one rlimit, which lives here; prctl takes numbers alone.
        let lowered = unsafe {
            libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) == 0
                && libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) == 0
        };
        if lowered { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    let bound = kernel_version()? < (5, 11);
    let degraded = if bound {
        "process_memory fault_samples process_life process_handles accept_queue unix_queue \
         accept_sojourn outbound_connects requests open_files"
    } else {
        ""
    };
    survive(degraded, bound.then_some("RLIMIT_MEMLOCK"), |command| {
        // SAFETY: between fork and exec the closure makes two system calls and allocates nothing.
        unsafe { command.pre_exec(lower) };
    })
}

/// Checks the agent under kernel lockdown in its confidentiality mode, which cannot be undone: the
/// last check of a virtual machine.
pub fn lockdown(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    if !guest::is_guest() {
        return Err(
            NotOffered("lockdown cannot be undone: in virtual machines alone".to_owned()).into()
        );
    }
    fs::write(LOCKDOWN, "confidentiality").with_context(|| format!("cannot write {LOCKDOWN}"))?;
    // No helper may read kernel memory. Loads of which the verifier knows the type still work, as
    // does everything that needs neither.
    survive(
        "process_memory process_handles accept_queue unix_queue accept_sojourn outbound_connects \
         requests open_files",
        Some("lockdown"),
        |_| (),
    )
}

/// Starts the agent; `degraded` names the probes that must be degraded, for a reason that contains
/// `word`.
fn survive(
    degraded: &str,
    word: Option<&str>,
    hinder: impl FnOnce(&mut std::process::Command),
) -> anyhow::Result<Seen> {
    let scratch = Scratch::make("survival");
    let config = scratch.file("spillway.toml", ANY_PORT);
    let mut command = beside("spillway")?;
    command.args(["run", "--json", "--config"]).arg(&config);
    hinder(&mut command);
    let limit = if guest::is_guest() { STARTS_WITHIN * EMULATED } else { STARTS_WITHIN };
    let running = Running::start_within(command, limit);
    let scanned = wait_for(limit, || {
        find_metric(&running.get("/metrics"), "spillway_processes").filter(|&seen| seen > 0.0)
    });
    let processes = scanned.context("no process was seen")?;
    let metrics = running.get("/metrics");
    std::thread::sleep(Duration::from_secs(3));
    ensure!(running.is_well(), "it reports itself as unhealthy: {}", running.get("/healthz"));
    let (code, log) = running.stop();
    eprintln!("{log}");
    ensure!(code == Some(0), "it exited with {code:?}");
    for probe in Probe::VARIANTS {
        let name = probe.name();
        let attached = metrics.lines().any(|line| {
            line.starts_with(&format!(
                "spillway_probe_state{{probe=\"{name}\",state=\"{}\"",
                ProbeState::Attached.name()
            ))
        });
        // Outside of a virtual machine the kernel may refuse more.
        let expected = !degraded.split(' ').any(|other| other == name);
        ensure!(
            attached == expected || !guest::is_guest(),
            "{name} attached is {attached}: {metrics}"
        );
    }
    // Only of probes: on a shared CPU the emulated agent stalls now and then, and logs it.
    let is_of_probe = |line: &&str| {
        line.contains(NO_BPF) || Probe::VARIANTS.iter().any(|probe| line.contains(probe.name()))
    };
    let warnings: Vec<_> = warnings(&log).into_iter().filter(is_of_probe).collect();
    if let Some(word) = word {
        let naming = warnings.iter().filter(|line| line.contains(word)).count();
        ensure!(naming > 0, "no warning names {word}: {log}");
    }
    let is_summary = warnings.len() == 1 && warnings[0].contains(NO_BPF);
    ensure!(
        is_summary || warnings.len() == degraded.split_whitespace().count() || !guest::is_guest(),
        "{} warnings, for {degraded:?}: {log}",
        warnings.len()
    );
    Ok(Seen {
        events: processes as u64,
        detail: format!("{} warnings, degraded: {degraded:?}", warnings.len()),
    })
}
