//! Numbers of System V objects in the agent's IPC namespace.
//!
//! The kernel is asked for them. Their lists in `/proc/sysvipc` take a time that is quadratic in
//! their length before Linux 5.6, and any user can make them long.

use std::io;

use libc::{c_int, c_long};

/// From `include/uapi/linux/shm.h`; user-space ABI.
const SHM_INFO: c_int = 14;

/// Numbers in the answers of the kernel, the largest of which, `struct shm_info`, has 48 bytes.
const ANSWER_LEN: usize = 32;

/// Kinds of System V objects.
#[derive(Debug, Clone, Copy)]
pub(super) enum SystemV {
    /// Shared memory segments.
    Segments,
    /// Semaphore sets.
    Semaphores,
    /// Message queues.
    Queues,
}

/// Answer of the kernel, aligned as its largest member is.
#[repr(C, align(8))]
struct SystemVAnswer([c_int; ANSWER_LEN]);

impl SystemV {
    /// Returns how many there are.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel has none of this kind, or refuses to answer.
    pub(super) fn in_use(self) -> io::Result<u64> {
        let mut answer = SystemVAnswer([0; ANSWER_LEN]);
        let to = (&raw mut answer.0).cast::<libc::c_void>();
        // The members that have the number: `used_ids`, `semusz` and `msgpool`.
        // SAFETY: the commands concern no object; each writes one structure, which is smaller than
        // the memory that the last argument points to.
        let (outcome, member): (c_long, usize) = unsafe {
            match self {
                Self::Segments => (libc::syscall(libc::SYS_shmctl, 0, SHM_INFO, to), 0),
                Self::Semaphores => (libc::syscall(libc::SYS_semctl, 0, 0, libc::SEM_INFO, to), 7),
                Self::Queues => (libc::syscall(libc::SYS_msgctl, 0, libc::MSG_INFO, to), 0),
            }
        };
        if outcome < 0 {
            return Err(io::Error::last_os_error());
        }
        u64::try_from(answer.0[member]).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn numbers_are_those_of_the_lists() {
        for (kind, list) in
            [(SystemV::Segments, "shm"), (SystemV::Semaphores, "sem"), (SystemV::Queues, "msg")]
        {
            let listed = || {
                let text = fs::read_to_string(format!("/proc/sysvipc/{list}")).unwrap();
                text.lines().count() as u64 - 1
            };
            // Others come and go meanwhile.
            let agrees = (0..100).any(|_| listed() == kind.in_use().unwrap());
            assert!(agrees, "{list}: {} and {}", listed(), kind.in_use().unwrap());
        }
    }
}
