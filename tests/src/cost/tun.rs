//! A TUN device in its own network namespace, and the few TCP segments that clients on another
//! machine send through it.
//!
//! The server's kernel sees them arrive from a network, so only one end of each connection is in
//! this kernel.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    net::Ipv4Addr,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::fs::OpenOptionsExt as _,
    },
    path::Path,
    ptr,
};

use anyhow::Context as _;
use spillway_tests::{Scratch, own_network};

/// Address of the server.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);
const NAME: &str = "far0";

/// Client ports, used in order: the server's kernel has forgotten one long before it is used again.
pub const PORTS: std::ops::Range<u16> = 10_000..60_000;

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// Lengths of an IPv4 header without options, alone and with a TCP header without options.
const IP_LEN: usize = 20;
const LEN: usize = 40;

/// Maximum length of a packet in either direction.
const PACKET_LEN: usize = 2_048;

/// TCP segment as the client sends or receives it.
#[derive(Debug, Clone, Copy)]
pub struct Segment {
    /// Port of the client.
    pub port: u16,
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    /// Length of the payload.
    pub len: u32,
}

/// TUN device with its file and server port.
pub struct Tun {
    file: File,
    server_port: u16,
}

impl Tun {
    /// Moves this thread to a new network namespace with a device behind which clients reach a
    /// server at `server_port`.
    pub fn open(server_port: u16) -> anyhow::Result<Self> {
        own_network().context("no network namespace; hint: the bench needs root")?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun");
        let file = file.context("opening /dev/net/tun")?;
        let mut request = interface();
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
        ioctl(file.as_raw_fd(), libc::TUNSETIFF, &mut request).context("creating a TUN device")?;
        bring_up().context("configuring the TUN device")?;
        Ok(Self { file, server_port })
    }

    /// Makes the first CPU receive every packet, as a server's network card would: otherwise the
    /// CPU time is charged to the thread that writes a packet to the device.
    pub fn taken_by_first_cpu(&self) -> anyhow::Result<()> {
        let sysfs = Scratch::make("far-sysfs");
        // /sys shows the network devices of the namespace in which it was mounted. SAFETY: unshare
        // takes a number; only this thread gets its own mount table.
        done(unsafe { libc::unshare(libc::CLONE_NEWNS) }).context("no mount namespace")?;
        mount(Path::new("/"), None, libc::MS_REC | libc::MS_PRIVATE)
            .context("making mounts private to this thread")?;
        mount(&sysfs.0, Some(c"sysfs"), 0).context("mounting sysfs")?;
        let file = sysfs.0.join("class/net").join(NAME).join("queues/rx-0/rps_cpus");
        let set = fs::write(&file, "1").with_context(|| format!("setting {}", file.display()));
        let path = std::ffi::CString::new(sysfs.0.as_os_str().as_encoded_bytes())?;
        // SAFETY: umount2 reads a NUL-terminated string, which lives until it returns.
        done(unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) })
            .context("unmounting sysfs")?;
        set
    }

    /// Sets the port of the server, once it is known.
    pub fn serve_at(&mut self, server_port: u16) {
        self.server_port = server_port;
    }

    /// Sends a segment with `data` as its payload.
    pub fn send(
        &mut self,
        Segment { port, flags, seq, ack, .. }: Segment,
        data: &[u8],
    ) -> io::Result<()> {
        let mut packet = [0; PACKET_LEN];
        let packet = &mut packet[..LEN + data.len()];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&((LEN + data.len()) as u16).to_be_bytes());
        packet[8] = 64;
        packet[9] = libc::IPPROTO_TCP as u8;
        packet[12..16].copy_from_slice(&CLIENT.octets());
        packet[16..20].copy_from_slice(&SERVER.octets());
        let sum = checksum(0, &packet[..IP_LEN]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        let tcp = &mut packet[IP_LEN..];
        tcp[..2].copy_from_slice(&port.to_be_bytes());
        tcp[2..4].copy_from_slice(&self.server_port.to_be_bytes());
        tcp[4..8].copy_from_slice(&seq.to_be_bytes());
        tcp[8..12].copy_from_slice(&ack.to_be_bytes());
        tcp[12] = 0x50;
        tcp[13] = flags;
        tcp[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
        tcp[LEN - IP_LEN..].copy_from_slice(data);
        // TCP's checksum also covers a pseudo-header, whose addresses are in the packet.
        let sum =
            checksum(libc::IPPROTO_TCP as u32 + (packet.len() - IP_LEN) as u32, &packet[12..]);
        packet[36..38].copy_from_slice(&sum.to_be_bytes());
        self.file.write_all(packet)
    }

    /// Next segment, or `None` if there is none yet. Skips packets that are not TCP.
    pub fn receive(&mut self) -> io::Result<Option<Segment>> {
        let mut packet = [0; PACKET_LEN];
        loop {
            let len = match self.file.read(&mut packet) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                read => read?,
            };
            let ip_len = usize::from(packet[0] & 15) * 4;
            if packet[0] >> 4 != 4 || packet[9] != libc::IPPROTO_TCP as u8 || len < ip_len + 20 {
                continue;
            }
            let tcp = &packet[ip_len..len];
            let number =
                |at: usize| u32::from_be_bytes([tcp[at], tcp[at + 1], tcp[at + 2], tcp[at + 3]]);
            let data_len = tcp.len().saturating_sub(usize::from(tcp[12] >> 4) * 4) as u32;
            let port = u16::from_be_bytes([tcp[2], tcp[3]]);
            return Ok(Some(Segment {
                port,
                flags: tcp[13],
                seq: number(4),
                ack: number(8),
                len: data_len,
            }));
        }
    }

    /// Waits for a packet, for longer than a kernel waits before it retransmits.
    pub fn wait(&self) -> io::Result<()> {
        let mut poll = libc::pollfd { fd: self.file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: the kernel reads and writes one pollfd, which lives until it returns.
        match done(unsafe { libc::poll(&raw mut poll, 1, 2_000) })? {
            0 => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    }
}

/// Internet checksum, continued from the sum `before`.
fn checksum(before: u32, bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])));
    let sum = before + words.sum::<u32>();
    let sum = (sum & 0xFFFF) + (sum >> 16);
    !((sum & 0xFFFF) + (sum >> 16)) as u16
}

fn interface() -> libc::ifreq {
    // SAFETY: ifreq is plain data, for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(NAME.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

fn bring_up() -> io::Result<()> {
    // SAFETY: socket takes three integers.
    let socket =
        done(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the kernel made this descriptor for us alone.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    for (what, addr) in [(libc::SIOCSIFADDR, SERVER), (libc::SIOCSIFNETMASK, NETMASK)] {
        let mut request = interface();
        let addr = libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: 0,
            sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(addr.octets()) },
            sin_zero: [0; 8],
        };
        // SAFETY: both are 16 bytes of plain data whose layout depends on the family.
        request.ifr_ifru.ifru_addr =
            unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(addr) };
        ioctl(socket.as_raw_fd(), what, &mut request)?;
    }
    let mut request = interface();
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &mut request)
}

/// Mounts a file system of this kind, or changes the propagation of a mount.
fn mount(place: &Path, kind: Option<&std::ffi::CStr>, flags: libc::c_ulong) -> io::Result<()> {
    let place = std::ffi::CString::new(place.as_os_str().as_encoded_bytes())?;
    let kind = kind.map_or(ptr::null(), std::ffi::CStr::as_ptr);
    // SAFETY: mount reads NUL-terminated strings that live until it returns, or nothing.
    done(unsafe { libc::mount(kind, place.as_ptr(), kind, flags, ptr::null()) }).map(drop)
}

fn ioctl(fd: i32, what: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: each of these reads or writes one ifreq, which lives until it returns.
    done(unsafe { libc::ioctl(fd, what, &raw mut *request) }).map(drop)
}

fn done(returned: libc::c_int) -> io::Result<libc::c_int> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(returned) }
}
