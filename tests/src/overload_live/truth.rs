//! Behaviour of a listener's queue, observed independently of the agent: every two milliseconds the
//! queue's depth from `/proc/net/tcp`, the connections so far from `PassiveOpens`, and
//! `ListenOverflows`, all of the test's own namespace.
//!
//! The queue is first in, first out. With `arrived` connections of which `depth` wait, the head is
//! number `arrived - depth + 1`, and has waited since `arrived` reached that number. The namespace
//! must have one listener; of several on one address only the sum of waiting connections is known,
//! and heads seem younger than they are. A late sample, on a busy machine, only makes heads seem
//! younger; the delay is reported.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{now, real_time};

/// Interval between samples: short against the 5 ms from which a wait counts.
const EVERY: Duration = Duration::from_millis(2);

/// Connections accepted while a queue stands from which that is no chance: within `sustain`, and
/// half as many within twice that. As `agent/README.md` defines it; at nine tenths of its capacity
/// a server lets a thousand stand for a second each minute.
const WENT_MIN: u64 = 2_000;

/// One sample.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// Time of the sample.
    pub at: Instant,
    /// Waiting connections.
    pub depth: u64,
    /// Connections established so far.
    pub arrived: u64,
    /// Connections refused for lack of room so far.
    pub overflows: u64,
}

impl Look {
    /// Returns the connections accepted so far.
    fn went(&self) -> u64 {
        self.arrived.saturating_sub(self.depth)
    }
}

/// Samples until it is stopped.
pub struct Truth {
    stop: Arc<AtomicBool>,
    looks: Arc<Mutex<Vec<Look>>>,
    looking: JoinHandle<()>,
}

impl Truth {
    /// Begins to sample the one listener of this thread's namespace.
    pub fn watch() -> Self {
        Self::watch_all(1)
    }

    /// Begins to sample that many listeners of this thread's namespace.
    ///
    /// # Panics
    ///
    /// Panics in its thread if the counters cannot be read.
    pub fn watch_all(listeners: usize) -> Self {
        let (stop, looks) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (stopped, seen) = (stop.clone(), looks.clone());
        let looking = thread::spawn(move || {
            // Without this permission, samples are later.
            let _ = real_time();
            let mut counters =
                Counters::open(listeners).expect("cannot read the namespace's counters");
            while !stopped.load(Ordering::Relaxed) {
                let look = counters.look().expect("cannot read the namespace's counters");
                seen.lock().unwrap_or_else(PoisonError::into_inner).push(look);
                thread::sleep(EVERY);
            }
        });
        Self { stop, looks, looking }
    }

    /// Returns whether a connection was refused for lack of room since the start.
    pub fn overflowed(&self) -> bool {
        let looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        looks
            .first()
            .zip(looks.last())
            .is_some_and(|(first, last)| last.overflows > first.overflows)
    }

    /// Stops sampling, and returns the samples.
    ///
    /// # Panics
    ///
    /// Panics if the counters could not be read.
    pub fn end(self) -> History {
        self.stop.store(true, Ordering::Relaxed);
        self.looking.join().expect("the sampling thread panicked");
        History {
            looks: std::mem::take(&mut *self.looks.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

/// Files of a namespace, held open: they always show the namespace in which they were opened.
pub struct Counters {
    tcp: File,
    snmp: File,
    netstat: File,
    listeners: usize,
    text: Vec<u8>,
}

impl Counters {
    /// Opens those of this thread's namespace, which has that many listeners.
    ///
    /// # Errors
    ///
    /// Returns an error if `/proc` does not let them be read.
    pub fn open(listeners: usize) -> io::Result<Self> {
        let open = |name| File::open(format!("/proc/thread-self/net/{name}"));
        Ok(Self {
            tcp: open("tcp")?,
            snmp: open("snmp")?,
            netstat: open("netstat")?,
            listeners,
            text: vec![0; 16 << 10],
        })
    }

    /// Reads them.
    ///
    /// # Errors
    ///
    /// Returns an error if they cannot be read any more.
    pub fn look(&mut self) -> io::Result<Look> {
        let arrived = counter(read(&self.snmp, &mut self.text)?, "Tcp:", "PassiveOpens");
        // Header and a line each, 150 bytes: with a larger buffer, the kernel would walk the table
        // of all connections.
        let length = self.tcp.read_at(&mut self.text[..150 * (1 + self.listeners)], 0)?;
        let depth = listeners_depth(&String::from_utf8_lossy(&self.text[..length]));
        let at = now();
        let overflows = counter(read(&self.netstat, &mut self.text)?, "TcpExt:", "ListenOverflows");
        Ok(Look { at, depth, arrived, overflows })
    }
}

fn read<'a>(file: &File, into: &'a mut [u8]) -> io::Result<&'a str> {
    let length = file.read_at(into, 0)?;
    std::str::from_utf8(&into[..length]).map_err(io::Error::other)
}

/// Returns the value below a name, in the two lines of a group.
fn counter(text: &str, group: &str, name: &str) -> u64 {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(group));
    let (names, values) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
    let found =
        names.split_whitespace().zip(values.split_whitespace()).find(|(known, _)| *known == name);
    found
        .and_then(|(_, value)| value.parse().ok())
        .unwrap_or_else(|| panic!("{group} has no {name}: {text}"))
}

/// Returns the number waiting at the listeners, which come first: the kernel shows it in the column
/// in which other sockets have bytes to read.
fn listeners_depth(text: &str) -> u64 {
    let depth = |line: &str| {
        let mut fields = line.split_whitespace().skip(3);
        let (state, queues) = (fields.next(), fields.next());
        let depth =
            queues.and_then(|queues| u64::from_str_radix(queues.split_once(':')?.1, 16).ok());
        // 0A is LISTEN; a listener that has closed has no queue.
        depth.filter(|_| state == Some("0A"))
    };
    text.lines().skip(1).filter_map(depth).sum()
}

/// Period in which the head of the queue was never younger than the target.
#[derive(Debug, Clone, Copy)]
pub struct Stand {
    /// First sample that showed it.
    pub from: Instant,
    /// Last one.
    pub to: Instant,
}

/// Interval between two samples from which a trend is read, as in the agent: within less there is
/// only chance.
const TREND_EVERY: Duration = Duration::from_millis(100);

/// Tracks whether a queue that stands is draining.
#[derive(Debug, Default)]
struct Drain {
    /// Deepest sample of the stand.
    peak: Option<Look>,
    /// Samples of the last `sustain`, oldest first.
    last: VecDeque<Look>,
}

impl Drain {
    fn take(&mut self, look: &Look, sustain: Duration) {
        if self.last.back().is_some_and(|last| look.at - last.at < TREND_EVERY) {
            return;
        }
        if self.peak.is_none_or(|peak| look.depth >= peak.depth) {
            self.peak = Some(*look);
        }
        self.last.push_back(*look);
        while self.last.front().is_some_and(|first| look.at - first.at > sustain) {
            self.last.pop_front();
        }
    }

    /// Returns whether it has fallen within `sustain`, or before without rising since.
    fn goes_on(&self, look: &Look) -> bool {
        let falls = |from: &Look| is_more_than_chance(from, look, from.depth, look.depth);
        let rises = |from: &Look| is_more_than_chance(from, look, look.depth, from.depth);
        self.last.iter().any(falls)
            || (self.peak.iter().any(falls) && !self.last.front().is_some_and(rises))
    }
}

/// Returns whether a queue moved between two samples, given as lesser and greater depth, by more
/// than one standard deviation of its random motion if as many arrive as leave.
fn is_more_than_chance(from: &Look, to: &Look, greater: u64, lesser: u64) -> bool {
    let moved = greater.saturating_sub(lesser);
    moved >= 1 && moved as f64 >= (2.0 * to.went().saturating_sub(from.went()) as f64).sqrt()
}

/// Samples, oldest first.
pub struct History {
    looks: Vec<Look>,
}

impl History {
    /// Makes a history of these samples, oldest first.
    pub fn of(looks: Vec<Look>) -> Self {
        Self { looks }
    }

    /// Returns all samples.
    pub fn looks(&self) -> &[Look] {
        &self.looks
    }

    /// Returns every period in which the queue stood.
    pub fn stands(&self, target: Duration) -> Vec<Stand> {
        let mut stands: Vec<Stand> = Vec::new();
        let mut stood = false;
        let mut head_came = 0;
        for look in &self.looks {
            let head = (look.arrived + 1).saturating_sub(look.depth);
            while self.looks[head_came].arrived < head && self.looks[head_came].at < look.at {
                head_came += 1;
            }
            let stands_now = look.depth > 0 && look.at - self.looks[head_came].at >= target;
            match stands.last_mut() {
                Some(stand) if stands_now && stood => stand.to = look.at,
                _ if stands_now => stands.push(Stand { from: look.at, to: look.at }),
                _ => {}
            }
            stood = stands_now;
        }
        stands
    }

    /// Returns the longest of them; zero if it never stood.
    pub fn longest_stand(&self, target: Duration) -> Duration {
        self.stands(target).iter().map(|stand| stand.to - stand.from).max().unwrap_or_default()
    }

    /// Returns the time at which it had first stood throughout `sustain`.
    pub fn stood_throughout(&self, target: Duration, sustain: Duration) -> Option<Instant> {
        let stands = self.stands(target);
        stands
            .iter()
            .find(|stand| stand.to - stand.from >= sustain)
            .map(|stand| stand.from + sustain)
    }

    /// Returns the time at which it was first an overload by the published definition: it had stood
    /// throughout `sustain` and for so long that chance does not explain it, while many connections
    /// were accepted, and was not draining.
    pub fn overloaded(&self, target: Duration, sustain: Duration) -> Option<Instant> {
        self.first_proven(target, sustain, |drain, look| !drain.goes_on(look))
    }

    /// Returns the same time for a queue that may be draining, as after a burst, a pause, or a slow
    /// second.
    #[cfg(test)]
    fn stood_for_long(&self, target: Duration, sustain: Duration) -> Option<Instant> {
        self.first_proven(target, sustain, |_, _| true)
    }

    fn first_proven(
        &self,
        target: Duration,
        sustain: Duration,
        and: impl Fn(&Drain, &Look) -> bool,
    ) -> Option<Instant> {
        let proven = |stand: &Stand| {
            let mut within =
                self.looks.iter().filter(|look| look.at >= stand.from && look.at <= stand.to);
            let first = within.next()?;
            let mut drain = Drain::default();
            let is_proven = |look: &&Look| {
                drain.take(look, sustain);
                let stood = look.at - stand.from;
                let went = look.went().saturating_sub(first.went());
                let is_no_chance = (stood >= sustain && went >= WENT_MIN)
                    || (stood >= 2 * sustain && went >= WENT_MIN / 2);
                is_no_chance && and(&drain, look)
            };
            within.find(is_proven).map(|look| look.at)
        };
        self.stands(target).iter().find_map(proven)
    }

    /// Returns the time of the first sample with a waiting connection after which every sample has
    /// one.
    pub fn waits_since(&self) -> Option<Instant> {
        let waiting = self.looks.iter().rev().take_while(|look| look.depth > 0);
        waiting.last().map(|look| look.at)
    }

    /// Returns the time at which the first connection was refused for lack of room.
    pub fn first_overflow(&self) -> Option<Instant> {
        let before = self.looks.first()?.overflows;
        self.looks.iter().find(|look| look.overflows > before).map(|look| look.at)
    }

    /// Returns the connections per second that arrived between two instants.
    pub fn arrivals_per_sec(&self, from: Instant, to: Instant) -> f64 {
        let within: Vec<_> =
            self.looks.iter().filter(|look| look.at >= from && look.at <= to).collect();
        match (within.first(), within.last()) {
            (Some(first), Some(last)) if last.at > first.at => {
                (last.arrived - first.arrived) as f64 / (last.at - first.at).as_secs_f64()
            }
            _ => 0.0,
        }
    }

    /// Returns the depth of the deepest queue.
    pub fn deepest(&self) -> u64 {
        self.looks.iter().map(|look| look.depth).max().unwrap_or(0)
    }

    /// Returns the times of the first and the last sample.
    pub fn span(&self) -> Option<(Instant, Instant)> {
        Some((self.looks.first()?.at, self.looks.last()?.at))
    }

    /// Returns the longest interval between samples in the second before `at`.
    pub fn longest_gap_before(&self, at: Instant) -> Duration {
        let near = self
            .looks
            .windows(2)
            .filter(|pair| pair[0].at <= at && pair[1].at + Duration::from_secs(1) >= at);
        near.map(|pair| pair[1].at - pair[0].at).max().unwrap_or_default()
    }

    /// Returns the longest interval between samples.
    pub fn longest_gap(&self) -> Duration {
        self.looks.windows(2).map(|pair| pair[1].at - pair[0].at).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use spillway_agent::engine::HostInfo;

    use super::*;
    use crate::{
        corpus::Compared,
        overload_live::report::REPORTED_WITHIN,
        queues::{Ramp, Tick, rules},
    };

    /// Ramps of each kind. Of 3,000 of each, the latest was claimed after 171 ms.
    const RAMPS: u64 = 8;

    /// Makes samples 2 ms apart from pairs of waiting and arrived connections.
    fn history(seen: impl IntoIterator<Item = (u64, u64)>) -> History {
        let start = now();
        let look =
            |(n, (depth, arrived))| Look { at: start + EVERY * n, depth, arrived, overflows: 0 };
        History { looks: (0..).zip(seen).map(look).collect() }
    }

    const TARGET: Duration = Duration::from_millis(5);

    #[test]
    fn queue_with_quick_turnover_does_not_stand() {
        // One waits at every sample, each time a different one.
        let moving = history((0..100).map(|n| (1, n)));
        assert_eq!(moving.longest_stand(TARGET), Duration::ZERO);
    }

    #[test]
    fn queue_stands_while_its_head_is_old() {
        // Ten wait from the tenth sample on, and each time one is accepted and one arrives: a head
        // has waited for 18 ms.
        let standing = history(
            (0..10).map(|n| (n, n)).chain((10..60).map(|n| (10, n))).chain([(0, 60), (1, 61)]),
        );
        let stands = standing.stands(TARGET);
        assert_eq!(stands.len(), 1, "{stands:?}");
        let since_start = |at: Instant| (at - standing.looks[0].at).as_millis();
        // Number 1 arrived in sample 1 and was 6 ms old in sample 4; sample 59 was the last with
        // ten waiting.
        assert_eq!((since_start(stands[0].from), since_start(stands[0].to)), (8, 118));
    }

    #[test]
    fn standing_queue_is_an_overload_once_chance_is_excluded() {
        let overloaded_ms = |per_look: u64| {
            let seen = history((0..2_000).map(|n| (10 * per_look, n * per_look)));
            seen.overloaded(TARGET, Duration::from_secs(1))
                .map(|at| (at - seen.looks[0].at).as_millis())
        };
        // Ten samples' worth waits from the beginning, so that the head is old from the fourth
        // sample on.
        assert_eq!(overloaded_ms(8), Some(1_006));
        // Seven samples more until the first waiting ones are accepted.
        assert_eq!(overloaded_ms(1), Some(2_020));
        let slow = history((0..2_000).map(|n| (10, n / 3)));
        assert_eq!(slow.overloaded(TARGET, Duration::from_secs(1)), None);
    }

    #[test]
    fn depths_of_all_listeners_are_summed() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when \
                    retrnsmt   uid\n   \
                    0: 0100007F:1F40 00000000:0000 0A 00000000:0000001F 00:00000000 00000000     0";
        assert_eq!(listeners_depth(text), 31);
        assert_eq!(listeners_depth(&text.replace(" 0A ", " 01 ")), 0);
        assert_eq!(listeners_depth(""), 0);
        let (_, line) = text.split_once('\n').unwrap();
        assert_eq!(listeners_depth(&format!("{text}\n{line}")), 62);
    }

    /// Returns the seconds of a ramp until the queue had stood for long, until it was an overload,
    /// and until the agent would claim it.
    fn ramped(ramp: Ramp) -> [f64; 3] {
        let (start, sustain) = (now(), Duration::from_secs(1));
        let look = |tick: Tick| Look {
            at: start + Duration::from_secs_f64(tick.t),
            depth: tick.depth,
            arrived: tick.arrived,
            overflows: tick.overflows,
        };
        let history = History::of(ramp.ticks().into_iter().map(look).collect());
        let host = HostInfo { mem_total_bytes: 16 << 30, cpus: 4 };
        let (_, mut detector) = rules(host, Compared::Detector).swap_remove(0);
        let mut claims = Vec::new();
        for observation in ramp.observations(host) {
            detector.observe(&observation, &mut claims);
            if !claims.is_empty() {
                break;
            }
        }
        let claimed = claims.first().expect("the ramp is not claimed").raised_secs;
        let secs = |at: Option<Instant>| at.map_or(f64::INFINITY, |at| (at - start).as_secs_f64());
        [
            secs(history.stood_for_long(TARGET, sustain)),
            secs(history.overloaded(TARGET, sustain)),
            claimed,
        ]
    }

    fn reported_within() -> f64 {
        REPORTED_WITHIN.as_secs_f64()
    }

    /// Slow ramp at a server whose speed varies, like a virtual processor's.
    const SWAYING: Ramp = Ramp {
        capacity_per_sec: 950.0,
        load: [0.88, 1.24],
        backlog_max: 511,
        sways: 0.12,
        seed: 0,
    };

    #[test]
    fn draining_queue_is_no_overload_until_it_stops_draining() {
        // It has stood for two seconds while a thousand were accepted, and then falls from 91 to
        // 18.
        let [stood, overloaded, claimed] = ramped(Ramp { seed: 739, ..SWAYING });
        assert!(claimed - stood > reported_within(), "{stood} {claimed}");
        assert!(overloaded > stood, "{stood} {overloaded}");
        assert!(claimed - overloaded <= reported_within(), "{overloaded} {claimed}");
    }

    #[test]
    fn simulated_ramps_are_claimed_soon_after_they_overload() {
        for ramp in [Ramp { load: [1.0, 1.4], ..SWAYING }, SWAYING] {
            for seed in 0..RAMPS {
                let [_, overloaded, claimed] = ramped(Ramp { seed, ..ramp });
                let after = claimed - overloaded;
                assert!(after <= reported_within(), "seed {seed} of {ramp:?}: {after} s late");
            }
        }
    }
}
