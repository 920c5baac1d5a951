//! The agent's view of a simulated address: the facts that its sensor of requests makes of the
//! kernel's two clocks of each connection, sampled, in whole ticks.
//!
//! A request is in flight if bytes were received after the last were sent. Both within one tick
//! tie: then it is only if they are unread, or if the sensor knows the order. Where ends are not
//! followed, a connection counts one response for each look in which it had sent more, and one that
//! has gone was answered unless its client was seen to have left.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use spillway_agent::{
    engine::HostInfo,
    sense::{
        Fact, HostFact, ListenerFact, Observation, OutboundFact, RequestsFact, ServicePressureFact,
    },
};

use super::{
    super::{
        plan::Scarce,
        socket::{Nanos, SECOND, nanos},
    },
    plan::{Evidence, Look, Serving},
    sim::{Connection, Sim},
};
use crate::corpus::rng::Rng;

const NETNS: u32 = 4_026_531_840;
const TIMER_SECS: f64 = 0.001;
const UPSTREAM: &str = "127.0.0.1:9100";

/// Requests of which the pressure is read: those that wait for so long.
const STRAIN_FROM: Nanos = 100_000_000;

pub(super) struct Seen {
    pub(super) sim: Sim,
    host: HostInfo,
    rng: Rng,
    addr: Arc<str>,
    cgroup: Arc<str>,
    comm: Arc<str>,
    pid: u32,
    look: u64,
    t: Nanos,
    busy_total: Nanos,
    known: HashMap<u64, Known>,
    answered_total: u64,
    abandoned_total: u64,
    upstream_answered: u64,
    ready: VecDeque<Observation>,
    ended: bool,
}

/// Last sample of a connection.
#[derive(Clone, Copy)]
struct Known {
    look: u64,
    sent: Nanos,
    in_flight: bool,
    left: bool,
}

impl Seen {
    pub(super) fn new(sim: Sim, host: HostInfo, mut rng: Rng) -> Self {
        let port = rng.pick(&[80, 443, 3_000, 8_000, 8_080]);
        let comm = match sim.plan.server.serving {
            Serving::Passes(_) => "nginx",
            Serving::Queues => rng.pick(&["java", "api", "server"]),
            Serving::Reads => rng.pick(&["node", "gunicorn", "uvicorn"]),
        };
        Self {
            sim,
            host,
            addr: if rng.chance(0.5) { format!("0.0.0.0:{port}") } else { format!("[::]:{port}") }
                .into(),
            cgroup: format!("/system.slice/{comm}.service").into(),
            comm: comm.into(),
            pid: 700 + rng.below(9_000) as u32,
            rng,
            look: 0,
            t: 0,
            busy_total: 0,
            known: HashMap::new(),
            answered_total: 0,
            abandoned_total: 0,
            upstream_answered: 0,
            ready: VecDeque::new(),
            ended: false,
        }
    }

    pub(super) fn addr(&self) -> &str {
        &self.addr
    }

    pub(super) fn host(&self) -> HostInfo {
        self.host
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    fn tell(&mut self, fact: Fact) {
        self.ready.push_back(Observation { t: self.t as f64 / SECOND, fact });
    }

    /// Takes the next sample; returns false if there is none.
    fn look(&mut self) -> bool {
        let Look { interval_secs, late, .. } = self.sim.plan.look;
        self.look += 1;
        let due = self.look as f64 * interval_secs;
        if due > self.sim.plan.secs {
            self.sim.advance(nanos(self.sim.plan.secs).max(self.t));
            self.sim.truth.finish();
            self.ended = true;
            return false;
        }
        let extra = if self.rng.chance(late.0) { self.rng.range(0.0, late.1) } else { 0.0 };
        let t = nanos(due + self.rng.range(0.05, 1.0) * TIMER_SECS + extra);
        if t <= self.t {
            return true;
        }
        let before = std::mem::replace(&mut self.t, t);
        self.sim.advance(t);
        if before == 0 || t / nanos(1.0) > before / nanos(1.0) {
            self.tell(Fact::Host(HostFact {
                mem_available_bytes: self.host.mem_total_bytes / 2,
                psi_memory_some_avg10: Some(0.0),
            }));
            self.outbound();
        }
        let fact = self.requests();
        let waits = fact.oldest_in_flight_us.unwrap_or(0) >= STRAIN_FROM / 1_000;
        self.listener(before, waits);
        self.tell(Fact::Requests(fact));
        true
    }

    fn requests(&mut self) -> RequestsFact {
        let Look { hz, ordered, exact, .. } = self.sim.plan.look;
        let (now, tick) = (self.t, nanos(1.0) / Nanos::from(hz));
        let mut fact =
            RequestsFact { netns: NETNS, addr: self.addr.clone(), ..RequestsFact::default() };
        let (mut connections, mut answered, mut abandoned) = (0, 0, 0);
        let older =
            |oldest: &mut Option<u64>, age: u64| *oldest = Some(oldest.unwrap_or(0).max(age));
        for place in 0..self.sim.connections.len() {
            let mut one: Connection = self.sim.connections[place];
            if one.life == 0 {
                continue;
            }
            one.sent = one.sent.min(now);
            if one.uploads {
                // A segment came a moment ago, and half of the time it is still there.
                one.received = now - nanos(self.rng.range(0.0, 0.08)).min(now - 1);
                one.unread = self.rng.chance(0.5);
            }
            connections += u32::from(!one.left);
            let (received, sent) = (one.received / tick, one.sent / tick);
            let in_flight = one.received > 0
                && (received > sent
                    || one.sent == 0
                    || (received == sent && (one.unread || (ordered && one.received > one.sent))));
            let known = self.known.insert(
                one.life,
                Known { look: self.look, sent: one.sent, in_flight, left: one.left },
            );
            if one.left {
                abandoned += u64::from(known.is_none_or(|known| !known.left));
                continue;
            }
            answered += u64::from(known.map_or(one.sent > 0, |known| known.sent != one.sent));
            if in_flight {
                fact.in_flight += 1;
                let age_us = (now / tick - received) * (tick / 1_000);
                older(&mut fact.oldest_in_flight_us, age_us);
                let youngest = fact.youngest_in_flight_us.unwrap_or(u64::MAX).min(age_us);
                fact.youngest_in_flight_us = Some(youngest);
                if one.unread {
                    fact.unread += 1;
                    older(&mut fact.oldest_unread_us, age_us);
                }
            }
        }
        let look = self.look;
        self.known.retain(|_, known| {
            let stays = known.look == look;
            answered += u64::from(!stays && known.in_flight && !known.left);
            stays
        });
        if exact {
            self.answered_total = self.sim.counts.answered;
            self.abandoned_total = self.sim.counts.abandoned;
        } else {
            self.answered_total += answered;
            self.abandoned_total += abandoned;
        }
        fact.connections = Some(connections);
        fact.answered_total = Some(self.answered_total);
        fact.abandoned_total = Some(self.abandoned_total);
        fact
    }

    fn listener(&mut self, before: Nanos, waits: bool) {
        let strain = self.strain(before, waits);
        let arrived = Some(self.sim.counts.connected);
        self.tell(Fact::Listener(Box::new(ListenerFact {
            netns: NETNS,
            addr: self.addr.clone(),
            socket: 7,
            cgroup: self.cgroup.clone(),
            pid: Some(self.pid),
            comm: self.comm.clone(),
            backlog: 0,
            backlog_max: 511,
            accepted_total: arrived,
            arrived_total: arrived,
            overflows_total: Some(0),
            oldest_wait_us: Some(0),
            strain,
            ..ListenerFact::default()
        })));
    }

    /// Pressure on the service since the last look; `None` where hardly anybody waits.
    fn strain(&mut self, before: Nanos, waits: bool) -> Option<ServicePressureFact> {
        let busy_total = self.sim.busy_total();
        let busy = busy_total - std::mem::replace(&mut self.busy_total, busy_total);
        let (server, span) = (&self.sim.plan.server, (self.t - before).max(1) as f64);
        let slow = server.slow.at(self.t as f64 / SECOND);
        let busy = (busy as f64 / span / f64::from(server.workers)).min(1.0) * server.runs_share;
        let psi = if self.sim.plan.scarce == Scarce::Cpu && slow > 1.0 {
            100.0 * (1.0 - 1.0 / slow)
        } else {
            0.0
        };
        if !waits || !self.sim.plan.look.strain {
            return None;
        }
        let mut blur =
            |percent: f64, by: f64| (percent + by * self.rng.unit()).clamp(0.0, 100.0).round();
        Some(ServicePressureFact {
            secs: span / SECOND,
            psi_cpu_some_percent: Some(blur(psi, 5.0)),
            psi_memory_some_percent: Some(blur(0.0, 1.0)),
            busiest_thread_percent: Some(blur(100.0 * busy * (1.0 - psi / 100.0), 3.0)),
            thread_waits_percent: Some(blur(psi, 3.0)),
            retransmits: Some(0),
            refused: Some(0),
        })
    }

    /// Samples the upstream, once a second.
    fn outbound(&mut self) {
        let Serving::Passes(evidence) = self.sim.plan.server.serving else { return };
        if evidence == Evidence::None {
            return;
        }
        let slow = self.sim.plan.server.slow.at(self.t as f64 / SECOND);
        let (count, oldest) = self.sim.passed_on();
        let is_pending = evidence == Evidence::Pending && slow > 1.5;
        self.tell(Fact::Outbound(OutboundFact {
            netns: NETNS,
            addr: UPSTREAM.into(),
            cgroup: self.cgroup.clone(),
            pid: self.pid,
            comm: self.comm.clone(),
            established_total: self.sim.counts.passed_on,
            pending: if is_pending { 1 + count / 4 } else { 0 },
            ..OutboundFact::default()
        }));
        if evidence == Evidence::Local {
            self.upstream_answered = self.sim.counts.answered;
            self.tell(Fact::Requests(RequestsFact {
                netns: NETNS,
                addr: UPSTREAM.into(),
                in_flight: count,
                oldest_in_flight_us: (count > 0).then_some(oldest / 1_000),
                answered_total: Some(self.upstream_answered),
                abandoned_total: Some(0),
                ..RequestsFact::default()
            }));
        }
    }
}

impl Iterator for Seen {
    type Item = Observation;

    fn next(&mut self) -> Option<Observation> {
        loop {
            if let Some(observation) = self.ready.pop_front() {
                return Some(observation);
            }
            if self.ended || !self.look() {
                return None;
            }
        }
    }
}
