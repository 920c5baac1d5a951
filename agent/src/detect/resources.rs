//! Resource detector: finds processes that leak open files, threads, or sockets that they forgot to
//! close, and forecasts when they reach their limit.
//!
//! These run out long before memory does, and take a service down as surely: a process with 1,024
//! files that leaks one per request fails at a request that can be foretold. Nearly every process's
//! counts never move, so a process costs a few bytes until one of its counts has risen; only then
//! is that count tracked (see [`tracker`]). A claim is about one process and one kind, and ends
//! with the process, whose resources do not outlive it. Sockets in CLOSE_WAIT are files too, and
//! are counted as sockets alone, so that no leak is reported twice. Cold start: counts at first
//! sight are taken as needed. A count that is not seen is not judged. Nothing is claimed about a
//! process without a name, for a limit that no fact contains (threads have none), or for a rise
//! that load explains.

mod candidate;
mod kind;
mod ring;
mod tracker;
mod verdict;

use std::collections::{BTreeMap, HashMap};

use self::{
    candidate::{Candidate, Rises},
    kind::KINDS,
};
use super::detector::{Context, Detector, DetectorSize, Findings, is_gone};
use crate::{
    sense::{Fact, ProcessFact, ProcessId, ProcessResourcesFact},
    spare_room,
};

/// Maximum number of processes known: as many as the leak detector watches.
const PROCESSES_MAX: usize = 65_536;

/// Maximum number of processes of which a count rises. At a KiB each, the worst case, that is 8
/// MiB; a host shows a dozen.
const CANDIDATES_MAX: usize = 8_192;

/// Samples that must miss a process before it is forgotten. Its claims end sooner, with the scans
/// that do not show it.
const GONE_AFTER_SAMPLES: u16 = 5;

/// Gap between two counts above which the host is taken to have slept: many of the sensor's
/// periods.
const ASLEEP_SECS_MIN: f64 = 300.0;

/// Finds processes that leak files, threads or sockets.
#[derive(Default)]
pub(super) struct ResourceDetector {
    /// By pid, so that a reused pid meets the process that it replaces.
    known: HashMap<u32, ProcessCounts>,
    /// A tree, because output has an order.
    candidates: BTreeMap<u32, Candidate>,
    samples: ScanHistory,
    untracked_total: u64,
}

/// A process; this is all that most of them cost, beside the map's key.
struct ProcessCounts {
    /// Low half of its start time: a pid is not reused in the same tick of two different years.
    start_ticks: u32,
    /// Number of the sample that showed it last.
    sample: u16,
    /// Level from which the next rise of each count begins.
    tops: kind::Tops,
}
const _: () = assert!(
    size_of::<ProcessCounts>() <= 12,
    "with the leak detector's part a process may cost 512 bytes"
);

/// Samples of all processes, and the time that was watched.
#[derive(Default)]
struct ScanHistory {
    number: u16,
    scan: Option<u32>,
    last_t: Option<f64>,
    asleep_secs: f64,
}

impl ScanHistory {
    /// Takes the arrival of a count. Returns whether it opens a sample of all processes.
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
            .map(|kind| kind.sample(fact).map_or(0, |sample| kind::saturated(sample.count)));
        Self { start_ticks: fact.id.start_ticks as u32, sample: 0, tops }
    }
}

impl ResourceDetector {
    fn handles(
        &mut self,
        context: &Context<'_>,
        fact: &ProcessResourcesFact,
        findings: &mut Findings,
    ) {
        if self.samples.note(context) {
            let number = self.samples.number;
            self.known.retain(|_, known| number.wrapping_sub(known.sample) <= GONE_AFTER_SAMPLES);
            spare_room::of_map(&mut self.known);
        }
        let pid = fact.id.pid;
        self.replace(context, fact.id, findings);
        if self.known.len() >= PROCESSES_MAX && !self.known.contains_key(&pid) {
            self.untracked_total = self.untracked_total.saturating_add(1);
            return;
        }
        let known = self.known.entry(pid).or_insert_with(|| ProcessCounts::new(fact));
        known.sample = self.samples.number;
        let rises = Rises::of(fact, &known.tops);
        if !self.candidates.contains_key(&pid) {
            if !rises.any() {
                return;
            }
            if self.candidates.len() >= CANDIDATES_MAX {
                self.untracked_total = self.untracked_total.saturating_add(1);
                return;
            }
        }
        let candidate = self.candidates.entry(pid).or_insert_with(|| Candidate::new(fact.id));
        candidate.observe(context, self.samples.now(context.t), &rises, &mut known.tops, findings);
        if candidate.is_cleared() {
            self.candidates.remove(&pid);
        }
    }

    /// Names a candidate; other processes cost no more than a lookup in a short list.
    fn name(&mut self, context: &Context<'_>, fact: &ProcessFact, findings: &mut Findings) {
        if !self.candidates.contains_key(&fact.id.pid) {
            return;
        }
        self.replace(context, fact.id, findings);
        let Some(candidate) = self.candidates.get_mut(&fact.id.pid) else { return };
        candidate.name(context, fact);
    }

    /// Forgets the process that had a process's pid before it.
    fn replace(&mut self, context: &Context<'_>, id: ProcessId, findings: &mut Findings) {
        let other_known =
            self.known.get(&id.pid).is_some_and(|known| known.start_ticks != id.start_ticks as u32);
        let other_candidate = self
            .candidates
            .get(&id.pid)
            .is_some_and(|candidate| candidate.start_ticks != id.start_ticks);
        if other_known || other_candidate {
            self.forget(context, id.pid, "its pid now belongs to another process", findings);
        }
    }

    /// Ends what is known of a process that is gone, or another program now.
    fn end(
        &mut self,
        context: &Context<'_>,
        id: ProcessId,
        because: &str,
        findings: &mut Findings,
    ) {
        let is_known =
            self.known.get(&id.pid).is_some_and(|known| known.start_ticks == id.start_ticks as u32);
        let is_candidate = self
            .candidates
            .get(&id.pid)
            .is_some_and(|candidate| candidate.start_ticks == id.start_ticks);
        if is_known || is_candidate {
            self.forget(context, id.pid, because, findings);
        }
    }

    fn forget(&mut self, context: &Context<'_>, pid: u32, because: &str, findings: &mut Findings) {
        self.known.remove(&pid);
        if let Some(candidate) = self.candidates.remove(&pid) {
            candidate.clear(context, because, findings);
        }
    }

    fn prune(&mut self, context: &Context<'_>, findings: &mut Findings) {
        let known = &mut self.known;
        self.candidates.retain(|pid, candidate| {
            let gone = is_gone(context, candidate.seen_scan);
            if gone {
                known.remove(pid);
                candidate.clear(context, "it disappeared from the last scans", findings);
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
            Fact::Exec(id) => self.end(context, *id, "it executed another program", findings),
            Fact::Exit(id) => self.end(context, *id, "it exited", findings),
            _ => {}
        }
    }

    fn size(&self) -> DetectorSize {
        DetectorSize {
            leaks_raised: self.candidates.values().map(Candidate::raised).sum(),
            untracked_total: self.untracked_total,
            ..DetectorSize::default()
        }
    }
}

#[cfg(test)]
mod tests;
