//! Results of connects by workload and destination: the state of the outbound sensor between two
//! reads.
//!
//! Processes of one cgroup that connect to one address from one network namespace are one workload,
//! so that a server's workers are not told apart. Totals only rise. Cold start: they begin at 0
//! with the first result. State is bounded by time, [`FORGET_SECS`], and by number, [`KEPT_MAX`]; a
//! forgotten destination begins at 0 again.

use std::sync::Arc;

use foldhash::HashMap;
use spillway_ebpf::{OutboundConnect, OutboundCount, OutboundKey};

use crate::{
    sense::{OutboundFact, addr::inet_addr},
    spare_room,
};

/// Time for which a destination is kept without a connect. A guess: longer than a client waits
/// between two tries that belong together.
const FORGET_SECS: f64 = 600.0;

/// Time for which one is kept that never answered: nothing is concluded of it, and a port scan has
/// thousands.
const FORGET_UNANSWERED_SECS: f64 = 60.0;

/// Maximum number of destinations. A guess at the busiest proxy's; those without a connect for
/// longest are dropped first.
const KEPT_MAX: usize = 4_096;

/// Maximum number of facts at once: more destinations than a service depends on, and at most some
/// 60 KiB of a trace a second.
pub(super) const REPORTED_MAX: usize = 256;

/// A process that connects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    /// Cgroup; empty if the process has ended.
    pub(super) cgroup: Arc<str>,
    /// Name; empty if the process has ended.
    pub(super) comm: Arc<str>,
}

/// Connects of every workload to every destination.
#[derive(Debug, Default)]
pub(super) struct OutboundTable {
    kept: HashMap<ConnectKey, TableEntry>,
}

/// Workload and destination: a key of the kernel's map with the cgroup in place of the pid, which
/// is 0 here.
#[derive(Debug, PartialEq, Eq, Hash)]
struct ConnectKey {
    to: OutboundKey,
    cgroup: Arc<str>,
}

#[derive(Debug)]
struct TableEntry {
    addr: Arc<str>,
    pid: u32,
    comm: Arc<str>,
    lead: Lead,
    total: OutboundCount,
    unreported: OutboundCount,
    pending: u32,
    active_t: f64,
}

/// Rank of a process among those of its workload, of which the highest is named in the fact: start
/// of its latest pending connect, in nanoseconds, and number of its unreported results.
type Lead = (u64, u64);

impl OutboundTable {
    /// Adds the connects of a process that ended since the last call.
    pub(super) fn ended(
        &mut self,
        key: &OutboundKey,
        caller: &Caller,
        fresh: &OutboundCount,
        now: f64,
    ) {
        let kept = self.kept(key, caller, (0, all(fresh)), now);
        add(&mut kept.total, fresh);
        add(&mut kept.unreported, fresh);
    }

    /// Adds a pending connect.
    pub(super) fn pending(&mut self, connect: &OutboundConnect, caller: &Caller, now: f64) {
        let kept = self.kept(&connect.key, caller, (connect.since_ns, 0), now);
        kept.pending = kept.pending.saturating_add(1);
    }

    fn kept(
        &mut self,
        key: &OutboundKey,
        caller: &Caller,
        lead: Lead,
        now: f64,
    ) -> &mut TableEntry {
        let subject =
            ConnectKey { to: OutboundKey { pid: 0, ..*key }, cgroup: caller.cgroup.clone() };
        let kept = self.kept.entry(subject).or_insert_with_key(|subject| TableEntry {
            addr: Arc::from(
                inet_addr(subject.to.family, subject.to.addr, subject.to.port).to_string(),
            ),
            pid: key.pid,
            comm: caller.comm.clone(),
            lead: (0, 0),
            total: OutboundCount::default(),
            unreported: OutboundCount::default(),
            pending: 0,
            active_t: now,
        });
        kept.active_t = now;
        if lead > kept.lead {
            (kept.pid, kept.comm, kept.lead) = (key.pid, caller.comm.clone(), lead);
        }
        kept
    }

    /// Ends a read: passes on a fact for each entry with news since its last one, those with the
    /// most failures first, and returns how many must wait for the next time. Then drops old
    /// entries.
    pub(super) fn report(&mut self, now: f64, mut each: impl FnMut(OutboundFact)) -> usize {
        let mut news: Vec<_> = self
            .kept
            .iter_mut()
            .filter(|(_, kept)| kept.pending > 0 || all(&kept.unreported) > 0)
            .collect();
        let left_out = news.len().saturating_sub(REPORTED_MAX);
        if left_out > 0 {
            news.sort_unstable_by_key(|(_, kept)| {
                std::cmp::Reverse((failed(&kept.unreported), all(&kept.unreported)))
            });
        }
        for (subject, kept) in news.into_iter().take(REPORTED_MAX) {
            each(kept.fact(subject));
            kept.unreported = OutboundCount::default();
            kept.lead = (0, 0);
        }
        for kept in self.kept.values_mut() {
            kept.pending = 0;
        }
        self.forget(now);
        left_out
    }

    fn forget(&mut self, now: f64) {
        self.kept.retain(|_, kept| {
            let secs = match kept.total.established {
                0 => FORGET_UNANSWERED_SECS,
                _ => FORGET_SECS,
            };
            now - kept.active_t < secs
        });
        if self.kept.len() > KEPT_MAX {
            let mut active: Vec<_> = self.kept.values().map(|kept| kept.active_t).collect();
            let at = active.len() - KEPT_MAX;
            let (_, &mut least, _) = active.select_nth_unstable_by(at, f64::total_cmp);
            let mut room = KEPT_MAX - active.iter().filter(|&&t| t > least).count();
            self.kept.retain(|_, kept| {
                let keep = kept.active_t > least || (kept.active_t == least && room > 0);
                if kept.active_t == least && keep {
                    room -= 1;
                }
                keep
            });
        }
        spare_room::of_map(&mut self.kept);
    }
}

impl TableEntry {
    fn fact(&self, subject: &ConnectKey) -> OutboundFact {
        OutboundFact {
            netns: subject.to.netns,
            addr: self.addr.clone(),
            cgroup: subject.cgroup.clone(),
            pid: self.pid,
            comm: self.comm.clone(),
            established_total: self.total.established,
            refused_total: self.total.refused,
            timed_out_total: self.total.timed_out,
            abandoned_total: self.total.abandoned,
            no_local_port_total: Some(self.total.no_local_port),
            pending: self.pending,
        }
    }
}

/// Returns the increase since `last`; a lower count was reset in between.
pub(super) fn since(latest: &OutboundCount, last: &OutboundCount) -> OutboundCount {
    let was_reset = latest.established < last.established
        || latest.refused < last.refused
        || latest.timed_out < last.timed_out
        || latest.abandoned < last.abandoned
        || latest.no_local_port < last.no_local_port;
    if was_reset {
        return *latest;
    }
    OutboundCount {
        established: latest.established - last.established,
        refused: latest.refused - last.refused,
        timed_out: latest.timed_out - last.timed_out,
        abandoned: latest.abandoned - last.abandoned,
        no_local_port: latest.no_local_port - last.no_local_port,
        share: latest.share,
    }
}

fn add(to: &mut OutboundCount, fresh: &OutboundCount) {
    to.established = to.established.saturating_add(fresh.established);
    to.refused = to.refused.saturating_add(fresh.refused);
    to.timed_out = to.timed_out.saturating_add(fresh.timed_out);
    to.abandoned = to.abandoned.saturating_add(fresh.abandoned);
    to.no_local_port = to.no_local_port.saturating_add(fresh.no_local_port);
}

fn failed(count: &OutboundCount) -> u64 {
    let unanswered = count.abandoned.saturating_add(count.no_local_port);
    count.refused.saturating_add(count.timed_out).saturating_add(unanswered)
}

fn all(count: &OutboundCount) -> u64 {
    count.established.saturating_add(failed(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: OutboundCount = OutboundCount {
        established: 0,
        refused: 0,
        timed_out: 0,
        abandoned: 0,
        no_local_port: 0,
        share: 0,
    };
    const REFUSED: OutboundCount = OutboundCount { refused: 1, ..NONE };
    const ESTABLISHED: OutboundCount = OutboundCount { established: 1, ..NONE };

    fn key(pid: u32, host: u32) -> OutboundKey {
        let addr = [(0x7F00_0000 + host).to_be(), 0, 0, 0];
        OutboundKey { addr, netns: 1, pid, family: libc::AF_INET as u16, port: 80 }
    }

    fn caller(cgroup: &str, comm: &str) -> Caller {
        Caller { cgroup: Arc::from(cgroup), comm: Arc::from(comm) }
    }

    fn pending(pid: u32, since_ns: u64) -> OutboundConnect {
        OutboundConnect { since_ns, share: 0, key: key(pid, 1), reserved: 0 }
    }

    fn reported(connects: &mut OutboundTable, now: f64) -> Vec<OutboundFact> {
        let mut facts = Vec::new();
        connects.report(now, |fact| facts.push(fact));
        facts
    }

    #[test]
    fn processes_of_a_cgroup_are_one_workload() {
        let mut connects = OutboundTable::default();
        for pid in [7, 8, 9] {
            connects.ended(&key(pid, 1), &caller("/api", "worker"), &REFUSED, 0.0);
        }
        connects.ended(&key(10, 1), &caller("/cron", "curl"), &ESTABLISHED, 0.0);
        let mut facts = reported(&mut connects, 0.0);
        facts.sort_by_key(|fact| fact.pid);
        let seen: Vec<_> = facts
            .iter()
            .map(|fact| (&*fact.cgroup, fact.refused_total, fact.established_total))
            .collect();
        assert_eq!(seen, [("/api", 3, 0), ("/cron", 0, 1)]);
        assert_eq!(&*facts[0].addr, "127.0.0.1:80");
    }

    #[test]
    fn totals_continue_and_only_news_is_reported() {
        let mut connects = OutboundTable::default();
        connects.ended(&key(7, 1), &caller("/api", "api"), &REFUSED, 0.0);
        assert_eq!(reported(&mut connects, 0.0).len(), 1);
        assert_eq!(reported(&mut connects, 1.0), []);
        connects.ended(&key(7, 1), &caller("/api", "api"), &REFUSED, 2.0);
        assert_eq!(reported(&mut connects, 2.0)[0].refused_total, 2);
    }

    #[test]
    fn pending_connects_are_reported_until_they_end() {
        let mut connects = OutboundTable::default();
        for t in [0.0, 1.0] {
            connects.pending(&pending(7, 5), &caller("/api", "api"), t);
            connects.pending(&pending(7, 6), &caller("/api", "api"), t);
            assert_eq!(reported(&mut connects, t)[0].pending, 2);
        }
        assert_eq!(reported(&mut connects, 2.0), []);
    }

    #[test]
    fn process_that_connected_last_is_named() {
        let mut connects = OutboundTable::default();
        connects.pending(&pending(7, 50), &caller("/api", "old"), 0.0);
        connects.pending(&pending(8, 90), &caller("/api", "new"), 0.0);
        connects.ended(
            &key(9, 1),
            &caller("/api", "done"),
            &OutboundCount { refused: 99, ..REFUSED },
            0.0,
        );
        let fact = reported(&mut connects, 0.0).remove(0);
        assert_eq!((fact.pid, &*fact.comm), (8, "new"));
        connects.ended(&key(9, 1), &caller("/api", "done"), &REFUSED, 1.0);
        assert_eq!(reported(&mut connects, 1.0)[0].pid, 9, "the rank is reset by each report");
    }

    #[test]
    fn failures_are_reported_first_and_the_rest_later() {
        let mut connects = OutboundTable::default();
        for host in 0..REPORTED_MAX as u32 + 10 {
            let count = if host % 2 == 0 { ESTABLISHED } else { REFUSED };
            connects.ended(&key(7, host), &caller("/api", "api"), &count, 0.0);
        }
        let mut first = Vec::new();
        assert_eq!(connects.report(0.0, |fact| first.push(fact)), 10);
        assert_eq!(first.len(), REPORTED_MAX);
        assert_eq!(
            first.iter().filter(|fact| fact.refused_total > 0).count(),
            REPORTED_MAX / 2 + 5
        );
        let rest = reported(&mut connects, 1.0);
        assert_eq!(rest.len(), 10);
        assert!(rest.iter().all(|fact| fact.established_total == 1), "{rest:?}");
    }

    #[test]
    fn idle_destination_is_dropped_after_a_while() {
        for (count, secs) in [(ESTABLISHED, FORGET_SECS), (REFUSED, FORGET_UNANSWERED_SECS)] {
            let mut connects = OutboundTable::default();
            connects.ended(&key(7, 1), &caller("/api", "api"), &count, 0.0);
            connects.ended(&key(7, 2), &caller("/api", "api"), &count, 1.0);
            reported(&mut connects, secs);
            assert_eq!(connects.kept.len(), 1);
            connects.ended(&key(7, 1), &caller("/api", "api"), &count, secs);
            let fact = reported(&mut connects, secs).remove(0);
            let total = fact.refused_total + fact.established_total;
            assert_eq!(total, 1, "a dropped destination begins at 0");
        }
    }

    #[test]
    fn number_of_destinations_is_bounded() {
        let mut connects = OutboundTable::default();
        for t in 0..3_u32 {
            for host in 0..KEPT_MAX as u32 - 1_000 {
                connects.ended(
                    &key(7, t * 10_000 + host),
                    &caller("/api", "api"),
                    &REFUSED,
                    f64::from(t),
                );
            }
            reported(&mut connects, f64::from(t));
            assert!(connects.kept.len() <= KEPT_MAX, "{}", connects.kept.len());
        }
        assert_eq!(connects.kept.len(), KEPT_MAX);
        let latest = connects.kept.values().filter(|kept| kept.active_t == 2.0).count();
        assert_eq!(latest, KEPT_MAX - 1_000, "the latest are kept");
    }

    #[test]
    fn count_that_fell_was_reset() {
        let count = |established, refused| OutboundCount {
            established,
            refused,
            ..OutboundCount::default()
        };
        assert_eq!(since(&count(9, 2), &count(4, 2)), count(5, 0));
        assert_eq!(since(&count(9, 0), &count(4, 2)), count(9, 0));
    }
}
