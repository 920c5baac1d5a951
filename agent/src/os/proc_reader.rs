//! Reads of other processes that a Landlock domain forbids: their descriptors, namespaces and
//! programs.
//!
//! A thread in a Landlock domain may not inspect a process outside the domain, whatever else it may
//! read (ptrace(2), "Ptrace access mode checking"), nor take its descriptors. One thread stays
//! outside and does that for the others; it writes nothing. Before that thread starts, and in
//! commands without a sandbox, the calling thread does it itself.

use std::{
    io,
    sync::{
        OnceLock,
        mpsc::{Sender, channel},
    },
    thread,
};

type ReadRequest = Box<dyn FnOnce() + Send>;

static READER: OnceLock<Sender<ReadRequest>> = OnceLock::new();

/// Starts the thread. The caller must not be restricted yet.
///
/// # Errors
///
/// Returns an error if the kernel refuses another thread.
pub fn start() -> io::Result<()> {
    let (reads, requests) = channel::<ReadRequest>();
    thread::Builder::new()
        .name("proc-reader".to_owned())
        .spawn(move || requests.into_iter().for_each(|read| read()))?;
    // A second thread would have nothing to do, and ends with its channel.
    let _ = READER.set(reads);
    Ok(())
}

/// Makes a read on that thread, and waits for the result.
pub fn unrestricted<T: Send + 'static>(read: impl Fn() -> T + Send + Sync + Clone + 'static) -> T {
    let Some(reader) = READER.get() else { return read() };
    let (results, result) = channel();
    let request = read.clone();
    let sent = reader.send(Box::new(move || drop(results.send(request()))));
    // If that thread has ended, this one may still be permitted to read a part.
    sent.ok().and_then(|()| result.recv().ok()).unwrap_or_else(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_run_on_the_thread_and_a_panic_stays_local() {
        let name = || thread::current().name().map(str::to_owned);
        assert_ne!(unrestricted(name).as_deref(), Some("proc-reader"));
        start().unwrap();
        assert_eq!(unrestricted(name).as_deref(), Some("proc-reader"));
    }
}
