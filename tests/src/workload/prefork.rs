//! Server whose workers are processes that share a listener, each with a connection at a time.
//!
//! The first byte of a request says what its worker does: `s` stops it for ever (SIGSTOP), `c` lets
//! it compute until it is killed, and any other is answered.

use std::{
    io::{Read, Write},
    net::TcpListener,
    os::unix::net::UnixListener,
};

use anyhow::{Context as _, bail};
use serde_json::json;

use super::{
    processes::fork,
    system::{die_with_parent, say, wait_forever},
};

/// More than any test needs.
const MOST: u32 = 16;

/// Listens on a path, or else on a port of loopback, and starts the workers. A worker prints its
/// pid before it stops or computes.
pub fn prefork(path: Option<&str>, workers: u32) -> anyhow::Result<()> {
    if workers > MOST {
        bail!("--workers {workers} is above {MOST}");
    }
    let Some(path) = path else {
        let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen")?;
        let addr = listener.local_addr()?.to_string();
        return work(workers, &addr, || Ok(listener.accept()?.0));
    };
    let listener = UnixListener::bind(path).with_context(|| format!("cannot listen on {path}"))?;
    work(workers, path, || Ok(listener.accept()?.0))
}

fn work<S: Read + Write>(
    workers: u32,
    addr: &str,
    accept: impl Fn() -> anyhow::Result<S>,
) -> anyhow::Result<()> {
    let parent = std::process::id();
    for _ in 0..workers {
        fork(|| {
            // If the parent had ended before the tie was set, the worker would never end.
            if die_with_parent().is_ok() && std::os::unix::process::parent_id() == parent {
                while accept().and_then(serve).is_ok() {}
            }
        })?;
    }
    say(&json!({"pid": std::process::id(), "addr": addr}))?;
    wait_forever()
}

fn serve(mut client: impl Read + Write) -> anyhow::Result<()> {
    let mut asked = [0];
    client.read_exact(&mut asked)?;
    let says = |event: &str| say(&json!({"event": event, "pid": std::process::id()}));
    match asked {
        [b's'] => {
            says("stops")?;
            // SAFETY: a signal to this process itself.
            unsafe { libc::raise(libc::SIGSTOP) };
        }
        [b'c'] => {
            says("computes")?;
            loop {
                std::hint::spin_loop();
            }
        }
        _ => client.write_all(b"ok")?,
    }
    Ok(())
}
