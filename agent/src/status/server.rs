//! Status socket: hands out one report for each connection, and reads nothing.
//!
//! A thread of its own serves it, one connection after another, so that the loop never waits for a
//! reader and a report comes even while the loop hangs, and says that it does. A lock on the
//! directory, which the kernel releases however an agent ends, tells a socket that a killed agent
//! left behind from one that is in use: whoever has the lock replaces the socket. Without it this
//! agent tries again, because the other one may end.
//!
//! Peers are root, the agent's user and members of the directory's group; the mode of the socket
//! lets nobody else connect, and the peer's credentials are checked as well. Failure: an agent that
//! cannot serve its status says so, and runs without.

use std::{
    fs::{self, File, Permissions, TryLockError},
    io::{self, Write as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{
            fs::{PermissionsExt as _, chown},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    thread,
    time::Duration,
};

use rustix::process::geteuid;

use super::{
    board::StatusBoard,
    report::StatusReport,
    runtime_dir::{self, RuntimeDir, socket_path},
};
use crate::clock::Clock;

/// Maximum size of a report; usual ones have some kilobytes. A larger one loses incidents.
pub const REPORT_BYTES_MAX: usize = 1 << 20;

/// Maximum time to write a report. What fits into the socket's buffer is written at once, and that
/// is every usual report, so that only a peer that reads slowly on purpose is cut off.
const WRITTEN_WITHIN: Duration = Duration::from_secs(1);

/// Time between two attempts to take over the socket of another agent: commands wait for it.
const TAKE_OVER_EVERY: Duration = Duration::from_secs(1);

/// Attempts to lock the directory, and the pause between two.
const LOCK_ATTEMPTS: u32 = 3;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Pause after a failure to accept, until a descriptor may be free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Access for the owner and the group.
const SOCKET_MODE: u32 = 0o660;

/// Stack of the thread: reports are on the heap.
const STACK_BYTES: usize = 256 << 10;

/// Groups of a peer that are looked at; one with more has to be root, or in one of the first.
const GROUPS_MAX: usize = 256;

/// Served status; the socket is removed when this is dropped.
pub struct StatusServer {
    state_dir: PathBuf,
    /// Path of the socket, as far as it is known.
    path: PathBuf,
    /// The socket, until its thread is started; `None` if another agent serves it.
    socket: Option<StatusSocket>,
    /// Set once this agent serves the socket: its path, and whether the agent made the directory.
    bound: Arc<OnceLock<(PathBuf, bool)>>,
}

/// A bound socket, with the lock by which it is this agent's.
struct StatusSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Group that may connect.
    group: u32,
    /// Set if this agent made the directory.
    is_own: bool,
    _lock: File,
}

impl StatusServer {
    /// Binds the socket of the agent with this state directory, before the sandbox forbids to make
    /// its directory. If another agent serves it, this one takes over once that has ended.
    ///
    /// # Errors
    ///
    /// Returns an error if the directory cannot be made, or the socket cannot be bound.
    pub fn bind(state_dir: &Path) -> io::Result<Self> {
        runtime_dir::sweep();
        let socket = match StatusSocket::bind(state_dir) {
            Ok(socket) => Some(socket),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tracing::info!(
                    "another agent with this state directory reports its status; this one does \
                     once that has ended"
                );
                None
            }
            Err(error) => return Err(error),
        };
        let bound = Arc::new(OnceLock::new());
        let mut path = socket_path(state_dir);
        if let Some(socket) = &socket {
            path.clone_from(&socket.path);
            // The first value.
            let _ = bound.set((socket.path.clone(), socket.is_own));
        }
        Ok(Self { state_dir: state_dir.to_owned(), path, socket, bound })
    }

    /// Starts to hand out the reports of `board`, on a thread of its own.
    ///
    /// # Errors
    ///
    /// Returns an error if the thread cannot be started.
    pub fn start(&mut self, board: Arc<StatusBoard>) -> io::Result<()> {
        let (socket, bound) = (self.socket.take(), self.bound.clone());
        let state_dir = self.state_dir.clone();
        let run = move || {
            let socket = socket.unwrap_or_else(|| take_over(&state_dir));
            // Set already, unless the socket was another agent's.
            let _ = bound.set((socket.path.clone(), socket.is_own));
            socket.serve(&board);
        };
        let thread = thread::Builder::new().name("spillway-status".to_owned());
        thread.stack_size(STACK_BYTES).spawn(run).map(drop)
    }

    /// Path of the socket.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for StatusServer {
    fn drop(&mut self) {
        let Some((path, is_own)) = self.bound.get() else { return };
        // The next agent replaces a socket that stays.
        let _ = fs::remove_file(path);
        if *is_own {
            let _ = path.parent().map(fs::remove_dir);
        }
    }
}

fn take_over(state_dir: &Path) -> StatusSocket {
    loop {
        thread::sleep(TAKE_OVER_EVERY);
        match StatusSocket::bind(state_dir) {
            Ok(socket) => return socket,
            Err(error) => tracing::debug!(%error, "cannot take over the status socket yet"),
        }
    }
}

impl StatusSocket {
    /// Binds the socket, in the state directory if the runtime directory cannot be made. Fails with
    /// [`io::ErrorKind::WouldBlock`] if another agent serves it.
    fn bind(state_dir: &Path) -> io::Result<Self> {
        match RuntimeDir::open(state_dir).and_then(Self::bind_in) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock && state_dir.is_dir() => {
                let socket = RuntimeDir::fallback(state_dir).and_then(Self::bind_in)?;
                tracing::info!(
                    %error,
                    "the runtime directory cannot be used, so status is reported at {}",
                    socket.path.display()
                );
                Ok(socket)
            }
            bound => bound,
        }
    }

    fn bind_in(dir: RuntimeDir) -> io::Result<Self> {
        let RuntimeDir { dir, group, is_own, socket: path } = dir;
        let lock = locked(dir)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(SOCKET_MODE))?;
        // Under systemd the agent's group is that of the directory. Elsewhere this needs CAP_CHOWN.
        if let Err(error) = chown(&path, None, Some(group)) {
            tracing::debug!(%error, group, "the group of the status socket is not set");
        }
        Ok(Self { listener, path, group, is_own, _lock: lock })
    }

    fn serve(&self, board: &StatusBoard) {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) if self.admits(&stream) => {
                    // A peer that closes early or reads too slowly needs no report.
                    let _ = send(&stream, &encoded(board.report()));
                }
                Ok(_) => tracing::debug!("refused a peer that is neither root nor in the group"),
                Err(error) => {
                    tracing::debug!(%error, "cannot accept a connection to the status socket");
                    thread::sleep(ACCEPT_PAUSE);
                }
            }
        }
    }

    /// Returns whether the peer is root, the agent's user, or in the directory's group.
    fn admits(&self, stream: &UnixStream) -> bool {
        let Ok(peer) = rustix::net::sockopt::socket_peercred(stream) else { return false };
        peer.uid.is_root()
            || peer.uid == geteuid()
            || peer.gid.as_raw() == self.group
            || groups_of(stream).contains(&self.group)
    }
}

/// Locks a directory until it is dropped. Fails with [`io::ErrorKind::WouldBlock`] if another agent
/// has it for longer than one that looks for sockets left behind.
fn locked(dir: OwnedFd) -> io::Result<File> {
    let lock = File::from(dir);
    for _ in 0..LOCK_ATTEMPTS {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) => thread::sleep(LOCK_PAUSE),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Err(io::ErrorKind::WouldBlock.into())
}

/// Returns the supplementary groups of a peer (`SO_PEERGROUPS`); none if they are unknown or too
/// many.
fn groups_of(stream: &UnixStream) -> Vec<u32> {
    let mut groups = vec![0 as libc::gid_t; GROUPS_MAX];
    let mut bytes = (groups.len() * size_of::<libc::gid_t>()) as libc::socklen_t;
    // SAFETY: the kernel writes at most `bytes` bytes to the vector, which has as many, and the
    // number of bytes that it wrote to `bytes`; both live until it returns.
    let got = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    let count = if got == 0 { bytes as usize / size_of::<libc::gid_t>() } else { 0 };
    groups.truncate(count);
    groups
}

/// Encodes a report within [`REPORT_BYTES_MAX`]. Names that others have chosen may make it larger:
/// then its tables lose entries, and incidents only once the tables are empty.
fn encoded(mut report: StatusReport) -> Vec<u8> {
    loop {
        let bytes = serde_json::to_vec(&report).unwrap_or_default();
        let StatusReport { workloads, listeners, resources, incidents, .. } = &mut report;
        let has_tables = !(workloads.is_empty() && listeners.is_empty() && resources.is_empty());
        if bytes.len() < REPORT_BYTES_MAX || !has_tables && incidents.is_empty() {
            return [&bytes[..], b"\n"].concat();
        }
        if has_tables {
            workloads.truncate(workloads.len() / 2);
            listeners.truncate(listeners.len() / 2);
            resources.truncate(resources.len() / 2);
        } else {
            incidents.truncate(incidents.len() / 2);
        }
    }
}

/// Writes a report within [`WRITTEN_WITHIN`], however slowly the peer reads.
fn send(mut stream: &UnixStream, report: &[u8]) -> io::Result<()> {
    let (clock, mut rest) = (Clock::start(), report);
    while !rest.is_empty() {
        let left = WRITTEN_WITHIN.as_secs_f64() - clock.now();
        let left = Duration::try_from_secs_f64(left).map_err(|_| io::ErrorKind::TimedOut)?;
        // A time-out of zero would be none.
        stream.set_write_timeout(Some(left.max(Duration::from_millis(1))))?;
        let written = stream.write(rest)?;
        rest = &rest[written..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::report::{IncidentEntry, ListenerEntry, ResourceEntry, WorkloadEntry};

    #[test]
    fn report_with_long_names_fits_and_keeps_its_incidents() {
        let name = || "\u{1f980}".repeat(300);
        let workload = WorkloadEntry {
            name: name(),
            cgroup: name(),
            comm: name(),
            incident: Some(name()),
            ..WorkloadEntry::default()
        };
        let listener = ListenerEntry {
            addr: name(),
            name: name(),
            cgroup: name(),
            comm: name(),
            incident: Some(name()),
            ..ListenerEntry::default()
        };
        let incident = Some(name());
        let resource = ResourceEntry { subject: name(), incident, ..ResourceEntry::default() };
        let incident = IncidentEntry { id: "leak-7-9".to_owned(), ..IncidentEntry::default() };
        let report = StatusReport {
            spillway_status: 1,
            workloads: vec![workload; 100],
            listeners: vec![listener; 100],
            resources: vec![resource; 100],
            incidents: vec![incident; 50],
            ..StatusReport::default()
        };
        assert!(serde_json::to_vec(&report).unwrap().len() > REPORT_BYTES_MAX);
        let bytes = encoded(report);
        assert!(bytes.len() <= REPORT_BYTES_MAX, "{}", bytes.len());
        let report = StatusReport::parse(&bytes).unwrap();
        assert_eq!((report.incidents.len(), report.workloads.len()), (50, 50));
    }
}
