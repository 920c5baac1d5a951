//! Workers that share a UNIX listener, and the one of them that is stuck.
//!
//! The kernel keeps no times in UNIX sockets, so that a request is not seen there. But a worker
//! that takes one connection after another holds none for long, and one that works runs. So while
//! connections wait at a listener that several processes hold, a pass over open files looks once a
//! second which of them have which connections. Stuck is the one that has kept a connection for
//! longest, over two passes or more, and hardly ran meanwhile. A worker that keeps connections open
//! to serve more requests on them, and has little to do, looks the same. A connection that several
//! processes hold, as after fork(), says nothing about which of them should answer.
//!
//! Bounds: the known listeners, and [`KEPT_MAX`] connections. Failure: nobody is stuck.

use std::io;

use foldhash::HashMap;
use spillway_ebpf::UnixAcceptedSample;

use super::{LossCounters, proc_files};
use crate::{
    bpf::{IterHandle, pass},
    sense::thread_time::thread_secs,
};

/// Time for which connections wait until the first pass. A guess: healthy queues drain sooner.
const WAITS_SECS: f64 = 0.5;

/// Shortest time between two passes, and the share of one core that they may take.
const LOOK_SECS: f64 = 1.0;
const SHARE: f64 = 0.005;

/// Time after which a pass says nothing about now.
const STALE_SECS: f64 = 30.0;

/// Share of the time for which a process runs that is hardly at all, and the least: two clock
/// ticks, since one may be another's. A guess: polling takes less, and work more.
const IDLE_SHARE: f64 = 0.01;
const IDLE_TICKS_MIN: f64 = 2.0;

/// Clock ticks a second in `/proc/PID/stat`, the same on every kernel (`USER_HZ`).
const TICKS_PER_SEC: f64 = 100.0;

/// Maximum number of connections that are followed. A guess: more than most pools have workers.
const KEPT_MAX: usize = 1_024;

/// Looks for the stuck worker of each UNIX listener at which connections wait.
pub(super) struct UnixWorkers {
    list: IterHandle,
    buffer: Vec<u8>,
    due: f64,
    held: HeldConnections,
}

/// Connections that workers hold, of listeners at which others wait.
#[derive(Debug, Default)]
struct HeldConnections {
    /// Time since which connections wait, by the name of the listener.
    waiting: HashMap<u64, f64>,
    /// Connections by inode.
    kept: HashMap<u64, Kept>,
    looked_t: f64,
}

/// A connection that a worker keeps.
#[derive(Debug, Clone, Copy)]
struct Kept {
    listener: u64,
    pid: u32,
    since_t: f64,
    /// Processor time of the worker then; `None` if it cannot be read.
    ran_ticks: Option<u64>,
}

impl UnixWorkers {
    /// Creates a look-out over this list of connections.
    pub(super) fn new(list: IterHandle) -> Self {
        Self { list, buffer: Vec::new(), due: 0.0, held: HeldConnections::default() }
    }

    /// Takes the number of connections that wait at a shared listener. Returns its stuck worker,
    /// and for how long it has kept a connection, if there is one.
    pub(super) fn observe(&mut self, now: f64, listener: u64, backlog: u32) -> Option<(u32, f64)> {
        self.held.observe(now, listener, backlog)
    }

    /// Forgets listeners that are gone.
    pub(super) fn keep(&mut self, is_known: impl Fn(u64) -> bool) {
        self.held.keep(is_known);
    }

    /// Makes a pass if that is due.
    ///
    /// # Errors
    ///
    /// Returns an error if the pass failed.
    pub(super) fn look_if_due(&mut self, now: f64, losses: &mut LossCounters) -> io::Result<()> {
        if now < self.due || !self.held.is_wanted(now) {
            return Ok(());
        }
        let start = thread_secs();
        let Self { list, buffer, held, .. } = self;
        let mut found = Vec::new();
        let read = pass(list, buffer, |sample: UnixAcceptedSample| {
            if held.waiting.contains_key(&sample.address) && found.len() < KEPT_MAX {
                found.push(sample);
            }
        });
        held.take(now, &found, |pid| proc_files::stat_of(pid).map(|stat| stat.ran_ticks));
        self.due = now + LOOK_SECS.max((thread_secs() - start) / SHARE);
        losses.count_short_read(read?);
        Ok(())
    }
}

impl HeldConnections {
    fn observe(&mut self, now: f64, listener: u64, backlog: u32) -> Option<(u32, f64)> {
        if backlog == 0 {
            self.waiting.remove(&listener);
            return None;
        }
        self.waiting.entry(listener).or_insert(now);
        self.stuck(now, listener)
    }

    /// Forgets listeners that are gone.
    fn keep(&mut self, is_known: impl Fn(u64) -> bool) {
        self.waiting.retain(|&listener, _| is_known(listener));
    }

    fn is_wanted(&self, now: f64) -> bool {
        self.waiting.values().any(|since_t| now - since_t >= WAITS_SECS)
    }

    /// Takes what a pass found. `ran_ticks_of` returns the processor time of a process.
    fn take(
        &mut self,
        now: f64,
        found: &[UnixAcceptedSample],
        ran_ticks_of: impl Fn(u32) -> Option<u64>,
    ) {
        let mut holders: HashMap<u64, (UnixAcceptedSample, bool)> = HashMap::default();
        for sample in found {
            let (first, is_several) = holders.entry(sample.inode).or_insert((*sample, false));
            *is_several |= first.pid != sample.pid;
        }
        let mut ran: HashMap<u32, Option<u64>> = HashMap::default();
        let kept = holders.into_iter().filter(|(_, (_, is_several))| !is_several);
        let kept = kept.map(|(inode, (sample, _))| {
            let UnixAcceptedSample { address: listener, pid, .. } = sample;
            let ran_ticks = *ran.entry(pid).or_insert_with(|| ran_ticks_of(pid));
            let before = self.kept.get(&inode).filter(|before| {
                (before.listener, before.pid) == (listener, pid)
                    && hardly_ran(now - before.since_t, before.ran_ticks, ran_ticks)
            });
            let fresh = Kept { listener, pid, since_t: now, ran_ticks };
            (inode, before.copied().unwrap_or(fresh))
        });
        self.kept = kept.collect();
        self.looked_t = now;
    }

    fn stuck(&self, now: f64, listener: u64) -> Option<(u32, f64)> {
        if now - self.looked_t > STALE_SECS {
            return None;
        }
        let of_it = self.kept.values().filter(|kept| kept.listener == listener);
        let kept = of_it.filter(|kept| kept.since_t < self.looked_t);
        kept.min_by(|a, b| a.since_t.total_cmp(&b.since_t).then(a.pid.cmp(&b.pid)))
            .map(|kept| (kept.pid, now - kept.since_t))
    }
}

/// Returns whether a process hardly ran for so long, from its processor times before and after.
fn hardly_ran(secs: f64, before: Option<u64>, after: Option<u64>) -> bool {
    let idle_ticks = (IDLE_SHARE * TICKS_PER_SEC * secs).max(IDLE_TICKS_MIN);
    before.zip(after).is_some_and(|(before, after)| {
        after.checked_sub(before).is_some_and(|ran| ran as f64 <= idle_ticks)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTENER: u64 = 0xffff_8000;

    fn holds(pid: u32, inode: u64) -> UnixAcceptedSample {
        UnixAcceptedSample { address: LISTENER, inode, pid, reserved: 0 }
    }

    /// Connections wait, and a pass each second finds these; workers have run for so many ticks.
    fn looks(passes: &[(&[UnixAcceptedSample], u64)]) -> Option<(u32, f64)> {
        let mut held = HeldConnections::default();
        let mut stuck = None;
        for (now, (found, ran_ticks)) in passes.iter().enumerate() {
            let now = now as f64;
            held.observe(now, LISTENER, 5);
            held.take(now, found, |_| Some(*ran_ticks));
            stuck = held.observe(now, LISTENER, 5);
        }
        stuck
    }

    #[test]
    fn worker_that_keeps_a_connection_and_hardly_runs_is_stuck() {
        let first: &[_] = &[holds(11, 1), holds(12, 2)];
        assert_eq!(looks(&[(first, 0)]), None, "both may have been accepted just now");
        let second: &[_] = &[holds(11, 3), holds(12, 2)];
        assert_eq!(looks(&[(first, 0), (second, 1)]), Some((12, 1.0)));
        let third: &[_] = &[holds(11, 3), holds(12, 2)];
        assert_eq!(looks(&[(first, 0), (second, 1), (third, 2)]), Some((12, 2.0)));
        let without: &[_] = &[holds(11, 3)];
        assert_eq!(looks(&[(first, 0), (second, 1), (without, 2)]), Some((11, 1.0)));
    }

    #[test]
    fn worker_that_runs_is_not_stuck() {
        let found: &[_] = &[holds(11, 1)];
        assert_eq!(looks(&[(found, 100), (found, 110)]), None);
        assert_eq!(looks(&[(found, 100), (found, 110), (found, 110)]), Some((11, 1.0)));
    }

    #[test]
    fn connection_of_several_processes_is_nobodys() {
        let found: &[_] = &[holds(11, 1), holds(12, 1), holds(11, 1)];
        assert_eq!(looks(&[(found, 0), (found, 0)]), None);
        let twice: &[_] = &[holds(11, 1), holds(11, 1)];
        assert_eq!(looks(&[(twice, 0), (twice, 0)]), Some((11, 1.0)), "dup() makes no other");
    }

    #[test]
    fn nobody_is_looked_for_unless_connections_wait() {
        let mut held = HeldConnections::default();
        held.observe(0.0, LISTENER, 1);
        assert!(!held.is_wanted(0.4) && held.is_wanted(0.5));
        held.observe(0.6, LISTENER, 0);
        assert!(!held.is_wanted(9.0));
        held.observe(1.0, LISTENER, 1);
        held.keep(|_| false);
        assert!(!held.is_wanted(9.0));
    }

    #[test]
    fn old_pass_says_nothing() {
        let mut held = HeldConnections::default();
        for now in [0.0, 1.0] {
            held.take(now, &[holds(11, 1)], |_| Some(0));
        }
        assert_eq!(held.observe(2.0, LISTENER, 1), Some((11, 2.0)));
        assert_eq!(held.observe(2.0 + STALE_SECS, LISTENER, 1), None);
    }
}
