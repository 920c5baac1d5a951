//! Open load: connections arrive when they are due, whatever happens to earlier ones.
//!
//! A client that waits for its answers before it sends the next request slows down with the server
//! and hides an overload; this one does not. Arrivals are random and independent (Poisson), at a
//! rate that may rise, with bursts on top. Each connection sends one HTTP request and is closed at
//! the end of the answer. Never blocks; holds at most [`OPEN_MAX`] connections, and counts those
//! that it could not open for that reason.

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::json;

use super::sockets::{allow_files, connect};
use super::system::{Random, now, ready, say};

/// Maximum number of open connections.
const OPEN_MAX: usize = 8_192;
/// Maximum rate that one thread keeps up with; a connection costs it some 50 µs.
const RATE_MAX: f64 = 10_000.0;
const REQUEST: &[u8] =
    b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n";
/// Maximum number of events taken from the kernel at a time.
const EVENTS: usize = 256;

/// Load, and its duration.
#[derive(Debug, Clone)]
pub struct Offer {
    /// Connections per second at first.
    pub rate_per_sec: f64,
    /// Connections per second at the end; the rate changes linearly.
    pub to_rate_per_sec: f64,
    /// Time until the last rate is reached.
    pub ramp: Duration,
    /// Time at the first rate, then at the last, and so on in turn; zero for a ramp.
    pub alternate_every: Duration,
    /// Maximum time that a client waits for its answer.
    pub patience: Duration,
    /// Connections of a burst, made as fast as possible.
    pub burst: u32,
    /// Time from one burst to the next.
    pub burst_every: Duration,
    /// Duration of the load.
    pub lasting: Duration,
}

impl Offer {
    fn rate_at(&self, elapsed: Duration) -> f64 {
        if !self.alternate_every.is_zero() {
            let nth = elapsed.div_duration_f64(self.alternate_every) as u64;
            return if nth.is_multiple_of(2) { self.rate_per_sec } else { self.to_rate_per_sec };
        }
        let share =
            if self.ramp.is_zero() { 1.0 } else { elapsed.div_duration_f64(self.ramp).min(1.0) };
        self.rate_per_sec + share * (self.to_rate_per_sec - self.rate_per_sec)
    }
}

/// Offers the load to the server at `addr`; the ready line precedes the first connection, the last
/// line counts them.
pub fn offer(addr: SocketAddr, offer: &Offer) -> anyhow::Result<()> {
    for rate in [offer.rate_per_sec, offer.to_rate_per_sec] {
        if !(0.0..=RATE_MAX).contains(&rate) {
            bail!("a rate of {rate} per second is not between 0 and {RATE_MAX}");
        }
    }
    allow_files(OPEN_MAX as u64 + 64)?;
    let mut clients = Clients::new(addr, offer.patience)?;
    ready(Some(addr.to_string()))?;
    let (start, mut random) = (now(), Random(0x5EED));
    let mut due = Duration::ZERO;
    let mut burst_due = offer.burst_every;
    while start.elapsed() < offer.lasting {
        while due <= start.elapsed() {
            let rate = offer.rate_at(due);
            // At a rate of zero, try again in a moment.
            let gap = if rate > 0.0 { -(1.0 - random.share()).ln() / rate } else { 0.01 };
            due += Duration::from_secs_f64(gap);
            if rate > 0.0 {
                clients.open()?;
            }
        }
        if offer.burst > 0 && burst_due <= start.elapsed() {
            burst_due += offer.burst_every;
            for _ in 0..offer.burst {
                clients.open()?;
            }
        }
        clients.turn(due.saturating_sub(start.elapsed()))?;
    }
    // Clients that still wait are no failures yet.
    while !clients.open.is_empty() && start.elapsed() < offer.lasting + offer.patience {
        clients.turn(Duration::from_millis(20))?;
    }
    let Clients { started, answered, succeeded, failed, not_opened, .. } = clients;
    say(&json!({
        "event": "done",
        "started": started,
        "answered": answered,
        "succeeded": succeeded,
        "failed": failed,
        "not_opened": not_opened,
    }))
}

/// Open connections.
struct Clients {
    addr: SocketAddr,
    epoll: OwnedFd,
    open: HashMap<RawFd, Client>,
    started: u64,
    answered: u64,
    /// Number answered with 200, and within the client's patience.
    succeeded: u64,
    failed: u64,
    not_opened: u64,
    patience: Duration,
}

struct Client {
    stream: TcpStream,
    began: Instant,
    asked: bool,
    heard: bool,
    is_ok: bool,
}

impl Clients {
    fn new(addr: SocketAddr, patience: Duration) -> anyhow::Result<Self> {
        // SAFETY: epoll_create1 takes a number; the result is checked before it is owned.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(std::io::Error::last_os_error()).context("no epoll");
        }
        // SAFETY: the descriptor was just made, is open, and nothing else owns it.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            addr,
            epoll,
            open: HashMap::new(),
            started: 0,
            answered: 0,
            succeeded: 0,
            failed: 0,
            not_opened: 0,
            patience,
        })
    }

    /// Begins to connect. A connection that cannot be opened counts as failed.
    fn open(&mut self) -> anyhow::Result<()> {
        if self.open.len() >= OPEN_MAX {
            self.not_opened += 1;
            return Ok(());
        }
        self.started += 1;
        let Ok(stream) = connect(self.addr) else {
            self.failed += 1;
            return Ok(());
        };
        let fd = stream.as_raw_fd();
        let edges = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        let mut event = libc::epoll_event { events: edges as u32, u64: fd as u64 };
        // SAFETY: epoll_ctl reads one event, which lives here; both descriptors are open. Closing
        // one takes it out.
        if unsafe {
            libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event)
        } != 0
        {
            return Err(std::io::Error::last_os_error())
                .context("cannot add a connection to epoll");
        }
        self.open
            .insert(fd, Client { stream, began: now(), asked: false, heard: false, is_ok: false });
        Ok(())
    }

    /// Waits that long for events, at least a millisecond, and handles those that need no waiting.
    fn turn(&mut self, wait: Duration) -> anyhow::Result<()> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        let wait_ms = wait.as_millis().clamp(1, 20) as libc::c_int;
        // SAFETY: the kernel writes at most as many events as it is told, which there is room for.
        let count = unsafe {
            libc::epoll_wait(
                self.epoll.as_raw_fd(),
                events.as_mut_ptr(),
                EVENTS as libc::c_int,
                wait_ms,
            )
        };
        for event in &events[..usize::try_from(count).unwrap_or(0)] {
            let fd = event.u64 as RawFd;
            let Some(client) = self.open.get_mut(&fd) else { continue };
            match client.turn() {
                Turn::Answered => {
                    self.answered += 1;
                    self.succeeded +=
                        u64::from(client.is_ok && client.began.elapsed() <= self.patience);
                }
                Turn::Failed => self.failed += 1,
                Turn::Waiting => continue,
            }
            self.open.remove(&fd);
        }
        Ok(())
    }
}

enum Turn {
    Waiting,
    Answered,
    Failed,
}

impl Client {
    fn turn(&mut self) -> Turn {
        let pending = |error: &std::io::Error| {
            matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected)
        };
        if !self.asked {
            match self.stream.write(REQUEST) {
                Ok(_) => self.asked = true,
                Err(error) if pending(&error) => return Turn::Waiting,
                Err(_) => return Turn::Failed,
            }
        }
        let mut said = [0; 4096];
        loop {
            match self.stream.read(&mut said) {
                Ok(0) => return if self.heard { Turn::Answered } else { Turn::Failed },
                Ok(_) => {
                    self.is_ok |= !self.heard && said.starts_with(b"HTTP/1.1 200 ");
                    self.heard = true;
                }
                Err(error) if pending(&error) => return Turn::Waiting,
                Err(_) => return Turn::Failed,
            }
        }
    }
}
