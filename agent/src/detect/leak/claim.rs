//! The claims that stand, one a workload, and what is said of them.
//!
//! A workload is a cgroup and a program's name. Its claim is made with the process that showed the
//! leak first and keeps that name to its end; further processes of the workload that leak join it,
//! and one that takes the place of the last inherits it. A claim whose processes are all gone waits
//! for a successor, then it is withdrawn. It refuses nothing; there are never more claims than
//! processes that leak, and those that wait.

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
    sync::Arc,
};

use super::{
    super::{
        Context, Findings,
        growth::{Beginning, Growth},
        verdict::{Bound, Claim, ClaimState, LeakClaim, Resource, Verdict},
        window::KIB,
    },
    process::Process,
    tracking::Leak,
    workload::Workload,
};
use crate::{
    sense::{ProcessFact, ProcessId},
    units::{Size, Span, rounded},
};

/// How long a successor is waited for: supervisors restart within a second, or within ten or twenty
/// in a crash loop's beginning.
const WAIT_SECS: f64 = 30.0;

/// Claims by workload; a tree, because output has an order.
#[derive(Default)]
pub(super) struct Claims {
    standing: BTreeMap<Arc<Workload>, OpenLeak>,
    /// How many of them wait for a successor.
    waiting: usize,
}

struct OpenLeak {
    /// The process that it was made with.
    id: ProcessId,
    /// How many processes leak now.
    leaking: u32,
    /// Where none does: the last one's leak, since when, and what became of it.
    waits: Option<(Leak, f64, &'static str)>,
}

/// Of what is left, the share that a process's own peaks cannot take: it may have changed its ways.
/// A guess.
const BESIDE_PEAKS_MIN: f64 = 0.1;

/// A limit that memory can run into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    Cgroup,
    Host,
}

/// What is left, and until what.
pub(super) struct Headroom {
    pub(super) bytes: f64,
    until: Until,
    /// Whether the process's own peaks, when they come again, take a good part of what is left now.
    beside_peaks: bool,
}

impl Headroom {
    /// Owner of the limit that is nearest.
    fn bound(&self) -> Bound {
        match self.until {
            Until::Cgroup => Bound::Own,
            Until::Host => Bound::Host,
        }
    }

    /// Bytes to the nearest limit, which all of a cgroup's processes share. Swapped memory is not
    /// charged to memory.max; file pages are, but are given back first. Before the first scan of
    /// the host all of its memory counts as available but for what the process holds. Memory runs
    /// out on a peak: what the process lately weighed more than now is not left.
    pub(super) fn of(context: &Context<'_>, fact: &ProcessFact, peak_kib: f64) -> Self {
        let available = context.host.map_or_else(
            || context.info.mem_total_bytes.saturating_sub(fact.private_bytes()),
            |host| host.mem_available_bytes,
        );
        let charged = fact
            .memory_charged_bytes
            .unwrap_or_else(|| fact.anon_bytes.saturating_add(fact.shmem_bytes));
        let (left, until) = match fact.memory_max_bytes.map(|max| max.saturating_sub(charged)) {
            Some(left) if left < available => (left as f64, Until::Cgroup),
            _ => (available as f64, Until::Host),
        };
        let comes_again = (peak_kib * KIB - fact.private_bytes() as f64).max(0.0);
        let bytes = (left - comes_again).max(BESIDE_PEAKS_MIN * left);
        Self { bytes, until, beside_peaks: bytes < (1.0 - BESIDE_PEAKS_MIN) * left }
    }

    /// Whether the host's memory is what runs out first.
    pub(super) fn is_host(&self) -> bool {
        self.until == Until::Host
    }
}

impl fmt::Display for Headroom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let beside = if self.beside_peaks { " beside its own peaks" } else { "" };
        let until = match self.until {
            Until::Cgroup => "headroom to its cgroup's memory.max",
            Until::Host => "the host's available memory",
        };
        write!(f, "{} of {until}{beside}", Size(self.bytes))
    }
}

impl Claims {
    pub(super) fn len(&self) -> usize {
        self.standing.len()
    }

    /// A process was found to leak: claims it, unless its workload's claim stands already.
    pub(super) fn raise(
        &mut self,
        context: &Context<'_>,
        fact: &ProcessFact,
        process: &Process,
        growth: &Growth,
        (confidence, why): (f64, String),
        findings: &mut Findings,
    ) {
        let workload = process.workload.clone();
        if self.join(process) {
            return;
        }
        let (slope, error) = (growth.slope_bytes_per_sec, growth.slope_error_bytes_per_sec);
        let mut verdict =
            verdict(context, fact.id, &workload, ClaimState::Raised, slope, confidence, why);
        verdict.exhaustion_secs = Some(rounded(growth.exhaustion_secs(), 1));
        let slopes = [(slope - error).max(0.0), slope + error];
        if let Claim::Leak(claim) = &mut verdict.claim {
            claim.growth_interval_bytes_per_sec = Some(slopes.map(|slope| rounded(slope, 1)));
            claim.bound = Headroom::of(context, fact, 0.0).bound();
        }
        verdict.exhaustion_interval_secs = exhaustion_interval(growth, slopes);
        self.standing.insert(workload, OpenLeak { id: fact.id, leaking: 1, waits: None });
        findings.verdicts.push(verdict);
    }

    /// A leaking process is gone or another program now: its workload's claim waits for a
    /// successor.
    pub(super) fn leave(
        &mut self,
        context: &Context<'_>,
        process: &mut Process,
        because: &'static str,
    ) {
        let leak = process.leak.take().map(|leak| *leak);
        self.leave_workload(context, &process.workload, leak, because);
    }

    fn leave_workload(
        &mut self,
        context: &Context<'_>,
        workload: &Arc<Workload>,
        leak: Option<Leak>,
        because: &'static str,
    ) {
        let Some(leak) = leak else { return };
        let Some(standing) = self.standing.get_mut(workload) else { return };
        standing.leaking = standing.leaking.saturating_sub(1);
        if standing.leaking == 0 {
            standing.waits = Some((leak, context.t, because));
            self.waiting += 1;
        }
    }

    /// One more process of a workload leaks; says whether a claim stands about it.
    fn join(&mut self, process: &Process) -> bool {
        let Some(standing) = self.standing.get_mut(&process.workload) else { return false };
        standing.leaking += 1;
        self.waiting -= usize::from(standing.waits.take().is_some());
        true
    }

    /// A leaking process may be in another cgroup than before, or call itself otherwise: the claim
    /// that was made with it goes with it, as does one that is about nobody else. A leak that no
    /// claim is about is none, and is judged anew.
    pub(super) fn follow(
        &mut self,
        context: &Context<'_>,
        id: ProcessId,
        before: &Arc<Workload>,
        process: &mut Process,
    ) {
        let is_taken = self.standing.contains_key(&process.workload);
        if *before != process.workload
            && let Some(mut standing) = self.standing.remove(before)
        {
            if !is_taken && (standing.id == id || standing.leaking <= 1) {
                standing.leaking = 1;
                self.standing.insert(process.workload.clone(), standing);
            } else {
                self.standing.insert(before.clone(), standing);
                self.join(process);
                self.leave_workload(
                    context,
                    before,
                    process.leak.as_deref().copied(),
                    "it is in another cgroup",
                );
            }
        }
        if !self.standing.contains_key(&process.workload) {
            process.end_leak();
        }
    }

    /// Hands a waiting claim to a process of the same workload.
    pub(super) fn inherit(&mut self, process: &mut Process) {
        if self.waiting == 0 || process.leak.is_some() {
            return;
        }
        let Some(standing) = self.standing.get_mut(&process.workload) else { return };
        if let Some((leak, ..)) = standing.waits.take() {
            self.waiting -= 1;
            standing.leaking = 1;
            process.leak = Some(Box::new(leak.inherited()));
        }
    }

    /// Withdraws claims that have waited long enough.
    pub(super) fn expire(&mut self, context: &Context<'_>, findings: &mut Findings) {
        if self.waiting == 0 {
            return;
        }
        let waiting = &mut self.waiting;
        self.standing.retain(|workload, standing| {
            let Some((leak, since_t, because)) = standing.waits else { return true };
            let over = context.t - since_t >= WAIT_SECS;
            if over {
                *waiting -= 1;
                let because = format!("{because}, and nothing has taken its place");
                findings.verdicts.push(cleared(context, standing.id, workload, &leak, &because));
            }
            !over
        });
    }

    /// A process no longer leaks: withdraws its workload's claim, unless others still do.
    pub(super) fn clear(
        &mut self,
        context: &Context<'_>,
        process: &Process,
        leak: &Leak,
        because: &str,
        findings: &mut Findings,
    ) {
        let workload = process.workload.clone();
        let Some(standing) = self.standing.get_mut(&workload) else { return };
        standing.leaking = standing.leaking.saturating_sub(1);
        if standing.leaking == 0 {
            let id = standing.id;
            self.standing.remove(&workload);
            findings.verdicts.push(cleared(context, id, &workload, leak, because));
        }
    }

    /// Hands out a fresh forecast of a standing claim.
    #[expect(clippy::too_many_arguments, reason = "all that a forecast says")]
    pub(super) fn forecast(
        &self,
        context: &Context<'_>,
        fact: &ProcessFact,
        process: &Process,
        leak: &Leak,
        slope_bytes_per_sec: f64,
        headroom: &Headroom,
        findings: &mut Findings,
    ) {
        let workload = process.workload.clone();
        let Some(standing) = self.standing.get(&workload).filter(|_| slope_bytes_per_sec > 0.0)
        else {
            return;
        };
        let exhaustion_secs = headroom.bytes / slope_bytes_per_sec;
        let why = format!(
            "{} (pid {}) still grows {}/s; {headroom} is gone in {}",
            workload.comm,
            fact.id.pid,
            Size(slope_bytes_per_sec),
            Span(exhaustion_secs)
        );
        let confidence = f64::from(leak.confidence);
        let mut verdict = verdict(
            context,
            standing.id,
            &workload,
            ClaimState::Raised,
            slope_bytes_per_sec,
            confidence,
            why,
        );
        if let Claim::Leak(claim) = &mut verdict.claim {
            claim.bound = headroom.bound();
        }
        findings
            .forecasts
            .push(Verdict { exhaustion_secs: Some(rounded(exhaustion_secs, 1)), ..verdict });
    }
}

fn cleared(
    context: &Context<'_>,
    id: ProcessId,
    workload: &Workload,
    leak: &Leak,
    because: &str,
) -> Verdict {
    let why = format!("{} (pid {}) no longer counts as leaking: {because}", workload.comm, id.pid);
    let (slope, confidence) = (leak.slope_bytes_per_sec, f64::from(leak.confidence));
    verdict(context, id, workload, ClaimState::Cleared, slope, confidence, why)
}

fn verdict(
    context: &Context<'_>,
    id: ProcessId,
    workload: &Workload,
    state: ClaimState,
    slope_bytes_per_sec: f64,
    confidence: f64,
    why: String,
) -> Verdict {
    Verdict {
        t: context.t,
        claim: Claim::Leak(LeakClaim {
            resource: Resource::Memory,
            id,
            comm: workload.comm.clone(),
            cgroup: workload.cgroup.clone(),
            growth_bytes_per_sec: Some(rounded(slope_bytes_per_sec, 1)),
            growth_handles_per_sec: None,
            growth_interval_bytes_per_sec: None,
            bound: Bound::default(),
        }),
        exhaustion_secs: None,
        exhaustion_interval_secs: None,
        harm: None,
        confidence: rounded(confidence, 2),
        state,
        why,
    }
}

/// By how much the pace of a leak may change before its end, either way: of the leaks in the
/// corpus's tuning part 95 in 100 end between the moments that this gives. What the line's scatter
/// leaves open is far less.
const PACE_MAY_CHANGE: f64 = 1.8;

/// From the fastest to the slowest growth; `None` where the slowest is no growth.
fn exhaustion_interval(growth: &Growth, slopes: [f64; 2]) -> Option<[f64; 2]> {
    let [slowest, fastest] = slopes.map(|slope| slope + growth.others_bytes_per_sec);
    let secs = [fastest * PACE_MAY_CHANGE, slowest / PACE_MAY_CHANGE]
        .map(|slope| growth.headroom_bytes / slope);
    (slowest > 0.0).then_some(secs.map(|secs| rounded(secs, 1)))
}

/// Why a process is believed to leak, and what it would take to be wrong.
pub(super) fn why(
    process: &Process,
    t: f64,
    fact: &ProcessFact,
    growth: &Growth,
    headroom: &Headroom,
) -> String {
    let slope = growth.slope_bytes_per_sec;
    let mut why = format!("{} (pid {}) grew ", process.workload.comm, fact.id.pid);
    // Writing to a String cannot fail.
    let _ = write!(
        why,
        "{} in {}{}, {}/s ± {}, without slowing",
        Size(growth.grown_bytes),
        Span(growth.grown_secs),
        if growth.under_sawtooth { " at the foot of its sawtooth" } else { "" },
        Size(slope),
        Size(growth.slope_error_bytes_per_sec),
    );
    if growth.others_bytes_per_sec > slope / 10.0 {
        let _ =
            write!(why, ", and others like it {}/s together", Size(growth.others_bytes_per_sec));
    }
    let _ = match growth.beginning {
        Beginning::BrokeOut { steady_secs } => {
            write!(why, ", after {} without growth", Span(steady_secs))
        }
        Beginning::Unseen => write!(why, ", for as long as it was watched"),
    };
    let _ = write!(why, "; {headroom} is gone in {}", Span(growth.exhaustion_secs()));
    let slopes =
        [slope - growth.slope_error_bytes_per_sec, slope + growth.slope_error_bytes_per_sec];
    if let Some([soonest, latest]) = exhaustion_interval(growth, slopes) {
        let _ = write!(why, " ({} to {})", Span(soonest), Span(latest));
    }
    let _ = write!(why, ", unless it stops before");
    if let Some((allocated, retained)) = process.allocated_and_retained(fact) {
        let _ = write!(
            why,
            "; page-fault samples say {} were allocated in the last {}, {} retained",
            Size(allocated as f64),
            Span(t - process.origin_t),
            Size(retained as f64)
        );
    }
    why
}
