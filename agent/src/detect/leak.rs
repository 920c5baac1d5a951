//! The leak detector: which workload grows, steadily and without slowing, towards an end that is
//! near enough to say so.
//!
//! Watching the host's total would find nothing: it moves for good reasons all day. One process's
//! floor does not. A claim takes growth that passes every test of [`super::growth`] on some
//! horizon, and a forecast that does not reach further than what was seen supports. It is made once
//! for a workload, whichever of its processes leak, and stands until they stop, give back, or are
//! gone and not replaced: a leak survives a restart, and a restart must not page twice. Cold start:
//! the first `warm_up` of a process that starts under watch is not judged; then one horizon must
//! pass. It refuses: page cache and file mappings (they are given back), and claims without a
//! headroom to forecast against.

mod claim;
mod limit_history;
mod peers;
mod process;
mod tracking;
mod workload;

use std::collections::{HashMap, hash_map::Entry};

pub use self::process::PROCESS_STATE_BYTES;
use self::{
    claim::{Claims, Headroom},
    limit_history::LimitHistory,
    peers::Peers,
    process::{Process, loading_secs},
    tracking::{Followed, Leak},
    workload::Members,
};
use super::{
    Context, Detector, DetectorSize, Findings,
    confidence::Rule,
    growth::{Growth, due},
    is_gone,
    window::{BUCKETS, Horizons, Newest},
};
use crate::{
    config::LeakConfig,
    sense::{Fact, ProcessFact, ProcessId, ProcessResourcesFact},
};

/// Processes watched at once. At 512 bytes each that is 32 MiB; twice the kernel's default pid_max.
const PROCESSES_MAX: usize = 65_536;

/// A gap between two scans above which the host is taken to have slept, and its processes with it:
/// several of the longest interval that can be configured.
const ASLEEP_SECS_MIN: f64 = 300.0;

/// Finds workloads that grow without end.
pub struct LeakDetector {
    config: LeakConfig,
    horizons: Horizons,
    /// By pid, so that a reused pid meets the process that it replaces.
    processes: HashMap<u32, Process>,
    claims: Claims,
    members: Members,
    limits: LimitHistory,
    clock: WatchedTime,
    /// The first scan that was seen: what a later one shows anew has just started.
    first_scan: Option<u32>,
    untracked_total: u64,
}

/// Time in which processes were watched.
#[derive(Debug, Clone, Copy, Default)]
struct WatchedTime {
    last_scan_t: Option<f64>,
    asleep_secs: f64,
}

impl WatchedTime {
    /// A scan begins: what lies between it and the last was slept through if it is too long for a
    /// stall.
    fn scan(&mut self, t: f64) {
        let passed_secs = self.last_scan_t.replace(t).map_or(0.0, |last_t| t - last_t);
        if passed_secs > ASLEEP_SECS_MIN {
            self.asleep_secs += passed_secs;
        }
    }

    fn now(&self, t: f64) -> f64 {
        t - self.asleep_secs
    }
}

impl LeakDetector {
    /// Watches nothing yet.
    pub fn new(config: &LeakConfig) -> Self {
        Self {
            config: config.clone(),
            horizons: Horizons::new(&config.horizons),
            processes: HashMap::new(),
            claims: Claims::default(),
            members: Members::default(),
            limits: LimitHistory::default(),
            clock: WatchedTime::default(),
            first_scan: None,
            untracked_total: 0,
        }
    }

    /// Follows other thresholds. The windows keep the horizons that they began with.
    pub fn reload(&mut self, config: &LeakConfig) {
        self.config.clone_from(config);
    }

    fn process(&mut self, context: &Context<'_>, fact: &ProcessFact, findings: &mut Findings) {
        let first = self.first_scan.unwrap_or(context.scan);
        let loading_secs = (context.scan > first).then(|| loading_secs(&self.config));
        let now = self.clock.now(context.t);
        let full = self.processes.len() >= PROCESSES_MAX;
        self.limits.see_cgroup(context, now, fact, &self.horizons);
        let members = &mut self.members;
        let process = match self.processes.entry(fact.id.pid) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(_) if full => {
                self.untracked_total = self.untracked_total.saturating_add(1);
                return;
            }
            Entry::Vacant(entry) => {
                entry.insert(Process::new(fact, now, context.scan, loading_secs, members))
            }
        };
        if process.start_ticks != fact.id.start_ticks {
            self.claims.leave(context, process, "its pid now belongs to another process");
            members.leave(&process.workload, fact.id.pid);
            *process = Process::new(fact, now, context.scan, loading_secs, members);
        }
        let workload = process.leak.is_some().then(|| process.workload.clone());
        let closed = process.see(fact, now, context.scan, &self.horizons, members);
        if let Some(workload) = workload {
            self.claims.follow(context, fact.id, &workload, process);
        }
        self.claims.inherit(process);
        for look in due(closed.horizons, self.horizons.count()) {
            self.turn(context, fact, now, look, findings);
        }
        if closed.trough {
            self.turn_of_tooth(context, fact, now, findings);
        }
    }

    /// A bucket of one horizon of a process has closed, or is looked at while it fills.
    fn turn(
        &mut self,
        context: &Context<'_>,
        fact: &ProcessFact,
        now: f64,
        (horizon, newest): (usize, Newest),
        findings: &mut Findings,
    ) -> Option<()> {
        let pid = fact.id.pid;
        let process = self.processes.get(&pid)?;
        let headroom = Headroom::of(context, fact, process.window.peak_kib());
        match process.leak.as_deref().copied() {
            None => {
                let around = self.around(fact, &headroom);
                let growth =
                    process.judge(now, (horizon, newest), &self.config, &self.horizons, &around)?;
                self.raise(context, fact, now, horizon, &growth, &headroom, findings);
            }
            Some(_) if newest == Newest::Open => {}
            Some(leak) if usize::from(leak.horizon) == horizon => {
                let followed = self.processes.get_mut(&pid)?.follow(leak, now, &self.horizons);
                self.act(context, fact, &leak, followed, &headroom, findings);
            }
            Some(leak) if usize::from(leak.horizon) > horizon => {
                let slope = process.quickened(&leak, now, horizon, &self.config, &self.horizons)?;
                self.claims.forecast(context, fact, process, &leak, slope, &headroom, findings);
            }
            Some(_) => {}
        }
        Some(())
    }

    /// A trough of a process's sawtooth was completed.
    fn turn_of_tooth(
        &mut self,
        context: &Context<'_>,
        fact: &ProcessFact,
        now: f64,
        findings: &mut Findings,
    ) -> Option<()> {
        let pid = fact.id.pid;
        let process = self.processes.get(&pid)?;
        let headroom = Headroom::of(context, fact, process.window.peak_kib());
        match process.leak.as_deref().copied() {
            None => {
                let around = self.around(fact, &headroom);
                let growth = process.judge_troughs(now, &self.config, &self.horizons, &around)?;
                // Once the sawtooth ends, it is followed where a bucket is as long as a tooth was.
                let tooth_secs = growth.grown_secs / (growth.points - 1) as f64;
                let horizon = self.horizons.covering(tooth_secs * BUCKETS as f64);
                self.raise(context, fact, now, horizon, &growth, &headroom, findings);
            }
            Some(leak) => {
                let followed =
                    self.processes.get_mut(&pid)?.follow_troughs(leak, now, &self.horizons);
                self.act(context, fact, &leak, followed, &headroom, findings);
            }
        }
        Some(())
    }

    fn around<'a>(&'a self, fact: &'a ProcessFact, headroom: &'a Headroom) -> Peers<'a> {
        let Self { processes, members, limits, horizons, .. } = self;
        Peers { fact, headroom, processes, members, limits, horizons }
    }

    /// A process was found to leak.
    #[expect(clippy::too_many_arguments, reason = "all that a claim says")]
    fn raise(
        &mut self,
        context: &Context<'_>,
        fact: &ProcessFact,
        now: f64,
        horizon: usize,
        growth: &Growth,
        headroom: &Headroom,
        findings: &mut Findings,
    ) {
        let Some(process) = self.processes.get_mut(&fact.id.pid) else { return };
        let mut why = claim::why(process, now, fact, growth, headroom);
        let confidence = context.trust.weigh(Rule::Leak, context.t, growth.confidence(), &mut why);
        self.claims.raise(context, fact, process, growth, (confidence, why), findings);
        process.leak = Some(Box::new(Leak::new(growth, horizon, confidence)));
    }

    /// What became of a leak that was followed is said.
    fn act(
        &mut self,
        context: &Context<'_>,
        fact: &ProcessFact,
        leak: &Leak,
        followed: Followed,
        headroom: &Headroom,
        findings: &mut Findings,
    ) {
        let Some(process) = self.processes.get_mut(&fact.id.pid) else { return };
        match followed {
            Followed::Over(because) => {
                process.end_leak();
                self.claims.clear(context, process, leak, &because, findings);
            }
            Followed::Grows(slope) => {
                self.claims.forecast(context, fact, process, leak, slope, headroom, findings);
            }
            Followed::Pauses => {}
        }
    }

    fn count(&mut self, context: &Context<'_>, fact: &ProcessResourcesFact) {
        if let Some(process) =
            self.processes.get_mut(&fact.id.pid).filter(|p| p.start_ticks == fact.id.start_ticks)
        {
            process.count(fact, self.clock.now(context.t), &self.horizons);
        }
    }

    fn restart(&mut self, context: &Context<'_>, id: ProcessId) {
        let Some(process) =
            self.processes.get_mut(&id.pid).filter(|p| p.start_ticks == id.start_ticks)
        else {
            return;
        };
        self.claims.leave(context, process, "it replaced its program");
        process.begin_anew(self.clock.now(context.t), loading_secs(&self.config));
    }

    fn forget(&mut self, context: &Context<'_>, id: ProcessId) {
        let Entry::Occupied(mut entry) = self.processes.entry(id.pid) else { return };
        if entry.get().start_ticks == id.start_ticks {
            self.claims.leave(context, entry.get_mut(), "it exited");
            let process = entry.remove();
            self.members.leave(&process.workload, id.pid);
        }
    }

    fn prune(&mut self, context: &Context<'_>, findings: &mut Findings) {
        let (claims, members) = (&mut self.claims, &mut self.members);
        self.processes.retain(|pid, process| {
            let gone = is_gone(context, process.seen_scan);
            if gone {
                claims.leave(context, process, "it vanished: the last scans do not show it");
                members.leave(&process.workload, *pid);
            }
            !gone
        });
        claims.expire(context, findings);
    }
}

impl Detector for LeakDetector {
    fn observe(&mut self, context: &Context<'_>, fact: &Fact, findings: &mut Findings) {
        match fact {
            Fact::Host(host) => {
                self.clock.scan(context.t);
                self.limits.see_host(context, self.clock.now(context.t), host, &self.horizons);
                self.first_scan.get_or_insert(context.scan);
                self.prune(context, findings);
            }
            Fact::Process(fact) => self.process(context, fact, findings),
            Fact::Handles(fact) => self.count(context, fact),
            Fact::Exec(id) => self.restart(context, *id),
            Fact::Exit(id) => self.forget(context, *id),
            Fact::Sensing(_) | Fact::Listener(_) | Fact::Outbound(_) => {}
        }
    }

    fn held(&self) -> DetectorSize {
        DetectorSize {
            tracked: self.processes.len(),
            raised: self.claims.len(),
            untracked_total: self.untracked_total,
        }
    }
}

#[cfg(test)]
mod sawtooth_tests;
#[cfg(test)]
mod tests;
