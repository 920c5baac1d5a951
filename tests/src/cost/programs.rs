//! What each BPF program costs an event, as the kernel counts it while real workloads run.
//!
//! The kernel's own clock around a program is part of each figure, some 20 ns. Iterators count one
//! event for each process, file or listener that they pass. A program that cannot be attached here
//! has no figure.

use std::{
    collections::BTreeMap,
    io,
    net::{TcpListener, TcpStream},
    process::Command,
    time::Instant,
};

use anyhow::Context as _;
use aya::sys::{Stats, enable_stats};
use spillway_agent::{
    bpf::{Hook, LoadOptions, LoadedBpf},
    sense::{Hierarchy, LossCounters, OutboundSensor, ProcessMemorySensor},
};
use spillway_tests::{ProgramCost, Workload, program_costs};

/// Births and deaths, connections, and passes: enough for a mean that single interruptions do not
/// move.
const LIVES: u32 = 2_000;
const EXECS: u32 = 300;
const CONNECTIONS: usize = 5_000;
const PASSES: usize = 20;

/// Measures every program that this kernel takes, those of second choice as well.
pub fn measure(
    workload: impl Fn(&str, &[String]) -> anyhow::Result<Workload>,
) -> anyhow::Result<Vec<ProgramCost>> {
    let mut costs = BTreeMap::new();
    for unwanted in [vec![], vec![Hook::TaskIter, Hook::LifeBtf, Hook::AcceptFexit]] {
        let memory_v1 = Hierarchy::detect().is_v1();
        let mut kernel = LoadedBpf::load(&LoadOptions { memory_v1, unwanted });
        let _counting =
            enable_stats(Stats::RunTime).context("the kernel does not count what programs cost")?;
        exercise(&mut kernel, &workload)?;
        for (name, nanos, events) in program_costs(&kernel)? {
            costs.entry(name).or_insert((nanos, events));
        }
    }
    Ok(costs.into_iter().map(|(name, (nanos, events))| (name, nanos, events)).collect())
}

fn exercise(
    kernel: &mut LoadedBpf,
    workload: &impl Fn(&str, &[String]) -> anyhow::Result<Workload>,
) -> anyhow::Result<()> {
    let _growing = workload("touch", &["--anon-bytes=512MiB".to_owned()])?;
    let mut churn = workload("churn", &[format!("--count={LIVES}")])?;
    churn.until_done();
    for _ in 0..EXECS {
        Command::new("true").status()?;
    }

    let mut sensor =
        ProcessMemorySensor::new(kernel.process_memory.take(), true, Hierarchy::detect());
    for _ in 0..PASSES {
        sensor.scan(&mut LossCounters::default(), |_| ())?;
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

/// How long a read of the ends of connects takes, medians in seconds: of none, and of so many
/// destinations that do not change. `None` where they are not followed.
pub fn outbound_read_secs(
    destinations: u32,
    workload: impl Fn(&str, &[String]) -> anyhow::Result<Workload>,
) -> anyhow::Result<Option<[f64; 2]>> {
    let mut kernel = LoadedBpf::load(&LoadOptions {
        memory_v1: Hierarchy::detect().is_v1(),
        ..LoadOptions::default()
    });
    let Some(maps) = kernel.outbound.take() else { return Ok(None) };
    let mut sensor = OutboundSensor::new(Some(maps), Hierarchy::detect());
    let mut read = || -> anyhow::Result<f64> {
        let mut secs = Vec::new();
        for _ in 0..PASSES {
            let start = Instant::now();
            sensor.read(0.0, &mut LossCounters::default(), |_| ())?;
            secs.push(start.elapsed().as_secs_f64());
        }
        secs.sort_by(f64::total_cmp);
        Ok(secs[PASSES / 2])
    };
    let none = read()?;
    // Port 1 of loopback addresses: nobody listens there, which ends a connect as well as any other
    // answer.
    let _connected =
        workload("connects", &["--to=127.16.0.0:1".to_owned(), format!("--hosts={destinations}")])?;
    Ok(Some([none, read()?]))
}
