//! Node of a schedule: its faults, its drain, and its dealings with the coordinator.

use spillway_agent::{
    act::drain::{DrainPhase, DrainState, DrainTimings, Inputs, Override, Reply},
    fleet::{
        FleetMember, ForecastEnd, GroupLimits, NodeFacts, NodeNames, NodeReport, Permit, Rotation,
    },
};

use super::{super::memory_coordinator::MemoryCoordinator, STEP_SECS};
use crate::{corpus::rng::Rng, simulation::agent::EPOCH_SECS};

/// Times of a drain: the defaults, but that a refused drain is requested again after half a minute.
pub(super) const TIMINGS: DrainTimings = DrainTimings {
    dwell_secs: 30.0,
    drained_within_secs: 120.0,
    verify_secs: 60.0,
    ask_again_secs: 30.0,
};

/// Time for which a grant is asked for before it counts as refused.
const DEADLINE_SECS: f64 = 300.0;

/// Stretches of time, from and until.
type Stretches = Vec<(f64, f64)>;

/// Faults and wishes of a node.
pub(super) struct Plan {
    crashes: Stretches,
    pauses: Stretches,
    partitions: Stretches,
    wants: Stretches,
    operator: Vec<(f64, f64, Override)>,
    /// Error of the clock, in milliseconds.
    clock_ms: i64,
}

/// Events that the watch has to judge.
pub(super) enum Event {
    /// A drain was granted.
    Granted,
    /// A drain was refused.
    Refused,
    /// An operator took the node out.
    Operator,
}

/// Node of a schedule.
pub(super) struct Node {
    plan: Plan,
    first: NodeReport,
    limits: GroupLimits,
    shared: MemoryCoordinator,
    member: FleetMember,
    drain: DrainState,
    runs: u64,
    is_crashed: bool,
    asked_at: f64,
    /// Time for which it has been out without a reason, awake.
    pub(super) idle_out_secs: f64,
}

/// Milliseconds since 1970 at a simulated time.
pub(super) fn unix_ms(t: f64) -> u64 {
    ((EPOCH_SECS + t) * 1e3) as u64
}

fn stretches(rng: &mut Rng, chance: f64, secs: [f64; 2], until: f64) -> Stretches {
    let mut all = Vec::new();
    let mut t = rng.range(0.0, 600.0);
    while t < until {
        let end = (t + rng.log_range(secs[0], secs[1])).min(until);
        if rng.chance(chance) {
            all.push((t, end));
        }
        t = end + rng.range(60.0, 900.0);
    }
    all
}

fn covers(stretches: &Stretches, t: f64) -> bool {
    stretches.iter().any(|(from, until)| (*from..*until).contains(&t))
}

impl Plan {
    pub(super) fn draw(rng: &mut Rng, until: f64) -> Self {
        let words = [Override::Drain, Override::Maintenance, Override::Undrain];
        let operator = stretches(rng, 0.2, [30.0, 900.0], until);
        Self {
            crashes: stretches(rng, 0.15, [10.0, 400.0], until),
            pauses: stretches(rng, 0.2, [5.0, 200.0], until),
            partitions: stretches(rng, 0.2, [10.0, 600.0], until),
            wants: stretches(rng, 0.6, [60.0, 1_200.0], until),
            operator: operator.into_iter().map(|(a, b)| (a, b, rng.pick(&words))).collect(),
            clock_ms: match rng.below(10) {
                0 => rng.range(-4e7, 4e7) as i64,
                _ => rng.range(-800.0, 800.0) as i64,
            },
        }
    }
}

impl Node {
    pub(super) fn new(
        plan: Plan,
        first: NodeReport,
        shared: MemoryCoordinator,
        limits: GroupLimits,
    ) -> Self {
        Self {
            plan,
            member: member(&first, &shared, limits, first.run),
            first,
            limits,
            shared,
            drain: DrainState::new(TIMINGS),
            runs: 0,
            is_crashed: false,
            asked_at: 0.0,
            idle_out_secs: 0.0,
        }
    }

    pub(super) fn is_out(&self) -> bool {
        self.drain.is_out()
    }

    /// Returns whether it asks for a grant and nothing hinders it.
    pub(super) fn asks_in_peace(&self, t: f64) -> bool {
        self.drain.phase() == DrainPhase::DrainRequested
            && self.is_awake(t)
            && !covers(&self.plan.partitions, t)
            && self.plan.clock_ms.abs() < 1_000
    }

    pub(super) fn permit(&self) -> &Permit {
        self.member.permit()
    }

    fn is_awake(&self, t: f64) -> bool {
        !covers(&self.plan.crashes, t) && !covers(&self.plan.pauses, t)
    }

    /// Takes a step, unless the node is down or paused.
    pub(super) fn step(&mut self, t: f64) -> Option<Event> {
        if covers(&self.plan.crashes, t) {
            self.is_crashed = true;
            return None;
        }
        if !self.is_awake(t) {
            return None;
        }
        if std::mem::take(&mut self.is_crashed) {
            self.start_again();
        }
        self.shared.set(t, covers(&self.plan.partitions, t));
        let word = self.plan.operator.iter().find(|(from, until, _)| (*from..*until).contains(&t));
        let word = word.map(|(_, _, word)| *word);
        let wanted = covers(&self.plan.wants, t);
        let says_drain = word.is_some_and(Override::is_drain);
        let has_reason = says_drain || wanted && word != Some(Override::Undrain);
        let is_idle = self.drain.is_out() && !has_reason;
        self.idle_out_secs = if is_idle { self.idle_out_secs + STEP_SECS } else { 0.0 };
        let facts =
            Inputs { now: t, wanted, may_drain: true, is_useless: false, word, is_done: true };
        if self.drain.step(facts).is_some_and(|step| step.to == DrainPhase::DrainRequested) {
            self.asked_at = t;
        }
        if self.drain.phase() == DrainPhase::UndrainRequested {
            // No coordinator is asked.
            self.drain.answered(t, Reply::Granted);
        }
        let event = self.ask(t, wanted, says_drain);
        if event.is_some() {
            // The others learn of it at once.
            self.tell(t, wanted, says_drain);
        }
        event
    }

    /// Starts the agent again, with what it kept on disk.
    fn start_again(&mut self) {
        let (phase, since) = (self.drain.phase(), self.drain.since());
        self.drain = DrainState::resume(TIMINGS, phase, since, self.drain.is_out());
        self.runs += 1;
        let run = self.first.run.wrapping_add(self.runs);
        self.member = member(&self.first, &self.shared, self.limits, run);
    }

    /// Takes a step of the member.
    fn tell(&mut self, t: f64, wanted: bool, by_operator: bool) {
        let secs = 600.0 + 60.0 * self.first.cpus.now;
        let end = || {
            let cause = "leak".to_owned();
            ForecastEnd { secs, soonest_secs: secs, latest_secs: secs, cause }
        };
        let facts = NodeFacts {
            rotation: match (self.drain.is_out(), by_operator) {
                (true, true) => Rotation::OutByOperator,
                (true, false) => Rotation::Out,
                (false, _) => Rotation::In,
            },
            wants_out: self.drain.phase() == DrainPhase::DrainRequested,
            cpus: self.first.cpus,
            end: wanted.then(end),
            ..NodeFacts::default()
        };
        let unix_ms = unix_ms(t).saturating_add_signed(self.plan.clock_ms);
        self.member.step(t, unix_ms, &facts);
    }

    /// Tells the member what the node wants, and takes its answer.
    fn ask(&mut self, t: f64, wanted: bool, by_operator: bool) -> Option<Event> {
        self.tell(t, wanted, by_operator);
        if self.drain.phase() != DrainPhase::DrainRequested {
            return None;
        }
        if by_operator {
            self.drain.answered(t, Reply::Granted);
            return Some(Event::Operator);
        }
        let is_late = t - self.asked_at >= DEADLINE_SECS;
        match self.member.permit() {
            Permit::Granted => {
                self.drain.answered(t, Reply::Granted);
                Some(Event::Granted)
            }
            Permit::Waiting(_) | Permit::NotAsked if !is_late => None,
            _ => {
                self.drain.answered(t, Reply::Refused);
                Some(Event::Refused)
            }
        }
    }
}

fn member(
    first: &NodeReport,
    shared: &MemoryCoordinator,
    limits: GroupLimits,
    run: u64,
) -> FleetMember {
    let NodeReport { node, group, zone, region, .. } = first.clone();
    FleetMember::new(Box::new(shared.clone()), NodeNames { node, group, zone, region }, limits, run)
}
