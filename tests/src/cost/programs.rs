//! Cost of each BPF program per event, as counted by the kernel under real workloads.
//!
//! Each figure includes the kernel's own clock reads around the program, about 20 ns. Iterators
//! count one event per process, file or listener. Programs that cannot be attached here have no
//! figure.

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

/// Births and deaths, connections and passes: enough for a mean that single interruptions do not
/// move.
const LIVES: u32 = 2_000;
const EXECS: u32 = 300;
const CONNECTIONS: usize = 5_000;
const PASSES: usize = 20;

/// Measures every program that this kernel accepts, including those of second choice.
pub fn measure(
    workload: impl Fn(&str, &[String]) -> anyhow::Result<Workload>,
) -> anyhow::Result<Vec<ProgramCost>> {
    let mut costs = BTreeMap::new();
    let best = [ProcessMemorySensor::TASK_ITER, ProcessEventSensor::BTF, AcceptLatency::FEXIT];
    for unwanted in [&[][..], &best] {
        let mut sensors = Sensors::start_without(unwanted);
        let _counting =
            enable_stats(Stats::RunTime).context("enabling the kernel's program statistics")?;
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

    let memory = sensors.get_mut::<ProcessMemorySensor>().context("no sensor reads processes")?;
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

/// Median seconds for reading outbound connects, with no destination and with a number of
/// unchanging ones. `None` if connects are not tracked.
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
    // Port 1 of loopback addresses is closed, which ends a connect as well as any other response.
    let _connected =
        workload("connects", &["--to=127.16.0.0:1".to_owned(), format!("--hosts={destinations}")])?;
    Ok(Some([none, read()?]))
}
