//! Memory and processor time of a process, as `/proc` has them.

use std::fs;

use anyhow::Context as _;

/// Returns a field of `/proc/PID/FILE` in bytes.
///
/// # Errors
///
/// Returns an error if the process has ended or the field is missing.
pub fn field_bytes(pid: u32, file: &str, field: &str) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/{file}");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    Ok(kib.with_context(|| format!("{path} has no number {field}"))? * 1024)
}

/// Returns the user and system time of a process so far, in seconds.
///
/// # Errors
///
/// Returns an error if the process has ended.
pub fn cpu_secs(pid: u32) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    // The name, which may contain anything, ends at the last parenthesis.
    let fields = stat.rsplit_once(") ").with_context(|| format!("{path} has no name"))?.1;
    let ticks: u64 =
        fields.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    // SAFETY: sysconf takes a number and touches no memory of ours.
    let ticks_per_sec = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1);
    Ok(ticks as f64 / ticks_per_sec as f64)
}

/// Returns the processor time of the threads of a process that have this name so far, in
/// milliseconds.
///
/// # Errors
///
/// Returns an error if the process has ended, or if the kernel counts no such time.
pub fn thread_cpu_ms(pid: u32, name: &str) -> anyhow::Result<f64> {
    let mut nanos = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        if fs::read_to_string(task.join("comm"))?.trim() == name {
            let text = fs::read_to_string(task.join("schedstat"))?;
            let first = text.split(' ').next().and_then(|nanos| nanos.parse::<u64>().ok());
            nanos += first.with_context(|| format!("cannot parse schedstat: {text}"))?;
        }
    }
    Ok(nanos as f64 / 1e6)
}
