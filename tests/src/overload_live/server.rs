//! Servers, and their capacities.

use std::{net::SocketAddr, thread::sleep, time::Duration};

use crate::{Program, Workload};

use super::{
    stage::{Stage, workload},
    truth::Counters,
};

/// Threads of the thread-per-connection server, and the time that each connection takes one: a
/// thousand connections per second with the CPUs all but idle, so that neither load nor agent
/// reduces its capacity.
pub const THREADS: u32 = 400;
const SERVICE: &str = "400ms";

/// Connections that HAProxy serves at once, and the time of each: a thousand per second here too.
const MAXCONN: u32 = 100;
const HELD: Duration = Duration::from_millis(100);

/// Size of the page that nginx compresses for each connection, about a millisecond of work: its one
/// worker is then saturated by as many connections per second as wrk makes with a tenth of a CPU.
const PAGE_BYTES: usize = 32_000;

/// Connections that wait while a capacity is measured: the server is never idle, and its backlog
/// never full.
const SATURATING: u32 = 32;
/// Duration of the measurement, after the time until connections arrive evenly.
const MEASURED: Duration = Duration::from_millis(1_500);
const SETTLES: Duration = Duration::from_secs(1);

/// Duration of a garbage-collection pause, and the interval between two.
pub const GC_PAUSE: Duration = Duration::from_millis(200);
/// See [`GC_PAUSE`].
pub const GC_EVERY: Duration = Duration::from_secs(3);

/// Server under load; stopped when dropped.
pub enum Server {
    /// nginx or HAProxy.
    Debian {
        /// First process.
        program: Program,
    },
    /// Threaded server.
    Threads(Workload),
}

/// Kind of server.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Event loop bound by a CPU, with its default backlog of 511. Other processes may slow its
    /// CPU.
    Nginx,
    /// Event loop bound by `maxconn`, whatever other processes do.
    Haproxy,
    /// One thread per connection, and this backlog.
    Threads {
        /// Maximum number of waiting connections.
        backlog: u32,
    },
}

impl Kind {
    /// Returns how many connections it serves at once.
    pub fn at_once(self) -> u32 {
        match self {
            Self::Nginx => 1,
            Self::Haproxy => MAXCONN,
            Self::Threads { .. } => THREADS,
        }
    }
}

impl Server {
    /// Starts it on an address of its own.
    pub fn start(stage: &mut Stage, kind: Kind) -> (Self, SocketAddr) {
        let addr = stage.fresh_addr();
        let dir = stage.dir(addr);
        let server = match kind {
            Kind::Nginx => Self::Debian { program: stage.servers.nginx(&dir, addr, &page()) },
            Kind::Haproxy => {
                Self::Debian { program: stage.servers.haproxy(&dir, addr, MAXCONN, HELD) }
            }
            Kind::Threads { backlog } => {
                let (addr, backlog) = (format!("--addr={addr}"), format!("--backlog={backlog}"));
                let (threads, service) =
                    (format!("--threads={THREADS}"), format!("--service={SERVICE}"));
                Self::Threads(workload(&["serve", &addr, &backlog, &threads, &service]))
            }
        };
        (server, addr)
    }

    /// Returns the connections that a server of this kind completes per second under wrk, if it is
    /// never idle. It is a different one from those that are judged: its queue stands, and rightly
    /// so.
    pub fn capacity_per_sec(stage: &mut Stage, kind: Kind) -> f64 {
        let (_server, addr) = Self::start(stage, kind);
        let lasting = SETTLES + 2 * MEASURED;
        let wrk =
            &mut stage.servers.wrk(addr, kind.at_once() + SATURATING, lasting.as_secs() as u32);
        let _wrk = Program::start(wrk);
        sleep(SETTLES);
        let mut counters = Counters::open(1).expect("cannot read the namespace's counters");
        let mut sample = || counters.look().expect("cannot read the namespace's counters");
        let first = sample();
        sleep(MEASURED);
        let last = sample();
        // wrk opens a connection for each that is answered.
        (last.arrived - first.arrived) as f64 / (last.at - first.at).as_secs_f64()
    }

    /// Stops the process for that long, and continues it.
    pub fn pause(&self, lasting: Duration) {
        self.signal(libc::SIGSTOP);
        sleep(lasting);
        self.signal(libc::SIGCONT);
    }

    /// Sends a signal to the threaded server.
    pub fn signal(&self, signal: libc::c_int) {
        let Self::Threads(workload) = self else {
            panic!("only the threaded server has a single process")
        };
        // SAFETY: a signal to a child that was not waited for yet.
        let sent = unsafe { libc::kill(workload.pid() as i32, signal) };
        assert_eq!(sent, 0, "the server is gone");
    }
}

/// Returns the page that nginx compresses for each connection: lines of numbers.
pub fn page() -> Vec<u8> {
    let mut page: Vec<u8> = (1..PAGE_BYTES).flat_map(|n| format!("{n}\n").into_bytes()).collect();
    page.truncate(PAGE_BYTES);
    page
}
