//! Being there when memory is short: the agent's own pages stay where they are, and the kernel
//! looks for others to kill first.
//!
//! Under pressure the kernel takes back a program's own code first, and a page of it that is needed
//! then waits for the disk behind everybody else. So does whoever asks the kernel for memory, of
//! which every read of /proc takes some; the loop asks it not to wait for that, and runs before
//! others while memory is short. Each step is a wish: who may not have it runs on without, and the
//! log says so.

use std::{fs, io};

use nix::{
    libc,
    sys::{
        mman::{MlockAllFlags, mlockall},
        resource::{RLIM_INFINITY, Resource, getrlimit},
    },
};

use procfs::process::{MMPermissions, MMapPath};

/// Nearly the last to be killed: a host that has nothing left but the agent is no use to anybody.
const OOM_SCORE_ADJ: i32 = -900;

/// Of linux/prctl.h.
const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// Above this pressure, in percent, and below this share of the memory that is available it is
/// short; and until it is at ease again.
const SHORT: (f64, f64) = (10.0, 0.1);
const AT_EASE: (f64, f64) = (5.0, 0.15);

/// Bit of CAP_IPC_LOCK in a set of capabilities.
const CAP_IPC_LOCK: u32 = 14;

/// Has what the kernel allocates for the calls of this thread, and of those that it starts from now
/// on, wait for no disk: where memory is short the kernel has whoever wants some write others'
/// pages to swap first, and every file of /proc that is opened wants some.
pub fn wait_for_no_disk() {
    const YES: libc::c_ulong = 1;
    const NOTHING: libc::c_ulong = 0;
    // SAFETY: this prctl takes numbers and touches no memory of ours. Linux 5.6 and later know it.
    let set = unsafe { libc::prctl(PR_SET_IO_FLUSHER, YES, NOTHING, NOTHING, NOTHING) };
    match set {
        0 => tracing::debug!("what the kernel allocates for the agent waits for no disk"),
        _ => {
            let error = io::Error::last_os_error();
            tracing::debug!(%error, "what the kernel allocates for the agent waits for disks: \
                                     under pressure it may be late");
        }
    }
}

/// Keeps the process in memory, as far as it may.
pub fn prepare() {
    match lock_memory() {
        Ok(()) => tracing::debug!("memory is locked"),
        Err(error) => {
            tracing::debug!(%error, "memory is not locked: under pressure the agent may be late")
        }
    }
}

/// Has others killed before this process, as far as it may: before it may write no more than it
/// needs to.
pub fn be_killed_last() {
    match lower_oom_score() {
        Ok(()) => tracing::debug!(oom_score_adj = OOM_SCORE_ADJ, "others are killed first"),
        Err(error) => {
            tracing::debug!(%error, "the OOM score is as it was; OOMScoreAdjust=-900 in its unit \
                                     lowers it")
        }
    }
}

/// The loop before others while the host's memory is short, and only then.
///
/// A real-time thread gets a CPU before those that look for memory in circles, and the kernel lets
/// it have some of what it keeps back, so that its reads do not wait behind theirs. It takes a CPU
/// from nobody who could use it: where memory is that short they wait.
#[derive(Debug, Default)]
pub struct RealtimeUnderPressure {
    has: bool,
    /// Told once that it is not to be had.
    is_refused: bool,
}

impl RealtimeUnderPressure {
    /// Takes or gives up precedence by the host's available memory and its memory pressure, in
    /// percent; `None` if the kernel has no PSI.
    pub fn observe(
        &mut self,
        available_bytes: u64,
        pressure_percent: Option<f64>,
        mem_total_bytes: u64,
    ) {
        let wants = wants_precedence(self.has, available_bytes, pressure_percent, mem_total_bytes);
        if wants == self.has || self.is_refused {
            return;
        }
        match set_precedence(wants) {
            Ok(()) => {
                self.has = wants;
                tracing::debug!(before_others = wants, "memory is short, or no longer");
            }
            Err(error) => {
                self.is_refused = true;
                tracing::debug!(%error, "the loop gets no CPU before others: under pressure the \
                                         agent may be late");
            }
        }
    }
}

/// A limited cgroup waits for memory as well, and shows in the pressure of the host: both have to
/// say that it is short.
fn wants_precedence(
    has: bool,
    available_bytes: u64,
    pressure: Option<f64>,
    mem_total_bytes: u64,
) -> bool {
    let (pressure_percent, available) = if has { AT_EASE } else { SHORT };
    let is_low = (available_bytes as f64) < available * mem_total_bytes as f64;
    is_low && pressure.is_some_and(|percent| percent > pressure_percent)
}

/// Of this thread alone; what it starts is like any other.
fn set_precedence(wanted: bool) -> io::Result<()> {
    let policy = if wanted { libc::SCHED_RR } else { libc::SCHED_OTHER };
    let param = libc::sched_param { sched_priority: i32::from(wanted) };
    // SAFETY: the call reads one struct, which lives here; 0 is this thread.
    match unsafe {
        libc::sched_setscheduler(0, policy | libc::SCHED_RESET_ON_FORK, &raw const param)
    } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Keeps every page that has been touched, now and from now on, and all of the program. Not up to a
/// limit: what is mapped beyond one would fail.
fn lock_memory() -> io::Result<()> {
    let (soft, _) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    if soft != RLIM_INFINITY && !may_lock()? {
        return Err(io::Error::other(format!("only {soft} bytes may be locked")));
    }
    let on_fault = MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | on_fault)?;
    lock_files()
}

/// Reads all of the program and of its libraries in and keeps it: what of it runs for the first
/// time while memory is short would wait for the disk, for seconds.
fn lock_files() -> io::Result<()> {
    let maps = procfs::process::Process::myself()
        .and_then(|process| process.maps())
        .map_err(io::Error::other)?;
    for map in maps {
        // What may not be read cannot be read in.
        if matches!(map.pathname, MMapPath::Path(_)) && map.perms.contains(MMPermissions::READ) {
            let (start, end) = map.address;
            // SAFETY: mlock reads no memory through the address; one that is no longer mapped it
            // refuses.
            match unsafe { libc::mlock(start as *const libc::c_void, (end - start) as usize) } {
                0 => {}
                _ => return Err(io::Error::last_os_error()),
            }
        }
    }
    Ok(())
}

fn may_lock() -> io::Result<bool> {
    let status = procfs::process::Process::myself()
        .and_then(|process| process.status())
        .map_err(io::Error::other)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_short_if_little_is_left_and_others_wait() {
        let wants = |has, percent, available: u64| {
            wants_precedence(has, available * 10_000_000, percent, 1_000_000_000)
        };
        assert!(wants(false, Some(50.0), 3));
        assert!(!wants(false, Some(50.0), 40), "somebody waits at his limit");
        assert!(!wants(false, Some(1.0), 3), "little is available, and that is enough");
        assert!(!wants(false, None, 3));
        assert!(
            wants(true, Some(7.0), 12) && !wants(false, Some(7.0), 12),
            "it does not come and go"
        );
        assert!(!wants(true, Some(4.0), 3) && !wants(true, Some(50.0), 16));
    }
}
