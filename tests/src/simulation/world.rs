//! Simulated time: clients, balancer, hosts and a policy, second by second.
//!
//! Requests flow once a second. Memory, health checks and drains take their steps every five, and
//! agents scan their hosts at the scenario's interval, on all processors.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use spillway_agent::config::Config;

use super::{
    agent::{Agent, config},
    balancer::Balancer,
    clients::Clients,
    drains::{Drains, Group},
    hosts::{CAPACITY, Handled, Host, Leaker, MEMORY, OVERLOADED_SECS},
    policies::{Human, Policy},
    report::{Outcome, Sample},
    scenarios::Scenario,
    shedding::Shedding,
};

/// Time between two steps of everything but requests, in seconds.
const TICK_SECS: u64 = 5;

/// Time between two samples of a picture, in seconds.
const SAMPLE_SECS: u64 = 60;

/// Time after a drain in which an overload is taken for its consequence.
const CONSEQUENCE_SECS: f64 = 60.0;

/// Fewest hosts for which another thread is worth its start.
const HOSTS_A_THREAD: usize = 200;

/// Sizes and chance of a run.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// Number of hosts.
    pub nodes: usize,
    /// Seed of everything that is left to chance.
    pub seed: u64,
    /// Policy of the group.
    pub policy: Policy,
}

/// Sets that the run ends at its next step.
pub type Stop<'a> = &'a AtomicBool;

/// Runs a scenario. `progress` is told the share that is done, now and then. `None` if it was
/// stopped.
pub fn simulate(
    scenario: &Scenario,
    run: Run,
    stop: Stop<'_>,
    mut progress: impl FnMut(f64),
) -> Option<Outcome> {
    let mut world = World::new(scenario, run);
    let secs = scenario.secs as u64;
    for second in 0..secs {
        if second.is_multiple_of(TICK_SECS) {
            world.tick(second);
        }
        world.serve(second);
        if second.is_multiple_of(SAMPLE_SECS) {
            world.sample(second as f64);
            if stop.load(Ordering::Relaxed) {
                return None;
            }
            progress(second as f64 / scenario.secs);
        }
    }
    Some(world.outcome())
}

struct World<'a> {
    scenario: &'a Scenario,
    run: Run,
    config: Config,
    hosts: Vec<Host>,
    /// Empty without agents.
    agents: Vec<Agent>,
    balancer: Balancer,
    clients: Clients,
    human: Human,
    drains: Drains,
    shedding: Shedding,
    overloaded: Vec<bool>,
    /// Set if no request waited, and each host in rotation was up and quick, a second ago.
    is_idle: bool,
    threads: usize,
    outcome: Outcome,
}

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario, run: Run) -> Self {
        let Run { nodes, seed, policy } = run;
        let config = config();
        let agent = |nth| Agent::new(&config, nth, scenario.proven);
        let agents: Vec<_> = (0..if policy.has_agents() { nodes } else { 0 }).map(agent).collect();
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Self {
            scenario,
            run,
            hosts: (0..nodes).map(|nth| Host::new(seed, nth)).collect(),
            balancer: Balancer::new(nodes),
            clients: Clients::default(),
            human: Human::default(),
            drains: Drains::new(policy, scenario, &agents),
            shedding: Shedding::default(),
            overloaded: vec![false; nodes],
            is_idle: false,
            threads: processors.min(nodes / HOSTS_A_THREAD).max(1),
            outcome: Outcome::new(scenario.name, nodes, policy),
            agents,
            config,
        }
    }

    /// Steps of everything but requests.
    fn tick(&mut self, second: u64) {
        let t = second as f64;
        self.deploy(t);
        self.age(t);
        if let Some((from, until)) = self.scenario.zone_loss
            && (from..from + TICK_SECS as f64).contains(&t)
        {
            (0..self.hosts.len()).step_by(3).for_each(|nth| self.down(nth, until));
        }
        self.balancer.check(t, &self.hosts);
        if self.run.policy == Policy::Threshold {
            let used = |host: &Host| 1.0 - host.available / MEMORY;
            let used = self.hosts.iter().map(|host| if host.is_up(t) { used(host) } else { 0.0 });
            if let Some((nth, until)) = self.human.next(t, used) {
                self.down(nth, until);
            }
        }
        if self.run.policy.has_agents() {
            if second.is_multiple_of(self.scenario.scan_secs as u64) {
                self.scan(t);
            }
            let mut group = Group {
                hosts: &mut self.hosts,
                agents: &mut self.agents,
                balancer: &mut self.balancer,
            };
            self.drains.step(t, &mut group);
        }
        let out = self.balancer.out_share();
        self.outcome.max_out_share = self.outcome.max_out_share.max(out);
    }

    /// Restarts services of which a new release is deployed.
    fn deploy(&mut self, t: f64) {
        let of_hosts = self.hosts.len() as f64;
        let leak = self.scenario.leak.filter(|leak| leak.of == Leaker::Service);
        let releases = leak.into_iter().flat_map(|leak| {
            [leak.from, leak.until].map(|from| (from, leak.spread_secs / of_hosts))
        });
        let weekly = self.scenario.deploy_secs.into_iter().filter_map(|every| {
            let nth = (t / every).floor();
            (nth >= 1.0).then_some((nth * every, 1.0))
        });
        for (from, each_secs) in releases.chain(weekly).collect::<Vec<_>>() {
            let at = |t: f64| (((t - from) / each_secs).max(0.0) as usize).min(self.hosts.len());
            for nth in at(t)..at(t + TICK_SECS as f64) {
                if !self.hosts[nth].is_up(t) || self.hosts[nth].service.born > t {
                    continue;
                }
                let ended = self.hosts[nth].restart(t, Leaker::Service);
                if let Some(agent) = self.agents.get_mut(nth) {
                    agent.exit(t, ended);
                }
            }
        }
    }

    /// Passes time for the memory of all hosts; those that run out of it die.
    fn age(&mut self, t: f64) {
        let of = self.hosts.len();
        for nth in 0..of {
            let host = &mut self.hosts[nth];
            if host.is_up(t) && host.age(t, TICK_SECS as f64, self.scenario, nth, of) {
                self.outcome.oom_deaths += 1;
                self.down(nth, t + self.scenario.revive_secs);
            }
        }
    }

    fn down(&mut self, nth: usize, until: f64) {
        let lost = self.hosts[nth].go_down(until);
        self.clients.take_back(lost);
        if let Some(agent) = self.agents.get_mut(nth) {
            agent.reboot(&self.config);
            self.drains.gone(nth, &mut self.balancer);
        }
    }

    fn scan(&mut self, t: f64) {
        let each = self.hosts.len().div_ceil(self.threads);
        let scan = |(agents, hosts): (&mut [Agent], &[Host])| {
            for (agent, host) in agents.iter_mut().zip(hosts).filter(|(_, host)| host.is_up(t)) {
                agent.scan(t, host);
            }
        };
        let mut parts = self.agents.chunks_mut(each).zip(self.hosts.chunks(each));
        thread::scope(|scope| {
            let first = parts.next();
            for part in parts {
                scope.spawn(move || scan(part));
            }
            first.into_iter().for_each(scan);
        });
    }

    /// Requests of one second.
    fn serve(&mut self, second: u64) {
        let t = second as f64;
        let fresh = self.scenario.load_at(t) * self.hosts.len() as f64 * CAPACITY;
        let sent = self.clients.send(fresh);
        let targets = self.balancer.targets();
        if self.is_calm(second, sent) {
            self.clients.take(Handled { served: sent, ..Handled::default() });
            return;
        }
        let mut is_idle = true;
        let mut all = Handled::default();
        let each = sent / targets.len().max(1) as f64;
        if targets.is_empty() {
            all.refused = sent;
        }
        let mut targets = targets.iter().copied().peekable();
        for (nth, host) in self.hosts.iter_mut().enumerate() {
            let is_target = targets.next_if_eq(&nth).is_some();
            let arriving = if is_target { host.by_chance(each, second as i64) } else { 0.0 };
            if !host.is_up(t) {
                is_idle &= !is_target;
                all.late += arriving;
                continue;
            }
            let handled = host.serve(arriving);
            is_idle &= host.queue == 0.0 && !host.is_slow();
            all.served += handled.served;
            all.refused += handled.refused;
            all.late += handled.late;
        }
        self.is_idle = is_idle;
        self.clients.take(all);
        self.note_overloads(t, each);
        if self.run.policy == Policy::Spillway {
            self.shedding.step(t, &mut self.hosts, &self.overloaded);
        }
    }

    /// Returns whether every request is certainly served at once, so that no host need be asked:
    /// nothing waited before, and the most that chance gives a host fits. Every tick asks.
    fn is_calm(&self, second: u64, sent: f64) -> bool {
        let each = sent / self.balancer.targets().len().max(1) as f64;
        self.is_idle && !second.is_multiple_of(TICK_SECS) && Host::at_most(each) <= CAPACITY
    }

    /// Counts hosts that became overloaded within a minute after a drain, by a load that would have
    /// fitted if those that left in that minute had taken their share of it.
    fn note_overloads(&mut self, t: f64, each: f64) {
        let mut factor = None;
        let serving = self.balancer.targets().len() as f64;
        for (host, was) in self.hosts.iter().zip(&mut self.overloaded) {
            let is = host.queue > 0.0 && host.wait_secs() > OVERLOADED_SECS;
            if is && !std::mem::replace(was, is) {
                let factor = *factor.get_or_insert_with(|| {
                    let left = self.drains.left_within(t, CONSEQUENCE_SECS, &self.agents) as f64;
                    serving / (serving + left)
                });
                let is_by_drain =
                    factor < 1.0 && each > host.capacity() && each * factor <= host.capacity();
                self.outcome.overloaded_by_drain += u64::from(is_by_drain);
            }
            *was = is;
        }
    }

    fn sample(&mut self, t: f64) {
        let mut used: Vec<_> =
            self.hosts.iter().map(|host| 1.0 - host.available / MEMORY).collect();
        let middle = used.len() / 2;
        let median = *used.select_nth_unstable_by(middle, f64::total_cmp).1;
        let most = used.iter().copied().fold(0.0, f64::max);
        let clients = &self.clients;
        self.outcome.sample(Sample {
            t,
            served: clients.served,
            lost: clients.lost,
            in_rotation: 1.0 - self.balancer.out_share(),
            memory: [median, most],
        });
    }

    fn outcome(mut self) -> Outcome {
        let (served, lost) = (self.clients.served, self.clients.lost);
        self.outcome.served_share = served / (served + lost);
        (self.outcome.drains, self.outcome.refused) = (self.drains.granted, self.drains.refused);
        self.outcome
    }
}
