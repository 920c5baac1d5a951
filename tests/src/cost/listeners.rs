//! What watching listeners costs: a look at many of them on a busy host, and how fast a real server accepts with the agent beside it.

use std::{
    fs,
    net::SocketAddr,
    thread::{self, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use spillway_agent::{config::Config, sense::Sensors};
use spillway_tests::{Scratch, Servers, Workload, overload_live::server::page, own_network};

use crate::{
    Agent, Row, Target, WATCHED,
    connections::{self, Connects, Programs},
    median, tell, thread_cpu_secs, workload,
};

/// A busy host: the target is set for it.
const LISTENERS: usize = 200;
const CONNECTIONS: usize = 10_000;
/// Services at which connections wait, each asked in every look what it runs short of: the most that are in one.
const STANDING: usize = 16;

/// Processes that hold the connections, both ends of each: one alone would need more files than is usually allowed.
const HOLDERS: usize = 2;

/// wrk's connections at a server that is never idle.
const CLIENTS: u32 = 16;
/// Pairs of windows in which connections are counted, how long each is, and how long what was attached or taken away settles.
const WINDOWS: usize = 600;
const WINDOW: Duration = Duration::from_millis(60);
const WINDOW_SETTLES: Duration = Duration::from_millis(20);

/// The rows that there can be here.
pub fn rows() -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::from(look()?);
    rows.extend(connections::rows()?);
    match Servers::find() {
        Ok(servers) => {
            for (what, page) in [("that does nothing else", b"ok\n".to_vec()), ("that works 1 ms for each", page())] {
                tell(&format!(
                    "running a server {what} under wrk, in {WINDOWS} windows with what follows connections and without"
                ));
                rows.push(accept_rate(servers.clone(), what, page)?);
            }
        }
        Err(reason) => tell(&format!("no accept rate: {reason}")),
    }
    Ok(rows)
}

/// The sensor at its default pace, a search for the listeners' owners and all; and the whole agent beside it.
fn look() -> anyhow::Result<[Row; 3]> {
    tell(&format!("holding {LISTENERS} listeners and {CONNECTIONS} connections"));
    let _listeners = Workload::start(workload()?.args(["listeners", &format!("--count={LISTENERS}")]));
    let each = format!("--count={}", CONNECTIONS / HOLDERS);
    let hold = |_| Ok(Workload::start(workload()?.args(["connections", &each])));
    let _connections = (0..HOLDERS).map(hold).collect::<anyhow::Result<Vec<_>>>()?;

    tell(&format!("looking at them for {} s", WATCHED.as_secs()));
    let Looks { share, listeners, median_secs, most_secs } = looks(&mut Sensors::start())?;
    let detail = format!(
        "{listeners} listeners; a look {:.2} ms, with the search for owners {:.1} ms",
        median_secs * 1e3,
        most_secs * 1e3
    );

    tell(&format!("looking at them for {} s while connections wait at {STANDING} more", WATCHED.as_secs()));
    let stands = |_| Ok(Workload::start(workload()?.args(["listen", "--pending=5"])));
    let standing = (0..STANDING).map(stands).collect::<anyhow::Result<Vec<_>>>()?;
    let with_standing = looks(&mut Sensors::start())?;
    drop(standing);
    let reading_secs = (with_standing.median_secs - median_secs) / STANDING as f64;

    let agent = Agent::start()?;
    let (before, start) = (agent.cpu_secs()?, Instant::now());
    sleep(WATCHED);
    let whole = (agent.cpu_secs()? - before) / start.elapsed().as_secs_f64() * 100.0;
    let what = format!("the sensor at {LISTENERS} listeners, {CONNECTIONS} connections");
    let row = |what, measured, target, detail| Row { what, measured, unit: "%", target, detail };
    Ok([
        row(what, share, Some(Target::AtMost(1.0)), detail),
        row(
            format!("the same while connections wait at {STANDING} more"),
            with_standing.share,
            None,
            format!("{:.0} µs to ask one what it runs short of", reading_secs * 1e6),
        ),
        row("the agent's CPU beside them, of one core".to_owned(), whole, None, String::new()),
    ])
}

/// What looks at the default pace took.
struct Looks {
    /// Of one core, in percent.
    share: f64,
    /// Listeners seen in the last.
    listeners: usize,
    median_secs: f64,
    most_secs: f64,
}

fn looks(sensors: &mut Sensors) -> anyhow::Result<Looks> {
    let every = Config::default().detect.overload.interval;
    let (mut seen, mut looks, start) = (Vec::new(), Vec::new(), Instant::now());
    while start.elapsed() < WATCHED {
        seen.clear();
        let before = thread_cpu_secs()?;
        sensors.scan_listeners(start.elapsed().as_secs_f64(), &mut seen);
        looks.push(thread_cpu_secs()? - before);
        sleep((every * looks.len() as u32).saturating_sub(start.elapsed()));
    }
    Ok(Looks {
        share: looks.iter().sum::<f64>() / start.elapsed().as_secs_f64() * 100.0,
        listeners: seen.len(),
        median_secs: median(&mut looks),
        most_secs: looks.iter().copied().fold(0.0, f64::max),
    })
}

/// Connections a second that nginx takes under wrk, with what follows connections attached against without: in a network namespace of
/// their own, because the host's would fill with what is left of them. Speeds here wander by percents from second to second, so that
/// windows are short and compared with the one beside them. What the agent takes of a CPU beside it is another row.
fn accept_rate(servers: Servers, what: &str, page: Vec<u8>) -> anyhow::Result<Row> {
    let measure = move || -> anyhow::Result<[Vec<f64>; 2]> {
        own_network().context("no network namespace; hint: the bench needs root")?;
        let scratch = Scratch::make("accept-rate");
        let addr = SocketAddr::from(([127, 0, 0, 1], 8_000));
        let _nginx = servers.nginx(&scratch.0, addr, &page);
        let watched = Programs::load(Connects::Watched)?;
        let secs = (WINDOW + WINDOW_SETTLES).as_secs_f64() * 2.0 * (WINDOWS + 10) as f64;
        let mut wrk = servers.wrk(addr, CLIENTS, secs as u32).spawn().context("wrk does not start")?;
        sleep(WINDOW_SETTLES * 10);
        let mut rates = [Vec::new(), Vec::new()];
        for turn in 0..WINDOWS {
            for with in [turn % 2 == 0, turn % 2 != 0] {
                let attached = with.then(|| watched.attach()).transpose()?;
                sleep(WINDOW_SETTLES);
                let (before, start) = (accepted()?, Instant::now());
                sleep(WINDOW);
                let rate = (accepted()? - before) as f64 / start.elapsed().as_secs_f64();
                rates[usize::from(with)].push(rate);
                drop(attached);
            }
        }
        wrk.kill()?;
        wrk.wait()?;
        Ok(rates)
    };
    let [off, on] = thread::spawn(measure).join().map_err(|_| anyhow!("the accept rate's thread panicked"))??;
    let mut kept: Vec<_> = on.iter().zip(&off).map(|(on, off)| on / off * 100.0).collect();
    let measured = median(&mut kept);
    let (least, most) = (kept[WINDOWS / 2 - sign_test_margin()], kept[WINDOWS / 2 + sign_test_margin()]);
    Ok(Row {
        what: format!("accept rate that a server keeps {what}"),
        measured,
        unit: "%",
        target: Some(Target::AtLeast(98.0)),
        detail: format!(
            "{least:.1} to {most:.1} with 95 %; nginx under wrk, {:.0} connections a second without",
            median(&mut off.clone())
        ),
    })
}

/// How far from the median, in ranks, its interval of 95 % reaches.
fn sign_test_margin() -> usize {
    (0.98 * (WINDOWS as f64).sqrt()).ceil() as usize
}

/// Connections that this network namespace has accepted so far.
fn accepted() -> anyhow::Result<u64> {
    let snmp = fs::read_to_string("/proc/thread-self/net/snmp")?;
    let mut rows = snmp.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = rows.next().zip(rows.next()).context("snmp has no rows of TCP")?;
    let mut columns = names.split(' ').zip(values.split(' '));
    let (_, value) = columns.find(|(name, _)| *name == "PassiveOpens").context("snmp has no PassiveOpens")?;
    Ok(value.parse()?)
}
