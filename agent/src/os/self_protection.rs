//! Protection of the agent from memory pressure: its pages stay in memory, its loop runs before
//! other threads while memory is short, and the kernel kills other processes first.
//!
//! Under pressure the kernel first reclaims the code of programs, and a reclaimed page that is
//! needed again waits for the disk behind all others. So does every allocation in the kernel, and
//! each read of `/proc` needs some; the loop asks the kernel not to wait for that. Failure: a step
//! that is not permitted is logged, and the agent runs without it.

use std::{
    fs, io,
    sync::atomic::{AtomicBool, Ordering},
};

use nix::{
    libc,
    sys::{
        mman::{MlockAllFlags, mlockall},
        resource::{RLIM_INFINITY, Resource, getrlimit},
    },
};

use procfs::process::{MMPermissions, MMapPath, MemoryMaps};

use super::capabilities::{self, Capability};

/// Makes the agent nearly the last process to be killed, but not the very last: a host with nothing
/// else left is of no use.
const OOM_SCORE_ADJ: i32 = -900;

/// From `linux/prctl.h`.
const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// Memory is short above this pressure, in percent, and below this available share of it. Guesses.
const SHORT: (f64, f64) = (10.0, 0.1);

/// It is no longer short below this pressure or above this share, so that the state does not flap.
const RELAXED: (f64, f64) = (5.0, 0.15);

/// Set once memory is locked.
static IS_LOCKED: AtomicBool = AtomicBool::new(false);

/// Stops allocations in the kernel for this thread, and for threads that it starts from now on,
/// from waiting for a disk: under pressure the kernel makes an allocating thread write other
/// processes' pages to swap first, and opening a file of `/proc` allocates.
pub fn set_io_flusher() {
    const YES: libc::c_ulong = 1;
    const NOTHING: libc::c_ulong = 0;
    // SAFETY: this prctl takes numbers and touches no memory of ours. It exists since Linux 5.6.
    let set = unsafe { libc::prctl(PR_SET_IO_FLUSHER, YES, NOTHING, NOTHING, NOTHING) };
    match set {
        0 => tracing::debug!("the agent's allocations in the kernel do not wait for disks"),
        _ => {
            let error = io::Error::last_os_error();
            tracing::debug!(
                %error,
                "PR_SET_IO_FLUSHER: the agent's allocations in the kernel wait for disks, so it \
                 may be late under memory pressure\n  \
                 hint: this needs CAP_SYS_RESOURCE and Linux 5.6"
            );
        }
    }
}

/// Locks the process into memory, if it is permitted to.
pub fn lock_memory() {
    match try_lock_memory() {
        Ok(()) => tracing::debug!("the agent's memory is locked"),
        Err(error) => tracing::debug!(
            %error,
            "the agent's memory is not locked, so it may be late under memory pressure\n  \
             hint: CAP_IPC_LOCK or LimitMEMLOCK=infinity in its unit permits it"
        ),
    }
}

/// Lets a part of the program that is not needed again leave memory, locked or not.
pub fn release(spent: &'static [u8]) {
    if let Err(error) = try_release(spent) {
        tracing::debug!(%error, bytes = spent.len(), "a part of the program stays in memory");
    }
}

/// Time in which the agent's data is not locked; it is locked again when this is dropped.
#[derive(Debug)]
pub struct UnlockedData(());

impl Drop for UnlockedData {
    fn drop(&mut self) {
        if let Err(error) = lock_on_fault() {
            tracing::debug!(%error, "the agent's memory is not locked any more");
        }
    }
}

/// Unlocks what the allocator and stacks use; `None` if memory is not locked, or cannot be
/// unlocked. The program stays locked.
pub fn unlock_data() -> Option<UnlockedData> {
    if !IS_LOCKED.load(Ordering::Relaxed) {
        return None;
    }
    let unlocked = UnlockedData(());
    match try_unlock_data() {
        Ok(()) => Some(unlocked),
        Err(error) => {
            tracing::debug!(%error, "the agent's data stays locked, and keeps its size");
            None
        }
    }
}

/// Makes the kernel kill other processes before this one, if that is permitted. To be called before
/// the sandbox makes the file read-only.
pub fn lower_oom_score() {
    match try_lower_oom_score() {
        Ok(()) => {
            tracing::debug!(oom_score_adj = OOM_SCORE_ADJ, "other processes are killed first")
        }
        Err(error) => tracing::debug!(
            %error,
            "the agent's OOM score is not lowered\n  hint: set OOMScoreAdjust=-900 in its unit"
        ),
    }
}

/// Real-time priority of the calling thread while the host's memory is short, and only then.
///
/// A real-time thread gets a CPU before the threads that spin in reclaim, and may use some of the
/// kernel's reserve, so that its reads do not wait behind theirs. It takes a CPU from no thread
/// that could use it: while memory is that short, they wait.
#[derive(Debug, Default)]
pub struct RealtimeUnderPressure {
    is_active: bool,
    /// Set once the kernel has refused it, which is logged once.
    is_refused: bool,
}

impl RealtimeUnderPressure {
    /// Takes or gives up the priority by the host's available memory and its memory pressure, in
    /// percent; `None` if the kernel has no PSI.
    pub fn observe(
        &mut self,
        available_bytes: u64,
        pressure_percent: Option<f64>,
        mem_total_bytes: u64,
    ) {
        let is_short = is_short(self.is_active, available_bytes, pressure_percent, mem_total_bytes);
        if is_short == self.is_active || self.is_refused {
            return;
        }
        match set_realtime(is_short) {
            Ok(()) => {
                self.is_active = is_short;
                tracing::debug!(realtime = is_short, "the loop's priority changed with the memory");
            }
            Err(error) => {
                self.is_refused = true;
                tracing::debug!(
                    %error,
                    "the loop gets no real-time priority, so it may be late under memory \
                     pressure\n  \
                     hint: this needs CAP_SYS_NICE"
                );
            }
        }
    }
}

/// Returns whether the host is short of memory. Both inputs have to show it, because a cgroup that
/// waits at its limit shows in the pressure of the host as well.
fn is_short(
    was_short: bool,
    available_bytes: u64,
    pressure: Option<f64>,
    mem_total_bytes: u64,
) -> bool {
    let (pressure_percent, available) = if was_short { RELAXED } else { SHORT };
    let is_low = (available_bytes as f64) < available * mem_total_bytes as f64;
    is_low && pressure.is_some_and(|percent| percent > pressure_percent)
}

/// Sets the priority of this thread; threads that it starts do not inherit it.
fn set_realtime(realtime: bool) -> io::Result<()> {
    let policy = if realtime { libc::SCHED_RR } else { libc::SCHED_OTHER };
    let param = libc::sched_param { sched_priority: i32::from(realtime) };
    // SAFETY: the call reads one struct, which lives here; 0 is this thread.
    match unsafe {
        libc::sched_setscheduler(0, policy | libc::SCHED_RESET_ON_FORK, &raw const param)
    } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Locks every page that is or will be touched, and all of the program. Not done below a limit on
/// locked memory: mappings beyond the limit would fail.
fn try_lock_memory() -> io::Result<()> {
    let (soft, _) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    if soft != RLIM_INFINITY && !capabilities::has(Capability::IpcLock)? {
        return Err(io::Error::other(format!("RLIMIT_MEMLOCK is {soft} bytes")));
    }
    lock_on_fault()?;
    IS_LOCKED.store(true, Ordering::Relaxed);
    lock_files()
}

/// Locks every page that is there or will be touched.
fn lock_on_fault() -> io::Result<()> {
    let on_fault = MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | on_fault)?;
    Ok(())
}

/// Unlocks every writable mapping that is of no file.
fn try_unlock_data() -> io::Result<()> {
    for map in own_maps()? {
        let is_data = matches!(map.pathname, MMapPath::Anonymous | MMapPath::Heap);
        if is_data && map.perms.contains(MMPermissions::WRITE) {
            let (start, end) = map.address;
            // SAFETY: munlock reads no memory through the address, and refuses one that is no
            // longer mapped.
            match unsafe { libc::munlock(start as *const libc::c_void, (end - start) as usize) } {
                0 => {}
                _ => return Err(io::Error::last_os_error()),
            }
        }
    }
    Ok(())
}

fn own_maps() -> io::Result<MemoryMaps> {
    procfs::process::Process::myself().and_then(|process| process.maps()).map_err(io::Error::other)
}

/// Reads all of the program and of its libraries into memory and locks them: code that first runs
/// while memory is short would wait for the disk, for seconds.
fn lock_files() -> io::Result<()> {
    for map in own_maps()? {
        // Mappings without read permission cannot be populated.
        if matches!(map.pathname, MMapPath::Path(_)) && map.perms.contains(MMPermissions::READ) {
            let (start, end) = map.address;
            // SAFETY: mlock reads no memory through the address, and refuses one that is no longer
            // mapped.
            match unsafe { libc::mlock(start as *const libc::c_void, (end - start) as usize) } {
                0 => {}
                _ => return Err(io::Error::last_os_error()),
            }
        }
    }
    Ok(())
}

/// Unlocks the whole pages of a part of the program and gives them back. One that is needed after
/// all is read again.
fn try_release(spent: &'static [u8]) -> io::Result<()> {
    let page = procfs::page_size() as usize;
    let range = spent.as_ptr_range();
    let (start, end) = (range.start.addr().next_multiple_of(page), range.end.addr() / page * page);
    let Some(size) = end.checked_sub(start).filter(|&size| size > 0) else { return Ok(()) };
    let start = spent.as_ptr().with_addr(start).cast_mut().cast();
    // SAFETY: the pages belong to a file and are never written, so that those given back are read
    // from it again. Both calls refuse memory that is not mapped.
    match unsafe { libc::munlock(start, size) | libc::madvise(start, size, libc::MADV_DONTNEED) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Leaves a score that is set already, by a unit file or by hand.
fn try_lower_oom_score() -> io::Result<()> {
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
    fn part_of_the_program_leaves_memory_and_is_read_again() {
        use std::os::unix::fs::FileExt as _;

        static SPENT: [u8; 1 << 16] = [7; 1 << 16];
        let sum = || SPENT.iter().map(|&byte| u64::from(std::hint::black_box(byte))).sum::<u64>();
        let page = procfs::page_size() as usize;
        let middle = (SPENT.as_ptr().addr() + SPENT.len() / 2) / page * size_of::<u64>();
        let is_present = || {
            let mut entry = [0; size_of::<u64>()];
            let pages = fs::File::open("/proc/self/pagemap").unwrap();
            pages.read_exact_at(&mut entry, middle as u64).unwrap();
            u64::from_ne_bytes(entry) >> 63 == 1
        };
        let before = sum();
        assert!(is_present());
        try_release(&SPENT).unwrap();
        assert!(!is_present());
        assert_eq!((sum(), before), (7 << 16, 7 << 16));
        try_release(&[]).unwrap();
        try_release(&SPENT[1..9]).unwrap();
    }

    #[test]
    fn memory_is_short_if_little_is_left_and_pressure_is_high() {
        let short = |was_short, percent, available: u64| {
            is_short(was_short, available * 10_000_000, percent, 1_000_000_000)
        };
        assert!(short(false, Some(50.0), 3));
        assert!(!short(false, Some(50.0), 40), "a cgroup waits at its limit");
        assert!(!short(false, Some(1.0), 3), "little is available, and it suffices");
        assert!(!short(false, None, 3));
        assert!(short(true, Some(7.0), 12) && !short(false, Some(7.0), 12), "it does not flap");
        assert!(!short(true, Some(4.0), 3) && !short(true, Some(50.0), 16));
    }
}
