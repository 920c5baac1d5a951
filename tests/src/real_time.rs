//! Real-time scheduling for servers and samplers. A server then has its full capacity whatever else
//! runs on the machine, and a clock meant to be read every few milliseconds is. The agent under
//! test never gets real-time priority.

use std::{io, os::unix::process::CommandExt as _, process::Command};

/// Schedules the process that `command` starts, and its children, in real time.
pub fn in_real_time(command: &mut Command) -> &mut Command {
    let before_exec = || {
        // Failure is ignored: without permission it competes like all others.
        let _ = real_time();
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(before_exec) }
}

/// Schedules this thread in real time, round-robin at the lowest real-time priority.
///
/// # Errors
///
/// Returns an error if this is not permitted.
pub fn real_time() -> io::Result<()> {
    real_time_at(1)
}

/// Schedules this thread ahead of servers in real time, too.
///
/// # Errors
///
/// Returns an error if this is not permitted.
pub fn ahead_of_servers() -> io::Result<()> {
    real_time_at(2)
}

fn real_time_at(sched_priority: libc::c_int) -> io::Result<()> {
    let wanted = libc::sched_param { sched_priority };
    // SAFETY: the call reads one sched_param, which lives here; 0 is this thread.
    let set = unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &raw const wanted) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
