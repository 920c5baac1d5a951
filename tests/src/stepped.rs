//! A program that is killed between any two of its system calls.

use std::{io, os::unix::process::CommandExt as _, process::Command, ptr};

/// How far a program came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// It was killed at the stop that was asked for.
    Killed,
    /// It ended by itself before.
    Ended,
}

/// Runs a program of one thread and kills it at its `last`-th stop, counted from 1: each system call has one where it begins and one
/// where it has ended. What SIGKILL interrupts at a call's begin was not done.
///
/// # Panics
///
/// Where it cannot be started or traced, or fails.
#[expect(clippy::zombie_processes, reason = "it is waited for by its pid, stop by stop")]
pub fn run_until(mut command: Command, last: u32) -> Came {
    let trace_me = || {
        // SAFETY: asks to be traced by the parent; the other arguments are not read.
        match unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, ptr::null_mut::<u8>(), ptr::null_mut::<u8>()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: after fork the closure makes one system call, and allocates nothing.
    unsafe { command.pre_exec(trace_me) };
    let child = command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    let pid = child.id() as libc::pid_t;
    // It stops by itself where its program begins.
    assert!(libc::WIFSTOPPED(wait(pid)), "it stops where it begins");
    for _ in 0..last {
        // SAFETY: the child is stopped, and traced by this thread; the other arguments are not read.
        let went_on = unsafe { libc::ptrace(libc::PTRACE_SYSCALL, pid, ptr::null_mut::<u8>(), ptr::null_mut::<u8>()) };
        assert_eq!(went_on, 0, "it goes on: {}", io::Error::last_os_error());
        let status = wait(pid);
        if libc::WIFEXITED(status) {
            assert_eq!(libc::WEXITSTATUS(status), 0, "it ends well");
            return Came::Ended;
        }
        assert!(libc::WIFSTOPPED(status), "it is neither stopped nor at its end: {status}");
    }
    // SAFETY: a signal to a child that was not waited for yet.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    while !libc::WIFSIGNALED(wait(pid)) {}
    Came::Killed
}

fn wait(pid: libc::pid_t) -> i32 {
    let mut status = 0;
    // SAFETY: waits for a child of this thread; the status outlives the call.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!(waited, pid, "it can be waited for: {}", io::Error::last_os_error());
    status
}
