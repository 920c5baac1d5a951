//! A program that is stopped between any two of its system calls, and killed there, or overtaken.

use std::{io, mem, os::unix::process::CommandExt as _, process::Command, ptr};

/// A program of one thread that stands at one of its stops. It is killed where it is dropped.
#[derive(Debug)]
pub struct Stopped {
    pid: libc::pid_t,
}

impl Stopped {
    /// Runs a program to its `nth` stop, counted from 1: each system call has one where it begins and one where it has
    /// ended. Counting begins where the program stops itself, as [`stop_here`] does: of how it is loaded nothing is to be
    /// learned. `None` where it ended before.
    ///
    /// # Panics
    ///
    /// Where it cannot be started or traced, fails, or never stops itself.
    #[expect(clippy::zombie_processes, reason = "it is waited for by its pid, stop by stop")]
    pub fn at(mut command: Command, nth: u32) -> Option<Self> {
        let trace_me = || {
            // SAFETY: asks to be traced by the parent; the other arguments are not read.
            match unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, ptr::null_mut::<u8>(), ptr::null_mut::<u8>()) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        };
        // SAFETY: after fork the closure makes one system call, and allocates nothing.
        unsafe { command.pre_exec(trace_me) };
        let _here = OneCpu::this();
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let stopped = Self { pid: child.id() as libc::pid_t };
        // It stops by itself where its program begins.
        assert!(libc::WIFSTOPPED(wait(stopped.pid)), "it stops where it begins");
        stopped.resume(libc::PTRACE_CONT);
        let status = wait(stopped.pid);
        let stops_itself = libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == libc::SIGSTOP;
        assert!(stops_itself, "it stops itself where it is to be followed from: {status}");
        for _ in 0..nth {
            stopped.resume(libc::PTRACE_SYSCALL);
            let status = wait(stopped.pid);
            if libc::WIFEXITED(status) {
                mem::forget(stopped);
                assert_eq!(libc::WEXITSTATUS(status), 0, "it ends well");
                return None;
            }
            assert!(libc::WIFSTOPPED(status), "it is neither stopped nor at its end: {status}");
        }
        Some(stopped)
    }

    /// Kills it. What SIGKILL interrupts at a call's begin was not done.
    pub fn kill(self) {}

    /// Lets it run to its end.
    ///
    /// # Panics
    ///
    /// Where it fails.
    pub fn go_on(self) {
        self.resume(libc::PTRACE_DETACH);
        let pid = self.pid;
        mem::forget(self);
        let status = wait(pid);
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "it ends well: {status}");
    }

    fn resume(&self, how: libc::c_uint) {
        // SAFETY: the child is stopped, and traced by this thread; the other arguments are not read.
        let went_on = unsafe { libc::ptrace(how, self.pid, ptr::null_mut::<u8>(), ptr::null_mut::<u8>()) };
        assert_eq!(went_on, 0, "it goes on: {}", io::Error::last_os_error());
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // SAFETY: a signal to a child that was not waited for yet.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
        while !libc::WIFSIGNALED(wait(self.pid)) {}
    }
}

/// Keeps this thread, and whom it starts, on the CPU that it is on: thousands of turns from one to the other and back
/// take a fraction of the time that they take between two.
struct OneCpu(libc::cpu_set_t);

impl OneCpu {
    /// `None` where the kernel refuses it, and all takes longer.
    fn this() -> Option<Self> {
        // SAFETY: cpu_set_t is plain data, for which all zeroes is a valid value.
        let [mut before, mut here]: [libc::cpu_set_t; 2] = unsafe { mem::zeroed() };
        let size = size_of::<libc::cpu_set_t>();
        // SAFETY: each call reads or writes one set of the size that it is told, which lives here.
        unsafe {
            let cpu = usize::try_from(libc::sched_getcpu()).ok()?;
            if libc::sched_getaffinity(0, size, &raw mut before) != 0 {
                return None;
            }
            libc::CPU_SET(cpu, &mut here);
            (libc::sched_setaffinity(0, size, &raw const here) == 0).then_some(Self(before))
        }
    }
}

impl Drop for OneCpu {
    fn drop(&mut self) {
        // SAFETY: the call reads one set of the size that it is told, which lives in this.
        unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const self.0) };
    }
}

/// Stops this program, for [`Stopped::at`] to follow it from here.
pub fn stop_here() {
    // SAFETY: raise takes a number and touches no memory of ours.
    unsafe { libc::raise(libc::SIGSTOP) };
}

fn wait(pid: libc::pid_t) -> i32 {
    let mut status = 0;
    // SAFETY: waits for a child of this thread; the status outlives the call.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!(waited, pid, "it can be waited for: {}", io::Error::last_os_error());
    status
}
