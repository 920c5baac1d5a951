//! Counts and run times of each BPF program, as counted by the kernel.

use std::{
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use spillway_agent::bpf::LoadedBpf;

/// A program's name, its mean cost per event in nanoseconds, and the number of events.
pub type ProgramCost = (String, f64, u64);

/// Costs of every program that ran while the kernel counted (`BPF_ENABLE_STATS`).
///
/// # Errors
///
/// Returns an error if a descriptor cannot be inspected.
pub fn program_costs(kernel: &LoadedBpf) -> io::Result<Vec<ProgramCost>> {
    let mut costs = Vec::new();
    for (name, info) in infos(kernel)? {
        if let (Some(nanos), Some(events @ 1..)) =
            (field(&info, "run_time_ns"), field(&info, "run_cnt"))
        {
            costs.push((name, nanos as f64 / events as f64, events));
        }
    }
    Ok(costs)
}

/// Counts the calls of some programs that the kernel left out because the same program was running
/// on the same CPU: it was preempted, and another thread came to its hook. Kernels before 5.12 do
/// not count them.
///
/// # Errors
///
/// Returns an error if a descriptor cannot be inspected.
pub fn recursion_misses(kernel: &LoadedBpf, prefix: &str) -> io::Result<u64> {
    let infos = infos(kernel)?;
    let named = infos.iter().filter(|(name, _)| name.starts_with(prefix));
    Ok(named.filter_map(|(_, info)| field(info, "recursion_misses")).sum())
}

/// Returns the name of each loaded program and the `fdinfo` of its descriptor.
fn infos(kernel: &LoadedBpf) -> io::Result<Vec<(String, String)>> {
    let loaded = kernel.programs().filter_map(|(name, program)| Some((name, program.fd().ok()?)));
    let info = |fd: i32| fs::read_to_string(format!("/proc/self/fdinfo/{fd}"));
    loaded.map(|(name, fd)| Ok((name.to_owned(), info(fd.as_fd().as_raw_fd())?))).collect()
}

fn field(info: &str, name: &str) -> Option<u64> {
    info.lines()
        .find_map(|line| line.strip_prefix(name)?.trim_start_matches(':').trim().parse().ok())
}
