//! Cost of reading requests on living connections: of the sensor, by the number of connections, and
//! for a server under load on connections that stay open.

use std::{
    fs,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, ensure};
use spillway_agent::{
    bpf::Hook,
    sense::{Fact, RequestSensor, Sensors},
};
use spillway_tests::{Scratch, Servers, Workload, own_network};

use crate::{Agent, Row, Target, accept_rate::sign_test_margin, median, tell, workload};

/// Connections that the sensor is measured at, and the share of a core that it may take, in
/// percent.
const SCALES: [(usize, f64); 2] = [(10_000, 0.5), (100_000, 1.0)];

/// Connections of one process, which holds both ends: 20,000 files are the usual limit.
const EACH: usize = 5_000;

/// Time that is watched, on a clock that the looks set themselves, a tenth of a second each.
const WATCHED_SECS: f64 = 120.0;
const LOOK_SECS: f64 = 0.1;

/// Connections of wrk, pairs of windows without and with the agent, their length, and the settling
/// time after it is stopped or goes on.
const OPEN: u32 = 64;
const WINDOWS: usize = 80;
const WINDOW: Duration = Duration::from_millis(600);
const SETTLES: Duration = Duration::from_millis(100);
const PORT: u16 = 8_000;

/// Rows that can be measured here.
pub fn rows() -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (connections, most) in SCALES {
        tell(&format!("holding {connections} connections, and reading them"));
        // In a new thread, which moves to its own network namespace.
        let measured = thread::spawn(move || sensor_rows(connections, most));
        rows.extend(measured.join().map_err(|_| anyhow!("the sensor's thread panicked"))??);
    }
    rows.extend(keep_alive_rows()?);
    Ok(rows)
}

/// Requests that a server keeps on connections that stay open, if a server is available.
pub fn keep_alive_rows() -> anyhow::Result<Vec<Row>> {
    let servers = match Servers::find() {
        Ok(servers) => servers,
        Err(reason) => {
            tell(&format!("no keep-alive rate: {reason}"));
            return Ok(Vec::new());
        }
    };
    tell(&format!("asking a server for {WINDOWS} windows with the agent and without"));
    let measured = thread::spawn(move || keep_alive(&servers));
    Ok(vec![measured.join().map_err(|_| anyhow!("the server's thread panicked"))??])
}

/// Measures the sensor, on the best source and without it.
fn sensor_rows(connections: usize, most: f64) -> anyhow::Result<[Row; 2]> {
    own_network().context("no network namespace; hint: the bench needs root")?;
    let hold = |_| {
        let each = format!("--count={EACH}");
        Ok(Workload::start(workload()?.args(["connections", &each])))
    };
    let held = (0..connections / EACH).map(hold).collect::<anyhow::Result<Vec<_>>>()?;
    let row = |what: &str, unwanted: &[Hook], target| -> anyhow::Result<Row> {
        let (percent, detail) = watch(unwanted, connections)?;
        let what = format!("requests on {connections} connections{what}, of one core");
        tell(&format!("{what}: {percent:.2} %; {detail}"));
        Ok(Row { what, measured: percent, unit: "%", target, detail })
    };
    let rows = [
        row("", &[], Some(Target::AtMost(most)))?,
        row(", by passes over open files", &[RequestSensor::SLOTS], None)?,
    ];
    drop(held);
    Ok(rows)
}

/// Looks at 10 Hz on a clock of its own, so that the time to rest costs none. Returns the share of
/// one core in percent, and how it comes about.
fn watch(unwanted: &[Hook], connections: usize) -> anyhow::Result<(f64, String)> {
    let mut sensors = Sensors::start_without(unwanted);
    let mut seen = Vec::new();
    let cost = |sensors: &Sensors| {
        sensors.get::<RequestSensor>().map(RequestSensor::cost).context("no sensor of requests")
    };
    let (mut t, mut counted) = (0.0, 0);
    let mut turns = Vec::new();
    let mut look = |sensors: &mut Sensors| -> anyhow::Result<()> {
        let before = cost(sensors)?.secs;
        seen.clear();
        sensors.scan_listeners(t, &mut seen);
        turns.push(cost(sensors)?.secs - before);
        t += LOOK_SECS;
        let facts = seen.iter().filter_map(|one| match &one.fact {
            Fact::Requests(fact) => fact.connections,
            _ => None,
        });
        let count = facts.sum::<u32>() as usize;
        if count > 0 {
            counted = count;
        }
        Ok(())
    };
    // Connections that were there before are found by a pass over all open files, and the first
    // visit follows; what both cost is rested for.
    let warm = (2.0 * WATCHED_SECS / LOOK_SECS) as usize;
    for _ in 0..warm {
        look(&mut sensors)?;
    }
    let before = cost(&sensors)?;
    for _ in 0..(WATCHED_SECS / LOOK_SECS) as usize {
        look(&mut sensors)?;
    }
    let after = cost(&sensors)?;
    ensure!(counted == connections, "{counted} connections were seen of {connections}");
    let passes = (after.passes - before.passes).max(1);
    let secs = after.secs - before.secs;
    let longest = turns.split_off(warm).into_iter().fold(0.0, f64::max);
    let detail = format!(
        "a pass every {:.2} s, {:.2} ms each with finding; {:.1} ms at most at once, {:.1} ms \
         while they are first found",
        WATCHED_SECS / passes as f64,
        secs / passes as f64 * 1e3,
        longest * 1e3,
        turns.into_iter().fold(0.0, f64::max) * 1e3,
    );
    Ok((secs / WATCHED_SECS * 100.0, detail))
}

/// Measures the requests per second that nginx keeps under wrk, both on two CPUs, while the whole
/// agent runs beside them, in turns with windows in which the agent is stopped. No program runs for
/// a request, so that a stopped agent costs nothing.
fn keep_alive(servers: &Servers) -> anyhow::Result<Row> {
    own_network().context("no network namespace; hint: the bench needs root")?;
    let addr = SocketAddr::from(([127, 0, 0, 1], PORT));
    let scratch = Scratch::make("keep-alive");
    let _nginx = servers.nginx(&scratch.0, addr, b"ok\n");
    let agent = Agent::start()?;
    let secs = (WINDOW + SETTLES).as_secs_f64() * 2.0 * WINDOWS as f64 * 2.0;
    let mut wrk =
        servers.keep_alive_wrk(addr, OPEN, secs as u32).spawn().context("starting wrk")?;
    thread::sleep(SETTLES * 10);
    let mut rates = [Vec::new(), Vec::new()];
    let mut measure = || -> anyhow::Result<()> {
        for turn in 0..WINDOWS {
            for with in [turn % 2 == 0, turn % 2 != 0] {
                signal(&agent, if with { libc::SIGCONT } else { libc::SIGSTOP })?;
                thread::sleep(SETTLES);
                let (before, start) = (octets()?, Instant::now());
                thread::sleep(WINDOW);
                rates[usize::from(with)]
                    .push((octets()? - before) as f64 / start.elapsed().as_secs_f64());
            }
        }
        Ok(())
    };
    let measured = measure();
    let has_ended = wrk.try_wait()?.is_some();
    let _ = wrk.kill();
    let _ = wrk.wait();
    measured?;
    ensure!(!has_ended, "wrk ended before the measurement");
    let [off, on] = rates;
    let mut kept: Vec<_> = on.iter().zip(&off).map(|(on, off)| on / off * 100.0).collect();
    let measured = median(&mut kept);
    let margin = sign_test_margin(WINDOWS);
    Ok(Row {
        what: "requests per second that a server keeps on connections that stay open".to_owned(),
        measured,
        unit: "%",
        target: Some(Target::AtLeast(99.5)),
        detail: format!(
            "{:.1} to {:.1} with 95 %; nginx under wrk, {OPEN} connections, two CPUs",
            kept[WINDOWS / 2 - margin],
            kept[WINDOWS / 2 + margin],
        ),
    })
}

fn signal(agent: &Agent, signal: libc::c_int) -> anyhow::Result<()> {
    // SAFETY: kill takes two integers; the child has not been waited for, so the pid is its own.
    let sent = unsafe { libc::kill(agent.child.id() as i32, signal) };
    ensure!(sent == 0, "the agent has ended");
    Ok(())
}

/// Returns the bytes that this network namespace has received: every response has the same number.
fn octets() -> anyhow::Result<u64> {
    let netstat = fs::read_to_string("/proc/thread-self/net/netstat")?;
    let mut rows = netstat.lines().filter_map(|line| line.strip_prefix("IpExt: "));
    let (names, values) = rows.next().zip(rows.next()).context("netstat has no rows of IP")?;
    let mut columns = names.split(' ').zip(values.split(' '));
    let (_, value) =
        columns.find(|(name, _)| *name == "InOctets").context("netstat has no InOctets")?;
    Ok(value.parse()?)
}
