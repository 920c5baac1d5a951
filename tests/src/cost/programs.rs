//! What each BPF program costs an event, as the kernel counts it while real workloads run.
//!
//! The kernel's own clock around a program is part of each figure, some 20 ns. Iterators count one event for each process, file or
//! listener that they pass. A program that cannot be attached here has no figure.

use std::{
    collections::BTreeMap,
    io,
    net::{TcpListener, TcpStream},
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use aya::sys::{Stats, enable_stats};
use spillway_agent::{
    kernel::{Hook, Kernel, Wanted, ladder},
    sense::{Hierarchy, Lost, OutboundSensor, ProcessSensor},
};
use spillway_tests::{ProgramCost, Workload, program_costs};

/// Turns of a loop of connects without and with the program that follows them, and connects in a turn: some 50 ms of them, short
/// against what else comes and goes on a host.
const TURNS: usize = 30;
const CONNECTS: usize = 2_000;
const SETTLES: Duration = Duration::from_millis(100);

/// Births and deaths, connections, and passes: enough for a mean that single interruptions do not move.
const LIVES: u32 = 2_000;
const EXECS: u32 = 300;
const CONNECTIONS: usize = 5_000;
const PASSES: usize = 20;

/// Measures every program that this kernel takes, those of second choice as well.
pub fn measure(workload: impl Fn(&str, &[String]) -> anyhow::Result<Workload>) -> anyhow::Result<Vec<ProgramCost>> {
    let mut costs = BTreeMap::new();
    for unwanted in [vec![], vec![Hook::TaskIter, Hook::LifeBtf, Hook::AcceptFexit]] {
        let memory_v1 = Hierarchy::detect().is_v1();
        let mut kernel = Kernel::load(&Wanted { memory_v1, unwanted });
        let _counting = enable_stats(Stats::RunTime).context("the kernel does not count what programs cost")?;
        exercise(&mut kernel, &workload)?;
        for (name, nanos, events) in program_costs(&kernel)? {
            costs.entry(name).or_insert((nanos, events));
        }
    }
    Ok(costs.into_iter().map(|(name, (nanos, events))| (name, nanos, events)).collect())
}

fn exercise(
    kernel: &mut Kernel,
    workload: &impl Fn(&str, &[String]) -> anyhow::Result<Workload>,
) -> anyhow::Result<()> {
    let _growing = workload("touch", &["--anon-bytes=512MiB".to_owned()])?;
    let mut churn = workload("churn", &[format!("--count={LIVES}")])?;
    churn.until_done();
    for _ in 0..EXECS {
        Command::new("true").status()?;
    }

    let mut sensor = ProcessSensor::new(kernel.process_memory.take(), true, Hierarchy::detect());
    for _ in 0..PASSES {
        sensor.scan(&mut Lost::default(), |_| ())?;
    }

    let listener = TcpListener::bind("127.0.0.1:0")?;
    let _many = workload("listeners", &["--count=200".to_owned()])?;
    let _many_unix = workload("unix-listeners", &["--count=200".to_owned()])?;
    for _ in 0..CONNECTIONS {
        let client = TcpStream::connect(listener.local_addr()?)?;
        drop((listener.accept()?, client));
    }
    let listeners = kernel.accept_queue.iter().flat_map(|probes| [&probes.find, &probes.scan]);
    let unix = kernel.unix_queue.iter().flat_map(|probes| [&probes.find, &probes.scan]);
    for handle in listeners.chain(unix).chain(&kernel.process_handles) {
        for _ in 0..PASSES {
            io::copy(&mut handle.open()?, &mut io::sink())?;
        }
    }
    Ok(())
}

/// What programs take of a connection over loopback at both its ends, in nanoseconds. Counting takes a part of it, some tens a run.
pub struct Connection {
    /// Those of listeners.
    pub listeners_nanos: f64,
    /// That of connects.
    pub connects_nanos: f64,
    /// How often each ran for it, and so how often its sockets changed their states.
    pub runs: f64,
}

/// Counts them.
pub fn connection() -> anyhow::Result<Connection> {
    let kernel = Kernel::load(&Wanted { memory_v1: Hierarchy::detect().is_v1(), unwanted: Vec::new() });
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let connect = |count| {
        (0..count).try_for_each(|_| {
            let client = TcpStream::connect(listener.local_addr()?)?;
            listener.accept().map(|accepted| drop((accepted, client)))
        })
    };
    let _counting = enable_stats(Stats::RunTime).context("the kernel does not count what programs cost")?;
    let totals = |passed: fn(&str) -> bool| -> anyhow::Result<(f64, f64)> {
        let costs = program_costs(&kernel)?;
        let passed = costs.iter().filter(|(name, ..)| passed(name));
        Ok(passed.fold((0.0, 0.0), |(nanos, runs), (_, mean, more)| (nanos + mean * *more as f64, runs + *more as f64)))
    };
    let listeners = |name: &str| name.starts_with("accept_") || name == "socket_state";
    let connects = |name: &str| name == "connect_state";
    connect(CONNECTIONS / 10)?;
    let before = [totals(listeners)?, totals(connects)?];
    connect(CONNECTIONS)?;
    let after = [totals(listeners)?, totals(connects)?];
    let each = |n: usize| (after[n].0 - before[n].0) / CONNECTIONS as f64;
    let runs = (after[1].1 - before[1].1) / CONNECTIONS as f64;
    Ok(Connection { listeners_nanos: each(0), connects_nanos: each(1), runs })
}

/// How long a connect over loopback takes, from socket to close, without and with the program that follows connects: medians over
/// turns, in seconds. `None` where it cannot be attached.
pub fn connect_secs() -> anyhow::Result<Option<[f64; 2]>> {
    let hooks = ladder::LADDERS.iter().flat_map(|ladder| ladder.rungs).map(|rung| rung.hook);
    let none: Vec<_> = hooks.collect();
    let connects = none.iter().copied().filter(|&hook| hook != Hook::ConnectStates).collect();
    let memory_v1 = Hierarchy::detect().is_v1();
    let wanted = [none, connects].map(|unwanted| Wanted { memory_v1, unwanted });
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    let connect = |count| {
        (0..count).try_for_each(|_| {
            let client = TcpStream::connect(addr)?;
            listener.accept().map(|_| drop(client))
        })
    };
    let mut secs = [Vec::new(), Vec::new()];
    for turn in 0..TURNS {
        // Whoever goes first in a turn may be favoured: take turns at that, too.
        for with in [turn % 2 == 0, turn % 2 != 0] {
            // Without it everything is loaded as well and nothing attached: what that leaves to be done slows what comes after.
            let kernel = Kernel::load(&wanted[usize::from(with)]);
            if with && kernel.outbound.is_none() {
                return Ok(None);
            }
            sleep(SETTLES);
            connect(CONNECTS / 10)?;
            let start = Instant::now();
            connect(CONNECTS)?;
            secs[usize::from(with)].push(start.elapsed().as_secs_f64() / CONNECTS as f64);
        }
    }
    Ok(Some(secs.map(|mut secs| {
        secs.sort_by(f64::total_cmp);
        secs[secs.len() / 2]
    })))
}

/// How long a read of the ends of connects takes, medians in seconds: of none, and of so many destinations that do not change.
/// `None` where they are not followed.
pub fn outbound_read_secs(
    destinations: u32,
    workload: impl Fn(&str, &[String]) -> anyhow::Result<Workload>,
) -> anyhow::Result<Option<[f64; 2]>> {
    let mut kernel = Kernel::load(&Wanted { memory_v1: Hierarchy::detect().is_v1(), ..Wanted::default() });
    let Some(maps) = kernel.outbound.take() else { return Ok(None) };
    let mut sensor = OutboundSensor::new(Some(maps), Hierarchy::detect());
    let mut read = || -> anyhow::Result<f64> {
        let mut secs = Vec::new();
        for _ in 0..PASSES {
            let start = Instant::now();
            sensor.read(0.0, &mut Lost::default(), |_| ())?;
            secs.push(start.elapsed().as_secs_f64());
        }
        secs.sort_by(f64::total_cmp);
        Ok(secs[PASSES / 2])
    };
    let none = read()?;
    // Port 1 of loopback addresses: nobody listens there, which ends a connect as well as any other answer.
    let _connected = workload("connects", &["--to=127.16.0.0:1".to_owned(), format!("--hosts={destinations}")])?;
    Ok(Some([none, read()?]))
}
