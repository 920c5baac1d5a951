//! Agent of a virtual host: the engine, the drain's state machine, and what it reports.
//!
//! The engine reads what the sensors of a real host would give it, at the scenario's interval: the
//! host and its two processes. Its queue is judged here, by a threshold, because the engine samples
//! queues ten times a second.

use std::{collections::VecDeque, sync::Arc};

use spillway_agent::{
    act::drain::{DrainPhase, DrainState, DrainTimings, Inputs},
    config::{Config, Mode, ServicePattern},
    decide::Action,
    detect::Claim,
    engine::{Engine, HostInfo, Output},
    fleet::{ForecastEnd, Load, NodeReport, NodeState, ProvenLoad, SurgeMeter},
    sense::{Fact, HostFact, Observation, ProcessFact, ProcessId},
};

use super::hosts::{CAPACITY, Host, MEMORY, OVERLOADED_SECS, SERVERS, SERVICE_SECS};

/// Time at which every simulation begins, in seconds since 1970.
pub const EPOCH_SECS: f64 = 1_800_000_000.0;

/// Name of the group.
pub const GROUP: &str = "web";

/// Times of a drain: the defaults, but that a refused drain is requested again after a minute.
const TIMINGS: DrainTimings = DrainTimings {
    dwell_secs: 30.0,
    drained_within_secs: 120.0,
    verify_secs: 60.0,
    ask_again_secs: 60.0,
};

/// Shortest end of a forecast without an interval, as a share of it.
const SOONEST_SHARE: f64 = 0.8;

/// Time for which a past drain counts.
const RECENT_SECS: f64 = 6.0 * 3_600.0;

/// Agent of one host.
pub struct Agent {
    engine: Engine,
    output: Output,
    host: Observation,
    processes: [Observation; 2],
    proven: [ProvenLoad; 2],
    surge: SurgeMeter,
    drains: VecDeque<f64>,
    /// Set while the policy wants a drain.
    pub wants_drain: bool,
    /// Set if the node's turn has come.
    pub is_due: bool,
    /// Soonest end when the node left for its turn.
    left_for: Option<f64>,
    /// Soonest forecast end, as a time.
    pub ends_at: Option<f64>,
    soonest_share: f64,
    pub drain: DrainState,
    pub report: NodeReport,
    /// Set if the report has changed since it was published.
    pub has_news: bool,
}

/// Configuration of every agent.
pub fn config() -> Config {
    let mut config = Config { mode: Mode::Enforce, ..Config::default() };
    let services = ["/system.slice/app.service", "/system.slice/collector.service"];
    config.decide.services =
        services.iter().filter_map(|name| ServicePattern::new(name).ok()).collect();
    config
}

fn process(comm: &str) -> Observation {
    let fact = ProcessFact {
        ppid: 1,
        comm: Arc::from(comm),
        cgroup: Arc::from(format!("/system.slice/{comm}.service")),
        ..ProcessFact::default()
    };
    Observation { t: 0.0, fact: Fact::Process(fact) }
}

impl Agent {
    /// Agent of a host in zone `nth` modulo three that has carried a share of its capacity.
    pub fn new(config: &Config, nth: usize, proven: f64) -> Self {
        let info = HostInfo { mem_total_bytes: MEMORY as u64, cpus: SERVERS as u32 };
        let host = HostFact { mem_available_bytes: 0, psi_memory_some_avg10: None };
        let node = format!("node-{nth:05}");
        let zone = ["a", "b", "c"][nth % 3].to_owned();
        let mut agent = Self {
            engine: Engine::new(config, info),
            output: Output::default(),
            host: Observation { t: 0.0, fact: Fact::Host(host) },
            processes: [process("app"), process("collector")],
            proven: [ProvenLoad::default(), ProvenLoad::default()],
            surge: SurgeMeter::default(),
            drains: VecDeque::new(),
            wants_drain: false,
            is_due: false,
            left_for: None,
            ends_at: None,
            soonest_share: SOONEST_SHARE,
            drain: DrainState::new(TIMINGS),
            report: NodeReport {
                zone,
                ..NodeReport::new(&node, GROUP, nth as u64, (EPOCH_SECS * 1e3) as u64)
            },
            has_news: true,
        };
        for nth in 0..8 {
            let at = EPOCH_SECS - 3_600.0 + 60.0 * f64::from(nth);
            agent.proven[0].note(at, proven * SERVERS, true);
            agent.proven[1].note(at, proven * CAPACITY, true);
        }
        agent.load(0.0, 0.0, false);
        agent
    }

    /// Starts anew after the host was down: the proven load is on disk, and nothing else matters.
    pub fn reboot(&mut self, config: &Config) {
        self.engine = Engine::new(config, self.engine.host_info());
        self.surge = SurgeMeter::default();
        self.drain = DrainState::new(TIMINGS);
        (self.wants_drain, self.is_due, self.left_for, self.ends_at) = (false, false, None, None);
        self.report.end = None;
        self.report.run += 1 << 32;
        self.set_state();
    }

    /// Takes a scan of the host.
    pub fn scan(&mut self, t: f64, host: &Host) {
        self.host.t = t;
        if let Fact::Host(fact) = &mut self.host.fact {
            fact.mem_available_bytes = host.available.max(0.0) as u64;
        }
        self.engine.apply_into(&self.host, &mut self.output);
        for (observation, process) in self.processes.iter_mut().zip([host.service, host.collector])
        {
            if process.born > t {
                continue;
            }
            observation.t = t;
            if let Fact::Process(fact) = &mut observation.fact {
                (fact.id, fact.anon_bytes) = (process.id, process.bytes as u64);
            }
            self.engine.apply_into(observation, &mut self.output);
        }
        self.conclude();
        let is_well = host.wait_secs() <= OVERLOADED_SECS;
        self.load(t, host.done, is_well && !self.drain.is_out());
        let is_failing = !is_well || host.is_slow();
        let state = if is_failing { NodeState::Unwell } else { NodeState::Serving };
        if self.report.state.is_in_rotation() {
            self.report.state = state;
        }
        self.report.end = self.end(t);
        self.report.queue_wait_us = Some((host.wait_secs() * 1e6) as u64);
        while self.drains.front().is_some_and(|then| t - then > RECENT_SECS) {
            self.drains.pop_front();
        }
        self.report.recent_drains = self.drains.len() as u32;
        self.report.at_ms = ((EPOCH_SECS + t) * 1e3) as u64;
        self.has_news = true;
    }

    /// Takes the end of a process.
    pub fn exit(&mut self, t: f64, id: ProcessId) {
        self.engine.apply_into(&Observation { t, fact: Fact::Exit(id) }, &mut self.output);
        self.conclude();
    }

    fn load(&mut self, t: f64, done: f64, is_well: bool) {
        let now = [done * SERVICE_SECS, done];
        let loads = [0, 1].map(|nth| {
            self.proven[nth].note(EPOCH_SECS + t, now[nth], is_well);
            Load { now: now[nth], proven: self.proven[nth].most() }
        });
        (self.report.cpus, self.report.requests) = (loads[0], Some(loads[1]));
        self.report.is_surging = self.surge.note(EPOCH_SECS + t, done);
    }

    fn conclude(&mut self) {
        for decision in self.output.decisions.drain(..) {
            match decision.action {
                Action::Drain if decision.refused.is_none() => self.wants_drain = true,
                Action::Undrain => self.wants_drain = false,
                _ => {}
            }
        }
        for verdict in self.output.verdicts.drain(..) {
            let interval = verdict.exhaustion_interval_secs.zip(verdict.exhaustion_secs);
            if let Some(([soonest, _], secs)) = interval {
                self.soonest_share = (soonest / secs).clamp(0.0, 1.0);
            }
        }
        let leaks = self.engine.raised().filter(|verdict| matches!(verdict.claim, Claim::Leak(_)));
        let ends = leaks.filter_map(|verdict| Some(verdict.t + verdict.exhaustion_secs?));
        self.ends_at = ends.reduce(f64::min);
    }

    fn end(&self, t: f64) -> Option<ForecastEnd> {
        let secs = (self.ends_at? - t).max(0.0);
        Some(ForecastEnd {
            secs,
            soonest_secs: secs * self.soonest_share,
            latest_secs: secs * 1.2,
            cause: "leak".to_owned(),
        })
    }

    /// Takes the next step of the drain; the host has no work left if `is_done`.
    pub fn step(&mut self, t: f64, is_done: bool) {
        // Once it is out for its turn, the reason is over when the end is gone or further away.
        let is_nearer = |left_for: f64| self.ends_at.is_some_and(|end| end <= left_for + 600.0);
        let in_turn = match self.left_for {
            Some(left_for) if self.drain.phase() != DrainPhase::Healthy => is_nearer(left_for),
            _ => self.is_due,
        };
        let wanted = in_turn || self.wants_drain;
        if self.drain.phase() == DrainPhase::Healthy && !wanted {
            return;
        }
        let facts =
            Inputs { now: t, wanted, may_drain: true, is_useless: false, word: None, is_done };
        self.drain.step(facts);
        self.set_state();
    }

    /// Returns whether the node asks for a grant.
    pub fn asks(&self) -> bool {
        self.drain.phase() == DrainPhase::DrainRequested
    }

    /// Notes that the drain was granted.
    pub fn leaves(&mut self, t: f64) {
        self.left_for = self.ends_at;
        self.drains.push_back(t);
        self.set_state();
    }

    /// Updates what the report says of the drain.
    pub fn set_state(&mut self) {
        let waits = self.asks();
        let state = match (self.drain.is_out(), self.report.state) {
            (true, _) => NodeState::Out,
            (false, NodeState::Out) => NodeState::Serving,
            (false, state) => state,
        };
        if (state, waits) != (self.report.state, self.report.waits) {
            (self.report.state, self.report.waits) = (state, waits);
            self.has_news = true;
        }
    }
}
