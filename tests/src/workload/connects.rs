//! Program that connects, and reports the result of each connect.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::json;

use super::sockets::{raw_address, socket};
use super::system::{now, pin_to_cpu, say, wait_forever};

/// Maximum number of connects at once; further ones follow when those have ended. Fewer than the
/// files that any system allows.
const AT_ONCE: usize = 512;
/// Maximum time to wait for results: longer than a kernel takes with one retry.
const ANSWER_WITHIN: Duration = Duration::from_secs(40);

/// Treatment of connects that are not answered at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Then {
    /// Wait for the kernel's answer
    Wait,
    /// Ask for it without rest, from another CPU than the one on which the kernel gets it
    Spin,
    /// Close them
    Close,
    /// Leave them under way
    Hold,
}

/// Connects `count` times to each of several hosts, of which `to` is the first; the ready line has
/// the results.
pub fn connects(
    to: SocketAddr,
    hosts: u32,
    count: usize,
    syn_retries: Option<i32>,
    then: Then,
) -> anyhow::Result<()> {
    let destinations: Vec<_> =
        (0..hosts).flat_map(|host| std::iter::repeat_n(after(to, host), count)).collect();
    if matches!(then, Then::Close | Then::Hold) && destinations.len() > AT_ONCE {
        bail!("more than {AT_ONCE} connects at once were asked for");
    }
    let (mut ends, mut open) = (Ends::default(), Vec::new());
    let cpus = thread::available_parallelism()?.get();
    for some in destinations.chunks(AT_ONCE) {
        if then == Then::Spin {
            // The kernel then receives the answers on this CPU.
            pin_to_cpu(0);
        }
        for &addr in some {
            match begin(addr, syn_retries)? {
                Some(stream) => open.push(stream),
                None => ends.refused += 1,
            }
        }
        match then {
            Then::Wait => wait(std::mem::take(&mut open), &mut ends, Duration::from_millis(2))?,
            Then::Spin => spin(std::mem::take(&mut open), &mut ends, cpus)?,
            Then::Close => ends.abandoned += open.drain(..).len(),
            Then::Hold => {}
        }
    }
    say(&json!({
        "pid": std::process::id(), "established": ends.established, "refused": ends.refused,
        "timed_out": ends.timed_out, "abandoned": ends.abandoned, "pending": open.len(),
    }))?;
    wait_forever()
}

#[derive(Default)]
struct Ends {
    established: usize,
    refused: usize,
    timed_out: usize,
    abandoned: usize,
}

/// Returns the address that many hosts further on.
fn after(to: SocketAddr, hosts: u32) -> SocketAddr {
    match to {
        SocketAddr::V4(v4) => SocketAddr::new(
            Ipv4Addr::from(u32::from(*v4.ip()).wrapping_add(hosts)).into(),
            v4.port(),
        ),
        SocketAddr::V6(v6) => SocketAddr::new(
            Ipv6Addr::from(u128::from(*v6.ip()).wrapping_add(hosts.into())).into(),
            v6.port(),
        ),
    }
}

/// Waits until the kernel has the result of each, with a rest between two rounds of polling.
fn wait(mut open: Vec<TcpStream>, ends: &mut Ends, rest: Duration) -> anyhow::Result<()> {
    let start = now();
    loop {
        let mut left = Vec::new();
        for stream in open {
            match ended(&stream)? {
                None => left.push(stream),
                Some(0) => ends.established += 1,
                Some(libc::ETIMEDOUT) => ends.timed_out += 1,
                Some(_) => ends.refused += 1,
            }
        }
        open = left;
        if open.is_empty() {
            return Ok(());
        }
        if start.elapsed() > ANSWER_WITHIN {
            bail!("{} connects were not answered within {} s", open.len(), ANSWER_WITHIN.as_secs());
        }
        if !rest.is_zero() {
            thread::sleep(rest);
        }
    }
}

/// Polls like [`wait`], without a rest and on the last CPU, while the first is kept awake:
/// otherwise this one would wait instead.
fn spin(open: Vec<TcpStream>, ends: &mut Ends, cpus: usize) -> anyhow::Result<()> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            pin_to_cpu(0);
            while !over.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
        pin_to_cpu(cpus - 1);
        let waited = wait(open, ends, Duration::ZERO);
        over.store(true, Ordering::Relaxed);
        waited
    })
}

/// Begins to connect without waiting; `None` if it was refused at once.
fn begin(addr: SocketAddr, syn_retries: Option<i32>) -> anyhow::Result<Option<TcpStream>> {
    let socket = socket(addr, libc::SOCK_NONBLOCK)?;
    let (raw, length) = raw_address(addr);
    // SAFETY: setsockopt reads one c_int and connect `length` bytes of an address of that length;
    // both live here.
    let result = unsafe {
        if let Some(retries) = syn_retries {
            let size = size_of::<libc::c_int>() as libc::socklen_t;
            let option = (&raw const retries).cast();
            if libc::setsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_SYNCNT,
                option,
                size,
            ) != 0
            {
                return Err(std::io::Error::last_os_error()).context("cannot set TCP_SYNCNT");
            }
        }
        libc::connect(socket.as_raw_fd(), (&raw const raw).cast(), length)
    };
    let error = std::io::Error::last_os_error();
    match (result, error.raw_os_error()) {
        (0, _) | (_, Some(libc::EINPROGRESS)) => Ok(Some(TcpStream::from(socket))),
        (_, Some(libc::ECONNREFUSED)) => Ok(None),
        _ => Err(error).with_context(|| format!("cannot connect to {addr}")),
    }
}

/// Returns the error of a connect, 0 if it succeeded; `None` while it is under way.
fn ended(stream: &TcpStream) -> anyhow::Result<Option<i32>> {
    if let Some(error) = stream.take_error()? {
        return Ok(Some(error.raw_os_error().unwrap_or(-1)));
    }
    match stream.peer_addr() {
        Ok(_) => Ok(Some(0)),
        Err(error) if error.kind() == ErrorKind::NotConnected => Ok(None),
        Err(error) => Err(error.into()),
    }
}
