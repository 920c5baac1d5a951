//! Losses of confidence for what the sensors do not see.
//!
//! A probe that runs on a fallback, a probe that is off, lost samples: none of them changes a rule,
//! but each makes the claims that rest on it less certain, and the claim's sentence says so. Claims
//! rest only on what their rule reads: a leak does not depend on accept queues. The state of a
//! probe holds until the next report; a loss counts for [`LOSS_COUNTS_SECS`]. Cold start:
//! everything is taken to work, as in older traces, which carry no reports. Unknown names, as in
//! traces of a newer version, are ignored.

use std::sync::Arc;

use crate::{
    bpf::{Loss, Probe},
    sense::SensorHealthFact,
};

/// Evidence that a claim rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// Memory of a process over time.
    Leak,
    /// Memory charged to a cgroup over time, beside that of its processes.
    Cgroup,
    /// Open files, threads and sockets of a process over time.
    Handles,
    /// A count that has a limit, over time.
    Count,
    /// Results of a workload's outbound connects.
    Outbound,
    /// An accept queue, by the age of its oldest connection.
    QueueAge,
    /// An accept queue of which only the depth is known. Its rule starts from a lower confidence.
    QueueDepth,
    /// An accept queue of a UNIX listener, of which only the depth is known on any kernel.
    UnixQueue,
    /// Requests on established connections.
    Requests,
}

/// Time for which a loss counts, in seconds. A guess: twice the shortest horizon on which a leak is
/// judged, and many times the longest run that an overload needs.
const LOSS_COUNTS_SECS: f64 = 60.0;

// The four grades of doubt. All are guesses. Their order was chosen, and that two or three together
// do not suppress a claim: an agent without any BPF is still worth waking up for.

/// Supporting evidence is weaker; the rule itself has all its inputs.
const SLIGHT: f64 = 0.98;

/// An input of the rule arrives later, coarser or with gaps.
const MILD: f64 = 0.95;

/// A premise of the rule is assumed rather than observed, such as that a process still runs the
/// same program.
const MARKED: f64 = 0.85;

/// An input of the rule is missing altogether.
const SEVERE: f64 = 0.5;

const _: () =
    assert!(0.0 < SEVERE && SEVERE <= MARKED && MARKED <= MILD && MILD <= SLIGHT && SLIGHT <= 1.0);

/// A factor on a claim's confidence, and the words that the claim's sentence ends with.
#[derive(Debug)]
struct Penalty(f64, &'static str);

/// Rules that rest on a probe, and the penalties for a probe that is degraded or off.
struct ProbePenalties {
    rules: &'static [Rule],
    degraded: Penalty,
    off: Penalty,
}

/// Rules that rest on what was lost, and the penalty for a loss.
struct LossPenalty {
    rules: &'static [Rule],
    penalty: Penalty,
}

const LEAK: &[Rule] = &[Rule::Leak];
const MEMORY: &[Rule] = &[Rule::Leak, Rule::Cgroup];
const CGROUP: &[Rule] = &[Rule::Cgroup];
const COUNT: &[Rule] = &[Rule::Count];
const PROCESS: &[Rule] = &[Rule::Leak, Rule::Handles];
const TCP_QUEUE: &[Rule] = &[Rule::QueueAge, Rule::QueueDepth];
const UNIX_QUEUE: &[Rule] = &[Rule::UnixQueue];
const ANY_QUEUE: &[Rule] = &[Rule::QueueAge, Rule::QueueDepth, Rule::UnixQueue];
const OUTBOUND: &[Rule] = &[Rule::Outbound];
const REQUESTS: &[Rule] = &[Rule::Requests];

/// Penalties of a probe.
const fn probe_penalties(probe: Probe) -> ProbePenalties {
    let (rules, degraded, off) = match probe {
        Probe::ProcessMemory => (
            MEMORY,
            Penalty(MILD, "memory was read in a coarser or slower way"),
            Penalty(SEVERE, "memory was not read"),
        ),
        Probe::FaultSamples => (
            LEAK,
            Penalty(SLIGHT, "page faults were sampled less exactly"),
            Penalty(MILD, "page faults were not sampled"),
        ),
        Probe::ProcessLife => (
            PROCESS,
            Penalty(MILD, "process starts and exits were seen only indirectly"),
            Penalty(MARKED, "process starts and exits were not seen"),
        ),
        Probe::ProcessHandles => (
            &[Rule::Handles] as &[Rule],
            Penalty(MILD, "open files were counted in a slower way, and CLOSE_WAIT not at all"),
            Penalty(SEVERE, "open files were not counted"),
        ),
        // The rule that reads depth alone starts from a lower confidence already.
        Probe::AcceptQueue => (
            &[Rule::QueueAge] as &[Rule],
            Penalty(MILD, "accept queues were read in a slower way"),
            Penalty(SEVERE, "accept queues were not read"),
        ),
        Probe::UnixQueue => (
            UNIX_QUEUE,
            Penalty(MILD, "UNIX accept queues were read in a slower way"),
            Penalty(SEVERE, "UNIX accept queues were not read"),
        ),
        // Waits show that a queue drained between two scans; without them it must stand for longer.
        Probe::AcceptSojourn => (
            &[Rule::QueueAge] as &[Rule],
            Penalty(SLIGHT, "only the wait of the oldest connection was timed"),
            Penalty(MILD, "waits for accept() were not timed"),
        ),
        Probe::OutboundConnects => (
            OUTBOUND,
            Penalty(MILD, "outbound connects were followed in a coarser way"),
            Penalty(SEVERE, "outbound connects were not followed"),
        ),
        Probe::Requests => (
            REQUESTS,
            Penalty(MILD, "requests on connections were read in a coarser way"),
            Penalty(SEVERE, "requests on connections were not read"),
        ),
        // The numbers are read without it.
        Probe::OpenFiles => (
            COUNT,
            Penalty(SLIGHT, "the files that fill a disk were listed in a slower way"),
            Penalty(SLIGHT, "the files that fill a disk were not listed"),
        ),
    };
    ProbePenalties { rules, degraded, off }
}

/// Penalty of a loss.
const fn loss_penalty(loss: Loss) -> LossPenalty {
    let (rules, factor, words) = match loss {
        Loss::LifeRingFull => (PROCESS, MILD, "some process starts and exits were lost"),
        Loss::FaultMapFull => (LEAK, SLIGHT, "page faults of some processes were lost"),
        Loss::ListenerMapFull => (TCP_QUEUE, MILD, "some listeners did not fit into BPF's map"),
        Loss::SojournMapFull => {
            (&[Rule::QueueAge] as &[Rule], SLIGHT, "waits at some listeners were not timed")
        }
        Loss::OutboundMapFull => {
            (OUTBOUND, MILD, "some outbound connects did not fit into BPF's map")
        }
        Loss::ArrivalMapFull => {
            (&[Rule::QueueAge] as &[Rule], SLIGHT, "connections of some listeners were not counted")
        }
        Loss::ListenerShareFull => (
            TCP_QUEUE,
            SLIGHT,
            "some users or namespaces have more listeners than BPF reads; \
             the rest are read less often",
        ),
        Loss::SojournShareFull => (
            &[Rule::QueueAge] as &[Rule],
            SLIGHT,
            "waits at some listeners of users with many of them were not timed",
        ),
        Loss::OutboundShareFull => (
            OUTBOUND,
            SLIGHT,
            "some connects of users with thousands of destinations were not counted",
        ),
        Loss::HostReadFailed => (MEMORY, MILD, "the host's memory could not always be read"),
        Loss::ProcessScanFailed => (MEMORY, MARKED, "some scans of processes failed"),
        Loss::HandleScanFailed => {
            (&[Rule::Handles] as &[Rule], MILD, "some counts of open files failed")
        }
        Loss::ListenerScanFailed => (TCP_QUEUE, MARKED, "some scans of accept queues failed"),
        Loss::UnixScanFailed => (UNIX_QUEUE, MARKED, "some scans of UNIX accept queues failed"),
        Loss::OutboundReadFailed => (OUTBOUND, MILD, "some reads of outbound connects failed"),
        Loss::RequestReadFailed => {
            (REQUESTS, MARKED, "some reads of requests on connections failed")
        }
        Loss::ShortRead => (
            &[
                Rule::Leak,
                Rule::Cgroup,
                Rule::Handles,
                Rule::Outbound,
                Rule::QueueAge,
                Rule::QueueDepth,
                Rule::UnixQueue,
                Rule::Requests,
            ] as &[Rule],
            MILD,
            "some samples were cut off",
        ),
        Loss::UnknownSample => (PROCESS, MILD, "some process starts and exits were unreadable"),
        Loss::ListenersLeftOut => {
            (ANY_QUEUE, SLIGHT, "some listeners of users with thousands of them were left out")
        }
        Loss::OutboundLeftOut => {
            (OUTBOUND, SLIGHT, "some destinations without failures were left out")
        }
        Loss::RequestsLeftOut => {
            (REQUESTS, SLIGHT, "responses on some of very many connections were not counted")
        }
        Loss::SockDiagFailed => (TCP_QUEUE, MILD, "some sock_diag requests for listeners failed"),
        Loss::UnixDiagFailed => {
            (UNIX_QUEUE, MILD, "some sock_diag requests for UNIX listeners failed")
        }
        Loss::NetnsNotEntered => {
            (ANY_QUEUE, SLIGHT, "listeners in some network namespaces could not be read")
        }
        Loss::NetnsHidden => {
            (ANY_QUEUE, SLIGHT, "listeners in other network namespaces were hidden from the agent")
        }
        Loss::CgroupReadFailed => (CGROUP, MILD, "the memory of some cgroups could not be read"),
        Loss::CgroupsLeftOut => {
            (CGROUP, SLIGHT, "some cgroups of users with thousands of them were left out")
        }
        Loss::CountReadFailed => (COUNT, MILD, "some counts could not be read"),
    };
    LossPenalty { rules, penalty: Penalty(factor, words) }
}

const PROBE_PENALTIES: [ProbePenalties; Probe::VARIANTS.len()] = {
    let mut table = [const { probe_penalties(Probe::ProcessMemory) }; Probe::VARIANTS.len()];
    let mut row = 0;
    while row < table.len() {
        table[row] = probe_penalties(Probe::VARIANTS[row]);
        row += 1;
    }
    table
};

const LOSS_PENALTIES: [LossPenalty; Loss::VARIANTS.len()] = {
    let mut table = [const { loss_penalty(Loss::LifeRingFull) }; Loss::VARIANTS.len()];
    let mut row = 0;
    while row < table.len() {
        table[row] = loss_penalty(Loss::VARIANTS[row]);
        row += 1;
    }
    table
};

/// State of a probe, as the sensors last reported it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum SensorState {
    #[default]
    Full,
    Degraded,
    Off,
}

/// Reliability of the sensors' data now.
#[derive(Debug, Clone, Default)]
pub struct SensorHealth {
    /// In the order of [`Probe::VARIANTS`].
    probes: [SensorState; Probe::VARIANTS.len()],
    /// Time of each loss's last report, in the order of [`Loss::VARIANTS`].
    lost_t: [Option<f64>; Loss::VARIANTS.len()],
}

impl SensorHealth {
    /// Takes the sensors' report of their own state at `t`.
    pub fn note(&mut self, t: f64, fact: &SensorHealthFact) {
        let names = |list: &[Arc<str>], name: &str| list.iter().any(|one| **one == *name);
        for (state, probe) in self.probes.iter_mut().zip(Probe::VARIANTS) {
            *state = match (names(&fact.off, probe.name()), names(&fact.degraded, probe.name())) {
                (true, _) => SensorState::Off,
                (false, true) => SensorState::Degraded,
                (false, false) => SensorState::Full,
            };
        }
        for (lost_t, loss) in self.lost_t.iter_mut().zip(Loss::VARIANTS) {
            if fact.lost.get(loss.name()).is_some_and(|&count| count > 0) {
                *lost_t = Some(t);
            }
        }
    }

    /// Reduces a claim's confidence by what its rule lacks at `t`, and appends the reasons to
    /// `why`.
    pub(super) fn weigh(&self, rule: Rule, t: f64, confidence: f64, why: &mut String) -> f64 {
        self.penalties(rule, t).fold(confidence, |left, Penalty(factor, words)| {
            why.push_str("; ");
            why.push_str(words);
            left * factor
        })
    }

    fn penalties(&self, rule: Rule, t: f64) -> impl Iterator<Item = &'static Penalty> {
        let probes = self.probes.iter().zip(&PROBE_PENALTIES);
        let probes = probes.filter(move |(_, row)| row.rules.contains(&rule));
        let probes = probes.filter_map(|(state, row)| match state {
            SensorState::Full => None,
            SensorState::Degraded => Some(&row.degraded),
            SensorState::Off => Some(&row.off),
        });
        let losses = self.lost_t.iter().zip(&LOSS_PENALTIES);
        let losses = losses.filter(move |(_, row)| row.rules.contains(&rule));
        let losses = losses.filter_map(move |(lost_t, row)| {
            lost_t.is_some_and(|then| t - then <= LOSS_COUNTS_SECS).then_some(&row.penalty)
        });
        probes.chain(losses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: [Rule; 9] = [
        Rule::Leak,
        Rule::Cgroup,
        Rule::Handles,
        Rule::Count,
        Rule::Outbound,
        Rule::QueueAge,
        Rule::QueueDepth,
        Rule::UnixQueue,
        Rule::Requests,
    ];

    fn fact(degraded: &[&str], off: &[&str], lost: &[(&str, u64)]) -> SensorHealthFact {
        let names = |list: &[&str]| list.iter().map(|&name| Arc::from(name)).collect();
        let lost = lost.iter().map(|&(name, count)| (Arc::from(name), count)).collect();
        SensorHealthFact { degraded: names(degraded), off: names(off), lost }
    }

    fn weigh(health: &SensorHealth, rule: Rule, t: f64) -> (f64, String) {
        let mut why = String::from("it grew");
        (health.weigh(rule, t, 1.0, &mut why), why)
    }

    /// Factor for each rule right after a report, the sentence being longer where it is below 1.
    fn factors(fact: &SensorHealthFact) -> [f64; RULES.len()] {
        let mut health = SensorHealth::default();
        health.note(0.0, fact);
        RULES.map(|rule| {
            let (factor, why) = weigh(&health, rule, 0.0);
            assert_eq!(factor < 1.0, why.starts_with("it grew; "), "{why}");
            factor
        })
    }

    #[test]
    fn every_probe_lowers_the_confidence_of_some_rule() {
        for probe in Probe::VARIANTS {
            let degraded = factors(&fact(&[probe.name()], &[], &[]));
            let off = factors(&fact(&[], &[probe.name()], &[]));
            assert!(degraded.iter().any(|factor| *factor < 1.0), "{}", probe.name());
            for (degraded, off) in degraded.into_iter().zip(off) {
                assert!(
                    0.0 < off && off <= degraded && (off < 1.0) == (degraded < 1.0),
                    "{}: {degraded} degraded, {off} off",
                    probe.name()
                );
            }
        }
    }

    #[test]
    fn every_loss_lowers_a_confidence() {
        for loss in Loss::VARIANTS {
            let factors = factors(&fact(&[], &[], &[(loss.name(), 1)]));
            let is_lower = factors.iter().any(|factor| *factor < 1.0);
            assert!(is_lower, "{}: {factors:?}", loss.name());
            assert!(factors.iter().all(|factor| *factor > 0.0), "{}", loss.name());
        }
    }

    #[test]
    fn unseen_exits_lower_a_leak_and_its_sentence_says_so() {
        let mut health = SensorHealth::default();
        health.note(0.0, &fact(&[], &["process_life"], &[]));
        let said = "it grew; process starts and exits were not seen".to_owned();
        assert_eq!(weigh(&health, Rule::Leak, 1e6), (MARKED, said));
        assert_eq!(weigh(&health, Rule::QueueAge, 0.0), (1.0, "it grew".to_owned()));
        health.note(1.0, &SensorHealthFact::default());
        assert_eq!(weigh(&health, Rule::Leak, 1.0), (1.0, "it grew".to_owned()));
    }

    #[test]
    fn a_loss_counts_for_a_minute() {
        let mut health = SensorHealth::default();
        health.note(100.0, &fact(&[], &[], &[("life_ring_full", 3), ("listener_map_full", 0)]));
        assert_eq!(weigh(&health, Rule::Leak, 160.0).0, MILD);
        assert_eq!(weigh(&health, Rule::Leak, 160.1).0, 1.0);
        assert_eq!(weigh(&health, Rule::QueueAge, 100.0).0, 1.0, "a count of zero is no loss");
        health.note(150.0, &SensorHealthFact::default());
        assert_eq!(weigh(&health, Rule::Leak, 160.0).0, MILD, "a report of probes ends no loss");
    }

    #[test]
    fn a_queue_known_by_depth_is_not_penalised_twice() {
        let mut health = SensorHealth::default();
        health.note(0.0, &fact(&["accept_queue"], &[], &[]));
        assert_eq!(weigh(&health, Rule::QueueDepth, 0.0).0, 1.0);
        assert_eq!(weigh(&health, Rule::QueueAge, 0.0).0, MILD);
    }

    #[test]
    fn tcp_and_unix_queues_are_penalised_apart() {
        let mut health = SensorHealth::default();
        health.note(0.0, &fact(&[], &["unix_queue"], &[("unix_scan_failed", 1)]));
        assert_eq!(weigh(&health, Rule::UnixQueue, 0.0).0, SEVERE * MARKED);
        assert_eq!(weigh(&health, Rule::QueueDepth, 0.0).0, 1.0);
    }

    #[test]
    fn unknown_names_are_ignored() {
        let unknown = fact(&["gpu", ""], &["<script>"], &[("gpu_ring_full", u64::MAX)]);
        assert_eq!(factors(&unknown), [1.0; RULES.len()]);
    }
}
