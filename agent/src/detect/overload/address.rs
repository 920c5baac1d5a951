//! One address: the queues of the sockets that share it, and the claim that stands about it.
//!
//! One stuck worker of eight makes an eighth of all connections wait: so each socket is judged for
//! itself, and eight that stand by turns are not one that stands. A claim is raised once, and
//! withdrawn once no socket was overloaded for `clear_after`, or all are gone. Cold start: nothing.
//! It refuses nothing; the detector bounds how many sockets there are.

use foldhash::HashMap;

use super::{
    claim::{self, OverloadedQueue},
    counter::Counter,
    queue::{AcceptQueue, QueueUpdate},
    rates::Rates,
    trigger::Trigger,
};
use crate::{
    config::OverloadConfig,
    detect::{
        Context, Findings, is_gone,
        verdict::{Claim, ClaimState, OverloadClaim, Verdict},
    },
    sense::ListenerFact,
};

/// Seconds between two forecasts of a claim that stands: the policy needs no finer ones.
const FORECAST_EVERY_SECS: f64 = 1.0;

/// All that is known of one address.
#[derive(Default)]
pub(super) struct ListenAddress {
    sockets: HashMap<u64, AcceptQueue>,
    arrived: Counter,
    rates: Rates,
    instant: Option<Instant>,
    raised: Option<Raised>,
}

/// What the looks of one instant add up to, so far.
#[derive(Default)]
struct Instant {
    t: f64,
    secs: f64,
    arrived: Option<u64>,
    accepted: Option<u64>,
    dropped: u64,
    stands: bool,
}

/// A standing claim.
struct Raised {
    since_t: f64,
    /// When it last was an overload.
    bad_t: f64,
    forecast_t: f64,
    /// As it was raised.
    verdict: Verdict,
}

impl ListenAddress {
    /// Sockets watched.
    pub(super) fn sockets(&self) -> usize {
        self.sockets.len()
    }

    pub(super) fn is_raised(&self) -> bool {
        self.raised.is_some()
    }

    /// Whether a look at this socket needs no new room.
    pub(super) fn knows(&self, fact: &ListenerFact) -> bool {
        self.sockets.contains_key(&key(fact))
    }

    /// Takes a look at one of its sockets; appends the claim that is made or withdrawn, or a fresh
    /// forecast of one that stands.
    pub(super) fn observe(
        &mut self,
        context: &Context<'_>,
        fact: &ListenerFact,
        config: &OverloadConfig,
        findings: &mut Findings,
    ) {
        let t = context.t;
        self.turn(t, fact);
        let key = key(fact);
        let seen = self.sockets.entry(key).or_default().look(t, context.scan, fact, config);
        self.add(&seen);
        let Some(raised) = &mut self.raised else {
            if let Some(ground) = seen.ground {
                let verdict = self.subject(fact, key, ground).verdict(context, config);
                self.raised =
                    Some(Raised { since_t: t, bad_t: t, forecast_t: t, verdict: verdict.clone() });
                findings.verdicts.push(verdict);
            }
            return;
        };
        if seen.is_overload || seen.gap {
            raised.bad_t = t;
        }
        if t - raised.bad_t >= config.clear_after.as_secs_f64() {
            let why = claim::well_again(fact, t - raised.bad_t, t - raised.since_t);
            let (backlog, oldest_wait_us) = (fact.backlog, fact.oldest_wait_us);
            findings.verdicts.extend(self.clear(t, backlog, oldest_wait_us, why));
        } else if let Some(ground) =
            seen.ground.filter(|_| t - raised.forecast_t >= FORECAST_EVERY_SECS)
        {
            raised.forecast_t = t;
            let forecast = self.subject(fact, key, ground).verdict(context, config);
            findings.forecasts.push(forecast);
        }
    }

    /// Forgets sockets that are gone; with the last of them goes any claim.
    pub(super) fn prune(&mut self, context: &Context<'_>) -> Option<Verdict> {
        self.sockets.retain(|_, queue| !is_gone(context, queue.seen_scan()));
        if !self.sockets.is_empty() {
            return None;
        }
        let why = claim::vanished(&self.raised.as_ref()?.verdict);
        self.clear(context.t, 0, None, why)
    }

    fn clear(
        &mut self,
        t: f64,
        backlog: u32,
        oldest_wait_us: Option<u64>,
        why: String,
    ) -> Option<Verdict> {
        let verdict = self.raised.take()?.verdict;
        let Claim::Overload(claim) = verdict.claim else { return None };
        let claim = OverloadClaim { backlog, oldest_wait_us, backlog_growth_per_sec: 0.0, ..claim };
        Some(Verdict {
            t,
            claim: Claim::Overload(claim),
            exhaustion_secs: None,
            state: ClaimState::Cleared,
            why,
            ..verdict
        })
    }

    /// Moves on to a new instant where this is one.
    fn turn(&mut self, t: f64, fact: &ListenerFact) {
        let is_new = self.instant.as_ref().is_none_or(|instant| instant.t != t);
        if is_new {
            let last = self.instant.take();
            if let Some(last) = &last {
                let came = last.arrived.map(|arrived| arrived.saturating_add(last.dropped));
                self.rates.take(last.secs, came, last.accepted, last.stands);
            }
            let secs = last.map_or(0.0, |last| t - last.t);
            let known = self.arrived.is_known() && fact.arrived_total.is_some();
            let arrived = self.arrived.rise(fact.arrived_total);
            let accepted = Some(0);
            self.instant = Some(Instant {
                t,
                secs,
                arrived: known.then_some(arrived),
                accepted,
                ..Instant::default()
            });
        }
    }

    fn add(&mut self, seen: &QueueUpdate) {
        let Some(instant) = &mut self.instant else { return };
        instant.accepted =
            instant.accepted.zip(seen.accepted).map(|(sum, more)| sum.saturating_add(more));
        instant.dropped = instant.dropped.saturating_add(seen.dropped);
        instant.stands |= seen.stands;
    }

    fn subject<'a>(
        &'a self,
        fact: &'a ListenerFact,
        key: u64,
        ground: Trigger,
    ) -> OverloadedQueue<'a> {
        let run = self.sockets.get(&key).and_then(AcceptQueue::run);
        OverloadedQueue { fact, ground, run, rates: &self.rates, sockets: self.sockets.len() }
    }
}

/// Older traces do not number sockets: there who holds them tells them apart.
fn key(fact: &ListenerFact) -> u64 {
    if fact.socket == 0 { u64::MAX - u64::from(fact.pid.unwrap_or(0)) } else { fact.socket }
}
