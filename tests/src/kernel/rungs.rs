//! The rungs of each probe's ladder, and sensors that are held to one of them.

use spillway_agent::{
    bpf::{Fallback, Hook, Probe, ProbeStatus},
    sense::{Sensors, probes},
};

use crate::{
    checks::{About, NotOffered},
    guest,
};

/// One way of reading; `None` is the only way, of what no probe reads.
pub type Rung = Option<&'static Fallback>;

/// The rungs of a probe, the best first.
pub fn rungs(about: About) -> Vec<Rung> {
    match about {
        About::Probe(probe) => fallbacks(probe).iter().map(Some).collect(),
        About::Pressure | About::Limit | About::Unit | About::Agent => vec![None],
    }
}

/// What a rung is called.
pub fn name(about: About, rung: Rung) -> &'static str {
    match (about, rung) {
        (About::Agent, _) => "spillway",
        (About::Unit, _) => "systemd's MemoryHigh",
        (About::Limit, _) => "memory.high or memory.limit_in_bytes",
        (_, Some(rung)) => rung.at,
        (_, None) => "/proc/pressure",
    }
}

/// Whether a rung takes BPF programs of its own.
pub fn is_bpf(rung: Rung) -> bool {
    rung.is_some_and(|rung| rung.is_bpf)
}

/// Sensors that were started for a rung, before the process that checks it was forked.
#[derive(Default)]
pub struct Prepared(Option<(About, Rung, Sensors)>);

impl Prepared {
    /// Starts those of this rung, unless they are the ones that are there.
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

    /// Detaches what is there.
    pub fn clear(&mut self) {
        self.0 = None;
    }

    /// Sensors whose `probe` is on this rung, the other probes on their best.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses it. On a host that is what this host does not offer; in a virtual
    /// machine, where nothing stands in the way, it is a failure.
    pub fn sensors(&mut self, probe: Probe, rung: Rung) -> anyhow::Result<&mut Sensors> {
        self.start(About::Probe(probe), rung);
        let Some((_, _, sensors)) = &mut self.0 else { anyhow::bail!("no sensors were started") };
        hold(sensors.reports(), probe, rung)?;
        Ok(sensors)
    }
}

/// Sensors of their own on this rung.
///
/// # Errors
///
/// As [`Prepared::sensors`].
pub fn fresh(probe: Probe, rung: Rung) -> anyhow::Result<Sensors> {
    let sensors = Sensors::start_without(&others(probe, rung));
    hold(sensors.reports(), probe, rung)?;
    Ok(sensors)
}

fn fallbacks(probe: Probe) -> &'static [Fallback] {
    let chain = probes().into_iter().find(|chain| chain.probe == probe);
    chain.map_or(&[], |chain| chain.fallbacks)
}

fn others(probe: Probe, rung: Rung) -> Vec<Hook> {
    let wanted = rung.map(|rung| rung.hook);
    fallbacks(probe).iter().map(|rung| rung.hook).filter(|&hook| Some(hook) != wanted).collect()
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
        || format!("{} was taken instead", report.source),
        |passed| format!("{}: {}", passed.shortfall.why, passed.shortfall.reason),
    );
    if guest::is_guest() {
        anyhow::bail!(reason);
    }
    Err(NotOffered(reason).into())
}

/// This kernel's first two numbers.
///
/// # Errors
///
/// Where its release has none.
pub fn kernel_version() -> anyhow::Result<(u32, u32)> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => anyhow::bail!("release {release:?} has no version"),
    }
}
