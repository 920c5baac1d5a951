//! The agent where everybody waits for memory: its loop goes on, and what it decides is done.
//!
//! The real thing: more is written all over than there is memory for, the rest is on a slow drive,
//! and whoever runs waits for it. It is memory that is short, not CPU: those who wait use none.
//! Seen before the agent asked the kernel not to: its loop stood for seconds in the kernel's
//! writing others' pages to swap, because the buffer that a BPF iterator is read through was to be
//! had no other way.

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

/// Share of the time in which nobody goes on, of the last ten seconds, that the storm has to reach:
/// the agent's own turns, which an emulated CPU is slow at, are not waited in.
const PRESSURE: f64 = 0.9;
const STORMS_WITHIN: Duration = Duration::from_secs(90);
const LEAKS_WITHIN: Duration = Duration::from_secs(60);
/// It goes on for so long at least.
const LASTS: Duration = Duration::from_secs(25);
/// For how long the loop may be away.
const AWAY_MAX_SECS: f64 = 1.0;

/// Scans as seldom as the shortest horizon lets it: with every scan an emulated CPU is busy for
/// tens of milliseconds, and while it is, not everybody waits.
const AGENT: &str = "mode = \"enforce\"\n[sense]\ninterval = \"1s\"\n[detect.leak]\nwarm_up \
= \"0s\"\n\
    horizons = [\"32s\", \"48s\", \"64s\", \"128s\"]\nmin_growth \
    = \"16MiB\"\n[detect.overload]\ninterval = \"1s\"\nsustain = \"2s\"\n[decide]\n\
    limit_within = \"1d\"\n[act.limit]\nmargin = \"32MiB\"\n";

/// Is judged when the storm is there or nearly, and stops where what is left of the drive would be
/// full.
const LEAK: &str = "leak --rate=4MiB --limit=180MiB";
/// What it has when the storm begins: in a storm it hardly gets more.
const LEAKED_BYTES: u64 = 140 * MIB;
/// By how much more is used than is there. What others have and do not use, a part of the file
/// system included, goes first.
const OVER_BYTES: u64 = 200 * MIB;
/// Not every wait for a page of swap counts as one for memory, so there have to be enough who wait.
const THREADS: u32 = 48;
/// All of that, and the leak.
const SWAP_BYTES: u64 = 500 * MIB;
const FIRST_TO_GO: &str = "OOMScoreAdjust=1000\n";

/// It goes on.
pub fn storm(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    if !is_asked_for() {
        // It takes two minutes and a half.
        return Err(NotOffered("a storm is for --thorough or --only".to_owned()).into());
    }
    be_there()?;
    let swap = Swap::on(SWAP_BYTES)?;
    let agent = Installed::start(AGENT)?;
    let leak = Stage::running("leak", LEAK, "")?;
    let away = || {
        agent
            .metric("spillway_loop_gap_max_seconds")
            .context("it does not tell how long it was away")
    };
    let (calm, kills) = (away()?, vmstat("oom_kill")?);
    let leaked = until(LEAKS_WITHIN, || (leak.used_bytes().ok()? >= LEAKED_BYTES).then_some(()));
    ensure!(leaked.is_some(), "it holds {} MiB", leak.used_bytes()? / MIB);
    let size = available_bytes()? + OVER_BYTES;
    let storm =
        Stage::running("roam", &format!("roam --size={size} --threads={THREADS}"), FIRST_TO_GO)?;
    let pid = storm.pid()?;
    let (mut most, mut limited, start) = (0.0_f64, None, now());
    while start.elapsed() < STORMS_WITHIN && (most < PRESSURE || start.elapsed() < LASTS) {
        // Whoever looks takes CPU, and while he does not everybody waits.
        sleep(Duration::from_secs(1));
        let pressure = full_pressure()?;
        most = most.max(pressure);
        if leak.high()? != "max" {
            limited.get_or_insert(pressure);
        }
    }
    let swapped = swap.used_bytes()?;
    // At once: systemd, asked to stop it, would wait with everybody.
    // SAFETY: a signal to the storm's process, which nobody has waited for.
    unsafe { libc::kill(pid as i32, libc::SIGKILL) };
    drop(storm);
    let (away, kills) = (away()?, vmstat("oom_kill")? - kills);
    // What was decided to the end of the storm is done soon after it, or was in it.
    let decided = line_of(&agent.printed(), "decision", "limit").map(t_of).transpose()?;
    let took = match decided {
        None => None,
        Some(decided) => {
            let done = until(SOON, || t_of(line_of(&agent.printed(), "outcome", "limited")?).ok());
            Some(done.with_context(|| format!("nothing is limited: {}", agent.said()))? - decided)
        }
    };
    let leak = match (took, limited) {
        (None, _) => "no leak was judged".to_owned(),
        (Some(took), None) => {
            format!("a leak was limited after it, {took:.1} s after that was decided")
        }
        (Some(took), Some(pressure)) => {
            format!(
                "a leak was limited at {:.0} %, {took:.1} s after that was decided",
                pressure * 100.0
            )
        }
    };
    let detail = format!(
        "full avg10 {:.0} % at most, {} MiB swapped; the loop was away for {:.0} ms at most, {:.0} \
         ms before; {leak}; {kills} killed",
        most * 100.0,
        swapped / MIB,
        away * 1e3,
        calm * 1e3,
    );
    if most < PRESSURE {
        // Where an emulated CPU gets no time it is that which is short, and nothing is shown of
        // memory.
        return Err(NotOffered(format!("this machine is too busy for a storm: {detail}")).into());
    }
    ensure!(away < AWAY_MAX_SECS, "the loop was away: {detail}");
    Ok(Seen { events: 1, detail })
}

/// Share of the last ten seconds in which nobody went on.
fn full_pressure() -> anyhow::Result<f64> {
    let text = fs::read_to_string("/proc/pressure/memory")?;
    let percent = text
        .lines()
        .find_map(|line| line.strip_prefix("full avg10=")?.split(' ').next()?.parse::<f64>().ok());
    Ok(percent.with_context(|| format!("/proc/pressure/memory says {text}"))? / 100.0)
}
