//! `spillway doctor`: what each probe attached to, what is degraded, and why.

use std::io::{self, Write};

use serde::Serialize;

use crate::{
    bpf::{ProbeStatus, fallbacks::Unavailable},
    sense::{Fact, Sensors},
};

/// What the doctor found.
#[derive(Debug, Serialize)]
pub struct Diagnosis {
    /// Kernel release.
    pub kernel: String,
    /// What became of each probe.
    pub probes: Vec<ProbeStatus>,
    /// Processes that one scan saw.
    pub processes: usize,
    /// Listeners that one look saw.
    pub listeners: usize,
    /// Whether available memory could be read.
    pub host_memory: bool,
    /// Whether memory pressure could be read.
    pub memory_pressure: bool,
}

impl Diagnosis {
    /// Attaches every probe and makes one read of each sensor.
    pub fn make(mut sensors: Sensors) -> Self {
        let mut seen = Vec::new();
        sensors.scan_processes(0.0, &mut seen);
        sensors.scan_listeners(0.0, &mut seen);
        let count =
            |is: fn(&Fact) -> bool| seen.iter().filter(|observation| is(&observation.fact)).count();
        let host = seen.iter().find_map(|observation| match &observation.fact {
            Fact::Host(host) => Some(host),
            _ => None,
        });
        Self {
            kernel: nix::sys::utsname::uname().map_or_else(
                |_| "unknown".to_owned(),
                |name| name.release().to_string_lossy().into_owned(),
            ),
            probes: sensors.reports().to_vec(),
            processes: count(|fact| matches!(fact, Fact::Process(_))),
            listeners: count(|fact| matches!(fact, Fact::Listener(_))),
            host_memory: host.is_some(),
            memory_pressure: host.is_some_and(|host| host.psi_memory_some_avg10.is_some()),
        }
    }

    /// Whether anything at all can be sensed. A host always has processes: none seen means that
    /// none can be.
    pub fn works(&self) -> bool {
        self.processes > 0
    }

    /// Prints it for a person.
    ///
    /// # Errors
    ///
    /// Where `out` cannot be written.
    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "kernel {}", self.kernel)?;
        for report in &self.probes {
            writeln!(
                out,
                "  {:<17} {:<9} {}",
                report.probe.name(),
                report.state.name(),
                report.source
            )?;
            for passed in &report.passed_over {
                let Unavailable { why, reason } = &passed.shortfall;
                writeln!(out, "  {:<17} {:<9} not {}: {why}: {reason}", "", "", passed.at)?;
            }
            if let Some(lacks) = report.lacks {
                writeln!(out, "  {:<17} {:<9} so {lacks}", "", "")?;
            }
        }
        let memory = if self.host_memory { "readable" } else { "not readable" };
        let pressure =
            if self.memory_pressure { "readable" } else { "not readable: the kernel has no PSI" };
        writeln!(out, "  {:<17} {:<9} /proc/meminfo", "host_memory", memory)?;
        writeln!(out, "  {:<17} {:<9} /proc/pressure/memory", "memory_pressure", pressure)?;
        writeln!(out, "sees {} processes and {} listeners", self.processes, self.listeners)
    }
}
