//! A client on another machine, as a server's kernel sees one: it speaks TCP through a TUN device, in a few packets made by hand, so
//! that a connection has one end alone in this kernel.
//!
//! It knows a connection that all goes well with and nothing else: what is lost or comes otherwise than expected is an error.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::fs::OpenOptionsExt as _,
    },
};

use anyhow::{Context as _, bail};
use spillway_tests::own_network;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);

const FIN: u8 = 1;
const SYN: u8 = 2;
const ACK: u8 = 16;

/// The client's ports, one after the other: the server's kernel is done with one long before it comes again.
const PORTS: std::ops::Range<u16> = 10_000..60_000;

/// Lengths of an IPv4 and a TCP header without options.
const IP_LEN: usize = 20;
const LEN: usize = 40;

/// A listener in a network of its own, and the client that reaches it.
pub struct FarClient {
    tun: File,
    listener: TcpListener,
    port: u16,
    server_port: u16,
}

impl FarClient {
    /// Moves this thread to a network namespace of its own, with them both.
    pub fn start() -> anyhow::Result<Self> {
        own_network().context("no network namespace; hint: the bench needs root")?;
        let tun = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun");
        let tun = tun.context("/dev/net/tun cannot be opened")?;
        let mut request = interface();
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
        ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &mut request).context("no TUN device can be made")?;
        bring_up().context("the TUN device cannot be configured")?;
        let listener = TcpListener::bind((SERVER, 0))?;
        let server_port = listener.local_addr()?.port();
        Ok(Self { tun, listener, port: PORTS.start, server_port })
    }

    /// A connection from its first packet to its last.
    pub fn connect(&mut self) -> anyhow::Result<()> {
        self.port = if self.port + 1 < PORTS.end { self.port + 1 } else { PORTS.start };
        // Any number does; the server's is what it says.
        let ours = u32::from(self.port) << 8;
        self.send(SYN, ours, 0)?;
        let theirs = self.receive(SYN | ACK)?.wrapping_add(1);
        self.send(ACK, ours + 1, theirs)?;
        let (accepted, _) = self.listener.accept()?;
        self.send(FIN | ACK, ours + 1, theirs)?;
        drop(accepted);
        self.receive(FIN | ACK)?;
        self.send(ACK, ours + 2, theirs.wrapping_add(1))
    }

    fn send(&mut self, flags: u8, seq: u32, ack: u32) -> anyhow::Result<()> {
        let mut packet = [0; LEN];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&(LEN as u16).to_be_bytes());
        packet[8] = 64;
        packet[9] = libc::IPPROTO_TCP as u8;
        packet[12..16].copy_from_slice(&CLIENT.octets());
        packet[16..20].copy_from_slice(&SERVER.octets());
        let sum = checksum(0, &packet[..IP_LEN]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        let tcp = &mut packet[IP_LEN..];
        tcp[..2].copy_from_slice(&self.port.to_be_bytes());
        tcp[2..4].copy_from_slice(&self.server_port.to_be_bytes());
        tcp[4..8].copy_from_slice(&seq.to_be_bytes());
        tcp[8..12].copy_from_slice(&ack.to_be_bytes());
        tcp[12] = 0x50;
        tcp[13] = flags;
        tcp[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
        // Of the header that TCP's checksum is over as well, the addresses are in the packet.
        let sum = checksum(libc::IPPROTO_TCP as u32 + (LEN - IP_LEN) as u32, &packet[12..]);
        packet[36..38].copy_from_slice(&sum.to_be_bytes());
        Ok(self.tun.write_all(&packet)?)
    }

    /// The sequence number of the next packet of our connection with these flags; others are passed over.
    fn receive(&mut self, flags: u8) -> anyhow::Result<u32> {
        let mut packet = [0; 256];
        loop {
            let len = match self.tun.read(&mut packet) {
                // The server's kernel answers while it takes a packet, unless it has much to do and puts that off.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait(&self.tun).with_context(|| format!("no packet with flags {flags:#x} came"))?;
                    continue;
                }
                read => read?,
            };
            let (header_len, tcp) = (usize::from(packet[0] & 15) * 4, usize::from(packet[9]));
            if packet[0] >> 4 != 4 || tcp != libc::IPPROTO_TCP as usize || len < header_len + 20 {
                continue;
            }
            let tcp = &packet[header_len..];
            if tcp[2..4] != self.port.to_be_bytes() {
                continue;
            }
            match tcp[13] {
                found if found == flags => return Ok(u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]])),
                ACK => {}
                other => bail!("a packet with flags {other:#x} came, not {flags:#x}"),
            }
        }
    }
}

/// Waits until there is something to read, for a second at most.
fn wait(tun: &File) -> io::Result<()> {
    let mut poll = libc::pollfd { fd: tun.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: the kernel reads and writes one pollfd, which lives until it returns.
    match unsafe { libc::poll(&raw mut poll, 1, 1_000) } {
        1.. => Ok(()),
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The Internet's checksum, of an even number of bytes and what is summed up before.
fn checksum(before: u32, bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum = before + words.sum::<u32>();
    let sum = (sum & 0xFFFF) + (sum >> 16);
    !((sum & 0xFFFF) + (sum >> 16)) as u16
}

fn interface() -> libc::ifreq {
    // SAFETY: ifreq is plain data, for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"far0") {
        *to = *from as libc::c_char;
    }
    request
}

fn bring_up() -> io::Result<()> {
    // SAFETY: socket takes three integers.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
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
        // SAFETY: both are 16 bytes of plain data, of which the family tells the form.
        request.ifr_ifru.ifru_addr = unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(addr) };
        ioctl(socket.as_raw_fd(), what, &mut request)?;
    }
    let mut request = interface();
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &mut request)
}

fn ioctl(fd: i32, what: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: each of these reads or writes one ifreq, which lives until it returns.
    match unsafe { libc::ioctl(fd, what, &raw mut *request) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
