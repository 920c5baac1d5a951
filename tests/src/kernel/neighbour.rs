//! Innocent neighbour of a leaking service on a small machine: it suffers without the agent, and
//! does not with it.
//!
//! The neighbour answers over TCP from a table in memory. Its client measures from the time at
//! which a request was due, so that a stuck request delays those behind it, as with real clients.
//! Emulated CPUs share a host's with others, which shows as latency too. The check therefore
//! requires two things: at least one of several windows under the limit is as good as the usual one
//! without the leaker, because a shared CPU does not slow all of them and a lack of memory does;
//! and the kernel reports hardly any time in which the neighbour waited for memory, which does not
//! depend on the CPU. Others may need the CPU for minutes: windows with the leaker stopped, in turns
//! with those under the limit, show what is usual by then.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use spillway_tests::{now, wait_for};

use crate::{
    checks::Seen,
    drive::{Swap, be_there, vmstat},
    installed::{CLAIMED_WITHIN, Installed, QUICK, line_of, t_of},
    rungs::{Prepared, Rung},
    unit_stage::{MIB, SOON, Stage, available_share, until},
};

/// Memory of the neighbour; a request reads 64 pages of it.
const TABLE: &str = "table --addr=127.0.0.1:9700 --size=128MiB --rows=64";
const ADDR: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9700);
/// Uses up the machine within a minute. The kernel kills this one if no memory is left.
const LEAK: &str = "leak --rate=20MiB --limit=2GiB";
/// Faster leak, for the run without the agent.
const QUICK_LEAK: &str = "leak --rate=40MiB --limit=2GiB";
const FIRST_TO_GO: &str = "OOMScoreAdjust=1000\n";

/// Fills soon, as on a small machine.
const SWAP_BYTES: u64 = 64 * MIB;

/// Time between two requests: an emulated CPU takes a millisecond for one.
const EVERY: Duration = Duration::from_millis(8);
const WINDOW: Duration = Duration::from_secs(2);
/// Number of windows before the limit whose median counts as usual.
const WINDOWS: usize = 3;
/// Maximum number of windows under the limit until one is as good as usual.
const WINDOWS_MAX: usize = 20;

/// Maximum time from the breach to the limit. On hardware `tests/host_limit.rs` requires half a
/// second; with the agent's and systemd's CPU emulated on a shared host it was 0.2 to 0.6 s.
const LIMITED_WITHIN_SECS: f64 = 5.0;

/// Maximum factor by which the 99th percentile may rise.
const P99_RATIO_MAX: f64 = 1.1;
/// Maximum share of the time that it may wait for memory.
const STALLED_MAX: f64 = 0.01;
/// Minimum factor by which the neighbour is slower if it suffers.
const SUFFERS: f64 = 3.0;

/// Neighbour and its client.
struct Neighbour {
    stage: Stage,
    samples: Arc<Mutex<Vec<(Instant, Duration)>>>,
    is_over: Arc<AtomicBool>,
    client: Option<JoinHandle<()>>,
}

/// Latencies of a period.
#[derive(Debug, Clone)]
struct Latency {
    p50_ms: f64,
    p99_ms: f64,
    requests: usize,
}

/// Checks that the neighbour suffers without the agent, and that the kernel kills.
pub fn without(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    be_there()?;
    let swap = Swap::on(SWAP_BYTES)?;
    let neighbour = Neighbour::start()?;
    let (kills, leak) = (vmstat("oom_kill")?, Stage::running("leak", QUICK_LEAK, FIRST_TO_GO)?);
    let before = usual(&neighbour.windows()?)?;
    let (mut worst, mut least_available, mut most_swapped) = (before.clone(), 1.0_f64, 0);
    let (start, stalled) = (now(), neighbour.stalled_secs()?);
    while vmstat("oom_kill")? == kills && start.elapsed() < CLAIMED_WITHIN {
        let window = neighbour.window()?;
        if window.p99_ms > worst.p99_ms {
            worst = window;
        }
        least_available = least_available.min(available_share()?);
        most_swapped = most_swapped.max(swap.used_bytes()?);
    }
    let (ratio, kills) = (worst.p99_ms / before.p99_ms, vmstat("oom_kill")? - kills);
    let stalled = neighbour.stalled_secs()? - stalled;
    drop(leak);
    let detail = format!(
        "p99 {before} before, {worst} at the worst: {ratio:.0} times; it waited {stalled:.1} s for \
         memory; MemAvailable {:.1} % at least, \
         {} MiB swapped; {kills} killed after {:.0} s",
        least_available * 100.0,
        most_swapped / MIB,
        start.elapsed().as_secs_f64()
    );
    ensure!(ratio > SUFFERS || kills > 0, "the leak does not affect the neighbour: {detail}");
    ensure!(least_available < 0.1, "memory did not run short: {detail}");
    Ok(Seen { events: before.requests as u64, detail })
}

/// Checks that the leaker is limited in time, and that the neighbour does not suffer.
pub fn with(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    be_there()?;
    let swap = Swap::on(SWAP_BYTES)?;
    let neighbour = Neighbour::start()?;
    // Scanned as seldom as the shortest horizon allows: an emulated CPU takes tens of milliseconds
    // for a scan.
    let seldom = QUICK.replace("200ms", "250ms") + "[detect.overload]\ninterval = \"500ms\"\n";
    let agent = Installed::start(&seldom)?;
    let (kills, leak) = (vmstat("oom_kill")?, Stage::running("leak", LEAK, FIRST_TO_GO)?);
    let mut without = neighbour.windows()?;
    let (start, stalled, mut least_available) = (now(), neighbour.stalled_secs()?, 1.0_f64);
    let limit_bytes = until(CLAIMED_WITHIN, || {
        least_available = least_available.min(available_share().ok()?);
        leak.high().ok()?.parse::<u64>().ok()
    });
    let limit_bytes = limit_bytes.with_context(|| format!("no limit was set: {}", agent.said()))?;
    // Until the leaker has used up its margin.
    let full = until(SOON, || (leak.used_bytes().ok()? + 4 * MIB > limit_bytes).then_some(()));
    ensure!(full.is_some(), "the leaker does not reach its limit");
    let after = neighbour.as_good_as_usual(&mut without, &leak)?;
    let usual = usual(&without)?;
    least_available = least_available.min(available_share()?);
    let stalled = (neighbour.stalled_secs()? - stalled) / start.elapsed().as_secs_f64();
    let printed = agent.printed();
    let decided = line_of(&printed, "decision", "limit").context("nothing was decided")?;
    let limited = line_of(&printed, "outcome", "limited").context("nothing was limited")?;
    let took = t_of(limited)? - t_of(decided)?;
    let gap =
        agent.metric("spillway_loop_gap_max_seconds").context("the loop's gap is not reported")?;
    let (ratio, kills) = (after.p99_ms / usual.p99_ms, vmstat("oom_kill")? - kills);
    let detail = format!(
        "limited at {} MiB within {:.0} ms of the breach; p99 {usual} without the leaker ({} \
         windows), {after} under the limit: {ratio:.2} times; it waited for memory {:.2} % \
         of the time; MemAvailable {:.1} % at least, {} MiB swapped; {kills} killed; the \
         agent's loop was away for {:.0} ms at most",
        limit_bytes / MIB,
        took * 1e3,
        without.len(),
        stalled * 100.0,
        least_available * 100.0,
        swap.used_bytes()? / MIB,
        gap * 1e3
    );
    ensure!(took < LIMITED_WITHIN_SECS, "the limit came late: {detail}");
    ensure!(least_available > 0.1, "memory was short: {detail}");
    ensure!(kills == 0 && stalled < STALLED_MAX, "the neighbour waits for memory: {detail}");
    ensure!(ratio <= P99_RATIO_MAX, "the neighbour suffers: {detail}");
    Ok(Seen { events: after.requests as u64, detail })
}

impl Neighbour {
    fn start() -> anyhow::Result<Self> {
        let stage = Stage::running("table", TABLE, "")?;
        let stream = wait_for(SOON, || TcpStream::connect(ADDR).ok())
            .context("the neighbour does not listen")?;
        let (samples, is_over) =
            (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let client = {
            let (samples, is_over) = (samples.clone(), is_over.clone());
            thread::spawn(move || {
                ask(stream, &samples, &is_over)
                    .unwrap_or_else(|error| panic!("no answer from the neighbour: {error}"))
            })
        };
        Ok(Self { stage, samples, is_over, client: Some(client) })
    }

    /// Measures a window that begins now.
    fn window(&self) -> anyhow::Result<Latency> {
        let start = now();
        sleep(WINDOW);
        let latency = self.since(start).context("the neighbour has answered nothing")?;
        eprintln!("neighbour: p99 {latency}");
        Ok(latency)
    }

    /// Measures several windows.
    fn windows(&self) -> anyhow::Result<Vec<Latency>> {
        (0..WINDOWS).map(|_| self.window()).collect()
    }

    /// Returns the first window that is as good as the usual one without the leaker, or the best of
    /// many. After each that is not, adds one to `without` in which the leaker is stopped.
    fn as_good_as_usual(
        &self,
        without: &mut Vec<Latency>,
        leak: &Stage,
    ) -> anyhow::Result<Latency> {
        let mut best = self.window()?;
        for _ in 1..WINDOWS_MAX {
            if best.p99_ms <= usual(without)?.p99_ms * P99_RATIO_MAX {
                break;
            }
            leak.signal(libc::SIGSTOP)?;
            let stopped = self.window();
            leak.signal(libc::SIGCONT)?;
            without.push(stopped?);
            let window = self.window()?;
            if window.p99_ms < best.p99_ms {
                best = window;
            }
        }
        Ok(best)
    }

    /// Returns the latencies of requests answered since `start`, and of those still waiting.
    fn since(&self, start: Instant) -> Option<Latency> {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let answered =
            samples.iter().filter(|(at, _)| *at >= start).map(|(_, took)| took.as_secs_f64() * 1e3);
        let waits =
            samples.last().map(|(at, _)| at.elapsed().as_secs_f64() * 1e3).filter(|&ms| ms > 1e3);
        let mut all: Vec<f64> = answered.chain(waits).collect();
        all.sort_by(f64::total_cmp);
        let at = |share: f64| {
            all.get(((all.len() as f64 * share).ceil() as usize).saturating_sub(1)).copied()
        };
        Some(Latency { p50_ms: at(0.5)?, p99_ms: at(0.99)?, requests: all.len() })
    }

    /// Returns the time for which any of its tasks has waited for memory so far.
    fn stalled_secs(&self) -> anyhow::Result<f64> {
        let text = fs::read_to_string(self.stage.file("memory.pressure"))?;
        let us = text.lines().find_map(|line| {
            line.strip_prefix("some ")?.rsplit_once("total=")?.1.parse::<u64>().ok()
        });
        Ok(us.with_context(|| format!("cannot parse memory.pressure: {text}"))? as f64 / 1e6)
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(client) = self.client.take() {
            let _ = client.join();
        }
    }
}

/// Returns the median of windows.
fn usual(windows: &[Latency]) -> anyhow::Result<Latency> {
    let mut windows: Vec<_> = windows.iter().collect();
    windows.sort_by(|a, b| a.p99_ms.total_cmp(&b.p99_ms));
    windows.get(windows.len() / 2).map(|&median| median.clone()).context("nothing was measured")
}

/// Sends requests at its pace; a request that was due while an answer was late is measured from
/// when it was due.
fn ask(
    mut stream: TcpStream,
    samples: &Mutex<Vec<(Instant, Duration)>>,
    is_over: &AtomicBool,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut due = now();
    let mut number = 0_u64;
    while !is_over.load(Ordering::Relaxed) {
        let early = due.saturating_duration_since(now());
        sleep(early);
        // A timer that fires late is not the neighbour's fault.
        let from = if early.is_zero() { due } else { now() };
        number += 1;
        let request = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        stream.write_all(&request.to_le_bytes())?;
        stream.read_exact(&mut [0; 8])?;
        let at = now();
        samples.lock().unwrap_or_else(PoisonError::into_inner).push((at, at - from));
        due += EVERY;
    }
    Ok(())
}

impl std::fmt::Display for Latency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} ms (p50 {:.2} ms, {} requests)", self.p99_ms, self.p50_ms, self.requests)
    }
}
