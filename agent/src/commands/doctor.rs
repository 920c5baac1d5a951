//! `spillway doctor`: reports how each probe is attached, which are degraded, and why, what
//! prevents the agent from shedding load, and whether the coordinator of the fleet answers.

use std::{
    io::{self, Write},
    path::Path,
};

use serde::Serialize;

use super::{CommandError, fleet, load};
use crate::{
    act::shed,
    bpf::{Probe, ProbeState, ProbeStatus, fallbacks::Unavailable},
    config::Config,
    os::host,
    sense::{Fact, Sensors},
};

/// Reads every sensor once and prints the result.
///
/// # Errors
///
/// Returns [`CommandError::AlreadyReported`] if nothing at all can be sensed, or the coordinator
/// that the configuration names does not answer; another error if the configuration is invalid.
pub fn doctor(config: Option<&Path>, json: bool, sensors: Sensors) -> Result<(), CommandError> {
    let config = load(config)?;
    let diagnosis = DoctorReport::make(sensors, &config);
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(&diagnosis)?)?;
    } else {
        diagnosis.print(&mut out)?;
    }
    if diagnosis.works() { Ok(()) } else { Err(CommandError::AlreadyReported) }
}

/// Result of one read of every sensor.
#[derive(Debug, Serialize)]
struct DoctorReport {
    /// Kernel release.
    kernel: String,
    /// Status of each probe.
    probes: Vec<ProbeStatus>,
    /// Processes seen by one scan.
    processes: usize,
    /// Listeners seen by one scan.
    listeners: usize,
    /// Available memory was readable.
    host_memory: bool,
    /// Memory pressure was readable.
    memory_pressure: bool,
    /// Report on shedding load.
    shed: ShedReport,
    /// Report on the coordinator; `None` without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    fleet: Option<FleetReport>,
}

/// Report on the coordinator of the fleet.
#[derive(Debug, Serialize)]
struct FleetReport {
    /// Set if it answers.
    answers: bool,
    /// Reply, or problem, in a sentence.
    why: String,
}

impl FleetReport {
    fn new(config: &Config) -> Option<Self> {
        Some(match fleet::ask(config).transpose()? {
            Ok(reply) => Self { answers: true, why: reply.summary() },
            Err(error) => Self { answers: false, why: error.to_string() },
        })
    }

    fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let state = if self.answers { "answers" } else { "silent" };
        writeln!(out, "  {:<17} {state:<9} {}", "fleet", self.why.replace("\n  hint: ", "; "))
    }
}

/// Report on bounding accept queues of other processes.
#[derive(Debug, Serialize)]
struct ShedReport {
    /// Set if nothing is known to prevent it.
    possible: bool,
    /// Reason that prevents it.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    /// Reason that prevents `act.shed.reset`.
    #[serde(skip_serializing_if = "Option::is_none")]
    reset_why: Option<String>,
    /// Set if a connection that finds a queue full is reset; `None` if that cannot be read.
    tcp_abort_on_overflow: Option<bool>,
}

impl ShedReport {
    /// Reports what is known to prevent it. Without the age of a queue it is never asked for.
    fn new(obstacle: Option<String>, sees_age: bool) -> Self {
        let unseen = || {
            "the age of accept queues is not seen, and load is shed only where clients would wait \
             for a second\n  hint: see accept_queue above"
                .to_owned()
        };
        let why = obstacle.or_else(|| (!sees_age).then(unseen));
        let tcp_abort_on_overflow = shed::resets_on_overflow();
        let reset_why = shed::reset_obstacle();
        Self { possible: why.is_none(), why, reset_why, tcp_abort_on_overflow }
    }

    fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let state = if self.possible { "possible" } else { "prevented" };
        // A hint is on a line of its own elsewhere.
        let how = match &self.why {
            None => "length of accept queues by pidfd_getfd".to_owned(),
            Some(why) => why.replace("\n  hint: ", "; "),
        };
        writeln!(out, "  {:<17} {state:<9} {how}", "shed")?;
        let refused = match self.tcp_abort_on_overflow {
            Some(false) => "its first packet is dropped, and the client repeats it after 1 s",
            Some(true) => {
                "its first packet is dropped if the queue is full by then, and it is reset if the \
                 queue fills during its handshake"
            }
            None => return Ok(()),
        };
        let (state, how) = match &self.reset_why {
            None => ("possible", "act.shed.reset, in network namespaces of services"),
            Some(why) => ("prevented", why.as_str()),
        };
        writeln!(out, "  {:<17} {state:<9} {how}", "shed_reset")?;
        let value = u8::from(self.tcp_abort_on_overflow == Some(true));
        writeln!(
            out,
            "  {:<17} {:<9} a connection that is refused: {refused} \
             (net.ipv4.tcp_abort_on_overflow = {value})",
            "", ""
        )
    }
}

/// Returns whether a probe tells for how long an accept queue has stood.
fn sees_age_of_queues(status: &ProbeStatus) -> bool {
    status.probe == Probe::AcceptQueue && status.state == ProbeState::Attached
}

impl DoctorReport {
    fn make(mut sensors: Sensors, config: &Config) -> Self {
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
            kernel: host::kernel_release(),
            probes: sensors.reports().to_vec(),
            processes: count(|fact| matches!(fact, Fact::Process(_))),
            listeners: count(|fact| matches!(fact, Fact::Listener(_))),
            host_memory: host.is_some(),
            memory_pressure: host.is_some_and(|host| host.psi_memory_some_avg10.is_some()),
            shed: ShedReport::new(
                shed::obstacle().map(|error| error.to_string()),
                sensors.reports().iter().any(sees_age_of_queues),
            ),
            fleet: FleetReport::new(config),
        }
    }

    /// Returns whether anything can be sensed, and the coordinator answers if there is one. A host
    /// always has processes, so a scan that finds none did not work.
    fn works(&self) -> bool {
        self.processes > 0 && self.fleet.as_ref().is_none_or(|fleet| fleet.answers)
    }

    fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "kernel {}", self.kernel)?;
        for probe in &self.probes {
            let (name, state) = (probe.probe.name(), probe.state.name());
            writeln!(out, "  {name:<17} {state:<9} {}", probe.source)?;
            for passed in &probe.passed_over {
                let Unavailable { why, reason } = &passed.shortfall;
                writeln!(out, "  {:<17} {:<9} not {}: {reason} ({why})", "", "", passed.at)?;
            }
            if let Some(lacks) = probe.lacks {
                writeln!(out, "  {:<17} {:<9} so {lacks}", "", "")?;
            }
        }
        let memory = if self.host_memory { "readable" } else { "not readable" };
        let pressure =
            if self.memory_pressure { "readable" } else { "not readable: the kernel has no PSI" };
        writeln!(out, "  {:<17} {memory:<9} /proc/meminfo", "host_memory")?;
        writeln!(out, "  {:<17} {pressure:<9} /proc/pressure/memory", "memory_pressure")?;
        self.shed.print(out)?;
        if let Some(fleet) = &self.fleet {
            fleet.print(out)?;
        }
        writeln!(out, "sees {} processes and {} listeners", self.processes, self.listeners)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shedding_needs_the_age_of_queues() {
        let why = |report: ShedReport| (report.possible, report.why.unwrap_or_default());
        assert_eq!(why(ShedReport::new(None, true)), (true, String::new()));
        let (possible, unseen) = why(ShedReport::new(None, false));
        assert!(
            !possible && unseen.starts_with("the age of accept queues is not seen"),
            "{unseen}"
        );
        assert_eq!(why(ShedReport::new(Some("too old".into()), false)), (false, "too old".into()));
    }
}
