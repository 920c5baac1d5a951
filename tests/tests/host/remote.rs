//! Connections from another host, over a pair of virtual Ethernet devices between two network
//! namespaces, and connections of a host to itself, to any of its addresses.

use std::{
    fs::File,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    process::{Child, Command, Stdio},
    thread,
};

use spillway_agent::{
    bpf::Probe,
    sense::{ListenerFact, Sensors},
};
use spillway_tests::{is_root, listeners, own_network, sensors_with, skip};

const HERE: &str = "10.77.3.1";
const HERE_V6: &str = "fd77:3::1";

/// Other host: a network namespace at the far end of a virtual cable. It ends when dropped.
struct Neighbour(Child);

impl Neighbour {
    /// Creates the host. This thread must already be in its own namespace.
    fn start() -> Result<Self, String> {
        let mut command = Command::new("sleep");
        command.arg("60").stdout(Stdio::null());
        // SAFETY: between fork and exec the closure makes a single system call and does not
        // allocate.
        let command = unsafe {
            command.pre_exec(|| match libc::unshare(libc::CLONE_NEWNET) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            })
        };
        let other =
            Self(command.spawn().map_err(|error| format!("no network namespace: {error}"))?);
        let pid = other.0.id().to_string();
        run(
            "ip",
            &["link", "add", "here0", "type", "veth", "peer", "name", "there0", "netns", &pid],
        )?;
        for (addr, link) in [("10.77.3.1/24", "here0"), ("fd77:3::1/64", "here0")] {
            run("ip", &["addr", "add", addr, "dev", link, "nodad"])?;
        }
        run("ip", &["link", "set", "here0", "up"])?;
        let inside = ["-t", &pid, "-n", "ip"];
        for more in [
            &["addr", "add", "10.77.3.2/24", "dev", "there0"][..],
            &["addr", "add", "fd77:3::2/64", "dev", "there0", "nodad"],
            &["link", "set", "there0", "up"],
        ] {
            run("nsenter", &[&inside, more].concat())?;
        }
        Ok(other)
    }

    /// Connects `count` times from the other host, one after the other.
    fn connects(&self, to: SocketAddr, count: usize) -> Vec<TcpStream> {
        let namespace =
            File::open(format!("/proc/{}/ns/net", self.0.id())).expect("the other host exists");
        let inside = move || {
            // SAFETY: setns takes two integers and affects this thread alone.
            assert_eq!(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
            (0..count).map(|_| TcpStream::connect(to).expect("the server can be reached")).collect()
        };
        thread::spawn(inside).join().expect("connecting does not panic")
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    match Command::new(program).args(args).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!(
            "{program} {}: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(error) => Err(format!("no {program}: {error}")),
    }
}

/// Reads how many connections a listener got, and how many of them came from another host.
fn arrivals(sensors: &mut Sensors, netns: u32, addr: SocketAddr) -> (Option<u64>, Option<u64>) {
    let facts: Vec<ListenerFact> = listeners(sensors, 0.0);
    let fact = facts
        .iter()
        .find(|fact| fact.netns == netns && *fact.addr == *addr.to_string())
        .expect("the listener is seen");
    (fact.arrived_total, fact.remote_arrived_total)
}

#[test]
fn local_connections_are_not_counted_as_remote() {
    let test = "local_connections_are_not_counted_as_remote";
    if !is_root(test) {
        return;
    }
    let Some(mut sensors) = sensors_with(Probe::AcceptQueue, test) else { return };
    let inside = move || {
        let netns = own_network().expect("root can create a network namespace");
        let other = match Neighbour::start() {
            Ok(other) => other,
            Err(reason) => return skip(test, &reason),
        };
        // The address that the server binds, and the one that clients connect to.
        let mut held = Vec::new();
        for (listens, by) in
            [(HERE, HERE), ("0.0.0.0", HERE), (HERE_V6, HERE_V6), ("::", HERE_V6), ("::", HERE)]
        {
            let ip: IpAddr = listens.parse().expect("the address is valid");
            let server = TcpListener::bind((ip, 0)).expect("a port is free");
            let at = server.local_addr().expect("the server has an address");
            let by = SocketAddr::new(by.parse().expect("the address is valid"), at.port());
            held.extend((0..5).map(|_| TcpStream::connect(by).expect("the server can be reached")));
            assert_eq!(
                arrivals(&mut sensors, netns, at),
                (Some(5), Some(0)),
                "{at} from this host, by its outer address"
            );
            held.extend(other.connects(by, 7));
            assert_eq!(
                arrivals(&mut sensors, netns, at),
                (Some(12), Some(7)),
                "{at} from the other host"
            );
        }
        let mut netlink = Sensors::without_bpf("this test compares");
        assert!(
            listeners(&mut netlink, 0.0).iter().all(|fact| fact.remote_arrived_total == Some(0))
        );
    };
    thread::spawn(inside).join().expect("the check passes");
}
