//! Program that holds handles that can run out: files, threads, sockets that it does not close.

use std::fs::File;
use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::thread;

use anyhow::{Context as _, bail, ensure};

use super::system::{ready, wait_forever};

/// More than any test needs, and less than would hurt the host.
const MOST: u32 = 10_000;

/// Holds that many of each, then waits.
pub fn hold(fds: u32, threads: u32, close_wait: u32) -> anyhow::Result<()> {
    if fds.max(threads).max(close_wait) > MOST {
        bail!("more than {MOST} of one kind were asked for");
    }
    let files = (0..fds)
        .map(|_| File::open("/dev/null"))
        .collect::<Result<Vec<_>, _>>()
        .context("a file")?;
    for _ in 0..threads {
        thread::Builder::new().stack_size(64 << 10).spawn(|| wait_forever()).context("a thread")?;
    }
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut left = Vec::new();
    for _ in 0..close_wait {
        drop(TcpStream::connect(listener.local_addr()?)?);
        let mut accepted = listener.accept()?;
        // The peer's FIN arrives a moment later: then it is in CLOSE_WAIT.
        let read = accepted.0.read(&mut [0])?;
        ensure!(read == 0, "the closed end sent {read} bytes");
        left.push(accepted);
    }
    ready(None)?;
    // Never dropped, so that everything stays open.
    let _held = (files, left);
    wait_forever()
}
