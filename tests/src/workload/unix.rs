//! Programs that listen on UNIX sockets.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, bail};
use serde_json::json;

use super::system::{ready, say, wait_forever};

/// More than any test needs.
const MOST: usize = 1_000;

/// Listens on a name, and connects to it `pending` times without accepting. A name that begins with
/// `@` is abstract; `%01` represents the byte 1.
pub fn listen(name: &str, backlog: i32, pending: usize, seqpacket: bool) -> anyhow::Result<()> {
    if pending > MOST {
        bail!("more than {MOST} connections were asked for");
    }
    let kind = if seqpacket { libc::SOCK_SEQPACKET } else { libc::SOCK_STREAM };
    let name = name.replace("%01", "\x01");
    let listener = socket(kind)?;
    call(libc::bind, &listener, &name)?;
    begin(&listener, backlog)?;
    let clients = (0..pending)
        .map(|_| {
            let client = socket(kind | libc::SOCK_NONBLOCK)?;
            call(libc::connect, &client, &name)?;
            Ok(client)
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    say(&json!({"pid": std::process::id(), "pending": clients.len()}))?;
    wait_forever()
}

/// Opens many abstract listeners without clients.
pub fn listeners(count: usize) -> anyhow::Result<()> {
    if count > MOST {
        bail!("more than {MOST} listeners were asked for");
    }
    let held: Vec<_> = (0..count)
        .map(|number| {
            let listener = socket(libc::SOCK_STREAM)?;
            call(libc::bind, &listener, &format!("@spillway-{}-{number}", std::process::id()))?;
            begin(&listener, 1)?;
            Ok(listener)
        })
        .collect::<anyhow::Result<_>>()?;
    ready(None)?;
    // Never dropped, so that all stay open.
    let _held = held;
    wait_forever()
}

fn begin(listener: &OwnedFd, backlog: i32) -> anyhow::Result<()> {
    // SAFETY: listen takes a descriptor, which is open, and a number.
    let done = unsafe { libc::listen(listener.as_raw_fd(), backlog) } == 0;
    if done { Ok(()) } else { Err(std::io::Error::last_os_error()).context("cannot listen") }
}

fn socket(kind: i32) -> anyhow::Result<OwnedFd> {
    // SAFETY: socket takes three integers; the result is checked before it is owned.
    let fd = unsafe { libc::socket(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error()).context("no socket");
    }
    // SAFETY: the descriptor was just made, is open, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Calls bind or connect with a name. `std` knows no abstract names and no `SOCK_SEQPACKET`.
fn call(
    what: unsafe extern "C" fn(i32, *const libc::sockaddr, libc::socklen_t) -> i32,
    socket: &OwnedFd,
    name: &str,
) -> anyhow::Result<()> {
    // SAFETY: sockaddr_un is plain data, for which all zeroes is a valid value.
    let mut addr: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    addr.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let (name_bytes, rest) = match name.strip_prefix('@') {
        // The NUL that begins it.
        Some(name) => (name.as_bytes(), 1),
        None => (name.as_bytes(), 0),
    };
    if name_bytes.len() + 1 > addr.sun_path.len() {
        bail!("the name {name:?} is too long");
    }
    for (to, &byte) in addr.sun_path[rest..].iter_mut().zip(name_bytes) {
        *to = byte as libc::c_char;
    }
    let length = std::mem::offset_of!(libc::sockaddr_un, sun_path) + name_bytes.len() + 1;
    // SAFETY: it reads `length` bytes of an address of at least that length, which lives here.
    if unsafe { what(socket.as_raw_fd(), (&raw const addr).cast(), length as libc::socklen_t) } != 0
    {
        return Err(std::io::Error::last_os_error())
            .with_context(|| format!("the name {name:?} cannot be used"));
    }
    Ok(())
}
