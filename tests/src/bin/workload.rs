//! Small real programs that Spillway observes: in the demo, in host tests, in benchmarks.
//!
//! Each prints one JSON line when it is ready (`{"pid":…,"addr":…}`), ends on SIGTERM, dies with
//! its parent, and is bounded in memory, sockets and processes. Network ones connect to the address
//! that they are given and are meant for loopback. No code of the agent is used, so that both
//! cannot share a mistake.

#[path = "../workload/connects.rs"]
mod connects;
#[path = "../workload/handles.rs"]
mod handles;
#[path = "../workload/memory.rs"]
mod memory;
#[path = "../workload/offer.rs"]
mod offer;
#[path = "../workload/prefork.rs"]
mod prefork;
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
    /// Name of the process, at most 15 bytes
    #[arg(long, global = true)]
    name: Option<String>,
    /// Let the kernel give it only pages of the usual size, and merge none of them into huge ones
    /// later
    #[arg(long, global = true)]
    small_pages: bool,
    #[command(subcommand)]
    workload: Workload,
}

#[derive(Debug, Subcommand)]
enum Workload {
    /// Allocate, touch and forget memory without end
    Leak {
        /// Bytes per second
        #[arg(long, value_parser = parse_size)]
        rate: u64,
        /// Stop growing here, for safety
        #[arg(long, value_parser = parse_size, default_value = "1GiB")]
        limit: u64,
        /// Wait this long first
        #[arg(long, value_parser = parse_duration, default_value = "0s")]
        after: Duration,
    },
    /// Grow to a size, then serve from it
    Cache {
        /// Bytes per second until it is full
        #[arg(long, value_parser = parse_size)]
        rate: u64,
        /// Size at which it stops growing
        #[arg(long, value_parser = parse_size)]
        size: u64,
    },
    /// Leave files behind in a tmpfs of its own, without end, and hold none of them
    LeaveFiles {
        /// Bytes per second
        #[arg(long, value_parser = parse_size)]
        rate: u64,
        /// Stop here, for safety
        #[arg(long, value_parser = parse_size, default_value = "1GiB")]
        limit: u64,
    },
    /// Touch exactly this many bytes of each kind (rounded up to pages), then wait
    Touch {
        /// Private anonymous memory
        #[arg(long, value_parser = parse_size, default_value = "0")]
        anon_bytes: u64,
        /// Map this much of it, if that is more, and leave the rest untouched
        #[arg(long, value_parser = parse_size, default_value = "0")]
        mapped_bytes: u64,
        /// Mapped file on a disk
        #[arg(long, value_parser = parse_size, default_value = "0")]
        file_bytes: u64,
        /// Shared memory (a memfd)
        #[arg(long, value_parser = parse_size, default_value = "0")]
        shmem_bytes: u64,
        /// Private anonymous memory that it touches first and gives back
        #[arg(long, value_parser = parse_size, default_value = "0")]
        freed_bytes: u64,
        /// Page tables, of a sparse mapping that is only read
        #[arg(long, value_parser = parse_size, default_value = "0")]
        table_bytes: u64,
        /// Number of threads that touch the anonymous memory, each on a CPU of its own if there are
        /// enough
        #[arg(long, default_value_t = 1)]
        threads: u32,
    },
    /// Write to random pages of its memory without end
    Roam {
        /// Size of the memory
        #[arg(long, value_parser = parse_size)]
        size: u64,
        /// Number of threads
        #[arg(long, default_value_t = 4)]
        threads: u32,
    },
    /// Take some memory, touch it and give it back, as fast as possible and without end
    Swell {
        /// Maximum amount at once
        #[arg(long, value_parser = parse_size)]
        most: u64,
        /// Seed of the random amounts
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Allocate and free as fast as possible, then print operations per second
    AllocLoop {
        /// Duration in seconds
        #[arg(long, default_value_t = 5.0)]
        secs: f64,
        /// Take a fresh MiB after each of this many operations
        #[arg(long, default_value_t = 65_536)]
        grow_every: u64,
    },
    /// Serve for a while, then stop accepting and keep listening
    StuckServer {
        /// Address to listen on; port 0 picks one
        #[arg(long, default_value = "127.0.0.1:0")]
        addr: SocketAddr,
        /// Limit of the accept queue
        #[arg(long, default_value_t = 128)]
        backlog: i32,
        /// Time until it stops accepting
        #[arg(long, value_parser = parse_duration, default_value = "8s")]
        healthy_for: Duration,
    },
    /// Keep connecting without ever blocking
    Clients {
        /// Address to connect to
        #[arg(long)]
        addr: SocketAddr,
        /// Connections per second
        #[arg(long, default_value_t = 10.0)]
        rate_per_sec: f64,
        /// Duration
        #[arg(long = "for", value_parser = parse_duration, default_value = "120s")]
        lasting: Duration,
    },
    /// Serve HTTP with threads that take one connection each at a time, for a known time
    Serve {
        /// Address to listen on; port 0 picks one
        #[arg(long, default_value = "127.0.0.1:0")]
        addr: SocketAddr,
        /// Limit of the accept queue
        #[arg(long, default_value_t = 128)]
        backlog: i32,
        /// Number of connections served at once
        #[arg(long, default_value_t = 64)]
        threads: u32,
        /// Mean time that a connection takes
        #[arg(long, value_parser = parse_duration, default_value = "50ms")]
        service: Duration,
        /// Spend that time computing instead of waiting
        #[arg(long)]
        burn: bool,
        /// Bytes to forget with each connection
        #[arg(long, value_parser = parse_size, default_value = "0")]
        leak: u64,
    },
    /// Answer from a table in memory, of which each request reads some rows
    Table {
        /// Address to listen on; port 0 picks one
        #[arg(long, default_value = "127.0.0.1:0")]
        addr: SocketAddr,
        /// Size of the table
        #[arg(long, value_parser = parse_size)]
        size: u64,
        /// Number of rows that a request reads, each on a page of its own
        #[arg(long, default_value_t = 64)]
        rows: u32,
    },
    /// Open connections at a rate, whatever happens to earlier ones, and send HTTP requests
    Offer {
        /// Address to connect to
        #[arg(long)]
        addr: SocketAddr,
        /// Connections per second
        #[arg(long)]
        rate_per_sec: f64,
        /// Connections per second at the end, if the rate changes
        #[arg(long)]
        to_rate_per_sec: Option<f64>,
        /// Time until the last rate is reached
        #[arg(long, value_parser = parse_duration, default_value = "0s")]
        ramp: Duration,
        /// Alternate between the first and the last rate, with this time at each
        #[arg(long, value_parser = parse_duration, default_value = "0s")]
        alternate_every: Duration,
        /// Maximum time that a client waits; later answers are no successes
        #[arg(long, value_parser = parse_duration, default_value = "10s")]
        patience: Duration,
        /// Additional connections of a burst
        #[arg(long, default_value_t = 0)]
        burst: u32,
        /// Interval between bursts
        #[arg(long, value_parser = parse_duration, default_value = "3s")]
        burst_every: Duration,
        /// Duration
        #[arg(long = "for", value_parser = parse_duration, default_value = "120s")]
        lasting: Duration,
    },
    /// Connect to itself, with both ends held open
    Connections {
        /// Number of connections
        #[arg(long)]
        count: usize,
    },
    /// Listen and connect to itself without accepting, then wait
    Listen {
        /// Limit of the accept queue
        #[arg(long, default_value_t = 128)]
        backlog: i32,
        /// Number of waiting connections
        #[arg(long, default_value_t = 0)]
        pending: usize,
        /// Use ::1 instead of 127.0.0.1
        #[arg(long)]
        v6: bool,
        /// Let a connection wait for accept() only once it has sent data (TCP_DEFER_ACCEPT)
        #[arg(long)]
        defer: bool,
    },
    /// Open many listeners without clients
    Listeners {
        /// Number of listeners
        #[arg(long)]
        count: usize,
    },
    /// Connect a number of times, print the results, then wait
    Connects {
        /// First address to connect to
        #[arg(long)]
        to: SocketAddr,
        /// Number of hosts, from that address on
        #[arg(long, default_value_t = 1)]
        hosts: u32,
        /// Number of connects to each
        #[arg(long, default_value_t = 1)]
        count: usize,
        /// Number of the kernel's retries, if not its default
        #[arg(long)]
        syn_retries: Option<i32>,
        /// Treatment of connects that are not answered at once
        #[arg(long, value_enum, default_value = "wait")]
        then: connects::Then,
    },
    /// Listen on a UNIX socket and connect to itself without accepting, then wait
    UnixListen {
        /// Path, or @ and an abstract name, in which %01 represents the byte 1
        #[arg(long)]
        name: String,
        /// Limit of the accept queue
        #[arg(long, default_value_t = 128)]
        backlog: i32,
        /// Number of waiting connections
        #[arg(long, default_value_t = 0)]
        pending: usize,
        /// Use packets instead of a stream
        #[arg(long)]
        seqpacket: bool,
    },
    /// Open many UNIX listeners without clients
    UnixListeners {
        /// Number of listeners
        #[arg(long)]
        count: usize,
    },
    /// Hold files, threads and sockets that the peer has closed, then wait; its own few are added
    Hold {
        /// Number of files
        #[arg(long, default_value_t = 0)]
        fds: u32,
        /// Number of threads
        #[arg(long, default_value_t = 0)]
        threads: u32,
        /// Number of sockets in CLOSE_WAIT
        #[arg(long, default_value_t = 0)]
        close_wait: u32,
    },
    /// Serve with processes that share a listener; a client can stop one or let it compute
    Prefork {
        /// Path of a UNIX socket to listen on; without it, a port of 127.0.0.1
        #[arg(long)]
        path: Option<String>,
        /// Number of processes
        #[arg(long, default_value_t = 3)]
        workers: u32,
    },
    /// Start many small idle processes
    Sleepers {
        /// Number of processes
        #[arg(long)]
        count: u32,
    },
    /// Start and end processes one after the other
    Churn {
        /// Number of processes
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
            Workload::LeaveFiles { rate, limit } => memory::leave_files(rate, limit),
            Workload::Touch {
                anon_bytes,
                mapped_bytes,
                file_bytes,
                shmem_bytes,
                freed_bytes,
                table_bytes,
                threads,
            } => {
                if freed_bytes > 0 {
                    memory::touch_and_give_back(usize::try_from(freed_bytes)?)?;
                }
                memory::fill_tables(table_bytes)?;
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
            Workload::Prefork { path, workers } => prefork::prefork(path.as_deref(), workers),
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
