//! Engine: one observation in, verdicts and decisions out. Pure; the live agent, replay and
//! simulation share it.
//!
//! It owns the detectors, the policy and what they need to know about time and the host. A `Host`
//! fact opens a scan; subjects that later scans do not show are gone. Cold start: nothing is known
//! and nothing is claimed. Nothing can fail; unusable observations are counted. Time that is not a
//! number or runs backwards is ignored, except that an exit or exec that arrives late still
//! happened, and counts as happening now.

use std::sync::Arc;

use crate::{
    config::{Config, FleetBackend},
    decide::{ActionBudget, Decision, IncidentId, IncidentView, Policy, Services},
    detect::{
        ClaimState, Context, Detector, DetectorSize, Findings, SavedError, SensorHealth, Verdict,
        detectors,
    },
    sense::{
        Fact, HostFact, Observation,
        identity::{ClaimedWorkload, Identify},
    },
};

pub use crate::detect::HostInfo;

/// Detectors and policy put together.
pub struct Engine {
    info: HostInfo,
    detectors: Vec<Box<dyn Detector>>,
    policy: Policy,
    /// Looks up whom claims are about; `None` in replays, where nobody can.
    identities: Option<Box<dyn Identify>>,
    /// Claims whose workload may become known later.
    awaited: Vec<(ClaimedWorkload, IncidentId)>,
    host: Option<HostFact>,
    sensor_health: SensorHealth,
    host_t: Option<f64>,
    last_t: Option<f64>,
    scan: u32,
    ignored_total: u64,
    findings: Findings,
}

/// Results of one observation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Output {
    /// Claims raised, updated and cleared, in that order of time.
    pub verdicts: Vec<Verdict>,
    /// Decisions of the policy on them and on fresher forecasts.
    pub decisions: Vec<Decision>,
}

/// Numbers of subjects and claims that the engine holds, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineSize {
    /// Processes watched.
    pub processes: usize,
    /// Listeners watched.
    pub listeners: usize,
    /// Destinations watched.
    pub destinations: usize,
    /// Open claims of leaks, whatever the resource.
    pub leaks_raised: usize,
    /// Open claims of overloads.
    pub overloads_raised: usize,
    /// Open claims about dependencies.
    pub cascade_risks_raised: usize,
    /// Counts watched that have a limit.
    pub counts: usize,
    /// Open claims of counts that near their limit.
    pub exhaustions_raised: usize,
    /// Observations of processes, listeners, connects and counts for which there was no room.
    pub untracked_total: u64,
    /// Observations with an unusable time.
    pub ignored_total: u64,
}

impl Output {
    /// Whether there is neither a verdict nor a decision.
    pub fn is_empty(&self) -> bool {
        self.verdicts.is_empty() && self.decisions.is_empty()
    }
}

/// Returns the policy that a configuration asks for.
fn policy(config: &Config) -> Policy {
    let mut policy = Policy::new(&config.decide, config.mode);
    if config.act.shed.enabled {
        policy = policy.shedding(config.act.shed.wait.as_secs_f64());
    }
    if !config.act.limit.enabled {
        policy = policy.without_limits();
    }
    if !config.drains() {
        policy = policy.without_drains();
    }
    if config.fleet.backend != FleetBackend::None {
        policy = policy.in_group();
    }
    // A load balancer that polls takes a node out as soon as the agent says so, and asks nobody.
    let polls =
        config.act.drain.agent_check.listen.is_some() || config.fleet.backend != FleetBackend::None;
    if polls && !config.has_granter() { policy.without_granter() } else { policy }
}

impl Engine {
    /// Creates an engine that knows only the configuration and the host.
    pub fn new(config: &Config, info: HostInfo) -> Self {
        Self {
            info,
            detectors: detectors(&config.detect),
            policy: policy(config),
            identities: None,
            awaited: Vec::new(),
            host: None,
            sensor_health: SensorHealth::default(),
            host_t: None,
            last_t: None,
            scan: 0,
            ignored_total: 0,
            findings: Findings::default(),
        }
    }

    /// Adds a detector behind the others.
    #[must_use]
    pub fn with_detector(mut self, detector: Box<dyn Detector>) -> Self {
        self.detectors.push(detector);
        self
    }

    /// Sets who looks up whom claims are about.
    pub fn identify_with(&mut self, identities: impl Identify + 'static) {
        self.identities = Some(Box::new(identities));
    }

    /// Takes one observation and returns its results. Allocates only if there are any.
    pub fn apply(&mut self, observation: &Observation) -> Output {
        let mut output = Output::default();
        self.apply_into(observation, &mut output);
        output
    }

    /// Takes one observation and appends its results to `output`.
    pub fn apply_into(&mut self, observation: &Observation, output: &mut Output) {
        let Some(t) = self.now(observation) else {
            self.ignored_total = self.ignored_total.saturating_add(1);
            return;
        };
        match &observation.fact {
            Fact::Host(host) => {
                self.host = Some(host.clone());
                // Two such facts of the same time are one scan.
                if self.host_t.replace(t) != Some(t) {
                    self.scan = self.scan.saturating_add(1);
                }
            }
            Fact::Sensing(fact) => self.sensor_health.note(t, fact),
            _ => {}
        }
        let context = Context {
            t,
            scan: self.scan,
            info: self.info,
            host: self.host.as_ref(),
            sensor_health: &self.sensor_health,
        };
        for detector in &mut self.detectors {
            detector.observe(&context, &observation.fact, &mut self.findings);
        }
        self.policy.observe(t, &observation.fact, &mut output.decisions);
        if matches!(observation.fact, Fact::Host(_)) {
            self.identify_late();
        }
        for mut verdict in self.findings.verdicts.drain(..) {
            if let Some(identities) = &mut self.identities {
                let id = verdict.claim.id();
                // It is looked up each time the claim is raised: a workload that leaks again may
                // have been restarted since.
                verdict.identity = match verdict.state {
                    ClaimState::Raised => {
                        let workload = verdict.claim.workload();
                        let identity = identities.identify(&workload);
                        self.awaited.retain(|(_, other)| *other != id);
                        self.awaited.push((workload, id));
                        (!identity.is_empty()).then(|| Arc::new(identity))
                    }
                    ClaimState::Updated | ClaimState::Cleared => self.policy.identity(&id),
                };
            }
            self.policy.judge(&mut verdict, &mut output.decisions);
            output.verdicts.push(verdict);
        }
        for forecast in self.findings.forecasts.drain(..) {
            output.verdicts.extend(self.policy.update(&forecast, &mut output.decisions));
        }
    }

    /// Takes what became known of the workloads of open claims, for what is reported from now on.
    fn identify_late(&mut self) {
        let Some(identities) = &mut self.identities else { return };
        for (workload, identity) in identities.late() {
            let identity = Arc::new(identity);
            for (_, id) in self.awaited.iter().filter(|(awaited, _)| *awaited == workload) {
                self.policy.identify(id, &identity);
            }
        }
        let policy = &self.policy;
        self.awaited.retain(|(_, id)| policy.knows(id));
    }

    /// Returns the host that this engine was made for.
    pub fn host_info(&self) -> HostInfo {
        self.info
    }

    /// Registry of services.
    pub fn services(&self) -> &Services {
        self.policy.services()
    }

    /// Registry of services, for what only the host knows.
    pub fn services_mut(&mut self) -> &mut Services {
        self.policy.services_mut()
    }

    /// Takes another configuration in so far as it needs no restart (see
    /// [`crate::config::Reload`]). Windows and open claims are kept.
    pub fn reload(&mut self, config: &Config) {
        self.detectors.iter_mut().for_each(|detector| detector.reload(&config.detect));
        self.policy.reload(&config.decide);
    }

    /// Writes down the windows as of `t`, for [`Engine::restore`] of a later run.
    ///
    /// # Errors
    ///
    /// Returns an error if a detector cannot write down its own.
    pub fn save(&self, t: f64) -> Result<Vec<u8>, SavedError> {
        let mut saved = Vec::new();
        for detector in &self.detectors {
            detector.save(t, &mut saved)?;
        }
        Ok(saved)
    }

    /// Takes over the windows that an earlier run wrote down `gap_secs` before `t`, on this run's
    /// clock. Claims that it had open are raised again as soon as their process is seen.
    ///
    /// # Errors
    ///
    /// Returns an error if the windows are of another layout or make no sense; then this engine
    /// must not be used.
    pub fn restore(&mut self, t: f64, gap_secs: f64, saved: &[u8]) -> Result<(), SavedError> {
        let mut rest = saved;
        for detector in &mut self.detectors {
            detector.restore(t, gap_secs, &mut rest)?;
        }
        if rest.is_empty() {
            Ok(())
        } else {
            Err(SavedError::new(format!("{} bytes too many", rest.len())))
        }
    }

    /// Takes the news that an action for these incidents did not help.
    pub fn set_back(&mut self, t: f64, ids: &[IncidentId], why: &str, output: &mut Output) {
        for id in ids {
            output.verdicts.extend(self.policy.set_back(t, id, why, &mut output.decisions));
        }
    }

    /// Sets whether it is this node's turn to leave rotation.
    pub fn set_turn(&mut self, is_turn: bool) {
        self.policy.set_turn(is_turn);
    }

    /// Takes the news that no load is shed for these incidents, or none any more.
    pub fn not_shed(&mut self, ids: &[IncidentId]) {
        ids.iter().for_each(|id| self.policy.not_shed(id));
    }

    /// Open claims, each with its latest forecast, in a stable order.
    pub fn raised(&self) -> impl Iterator<Item = &Verdict> {
        self.policy.open()
    }

    /// Open incidents, the worst first, and the number of all: see [`Policy::incidents`].
    pub fn incidents(&self, max: usize) -> (Vec<IncidentView>, usize) {
        self.policy.incidents(max)
    }

    /// Returns whether a claim is open, or quiet and remembered.
    pub fn knows(&self, id: &IncidentId) -> bool {
        self.policy.knows(id)
    }

    /// Actions that are left of the hour's at `t`.
    pub fn budget(&self, t: f64) -> ActionBudget {
        self.policy.budget(t)
    }

    /// Numbers of subjects and claims held.
    pub fn tracked(&self) -> EngineSize {
        let sizes = self.detectors.iter().map(|detector| detector.size());
        let size = sizes.fold(DetectorSize::default(), DetectorSize::plus);
        EngineSize {
            processes: size.processes,
            listeners: size.listeners,
            destinations: size.destinations,
            leaks_raised: size.leaks_raised,
            overloads_raised: size.overloads_raised,
            cascade_risks_raised: size.cascade_risks_raised,
            counts: size.counts,
            exhaustions_raised: size.exhaustions_raised,
            untracked_total: size.untracked_total,
            ignored_total: self.ignored_total,
        }
    }

    /// Returns the time to use for an observation; `None` if it is unusable.
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
    use crate::{
        detect::{Bound, LeakClaim, Resource, SampleDetector, Severity, Verdict},
        sense::{ProcessId, identity::Identity},
    };

    #[test]
    fn setback_of_two_incidents_makes_both_critical() {
        let mut engine =
            Engine::new(&Config::default(), HostInfo { mem_total_bytes: 1 << 34, cpus: 2 });
        let mut output = Output::default();
        let ids = [1, 2].map(|pid| {
            let id = ProcessId { pid, start_ticks: 1 };
            let claim = LeakClaim {
                cgroup_memory: None,
                resource: Resource::Memory,
                id,
                comm: "api".into(),
                cgroup: format!("/{pid}").into(),
                growth_bytes_per_sec: Some(1_048_576.0),
                growth_handles_per_sec: None,
                growth_interval_bytes_per_sec: None,
                bound: Bound::Host,
            };
            let mut verdict = Verdict::raised(0.0, claim, 1.0, "it leaks".to_owned());
            verdict.exhaustion_secs = Some(3_000.0);
            engine.policy.judge(&mut verdict, &mut output.decisions);
            IncidentId::from(&verdict)
        });
        engine.set_back(1.0, &ids, "the limit does not help", &mut output);
        let critical = output.verdicts.iter().map(|verdict| {
            let severity = verdict.harm.as_ref().map(|harm| harm.severity);
            (IncidentId::from(verdict), severity)
        });
        assert_eq!(critical.collect::<Vec<_>>(), ids.map(|id| (id, Some(Severity::Critical))));
    }

    /// Knows only the unit when it is asked, and the user once a scan has passed.
    #[derive(Default)]
    struct Slow(Vec<(ClaimedWorkload, Identity)>);

    impl Identify for Slow {
        fn identify(&mut self, workload: &ClaimedWorkload) -> Identity {
            let now = Identity { unit: Some("api.service".to_owned()), ..Identity::default() };
            let later = Identity { user: Some("www-data".to_owned()), ..now.clone() };
            self.0.push((workload.clone(), later));
            now
        }

        fn late(&mut self) -> Vec<(ClaimedWorkload, Identity)> {
            std::mem::take(&mut self.0)
        }
    }

    #[test]
    fn identity_is_that_of_the_claim_and_of_what_became_known() {
        let info = HostInfo { mem_total_bytes: 1 << 34, cpus: 2 };
        let mut engine =
            Engine::new(&Config::default(), info).with_detector(Box::<SampleDetector>::default());
        engine.identify_with(Slow::default());
        let scan = |engine: &mut Engine, t, mem_available_bytes| {
            let host = HostFact { mem_available_bytes, psi_memory_some_avg10: None };
            engine.apply(&Observation { t, fact: Fact::Host(host) }).verdicts
        };
        let user = |verdict: &Verdict| verdict.identity.as_ref().and_then(|one| one.user.clone());
        let raised = scan(&mut engine, 0.0, 1 << 20);
        let unit = raised[0].identity.as_ref().and_then(|identity| identity.unit.as_deref());
        assert_eq!((unit, user(&raised[0])), (Some("api.service"), None));
        scan(&mut engine, 1.0, 1 << 20);
        let known = Some("www-data".to_owned());
        assert_eq!(
            engine.raised().map(user).collect::<Option<Vec<_>>>(),
            known.clone().map(|user| vec![user])
        );
        let cleared = scan(&mut engine, 2.0, 1 << 33);
        assert_eq!((cleared[0].state, user(&cleared[0])), (ClaimState::Cleared, known));
    }

    #[test]
    fn late_exits_count_and_other_late_facts_do_not() {
        let mut engine =
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
            assert!(engine.apply(&Observation { t, fact }).is_empty());
        }
        assert_eq!(engine.tracked(), EngineSize { ignored_total: 3, ..EngineSize::default() });
    }
}
