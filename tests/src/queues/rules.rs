//! The compared rules: the detector itself, and reference rules as small baselines over the same
//! readings.
//!
//! After every observation, each rule either holds for an address or does not. A claim lasts from
//! the first moment at which the rule holds until it has not held for five seconds, as the
//! detector's own claims do. Baselines get the agent's observations, ten times a second.

use std::collections::HashMap;

use spillway_agent::{
    config::Config,
    detect::{self, ClaimState},
    engine::{Engine, HostInfo, Output},
    sense::{Fact, ListenerFact, Observation},
};

use super::plan::Scarce;
use crate::corpus::Compared;

/// DAGOR (Zhou and others, 2018, section 4.1): mean time in the queue over 20 ms in a window of a
/// second. Its window also ends after 2,000 requests, which readings every tenth of a second cannot
/// reproduce. It was designed for a queue of requests inside the server.
const DAGOR_US: f64 = 20_000.0;
const DAGOR_WINDOW_SECS: f64 = 1.0;

/// CoDel as applied to queues by Facebook (Maurer, 2015): the minimum wait was over 5 ms throughout
/// 100 ms.
const CODEL_US: u64 = 5_000;
const CODEL_WINDOW_SECS: f64 = 0.1;

/// Tolerance for readings that come slightly early at the end of CoDel's window.
const TIMER_SECS: f64 = 0.005;

/// The usual alert on a queue: 80 % of its limit.
const DEPTH_SHARE: f64 = 0.8;

/// The usual alert on drops: any drop within this window.
const OVERFLOW_WINDOW_SECS: f64 = 10.0;

/// Time for which a rule must not hold before its claim is cleared.
const CLEAR_SECS: f64 = 5.0;

/// Claim that an address is overloaded.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// Address of the listener.
    pub addr: String,
    /// Time at which it was raised.
    pub raised_secs: f64,
    /// Time at which it was cleared; `None` while it is active.
    pub cleared_secs: Option<f64>,
    /// Scarce resource according to the rule; `None` if it names none.
    pub scarce: Option<Scarce>,
    /// Explanation by the rule; may be empty.
    pub why: String,
}

/// A rule that claims overloads from observations.
pub trait Rule {
    /// Processes one observation: appends new claims and closes cleared ones.
    fn observe(&mut self, observation: &Observation, claims: &mut Vec<Claim>);
}

/// The detector first, then the baselines, each with its column name.
pub fn rules(host: HostInfo, compared: Compared) -> Vec<(&'static str, Box<dyn Rule>)> {
    let detector =
        Detector { core: Engine::new(&Config::default(), host), output: Output::default() };
    let mut rules: Vec<(&'static str, Box<dyn Rule>)> = vec![("spillway", Box::new(detector))];
    for &(name, condition) in compared.of(&BASELINES) {
        rules.push((name, Box::new(Baseline { condition, addresses: HashMap::new() })));
    }
    rules
}

const BASELINES: [(&str, Condition); 4] =
    [("dagor", dagor), ("codel", codel), ("depth", depth), ("overflow", overflow)];

struct Detector {
    core: Engine,
    output: Output,
}

impl Rule for Detector {
    fn observe(&mut self, observation: &Observation, claims: &mut Vec<Claim>) {
        self.core.apply_into(observation, &mut self.output);
        self.output.decisions.clear();
        for verdict in self.output.verdicts.drain(..) {
            let detect::Claim::Overload(claim) = verdict.claim else { continue };
            match verdict.state {
                ClaimState::Raised => claims.push(Claim {
                    addr: claim.addr.to_string(),
                    raised_secs: verdict.t,
                    cleared_secs: None,
                    scarce: claim.scarce.map(scarce),
                    why: verdict.why,
                }),
                ClaimState::Updated => {}
                ClaimState::Cleared => clear(claims, &claim.addr, verdict.t),
            }
        }
    }
}

pub(super) fn scarce(said: detect::Bottleneck) -> Scarce {
    match said {
        detect::Bottleneck::Cpu => Scarce::Cpu,
        detect::Bottleneck::Memory => Scarce::Memory,
        detect::Bottleneck::AcceptLoop => Scarce::AcceptLoop,
        detect::Bottleneck::Backlog => Scarce::Backlog,
        detect::Bottleneck::Workers => Scarce::Workers,
        detect::Bottleneck::Dependency => Scarce::Dependency,
    }
}

fn clear(claims: &mut [Claim], addr: &str, t: f64) {
    if let Some(claim) =
        claims.iter_mut().rev().find(|claim| claim.addr == *addr && claim.cleared_secs.is_none())
    {
        claim.cleared_secs = Some(t);
    }
}

/// Condition of a rule for one socket; `t` is the time since its last reading.
type Condition = fn(&mut Seen, t: f64, &ListenerFact) -> bool;

/// State of a baseline for one socket.
#[derive(Default)]
struct Seen {
    accepted: Option<u64>,
    overflows: Option<u64>,
    /// DAGOR's window: its start, the sum of waits in it and their number.
    window: (f64, f64, f64),
    /// Last result of the rule.
    holds: bool,
    /// Time since which the minimum wait has been over the target.
    over_t: Option<f64>,
    overflow_t: Option<f64>,
}

struct Baseline {
    condition: Condition,
    addresses: HashMap<std::sync::Arc<str>, Address>,
}

#[derive(Default)]
struct Address {
    sockets: HashMap<u64, Seen>,
    raised: bool,
    held_t: f64,
}

impl Rule for Baseline {
    fn observe(&mut self, observation: &Observation, claims: &mut Vec<Claim>) {
        let (t, Fact::Listener(fact)) = (observation.t, &observation.fact) else { return };
        if !self.addresses.contains_key(&fact.addr) {
            self.addresses.insert(fact.addr.clone(), Address::default());
        }
        let Some(address) = self.addresses.get_mut(&fact.addr) else { return };
        if (self.condition)(address.sockets.entry(fact.socket).or_default(), t, fact) {
            address.held_t = t;
            if !std::mem::replace(&mut address.raised, true) {
                let addr = fact.addr.to_string();
                claims.push(Claim {
                    addr,
                    raised_secs: t,
                    cleared_secs: None,
                    scarce: None,
                    why: String::new(),
                });
            }
        } else if address.raised && t - address.held_t >= CLEAR_SECS {
            address.raised = false;
            clear(claims, &fact.addr, t);
        }
    }
}

/// Increase of a 32-bit counter; 0 if it was reset.
fn rise(last: &mut Option<u64>, now: Option<u64>) -> u64 {
    let (Some(now), last) = (now, last) else { return 0 };
    let rise = last.replace(now).map_or(0, |last| (now as u32).wrapping_sub(last as u32));
    if rise < 1 << 31 { u64::from(rise) } else { 0 }
}

fn dagor(seen: &mut Seen, t: f64, fact: &ListenerFact) -> bool {
    let accepted = rise(&mut seen.accepted, fact.accepted_total) as f64;
    // Without exact waits, the age of the head is used.
    let (wait_us, weight) = match (fact.sojourn_mean_us, fact.oldest_wait_us) {
        (Some(mean), _) => (mean as f64, accepted),
        (None, Some(age)) => (age as f64, 1.0),
        (None, None) => (0.0, 0.0),
    };
    let (since, waits, count) = seen.window;
    seen.window = (since, waits + wait_us * weight, count + weight);
    if t - since >= DAGOR_WINDOW_SECS {
        seen.holds = seen.window.2 > 0.0 && seen.window.1 / seen.window.2 > DAGOR_US;
        seen.window = (t, 0.0, 0.0);
    }
    seen.holds
}

fn codel(seen: &mut Seen, t: f64, fact: &ListenerFact) -> bool {
    let over = |wait: Option<u64>| wait.is_some_and(|wait| wait > CODEL_US);
    // All connections accepted since the last reading, and the current head, must have waited.
    let least =
        over(fact.oldest_wait_us) && (fact.sojourn_min_us.is_none() || over(fact.sojourn_min_us));
    if !least {
        seen.over_t = None;
        return false;
    }
    t - *seen.over_t.get_or_insert(t) + TIMER_SECS >= CODEL_WINDOW_SECS
}

fn depth(_: &mut Seen, _: f64, fact: &ListenerFact) -> bool {
    f64::from(fact.backlog) > DEPTH_SHARE * f64::from(fact.backlog_max)
}

fn overflow(seen: &mut Seen, t: f64, fact: &ListenerFact) -> bool {
    if rise(&mut seen.overflows, fact.overflows_total) > 0 {
        seen.overflow_t = Some(t);
    }
    seen.overflow_t.is_some_and(|then| t - then <= OVERFLOW_WINDOW_SECS)
}
