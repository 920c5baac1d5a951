//! Reads of other processes that a Landlock domain forbids: their descriptors, their namespaces,
//! their programs.
//!
//! A thread in a Landlock domain may not look into a process outside of it, whatever it may read
//! otherwise (ptrace(2), "Ptrace access mode checking"). One thread stays outside and makes these
//! reads for the others; it writes nothing. Before it is started, and in commands that do without
//! it, the reads are made where they are asked for.

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

/// Starts the thread, from one that is not restricted yet.
///
/// # Errors
///
/// Returns an error if no thread is to be had.
pub fn start() -> io::Result<()> {
    let (reads, asked) = channel::<ReadRequest>();
    thread::Builder::new()
        .name("proc-reader".to_owned())
        .spawn(move || asked.into_iter().for_each(|read| read()))?;
    // A second one would have nothing to do, and ends with its channel.
    let _ = READER.set(reads);
    Ok(())
}

/// Makes a read on that thread, and waits for it.
pub fn unrestricted<T: Send + 'static>(read: impl Fn() -> T + Send + Sync + Clone + 'static) -> T {
    let Some(reader) = READER.get() else { return read() };
    let (answers, answer) = channel();
    let asked = read.clone();
    let sent = reader.send(Box::new(move || drop(answers.send(asked()))));
    // A thread that has ended has read nothing: what may be read here is better than nothing.
    sent.ok().and_then(|()| answer.recv().ok()).unwrap_or_else(read)
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
