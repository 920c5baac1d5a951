//! Being there when memory is short: the agent's own pages stay where they are, and the kernel looks for others to kill first.
//!
//! Under pressure the kernel takes back a program's own code first, and a page of it that is needed then waits for the disk behind
//! everybody else. Either step is a wish: who may not have it runs on without, and the log says so.

use std::{fs, io};

use nix::{
    libc,
    sys::{
        mman::{MlockAllFlags, mlockall},
        resource::{RLIM_INFINITY, Resource, getrlimit},
    },
};

/// Nearly the last to be killed: a host that has nothing left but the agent is no use to anybody.
const OOM_SCORE_ADJ: i32 = -900;

/// Bit of CAP_IPC_LOCK in a set of capabilities.
const CAP_IPC_LOCK: u32 = 14;

/// Prepares for it, as far as this process may.
pub fn prepare() {
    match lock_memory() {
        Ok(()) => tracing::debug!("memory is locked"),
        Err(error) => tracing::debug!(%error, "memory is not locked: under pressure the agent may be late"),
    }
    match lower_oom_score() {
        Ok(()) => tracing::debug!(oom_score_adj = OOM_SCORE_ADJ, "others are killed first"),
        Err(error) => tracing::debug!(%error, "the OOM score is as it was; OOMScoreAdjust=-900 in its unit lowers it"),
    }
}

/// Keeps every page that has been touched, now and from now on. Not up to a limit: what is mapped beyond one would fail.
fn lock_memory() -> io::Result<()> {
    let (soft, _) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    if soft != RLIM_INFINITY && !may_lock()? {
        return Err(io::Error::other(format!("only {soft} bytes may be locked")));
    }
    let on_fault = MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    Ok(mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | on_fault)?)
}

fn may_lock() -> io::Result<bool> {
    let status = procfs::process::Process::myself().and_then(|process| process.status()).map_err(io::Error::other)?;
    Ok(status.capeff >> CAP_IPC_LOCK & 1 == 1)
}

/// Where somebody has chosen a score, by a unit file or by hand, it stays.
fn lower_oom_score() -> io::Result<()> {
    let file = "/proc/self/oom_score_adj";
    if fs::read_to_string(file)?.trim() != "0" {
        return Ok(());
    }
    fs::write(file, OOM_SCORE_ADJ.to_string())
}
