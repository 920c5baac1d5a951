//! Claim of an overloaded listener.

use std::sync::Arc;

use serde::Serialize;

use super::worker::StuckWorker;
use crate::{
    detect::{
        claim::{Assessment, ClaimDetails, Diagnosis, Severity, Sign, Situation, Wants},
        incident_id::IncidentId,
    },
    units::{Count, Span},
};

/// Time since the claim was raised from which it is a warning, and critical. Guesses: pauses of
/// garbage collectors and event loops, and bursts, end within the first; a person needs minutes to
/// act, so the second costs little.
const WARNING_AFTER_SECS: f64 = 3.0;
const CRITICAL_AFTER_SECS: f64 = 10.0;

/// The same as the latter if no connection is accepted at all or the queue is full, because it does
/// not get worse than that.
const STUCK_CRITICAL_AFTER_SECS: f64 = 5.0;

/// Fewer waiting connections than this are a few slow requests.
const WAITING_MIN: u32 = 4;

/// Waits that a user notices and gives up on. Guesses: page loads take a second or two; clients
/// often give up after one to five.
const NOTICED_SECS: f64 = 0.25;
const GIVEN_UP_SECS: f64 = 1.0;

/// Share of the traffic that must wait for the claim to be critical.
const CRITICAL_SHARE: f64 = 0.1;

/// Time to an overflow above which it is not imminent.
const OVERFLOW_SOON_SECS: f64 = 60.0;

/// A listener whose accept queue does not drain.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct OverloadClaim {
    /// Address and port.
    pub addr: Arc<str>,
    /// Inode number of its network namespace.
    pub netns: u32,
    /// Process that holds the socket; if several do, or it passes its connections on, the one that
    /// has kept a request waiting for longest. `None` if it is unknown.
    pub pid: Option<u32>,
    /// Owner of the socket, if known: the master of a pool.
    #[serde(skip)]
    pub owner: Option<u32>,
    /// Worker that has kept a request waiting for longest, if several processes share the socket,
    /// or it passes its connections on.
    #[serde(skip)]
    pub worker: Option<StuckWorker>,
    /// Name of the owner; empty if unknown.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub comm: Arc<str>,
    /// Cgroup of the owner; empty if unknown.
    pub cgroup: Arc<str>,
    /// Resource that the service is short of; `None` if there is no evidence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scarce: Option<Bottleneck>,
    /// Sign of a cascade that comes with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sign: Option<Sign>,
    /// Connections waiting.
    pub backlog: u32,
    /// Limit of the queue.
    pub backlog_max: u32,
    /// Growth of the queue, in connections a second.
    pub backlog_growth_per_sec: f64,
    /// Connections that arrive at the address per second; `None` if they are not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arrivals_per_sec: Option<f64>,
    /// Connections accepted per second; `None` if they are not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepts_per_sec: Option<f64>,
    /// Wait of the oldest connection; `None` if it cannot be read.
    pub oldest_wait_us: Option<u64>,
    /// Whether fewer are accepted than before although no more arrive.
    #[serde(skip)]
    pub is_slower: bool,
    /// True if connections are accepted as before, but of clients that have gone.
    #[serde(skip)]
    pub is_for_nobody: bool,
    /// True if a thread of it runs all the time, so that it waits for no other service.
    #[serde(skip)]
    pub is_busy: bool,
    /// Process of the service that has no file descriptor left, if one is known.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub exhausted: Option<ExhaustedFiles>,
    /// Requests that wait on established connections; `None` if the claim is about the accept
    /// queue alone.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub requests: Option<WaitingRequests>,
    /// Address that the service waits for, if it is short of a dependency.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dependency: Option<Arc<str>>,
}

/// A process that has opened as many files as it may, sockets included, so that it cannot accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ExhaustedFiles {
    /// Process.
    pub files_pid: u32,
    /// Open files.
    pub files: u64,
    /// Limit on them.
    pub files_max: u64,
}

/// Requests that wait on established connections.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct WaitingRequests {
    /// Connections whose request has not been read in full.
    pub unread: u32,
    /// Connections with a request that has no response yet, unread ones included.
    pub in_flight: u32,
    /// Age of the oldest of them; `None` if it is unknown.
    pub oldest_request_us: Option<u64>,
    /// Responses per second; `None` if they are not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answered_per_sec: Option<f64>,
    /// Share of the requests that ended in the last seconds because their clients gave up; `None`
    /// if none ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abandoned_share: Option<f64>,
}

/// Resource that an overloaded service is short of. The fix differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, strum::IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Bottleneck {
    /// CPU: needs more of it, or less work.
    Cpu,
    /// Memory: the service stalls on reclaim.
    Memory,
    /// The accept loop, which does not run.
    AcceptLoop,
    /// The limit of the queue: it has no room for bursts that the service could serve.
    Backlog,
    /// Workers: all of them wait for something else, or there are too few.
    Workers,
    /// Another service, for which its requests wait.
    Dependency,
}

impl OverloadClaim {
    /// Returns whether the load would be served better elsewhere: the node serves less than before
    /// although no more arrives, or nothing at all. More load than before, or clients that retry,
    /// would only move.
    fn is_this_nodes_fault(&self) -> bool {
        let would_move = matches!(self.sign, Some(Sign::LoadSurge | Sign::RetryStorm));
        let is_broken = matches!(self.scarce, Some(Bottleneck::AcceptLoop | Bottleneck::Memory));
        !would_move && (is_broken || self.is_slower)
    }

    /// Returns whether a queue bounded to `wait_secs` would help: a connection that comes now would
    /// wait for longer than clients do, or some have gone, and connections are accepted. A shorter
    /// queue harms nobody, and refusing its connections would, so an unknown wait is no reason; a
    /// stuck server accepts none of them; and a queue that is too short for bursts must not become
    /// shorter.
    fn is_helped_by_shedding(&self, wait_secs: f64) -> bool {
        let is_broken = matches!(self.scarce, Some(Bottleneck::AcceptLoop | Bottleneck::Backlog))
            || self.exhausted.is_some()
            || self.accepts_per_sec.is_some_and(|rate| rate <= 0.0);
        let least_secs = if self.is_for_nobody { wait_secs } else { wait_secs.max(GIVEN_UP_SECS) };
        let is_long = self.newcomers_wait_secs().is_some_and(|secs| secs > least_secs);
        !is_broken && self.backlog >= WAITING_MIN && is_long
    }

    /// Returns why a bounded accept queue would not help, if that is due to the service.
    fn why_shedding_does_not_help(&self) -> Option<&'static str> {
        if self.requests.is_some() && self.backlog < WAITING_MIN {
            Some("the requests wait on connections that were accepted before")
        } else if self.scarce == Some(Bottleneck::AcceptLoop) {
            Some("the server accepts nothing")
        } else {
            None
        }
    }

    /// Time that a connection which comes now will wait, in seconds, if it is known: that in which
    /// the queue is accepted, and at least as long as its oldest connection waits already.
    fn newcomers_wait_secs(&self) -> Option<f64> {
        let oldest_secs = self.oldest_wait_us.map(|us| us as f64 / 1e6);
        let drains_secs = self.accepts_per_sec.map(|rate| f64::from(self.backlog) / rate);
        oldest_secs.into_iter().chain(drains_secs).reduce(f64::max)
    }

    /// Connections that wait for accept(), or requests that wait for a response, if those are more.
    fn waiting(&self) -> u32 {
        self.requests.as_ref().map_or(0, |requests| requests.in_flight).max(self.backlog)
    }

    /// Longest wait, in seconds; `None` if it is unknown.
    fn known_wait_secs(&self) -> Option<f64> {
        let request_us = self.requests.as_ref().and_then(|requests| requests.oldest_request_us);
        self.oldest_wait_us.max(request_us).map(|us| us as f64 / 1e6)
    }

    /// Name of the waiting things, for people.
    fn things(&self) -> &'static str {
        if self.requests.is_some() { "requests" } else { "connections" }
    }

    /// Share of the connections that arrived in the last `wait_secs` and still wait; `None` if
    /// arrivals are not counted.
    fn waiting_share(&self, wait_secs: f64) -> Option<f64> {
        if self.requests.is_some() {
            return None;
        }
        let arrived = self.arrivals_per_sec? * wait_secs;
        (arrived > 0.0).then(|| (f64::from(self.backlog) / arrived).min(1.0))
    }
}

impl ClaimDetails for OverloadClaim {
    fn id(&self) -> IncidentId {
        IncidentId::Overload { netns: self.netns, addr: self.addr.clone() }
    }

    fn resource(&self) -> &'static str {
        "accept_queue"
    }

    fn cgroup(&self) -> &Arc<str> {
        &self.cgroup
    }

    fn pid(&self) -> Option<u32> {
        self.owner.or(self.pid).filter(|pid| *pid > 0)
    }

    fn listener(&self) -> Option<(u32, &Arc<str>)> {
        Some((self.netns, &self.addr))
    }

    fn diagnosis(&self) -> Diagnosis {
        [
            self.scarce.map(Into::into),
            self.sign.map(Into::into),
            self.is_for_nobody.then_some("for_nobody"),
            self.exhausted.map(|_| "files"),
            self.worker.map(|_| "worker"),
        ]
    }

    fn host_shortage(&self) -> Option<&'static str> {
        self.scarce
            .filter(|scarce| matches!(scarce, Bottleneck::Cpu | Bottleneck::Memory))
            .map(Into::into)
    }

    /// Depends on how many connections wait, for how long, on their share of the traffic, and on
    /// how long that has lasted: a claim begins as info and rises while it is open, so that a pause
    /// of a few seconds wakes nobody up.
    fn severity(&self, assessment: &Assessment<'_>) -> (Severity, String) {
        let Assessment { exhaustion_secs, lasted_secs, importance, is_shed, .. } = *assessment;
        if !importance.is_service {
            return (Severity::Info, importance.reason.clone());
        }
        let known_wait_secs = self.known_wait_secs();
        // Its queue is full because it was bounded, and whoever gets in is answered.
        if is_shed && known_wait_secs.is_some_and(|secs| secs < GIVEN_UP_SECS) {
            let lasted = Span(lasted_secs);
            let reason = format!(
                "connections are refused at its door, so that the others are answered; that has \
                 lasted for {lasted}; {}",
                importance.reason
            );
            let has_lasted = lasted_secs >= WARNING_AFTER_SECS;
            return (if has_lasted { Severity::Warning } else { Severity::Info }, reason);
        }
        if self.scarce == Some(Bottleneck::Backlog) {
            let reason = format!("connections are dropped now and then; {}", importance.reason);
            return (Severity::Warning, reason);
        }
        let is_full = self.backlog > self.backlog_max;
        let (waiting, things) = (self.waiting(), self.things());
        let is_stuck = self.scarce == Some(Bottleneck::AcceptLoop);
        let share = self.waiting_share(known_wait_secs.unwrap_or(0.0));
        let is_soon = exhaustion_secs.is_some_and(|secs| secs <= OVERFLOW_SOON_SECS);
        // An unknown wait is taken to be as long as the claim has been open.
        let wait_secs = known_wait_secs.unwrap_or(lasted_secs);
        let waits = format!("{waiting} {things} are waiting, for at most {}", Span(wait_secs));
        let lasted = Span(lasted_secs);
        if waiting < WAITING_MIN && !is_full {
            return (Severity::Info, format!("only {waits}"));
        }
        if lasted_secs < WARNING_AFTER_SECS {
            return (Severity::Info, format!("it has lasted for only {lasted}; {waits}"));
        }
        if wait_secs < NOTICED_SECS && !is_full && !is_soon {
            return (Severity::Info, format!("{waits}, too short for a user to notice"));
        }
        let after_secs =
            if is_stuck || is_full { STUCK_CRITICAL_AFTER_SECS } else { CRITICAL_AFTER_SECS };
        let is_harmful = is_full || wait_secs >= GIVEN_UP_SECS;
        let of_traffic = share
            .map(|share| format!(" ({:.0} % of the arrivals)", share * 100.0))
            .unwrap_or_default();
        let reason =
            format!("{waits}{of_traffic}; it has lasted for {lasted}; {}", importance.reason);
        // Requests alone have been judged right in simulations, and on few real servers.
        let is_about_connections =
            self.requests.is_none() || self.backlog >= WAITING_MIN || is_full;
        let is_critical = is_about_connections
            && is_harmful
            && lasted_secs >= after_secs
            && share.is_none_or(|share| share >= CRITICAL_SHARE);
        (if is_critical { Severity::Critical } else { Severity::Warning }, reason)
    }

    /// Sheds load at the door at once, lowers the weight of the node, and drains it only if this
    /// node alone is at fault: load that merely moves overloads the next one. A backlog that is too
    /// small for bursts is as small on other nodes.
    fn wants(&self, situation: &Situation<'_>) -> Wants {
        let Situation { severity, is_nodes, has_granter, shed_wait_secs, .. } = *situation;
        if self.scarce == Some(Bottleneck::Backlog) || !is_nodes {
            return Wants::default();
        }
        let shed = shed_wait_secs.is_some_and(|secs| self.is_helped_by_shedding(secs));
        let not_shed = shed_wait_secs.and_then(|_| self.why_shedding_does_not_help());
        let drain = has_granter && severity >= Severity::Critical && self.is_this_nodes_fault();
        let weigh = severity >= Severity::Warning && !drain;
        Wants { limit: false, shed, not_shed, weigh, drain }
    }

    fn label(&self) -> String {
        format!("overload of {}", self.addr)
    }

    fn component(&self) -> String {
        self.addr.to_string()
    }

    fn class(&self) -> String {
        "overload".to_owned()
    }

    fn headline(&self, host: &str, exhaustion_secs: Option<f64>) -> String {
        let owner = if self.comm.is_empty() { String::new() } else { format!(" ({})", self.comm) };
        let scarce = match self.scarce {
            _ if self.exhausted.is_some() => ", out of file descriptors",
            Some(Bottleneck::Cpu) => ", short of CPU",
            Some(Bottleneck::Memory) => ", short of memory",
            Some(Bottleneck::AcceptLoop) if self.requests.is_some() => ", unread by a stuck server",
            Some(Bottleneck::AcceptLoop) => ", accept loop stuck",
            Some(Bottleneck::Backlog) => ", backlog too small",
            Some(Bottleneck::Workers) => ", short of workers",
            Some(Bottleneck::Dependency) => ", waiting for another service",
            None => "",
        };
        let sign = match self.sign {
            _ if self.is_for_nobody => ", working for clients that have gone",
            Some(Sign::LoadSurge) => ", under more load than before",
            Some(Sign::RetryStorm) => ", with clients that keep retrying",
            Some(Sign::DependencyDown) | None => "",
        };
        let consequence = match exhaustion_secs {
            Some(secs) => {
                format!("; if nothing is done, connections are dropped in {}", Span(secs))
            }
            None => String::new(),
        };
        let waiting = match &self.requests {
            Some(requests) => format!("{} requests are waiting", Count(requests.in_flight.into())),
            None => overfull(self.backlog, self.backlog_max).unwrap_or_else(|| {
                let (backlog, most) = (self.backlog.into(), self.backlog_max.into());
                format!("{} of {} connections are waiting", Count(backlog), Count(most))
            }),
        };
        format!(
            "{}{owner} on {host} is overloaded: {waiting}{scarce}{sign}{consequence}",
            self.addr
        )
    }

    fn advice(&self, _exhaustion_secs: Option<f64>) -> String {
        if let Some(files) = self.exhausted {
            return format!(
                "find out what keeps the files of pid {} open, or raise its limit of {}",
                files.files_pid, files.files_max
            );
        }
        if let Some(peer) = &self.dependency {
            return format!("check {peer}, for which it waits");
        }
        if self.is_for_nobody {
            return "restart it to empty its queue, or send less load here".to_owned();
        }
        if let (Some(Bottleneck::AcceptLoop), Some(worker)) = (self.scarce, self.worker) {
            return format!("find out what blocks pid {}, or restart it", worker.pid);
        }
        match self.scarce {
            Some(Bottleneck::Cpu) => "add CPU, or send less load here",
            Some(Bottleneck::Memory) => "free memory, or send less load here",
            Some(Bottleneck::AcceptLoop) => "find out what blocks the process, or restart it",
            Some(Bottleneck::Backlog) => "raise the backlog of listen(), or send less load here",
            Some(Bottleneck::Workers) => "add workers, or send less load here",
            Some(Bottleneck::Dependency) => "check the services that it depends on",
            None => "check the process, or send less load here",
        }
        .to_owned()
    }
}

/// Describes a queue in which more connections wait than its length says; `None` if they fit.
pub(super) fn overfull(backlog: u32, length: u32) -> Option<String> {
    let waiting = Count(backlog.into());
    let length_text = Count(length.into());
    match backlog.checked_sub(length)? {
        0 => None,
        1 => Some(format!(
            "{waiting} connections are waiting in a full queue (the kernel admits one more than \
             its length of {length_text})"
        )),
        // They came before listen() was called with this length.
        _ => Some(format!(
            "{waiting} connections are waiting in a queue whose length is {length_text} now"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_more_than_the_length_is_explained() {
        assert_eq!((overfull(0, 128), overfull(128, 128)), (None, None));
        let full = "10 connections are waiting in a full queue (the kernel admits one more than \
                    its length of 9)";
        assert_eq!(overfull(10, 9).as_deref(), Some(full));
        let shortened = "2,049 connections are waiting in a queue whose length is 9 now";
        assert_eq!(overfull(2_049, 9).as_deref(), Some(shortened));
    }
}
