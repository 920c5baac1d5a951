//! One listener: how long its queue has stood, and the claim that stands about it.
//!
//! A run begins when the queue begins to stand and ends when it does not, or when looks are too far apart to tell. A claim
//! is raised once a run, and withdrawn once the queue has been well for `clear_after` or the listener is gone.
//! Cold start: nothing but the first look's head. It refuses to read growth across a gap.

use std::{
    fmt::{self, Write},
    sync::Arc,
};

use super::super::{
    Context,
    queue::{Counter, Depths},
    trust::Rule,
    verdict::{Claim, OverloadClaim, State, Verdict},
    words::{Span, rounded},
};
use crate::{config::OverloadConfig, sense::ListenerFact};

/// Looks in a row that a run takes where its head is too young to prove it, so that two coarse looks are no run.
const LOOKS_MIN: u32 = 3;

/// A pause of more than this many of the last intervals is a gap...
const GAP_INTERVALS: f64 = 3.0;

/// ...unless it is shorter than this, which any busy host shows.
const GAP_SECS_MIN: f64 = 1.0;

/// Depth, as a share of the limit, from which a queue of unseen age may stand. A guess: healthy queues are near empty.
const DEPTH_SHARE: f64 = 0.25;

/// Depth from which a queue of unseen age may stand, however small its limit.
const DEPTH_MIN: u32 = 2;

/// How many times `sustain` a queue of unseen age must have been that deep.
const DEPTH_SUSTAIN_FACTOR: f64 = 2.0;

/// Memory pressure worth a word beside an overload: a tenth of the time somebody stalls on memory. A guess.
const PSI_WORTH_A_WORD: f64 = 10.0;

/// Seconds or so of growth say nothing about what comes later than this. A guess.
const FORECAST_SECS_MAX: f64 = 600.0;

/// Sure that a queue stands whose head's age was seen throughout; the rest is whether that matters to anybody.
const CONFIDENCE_BY_AGE: f64 = 0.9;

/// Less sure where only depth was seen: a deep queue may turn over quickly. A guess.
const CONFIDENCE_BY_DEPTH: f64 = 0.6;

/// What each of "nothing was accepted" and "connections were dropped" adds.
const CONFIDENCE_STEP: f64 = 0.05;

/// All that is known of one listener.
#[derive(Default)]
pub(super) struct Listener {
    last_t: Option<f64>,
    interval_secs: Option<f64>,
    run: Option<Run>,
    /// The last instant at which it stood. Sockets may share an address: it stands while any of them does.
    stood_t: Option<f64>,
    depths: Depths,
    accepted: Counter,
    overflows: Counter,
    raised: Option<Raised>,
    pid: Option<u32>,
    cgroup: Arc<str>,
    seen_scan: u32,
}

/// A stretch of time in which the queue never ceased to stand.
#[derive(Clone, Copy)]
struct Run {
    since_t: f64,
    /// Since when it has also been full; infinite while it is not.
    full_since_t: f64,
    looks: u32,
    accepted: u64,
    overflows: u64,
    /// Whether every look saw the head's age.
    by_age: bool,
}

/// A standing claim.
struct Raised {
    since_t: f64,
    well_since_t: Option<f64>,
    confidence: f64,
    backlog_max: u32,
}

impl Listener {
    /// Takes a look, and gives the claim that is made or withdrawn.
    pub(super) fn observe(
        &mut self,
        context: &Context<'_>,
        fact: &ListenerFact,
        config: &OverloadConfig,
    ) -> Option<Verdict> {
        if !self.look(context, fact, config) {
            return self.rest(context, fact, config);
        }
        if let Some(raised) = &mut self.raised {
            raised.well_since_t = None;
            return None;
        }
        let run = self.run.filter(|run| run.is_overload(context.t, fact, config))?;
        Some(self.raise(context, fact, &run, config))
    }

    pub(super) fn is_raised(&self) -> bool {
        self.raised.is_some()
    }

    /// The scan of the host in which it was last seen.
    pub(super) fn seen_scan(&self) -> u32 {
        self.seen_scan
    }

    /// Takes a look; says whether the queue stands.
    fn look(&mut self, context: &Context<'_>, fact: &ListenerFact, config: &OverloadConfig) -> bool {
        let t = context.t;
        self.seen_scan = context.scan;
        let first_at_instant = self.last_t != Some(t);
        if first_at_instant {
            self.advance(t, config);
        }
        self.depths.push(t, fact.backlog);
        // Only the first socket of an instant is counted: the counters of two cannot be told apart.
        let (accepted, overflows) = match first_at_instant {
            true => (self.accepted.rise(fact.accepted_total), self.overflows.rise(fact.overflows_total)),
            false => (0, 0),
        };
        let Some(since_t) = standing_since(t, fact, config) else { return self.stood_t == Some(t) };
        if self.cgroup != fact.cgroup {
            self.cgroup = fact.cgroup.clone();
        }
        self.pid = fact.pid;
        let run = self.run.get_or_insert(Run::new(since_t));
        run.since_t = run.since_t.min(since_t);
        run.by_age &= fact.oldest_wait_us.is_some();
        run.full_since_t = if is_full(fact) { run.full_since_t.min(t) } else { f64::INFINITY };
        if run.looks > 0 {
            // Before the first look of a run, connections were still being accepted.
            run.accepted = run.accepted.saturating_add(accepted);
        }
        run.overflows = run.overflows.saturating_add(overflows);
        if self.stood_t.replace(t) != Some(t) {
            run.looks = run.looks.saturating_add(1);
        }
        true
    }

    /// Moves on to a new instant: a run ends if the last one did not stand, or if too much time went by unseen.
    fn advance(&mut self, t: f64, config: &OverloadConfig) {
        let Some(last_t) = self.last_t.replace(t) else { return };
        if self.stood_t != Some(last_t) {
            self.run = None;
        }
        let interval_secs = t - last_t;
        let expected_secs = self.interval_secs.replace(interval_secs).unwrap_or(interval_secs);
        let gap_secs = GAP_SECS_MIN.max(GAP_INTERVALS * expected_secs.max(config.interval.as_secs_f64()));
        if interval_secs > gap_secs {
            self.run = None;
            self.depths.clear();
            if let Some(raised) = &mut self.raised {
                raised.well_since_t = None;
            }
        }
    }

    /// The queue does not stand: withdraws a claim once that has lasted.
    fn rest(&mut self, context: &Context<'_>, fact: &ListenerFact, config: &OverloadConfig) -> Option<Verdict> {
        let raised = self.raised.as_mut()?;
        let well_secs = context.t - *raised.well_since_t.get_or_insert(context.t);
        if well_secs < config.clear_after.as_secs_f64() {
            return None;
        }
        let raised = self.raised.take()?;
        let why = format!(
            "the accept queue of {} has not stood for {}, after {} of overload",
            Who(&fact.addr, fact.pid),
            Span(well_secs),
            Span(context.t - raised.since_t)
        );
        Some(Verdict {
            t: context.t,
            claim: claim(fact, 0.0),
            exhaustion_secs: None,
            exhaustion_interval_secs: None,
            confidence: raised.confidence,
            state: State::Cleared,
            why,
        })
    }

    /// The listener is gone, and with it any claim.
    pub(super) fn vanish(&mut self, context: &Context<'_>, netns: u32, addr: &Arc<str>) -> Option<Verdict> {
        let raised = self.raised.take()?;
        let claim = OverloadClaim {
            addr: addr.clone(),
            netns,
            pid: self.pid,
            cgroup: self.cgroup.clone(),
            backlog: 0,
            backlog_max: raised.backlog_max,
            backlog_growth_per_sec: 0.0,
            oldest_wait_us: None,
        };
        Some(Verdict {
            t: context.t,
            claim: Claim::Overload(claim),
            exhaustion_secs: None,
            exhaustion_interval_secs: None,
            confidence: raised.confidence,
            state: State::Cleared,
            why: format!("{} vanished: the last scans do not show it", Who(addr, self.pid)),
        })
    }

    /// Claims an overload.
    fn raise(&mut self, context: &Context<'_>, fact: &ListenerFact, run: &Run, config: &OverloadConfig) -> Verdict {
        let growth_per_sec = self.depths.growth_per_sec(run.since_t);
        let room = f64::from(fact.backlog_max) + 1.0 - f64::from(fact.backlog);
        let exhaustion_secs = if is_full(fact) {
            Some(0.0)
        } else {
            Some(room / growth_per_sec).filter(|secs| growth_per_sec > 0.0 && *secs <= FORECAST_SECS_MAX)
        };
        let stuck = run.is_stuck(fact, config);
        let (base, rule) =
            if run.by_age { (CONFIDENCE_BY_AGE, Rule::QueueAge) } else { (CONFIDENCE_BY_DEPTH, Rule::QueueDepth) };
        let steps = f64::from(u8::from(stuck) + u8::from(run.overflows > 0));
        let mut why = run.why(context, fact, stuck, growth_per_sec, exhaustion_secs);
        let seen = context.trust.weigh(rule, context.t, base + CONFIDENCE_STEP * steps, &mut why);
        let confidence = rounded(seen, 2);
        self.raised =
            Some(Raised { since_t: context.t, well_since_t: None, confidence, backlog_max: fact.backlog_max });
        Verdict {
            t: context.t,
            claim: claim(fact, rounded(growth_per_sec, 1)),
            exhaustion_secs: exhaustion_secs.map(|secs| rounded(secs, 1)),
            exhaustion_interval_secs: None,
            confidence,
            state: State::Raised,
            why,
        }
    }
}

impl Run {
    fn new(since_t: f64) -> Self {
        Self { since_t, full_since_t: f64::INFINITY, looks: 0, accepted: 0, overflows: 0, by_age: true }
    }

    fn is_overload(&self, t: f64, fact: &ListenerFact, config: &OverloadConfig) -> bool {
        let sustain_secs = config.sustain.as_secs_f64();
        let proven = head_secs(fact).is_some_and(|secs| secs >= sustain_secs);
        if !proven && self.looks < LOOKS_MIN {
            return false;
        }
        if self.by_age {
            return reached(t - self.since_t, sustain_secs);
        }
        reached(t - self.since_t, DEPTH_SUSTAIN_FACTOR * sustain_secs)
            || (self.overflows > 0 && reached(t - self.full_since_t, sustain_secs))
    }

    /// Whether nothing at all was accepted: the counter says so, or the same connection has been waiting all along.
    fn is_stuck(&self, fact: &ListenerFact, config: &OverloadConfig) -> bool {
        (fact.accepted_total.is_some() && self.accepted == 0)
            || head_secs(fact).is_some_and(|secs| secs >= config.sustain.as_secs_f64())
    }

    fn why(
        &self,
        context: &Context<'_>,
        fact: &ListenerFact,
        stuck: bool,
        growth_per_sec: f64,
        exhaustion_secs: Option<f64>,
    ) -> String {
        let who = Who(&fact.addr, fact.pid);
        let stood = Span(context.t - self.since_t);
        let mut why = if stuck {
            format!("{who} has not accepted for {stood}")
        } else {
            format!("{who} accepts too slowly: its queue has stood for {stood}")
        };
        // Writing to a String cannot fail.
        let _ = write!(why, ": {} of {} connections wait", fact.backlog, fact.backlog_max);
        if let Some(secs) = head_secs(fact).filter(|_| !stuck) {
            let _ = write!(why, ", the oldest for {:.0} ms", secs * 1e3);
        }
        if growth_per_sec >= 0.5 {
            let _ = write!(why, ", growing {growth_per_sec:.0}/s");
        }
        match exhaustion_secs {
            Some(0.0) => why.push_str("; the queue is full"),
            Some(secs) => {
                let _ = write!(why, "; the queue overflows in {}", Span(secs));
            }
            None => {}
        }
        if self.overflows > 0 {
            let _ = write!(why, "; {} connections were dropped meanwhile", self.overflows);
        }
        let psi = context.host.and_then(|host| host.psi_memory_some_avg10).filter(|psi| *psi >= PSI_WORTH_A_WORD);
        if let Some(psi) = psi {
            let _ = write!(why, "; the host stalls on memory {psi:.0} % of the time");
        }
        if !self.by_age {
            why.push_str("; the age of the queue's head is not visible here, so this rests on its depth");
        }
        why
    }
}

/// A listener as a person knows it.
struct Who<'a>(&'a str, Option<u32>);

impl fmt::Display for Who<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)?;
        self.1.map_or(Ok(()), |pid| write!(f, " (pid {pid})"))
    }
}

fn claim(fact: &ListenerFact, backlog_growth_per_sec: f64) -> Claim {
    Claim::Overload(OverloadClaim {
        addr: fact.addr.clone(),
        netns: fact.netns,
        pid: fact.pid,
        cgroup: fact.cgroup.clone(),
        backlog: fact.backlog,
        backlog_max: fact.backlog_max,
        backlog_growth_per_sec,
        oldest_wait_us: fact.oldest_wait_us,
    })
}

/// Whether a span has lasted, to within what sums of decimal intervals lose (ten times 0.1 s is not quite 1 s).
fn reached(secs: f64, wanted_secs: f64) -> bool {
    secs + 1e-6 >= wanted_secs
}

/// The kernel refuses once the backlog *exceeds* its limit; at the limit there is room for one.
fn is_full(fact: &ListenerFact) -> bool {
    fact.backlog >= fact.backlog_max
}

fn head_secs(fact: &ListenerFact) -> Option<f64> {
    fact.oldest_wait_us.map(|us| us as f64 / 1e6)
}

/// Since when this look shows the queue to stand; `None` where it does not.
fn standing_since(t: f64, fact: &ListenerFact, config: &OverloadConfig) -> Option<f64> {
    if fact.backlog == 0 {
        return None;
    }
    let target_secs = config.target.as_secs_f64();
    let Some(head_secs) = head_secs(fact) else {
        let deep = f64::from(fact.backlog) >= f64::from(fact.backlog_max) * DEPTH_SHARE;
        return (fact.backlog >= DEPTH_MIN && deep).then_some(t);
    };
    // Somebody was accepted below the target in between: the queue drained, unless this head proves otherwise.
    let drained = fact.sojourn_min_us.is_some_and(|us| us as f64 / 1e6 < target_secs);
    let stands = head_secs >= target_secs && (!drained || head_secs >= config.sustain.as_secs_f64());
    stands.then_some(t - head_secs)
}
