//! Scheduling ahead of what else runs on the machine: a server's capacity is then its own, and a
//! clock that is looked at every few milliseconds is looked at every few milliseconds. The agent
//! under test is never scheduled so.

use std::{io, os::unix::process::CommandExt as _, process::Command};

/// Has what `command` starts scheduled in real time, with all that it starts itself.
pub fn in_real_time(command: &mut Command) -> &mut Command {
    let before_exec = || {
        // It may not be allowed; then it competes like all others.
        let _ = real_time();
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(before_exec) }
}

/// Schedules this thread in real time, at the lowest such priority, in turns with others of it.
///
/// # Errors
///
/// Where it is not allowed.
pub fn real_time() -> io::Result<()> {
    let lowest = libc::sched_param { sched_priority: 1 };
    // SAFETY: the call reads one sched_param, which lives here; 0 is this thread.
    let set = unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &raw const lowest) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
