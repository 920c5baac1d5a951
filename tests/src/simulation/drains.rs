//! Drains of all agents of a group: turns, grants and the restart of what leaks.
//!
//! The brake is noted once for all hosts: it differs between them only by the host itself. Of those
//! that ask, the first in the queue is judged, then the next, until one has to wait.

use spillway_agent::{
    act::drain::{DrainPhase, Reply},
    config::Reach,
    fleet::{Acquired, GivenUpLoad, GrantRefusal, GroupLimits, StormBrake, grant, turns},
};

use super::{
    agent::{Agent, EPOCH_SECS},
    balancer::Balancer,
    hosts::{Host, Leaker},
    memory_coordinator::{Store, TTL_SECS},
    policies::{COUNT_SHARE, Policy},
    scenarios::Scenario,
};

/// Time between two looks at the group.
const LOOK_SECS: f64 = 15.0;

/// Time that the restart of a process takes.
const RESTART_SECS: f64 = 60.0;

/// Time that a turn takes, from the request until the host is back, with some reserve.
pub const TURN_SECS: f64 = 240.0;

/// Hosts that are judged at one time.
const JUDGED_MAX: usize = 32;

/// Drains of a group.
pub struct Drains {
    policy: Policy,
    limits: GroupLimits,
    leaker: Leaker,
    store: Store,
    brake: StormBrake,
    braked: Option<GrantRefusal>,
    /// Time of each host's last drain.
    left: Vec<f64>,
    is_restarted: Vec<bool>,
    looked: f64,
    /// Drains granted, and requests refused for another reason than that it is not their turn.
    pub granted: u64,
    pub refused: u64,
}

/// Everything that a drain may touch.
pub struct Group<'a> {
    pub hosts: &'a mut [Host],
    pub agents: &'a mut [Agent],
    pub balancer: &'a mut Balancer,
}

impl Drains {
    /// Creates the drains of these agents.
    pub fn new(policy: Policy, scenario: &Scenario, agents: &[Agent]) -> Self {
        let hosts = agents.len();
        Self {
            policy,
            limits: GroupLimits {
                slots: ((hosts as f64 * scenario.slots) as usize).max(1),
                out_share_max: 0.1,
                margin: 1.2,
                reach: Reach::Group,
                silent_after_secs: TTL_SECS,
            },
            leaker: scenario.leak.map_or(Leaker::Service, |leak| leak.of),
            store: Store::new(agents.iter().map(|agent| agent.report.clone()).collect(), 0.0),
            brake: StormBrake::default(),
            braked: None,
            left: vec![f64::NEG_INFINITY; hosts],
            is_restarted: vec![false; hosts],
            looked: f64::NEG_INFINITY,
            granted: 0,
            refused: 0,
        }
    }

    /// Number of hosts that left within so many seconds before `t` and are still out.
    pub fn left_within(&self, t: f64, secs: f64, agents: &[Agent]) -> usize {
        let is_recent = |(left, agent): &(&f64, &Agent)| t - **left <= secs && agent.drain.is_out();
        self.left.iter().zip(agents).filter(is_recent).count()
    }

    /// Takes the next steps of all hosts that are up.
    pub fn step(&mut self, t: f64, group: &mut Group<'_>) {
        let is_look = t - self.looked >= LOOK_SECS && self.policy.takes_turns();
        if is_look {
            self.looked = t;
            self.look(t, group);
        }
        for nth in 0..group.agents.len() {
            if group.hosts[nth].is_up(t) {
                self.step_one(t, nth, group);
            }
        }
        match self.policy {
            policy if policy.takes_turns() => self.judge(t, group),
            Policy::Count => {
                let most = (group.agents.len() as f64 * COUNT_SHARE) as usize;
                self.judge_by_count(t, most.max(1), group);
            }
            _ => self.judge_by_count(t, usize::MAX, group),
        }
    }

    /// Notes the brake, and whose turn has come.
    fn look(&mut self, t: f64, group: &mut Group<'_>) {
        for nth in 0..group.agents.len() {
            if group.hosts[nth].is_up(t) {
                self.store.renew(nth, group.agents[nth].report.run, t);
            }
        }
        self.store.advance(t);
        let snapshot = self.store.snapshot();
        self.braked = self.brake.note(t, snapshot, "");
        group.agents.iter_mut().for_each(|agent| agent.is_due = false);
        for (turn, starts_in) in turns::schedule(snapshot, now_ms(t), &self.limits, TURN_SECS) {
            if turns::is_due(starts_in, TURN_SECS) {
                group.agents[place(&turn.member.node)].is_due = true;
            }
        }
    }

    fn step_one(&mut self, t: f64, nth: usize, group: &mut Group<'_>) {
        let (agent, host) = (&mut group.agents[nth], &mut group.hosts[nth]);
        agent.step(t, host.queue < 1.0);
        match agent.drain.phase() {
            DrainPhase::Drained if !self.is_restarted[nth] => {
                self.is_restarted[nth] = true;
                let ended = host.restart(t + RESTART_SECS, self.leaker);
                agent.exit(t, ended);
            }
            DrainPhase::UndrainRequested => {
                agent.drain.answered(t, Reply::Granted);
                agent.set_state();
                group.balancer.set_drained(nth, false);
                self.store.release(nth);
            }
            _ => {}
        }
        if agent.report.given_up.is_some() && t - self.left[nth] > 2.0 * LOOK_SECS {
            (agent.report.given_up, agent.has_news) = (None, true);
        }
        if std::mem::take(&mut agent.has_news) {
            self.store.publish(nth, &agent.report, t);
        }
    }

    /// Forgets a host that has gone down.
    pub fn gone(&mut self, nth: usize, balancer: &mut Balancer) {
        self.is_restarted[nth] = false;
        balancer.set_drained(nth, false);
    }

    fn judge(&mut self, t: f64, group: &mut Group<'_>) {
        if !group.agents.iter().any(Agent::asks) {
            return;
        }
        self.store.advance(t);
        let asking = turns::queue(self.store.snapshot(), now_ms(t), self.limits.silent_after_secs);
        let asking = asking.into_iter().filter(|turn| turn.member.waits());
        let asking: Vec<_> = asking.map(|turn| place(&turn.member.node)).collect();
        for nth in asking.into_iter().take(JUDGED_MAX) {
            let agent = &mut group.agents[nth];
            if !agent.asks() {
                continue;
            }
            match self.granted(t, agent) {
                Ok(()) => {
                    let revision = self.store.snapshot().grant_revision;
                    let slots = self.limits.slots;
                    if self.store.acquire(nth, revision, slots, t) == Acquired::Taken {
                        self.leave(t, nth, group);
                    }
                }
                Err(refusal) if refusal.is_wait() => break,
                Err(_) => self.refuse(t, agent),
            }
        }
    }

    fn granted(&self, t: f64, agent: &Agent) -> Result<(), GrantRefusal> {
        let group = self.store.snapshot();
        if let Some(reason) = &self.braked {
            return Err(reason.clone());
        }
        grant(group, &agent.report.node, agent.report.run, now_ms(t), &self.limits)
    }

    fn judge_by_count(&mut self, t: f64, most: usize, group: &mut Group<'_>) {
        let mut out = group.agents.iter().filter(|agent| agent.drain.is_out()).count();
        for nth in 0..group.agents.len() {
            if !group.agents[nth].asks() {
            } else if out < most {
                out += 1;
                self.leave(t, nth, group);
            } else {
                self.refuse(t, &mut group.agents[nth]);
            }
        }
    }

    fn leave(&mut self, t: f64, nth: usize, group: &mut Group<'_>) {
        let agent = &mut group.agents[nth];
        agent.report.given_up = Some(GivenUpLoad {
            cpus: agent.report.cpus.now,
            requests: agent.report.requests.map(|load| load.now),
        });
        agent.drain.answered(t, Reply::Granted);
        agent.leaves(t);
        self.store.publish(nth, &agent.report, t);
        group.balancer.set_drained(nth, true);
        (self.left[nth], self.is_restarted[nth]) = (t, false);
        self.granted += 1;
    }

    fn refuse(&mut self, t: f64, agent: &mut Agent) {
        agent.drain.answered(t, Reply::Refused);
        agent.set_state();
        self.refused += 1;
    }
}

fn now_ms(t: f64) -> u64 {
    ((EPOCH_SECS + t) * 1e3) as u64
}

/// Place of a host, from its name.
fn place(node: &str) -> usize {
    node.trim_start_matches("node-").parse().unwrap_or_default()
}
