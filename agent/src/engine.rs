//! The core: one observation in, verdicts and decisions out. Pure; the live daemon, replay and
//! simulation share it.
//!
//! It owns the detectors, the policy and the little they must be told about time and the host. A
//! `Host` fact opens a scan; what later scans do not show is gone. Cold start: nothing is known and
//! nothing is claimed. Failure: there is none to report; what cannot be used is counted. It refuses
//! time that is not a number or runs backwards, except that an exit or exec that arrives late still
//! happened, and counts as happening now.

use crate::{
    config::Config,
    decide::{Decision, Policy, Services},
    detect::{
        Context, DependencyDetector, Detector, Findings, LeakDetector, OverloadDetector,
        ResourceDetector, SensorHealth, Verdict,
    },
    sense::{Fact, HostFact, Observation},
};

pub use crate::detect::HostInfo;

/// Detectors and policy put together.
pub struct Engine {
    info: HostInfo,
    leak: LeakDetector,
    handles: ResourceDetector,
    overload: OverloadDetector,
    cascade: DependencyDetector,
    policy: Policy,
    host: Option<HostFact>,
    trust: SensorHealth,
    host_t: Option<f64>,
    last_t: Option<f64>,
    scan: u32,
    ignored_total: u64,
    findings: Findings,
}

/// What followed from one observation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Output {
    /// Claims made and withdrawn, in the order in which they were.
    pub verdicts: Vec<Verdict>,
    /// What policy makes of them and of fresher forecasts.
    pub decisions: Vec<Decision>,
}

/// How much the core holds, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineSize {
    /// Processes watched.
    pub processes: usize,
    /// Listeners watched.
    pub listeners: usize,
    /// Leaks standing, of whatever.
    pub leaks_raised: usize,
    /// Overloads standing.
    pub overloads_raised: usize,
    /// Cascade risks standing.
    pub cascade_risks_raised: usize,
    /// Observations of processes, listeners and connects that there was no room for.
    pub untracked_total: u64,
    /// Observations whose time made no sense.
    pub ignored_total: u64,
}

impl Output {
    /// Whether nothing followed.
    pub fn is_empty(&self) -> bool {
        self.verdicts.is_empty() && self.decisions.is_empty()
    }
}

/// The policy that a configuration asks for.
fn policy(config: &Config) -> Policy {
    let policy = Policy::new(&config.decide, config.mode);
    let drain = &config.act.drain;
    // HAProxy takes a node out at its word, and asks nobody.
    if drain.url.is_none() && drain.agent_check.listen.is_some() {
        policy.without_granter()
    } else {
        policy
    }
}

impl Engine {
    /// Knows nothing yet but the configuration and the host.
    pub fn new(config: &Config, info: HostInfo) -> Self {
        Self {
            info,
            leak: LeakDetector::new(&config.detect.leak),
            handles: ResourceDetector::default(),
            overload: OverloadDetector::new(&config.detect.overload),
            cascade: DependencyDetector::default(),
            policy: policy(config),
            host: None,
            trust: SensorHealth::default(),
            host_t: None,
            last_t: None,
            scan: 0,
            ignored_total: 0,
            findings: Findings::default(),
        }
    }

    /// Takes one observation and returns what follows from it. Allocates only when something does.
    pub fn apply(&mut self, observation: &Observation) -> Output {
        let mut output = Output::default();
        self.apply_into(observation, &mut output);
        output
    }

    /// As [`Core::apply`], appending to `output`.
    pub fn apply_into(&mut self, observation: &Observation, output: &mut Output) {
        let Some(t) = self.now(observation) else {
            self.ignored_total = self.ignored_total.saturating_add(1);
            return;
        };
        match &observation.fact {
            Fact::Host(host) => {
                self.host = Some(host.clone());
                // The same scan told twice is one scan.
                if self.host_t.replace(t) != Some(t) {
                    self.scan = self.scan.saturating_add(1);
                }
            }
            Fact::Sensing(sensing) => self.trust.note(t, sensing),
            _ => {}
        }
        let context = Context {
            t,
            scan: self.scan,
            info: self.info,
            host: self.host.as_ref(),
            trust: &self.trust,
        };
        // The list of detectors.
        let detectors: [&mut dyn Detector; 4] =
            [&mut self.leak, &mut self.handles, &mut self.overload, &mut self.cascade];
        for detector in detectors {
            detector.observe(&context, &observation.fact, &mut self.findings);
        }
        self.policy.observe(t, &observation.fact, &mut output.decisions);
        for mut verdict in self.findings.verdicts.drain(..) {
            self.policy.judge(&mut verdict, &mut output.decisions);
            output.verdicts.push(verdict);
        }
        for forecast in self.findings.forecasts.drain(..) {
            output.verdicts.extend(self.policy.update(&forecast, &mut output.decisions));
        }
    }

    /// Returns the host that this engine was made for.
    pub fn host_info(&self) -> HostInfo {
        self.info
    }

    /// Registry of services, to be taught what only the host knows.
    pub fn services(&mut self) -> &mut Services {
        self.policy.services()
    }

    /// Follows another configuration in what needs no restart (see [`crate::config::Reload`]). What
    /// was seen and what stands are kept.
    pub fn reload(&mut self, config: &Config) {
        self.leak.reload(&config.detect.leak);
        self.overload.reload(&config.detect.overload);
        self.policy.reload(&config.decide);
    }

    /// Takes it that what was done for an incident does not do what it is for.
    pub fn set_back(&mut self, t: f64, id: &str, why: &str, output: &mut Output) {
        output.verdicts.extend(self.policy.set_back(t, id, why, &mut output.decisions));
    }

    /// Claims that stand, each with its latest forecast, in a stable order.
    pub fn raised(&self) -> impl Iterator<Item = &Verdict> {
        self.policy.open()
    }

    /// How much is held.
    pub fn tracked(&self) -> EngineSize {
        let (leak, handles) = (self.leak.held(), self.handles.held());
        let (overload, cascade) = (self.overload.held(), self.cascade.held());
        EngineSize {
            processes: leak.tracked,
            listeners: overload.tracked,
            leaks_raised: leak.raised + handles.raised,
            overloads_raised: overload.raised,
            cascade_risks_raised: cascade.raised,
            untracked_total: [leak, handles, overload, cascade]
                .iter()
                .fold(0, |sum, held| sum.saturating_add(held.untracked_total)),
            ignored_total: self.ignored_total,
        }
    }

    /// The time to use for an observation; `None` where it makes no sense.
    fn now(&mut self, observation: &Observation) -> Option<f64> {
        let t = observation.t;
        if !t.is_finite() {
            return None;
        }
        let last_t = self.last_t.unwrap_or(t);
        if t < last_t {
            return matches!(observation.fact, Fact::Exit(_) | Fact::Exec(_)).then_some(last_t);
        }
        self.last_t = Some(t);
        Some(t)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::ProcessId;

    #[test]
    fn late_exits_count_and_other_facts_from_the_past_do_not() {
        let mut core =
            Engine::new(&Config::default(), HostInfo { mem_total_bytes: 1 << 34, cpus: 2 });
        let host = || Fact::Host(HostFact { mem_available_bytes: 1, psi_memory_some_avg10: None });
        let exit = || Fact::Exit(ProcessId { pid: 1, start_ticks: 1 });
        for (t, fact) in [
            (5.0, host()),
            (4.0, exit()),
            (4.0, host()),
            (f64::NAN, exit()),
            (f64::INFINITY, host()),
        ] {
            assert!(core.apply(&Observation { t, fact }).is_empty());
        }
        assert_eq!(core.tracked(), EngineSize { ignored_total: 3, ..EngineSize::default() });
    }
}
