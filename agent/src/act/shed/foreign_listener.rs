//! A listening TCP socket of another process, and the length of its accept queue.
//!
//! Each access takes a descriptor of its own with `pidfd_getfd`, checks that it is the very socket
//! meant (inode, cookie, address, a TCP listener), and closes it. `listen()` on a socket that
//! listens already changes the length and nothing else; the kernel bounds it to
//! `net.core.somaxconn` of the socket's network namespace. Waiting connections stay, even if more
//! wait than the new length.
//!
//! If the program calls `shutdown` on the listener in the microseconds between the check and
//! `listen()`, the socket listens again until the program closes it.
//!
//! UNIX sockets are never changed: there `listen()` also replaces the credentials that clients
//! read with `SO_PEERCRED` by those of the caller.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::{AsRawFd as _, OwnedFd},
};

use rustix::{
    io::Errno,
    net::sockopt,
    process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};

use super::{
    error::{SocketError, attach_scope},
    proc_sockets::{descriptors_of, holder_of, listeners_at, netns_of},
};
use crate::os::{
    capabilities::{self, Capability},
    proc_reader::unrestricted,
};

/// Words of `struct tcp_info` up to the length of the queue; the kernel fills as many as asked for.
const INFO_WORDS: usize = 8;
/// Word of `tcpi_sacked`, which is the maximum length if the socket listens.
const INFO_LENGTH: usize = 7;

/// Identity of a socket while it exists, and its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketId {
    /// Inode number.
    pub inode: u64,
    /// Cookie: a number that the kernel gives to no other socket until the next boot.
    pub cookie: u64,
    /// Address.
    pub addr: SocketAddr,
}

/// A listening TCP socket of another process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignListener {
    /// Identity.
    pub id: SocketId,
    /// Process that held it last.
    pub pid: u32,
    /// Number of the descriptor in that process.
    fd: i32,
}

/// Change of a length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LengthChange {
    /// The length was set; this one is in effect, lower if the kernel bounds it.
    Set(u32),
    /// The length stays, because it is not one of those expected.
    Unexpected(u32),
}

impl ForeignListener {
    /// Finds the listeners at an address that a process holds in its own network namespace, each
    /// with the length of its queue.
    ///
    /// # Errors
    ///
    /// Returns an error if the process may not be read, runs in another network namespace, or if a
    /// socket turns out to be another.
    pub fn find(pid: u32, netns: u32, addr: SocketAddr) -> Result<Vec<(Self, u32)>, SocketError> {
        let process = open_process(pid)?;
        let found = netns_of(pid).map_err(SocketError::failed(format!(
            "cannot read the network namespace of pid {pid}"
        )))?;
        // A listener of another namespace may have the same address.
        if found != netns {
            return Err(SocketError::Gone);
        }
        let inodes = listeners_at(pid, addr)
            .map_err(SocketError::failed(format!("cannot list the listeners of pid {pid}")))?;
        let descriptors = descriptors_of(pid, &inodes)
            .map_err(SocketError::failed(format!("cannot read the descriptors of pid {pid}")))?;
        let mut listeners = Vec::new();
        for (inode, fd) in descriptors {
            let socket = take(&process, pid, fd)?;
            let cookie = cookie_of(&socket)?;
            let listener = Self { id: SocketId { inode, cookie, addr }, pid, fd };
            listener.check(&socket)?;
            listeners.push((listener, length_of(&socket)?));
        }
        Ok(listeners)
    }

    /// Finds a socket again, such as one in the journal. `pid` is a process that may hold it.
    ///
    /// # Errors
    ///
    /// Returns an error if no process holds it, or that is unknown.
    pub fn again(id: SocketId, pid: u32) -> Result<Self, SocketError> {
        let holder = holder_of(id.inode, pid)
            .map_err(SocketError::failed("cannot read which process holds the socket"))?;
        let (pid, fd) = holder.ok_or(SocketError::Gone)?;
        Ok(Self { id, pid, fd })
    }

    /// Reads the length of the queue.
    ///
    /// # Errors
    ///
    /// Returns an error if the socket is gone or cannot be reached.
    pub fn length(&mut self) -> Result<u32, SocketError> {
        length_of(&self.open()?)
    }

    /// Sets the length to `wanted`, if the present one is `expected`, and reads it back.
    ///
    /// # Errors
    ///
    /// Returns an error if the socket is gone, cannot be reached, or has another length afterwards.
    pub fn set_length(
        &mut self,
        expected: impl Fn(u32) -> bool,
        wanted: u32,
    ) -> Result<LengthChange, SocketError> {
        let socket = self.open()?;
        let found = length_of(&socket)?;
        if !expected(found) {
            return Ok(LengthChange::Unexpected(found));
        }
        let backlog = i32::try_from(wanted).unwrap_or(i32::MAX);
        // Checked again at the last moment: listen() would revive a socket that was shut down.
        self.check(&socket)?;
        rustix::net::listen(&socket, backlog)
            .map_err(|errno| SocketError::failed(format!("listen({wanted})"))(errno.into()))?;
        let found = length_of(&socket)?;
        // The kernel bounds it to net.core.somaxconn.
        if found > wanted {
            return Err(SocketError::NotTaken { wanted, found });
        }
        Ok(LengthChange::Set(found))
    }

    /// Takes a descriptor. If the process has ended or renumbered its descriptors, another holder
    /// is searched for.
    fn open(&mut self) -> Result<OwnedFd, SocketError> {
        let direct = open_process(self.pid).and_then(|process| take(&process, self.pid, self.fd));
        match direct.and_then(|socket| self.check(&socket).map(|()| socket)) {
            Err(SocketError::Gone | SocketError::Another { .. }) => {
                *self = Self::again(self.id, self.pid)?;
                let socket = take(&open_process(self.pid)?, self.pid, self.fd)?;
                self.check(&socket)?;
                Ok(socket)
            }
            opened => opened,
        }
    }

    /// Checks that a descriptor is this socket, and that it listens.
    fn check(&self, socket: &OwnedFd) -> Result<(), SocketError> {
        let SocketId { inode, cookie, addr } = self.id;
        let another =
            |why: String| Err(SocketError::Another { pid: self.pid, fd: self.fd, addr, why });
        let stat = rustix::fs::fstat(socket)
            .map_err(|errno| SocketError::failed("fstat")(errno.into()))?;
        if stat.st_ino != inode {
            return another(format!("its inode number is {}, not {inode}", stat.st_ino));
        }
        let is_tcp = sockopt::socket_protocol(socket).is_ok_and(|protocol| {
            protocol.is_some_and(|protocol| protocol == rustix::net::ipproto::TCP)
        });
        if !is_tcp {
            return another("it is no TCP socket".to_owned());
        }
        if cookie_of(socket)? != cookie {
            return another("it is a later socket".to_owned());
        }
        let found = local_addr(socket)?;
        if (found.ip(), found.port()) != (addr.ip(), addr.port()) {
            return another(format!("its address is {found}"));
        }
        match sockopt::socket_acceptconn(socket) {
            Ok(true) => Ok(()),
            _ => Err(SocketError::Gone),
        }
    }
}

/// Returns the reason for which no descriptor of another user's process can be taken; `None` if
/// nothing is known to prevent it.
pub fn obstacle() -> Option<SocketError> {
    let pid = std::process::id();
    let own = io::stderr();
    let taken = open_process(pid).and_then(|process| take(&process, pid, own.as_raw_fd()));
    match taken {
        // Without standard error there is nothing to take, and the call exists.
        Ok(_) | Err(SocketError::Gone) => {}
        Err(error) => return Some(error),
    }
    // It may be taken from this process in any case; from others only with these.
    let is_permitted =
        capabilities::has(Capability::SysPtrace).unwrap_or(true) && attach_scope() != Some(3);
    (!is_permitted).then(|| SocketError::of_descriptor(pid, Errno::PERM))
}

fn open_process(pid: u32) -> Result<OwnedFd, SocketError> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(SocketError::Gone)?;
    pidfd_open(raw, PidfdFlags::empty()).map_err(|errno| SocketError::of_descriptor(pid, errno))
}

/// Takes a descriptor of a process, which a thread in a Landlock domain may not.
fn take(process: &OwnedFd, pid: u32, fd: i32) -> Result<OwnedFd, SocketError> {
    let process = process
        .try_clone()
        .map(std::sync::Arc::new)
        .map_err(SocketError::failed("cannot duplicate a descriptor"))?;
    let taken: Result<OwnedFd, Errno> =
        unrestricted(move || pidfd_getfd(&*process, fd, PidfdGetfdFlags::empty()));
    taken.map_err(|errno| SocketError::of_descriptor(pid, errno))
}

fn cookie_of(socket: &OwnedFd) -> Result<u64, SocketError> {
    sockopt::socket_cookie(socket)
        .map_err(|errno| SocketError::failed("cannot read a socket's cookie")(errno.into()))
}

fn local_addr(socket: &OwnedFd) -> Result<SocketAddr, SocketError> {
    let what = "cannot read the address of a socket";
    let socket = socket.try_clone().map_err(SocketError::failed(what))?;
    TcpListener::from(socket).local_addr().map_err(SocketError::failed(what))
}

/// Reads the length of a listener's queue.
fn length_of(socket: &OwnedFd) -> Result<u32, SocketError> {
    let mut info = [0_u32; INFO_WORDS];
    let bytes = size_of_val(&info) as libc::socklen_t;
    let mut length = bytes;
    // SAFETY: the kernel writes at most `length` bytes to `info`, which has as many, and the number
    // that it wrote to `length`; both live until it returns. Any bits are valid words.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    let what = "cannot read the length of an accept queue";
    if result != 0 {
        return Err(SocketError::failed(what)(io::Error::last_os_error()));
    }
    if length != bytes || info[0].to_ne_bytes()[0] != spillway_ebpf::TCP_LISTEN as u8 {
        return Err(SocketError::Gone);
    }
    Ok(info[INFO_LENGTH])
}

#[cfg(test)]
mod tests {
    use std::{net::TcpStream, os::unix::net::UnixListener};

    use super::*;

    fn own(listener: &TcpListener) -> (ForeignListener, u32) {
        let pid = std::process::id();
        let addr = listener.local_addr().unwrap();
        let mut found = ForeignListener::find(pid, netns_of(pid).unwrap(), addr).unwrap();
        assert_eq!(found.len(), 1);
        found.remove(0)
    }

    #[test]
    fn length_is_changed_and_restored_and_waiting_connections_stay() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (mut foreign, original) = own(&listener);
        let addr = listener.local_addr().unwrap();
        let link = format!("socket:[{}]", foreign.id.inode);
        let descriptors = || {
            let files = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
            let links = files.filter_map(|file| std::fs::read_link(file.path()).ok());
            links.filter(|target| target.to_str() == Some(&*link)).count()
        };
        let waiting: Vec<_> = (0..20).map(|_| TcpStream::connect(addr).unwrap()).collect();
        let changed = foreign.set_length(|found| found == original, 4).unwrap();
        assert_eq!(changed, LengthChange::Set(4));
        assert_eq!((foreign.length().unwrap(), descriptors()), (4, 1), "none is left open");
        // One that is not expected stays.
        let kept = foreign.set_length(|found| found == original, 9).unwrap();
        assert_eq!((kept, foreign.length().unwrap()), (LengthChange::Unexpected(4), 4));
        waiting.iter().for_each(|_| drop(listener.accept().unwrap()));
        let restored = foreign.set_length(|found| found == 4, original).unwrap();
        assert_eq!(restored, LengthChange::Set(original));
    }

    /// Number of random lengths, and of clients that connect meanwhile.
    const LENGTHS: u32 = 10_000;
    const CLIENTS: usize = 8;

    #[test]
    fn ten_thousand_random_lengths_lose_no_connection() {
        use std::{
            io::{Read as _, Write as _},
            sync::atomic::{AtomicBool, AtomicU32, Ordering},
            thread,
            time::Duration,
        };

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (mut foreign, original) = own(&listener);
        let addr = listener.local_addr().unwrap();
        let (is_done, answered) = (AtomicBool::new(false), AtomicU32::new(0));
        thread::scope(|scope| {
            scope.spawn(|| {
                while let Ok((mut client, _)) = listener.accept() {
                    let mut byte = [0];
                    match client.read(&mut byte) {
                        // The last one, made below.
                        Ok(0) if is_done.load(Ordering::SeqCst) => return,
                        _ => drop(client.write_all(&byte)),
                    }
                }
            });
            let clients: Vec<_> = (0..CLIENTS)
                .map(|_| {
                    scope.spawn(|| {
                        while !is_done.load(Ordering::SeqCst) {
                            // One that is refused is tried again.
                            let Ok(mut server) = TcpStream::connect(addr) else { continue };
                            server.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                            server.write_all(b"x").unwrap();
                            let mut byte = [0];
                            server.read_exact(&mut byte).unwrap();
                            answered.fetch_add(1, Ordering::SeqCst);
                        }
                    })
                })
                .collect();
            let (mut length, mut random) = (original, 1_u32);
            for _ in 0..LENGTHS {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let next = random >> 27;
                let changed = foreign.set_length(|found| found == length, next).unwrap();
                assert_eq!(changed, LengthChange::Set(next));
                length = next;
            }
            foreign.set_length(|_| true, original).unwrap();
            is_done.store(true, Ordering::SeqCst);
            clients.into_iter().for_each(|client| client.join().unwrap());
            drop(TcpStream::connect(addr).unwrap());
        });
        let answered = answered.into_inner();
        println!("{answered} connections answered during {LENGTHS} changes");
        assert!(answered > 100, "only {answered} connections");
    }

    #[test]
    fn length_above_somaxconn_is_bounded_by_the_kernel() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (mut foreign, _) = own(&listener);
        let most: u32 = std::fs::read_to_string("/proc/sys/net/core/somaxconn")
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        let changed = foreign.set_length(|_| true, most.saturating_add(1)).unwrap();
        assert_eq!(changed, LengthChange::Set(most));
    }

    #[test]
    fn socket_that_is_not_the_one_meant_is_not_touched() {
        let (listener, other) =
            (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let (foreign, _) = own(&listener);
        let (mut other_foreign, original) = own(&other);
        // Its descriptor is found again by the inode, whatever number is remembered.
        let mut renumbered = ForeignListener { fd: other_foreign.fd, ..foreign.clone() };
        assert!(matches!(renumbered.set_length(|_| true, 5).unwrap(), LengthChange::Set(5)));
        assert_eq!(other_foreign.length().unwrap(), original);
        // A later socket with the same inode number has another cookie, or another address.
        for id in [
            SocketId { cookie: u64::MAX, ..other_foreign.id },
            SocketId { addr: foreign.id.addr, ..other_foreign.id },
            SocketId { inode: other_foreign.id.inode, ..foreign.id },
        ] {
            let mut wrong = ForeignListener { id, ..other_foreign.clone() };
            assert!(wrong.set_length(|_| true, 1).is_err());
        }
        assert_eq!(other_foreign.length().unwrap(), original);
    }

    #[test]
    fn closed_and_other_sockets_are_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let (mut foreign, _) = own(&listener);
        let pid = std::process::id();
        let netns = netns_of(pid).unwrap();
        assert!(matches!(ForeignListener::find(pid, netns + 1, addr), Err(SocketError::Gone)));
        assert!(matches!(ForeignListener::find(u32::MAX, netns, addr), Err(SocketError::Gone)));
        let client = TcpStream::connect(addr).unwrap();
        let taken = OwnedFd::from(client);
        assert!(matches!(length_of(&taken), Err(SocketError::Gone)));
        drop(listener);
        assert!(matches!(foreign.length(), Err(SocketError::Gone)));
        assert!(ForeignListener::find(pid, netns, addr).unwrap().is_empty());
        let path = std::env::temp_dir().join(format!("spillway-shed-{pid}"));
        let unix = UnixListener::bind(&path).unwrap();
        assert!(foreign.check(&OwnedFd::from(unix)).is_err());
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn nothing_prevents_taking_ones_own_descriptor() {
        assert!(obstacle().is_none_or(|error| error.to_string().contains("hint")));
    }
}
