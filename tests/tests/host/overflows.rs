//! Packets that a listener discards although its queue is not full, and connections that did find
//! it full. Each test runs in its own network namespace, with and without BPF.

use std::{
    fs,
    net::{SocketAddr, SocketAddrV4, TcpStream},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    process::Command,
    thread,
    time::Duration,
};

use spillway_agent::{bpf::Probe, sense::Sensors};
use spillway_tests::{Workload, is_root, listeners, own_network, sensors_with, wait_for};

const SCANS: u32 = 500;

fn listen(args: &[&str]) -> Workload {
    Workload::start(Command::new(env!("CARGO_BIN_EXE_workload")).arg("listen").args(args))
}

/// Overflows of the listener at `addr` in a single scan.
fn overflows(sensors: &mut Sensors, netns: u32, addr: SocketAddr) -> u64 {
    let facts = listeners(sensors, 0.0);
    let fact = facts.iter().find(|fact| fact.netns == netns && *fact.addr == *addr.to_string());
    fact.expect("the listener is seen").overflows_total.expect("overflows are counted")
}

/// Reads a counter of this thread's network namespace.
fn netstat(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/netstat").expect("netstat can be read");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) =
        (lines.next().expect("netstat has names"), lines.next().expect("netstat has values"));
    let mut columns = names.split(' ').zip(values.split(' '));
    columns
        .find(|(column, _)| *column == name)
        .and_then(|(_, value)| value.parse().ok())
        .expect("the kernel has this counter")
}

/// Reports whether the only listener at this port has dropped at least `packets` packets, by `ss`.
/// Returns true if `ss` is not installed.
fn has_dropped(addr: SocketAddr, packets: u64) -> bool {
    let port = format!(":{}", addr.port());
    let Ok(output) = Command::new("ss").args(["-Htlnm", "sport", "=", &port]).output() else {
        return true;
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let memory = text
        .split("skmem:(")
        .nth(1)
        .and_then(|rest| rest.split(')').next())
        .expect("ss prints memory");
    memory
        .rsplit(",d")
        .next()
        .and_then(|count| count.parse().ok())
        .is_some_and(|count: u64| count >= packets)
}

/// Sends FIN segments that belong to no connection to a listener.
fn fin_scan(to: SocketAddr, count: u32) {
    let SocketAddr::V4(to) = to else { panic!("an IPv4 address") };
    // SAFETY: socket takes three integers.
    let fd = unsafe {
        libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_TCP)
    };
    assert!(fd >= 0, "no raw socket: {}", std::io::Error::last_os_error());
    // SAFETY: the descriptor was just created and has no other owner.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(to.ip().octets()) },
        sin_zero: [0; 8],
    };
    for n in 0..count {
        let segment = fin(to, 40_000 + (n % 20_000) as u16);
        // SAFETY: sendto reads the bytes and an address of the given size, which all live here.
        let sent = unsafe {
            let size = size_of_val(&address) as libc::socklen_t;
            let (bytes, length) = (segment.as_ptr().cast(), segment.len());
            libc::sendto(socket.as_raw_fd(), bytes, length, 0, (&raw const address).cast(), size)
        };
        assert_eq!(sent, segment.len() as isize, "{}", std::io::Error::last_os_error());
    }
}

/// Builds a TCP header with only FIN set, from this port of the same address.
fn fin(to: SocketAddrV4, from: u16) -> [u8; 20] {
    const FIN: u8 = 1;
    let mut segment = [0; 20];
    segment[0..2].copy_from_slice(&from.to_be_bytes());
    segment[2..4].copy_from_slice(&to.port().to_be_bytes());
    (segment[12], segment[13], segment[14]) = (5 << 4, FIN, 4);
    let ip = to.ip().octets();
    let pseudo = [&ip[..], &ip, &[0, 6, 0, 20], &segment].concat();
    let sum: u32 =
        pseudo.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = (sum & 0xFFFF) + (sum >> 16);
    segment[16..18].copy_from_slice(&(!((sum & 0xFFFF) + (sum >> 16)) as u16).to_be_bytes());
    segment
}

/// Runs a check in a network namespace, with BPF if it is available, and without.
fn both_ways(test: &str, check: fn(&mut Sensors, u32)) {
    if !is_root(test) {
        return;
    }
    let by_bpf = sensors_with(Probe::AcceptQueue, test);
    for mut sensors in by_bpf.into_iter().chain([Sensors::without_bpf("this test compares")]) {
        let one = move || {
            check(&mut sensors, own_network().expect("root can create a network namespace"))
        };
        thread::spawn(one).join().expect("the check passes");
    }
}

#[test]
fn deferred_connections_are_no_overflows() {
    both_ways("deferred_connections_are_no_overflows", |sensors, netns| {
        let listener = listen(&["--defer", "--backlog=128"]);
        assert_eq!(overflows(sensors, netns, listener.addr()), 0);
        for round in 1..=3 {
            let _clients: Vec<_> = (0..20)
                .map(|_| TcpStream::connect(listener.addr()).expect("the listener accepts"))
                .collect();
            assert!(
                netstat("TCPDeferAcceptDrop") >= 20 * round,
                "too few connections were deferred"
            );
            assert!(has_dropped(listener.addr(), 20 * round), "a deferred connection is no drop");
            assert_eq!(overflows(sensors, netns, listener.addr()), 0, "round {round}");
        }
        assert_eq!(netstat("ListenOverflows"), 0);
    });
}

#[test]
fn fin_scan_is_no_overflow_beside_a_real_one() {
    both_ways("fin_scan_is_no_overflow_beside_a_real_one", |sensors, netns| {
        let scanned = listen(&["--backlog=128", "--pending=3"]);
        assert_eq!(overflows(sensors, netns, scanned.addr()), 0);
        fin_scan(scanned.addr(), SCANS);
        let all = wait_for(Duration::from_secs(5), || {
            has_dropped(scanned.addr(), SCANS.into()).then_some(())
        });
        assert!(all.is_some(), "a segment was not dropped");
        assert_eq!(overflows(sensors, netns, scanned.addr()), 0);
        let full = listen(&["--backlog=2", "--pending=8"]);
        fin_scan(scanned.addr(), SCANS);
        assert_eq!(overflows(sensors, netns, scanned.addr()), 0);
        let counted = overflows(sensors, netns, full.addr());
        assert!(
            (1..=netstat("ListenOverflows")).contains(&counted),
            "{counted} of {}",
            netstat("ListenOverflows")
        );
    });
}

#[test]
fn queue_filling_under_watch_counts_every_overflow() {
    both_ways("queue_filling_under_watch_counts_every_overflow", |sensors, netns| {
        let listener = listen(&["--backlog=4"]);
        assert_eq!(overflows(sensors, netns, listener.addr()), 0);
        let addr = listener.addr();
        // Clients beyond the queue's limit retry until the end of the test.
        let clients: Vec<_> = (0..12)
            .map(|_| {
                thread::spawn(move || TcpStream::connect_timeout(&addr, Duration::from_secs(3)))
            })
            .collect();
        let mut counted = 0;
        for client in clients {
            counted = counted.max(overflows(sensors, netns, addr));
            drop(client.join().expect("a client does not panic"));
        }
        counted = counted.max(overflows(sensors, netns, addr));
        let truth = netstat("ListenOverflows");
        assert!(truth >= 7, "{truth} overflows");
        assert_eq!(counted, truth);
    });
}
