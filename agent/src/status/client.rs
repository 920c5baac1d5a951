//! Client of the status socket: asks the agent for its report, within a deadline, and takes what it
//! gets for anybody's.

use std::{
    io::{self, Read as _},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt},
    process::geteuid,
};

use super::{
    report::StatusReport,
    runtime_dir::{fallback_path, socket_path},
    server::REPORT_BYTES_MAX,
};
use crate::clock::Clock;

/// Maximum size of an answer: that of a report, and its end of line.
const ANSWER_BYTES_MAX: u64 = REPORT_BYTES_MAX as u64 + 1;

/// Time for which a socket that nobody serves may be taken over: that of a killed agent, by another
/// with the same state directory.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(2);

/// Pause before the next attempt if too many connections wait at the agent, or none is accepted.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Reason why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No agent listens at the socket.
    #[error("no agent answers at {}", .0.display())]
    NoAgent(PathBuf),
    /// This user may not ask.
    #[error(
        "only root and the group of {} may ask the agent\n  hint: use sudo",
        .0.parent().unwrap_or(.0).display()
    )]
    NotPermitted(PathBuf),
    /// An agent listens, and does not answer.
    #[error(
        "the agent (pid {pid}) did not answer at {} within {secs:.0} s: it hangs or is stopped\n  \
         hint: `journalctl -u spillway` has its log; `systemctl restart spillway` starts it anew",
        path.display()
    )]
    Silent {
        /// Socket.
        path: PathBuf,
        /// Process that listens there.
        pid: i32,
        /// Time that it was given.
        secs: f64,
    },
    /// Somebody else listens there.
    #[error(
        "{} belongs to a process of user {uid}, which is not asked\n  hint: remove it",
        path.display()
    )]
    Foreign {
        /// Socket.
        path: PathBuf,
        /// User of that process.
        uid: u32,
    },
    /// The answer is no report.
    #[error(
        "{} gave no valid report: {why}\n  hint: is the agent of another version than this?",
        path.display()
    )]
    Invalid {
        /// Socket.
        path: PathBuf,
        /// Fault in it.
        why: String,
    },
    /// The socket cannot be used.
    #[error("cannot ask the agent at {}: {error}", path.display())]
    Io {
        /// Socket.
        path: PathBuf,
        /// Error of the kernel.
        error: io::Error,
    },
}

/// Asks the agent with this state directory for its report, as it was sent and as it is understood.
///
/// # Errors
///
/// Returns an error if there is no report within this time.
pub fn ask(state_dir: &Path, within: Duration) -> Result<(Vec<u8>, StatusReport), AskError> {
    match ask_at(socket_path(state_dir), within) {
        Err(first @ (AskError::NoAgent(_) | AskError::NotPermitted(_))) => {
            match ask_at(fallback_path(state_dir), within) {
                // The first place is where it should be.
                Err(AskError::NoAgent(_) | AskError::NotPermitted(_) | AskError::Io { .. }) => {
                    Err(first)
                }
                answer => answer,
            }
        }
        answer => answer,
    }
}

fn ask_at(path: PathBuf, within: Duration) -> Result<(Vec<u8>, StatusReport), AskError> {
    let failed = |error| AskError::Io { path: path.clone(), error };
    let clock = Clock::start();
    let left = || Duration::try_from_secs_f64(within.as_secs_f64() - clock.now()).ok();
    let silent = |pid| AskError::Silent { path: path.clone(), pid, secs: within.as_secs_f64() };
    let (mut stream, server) = loop {
        match connected(&path) {
            Ok(stream) => {
                let peer =
                    sockopt::socket_peercred(&stream).map_err(|error| failed(error.into()))?;
                break (stream, peer);
            }
            Err(Errno::CONNREFUSED) if clock.now() < TAKEN_OVER_WITHIN.as_secs_f64() => {
                thread::sleep(RETRY_PAUSE);
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::CONNREFUSED) => {
                return Err(AskError::NoAgent(path));
            }
            Err(Errno::ACCESS | Errno::PERM) => return Err(AskError::NotPermitted(path)),
            Err(Errno::AGAIN) if left().is_some() => thread::sleep(RETRY_PAUSE),
            Err(Errno::AGAIN) => return Err(silent(0)),
            Err(error) => return Err(failed(error.into())),
        }
    };
    if !server.uid.is_root() && server.uid != geteuid() {
        return Err(AskError::Foreign { path, uid: server.uid.as_raw() });
    }
    let pid = server.pid.as_raw_nonzero().get();
    let mut answer = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        let Some(left) = left().filter(|left| !left.is_zero()) else { return Err(silent(pid)) };
        stream.set_read_timeout(Some(left)).map_err(failed)?;
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => answer.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(silent(pid)),
            Err(error) => return Err(failed(error)),
        }
        if answer.len() as u64 > ANSWER_BYTES_MAX {
            let why = format!("it is longer than {ANSWER_BYTES_MAX} bytes");
            return Err(AskError::Invalid { path, why });
        }
    }
    if answer.is_empty() && !geteuid().is_root() {
        return Err(AskError::NotPermitted(path));
    }
    let report = StatusReport::parse(&answer);
    let report = report.map_err(|why| AskError::Invalid { path, why })?;
    Ok((answer, report))
}

/// Connects without waiting: an agent that is stopped accepts nothing.
fn connected(path: &Path) -> Result<UnixStream, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket: OwnedFd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    let stream = UnixStream::from(socket);
    stream
        .set_nonblocking(false)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(stream)
}
