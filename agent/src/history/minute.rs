//! Choice of the observations that a minute keeps: one scan of processes, the scan of listeners
//! after it, the latest of what is reported now and then, and the ends of processes that an earlier
//! minute showed. Pure. Bounded: a host with more than [`PROCESSES_MAX`] processes keeps its
//! largest ones, and as many other subjects.

use std::sync::Arc;

use foldhash::{HashMap as FastMap, HashSet as FastSet};

use crate::{
    scan_loop::ScanKind,
    sense::{CountedResource, Fact, Observation, ProcessId},
    spare_room,
};

/// Time between two samples, in seconds.
pub const MINUTE_SECS: f64 = 60.0;

/// Processes, and other subjects, that a minute keeps. Unpacked they take some 7 MB.
const PROCESSES_MAX: usize = 20_000;

/// Gaps of the sensors that a minute keeps; there is one when something changes.
const GAPS_MAX: usize = 100;

/// Open files and threads from which a process's are kept. A guess: with fewer it is far from any
/// limit, and most processes have fewer.
const FILES_MIN: u64 = 64;
const THREADS_MIN: u64 = 32;

/// ReportedSubject of an observation that is not part of every scan.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum ReportedSubject {
    Process(ProcessId),
    Cgroup(Arc<str>),
    Count(CountedResource, Arc<str>),
    Destination(u32, Arc<str>, Arc<str>),
    Group,
    Pager(Arc<str>),
}

/// Observations of the minute that is going on.
#[derive(Debug, Default)]
pub struct Minute {
    /// Time from which the next scan of processes is kept.
    due_t: f64,
    /// Set from the scan of processes that was kept to that of listeners.
    waits_for_listeners: bool,
    kept: Vec<Observation>,
    latest: FastMap<ReportedSubject, Observation>,
    gaps: usize,
    /// Processes of the sample before.
    known: FastSet<ProcessId>,
}

impl Minute {
    /// Takes the observations of one read at `t`. Returns the sample, in the order of time, once it
    /// is complete.
    pub fn observe(
        &mut self,
        read: ScanKind,
        t: f64,
        observations: &[Observation],
    ) -> Option<Vec<Observation>> {
        let is_sampled = match read {
            ScanKind::Processes if t >= self.due_t && !self.waits_for_listeners => {
                // A late scan does not shift those after it by more than its own delay.
                self.due_t = if t - self.due_t < MINUTE_SECS { self.due_t } else { t };
                self.due_t += MINUTE_SECS;
                true
            }
            ScanKind::Listeners => self.waits_for_listeners,
            ScanKind::Processes => false,
        };
        for observation in observations {
            self.take(observation, is_sampled);
        }
        if !is_sampled {
            return None;
        }
        self.waits_for_listeners = read == ScanKind::Processes;
        (!self.waits_for_listeners).then(|| self.end())
    }

    fn take(&mut self, observation: &Observation, is_sampled: bool) {
        let subject = match &observation.fact {
            Fact::Host(_) | Fact::Process(_) | Fact::Listener(_) | Fact::Requests(_) => {
                if is_sampled {
                    self.kept.push(observation.clone());
                }
                return;
            }
            Fact::Exit(id) | Fact::Exec(id) => {
                if self.known.contains(id) {
                    self.kept.push(observation.clone());
                }
                return;
            }
            Fact::Sensing(_) => {
                self.gaps += 1;
                if self.gaps <= GAPS_MAX {
                    self.kept.push(observation.clone());
                }
                return;
            }
            Fact::Handles(handles) => {
                let is_few = handles.fds < FILES_MIN && handles.threads < THREADS_MIN;
                if is_few && handles.close_wait.unwrap_or(0) == 0 {
                    return;
                }
                ReportedSubject::Process(handles.id)
            }
            Fact::Cgroup(cgroup) => ReportedSubject::Cgroup(cgroup.cgroup.clone()),
            Fact::Outbound(outbound) => {
                let (addr, cgroup) = (outbound.addr.clone(), outbound.cgroup.clone());
                ReportedSubject::Destination(outbound.netns, addr, cgroup)
            }
            Fact::Count(count) => {
                ReportedSubject::Count(count.resource.clone(), count.subject.clone())
            }
            Fact::Fleet(_) => ReportedSubject::Group,
            Fact::Pager(pager) => ReportedSubject::Pager(pager.cause.clone()),
        };
        if self.latest.len() < PROCESSES_MAX || self.latest.contains_key(&subject) {
            self.latest.insert(subject, observation.clone());
        }
    }

    /// Ends the minute, complete or not.
    pub fn end(&mut self) -> Vec<Observation> {
        let mut sample = std::mem::take(&mut self.kept);
        keep_largest(&mut sample, PROCESSES_MAX);
        sample.extend(self.latest.drain().map(|(_, observation)| observation));
        // Stable: the end of a process stays before the beginning of another with its pid.
        sample.sort_by(|one, other| one.t.total_cmp(&other.t));
        let ids = sample.iter().filter_map(|observation| match &observation.fact {
            Fact::Process(process) => Some(process.id),
            _ => None,
        });
        self.known = ids.collect();
        spare_room::of_map(&mut self.latest);
        (self.gaps, self.waits_for_listeners) = (0, false);
        sample
    }
}

/// Drops the smallest processes beyond so many.
fn keep_largest(sample: &mut Vec<Observation>, max: usize) {
    let size = |observation: &Observation| match &observation.fact {
        Fact::Process(process) => Some(process.private_bytes()),
        _ => None,
    };
    let mut sizes: Vec<u64> = sample.iter().filter_map(size).collect();
    if sizes.len() <= max {
        return;
    }
    let at = sizes.len() - max;
    let (_, least, _) = sizes.select_nth_unstable(at);
    let least = *least;
    let mut left = max;
    sample.retain(|observation| match size(observation) {
        Some(bytes) if bytes >= least && left > 0 => {
            left -= 1;
            true
        }
        Some(_) => false,
        None => true,
    });
}
