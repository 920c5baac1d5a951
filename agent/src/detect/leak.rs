//! The leak detector: which process grows, steadily and without slowing, towards an end that is near enough to say so.
//!
//! Watching the host's total would find nothing: it moves for good reasons all day. One process's floor does not. A claim
//! takes growth that passes every test of [`super::growth`] on some horizon, and a forecast that does not reach further
//! than what was seen supports. It stands until growth stops, is given back, or the process or its program is gone.
//! Cold start: the first `warm_up` of a process, or of a program image, is not looked at; then one horizon must pass.
//! It refuses: page cache and file mappings (they are given back), and claims without a headroom to forecast against.

mod process;

use std::collections::{HashMap, hash_map::Entry};

pub use self::process::PROCESS_STATE_BYTES;
use self::process::Process;
use super::{Context, Detector, Findings, Held, is_gone, verdict::Claim, window::Horizons};
use crate::{
    config::LeakConfig,
    sense::{Fact, ProcessFact, ProcessId},
};

/// Processes watched at once. At 512 bytes each that is 32 MiB; twice the kernel's default pid_max.
const PROCESSES_MAX: usize = 65_536;

/// Finds processes that grow without end.
pub struct LeakDetector {
    config: LeakConfig,
    horizons: Horizons,
    /// By pid, so that a reused pid meets the process that it replaces.
    processes: HashMap<u32, Process>,
    untracked_total: u64,
}

impl LeakDetector {
    /// Watches nothing yet.
    pub fn new(config: &LeakConfig) -> Self {
        let horizons = Horizons::new(&config.horizons);
        Self { config: config.clone(), horizons, processes: HashMap::new(), untracked_total: 0 }
    }

    fn process(&mut self, context: &Context<'_>, fact: &ProcessFact, findings: &mut Findings) {
        let warm_up_secs = self.config.warm_up.as_secs_f64();
        let full = self.processes.len() >= PROCESSES_MAX;
        let process = match self.processes.entry(fact.id.pid) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(_) if full => {
                self.untracked_total = self.untracked_total.saturating_add(1);
                return;
            }
            Entry::Vacant(entry) => entry.insert(Process::new(fact, context, warm_up_secs)),
        };
        if process.start_ticks != fact.id.start_ticks {
            process.clear(context, fact.id.pid, "its pid now belongs to another process", findings);
            *process = Process::new(fact, context, warm_up_secs);
        }
        process.see(fact, context.scan);
        let age_secs = context.t - process.origin_t;
        if age_secs <= 0.0 {
            process.start_from(fact);
        }
        if age_secs < 0.0 {
            return;
        }
        let closed = process.window.observe(&self.horizons, age_secs, fact.private_bytes());
        if closed == 0 {
            return;
        }
        for horizon in (0..self.horizons.count()).filter(|horizon| closed & (1 << horizon) != 0) {
            match process.raised {
                None if horizon < usize::from(process.trusted_from) => {}
                None => process.judge(context, fact, horizon, &self.config, &self.horizons, findings),
                Some(raised) if usize::from(raised.horizon) == horizon => {
                    process.follow(context, fact, raised, &self.horizons, findings);
                }
                Some(raised) if usize::from(raised.horizon) > horizon => {
                    process.quicken(context, fact, raised, horizon, &self.config, &self.horizons, findings);
                }
                Some(_) => {}
            }
        }
    }

    fn restart(&mut self, context: &Context<'_>, id: ProcessId, findings: &mut Findings) {
        let Some(process) = self.processes.get_mut(&id.pid).filter(|p| p.start_ticks == id.start_ticks) else { return };
        process.clear(context, id.pid, "it replaced its program", findings);
        process.begin_anew(context.t + self.config.warm_up.as_secs_f64());
    }

    fn forget(&mut self, context: &Context<'_>, id: ProcessId, findings: &mut Findings) {
        let Entry::Occupied(mut entry) = self.processes.entry(id.pid) else { return };
        if entry.get().start_ticks == id.start_ticks {
            entry.get_mut().clear(context, id.pid, "it exited", findings);
            entry.remove();
        }
    }

    fn prune(&mut self, context: &Context<'_>, findings: &mut Findings) {
        let cleared_from = findings.verdicts.len();
        self.processes.retain(|pid, process| {
            let gone = is_gone(context, process.seen_scan);
            if gone {
                process.clear(context, *pid, "it vanished: the last scans do not show it", findings);
            }
            !gone
        });
        // A hash map has no order; output has one.
        findings.verdicts[cleared_from..].sort_by_key(|verdict| match &verdict.claim {
            Claim::Leak(claim) => claim.id,
            Claim::Overload(_) => ProcessId { pid: 0, start_ticks: 0 },
        });
    }
}

impl Detector for LeakDetector {
    fn observe(&mut self, context: &Context<'_>, fact: &Fact, findings: &mut Findings) {
        match fact {
            Fact::Host(_) => self.prune(context, findings),
            Fact::Process(fact) => self.process(context, fact, findings),
            Fact::Exec(id) => self.restart(context, *id, findings),
            Fact::Exit(id) => self.forget(context, *id, findings),
            Fact::Handles(_) | Fact::Sensing(_) | Fact::Listener(_) => {}
        }
    }

    fn held(&self) -> Held {
        Held {
            tracked: self.processes.len(),
            raised: self.processes.values().filter(|process| process.raised.is_some()).count(),
            untracked_total: self.untracked_total,
        }
    }
}

#[cfg(test)]
mod tests;
