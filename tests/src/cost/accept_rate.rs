//! Accept rate of a real server with the agent's programs attached and without.
//!
//! Rates drift by percents from second to second, so windows are short and each is compared with
//! its neighbour. The agent's own CPU use is another row. Everything runs in its own network
//! namespace, because so many connections would fill the host's with remains.

use std::{
    fs,
    net::SocketAddr,
    process::Child,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, ensure};
use spillway_tests::{Scratch, Servers, overload_live::server::page, own_network};

use crate::{
    Row, Target,
    connections::{Programs, Watched},
    far_load::FarLoad,
    median, tell,
    tun::{SERVER, Tun},
};

/// Requests in progress at once, so that the server is never idle.
const AT_ONCE: usize = 16;
/// Pairs of windows in which connections are counted, their length, and the settling time after
/// attaching or detaching.
const WINDOWS: usize = 600;
const WINDOW: Duration = Duration::from_millis(60);
const WINDOW_SETTLES: Duration = Duration::from_millis(20);

const PORT: u16 = 8_000;

/// Location of the clients.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Clients {
    /// Another machine, as far as the server's kernel can see: the server has its CPU to itself,
    /// including the network's share.
    Elsewhere,
    /// This machine, so that both ends of each connection are paid for here.
    Here,
}

/// Accept rates, if a server is available.
pub fn rows() -> anyhow::Result<Vec<Row>> {
    let servers = match Servers::find() {
        Ok(servers) => servers,
        Err(reason) => {
            tell(&format!("no accept rate: {reason}"));
            return Ok(Vec::new());
        }
    };
    let small = || b"ok\n".to_vec();
    let cases = [
        ("that does nothing else", Clients::Elsewhere, small()),
        ("that works 1 ms for each", Clients::Here, page()),
        ("that does nothing else, clients beside it", Clients::Here, small()),
    ];
    cases.into_iter().map(|(what, clients, page)| row(&servers, what, clients, page)).collect()
}

fn row(servers: &Servers, what: &str, clients: Clients, page: Vec<u8>) -> anyhow::Result<Row> {
    tell(&format!(
        "running a server {what} for {WINDOWS} windows with connection tracking and without"
    ));
    let servers = servers.clone();
    // Runs in a new thread, which moves to its own network namespace.
    let measured = thread::spawn(move || rates(&servers, clients, &page));
    let [off, on] = measured.join().map_err(|_| anyhow!("the accept rate's thread panicked"))??;
    let mut kept: Vec<_> = on.iter().zip(&off).map(|(on, off)| on / off * 100.0).collect();
    let measured = median(&mut kept);
    let (least, most) = (
        kept[WINDOWS / 2 - sign_test_margin(WINDOWS)],
        kept[WINDOWS / 2 + sign_test_margin(WINDOWS)],
    );
    Ok(Row {
        what: format!("accept rate that a server keeps {what}"),
        measured,
        unit: "%",
        target: Some(Target::AtLeast(98.0)),
        detail: format!(
            "{least:.1} to {most:.1} with 95 %; nginx, {:.0} connections a second without",
            median(&mut off.clone())
        ),
    })
}

/// Connections per second that nginx accepts in each window, without and with connection tracking.
fn rates(servers: &Servers, clients: Clients, page: &[u8]) -> anyhow::Result<[Vec<f64>; 2]> {
    let tun = match clients {
        Clients::Elsewhere => {
            let tun = Tun::open(PORT)?;
            tun.taken_by_first_cpu()?;
            Some(tun)
        }
        Clients::Here => {
            own_network().context("no network namespace; hint: the bench needs root")?;
            None
        }
    };
    let addr = if tun.is_some() {
        SocketAddr::from((SERVER, PORT))
    } else {
        SocketAddr::from(([127, 0, 0, 1], PORT))
    };
    let scratch = Scratch::make("accept-rate");
    let _nginx = servers.nginx(&scratch.0, addr, page);
    let watched = Programs::load(Watched::Connects)?;
    let mut load = Load::start(servers, addr, tun)?;
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
        if load.has_ended()? {
            break;
        }
    }
    // Reports the reason if the load ended by itself.
    load.end()?;
    ensure!(rates[1].len() == WINDOWS, "the load ended before the measurement");
    Ok(rates)
}

/// Source of the requests.
enum Load {
    Here(Child),
    Elsewhere { stop: Arc<AtomicBool>, thread: JoinHandle<anyhow::Result<u64>> },
}

impl Load {
    /// Starts the load on the last CPU; the server has the first.
    fn start(servers: &Servers, addr: SocketAddr, tun: Option<Tun>) -> anyhow::Result<Self> {
        let Some(tun) = tun else {
            // Longer than the measurement takes even on a busy machine: it is ended earlier.
            let secs = (WINDOW + WINDOW_SETTLES).as_secs_f64() * 2.0 * WINDOWS as f64 * 10.0;
            let mut wrk = servers.wrk(addr, AT_ONCE as u32, secs as u32);
            return Ok(Self::Here(wrk.spawn().context("starting wrk")?));
        };
        let stop = Arc::new(AtomicBool::new(false));
        let until = stop.clone();
        let thread = thread::spawn(move || {
            on_last_cpu().context("pinning the far clients to a CPU")?;
            FarLoad::new(tun).run(AT_ONCE, &until)
        });
        Ok(Self::Elsewhere { stop, thread })
    }

    /// Returns true if the load has ended.
    fn has_ended(&mut self) -> anyhow::Result<bool> {
        Ok(match self {
            Self::Here(wrk) => wrk.try_wait()?.is_some(),
            Self::Elsewhere { thread, .. } => thread.is_finished(),
        })
    }

    fn end(self) -> anyhow::Result<()> {
        match self {
            Self::Here(mut wrk) => {
                wrk.kill()?;
                wrk.wait()?;
            }
            Self::Elsewhere { stop, thread } => {
                stop.store(true, Ordering::Relaxed);
                thread.join().map_err(|_| anyhow!("the far clients' thread panicked"))??;
            }
        }
        Ok(())
    }
}

/// Pins this thread to the last CPU.
fn on_last_cpu() -> anyhow::Result<()> {
    let last = thread::available_parallelism()?.get() - 1;
    // SAFETY: cpu_set_t is plain data, for which all zeroes is a valid value: no CPU.
    let mut cpus: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the macro writes a bit of the set, which has room for more CPUs than there are.
    unsafe { libc::CPU_SET(last, &mut cpus) };
    // SAFETY: the kernel reads so many bytes of the set, which lives until it returns; 0 is this
    // thread.
    match unsafe { libc::sched_setaffinity(0, size_of_val(&cpus), &raw const cpus) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error().into()),
    }
}

/// Half-width of the 95 % interval of a median of so many, in ranks.
pub fn sign_test_margin(windows: usize) -> usize {
    (0.98 * (windows as f64).sqrt()).ceil() as usize
}

/// Connections accepted so far in this network namespace.
fn accepted() -> anyhow::Result<u64> {
    let snmp = fs::read_to_string("/proc/thread-self/net/snmp")?;
    let mut rows = snmp.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = rows.next().zip(rows.next()).context("snmp has no rows of TCP")?;
    let mut columns = names.split(' ').zip(values.split(' '));
    let (_, value) =
        columns.find(|(name, _)| *name == "PassiveOpens").context("snmp has no PassiveOpens")?;
    Ok(value.parse()?)
}
