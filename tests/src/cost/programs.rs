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
use spillway_agent::sense::{
    AcceptLatency, LossCounters, OutboundSensor, ProcessEventSensor, ProcessMemorySensor,
    ProcessResourceSensor, Sensors, TcpListenerSensor, UnixListenerSensor,
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
    let best = [ProcessMemorySensor::TASK_ITER, ProcessEventSensor::BTF, AcceptLatency::FEXIT];
    for unwanted in [&[][..], &best] {
        let mut sensors = Sensors::start_without(unwanted);
        let _counting =
            enable_stats(Stats::RunTime).context("the kernel does not count what programs cost")?;
        exercise(&mut sensors, &workload)?;
        for (name, nanos, events) in program_costs(sensors.bpf())? {
            costs.entry(name).or_insert((nanos, events));
        }
    }
    Ok(costs.into_iter().map(|(name, (nanos, events))| (name, nanos, events)).collect())
}

fn exercise(
    sensors: &mut Sensors,
    workload: &impl Fn(&str, &[String]) -> anyhow::Result<Workload>,
) -> anyhow::Result<()> {
    let _growing = workload("touch", &["--anon-bytes=512MiB".to_owned()])?;
    let mut churn = workload("churn", &[format!("--count={LIVES}")])?;
    churn.until_done();
    for _ in 0..EXECS {
        Command::new("true").status()?;
    }

    let memory = sensors.get_mut::<ProcessMemorySensor>().context("processes are not read")?;
    for _ in 0..PASSES {
        memory.scan(&mut LossCounters::default(), |_| ())?;
    }

    let listener = TcpListener::bind("127.0.0.1:0")?;
    let _many = workload("listeners", &["--count=200".to_owned()])?;
    let _many_unix = workload("unix-listeners", &["--count=200".to_owned()])?;
    for _ in 0..CONNECTIONS {
        let client = TcpStream::connect(listener.local_addr()?)?;
        drop((listener.accept()?, client));
    }
    let tcp = sensors.get().and_then(TcpListenerSensor::probes);
    let unix = sensors.get().and_then(UnixListenerSensor::probes);
    let files = sensors.get().and_then(ProcessResourceSensor::iter);
    let listeners = tcp.iter().flat_map(|probes| [&probes.find, &probes.scan]);
    let unix = unix.iter().flat_map(|probes| [&probes.find, &probes.scan]);
    for handle in listeners.chain(unix).chain(files) {
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
    let mut sensors = Sensors::start();
    let Some(sensor) = sensors.get_mut::<OutboundSensor>() else { return Ok(None) };
    let mut read = || -> anyhow::Result<f64> {
        let mut secs = Vec::new();
        for _ in 0..PASSES {
            let start = Instant::now();
            sensor.scan(0.0, &mut LossCounters::default(), |_| ())?;
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
