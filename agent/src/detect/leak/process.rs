//! One process under watch: its window, its standing claim, and what is said about either.
//!
//! A claim is raised once, by the horizon that first shows growth that passes; it is followed on that horizon alone, where
//! its noise was judged, but forecast on every shorter one too. Whoever cried wolf on a horizon is not believed on it again.
//! Cold start: nothing counts before `origin_t`. It refuses to hold more than [`STATE_BYTES_MAX`].

use std::{fmt::Write, sync::Arc};

use super::super::{
    Context, Findings,
    growth::{END_BUCKETS, Growth},
    trend::theil_sen,
    trust::Rule,
    verdict::{Claim, LeakClaim, State, Verdict},
    window::{Floors, Horizons, KIB, Window},
    words::{Size, Span, rounded},
};
use crate::{
    config::LeakConfig,
    sense::{ProcessFact, ProcessId},
};

/// What one process may cost, whatever it does.
const STATE_BYTES_MAX: usize = 512;

/// Share of the claimed slope below which growth has stopped.
const STOPPED_SHARE: f64 = 0.1;

/// Share of what was grown since the claim's window began that, once given back, makes it no leak.
const GIVEN_BACK_SHARE: f64 = 0.5;

/// What one process costs.
pub const PROCESS_STATE_BYTES: usize = size_of::<Process>();
const _: () = assert!(PROCESS_STATE_BYTES <= STATE_BYTES_MAX);

/// All that is known of one process.
pub(super) struct Process {
    pub(super) window: Window,
    pub(super) start_ticks: u64,
    /// When its window began: first sight or exec, plus warm-up.
    pub(super) origin_t: f64,
    comm: Arc<str>,
    cgroup: Arc<str>,
    pub(super) raised: Option<Raised>,
    /// Faulted bytes when the window began, where faults are sampled.
    faulted_from_bytes: Option<u64>,
    /// Private KiB at the same moment.
    private_from_kib: u32,
    pub(super) seen_scan: u32,
    /// Shorter horizons than this have cried wolf about this program.
    pub(super) trusted_from: u8,
}

/// A standing claim.
#[derive(Clone, Copy)]
pub(super) struct Raised {
    slope_bytes_per_sec: f64,
    /// Since when its horizon has shown no growth; infinite while it grows.
    still_since_t: f64,
    base_kib: u32,
    peak_kib: u32,
    pub(super) horizon: u8,
    confidence: f32,
}

/// What is left, and until what.
struct Headroom {
    bytes: f64,
    until: &'static str,
}

impl Process {
    pub(super) fn new(fact: &ProcessFact, context: &Context<'_>, warm_up_secs: f64) -> Self {
        let mut process = Self {
            window: Window::default(),
            start_ticks: fact.id.start_ticks,
            origin_t: context.t + warm_up_secs,
            comm: fact.comm.clone(),
            cgroup: fact.cgroup.clone(),
            raised: None,
            faulted_from_bytes: None,
            private_from_kib: 0,
            seen_scan: context.scan,
            trusted_from: 0,
        };
        process.start_from(fact);
        process
    }

    /// Forgets all growth: another program runs now.
    pub(super) fn begin_anew(&mut self, origin_t: f64) {
        self.window = Window::default();
        self.origin_t = origin_t;
        self.faulted_from_bytes = None;
        self.trusted_from = 0;
    }

    pub(super) fn see(&mut self, fact: &ProcessFact, scan: u32) {
        self.seen_scan = scan;
        if self.comm != fact.comm {
            self.comm = fact.comm.clone();
        }
        if self.cgroup != fact.cgroup {
            self.cgroup = fact.cgroup.clone();
        }
    }

    pub(super) fn start_from(&mut self, fact: &ProcessFact) {
        self.faulted_from_bytes = fact.faulted_bytes_total;
        self.private_from_kib = u32::try_from(fact.private_bytes() >> 10).unwrap_or(u32::MAX);
    }

    /// Applies the whole rule to one horizon, cheapest test first, and claims a leak if all of it holds.
    pub(super) fn judge(
        &mut self,
        context: &Context<'_>,
        fact: &ProcessFact,
        horizon: usize,
        config: &LeakConfig,
        horizons: &Horizons,
        findings: &mut Findings,
    ) {
        let Some(growth) = Growth::of(&self.window, horizon, config, horizons) else { return };
        let headroom = headroom(context, fact);
        let exhaustion_secs = headroom.bytes / growth.slope_bytes_per_sec;
        if exhaustion_secs > config.max_extrapolation * horizons.horizon_secs(horizon) {
            return;
        }
        let mut why = self.why(context, fact, &growth, &headroom, exhaustion_secs);
        let confidence = context.trust.weigh(Rule::Leak, context.t, growth.confidence(), &mut why);
        self.raised = Some(Raised {
            slope_bytes_per_sec: growth.slope_bytes_per_sec,
            still_since_t: f64::INFINITY,
            base_kib: growth.base_kib,
            peak_kib: growth.peak_kib,
            horizon: horizon as u8,
            confidence: confidence as f32,
        });
        let slope = growth.slope_bytes_per_sec;
        findings.verdicts.push(self.verdict(
            context,
            fact.id.pid,
            State::Raised,
            slope,
            Some(exhaustion_secs),
            confidence,
            why,
        ));
    }

    /// A standing claim, when a bucket of its horizon closed: withdraws it, or forecasts anew.
    pub(super) fn follow(
        &mut self,
        context: &Context<'_>,
        fact: &ProcessFact,
        mut raised: Raised,
        horizons: &Horizons,
        findings: &mut Findings,
    ) {
        let horizon = usize::from(raised.horizon);
        let floors: Floors = self.window.floors(horizon);
        let (Some(last), Some(recent)) = (floors.points().last(), theil_sen(floors.last(END_BUCKETS))) else { return };
        let last_kib = last.y as u32;
        raised.peak_kib = raised.peak_kib.max(last_kib);
        let grown_kib = f64::from(raised.peak_kib - raised.base_kib.min(raised.peak_kib));
        let given_back_kib = f64::from(raised.peak_kib - last_kib);
        let per_sec = KIB / horizons.bucket_secs(horizon);
        let recent_bytes_per_sec = recent * per_sec;
        let still = recent_bytes_per_sec < STOPPED_SHARE * raised.slope_bytes_per_sec;
        raised.still_since_t = if still { raised.still_since_t.min(context.t) } else { f64::INFINITY };
        self.raised = Some(raised);
        if given_back_kib > GIVEN_BACK_SHARE * grown_kib {
            // Its memory comes and goes at a longer period than this horizon: from now on only longer ones are believed.
            self.trusted_from = (horizon + 1).min(horizons.count() - 1) as u8;
            let why = format!("it gave back {} of the {} it grew", Size(given_back_kib * KIB), Size(grown_kib * KIB));
            self.clear(context, fact.id.pid, &why, findings);
        } else if context.t - raised.still_since_t >= horizons.horizon_secs(0) {
            let still_for = Span(context.t - raised.still_since_t);
            let why = format!("it has not grown for {still_for} and holds {}", Size(fact.private_bytes() as f64));
            self.clear(context, fact.id.pid, &why, findings);
        } else if let Some(slope) = theil_sen(floors.points()) {
            self.forecast(context, fact, raised, slope * per_sec, findings);
        }
    }

    /// A standing claim, when a bucket of a shorter horizon closed: a leak that quickens, or a headroom that others eat,
    /// must not wait for its own horizon, whose buckets may be most of an hour.
    #[expect(clippy::too_many_arguments, reason = "as judge, of which it is the other half")]
    pub(super) fn quicken(
        &self,
        context: &Context<'_>,
        fact: &ProcessFact,
        raised: Raised,
        horizon: usize,
        config: &LeakConfig,
        horizons: &Horizons,
        findings: &mut Findings,
    ) {
        if raised.still_since_t.is_finite() {
            return;
        }
        let own = usize::from(raised.horizon);
        let own_slope = theil_sen(self.window.floors(own).points()).unwrap_or(0.0) * KIB / horizons.bucket_secs(own);
        let faster = (horizon >= usize::from(self.trusted_from))
            .then(|| Growth::of(&self.window, horizon, config, horizons))
            .flatten()
            .map_or(0.0, |growth| growth.slope_bytes_per_sec);
        self.forecast(context, fact, raised, own_slope.max(faster), findings);
    }

    /// Hands out a fresh forecast of a standing claim.
    fn forecast(
        &self,
        context: &Context<'_>,
        fact: &ProcessFact,
        raised: Raised,
        slope_bytes_per_sec: f64,
        findings: &mut Findings,
    ) {
        if slope_bytes_per_sec <= 0.0 {
            return;
        }
        let headroom = headroom(context, fact);
        let exhaustion_secs = headroom.bytes / slope_bytes_per_sec;
        let why = format!(
            "{} (pid {}) still grows {}/s; {} of {} is gone in {}",
            self.comm,
            fact.id.pid,
            Size(slope_bytes_per_sec),
            Size(headroom.bytes),
            headroom.until,
            Span(exhaustion_secs)
        );
        let (pid, confidence) = (fact.id.pid, f64::from(raised.confidence));
        let exhaustion_secs = Some(exhaustion_secs);
        let verdict = self.verdict(context, pid, State::Raised, slope_bytes_per_sec, exhaustion_secs, confidence, why);
        findings.forecasts.push(verdict);
    }

    /// Withdraws the claim, if there is one.
    pub(super) fn clear(&mut self, context: &Context<'_>, pid: u32, because: &str, findings: &mut Findings) {
        let Some(raised) = self.raised.take() else { return };
        let why = format!("{} (pid {pid}) no longer counts as leaking: {because}", self.comm);
        let (slope, confidence) = (raised.slope_bytes_per_sec, f64::from(raised.confidence));
        findings.verdicts.push(self.verdict(context, pid, State::Cleared, slope, None, confidence, why));
    }

    #[expect(clippy::too_many_arguments, reason = "the one place where a leak's verdict is put together")]
    fn verdict(
        &self,
        context: &Context<'_>,
        pid: u32,
        state: State,
        slope_bytes_per_sec: f64,
        exhaustion_secs: Option<f64>,
        confidence: f64,
        why: String,
    ) -> Verdict {
        Verdict {
            t: context.t,
            claim: Claim::Leak(LeakClaim {
                id: ProcessId { pid, start_ticks: self.start_ticks },
                comm: self.comm.clone(),
                cgroup: self.cgroup.clone(),
                growth_bytes_per_sec: rounded(slope_bytes_per_sec, 1),
            }),
            exhaustion_secs: exhaustion_secs.map(|secs| rounded(secs, 1)),
            confidence: rounded(confidence, 2),
            state,
            why,
        }
    }

    fn why(
        &self,
        context: &Context<'_>,
        fact: &ProcessFact,
        growth: &Growth,
        headroom: &Headroom,
        exhaustion_secs: f64,
    ) -> String {
        let mut why = format!(
            "{} (pid {}) grew {} in {}, {}/s, without slowing; {} of {} is gone in {}",
            self.comm,
            fact.id.pid,
            Size(growth.grown_bytes),
            Span(growth.grown_secs),
            Size(growth.slope_bytes_per_sec),
            Size(headroom.bytes),
            headroom.until,
            Span(exhaustion_secs),
        );
        if let (Some(from), Some(now)) = (self.faulted_from_bytes, fact.faulted_bytes_total)
            && let Some(faulted) = now.checked_sub(from).filter(|bytes| *bytes > 0)
        {
            let retained = fact.private_bytes().saturating_sub(u64::from(self.private_from_kib) << 10);
            // Writing to a String cannot fail.
            let _ = write!(
                why,
                "; page-fault samples say {} were allocated in the last {}, {} retained",
                Size(faulted as f64),
                Span(context.t - self.origin_t),
                Size(retained as f64)
            );
        }
        why
    }
}

/// Bytes to the nearest limit. Swapped memory is not charged to memory.max; file pages are, but are given back first.
/// Before the first scan of the host all of its memory counts as available but for what the process holds.
fn headroom(context: &Context<'_>, fact: &ProcessFact) -> Headroom {
    let available = context.host.map_or_else(
        || context.info.mem_total_bytes.saturating_sub(fact.private_bytes()),
        |host| host.mem_available_bytes,
    );
    let charged = fact.anon_bytes.saturating_add(fact.shmem_bytes);
    match fact.memory_max_bytes.map(|max| max.saturating_sub(charged)) {
        Some(left) if left < available => Headroom { bytes: left as f64, until: "headroom to its cgroup's memory.max" },
        _ => Headroom { bytes: available as f64, until: "the host's available memory" },
    }
}
