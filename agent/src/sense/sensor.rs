//! The interface of a sensor.

use std::{any::Any, io};

use super::{
    Fact, Hierarchy, Loss, LossCounters, Observation, OwnSockets, ProcessFact,
    waiting_requests::BusyAddresses,
};
use crate::bpf::{FallbackChain, Loader, ProbeStatus};

/// One sensor: the probes that it owns, and its constructor, which returns `None` if there is
/// nothing to read.
pub struct SensorEntry {
    /// Probes.
    pub probes: &'static [&'static FallbackChain],
    /// Attaches the probes.
    pub start: fn(&mut Loader, &Hierarchy) -> Option<Box<dyn Sensor>>,
}

/// Reads one kind of fact about the host. A sensor owns its probe, if it has one: it declares the
/// fallbacks as a [`FallbackChain`] and attaches them when it starts.
pub trait Sensor: Any + Send {
    /// Timer on which it is read.
    fn schedule(&self) -> Schedule;

    /// Loss that is counted if a read fails.
    fn failure(&self) -> Loss;

    /// Reads, and pushes a fact for each thing that it sees. `now` is in seconds on any monotonic
    /// clock.
    ///
    /// # Errors
    ///
    /// Returns an error if the read failed as a whole; facts pushed until then remain.
    fn read(&mut self, now: f64, out: &mut Observations<'_>) -> io::Result<()>;
}

/// Boxes a sensor that has something to read.
pub(super) fn boxed<S: Sensor>(sensor: Option<S>) -> Option<Box<dyn Sensor>> {
    sensor.map(|sensor| Box::new(sensor) as Box<dyn Sensor>)
}

/// Timers on which sensors are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// Before every scan of either kind.
    Events,
    /// The interval of process scans.
    Processes,
    /// The interval of listener scans, which is shorter.
    Listeners,
}

/// Destination of a read: the facts of one moment, and the losses counted on the way.
pub struct Observations<'a> {
    pub(super) t: f64,
    pub(super) facts: &'a mut Vec<Observation>,
    pub(super) losses: &'a mut LossCounters,
    pub(super) probes: &'a [ProbeStatus],
    pub(super) own: &'a mut Option<OwnSockets>,
    pub(super) waiting: &'a mut BusyAddresses,
}

impl Observations<'_> {
    /// Status of each probe.
    pub fn probes(&self) -> &[ProbeStatus] {
        self.probes
    }

    /// Losses so far.
    pub fn losses(&self) -> &LossCounters {
        self.losses
    }

    /// Processes that this read has seen so far.
    pub fn processes(&self) -> impl Iterator<Item = &ProcessFact> {
        self.facts.iter().filter_map(|observation| match &observation.fact {
            Fact::Process(fact) => Some(fact),
            _ => None,
        })
    }

    /// Adds a fact.
    pub fn push(&mut self, fact: Fact) {
        self.split().1(fact);
    }

    /// Splits into the loss counters and a function that adds facts, for use at the same time.
    /// Facts about the agent's own sockets are dropped.
    pub fn split(&mut self) -> (&mut LossCounters, impl FnMut(Fact)) {
        let Self { t, facts, losses, own, waiting, .. } = self;
        let t = *t;
        let push = move |fact: Fact| {
            if let Fact::Requests(fact) = &fact {
                waiting.take(fact);
            }
            if !own.as_mut().is_some_and(|own| own.owns(&fact)) {
                facts.push(Observation { t, fact });
            }
        };
        (losses, push)
    }
}

/// Reads a sensor at `t`, after those whose facts are given; returns all facts, and the losses.
#[cfg(test)]
pub(super) fn read_after(
    sensor: &mut impl Sensor,
    t: f64,
    mut facts: Vec<Observation>,
) -> (Vec<Observation>, LossCounters) {
    let (mut losses, mut own) = (LossCounters::default(), None);
    let mut waiting = BusyAddresses::default();
    let loaded = Loader::without_bpf("the test wants none").finish();
    let mut out = Observations {
        t,
        facts: &mut facts,
        losses: &mut losses,
        probes: loaded.statuses(),
        own: &mut own,
        waiting: &mut waiting,
    };
    if let Err(error) = sensor.read(t, &mut out) {
        out.split().0.count_failure(sensor.failure(), &error);
    }
    (facts, losses)
}
