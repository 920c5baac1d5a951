//! Listeners and descriptors of a process, from `/proc`.
//!
//! `/proc/PID/net/tcp` lists the sockets of the process's network namespace, whichever process
//! holds them, and its listeners first. `/proc/PID/fd` shows which descriptors are which socket.
//! Neither is proof: descriptors change between two reads, so the socket itself is checked later.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use crate::os::proc_reader::unrestricted;

/// Maximum size of the list of listeners that is read: some 25,000 of them.
const LIST_BYTES_MAX: u64 = 4 << 20;

/// Maximum number of descriptors of a process that are read, in a tenth of a second or so: sensors
/// wait for the same thread.
const DESCRIPTORS_MAX: usize = 1 << 16;

/// State of a listener in the list: `TCP_LISTEN`.
const LISTEN: &str = "0A";

/// Returns the inode number of a process's network namespace.
pub fn netns_of(pid: u32) -> io::Result<u32> {
    let netns = unrestricted(move || fs::metadata(format!("/proc/{pid}/ns/net")))?;
    Ok(netns.ino() as u32)
}

/// Returns the inode numbers of the listeners at an address in the network namespace of a process.
///
/// # Errors
///
/// Returns an error if the list cannot be read.
pub fn listeners_at(pid: u32, addr: SocketAddr) -> io::Result<Vec<u64>> {
    let list = if addr.is_ipv6() { "tcp6" } else { "tcp" };
    let file = File::open(format!("/proc/{pid}/net/{list}"))?;
    let mut inodes = Vec::new();
    for line in BufReader::new(file.take(LIST_BYTES_MAX)).lines().skip(1) {
        let Some(listed) = ListedSocket::parse(&line?) else { break };
        if listed.addr == addr {
            inodes.push(listed.inode);
        }
    }
    Ok(inodes)
}

/// A listener in the list.
#[derive(Debug, PartialEq)]
struct ListedSocket {
    addr: SocketAddr,
    inode: u64,
}

impl ListedSocket {
    /// Parses a line; `None` if it is no listener, and then no later line is one.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let addr = words.nth(1)?;
        let state = words.nth(1)?;
        let inode = words.nth(5)?.parse().ok()?;
        (state == LISTEN).then_some(())?;
        let (ip, port) = addr.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        // Each word is printed as a number, whose bytes in memory are in network order.
        let word = |nth: usize| {
            let digits = ip.get(nth * 8..nth * 8 + 8)?;
            u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
        };
        let ip = match ip.len() {
            8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
            32 => {
                let mut bytes = [0; 16];
                for (nth, to) in bytes.chunks_exact_mut(4).enumerate() {
                    to.copy_from_slice(&word(nth)?);
                }
                IpAddr::V6(Ipv6Addr::from(bytes))
            }
            _ => return None,
        };
        Some(Self { addr: SocketAddr::new(ip, port), inode })
    }
}

/// Returns the first descriptor of a process for each of these sockets that it holds; none if it
/// has ended.
///
/// # Errors
///
/// Returns an error if its descriptors may not be read, or are too many.
pub fn descriptors_of(pid: u32, inodes: &[u64]) -> io::Result<Vec<(u64, i32)>> {
    let wanted = inodes.to_vec();
    unrestricted(move || {
        let mut found: Vec<(u64, i32)> = Vec::new();
        let files = match fs::read_dir(format!("/proc/{pid}/fd")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            files => files?,
        };
        for (nth, file) in files.flatten().enumerate() {
            if nth == DESCRIPTORS_MAX {
                return Err(io::Error::other(format!(
                    "pid {pid} has more than {DESCRIPTORS_MAX} descriptors, and the listener is \
                     not among the first"
                )));
            }
            let Some(inode) = socket_inode(&file.path()).filter(|inode| wanted.contains(inode))
            else {
                continue;
            };
            let fd = file.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some(fd) = fd
                && !found.iter().any(|(other, _)| *other == inode)
            {
                found.push((inode, fd));
                if found.len() == wanted.len() {
                    break;
                }
            }
        }
        Ok(found)
    })
}

/// Finds a process that holds a socket, and its descriptor: `first` if it does, or any other.
///
/// # Errors
///
/// Returns an error if none is found and some may not be read, so that one of them may hold it.
pub fn holder_of(inode: u64, first: u32) -> io::Result<Option<(u32, i32)>> {
    let mut hidden = None;
    let mut of = |pid: u32| match descriptors_of(pid, &[inode]) {
        Ok(found) => found.first().map(|(_, fd)| (pid, *fd)),
        Err(error) => {
            hidden = Some(error);
            None
        }
    };
    let mut holder = of(first);
    if holder.is_none() {
        holder = pids()?.find_map(of);
    }
    match (holder, hidden) {
        (None, Some(error)) => Err(error),
        (holder, _) => Ok(holder),
    }
}

/// Lists the processes.
///
/// # Errors
///
/// Returns an error if `/proc` cannot be read.
pub fn pids() -> io::Result<impl Iterator<Item = u32>> {
    let processes = fs::read_dir("/proc")?.flatten();
    Ok(processes.filter_map(|process| process.file_name().to_str()?.parse().ok()))
}

fn socket_inode(link: &Path) -> Option<u64> {
    let target = fs::read_link(link).ok()?;
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn lines_of_listeners_are_parsed_and_others_end_the_list() {
        let v4 = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000003 00:00000000 00000000     \
                  0        0 4711 1 0000000000000000 100 0 0 10 0";
        if cfg!(target_endian = "little") {
            let listed = ListedSocket::parse(v4).unwrap();
            assert_eq!((listed.addr, listed.inode), ("127.0.0.1:8080".parse().unwrap(), 4711));
        }
        for broken in [
            String::new(),
            v4.replace(" 0A ", " 01 "),
            v4.replace("0100007F", "0100007"),
            v4.replace("4711", "inode"),
            v4.replace("0100007F", "é100007"),
        ] {
            assert_eq!(ListedSocket::parse(&broken), None, "{broken}");
        }
    }

    #[test]
    fn own_listeners_are_found_with_their_descriptor() {
        for addr in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(addr) else { continue };
            let addr = listener.local_addr().unwrap();
            let pid = std::process::id();
            let inodes = listeners_at(pid, addr).unwrap();
            assert_eq!(inodes.len(), 1, "{addr}");
            let found = descriptors_of(pid, &inodes).unwrap();
            let fd = std::os::fd::AsRawFd::as_raw_fd(&listener);
            assert_eq!(found, [(inodes[0], fd)]);
            assert_eq!(holder_of(inodes[0], pid).unwrap(), Some((pid, fd)));
            assert_eq!(holder_of(inodes[0], u32::MAX).unwrap(), Some((pid, fd)));
            drop(listener);
            assert!(listeners_at(pid, addr).unwrap().is_empty());
        }
    }
}
