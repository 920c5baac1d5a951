//! The agent where everybody waits for memory: its loop goes on, and it decides and acts.
//!
//! The real thing: more is written all over than there is memory for, the rest is on a slow drive, and whoever runs waits for it. It
//! is memory that is short, not CPU: those who wait use none.

use std::{fs, time::Duration};

use anyhow::{Context as _, ensure};

use crate::{
    checks::{NotOffered, Seen},
    drive::{Swap, be_there, vmstat},
    guest::is_thorough,
    installed::{Installed, line_of, t_of},
    rungs::{Prepared, Rung},
    unit_stage::{MIB, Stage, available_bytes, until},
};

/// Share of the time in which nobody goes on, of the last ten seconds, that the storm has to reach: the agent's own turns, which an emulated CPU is slow at, are
/// not waited in.
const PRESSURE: f64 = 0.8;
const STORMS_WITHIN: Duration = Duration::from_secs(100);
/// For how long the loop may be away.
const AWAY_MAX_SECS: f64 = 1.0;

/// Scans and judges as it does by default, but from the start: with every scan an emulated CPU is busy for tens of milliseconds, and
/// while it is, not everybody waits.
const AGENT: &str = "mode = \"enforce\"\n[detect.leak]\nwarm_up = \"0s\"\nmin_growth = \"16MiB\"\n[detect.overload]\n\
    interval = \"500ms\"\n[decide]\nlimit_within = \"1d\"\n[act.limit]\nmargin = \"32MiB\"\n";

/// Is judged when the storm is there, and stops where what is left of the drive would be full.
const LEAK: &str = "leak --rate=2MiB --limit=160MiB";
/// By how much more is used than is there. What others have and do not use, a part of the file system included, goes first.
const OVER_BYTES: u64 = 200 * MIB;
/// All of that, and the leak.
const SWAP_BYTES: u64 = 500 * MIB;
const FIRST_TO_GO: &str = "OOMScoreAdjust=1000\n";

/// It goes on.
pub fn storm(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    if !is_thorough() {
        // It takes three minutes, and what it asks does not hold yet: see what it says.
        return Err(NotOffered("a storm is for --thorough alone".to_owned()).into());
    }
    be_there()?;
    let swap = Swap::on(SWAP_BYTES)?;
    let agent = Installed::start(AGENT)?;
    let leak = Stage::running("leak", LEAK, "")?;
    let away = || agent.metric("spillway_loop_gap_max_seconds").context("it does not tell how long it was away");
    let (calm, kills) = (away()?, vmstat("oom_kill")?);
    let size = available_bytes()? + OVER_BYTES;
    let storm = Stage::running("roam", &format!("roam --size={size} --threads=4"), FIRST_TO_GO)?;
    let pid = storm.pid()?;
    let (mut most, mut limited) = (0.0_f64, None);
    let reached = until(STORMS_WITHIN, || {
        let pressure = full_pressure().ok()?;
        eprintln!("full avg10 {pressure}, {} MiB swapped", swap.used_bytes().unwrap_or_default() / MIB);
        most = most.max(pressure);
        if leak.high().ok()? != "max" {
            limited.get_or_insert(pressure);
        }
        (limited.is_some() && most >= PRESSURE).then_some(())
    });
    let swapped = swap.used_bytes()?;
    // At once: systemd, asked to stop it, would wait with everybody.
    // SAFETY: a signal to the storm's process, which nobody has waited for.
    unsafe { libc::kill(pid as i32, libc::SIGKILL) };
    drop(storm);
    let (away, kills) = (away()?, vmstat("oom_kill")? - kills);
    let printed = agent.printed();
    let decided = line_of(&printed, "decision", "limit").context("nothing was decided");
    let took =
        line_of(&printed, "outcome", "limited").map(|outcome| Ok::<_, anyhow::Error>(t_of(outcome)? - t_of(decided?)?));
    let detail = format!(
        "full avg10 {:.0} % at most, {} MiB swapped; the loop was away for {:.0} ms at most, {:.0} ms before; a leak was limited at {:.0} %, \
         {:.0} ms after it was decided; {kills} killed",
        most * 100.0,
        swapped / MIB,
        away * 1e3,
        calm * 1e3,
        limited.unwrap_or(f64::NAN) * 100.0,
        took.transpose()?.unwrap_or(f64::NAN) * 1e3,
    );
    if most < PRESSURE {
        // Where an emulated CPU gets no time it is that which is short, and nothing is shown of memory.
        return Err(NotOffered(format!("this machine is too busy for a storm: {detail}")).into());
    }
    ensure!(reached.is_some(), "nothing is limited in the storm: {detail}; {}", agent.said());
    ensure!(away < AWAY_MAX_SECS, "the loop was away: {detail}");
    ensure!(limited.is_some_and(|pressure| pressure > 0.5), "it was limited before the storm: {detail}");
    Ok(Seen { events: 1, detail })
}

/// Share of the last ten seconds in which nobody went on.
fn full_pressure() -> anyhow::Result<f64> {
    let text = fs::read_to_string("/proc/pressure/memory")?;
    let percent =
        text.lines().find_map(|line| line.strip_prefix("full avg10=")?.split(' ').next()?.parse::<f64>().ok());
    Ok(percent.with_context(|| format!("/proc/pressure/memory says {text}"))? / 100.0)
}
