//! The leak detector: which process grows, steadily and without slowing, towards an end that is near enough to say so.
//!
//! Watching the host's total would find nothing: it moves for good reasons all day. One process's floor does not. A claim
//! takes growth that passes every test of [`super::growth`] on some horizon, and a forecast that does not reach further
//! than what was seen supports. It stands until growth stops, is given back, or the process or its program is gone.
//! Cold start: the first `warm_up` of a process, or of a program image, is not looked at; then one horizon must pass.
//! It refuses: page cache and file mappings (they are given back), and claims without a headroom to forecast against.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt::Write,
    sync::Arc,
};

use super::{
    Context, Detector, Findings, Held,
    growth::{END_BUCKETS, Growth},
    is_gone,
    trend::theil_sen,
    verdict::{Claim, LeakClaim, State, Verdict},
    window::{Floors, Horizons, KIB, Window},
    words::{Size, Span, rounded},
};
use crate::{
    config::LeakConfig,
    sense::{Fact, ProcessFact, ProcessId},
};

/// Processes watched at once. At [`STATE_BYTES_MAX`] each that is 32 MiB; the default `kernel.pid_max` of small hosts.
const PROCESSES_MAX: usize = 65_536;

/// What one process may cost, whatever it does; it takes 496 of these today.
const STATE_BYTES_MAX: usize = 512;

/// Share of the claimed slope below which growth has stopped.
const STOPPED_SHARE: f64 = 0.1;

/// Share of what was grown since the claim's window began that, once given back, makes it no leak.
const GIVEN_BACK_SHARE: f64 = 0.5;

const _: () = assert!(size_of::<Process>() <= STATE_BYTES_MAX);

/// Finds processes that grow without end.
pub struct LeakDetector {
    config: LeakConfig,
    horizons: Horizons,
    /// By pid, so that a reused pid meets the process that it replaces.
    processes: HashMap<u32, Process>,
    untracked_total: u64,
}

/// All that is known of one process.
struct Process {
    window: Window,
    start_ticks: u64,
    /// When its window began: first sight or exec, plus warm-up.
    origin_t: f64,
    comm: Arc<str>,
    cgroup: Arc<str>,
    raised: Option<Raised>,
    /// Faulted bytes when the window began, where faults are sampled.
    faulted_from_bytes: Option<u64>,
    /// Private KiB at the same moment.
    private_from_kib: u32,
    seen_scan: u32,
    /// Shorter horizons than this have cried wolf about this program.
    trusted_from: u8,
}

/// A standing claim.
#[derive(Clone, Copy)]
struct Raised {
    slope_bytes_per_sec: f64,
    /// Since when its horizon has shown no growth; infinite while it grows.
    still_since_t: f64,
    base_kib: u32,
    peak_kib: u32,
    horizon: u8,
    confidence: f32,
}

/// What is left, and until what.
struct Headroom {
    bytes: f64,
    until: &'static str,
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
        process.window = Window::default();
        process.origin_t = context.t + self.config.warm_up.as_secs_f64();
        process.faulted_from_bytes = None;
        process.trusted_from = 0;
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
            Fact::Listener(_) => {}
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

impl Process {
    fn new(fact: &ProcessFact, context: &Context<'_>, warm_up_secs: f64) -> Self {
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

    fn see(&mut self, fact: &ProcessFact, scan: u32) {
        self.seen_scan = scan;
        if self.comm != fact.comm {
            self.comm = fact.comm.clone();
        }
        if self.cgroup != fact.cgroup {
            self.cgroup = fact.cgroup.clone();
        }
    }

    fn start_from(&mut self, fact: &ProcessFact) {
        self.faulted_from_bytes = fact.faulted_bytes_total;
        self.private_from_kib = u32::try_from(fact.private_bytes() >> 10).unwrap_or(u32::MAX);
    }

    /// Applies the whole rule to one horizon, cheapest test first, and claims a leak if all of it holds.
    fn judge(
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
        let confidence = growth.confidence();
        let why = self.why(context, fact, &growth, &headroom, exhaustion_secs);
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
    fn follow(
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
    fn quicken(
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
    fn clear(&mut self, context: &Context<'_>, pid: u32, because: &str, findings: &mut Findings) {
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

#[cfg(test)]
mod tests;
