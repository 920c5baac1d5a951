//! The ways in which a probe may read, and sensors that are held to one of them.

use spillway_agent::{kernel::Probe, sense::Sensors};

use crate::{
    checks::{About, NotOffered},
    guest,
};

/// One way of reading.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rung {
    /// The probe's first choice.
    First,
    /// Without BPF.
    Fallback,
    /// What no probe reads.
    Plain,
}

impl Rung {
    /// What it is called.
    pub fn name(self, about: About) -> &'static str {
        match (about, self) {
            (About::Probe(probe), Self::Fallback) => probe.fallback().unwrap_or("nothing"),
            (About::Probe(probe), _) => probe.hook(),
            (About::Pressure, _) => "/proc/pressure",
            (About::Agent, _) => "spillway doctor",
        }
    }
}

/// The ways in which something may be read, the best first.
pub fn rungs(about: About) -> Vec<Rung> {
    match about {
        About::Probe(_) => vec![Rung::First, Rung::Fallback],
        About::Pressure | About::Agent => vec![Rung::Plain],
    }
}

/// Sensors whose `probe` reads in this way.
///
/// # Errors
///
/// Where the kernel refuses it. On a host that is what this host does not offer; in a virtual machine, where nothing
/// stands in the way, it is a failure.
pub fn sensors(probe: Probe, rung: Rung) -> anyhow::Result<Sensors> {
    if rung != Rung::First {
        return Ok(Sensors::without_bpf("this check is about the way without BPF"));
    }
    let sensors = Sensors::start();
    let reason = sensors.reports().iter().find(|report| report.probe == probe).and_then(|report| report.reason());
    match reason {
        None => Ok(sensors),
        Some(reason) if guest::is_guest() => anyhow::bail!("not attached: {reason}"),
        Some(reason) => Err(NotOffered(format!("not attached: {reason}")).into()),
    }
}
