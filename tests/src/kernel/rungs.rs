//! Rungs of each probe's ladder, and sensors that are restricted to one of them.

use spillway_agent::{
    bpf::{Fallback, Hook, Need, Probe, ProbeStatus},
    sense::{Sensors, probes},
};

use crate::{
    checks::{About, NotOffered},
    guest,
};

/// Way of reading; `None` for subjects that no probe reads.
pub type Rung = Option<&'static Fallback>;

/// Returns the rungs of a probe, best first.
pub fn rungs(about: About) -> Vec<Rung> {
    match about {
        About::Probe(probe) => fallbacks(probe).iter().map(Some).collect(),
        About::Pressure
        | About::Limit
        | About::Shed
        | About::Unit
        | About::Agent
        | About::Package => vec![None],
    }
}

/// Returns the name of a rung.
pub fn name(about: About, rung: Rung) -> &'static str {
    match (about, rung) {
        (About::Agent, _) => "spillway",
        (About::Package, _) => "deb",
        (About::Unit, _) => "systemd's MemoryHigh",
        (About::Shed, _) => "listen",
        (About::Limit, _) => "memory.high or memory.limit_in_bytes",
        (_, Some(rung)) => rung.at,
        (_, None) => "/proc/pressure",
    }
}

/// Returns whether a rung loads BPF programs of its own.
pub fn is_bpf(rung: Rung) -> bool {
    rung.is_some_and(|rung| rung.is_bpf)
}

/// Sensors that were started for a rung, before the process that checks it was forked.
#[derive(Default)]
pub struct Prepared(Option<(About, Rung, Sensors)>);

impl Prepared {
    /// Starts the sensors of this rung, unless they are running already.
    pub fn start(&mut self, about: About, rung: Rung) {
        let same = |(of, on, _): &(About, Rung, Sensors)| {
            *of == about && name(*of, *on) == name(about, rung)
        };
        if self.0.as_ref().is_some_and(same) {
            return;
        }
        self.clear();
        if let About::Probe(probe) = about {
            self.0 = Some((about, rung, Sensors::start_without(&others(probe, rung))));
        }
    }

    /// Detaches the running sensors.
    pub fn clear(&mut self) {
        self.0 = None;
    }

    /// Returns sensors with `probe` on this rung.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel refuses the rung. On a host this means that the host does not
    /// offer it; in a virtual machine, which restricts nothing, it is a failure.
    pub fn sensors(&mut self, probe: Probe, rung: Rung) -> anyhow::Result<&mut Sensors> {
        self.start(About::Probe(probe), rung);
        let Some((_, _, sensors)) = &mut self.0 else { anyhow::bail!("no sensors were started") };
        hold(sensors.reports(), probe, rung)?;
        Ok(sensors)
    }
}

/// Starts new sensors on this rung.
///
/// # Errors
///
/// Returns an error in the cases of [`Prepared::sensors`].
pub fn fresh(probe: Probe, rung: Rung) -> anyhow::Result<Sensors> {
    let sensors = Sensors::start_without(&others(probe, rung));
    hold(sensors.reports(), probe, rung)?;
    Ok(sensors)
}

fn fallbacks(probe: Probe) -> &'static [Fallback] {
    let chain = probes().into_iter().find(|chain| chain.probe == probe);
    chain.map_or(&[], |chain| chain.fallbacks)
}

/// Returns the hooks to do without: those of the probe's other rungs, and those on BPF of probes
/// that it does not use. To load and attach all programs takes an emulated processor more than a
/// second; `agent/spillway/verified` does it on every kernel.
fn others(probe: Probe, rung: Rung) -> Vec<Hook> {
    let wanted = rung.map(|rung| rung.hook);
    let used = used_by(probe);
    let unwanted = |of: Probe, fallback: &Fallback| match of == probe {
        true => Some(fallback.hook) != wanted,
        false => fallback.is_bpf && !used.contains(&of),
    };
    let chains = probes().into_iter();
    chains
        .flat_map(|chain| chain.fallbacks.iter().map(|fallback| (chain.probe, fallback)))
        .filter_map(|(of, fallback)| unwanted(of, fallback).then_some(fallback.hook))
        .collect()
}

/// Returns the probes without which this one does not run on BPF, or whose facts carry its results.
fn used_by(probe: Probe) -> Vec<Probe> {
    let needs = fallbacks(probe).iter().flat_map(|fallback| fallback.needs);
    let needed = needs.filter_map(|need| if let Need::Probe(of) = need { Some(*of) } else { None });
    let carried = (probe == Probe::FaultSamples).then_some(Probe::ProcessMemory);
    needed.chain(carried).collect()
}

fn hold(reports: &[ProbeStatus], probe: Probe, rung: Rung) -> anyhow::Result<()> {
    let Some(report) = reports.iter().find(|report| report.probe == probe) else {
        anyhow::bail!("there is no report on {}", probe.name());
    };
    if report.source == name(About::Probe(probe), rung) {
        return Ok(());
    }
    let passed =
        report.passed_over.iter().find(|passed| passed.at == name(About::Probe(probe), rung));
    let reason = passed.map_or_else(
        || format!("attached as {} instead", report.source),
        |passed| format!("{}: {}", passed.shortfall.why, passed.shortfall.reason),
    );
    if guest::is_guest() {
        anyhow::bail!(reason);
    }
    Err(NotOffered(reason).into())
}

/// Returns the first two numbers of this kernel's version.
///
/// # Errors
///
/// Returns an error if its release has none.
pub fn kernel_version() -> anyhow::Result<(u32, u32)> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => anyhow::bail!("release {release:?} has no version"),
    }
}
