//! Candidate: a process of which a count has begun to rise, with its name and its open claims.
//!
//! Hardly any process is a candidate, and one stops being a candidate once its counts have been
//! still for hours. Nothing is claimed about a process without a name.

use super::{
    kind::{CountSample, KINDS, Tops, saturated},
    tracker::{Tracker, TrackerUpdate},
    verdict::LeakingProcess,
};
use crate::{
    detect::{Context, Findings},
    sense::{ProcessFact, ProcessId, ProcessResourcesFact},
};

/// A process of which a count rises: some 100 bytes, and some 300 more for each count that does.
pub(super) struct Candidate {
    pub(super) start_ticks: u64,
    pub(super) seen_scan: u32,
    subject: Option<LeakingProcess>,
    trackers: [Option<Box<Tracker>>; KINDS.len()],
}
const _: () = assert!(size_of::<Candidate>() + KINDS.len() * size_of::<Tracker>() <= 1_024);

/// Counts of one sample, and whether each has risen so far that it is to be tracked.
pub(super) struct Rises([(Option<CountSample>, bool); KINDS.len()]);

impl Rises {
    pub(super) fn of(fact: &ProcessResourcesFact, tops: &Tops) -> Self {
        Self(std::array::from_fn(|place| {
            let kind = &KINDS[place];
            let sample = kind.sample(fact);
            (
                sample,
                sample.is_some_and(|sample| {
                    sample.count >= u32::from(tops[place]) + kind.watched_from
                }),
            )
        }))
    }

    pub(super) fn any(&self) -> bool {
        self.0.iter().any(|(_, rises)| *rises)
    }
}

impl Candidate {
    pub(super) fn new(id: ProcessId) -> Self {
        Self {
            start_ticks: id.start_ticks,
            seen_scan: 0,
            subject: None,
            trackers: Default::default(),
        }
    }

    /// Takes its name, which only facts about memory contain.
    pub(super) fn name(&mut self, context: &Context<'_>, fact: &ProcessFact) {
        self.seen_scan = context.scan;
        if self
            .subject
            .as_ref()
            .is_none_or(|own| own.comm != fact.comm || own.cgroup != fact.cgroup)
        {
            let (comm, cgroup) = (fact.comm.clone(), fact.cgroup.clone());
            self.subject = Some(LeakingProcess { id: fact.id, comm, cgroup });
        }
    }

    /// Takes a sample of its counts.
    pub(super) fn observe(
        &mut self,
        context: &Context<'_>,
        now: f64,
        rises: &Rises,
        tops: &mut Tops,
        findings: &mut Findings,
    ) {
        self.seen_scan = context.scan;
        for ((slot, top), (sample, rises)) in self.trackers.iter_mut().zip(tops).zip(&rises.0) {
            let Some(sample) = sample else { continue };
            if slot.is_none() && *rises {
                *slot = Some(Box::new(Tracker::new(now, (*top).into(), sample)));
            }
            let Some(tracker) = slot else { continue };
            if let Some(held) =
                on_sample(context, now, tracker, sample, self.subject.as_ref(), findings)
            {
                *slot = None;
                *top = (*top).max(saturated(held));
            }
        }
    }

    /// Whether none of its counts is tracked any more.
    pub(super) fn is_cleared(&self) -> bool {
        self.trackers.iter().all(Option::is_none)
    }

    /// Number of its counts that are claimed to leak.
    pub(super) fn raised(&self) -> usize {
        self.trackers.iter().flatten().filter(|tracker| tracker.open.is_some()).count()
    }

    /// Clears all of its claims.
    pub(super) fn clear(&self, context: &Context<'_>, because: &str, findings: &mut Findings) {
        let Some(subject) = &self.subject else { return };
        for (kind, tracker) in KINDS.iter().zip(&self.trackers) {
            if let Some(open) = tracker.as_ref().and_then(|tracker| tracker.open.as_ref()) {
                findings.verdicts.push(subject.cleared(context, kind.resource, open, because));
            }
        }
    }
}

/// Takes a sample of one count. Returns the highest level that it held if it need not be tracked
/// any longer.
fn on_sample(
    context: &Context<'_>,
    now: f64,
    tracker: &mut Tracker,
    sample: &CountSample,
    subject: Option<&LeakingProcess>,
    findings: &mut Findings,
) -> Option<u32> {
    let open = tracker.open.clone();
    match (tracker.observe(now, sample), subject, open) {
        (TrackerUpdate::Leaks(rise), Some(subject), _) => {
            let verdict = subject.raised(context, sample, &rise);
            tracker.claim(now, sample, rise, verdict.confidence);
            findings.verdicts.push(verdict);
        }
        (TrackerUpdate::Grows(per_sec), Some(subject), Some(open)) => {
            findings.forecasts.push(subject.forecast(context, sample, &open, per_sec));
        }
        (TrackerUpdate::Over(because), Some(subject), Some(open)) => {
            findings.verdicts.push(subject.cleared(context, sample.resource, &open, &because));
        }
        (TrackerUpdate::Still(top), ..) => return Some(top),
        _ => {}
    }
    None
}
