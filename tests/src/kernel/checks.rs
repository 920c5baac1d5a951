//! The list of checks, and what one says.

use std::{fmt, time::Duration};

use spillway_agent::kernel::Probe;

use crate::{
    faults, life, listeners, memory, pressure,
    rungs::{self, Rung, rungs},
    sojourns,
};

/// What a check held against the truth, when all was true.
pub struct Seen {
    /// How much was looked at: processes, listeners, births and deaths, samples.
    pub events: u64,
    /// Figures for a person.
    pub detail: String,
}

/// The error of a check that this kernel, or this user, cannot be held to, for the reason given.
#[derive(Debug)]
pub struct NotOffered(pub String);

impl fmt::Display for NotOffered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotOffered {}

/// A check of one probe, on one of its rungs.
pub struct Check {
    /// What it is about; `None` is memory pressure, which no probe reads.
    pub probe: Option<Probe>,
    /// The way of reading that it is held to.
    pub rung: Rung,
    /// What it holds against the truth.
    pub what: &'static str,
    /// Emulated kernels are some fifteen times slower than hardware: the limits are for hangs, not for slowness.
    pub limit: Duration,
    run: fn(Rung) -> anyhow::Result<Seen>,
}

impl Check {
    /// The probe's name.
    pub fn probe_name(&self) -> &'static str {
        self.probe.map_or("pressure", Probe::name)
    }

    /// A name that no other check has.
    pub fn name(&self) -> String {
        format!("{}/{}/{}", self.probe_name(), rungs::name(self.rung), self.what)
    }

    /// Holds the probe to the truth.
    pub fn run(&self) -> anyhow::Result<Seen> {
        (self.run)(self.rung)
    }
}

/// On which rungs a check is made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum On {
    Every,
    Bpf,
}

type Row = (Option<Probe>, On, &'static str, fn(Rung) -> anyhow::Result<Seen>);

const ROWS: [Row; 21] = [
    (Some(Probe::ProcessMemory), On::Every, "touched", memory::touched),
    (Some(Probe::ProcessMemory), On::Every, "identity", memory::identity),
    (Some(Probe::ProcessMemory), On::Bpf, "complete", memory::complete),
    (Some(Probe::ProcessMemory), On::Every, "eight threads", memory::eight_threads),
    (Some(Probe::ProcessMemory), On::Every, "cgroup", memory::cgroup),
    (Some(Probe::ProcessLife), On::Bpf, "exec and exit", life::exec_and_exit),
    (Some(Probe::ProcessLife), On::Bpf, "short lives", life::short_lives),
    (Some(Probe::FaultSamples), On::Bpf, "growth and stack", faults::growth_and_stack),
    (Some(Probe::AcceptQueue), On::Every, "depth and owner", listeners::depth_and_owner),
    (Some(Probe::AcceptQueue), On::Bpf, "as sock_diag", listeners::as_sock_diag),
    (Some(Probe::AcceptQueue), On::Every, "other namespace", listeners::other_namespace),
    (Some(Probe::AcceptQueue), On::Bpf, "age of the head", listeners::age_of_the_head),
    (Some(Probe::AcceptQueue), On::Every, "overflows", listeners::overflows),
    (Some(Probe::AcceptSojourn), On::Bpf, "known delay", sojourns::known_delay),
    (Some(Probe::AcceptSojourn), On::Bpf, "IPv6", sojourns::over_ipv6),
    (Some(Probe::AcceptSojourn), On::Bpf, "blocking accept", sojourns::blocking_accept),
    (Some(Probe::AcceptSojourn), On::Bpf, "shared port", sojourns::shared_port),
    (Some(Probe::AcceptSojourn), On::Bpf, "SYN cookies", sojourns::syn_cookies),
    (Some(Probe::AcceptSojourn), On::Bpf, "nothing stays", sojourns::nothing_stays),
    (None, On::Every, "readable", pressure::readable),
    (None, On::Every, "throttled cgroup", pressure::throttled_cgroup),
];

/// Every check, in the order in which they run.
pub fn all() -> Vec<Check> {
    let mut checks = Vec::new();
    for (probe, on, what, run) in ROWS {
        for rung in rungs(probe) {
            if on == On::Every || rungs::is_bpf(rung) {
                checks.push(Check { probe, rung, what, limit: Duration::from_secs(90), run });
            }
        }
    }
    checks
}
