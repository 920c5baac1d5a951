//! HAProxy with a file of `configs/haproxy/`, adapted to the addresses of this host.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use super::SOON;
use crate::{Program, Scratch, Servers, now, wait_for};

/// Returns an address that nothing listens on.
///
/// # Panics
///
/// Panics if loopback has no free port.
pub fn free_addr() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has no free port");
    listener.local_addr().expect("the listener has no address")
}

/// Running HAProxy; stopped when dropped.
pub struct Balancer {
    _haproxy: Program,
    /// Address on which it takes requests.
    pub addr: SocketAddr,
    socket: PathBuf,
}

impl Balancer {
    /// Starts it with `file` before these nodes, the first of which has its agent at `agent`. The
    /// others have none, which changes nothing.
    ///
    /// # Panics
    ///
    /// Panics if HAProxy objects to the file, or does not listen.
    pub fn start(
        servers: &Servers,
        scratch: &Scratch,
        file: &str,
        nodes: [SocketAddr; 3],
        agent: SocketAddr,
    ) -> Self {
        let (addr, socket, dead) = (free_addr(), scratch.0.join("admin.sock"), free_addr());
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/haproxy").join(file);
        assert_eq!(servers.haproxy_objects_to(&shipped), "", "{file}");
        let mut text = fs::read_to_string(shipped).expect("cannot read the shipped file");
        let mut replace = |from: &str, to: &str| {
            assert!(text.contains(from), "{from} is missing in {file}");
            text = text.replace(from, to);
        };
        replace("10.0.0.10:80\n", &format!("{addr}\n"));
        replace("/run/haproxy/admin.sock", &socket.display().to_string());
        for (nth, node) in nodes.iter().enumerate() {
            let own = format!("10.0.0.1{}", nth + 1);
            replace(&format!("{own}:8080"), &node.to_string());
            match file {
                "agent-check.cfg" => {
                    let port = if nth == 0 { agent.port() } else { dead.port() };
                    replace(
                        &format!("agent-addr {own} agent-port 9647"),
                        &format!("agent-addr 127.0.0.1 agent-port {port}"),
                    );
                }
                _ => replace(&format!("addr {own}"), "addr 127.0.0.1"),
            }
        }
        if file == "ready.cfg" {
            replace("port 9646", &format!("port {}", agent.port()));
        }
        let config = scratch.file(file, &text);
        Self { _haproxy: servers.haproxy_with(&config, addr), addr, socket }
    }

    /// Starts it with `agent-check.cfg` and the addresses in it, before the first two of its nodes,
    /// in a network that has them.
    ///
    /// # Panics
    ///
    /// Panics if HAProxy does not listen.
    pub fn as_shipped(servers: &Servers, scratch: &Scratch) -> Self {
        let (addr, socket) = (SocketAddr::from(([10, 0, 0, 10], 80)), scratch.0.join("admin.sock"));
        let shipped =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/haproxy/agent-check.cfg");
        let text = fs::read_to_string(shipped).expect("cannot read the shipped file");
        let text = text.replace("/run/haproxy/admin.sock", &socket.display().to_string());
        let two: Vec<_> = text.lines().filter(|line| !line.contains("server web-3 ")).collect();
        let config = scratch.file("haproxy.cfg", &(two.join("\n") + "\n"));
        Self { _haproxy: servers.haproxy_with(&config, addr), addr, socket }
    }

    /// Returns HAProxy's value for a server, by the name of the column.
    pub fn shows(&self, server: &str, column: &str) -> Option<String> {
        let mut stream = UnixStream::connect(&self.socket).ok()?;
        stream.write_all(b"show stat\n").ok()?;
        let mut table = String::new();
        stream.read_to_string(&mut table).ok()?;
        let mut lines = table.lines();
        let at =
            lines.next()?.trim_start_matches("# ").split(',').position(|name| name == column)?;
        let row = lines.find(|line| line.starts_with(&format!("nodes,{server},")))?;
        row.split(',').nth(at).map(str::to_owned)
    }

    /// Returns whether a server has this status.
    pub fn is(&self, server: &str, status: &str) -> bool {
        self.shows(server, "status").is_some_and(|shown| shown.starts_with(status))
    }

    /// Waits until a server has this status; returns how long that took.
    ///
    /// # Panics
    ///
    /// Panics if it takes too long.
    pub fn until(&self, server: &str, status: &str) -> Duration {
        let begun = now();
        let shown = wait_for(SOON, || self.is(server, status).then_some(()));
        assert!(
            shown.is_some(),
            "{server} is {:?}, expected {status}",
            self.shows(server, "status")
        );
        begun.elapsed()
    }
}
