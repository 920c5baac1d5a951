//! Stops a program at the start of any of its system calls and kills it there, or lets others act
//! first.
//!
//! A call that SIGKILL interrupts at its start has no effect, so a stop at the start of each call
//! is also a stop after each earlier call.

use std::{io, mem::MaybeUninit, os::unix::process::CommandExt as _, process::Command, ptr};

/// Single-threaded program stopped at the start of a system call. It is killed when dropped.
#[derive(Debug)]
pub struct Stopped {
    pid: libc::pid_t,
}

/// System call about to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// Number of the call, as in `libc::SYS_…`.
    pub number: libc::c_long,
    /// Arguments as the kernel gets them.
    pub arguments: [u64; 6],
}

/// Calls that affect only the calling process, whatever their arguments: its memory, signals,
/// clocks, identity and descriptors. Whatever is opened ends with the process.
const WITHIN_THE_PROCESS: &[libc::c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_dup,
    libc::SYS_futex,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_prctl,
    libc::SYS_prlimit64,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sched_getaffinity,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_sigaltstack,
    libc::SYS_uname,
];

/// Calls that read and change nothing outside the process; a close releases only what the end of
/// the process releases as well.
const READING: &[libc::c_long] = &[
    libc::SYS_close,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_getdents64,
    libc::SYS_lseek,
    libc::SYS_newfstatat,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_statfs,
    libc::SYS_statx,
];

/// Reading calls that only some architectures have.
#[cfg(target_arch = "x86_64")]
const OLD_READING: &[libc::c_long] = &[
    libc::SYS_access,
    libc::SYS_arch_prctl,
    libc::SYS_lstat,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_stat,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_READING: &[libc::c_long] = &[];

impl Call {
    /// Returns true if the call may change something outside the process: true for every call that
    /// is not known to be harmless.
    pub fn may_change_something(&self) -> bool {
        let creates = libc::O_CREAT | libc::O_TRUNC;
        let command = self.arguments[1] as libc::c_int;
        match self.number {
            libc::SYS_openat => self.arguments[2] as libc::c_int & creates != 0,
            // Other commands may take a lease or a lock.
            libc::SYS_fcntl => ![
                libc::F_DUPFD,
                libc::F_DUPFD_CLOEXEC,
                libc::F_GETFD,
                libc::F_GETFL,
                libc::F_SETFD,
                libc::F_SETFL,
            ]
            .contains(&command),
            number => ![WITHIN_THE_PROCESS, READING, OLD_READING].concat().contains(&number),
        }
    }

    /// Returns true if concurrent changes by others may affect the call: true for every call that
    /// is not known to stay within the process, except lookups of directories. Lookups find the
    /// same directories as long as others only change files in them.
    pub fn may_meet_others(&self) -> bool {
        let steps_along =
            self.number == libc::SYS_openat && self.arguments[2] as libc::c_int & libc::O_PATH != 0;
        !steps_along && !WITHIN_THE_PROCESS.contains(&self.number)
    }
}

impl Stopped {
    /// Starts a program and stops it before its first instruction.
    ///
    /// # Panics
    ///
    /// Panics if the program cannot be started or traced.
    #[expect(clippy::zombie_processes, reason = "its pid is waited for, stop by stop")]
    pub fn start(mut command: Command) -> Self {
        let trace_me = || {
            // SAFETY: asks to be traced by the parent; the other arguments are not read.
            match unsafe {
                libc::ptrace(libc::PTRACE_TRACEME, 0, ptr::null_mut::<u8>(), ptr::null_mut::<u8>())
            } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        };
        // SAFETY: after fork the closure makes one system call, and allocates nothing.
        unsafe { command.pre_exec(trace_me) };
        let child =
            command.spawn().unwrap_or_else(|error| panic!("{command:?} did not start: {error}"));
        let stopped = Self { pid: child.id() as libc::pid_t };
        // A traced program stops by itself after exec.
        assert!(libc::WIFSTOPPED(wait(stopped.pid)), "the program should stop after exec");
        let marked = ptr::without_provenance_mut::<u8>(libc::PTRACE_O_TRACESYSGOOD as usize);
        // SAFETY: the child is stopped, and traced by this thread; the options are a number.
        let set = unsafe {
            libc::ptrace(libc::PTRACE_SETOPTIONS, stopped.pid, ptr::null_mut::<u8>(), marked)
        };
        assert_eq!(set, 0, "setting PTRACE_O_TRACESYSGOOD: {}", io::Error::last_os_error());
        stopped
    }

    /// Runs a program to the start of its `nth` call (counted from 1) for which `counts` is true.
    /// Returns `None` if it ended before.
    ///
    /// # Panics
    ///
    /// Panics as [`Self::start`] and [`Self::next`] do.
    pub fn at(command: Command, nth: u32, counts: impl Fn(&Call) -> bool) -> Option<Self> {
        let (mut stopped, mut left) = (Self::start(command), nth);
        while left > 0 {
            let (next, call) = stopped.next()?;
            stopped = next;
            left -= u32::from(counts(&call));
        }
        Some(stopped)
    }

    /// Runs the program to the start of its next call. Returns `None` if it ended successfully.
    ///
    /// # Panics
    ///
    /// Panics if the program cannot be traced or fails.
    pub fn next(self) -> Option<(Self, Call)> {
        loop {
            self.resume(libc::PTRACE_SYSCALL);
            let status = wait(self.pid);
            if libc::WIFEXITED(status) {
                std::mem::forget(self);
                assert_eq!(libc::WEXITSTATUS(status), 0, "the program should succeed");
                return None;
            }
            assert!(libc::WIFSTOPPED(status), "the program is neither stopped nor ended: {status}");
            if let Some(call) = self.call() {
                return Some((self, call));
            }
        }
    }

    /// Call at whose start the program is stopped, if any.
    fn call(&self) -> Option<Call> {
        let mut info = MaybeUninit::<libc::ptrace_syscall_info>::zeroed();
        let size = ptr::without_provenance_mut::<u8>(size_of::<libc::ptrace_syscall_info>());
        // SAFETY: the child is stopped, and traced by this thread; the kernel writes no more than
        // the size that it is given to a structure that lives here.
        let info = unsafe {
            let filled =
                libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, self.pid, size, info.as_mut_ptr());
            assert!(filled > 0, "reading the call: {}", io::Error::last_os_error());
            info.assume_init()
        };
        (info.op == libc::PTRACE_SYSCALL_INFO_ENTRY).then(|| {
            // SAFETY: the kernel says which of the union it has written; all bits are numbers.
            let entry = unsafe { info.u.entry };
            Call { number: entry.nr as libc::c_long, arguments: entry.args }
        })
    }

    /// Kills the program; a call that SIGKILL interrupts at its start has no effect.
    pub fn kill(self) {}

    /// Lets the program run to its end.
    ///
    /// # Panics
    ///
    /// Panics if the program fails.
    pub fn go_on(self) {
        self.resume(libc::PTRACE_DETACH);
        let pid = self.pid;
        std::mem::forget(self);
        let status = wait(pid);
        assert!(
            libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0,
            "the program should succeed: {status}"
        );
    }

    fn resume(&self, how: libc::c_uint) {
        // SAFETY: the child is stopped, and traced by this thread; the other arguments are not
        // read.
        let went_on =
            unsafe { libc::ptrace(how, self.pid, ptr::null_mut::<u8>(), ptr::null_mut::<u8>()) };
        assert_eq!(went_on, 0, "resuming the program: {}", io::Error::last_os_error());
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // SAFETY: a signal to a child that was not waited for yet.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
        while !libc::WIFSIGNALED(wait(self.pid)) {}
    }
}

fn wait(pid: libc::pid_t) -> i32 {
    let mut status = 0;
    // SAFETY: waits for a child of this thread; the status outlives the call.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!(waited, pid, "waiting for the program: {}", io::Error::last_os_error());
    status
}
