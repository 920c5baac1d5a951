//! A process of which a count has begun to rise: which ones, its name, and the claims that stand
//! about it.
//!
//! Nearly no process is one, and one is none again once its counts have been still for hours. It
//! refuses claims without a name.

use super::{
    super::{Context, Findings},
    claim::LeakingProcess,
    kind::{CountSample, KINDS, Tops, saturated},
    tracker::{Tracker, TrackerUpdate},
};
use crate::sense::{ProcessFact, ProcessId, ProcessResourcesFact};

/// A process of which a count rises: some 100 bytes, and some 300 more a count that does.
pub(super) struct Candidate {
    pub(super) start_ticks: u64,
    pub(super) seen_scan: u32,
    subject: Option<LeakingProcess>,
    watches: [Option<Box<Tracker>>; KINDS.len()],
}
const _: () = assert!(size_of::<Candidate>() + KINDS.len() * size_of::<Tracker>() <= 1_024);

/// The counts of one look, and whether each has risen so far that it is to be watched.
pub(super) struct Rises([(Option<CountSample>, bool); KINDS.len()]);

impl Rises {
    pub(super) fn of(fact: &ProcessResourcesFact, tops: &Tops) -> Self {
        Self(std::array::from_fn(|place| {
            let kind = &KINDS[place];
            let look = kind.look(fact);
            (
                look,
                look.is_some_and(|look| look.count >= u32::from(tops[place]) + kind.watched_from),
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
            watches: Default::default(),
        }
    }

    /// Learns its name, which only memory's facts tell.
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

    /// Takes a look at its counts.
    pub(super) fn look(
        &mut self,
        context: &Context<'_>,
        now: f64,
        rises: &Rises,
        tops: &mut Tops,
        findings: &mut Findings,
    ) {
        self.seen_scan = context.scan;
        for ((slot, top), (look, rises)) in self.watches.iter_mut().zip(tops).zip(&rises.0) {
            let Some(look) = look else { continue };
            if slot.is_none() && *rises {
                *slot = Some(Box::new(Tracker::new(now, (*top).into(), look)));
            }
            let Some(watch) = slot else { continue };
            if let Some(stood) = turn(context, now, watch, look, self.subject.as_ref(), findings) {
                *slot = None;
                *top = (*top).max(saturated(stood));
            }
        }
    }

    /// Whether no count of it is watched any more.
    pub(super) fn is_cleared(&self) -> bool {
        self.watches.iter().all(Option::is_none)
    }

    /// How many of its counts are claimed to leak.
    pub(super) fn raised(&self) -> usize {
        self.watches.iter().flatten().filter(|watch| watch.standing.is_some()).count()
    }

    /// Withdraws all that is claimed.
    pub(super) fn clear(&self, context: &Context<'_>, because: &str, findings: &mut Findings) {
        let Some(subject) = &self.subject else { return };
        for (kind, watch) in KINDS.iter().zip(&self.watches) {
            if let Some(standing) = watch.as_ref().and_then(|watch| watch.standing.as_ref()) {
                findings.verdicts.push(subject.cleared(context, kind.resource, standing, because));
            }
        }
    }
}

/// Takes a look at one count; where it is watched no longer, returns the highest that it stood.
fn turn(
    context: &Context<'_>,
    now: f64,
    watch: &mut Tracker,
    look: &CountSample,
    subject: Option<&LeakingProcess>,
    findings: &mut Findings,
) -> Option<u32> {
    let standing = watch.standing.clone();
    match (watch.look(now, look), subject, standing) {
        (TrackerUpdate::Leaks(rise), Some(subject), _) => {
            let verdict = subject.raised(context, look, &rise);
            watch.claim(now, look, rise, verdict.confidence);
            findings.verdicts.push(verdict);
        }
        (TrackerUpdate::Grows(per_sec), Some(subject), Some(standing)) => {
            findings.forecasts.push(subject.forecast(context, look, &standing, per_sec));
        }
        (TrackerUpdate::Over(because), Some(subject), Some(standing)) => {
            findings.verdicts.push(subject.cleared(context, look.resource, &standing, &because));
        }
        (TrackerUpdate::Still(top), ..) => return Some(top),
        _ => {}
    }
    None
}
