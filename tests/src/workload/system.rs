//! Shared by all workloads: the process's name, its tie to its parent, the ready line, and parsing
//! of sizes and times.

use std::ffi::CString;
use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::json;

/// Names the process if a name is given, disables huge pages if asked to, and ties its life to its
/// parent's.
pub fn prepare(name: Option<&str>, small_pages: bool) -> anyhow::Result<()> {
    // SAFETY: this prctl takes numbers alone.
    if small_pages && unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) } != 0 {
        return Err(std::io::Error::last_os_error()).context("cannot disable huge pages");
    }
    die_with_parent()?;
    if let Some(name) = name {
        let name = CString::new(name).context("the name contains a NUL")?;
        // SAFETY: PR_SET_NAME reads a NUL-terminated string, which lives until the call returns.
        if unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) } != 0 {
            return Err(std::io::Error::last_os_error()).context("PR_SET_NAME failed");
        }
    }
    Ok(())
}

/// Makes the kernel kill this process when its parent ends, for whatever reason.
pub fn die_with_parent() -> anyhow::Result<()> {
    // SAFETY: PR_SET_PDEATHSIG takes a signal number and touches no memory.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
        return Err(std::io::Error::last_os_error()).context("PR_SET_PDEATHSIG failed");
    }
    Ok(())
}

/// Prints the ready line; `addr` is null if there is none.
pub fn ready(addr: Option<String>) -> anyhow::Result<()> {
    say(&json!({"pid": std::process::id(), "addr": addr}))
}

/// Prints one JSON line at once.
pub fn say(line: &serde_json::Value) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("standard output is closed")
}

/// Waits for a signal, forever.
pub fn wait_forever() -> ! {
    loop {
        // SAFETY: pause takes nothing and touches no memory; it returns after a handled signal.
        unsafe { libc::pause() };
    }
}

/// Returns the time of the monotonic clock.
#[expect(clippy::disallowed_methods, reason = "a workload is no part of the agent's pure core")]
pub fn now() -> Instant {
    Instant::now()
}

/// Pins this thread to a CPU; if there is none of that number, the kernel chooses.
pub fn pin_to_cpu(cpu: usize) {
    // SAFETY: cpu_set_t is plain data, for which all zeroes is a valid value; CPU_SET checks that
    // the number is within it; the call reads one set, which lives here. Pid 0 is this thread.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}

/// Cheap pseudo-random numbers (xorshift64*), the same in every run.
pub struct Random(pub u64);

impl Random {
    /// Returns a number from 0 to below 1.
    pub fn share(&mut self) -> f64 {
        const STEPS: usize = 1 << 24;
        self.below(STEPS) as f64 / STEPS as f64
    }

    /// Returns a number below `limit`, which must not be 0.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % limit
    }
}

/// Parses bytes, or a number with KiB, MiB or GiB.
pub fn parse_size(text: &str) -> anyhow::Result<u64> {
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("", 1)];
    let (number, unit) = units
        .iter()
        .find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)))
        .unwrap_or((text, 1));
    let Ok(number) = number.trim().parse::<u64>() else {
        bail!("size {text:?} is not a number, optionally followed by KiB, MiB or GiB");
    };
    number.checked_mul(unit).with_context(|| format!("size {text:?} is too large"))
}

/// Parses seconds, or a number with ms, s or m.
pub fn parse_duration(text: &str) -> anyhow::Result<Duration> {
    let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("", 1.0)];
    let (number, unit) = units
        .iter()
        .find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)))
        .unwrap_or((text, 1.0));
    let seconds = number
        .trim()
        .parse::<f64>()
        .ok()
        .and_then(|number| Duration::try_from_secs_f64(number * unit).ok());
    seconds.with_context(|| {
        format!("duration {text:?} is not a number, optionally followed by ms, s or m")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_carry_units() {
        assert_eq!(parse_size("4096").unwrap(), 4096);
        assert_eq!(parse_size("4MiB").unwrap(), 4 << 20);
        assert_eq!(parse_size("2 GiB").unwrap(), 2 << 30);
        for wrong in ["", "MiB", "4MB", "-1", "1.5GiB", "99999999999GiB"] {
            assert!(parse_size(wrong).is_err(), "{wrong:?} is accepted as a size");
        }
    }

    #[test]
    fn durations_carry_units() {
        assert_eq!(parse_duration("8").unwrap(), Duration::from_secs(8));
        assert_eq!(parse_duration("250ms").unwrap(), Duration::from_millis(250));
        assert_eq!(parse_duration("2m").unwrap(), Duration::from_secs(120));
        for wrong in ["", "s", "-1s", "8h", "NaN"] {
            assert!(parse_duration(wrong).is_err(), "{wrong:?} is accepted as a duration");
        }
    }
}
