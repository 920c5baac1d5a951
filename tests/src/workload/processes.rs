//! Programs that create processes: many that sleep, many that come and go.
//!
//! They fork without exec, so each child has a memory map of its own and costs little. This program
//! has one thread, so a child may run ordinary code after fork().

use anyhow::{Context as _, bail};
use serde_json::json;

use super::system::{die_with_parent, ready, say, wait_forever};

/// More would endanger the machine that runs the tests.
const MOST: u32 = 50_000;

/// Starts that many idle children, and waits; they end with this process.
pub fn sleepers(count: u32) -> anyhow::Result<()> {
    if count > MOST {
        bail!("--count {count} is above {MOST}");
    }
    let parent = std::process::id();
    for number in 0..count {
        fork(|| {
            // If the parent had ended before the tie was set, the child would never end.
            if die_with_parent().is_ok() && std::os::unix::process::parent_id() == parent {
                wait_forever();
            }
        })
        .with_context(|| format!("after {number} of {count} children"))?;
    }
    ready(None)?;
    wait_forever()
}

/// Starts and ends that many children, one after the other.
pub fn churn(count: u32) -> anyhow::Result<()> {
    ready(None)?;
    for number in 0..count {
        let pid = fork(|| ()).with_context(|| format!("after {number} of {count} children"))?;
        // SAFETY: waitpid may be given no place for the status; the pid is our child's.
        if unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) } != pid {
            return Err(std::io::Error::last_os_error()).context("a child was not reaped");
        }
    }
    say(&json!({"event": "done", "forked": count}))
}

/// Forks; the child does its work and exits without running the parent's destructors.
pub(super) fn fork(child: impl FnOnce()) -> anyhow::Result<i32> {
    // SAFETY: this process has one thread, so the child finds no lock held by a thread that it does
    // not have.
    match unsafe { libc::fork() } {
        -1 => Err(std::io::Error::last_os_error()).context("fork failed"),
        0 => {
            child();
            // SAFETY: _exit takes a number and does not return.
            unsafe { libc::_exit(0) }
        }
        pid => Ok(pid),
    }
}
