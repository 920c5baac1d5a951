//! Run counts and run times of each BPF program, as counted by the kernel.

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
    for (name, program) in kernel.programs() {
        let Ok(fd) = program.fd() else { continue };
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd()))?;
        let field = |name: &str| -> Option<u64> {
            info.lines().find_map(|line| {
                line.strip_prefix(name)?.trim_start_matches(':').trim().parse().ok()
            })
        };
        if let (Some(nanos), Some(events @ 1..)) = (field("run_time_ns"), field("run_cnt")) {
            costs.push((name.to_owned(), nanos as f64 / events as f64, events));
        }
    }
    Ok(costs)
}
