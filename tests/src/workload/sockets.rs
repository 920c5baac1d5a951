//! Programs that use TCP: a server that stops accepting, clients that keep connecting, a listener
//! with a known queue.
//!
//! Sockets are created by hand if std would choose the backlog or block in connect().

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde_json::json;

use super::system::{now, ready, say, wait_forever};

/// Maximum number of the clients' sockets: beyond it the oldest is closed.
const MOST_CLIENTS: usize = 512;
/// Maximum time until a connection waits for accept(), on the slowest emulated kernel.
const QUEUED_WITHIN: Duration = Duration::from_secs(10);
/// Time that the server waits for a request.
const REQUEST_WITHIN: Duration = Duration::from_millis(200);

/// Serves for a while, then keeps listening and accepts no more.
pub fn stuck_server(addr: SocketAddr, backlog: i32, healthy_for: Duration) -> anyhow::Result<()> {
    let listener = listener(addr, backlog)?;
    ready(Some(listener.local_addr()?.to_string()))?;
    listener.set_nonblocking(true)?;
    let start = now();
    let mut served = 0u64;
    while start.elapsed() < healthy_for {
        match listener.accept() {
            Ok((stream, _)) => {
                // A client may go away early.
                serve(stream).ok();
                served += 1;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(2))
            }
            Err(error) => return Err(error).context("accept failed"),
        }
    }
    say(&json!({"event": "stopped_accepting", "served": served}))?;
    wait_forever()
}

fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(REQUEST_WITHIN))?;
    let mut request = [0; 64];
    let read = stream.read(&mut request)?;
    if read > 0 { stream.write_all(b"done\n") } else { Ok(()) }
}

/// Connects at a rate, for a while; never blocks and never holds more than [`MOST_CLIENTS`]
/// sockets.
pub fn clients(addr: SocketAddr, rate_per_sec: f64, lasting: Duration) -> anyhow::Result<()> {
    if !(rate_per_sec > 0.0 && rate_per_sec <= 1000.0) {
        bail!("--rate-per-sec {rate_per_sec} is not above 0 and at most 1000");
    }
    ready(Some(addr.to_string()))?;
    let start = now();
    let mut open: VecDeque<Client> = VecDeque::new();
    let (mut started, mut answered) = (0u64, 0u64);
    while start.elapsed() < lasting {
        let due = (rate_per_sec * start.elapsed().as_secs_f64()) as u64;
        while started < due {
            started += 1;
            if open.len() == MOST_CLIENTS {
                open.pop_front();
            }
            // A refused connection counts as failed; the next one is tried all the same.
            if let Ok(stream) = connect(addr) {
                open.push_back(Client { stream, asked: false });
            }
        }
        open.retain_mut(|client| match client.turn() {
            Turn::Waiting => true,
            Turn::Answered => {
                answered += 1;
                false
            }
            Turn::Failed => false,
        });
        thread::sleep(Duration::from_millis(20));
    }
    say(&json!({"event": "done", "started": started, "answered": answered}))
}

struct Client {
    stream: TcpStream,
    asked: bool,
}

enum Turn {
    Waiting,
    Answered,
    Failed,
}

impl Client {
    /// Handles events that need no waiting.
    fn turn(&mut self) -> Turn {
        let pending = |error: &std::io::Error| {
            matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected)
        };
        if !self.asked {
            match self.stream.write(b"hello\n") {
                Ok(_) => self.asked = true,
                Err(error) if pending(&error) => return Turn::Waiting,
                Err(_) => return Turn::Failed,
            }
        }
        match self.stream.read(&mut [0; 64]) {
            Ok(0) => Turn::Failed,
            Ok(_) => Turn::Answered,
            Err(error) if pending(&error) => Turn::Waiting,
            Err(_) => Turn::Failed,
        }
    }
}

/// Listens, and connects to itself `pending` times without accepting; the ready line has the number
/// of established connections.
pub fn listen(backlog: i32, pending: usize, v6: bool, defer: bool) -> anyhow::Result<()> {
    let any = if v6 { "[::1]:0" } else { "127.0.0.1:0" };
    let listener = listener(any.parse()?, backlog)?;
    if defer {
        defer_accept(&listener)?;
    }
    let addr = listener.local_addr()?;
    allow_files(pending as u64 + 64)?;
    let streams = (0..pending).map(|_| connect(addr)).collect::<anyhow::Result<Vec<_>>>()?;
    // One more waits than the backlog allows; with deferred accept none does.
    let due = if defer { 0 } else { pending.min(usize::try_from(backlog)? + 1) };
    let start = now();
    // Beyond the backlog a handshake does not finish: those are left to their retries after two
    // seconds. The others are established for the client at once, and wait here after the kernel
    // has processed their last packet, which may take a moment.
    let standing = loop {
        let standing = streams.iter().filter(|stream| stream.peer_addr().is_ok()).count();
        let (waiting, waited) = (waiting(&listener)?, start.elapsed());
        if waiting >= due && (standing == pending || waited > Duration::from_secs(2)) {
            break standing;
        }
        ensure!(
            waited < QUEUED_WITHIN,
            "{waiting} connections wait after {} s, expected {due}",
            waited.as_secs()
        );
        thread::sleep(Duration::from_millis(5));
    };
    say(&json!({"pid": std::process::id(), "addr": addr.to_string(), "pending": standing}))?;
    wait_forever()
}

/// Returns the connections that wait to be accepted: for a listener, the kernel reports them as
/// unacknowledged.
fn waiting(listener: &TcpListener) -> anyhow::Result<usize> {
    // SAFETY: tcp_info is plain data, for which all zeroes is a valid value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut size = size_of_val(&info) as libc::socklen_t;
    let to = (&raw mut info).cast();
    // SAFETY: getsockopt writes no more than it is told there is room for, and how much that is,
    // through pointers to what lives here.
    let done = unsafe {
        libc::getsockopt(listener.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, to, &raw mut size)
    };
    if done != 0 {
        return Err(std::io::Error::last_os_error()).context("cannot read TCP_INFO");
    }
    Ok(info.tcpi_unacked as usize)
}

fn defer_accept(listener: &TcpListener) -> anyhow::Result<()> {
    let secs: libc::c_int = 30;
    let (option, size) = (libc::TCP_DEFER_ACCEPT, size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: setsockopt reads one c_int, which lives here.
    let done = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            option,
            (&raw const secs).cast(),
            size,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error()).context("cannot set TCP_DEFER_ACCEPT")
    }
}

/// Opens many listeners at once, on ports that the kernel picks.
pub fn listeners(count: usize) -> anyhow::Result<()> {
    allow_files(count as u64 + 64)?;
    let any = "127.0.0.1:0".parse()?;
    let _held = (0..count).map(|_| listener(any, 1)).collect::<anyhow::Result<Vec<_>>>()?;
    ready(None)?;
    wait_forever()
}

/// Opens that many connections to itself, with both ends of each held open: two descriptors each.
pub fn connections(count: usize) -> anyhow::Result<()> {
    allow_files(2 * count as u64 + 64)?;
    let listener = listener("127.0.0.1:0".parse()?, 128)?;
    let addr = listener.local_addr()?;
    let pair = |_| Ok((TcpStream::connect(addr)?, listener.accept()?));
    let _held = (0..count)
        .map(pair)
        .collect::<std::io::Result<Vec<_>>>()
        .context("cannot make a connection")?;
    ready(Some(addr.to_string()))?;
    wait_forever()
}

/// Returns a listening socket with this backlog; std would choose its own.
pub(super) fn listener(addr: SocketAddr, backlog: i32) -> anyhow::Result<TcpListener> {
    let socket = socket(addr, 0)?;
    let on: libc::c_int = 1;
    let (raw, length) = raw_address(addr);
    // SAFETY: setsockopt reads one c_int; bind reads `length` bytes of an address of that length;
    // both live here.
    let done = unsafe {
        let size = size_of::<libc::c_int>() as libc::socklen_t;
        let option = libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_REUSEADDR,
            (&raw const on).cast(),
            size,
        );
        option == 0
            && libc::bind(socket.as_raw_fd(), (&raw const raw).cast(), length) == 0
            && libc::listen(socket.as_raw_fd(), backlog) == 0
    };
    if done {
        Ok(TcpListener::from(socket))
    } else {
        Err(std::io::Error::last_os_error()).with_context(|| format!("cannot listen on {addr}"))
    }
}

/// Begins to connect, without waiting for the handshake.
pub(super) fn connect(addr: SocketAddr) -> anyhow::Result<TcpStream> {
    let socket = socket(addr, libc::SOCK_NONBLOCK)?;
    let (raw, length) = raw_address(addr);
    // SAFETY: connect reads `length` bytes of an address of that length, which lives here.
    if unsafe { libc::connect(socket.as_raw_fd(), (&raw const raw).cast(), length) } != 0 {
        let error = std::io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINPROGRESS) {
            return Err(error).with_context(|| format!("cannot connect to {addr}"));
        }
    }
    Ok(TcpStream::from(socket))
}

pub(super) fn socket(addr: SocketAddr, flags: i32) -> anyhow::Result<OwnedFd> {
    let family = if addr.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    // SAFETY: socket takes three integers; the result is checked before it is owned.
    let fd = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | flags, 0) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error()).context("no socket");
    }
    // SAFETY: the descriptor was just made, is open, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Returns an address in the kernel's format, and its length.
pub(super) fn raw_address(addr: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: sockaddr_storage is plain data, for which all zeroes is a valid value.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let start = &raw mut storage;
    let length = match addr {
        SocketAddr::V4(v4) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from(*v4.ip()).to_be() },
                sin_zero: [0; 8],
            };
            // SAFETY: sockaddr_storage is large enough and aligned for every address type.
            unsafe { start.cast::<libc::sockaddr_in>().write(raw) };
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: as above.
            unsafe { start.cast::<libc::sockaddr_in6>().write(raw) };
            size_of::<libc::sockaddr_in6>()
        }
    };
    (storage, length as libc::socklen_t)
}

/// Raises the limit of open files as far as wanted and allowed.
pub(super) fn allow_files(wanted: u64) -> anyhow::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit writes one rlimit through the pointer, which lives until the call returns.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(std::io::Error::last_os_error()).context("cannot read the limit of open files");
    }
    if wanted > limit.rlim_max {
        bail!("{wanted} open files are needed, {} are allowed", limit.rlim_max);
    }
    limit.rlim_cur = limit.rlim_cur.max(wanted);
    // SAFETY: setrlimit reads one rlimit through the pointer, which lives until the call returns.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(std::io::Error::last_os_error())
            .context("cannot raise the limit of open files");
    }
    Ok(())
}
