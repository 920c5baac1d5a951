//! The agent on a host on which every process waits for memory: its loop goes on, and its decisions
//! are carried out.
//!
//! The storm is real: processes write to more memory than there is, the rest is on a slow drive,
//! and every running process waits for it. Memory is short, not CPU: waiting processes use none.
//! Before the agent set PR_SET_IO_FLUSHER, its loop blocked for seconds while the kernel wrote
//! others' pages to swap, because there was no other way to get the buffer for reading a BPF
//! iterator.

use std::{fs, thread::sleep, time::Duration};

use anyhow::{Context as _, ensure};
use spillway_tests::now;

use crate::{
    checks::{NotOffered, Seen},
    drive::{Swap, be_there, vmstat},
    guest::is_asked_for,
    installed::{Installed, line_of, t_of},
    rungs::{Prepared, Rung},
    unit_stage::{MIB, SOON, Stage, available_bytes, until},
};

/// Minimum share of ten seconds in which no process makes progress. The agent's own turns are not
/// waiting time, and an emulated CPU is slow at them.
const PRESSURE: f64 = 0.9;
const STORMS_WITHIN: Duration = Duration::from_secs(90);
const LEAKS_WITHIN: Duration = Duration::from_secs(60);
/// Minimum duration of the storm.
const LASTS: Duration = Duration::from_secs(25);
/// Maximum gap of the loop.
const AWAY_MAX_SECS: f64 = 1.0;

/// Scans as seldom as the shortest horizon allows: each scan keeps an emulated CPU busy for tens of
/// milliseconds, during which not every process waits.
const AGENT: &str = "mode = \"enforce\"\n[sense]\ninterval = \"1s\"\n[detect.leak]\nwarm_up \
= \"0s\"\n\
    horizons = [\"32s\", \"48s\", \"64s\", \"128s\"]\nmin_growth \
    = \"16MiB\"\n[detect.overload]\ninterval = \"1s\"\nsustain = \"2s\"\n[decide]\n\
    limit_within = \"1d\"\n[act.limit]\nmargin = \"32MiB\"\n";

/// Is judged when the storm has begun or nearly, and stops before it would fill the rest of the
/// drive.
const LEAK: &str = "leak --rate=4MiB --limit=180MiB";
/// Memory of the leak when the storm begins: it hardly grows during the storm.
const LEAKED_BYTES: u64 = 140 * MIB;
/// Memory used beyond that available. Unused memory of other processes, and a part of the page
/// cache, goes first.
const OVER_BYTES: u64 = 200 * MIB;
/// Not every wait for a page of swap counts as a wait for memory, so that many threads are needed.
const THREADS: u32 = 48;
/// Room for all of that, and the leak.
const SWAP_BYTES: u64 = 500 * MIB;
const FIRST_TO_GO: &str = "OOMScoreAdjust=1000\n";

/// Checks that the agent's loop goes on during the storm.
pub fn storm(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    if !is_asked_for() {
        // It takes two minutes and a half.
        return Err(NotOffered("a storm is for --thorough or --only".to_owned()).into());
    }
    be_there()?;
    let swap = Swap::on(SWAP_BYTES)?;
    let agent = Installed::start(AGENT)?;
    let leak = Stage::running("leak", LEAK, "")?;
    let away =
        || agent.metric("spillway_loop_gap_max_seconds").context("the loop's gap is not reported");
    let (calm, kills) = (away()?, vmstat("oom_kill")?);
    let leaked = until(LEAKS_WITHIN, || (leak.used_bytes().ok()? >= LEAKED_BYTES).then_some(()));
    ensure!(leaked.is_some(), "the leak has only {} MiB", leak.used_bytes()? / MIB);
    let size = available_bytes()? + OVER_BYTES;
    let storm =
        Stage::running("roam", &format!("roam --size={size} --threads={THREADS}"), FIRST_TO_GO)?;
    let pid = storm.pid()?;
    let (mut most, mut limited, start) = (0.0_f64, None, now());
    while start.elapsed() < STORMS_WITHIN && (most < PRESSURE || start.elapsed() < LASTS) {
        // Sampling takes CPU, and during that not every process waits.
        sleep(Duration::from_secs(1));
        let pressure = full_pressure()?;
        most = most.max(pressure);
        if leak.high()? != "max" {
            limited.get_or_insert(pressure);
        }
    }
    let swapped = swap.used_bytes()?;
    // At once: systemd, asked to stop it, would wait too.
    // SAFETY: a signal to the storm's process, which nobody has waited for.
    unsafe { libc::kill(pid as i32, libc::SIGKILL) };
    drop(storm);
    let (away, kills) = (away()?, vmstat("oom_kill")? - kills);
    // A decision of the storm is carried out during it or soon after.
    let decided = line_of(&agent.printed(), "decision", "limit").map(t_of).transpose()?;
    let took = match decided {
        None => None,
        Some(decided) => {
            let done = until(SOON, || t_of(line_of(&agent.printed(), "outcome", "limited")?).ok());
            Some(
                done.with_context(|| format!("the limit was not set: {}", agent.said()))? - decided,
            )
        }
    };
    let leak = match (took, limited) {
        (None, _) => "no leak was judged".to_owned(),
        (Some(took), None) => {
            format!("a leak was limited after it, {took:.1} s after the decision")
        }
        (Some(took), Some(pressure)) => {
            format!(
                "a leak was limited at {:.0} %, {took:.1} s after the decision",
                pressure * 100.0
            )
        }
    };
    let detail = format!(
        "full avg10 {:.0} % at most, {} MiB swapped; the loop was blocked for {:.0} ms at most, {:.0} \
         ms before; {leak}; {kills} killed",
        most * 100.0,
        swapped / MIB,
        away * 1e3,
        calm * 1e3,
    );
    if most < PRESSURE {
        // If an emulated CPU gets no time, CPU is short instead, which shows nothing about memory.
        return Err(NotOffered(format!("this machine is too busy for a storm: {detail}")).into());
    }
    ensure!(away < AWAY_MAX_SECS, "the loop was blocked: {detail}");
    Ok(Seen { events: 1, detail })
}

/// Returns the share of the last ten seconds in which no process made progress.
fn full_pressure() -> anyhow::Result<f64> {
    let text = fs::read_to_string("/proc/pressure/memory")?;
    let percent = text
        .lines()
        .find_map(|line| line.strip_prefix("full avg10=")?.split(' ').next()?.parse::<f64>().ok());
    Ok(percent.with_context(|| format!("cannot parse /proc/pressure/memory: {text}"))? / 100.0)
}
