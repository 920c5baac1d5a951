//! Calls inside another network namespace, on a thread of their own: the rest of the agent stays
//! where it is. Needs `CAP_SYS_ADMIN`, in the user namespace that owns the namespace too.

use std::{fs::File, io, thread};

use nix::sched::{CloneFlags, setns};

/// Makes a call inside a network namespace, given by an open file of it.
///
/// # Errors
///
/// Returns an error if the namespace cannot be entered, or that of the call.
pub fn inside<T: Send + 'static>(
    netns: File,
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let entered = thread::Builder::new().name("netns".to_owned()).spawn(move || {
        setns(&netns, CloneFlags::CLONE_NEWNET)?;
        call()
    })?;
    entered
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the thread that entered the namespace panicked")))
}
