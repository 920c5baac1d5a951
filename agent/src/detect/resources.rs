//! The handle detector: which process leaks open files, threads, or sockets that it forgot to
//! close, and when it hits its limit.
//!
//! These run out long before memory does, and take a service down as surely: a process with 1,024
//! files that leaks one a request dies at a request that can be foretold. Nearly every process's
//! counts never move, so a process costs a few bytes until one of its counts has risen; only then
//! is that count watched, see [`watch`]. A claim is about one process and one kind, and is gone
//! with the process: handles do not outlive it. Sockets in CLOSE_WAIT are files too, and are
//! counted as sockets alone, so that no leak is told twice. Cold start: what is held at first sight
//! is taken as needed. Failure: a count that is not seen is not judged. It refuses claims without a
//! name, limits that no fact tells (threads have none), and what load explains.

mod candidate;
mod claim;
mod kind;
mod ring;
mod tracker;

use std::collections::{BTreeMap, HashMap};

use self::{
    candidate::{Candidate, Rises},
    kind::KINDS,
};
use super::{Context, Detector, DetectorSize, Findings, is_gone};
use crate::sense::{Fact, ProcessFact, ProcessId, ProcessResourcesFact};

/// Processes known at once: as many as the leak detector watches.
const PROCESSES_MAX: usize = 65_536;

/// Processes of which a count rises at once. At a KiB each, the worst case, that is 8 MiB; a host
/// shows a dozen.
const SUSPECTS_MAX: usize = 8_192;

/// Looks that a process is not shown in before it is forgotten; its claims end sooner, with the
/// scans that do not show it.
const GONE_AFTER_LOOKS: u16 = 5;

/// A gap between two counts above which the host is taken to have slept: many of the sensor's
/// periods.
const ASLEEP_SECS_MIN: f64 = 300.0;

/// Finds processes that leak files, threads or sockets.
#[derive(Default)]
pub struct ResourceDetector {
    /// By pid, so that a reused pid meets the process that it replaces.
    known: HashMap<u32, ProcessCounts>,
    /// A tree, because output has an order.
    suspects: BTreeMap<u32, Candidate>,
    looks: ScanHistory,
    untracked_total: u64,
}

/// A process; all that most of them cost, beside what the map takes for its key.
struct ProcessCounts {
    /// The low half of its start: a pid is not reused in the same tick of two different years.
    start_ticks: u32,
    /// The look that showed it last.
    look: u16,
    /// Where the next rise of each count begins.
    tops: kind::Tops,
}
const _: () = assert!(
    size_of::<ProcessCounts>() <= 12,
    "with the leak detector's part a process may cost 512 bytes"
);

/// Looks at all processes, and the time that was watched.
#[derive(Default)]
struct ScanHistory {
    number: u16,
    scan: Option<u32>,
    last_t: Option<f64>,
    asleep_secs: f64,
}

impl ScanHistory {
    /// A count comes: says whether it opens a look.
    fn note(&mut self, context: &Context<'_>) -> bool {
        let passed_secs = self.last_t.replace(context.t).map_or(0.0, |last_t| context.t - last_t);
        if passed_secs > ASLEEP_SECS_MIN {
            self.asleep_secs += passed_secs;
        }
        let opens = self.scan.replace(context.scan) != Some(context.scan);
        self.number = self.number.wrapping_add(u16::from(opens));
        opens
    }

    fn now(&self, t: f64) -> f64 {
        t - self.asleep_secs
    }
}

impl ProcessCounts {
    fn new(fact: &ProcessResourcesFact) -> Self {
        let tops = KINDS
            .each_ref()
            .map(|kind| kind.look(fact).map_or(0, |look| kind::saturated(look.count)));
        Self { start_ticks: fact.id.start_ticks as u32, look: 0, tops }
    }
}

impl ResourceDetector {
    fn handles(
        &mut self,
        context: &Context<'_>,
        fact: &ProcessResourcesFact,
        findings: &mut Findings,
    ) {
        if self.looks.note(context) {
            let number = self.looks.number;
            self.known.retain(|_, known| number.wrapping_sub(known.look) <= GONE_AFTER_LOOKS);
        }
        let pid = fact.id.pid;
        self.replace(context, fact.id, findings);
        if self.known.len() >= PROCESSES_MAX && !self.known.contains_key(&pid) {
            self.untracked_total = self.untracked_total.saturating_add(1);
            return;
        }
        let known = self.known.entry(pid).or_insert_with(|| ProcessCounts::new(fact));
        known.look = self.looks.number;
        let rises = Rises::of(fact, &known.tops);
        if !self.suspects.contains_key(&pid) {
            if !rises.any() {
                return;
            }
            if self.suspects.len() >= SUSPECTS_MAX {
                self.untracked_total = self.untracked_total.saturating_add(1);
                return;
            }
        }
        let suspect = self.suspects.entry(pid).or_insert_with(|| Candidate::new(fact.id));
        suspect.look(context, self.looks.now(context.t), &rises, &mut known.tops, findings);
        if suspect.is_cleared() {
            self.suspects.remove(&pid);
        }
    }

    /// Names a suspect; nobody else costs more than a look at a short list.
    fn name(&mut self, context: &Context<'_>, fact: &ProcessFact, findings: &mut Findings) {
        if !self.suspects.contains_key(&fact.id.pid) {
            return;
        }
        self.replace(context, fact.id, findings);
        let Some(suspect) = self.suspects.get_mut(&fact.id.pid) else { return };
        suspect.name(context, fact);
    }

    /// Forgets whoever had a process's pid before it.
    fn replace(&mut self, context: &Context<'_>, id: ProcessId, findings: &mut Findings) {
        let other_known =
            self.known.get(&id.pid).is_some_and(|known| known.start_ticks != id.start_ticks as u32);
        let other_suspect =
            self.suspects.get(&id.pid).is_some_and(|suspect| suspect.start_ticks != id.start_ticks);
        if other_known || other_suspect {
            self.forget(context, id.pid, "its pid now belongs to another process", findings);
        }
    }

    /// A process is gone, or another program now.
    fn end(
        &mut self,
        context: &Context<'_>,
        id: ProcessId,
        because: &str,
        findings: &mut Findings,
    ) {
        let is_known =
            self.known.get(&id.pid).is_some_and(|known| known.start_ticks == id.start_ticks as u32);
        let is_suspect =
            self.suspects.get(&id.pid).is_some_and(|suspect| suspect.start_ticks == id.start_ticks);
        if is_known || is_suspect {
            self.forget(context, id.pid, because, findings);
        }
    }

    fn forget(&mut self, context: &Context<'_>, pid: u32, because: &str, findings: &mut Findings) {
        self.known.remove(&pid);
        if let Some(suspect) = self.suspects.remove(&pid) {
            suspect.clear(context, because, findings);
        }
    }

    fn prune(&mut self, context: &Context<'_>, findings: &mut Findings) {
        let known = &mut self.known;
        self.suspects.retain(|pid, suspect| {
            let gone = is_gone(context, suspect.seen_scan);
            if gone {
                known.remove(pid);
                suspect.clear(context, "it vanished: the last scans do not show it", findings);
            }
            !gone
        });
    }
}

impl Detector for ResourceDetector {
    fn observe(&mut self, context: &Context<'_>, fact: &Fact, findings: &mut Findings) {
        match fact {
            Fact::Host(_) => self.prune(context, findings),
            Fact::Process(fact) => self.name(context, fact, findings),
            Fact::Handles(fact) => self.handles(context, fact, findings),
            Fact::Exec(id) => self.end(context, *id, "it replaced its program", findings),
            Fact::Exit(id) => self.end(context, *id, "it exited", findings),
            Fact::Sensing(_) | Fact::Listener(_) | Fact::Outbound(_) => {}
        }
    }

    fn held(&self) -> DetectorSize {
        let raised = self.suspects.values().map(Candidate::raised).sum();
        DetectorSize { tracked: self.known.len(), raised, untracked_total: self.untracked_total }
    }
}

#[cfg(test)]
mod tests;
