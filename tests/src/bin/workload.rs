//! The small real programs that Spillway is shown: in the demo, in host tests, in benchmarks.
//!
//! Each prints one JSON line when it is ready (`{"pid":…,"addr":…}`), ends on SIGTERM, dies with
//! its parent, and is bounded in memory, sockets and processes. Network ones talk to the address
//! they are given and are meant for loopback. It uses nothing of the agent, so that what is
//! measured shares no mistake with what measures.

#[path = "../workload/connects.rs"]
mod connects;
#[path = "../workload/handles.rs"]
mod handles;
#[path = "../workload/memory.rs"]
mod memory;
#[path = "../workload/offer.rs"]
mod offer;
#[path = "../workload/processes.rs"]
mod processes;
#[path = "../workload/server.rs"]
mod server;
#[path = "../workload/sockets.rs"]
mod sockets;
#[path = "../workload/system.rs"]
mod system;
#[path = "../workload/table.rs"]
mod table;
#[path = "../workload/unix.rs"]
mod unix;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use offer::Offer;
use server::Service;
use system::{parse_duration, parse_size};

/// Small real programs for Spillway to watch.
#[derive(Debug, Parser)]
#[command(after_help = "Examples:\n  \
    workload leak --rate 4MiB\n  \
    workload cache --rate 6MiB --size 90MiB\n  \
    workload stuck-server --addr 127.0.0.1:0 --backlog 128 --healthy-for 8s\n\n\
    Sizes are bytes or carry KiB, MiB, GiB; durations are seconds or carry ms, s, m.")]
struct Cli {
    /// What the process calls itself, at most 15 bytes
    #[arg(long, global = true)]
    name: Option<String>,
    /// Have the kernel give it pages of the usual size alone, and gather none of them into huge
    /// ones later
    #[arg(long, global = true)]
    small_pages: bool,
    #[command(subcommand)]
    workload: Workload,
}

#[derive(Debug, Subcommand)]
enum Workload {
    /// Allocate, touch and forget, without end
    Leak {
        /// Bytes a second
        #[arg(long, value_parser = parse_size)]
        rate: u64,
        /// Stop growing here, for safety
        #[arg(long, value_parser = parse_size, default_value = "1GiB")]
        limit: u64,
        /// Wait so long first
        #[arg(long, value_parser = parse_duration, default_value = "0s")]
        after: Duration,
    },
    /// Grow to a size, then serve from it
    Cache {
        /// Bytes a second while it fills
        #[arg(long, value_parser = parse_size)]
        rate: u64,
        /// Where it stops growing
        #[arg(long, value_parser = parse_size)]
        size: u64,
    },
    /// Touch exactly so many bytes of each kind (rounded up to pages), then wait
    Touch {
        /// Private anonymous memory
        #[arg(long, value_parser = parse_size, default_value = "0")]
        anon_bytes: u64,
        /// Map so much of it, where that is more, and leave the rest untouched
        #[arg(long, value_parser = parse_size, default_value = "0")]
        mapped_bytes: u64,
        /// A mapped file on a disk
        #[arg(long, value_parser = parse_size, default_value = "0")]
        file_bytes: u64,
        /// Shared memory (a memfd)
        #[arg(long, value_parser = parse_size, default_value = "0")]
        shmem_bytes: u64,
        /// Touch the anonymous memory from so many threads, each on a CPU of its own where there
        /// are enough
        #[arg(long, default_value_t = 1)]
        threads: u32,
    },
    /// Write here and there in so much memory, without end
    Roam {
        /// How much
        #[arg(long, value_parser = parse_size)]
        size: u64,
        /// From so many threads at once
        #[arg(long, default_value_t = 4)]
        threads: u32,
    },
    /// Take some memory, touch it and give it back, as fast as possible and without end
    Swell {
        /// The most at once
        #[arg(long, value_parser = parse_size)]
        most: u64,
        /// Which amounts, of those that there may be
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Allocate and free as fast as possible, then print operations a second
    AllocLoop {
        /// How long
        #[arg(long, default_value_t = 5.0)]
        secs: f64,
        /// Take a fresh MiB every so many operations
        #[arg(long, default_value_t = 65_536)]
        grow_every: u64,
    },
    /// Serve for a while, then stop accepting and keep listening
    StuckServer {
        /// Where to listen; port 0 picks one
        #[arg(long, default_value = "127.0.0.1:0")]
        addr: SocketAddr,
        /// The accept queue's limit
        #[arg(long, default_value_t = 128)]
        backlog: i32,
        /// How long it serves
        #[arg(long, value_parser = parse_duration, default_value = "8s")]
        healthy_for: Duration,
    },
    /// Keep connecting, never blocking
    Clients {
        /// Whom
        #[arg(long)]
        addr: SocketAddr,
        /// Connections a second
        #[arg(long, default_value_t = 10.0)]
        rate_per_sec: f64,
        /// How long
        #[arg(long = "for", value_parser = parse_duration, default_value = "120s")]
        lasting: Duration,
    },
    /// Serve HTTP with so many threads, one connection each at a time, a known time for each
    Serve {
        /// Where to listen; port 0 picks one
        #[arg(long, default_value = "127.0.0.1:0")]
        addr: SocketAddr,
        /// The accept queue's limit
        #[arg(long, default_value_t = 128)]
        backlog: i32,
        /// How many connections are served at once
        #[arg(long, default_value_t = 64)]
        threads: u32,
        /// Mean time that a connection takes
        #[arg(long, value_parser = parse_duration, default_value = "50ms")]
        service: Duration,
        /// Spend that time computing, not waiting
        #[arg(long)]
        burn: bool,
        /// Forget so many bytes with each connection
        #[arg(long, value_parser = parse_size, default_value = "0")]
        leak: u64,
    },
    /// Answer from a table in memory, of which each request reads some rows
    Table {
        /// Where to listen; port 0 picks one
        #[arg(long, default_value = "127.0.0.1:0")]
        addr: SocketAddr,
        /// The table
        #[arg(long, value_parser = parse_size)]
        size: u64,
        /// How many a request reads, each on a page of its own
        #[arg(long, default_value_t = 64)]
        rows: u32,
    },
    /// Open connections at a rate, whatever became of those before, and ask HTTP
    Offer {
        /// Whom
        #[arg(long)]
        addr: SocketAddr,
        /// Connections a second
        #[arg(long)]
        rate_per_sec: f64,
        /// Connections a second in the end, where they become more
        #[arg(long)]
        to_rate_per_sec: Option<f64>,
        /// How long they take to the last
        #[arg(long, value_parser = parse_duration, default_value = "0s")]
        ramp: Duration,
        /// Stay at the first rate for so long, then as long at the last, and so on in turn
        #[arg(long, value_parser = parse_duration, default_value = "0s")]
        alternate_every: Duration,
        /// Longest that a client waits; later answers are no successes
        #[arg(long, value_parser = parse_duration, default_value = "10s")]
        patience: Duration,
        /// As many more at once, now and then
        #[arg(long, default_value_t = 0)]
        burst: u32,
        /// How often
        #[arg(long, value_parser = parse_duration, default_value = "3s")]
        burst_every: Duration,
        /// How long
        #[arg(long = "for", value_parser = parse_duration, default_value = "120s")]
        lasting: Duration,
    },
    /// Connections to itself, both ends held open
    Connections {
        /// How many
        #[arg(long)]
        count: usize,
    },
    /// Listen and connect to itself without accepting, then wait
    Listen {
        /// The accept queue's limit
        #[arg(long, default_value_t = 128)]
        backlog: i32,
        /// How many connections wait
        #[arg(long, default_value_t = 0)]
        pending: usize,
        /// On ::1 instead of 127.0.0.1
        #[arg(long)]
        v6: bool,
        /// Let a connection wait for accept() only once it has sent something (TCP_DEFER_ACCEPT)
        #[arg(long)]
        defer: bool,
    },
    /// Many listeners that nobody connects to
    Listeners {
        /// How many
        #[arg(long)]
        count: usize,
    },
    /// Connect so often, say how that ended, then wait
    Connects {
        /// Where to
        #[arg(long)]
        to: SocketAddr,
        /// And to so many hosts in all, from there on
        #[arg(long, default_value_t = 1)]
        hosts: u32,
        /// How often, to each
        #[arg(long, default_value_t = 1)]
        count: usize,
        /// How often the kernel tries again, where not as usual
        #[arg(long)]
        syn_retries: Option<i32>,
        /// What becomes of those that are not answered at once
        #[arg(long, value_enum, default_value = "wait")]
        then: connects::Then,
    },
    /// Listen on a UNIX socket and connect to itself without accepting, then wait
    UnixListen {
        /// A path, or @ and an abstract name, in which %01 stands for the byte 1
        #[arg(long)]
        name: String,
        /// The accept queue's limit
        #[arg(long, default_value_t = 128)]
        backlog: i32,
        /// How many connections wait
        #[arg(long, default_value_t = 0)]
        pending: usize,
        /// Packets instead of a stream
        #[arg(long)]
        seqpacket: bool,
    },
    /// Many UNIX listeners that nobody connects to
    UnixListeners {
        /// How many
        #[arg(long)]
        count: usize,
    },
    /// Hold files, threads and sockets that the peer has closed, then wait; its own few come on top
    Hold {
        /// Files
        #[arg(long, default_value_t = 0)]
        fds: u32,
        /// Threads
        #[arg(long, default_value_t = 0)]
        threads: u32,
        /// Sockets in CLOSE_WAIT
        #[arg(long, default_value_t = 0)]
        close_wait: u32,
    },
    /// Many small processes that do nothing
    Sleepers {
        /// How many
        #[arg(long)]
        count: u32,
    },
    /// Start and end processes one after the other
    Churn {
        /// How many
        #[arg(long)]
        count: u32,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome =
        system::prepare(cli.name.as_deref(), cli.small_pages).and_then(|()| match cli.workload {
            Workload::Leak { rate, limit, after } => memory::leak(rate, limit, after),
            Workload::Cache { rate, size } => memory::cache(rate, size),
            Workload::Touch { anon_bytes, mapped_bytes, file_bytes, shmem_bytes, threads } => {
                memory::touch(anon_bytes, mapped_bytes, file_bytes, shmem_bytes, threads)
            }
            Workload::Roam { size, threads } => memory::roam(size, threads),
            Workload::Swell { most, seed } => memory::swell(most, seed),
            Workload::AllocLoop { secs, grow_every } => {
                memory::alloc_loop(Duration::try_from_secs_f64(secs)?, grow_every.max(1))
            }
            Workload::StuckServer { addr, backlog, healthy_for } => {
                sockets::stuck_server(addr, backlog, healthy_for)
            }
            Workload::Clients { addr, rate_per_sec, lasting } => {
                sockets::clients(addr, rate_per_sec, lasting)
            }
            Workload::Serve { addr, backlog, threads, service, burn, leak } => {
                let service = if burn { Service::Burn(service) } else { Service::Wait(service) };
                server::serve(addr, backlog, threads, service, leak)
            }
            Workload::Table { addr, size, rows } => table::table(addr, size, rows),
            Workload::Offer {
                addr,
                rate_per_sec,
                to_rate_per_sec,
                ramp,
                alternate_every,
                patience,
                burst,
                burst_every,
                lasting,
            } => {
                let to_rate_per_sec = to_rate_per_sec.unwrap_or(rate_per_sec);
                let offer = Offer {
                    rate_per_sec,
                    to_rate_per_sec,
                    ramp,
                    alternate_every,
                    patience,
                    burst,
                    burst_every,
                    lasting,
                };
                offer::offer(addr, &offer)
            }
            Workload::Connections { count } => sockets::connections(count),
            Workload::Listen { backlog, pending, v6, defer } => {
                sockets::listen(backlog, pending, v6, defer)
            }
            Workload::Listeners { count } => sockets::listeners(count),
            Workload::Connects { to, hosts, count, syn_retries, then } => {
                connects::connects(to, hosts, count, syn_retries, then)
            }
            Workload::UnixListen { name, backlog, pending, seqpacket } => {
                unix::listen(&name, backlog, pending, seqpacket)
            }
            Workload::UnixListeners { count } => unix::listeners(count),
            Workload::Hold { fds, threads, close_wait } => handles::hold(fds, threads, close_wait),
            Workload::Sleepers { count } => processes::sleepers(count),
            Workload::Churn { count } => processes::churn(count),
        });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("workload: {error:#}");
            ExitCode::FAILURE
        }
    }
}
