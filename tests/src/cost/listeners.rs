//! Cost of watching listeners: reading many of them on a busy host, and the overhead for connecting
//! and accepting programs.

use std::{thread::sleep, time::Instant};

use spillway_agent::{config::Config, sense::Sensors};
use spillway_tests::Workload;

use crate::{
    Agent, Row, Target, WATCHED, accept_rate, connections, median, tell, thread_cpu_secs, workload,
};

/// Size of a busy host, for which the target is set.
const LISTENERS: usize = 200;
const CONNECTIONS: usize = 10_000;
/// Services with waiting connections, each asked at every reading what it is short of: the maximum
/// per reading.
const STANDING: usize = 16;

/// Processes that hold both ends of the connections: one alone would exceed the usual limit on open
/// files.
const HOLDERS: usize = 2;

/// Rows that can be measured here.
pub fn rows() -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::from(measure()?);
    rows.extend(connections::rows()?);
    rows.extend(accept_rate::rows()?);
    Ok(rows)
}

/// Cost of the sensor at its default pace, including the search for listeners' owners, and of the
/// whole agent with it.
fn measure() -> anyhow::Result<[Row; 3]> {
    tell(&format!("holding {LISTENERS} listeners and {CONNECTIONS} connections"));
    let _listeners =
        Workload::start(workload()?.args(["listeners", &format!("--count={LISTENERS}")]));
    let each = format!("--count={}", CONNECTIONS / HOLDERS);
    let hold = |_| Ok(Workload::start(workload()?.args(["connections", &each])));
    let _connections = (0..HOLDERS).map(hold).collect::<anyhow::Result<Vec<_>>>()?;

    tell(&format!("reading them for {} s", WATCHED.as_secs()));
    let Readings { share, listeners, median_secs, most_secs } =
        read_listeners(&mut Sensors::start())?;
    let detail = format!(
        "{listeners} listeners; a reading {:.2} ms, with the search for owners {:.1} ms",
        median_secs * 1e3,
        most_secs * 1e3
    );

    tell(&format!(
        "reading them for {} s while connections wait at {STANDING} more",
        WATCHED.as_secs()
    ));
    let start_waiting = |_| Ok(Workload::start(workload()?.args(["listen", "--pending=5"])));
    let standing = (0..STANDING).map(start_waiting).collect::<anyhow::Result<Vec<_>>>()?;
    let with_standing = read_listeners(&mut Sensors::start())?;
    drop(standing);
    let reading_secs = (with_standing.median_secs - median_secs) / STANDING as f64;

    let agent = Agent::start()?;
    let (before, start) = (agent.cpu_secs()?, Instant::now());
    sleep(WATCHED);
    let agent_percent = (agent.cpu_secs()? - before) / start.elapsed().as_secs_f64() * 100.0;
    let what = format!("the sensor at {LISTENERS} listeners, {CONNECTIONS} connections");
    let row = |what, measured, target, detail| Row { what, measured, unit: "%", target, detail };
    Ok([
        row(what, share, Some(Target::AtMost(1.0)), detail),
        row(
            format!("the same while connections wait at {STANDING} more"),
            with_standing.share,
            None,
            format!("{:.0} µs to ask one what it is short of", reading_secs * 1e6),
        ),
        row(
            "the agent's CPU beside them, of one core".to_owned(),
            agent_percent,
            None,
            String::new(),
        ),
    ])
}

/// Cost of readings at the default pace.
struct Readings {
    /// Share of one core, in percent.
    share: f64,
    /// Listeners in the last reading.
    listeners: usize,
    median_secs: f64,
    most_secs: f64,
}

fn read_listeners(sensors: &mut Sensors) -> anyhow::Result<Readings> {
    let every = Config::default().detect.overload.interval;
    let (mut seen, mut costs, start) = (Vec::new(), Vec::new(), Instant::now());
    while start.elapsed() < WATCHED {
        seen.clear();
        let before = thread_cpu_secs()?;
        sensors.scan_listeners(start.elapsed().as_secs_f64(), &mut seen);
        costs.push(thread_cpu_secs()? - before);
        sleep((every * costs.len() as u32).saturating_sub(start.elapsed()));
    }
    Ok(Readings {
        share: costs.iter().sum::<f64>() / start.elapsed().as_secs_f64() * 100.0,
        listeners: seen.len(),
        median_secs: median(&mut costs),
        most_secs: costs.iter().copied().fold(0.0, f64::max),
    })
}
