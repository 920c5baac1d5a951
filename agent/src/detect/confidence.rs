//! What the sensors do not see, and what that takes off a claim's confidence.
//!
//! A probe at its second choice, a probe that is off, samples that were lost: none of it changes a
//! rule, all of it makes the rule's claims less sure, and a claim says so. Only what the claim
//! rests on counts: who leaks does not depend on how accept queues are read. Probes hold until told
//! otherwise; a loss counts for [`LOSS_COUNTS_SECS`]. Cold start: all is seen, as older traces,
//! which say nothing of it, assume. It refuses nothing: a name that it does not know takes nothing
//! off, and nothing of it is kept.

use std::sync::Arc;

use crate::sense::SensorHealthFact;

/// What a claim rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// Memory of a process over time.
    Leak,
    /// Files, threads and sockets of a process over time.
    Handles,
    /// How connects of a workload end.
    Outbound,
    /// A queue whose head's age was seen throughout.
    QueueAge,
    /// A queue of which only the depth was seen: its rule already starts from less confidence for
    /// that.
    QueueDepth,
}

/// How long a loss counts. A guess: twice the shortest horizon on which a leak is judged, and many
/// times the longest run that an overload needs.
const LOSS_COUNTS_SECS: f64 = 60.0;

// The four grades of doubt. Guesses all; what was chosen is their order, and that no two or three
// together bury a claim: an agent without any BPF is still worth waking up for.

/// Evidence beside the rule is less good; the rule itself sees all it looks at.
const SLIGHT: f64 = 0.98;

/// What the rule looks at is seen, but later, coarser or with a little missing.
const MILD: f64 = 0.95;

/// A premise of the rule is not seen and taken on trust, such as that a process still runs the same
/// program.
const MARKED: f64 = 0.85;

/// What the rule looks at should not be there at all.
const SEVERE: f64 = 0.5;

const _: () =
    assert!(0.0 < SEVERE && SEVERE <= MARKED && MARKED <= MILD && MILD <= SLIGHT && SLIGHT <= 1.0);

/// A factor on confidence, and how the claim's sentence says it.
struct Penalty(f64, &'static str);

/// A probe, which rules rest on it, and what they lose with it.
struct ProbeRow {
    name: &'static str,
    rules: &'static [Rule],
    degraded: Penalty,
    off: Penalty,
}

/// A loss, which rules rest on what was lost, and what they lose with it.
struct LossRow {
    name: &'static str,
    rules: &'static [Rule],
    doubt: Penalty,
}

const PROCESS: &[Rule] = &[Rule::Leak, Rule::Handles];

const PROBES: [ProbeRow; 6] = [
    ProbeRow {
        name: "process_memory",
        rules: &[Rule::Leak],
        degraded: Penalty(MILD, "memory was read in a coarser or slower way"),
        off: Penalty(SEVERE, "memory was not read"),
    },
    ProbeRow {
        name: "fault_samples",
        rules: &[Rule::Leak],
        degraded: Penalty(SLIGHT, "page faults were sampled less exactly"),
        off: Penalty(MILD, "page faults were not sampled"),
    },
    ProbeRow {
        name: "process_handles",
        rules: &[Rule::Handles],
        degraded: Penalty(
            MILD,
            "open files were counted in a slower way, and CLOSE_WAIT not at all",
        ),
        off: Penalty(SEVERE, "open files were not counted"),
    },
    ProbeRow {
        name: "process_life",
        rules: PROCESS,
        degraded: Penalty(MILD, "process births and deaths were seen only indirectly"),
        off: Penalty(MARKED, "process births and deaths were not seen"),
    },
    ProbeRow {
        name: "accept_queue",
        rules: &[Rule::QueueAge],
        degraded: Penalty(MILD, "accept queues were read in a slower way"),
        off: Penalty(SEVERE, "accept queues were not read"),
    },
    ProbeRow {
        name: "outbound_connects",
        rules: &[Rule::Outbound],
        degraded: Penalty(MILD, "connects were followed in a coarser way"),
        off: Penalty(SEVERE, "connects were not followed"),
    },
];

const QUEUE: &[Rule] = &[Rule::QueueAge, Rule::QueueDepth];

const OUTBOUND: &[Rule] = &[Rule::Outbound];

const LOSSES: [LossRow; 16] = [
    LossRow {
        name: "process_scan_failed",
        rules: &[Rule::Leak],
        doubt: Penalty(MARKED, "not every scan of processes succeeded"),
    },
    LossRow {
        name: "handle_scan_failed",
        rules: &[Rule::Handles],
        doubt: Penalty(MILD, "open files could not always be counted"),
    },
    LossRow {
        name: "host_read_failed",
        rules: &[Rule::Leak],
        doubt: Penalty(MILD, "the host's memory could not always be read"),
    },
    LossRow {
        name: "life_ring_full",
        rules: PROCESS,
        doubt: Penalty(MILD, "some process births and deaths were lost"),
    },
    LossRow {
        name: "unknown_sample",
        rules: PROCESS,
        doubt: Penalty(MILD, "some process births and deaths made no sense"),
    },
    LossRow {
        name: "fault_map_full",
        rules: &[Rule::Leak],
        doubt: Penalty(SLIGHT, "page faults of some processes were lost"),
    },
    LossRow {
        name: "listener_scan_failed",
        rules: QUEUE,
        doubt: Penalty(MARKED, "not every look at accept queues succeeded"),
    },
    LossRow {
        name: "listener_map_full",
        rules: QUEUE,
        doubt: Penalty(MILD, "some listeners had no room to be seen"),
    },
    LossRow {
        name: "listener_share_full",
        rules: QUEUE,
        doubt: Penalty(
            SLIGHT,
            "some users or namespaces have more listeners than BPF reads; the rest are read less often",
        ),
    },
    LossRow {
        name: "listeners_left_out",
        rules: QUEUE,
        doubt: Penalty(SLIGHT, "some listeners of users with thousands of them were left out"),
    },
    LossRow {
        name: "arrival_map_full",
        rules: &[Rule::QueueAge],
        doubt: Penalty(SLIGHT, "connections of some listeners were not counted"),
    },
    LossRow {
        name: "outbound_read_failed",
        rules: OUTBOUND,
        doubt: Penalty(MILD, "connects could not always be read"),
    },
    LossRow {
        name: "outbound_map_full",
        rules: OUTBOUND,
        doubt: Penalty(MILD, "some connects had no room to be counted"),
    },
    LossRow {
        name: "outbound_share_full",
        rules: OUTBOUND,
        doubt: Penalty(
            SLIGHT,
            "some connects of users with thousands of destinations were not counted",
        ),
    },
    LossRow {
        name: "outbound_left_out",
        rules: OUTBOUND,
        doubt: Penalty(SLIGHT, "some destinations without failures were left out"),
    },
    LossRow {
        name: "short_read",
        rules: &[Rule::Leak, Rule::Handles, Rule::Outbound, Rule::QueueAge, Rule::QueueDepth],
        doubt: Penalty(MILD, "some samples were cut off"),
    },
];

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum ProbeSight {
    #[default]
    Whole,
    Degraded,
    Off,
}

/// How far the sensors are to be trusted now.
#[derive(Debug, Clone, Default)]
pub struct SensorHealth {
    probes: [ProbeSight; PROBES.len()],
    /// When each loss was last told of.
    lost_t: [Option<f64>; LOSSES.len()],
}

impl SensorHealth {
    /// Takes what the sensors say of themselves at `t`.
    pub fn note(&mut self, t: f64, fact: &SensorHealthFact) {
        let names = |list: &[Arc<str>], name: &str| list.iter().any(|one| **one == *name);
        for (sight, row) in self.probes.iter_mut().zip(&PROBES) {
            *sight = match (names(&fact.off, row.name), names(&fact.degraded, row.name)) {
                (true, _) => ProbeSight::Off,
                (false, true) => ProbeSight::Degraded,
                (false, false) => ProbeSight::Whole,
            };
        }
        for (lost_t, row) in self.lost_t.iter_mut().zip(&LOSSES) {
            if fact.lost.get(row.name).is_some_and(|&count| count > 0) {
                *lost_t = Some(t);
            }
        }
    }

    /// What is left of a claim's confidence at `t`; `why` ends with what was not seen.
    pub(super) fn weigh(&self, rule: Rule, t: f64, confidence: f64, why: &mut String) -> f64 {
        self.doubts(rule, t).fold(confidence, |left, Penalty(factor, words)| {
            why.push_str("; ");
            why.push_str(words);
            left * factor
        })
    }

    fn doubts(&self, rule: Rule, t: f64) -> impl Iterator<Item = &'static Penalty> {
        let probes =
            self.probes.iter().zip(&PROBES).filter(move |(_, row)| row.rules.contains(&rule));
        let probes = probes.filter_map(|(sight, row)| match sight {
            ProbeSight::Whole => None,
            ProbeSight::Degraded => Some(&row.degraded),
            ProbeSight::Off => Some(&row.off),
        });
        let losses =
            self.lost_t.iter().zip(&LOSSES).filter(move |(_, row)| row.rules.contains(&rule));
        let losses = losses.filter_map(move |(lost_t, row)| {
            lost_t.is_some_and(|then| t - then <= LOSS_COUNTS_SECS).then_some(&row.doubt)
        });
        probes.chain(losses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: [Rule; 5] =
        [Rule::Leak, Rule::Handles, Rule::Outbound, Rule::QueueAge, Rule::QueueDepth];

    fn fact(degraded: &[&str], off: &[&str], lost: &[(&str, u64)]) -> SensorHealthFact {
        let names = |list: &[&str]| list.iter().map(|&name| Arc::from(name)).collect();
        let lost = lost.iter().map(|&(name, count)| (Arc::from(name), count)).collect();
        SensorHealthFact { degraded: names(degraded), off: names(off), lost }
    }

    fn weigh(trust: &SensorHealth, rule: Rule, t: f64) -> (f64, String) {
        let mut why = String::from("it grew");
        (trust.weigh(rule, t, 1.0, &mut why), why)
    }

    #[test]
    fn unseen_births_lower_a_leak_and_its_sentence_says_so() {
        let mut trust = SensorHealth::default();
        trust.note(0.0, &fact(&[], &["process_life"], &[]));
        let said = "it grew; process births and deaths were not seen".to_owned();
        assert_eq!(weigh(&trust, Rule::Leak, 1e6), (MARKED, said));
        assert_eq!(weigh(&trust, Rule::QueueAge, 0.0), (1.0, "it grew".to_owned()));
        trust.note(1.0, &SensorHealthFact::default());
        assert_eq!(weigh(&trust, Rule::Leak, 1.0), (1.0, "it grew".to_owned()));
    }

    #[test]
    fn a_loss_counts_for_a_minute() {
        let mut trust = SensorHealth::default();
        trust.note(100.0, &fact(&[], &[], &[("life_ring_full", 3), ("listener_map_full", 0)]));
        assert_eq!(weigh(&trust, Rule::Leak, 160.0).0, MILD);
        assert_eq!(weigh(&trust, Rule::Leak, 160.1).0, 1.0);
        assert_eq!(weigh(&trust, Rule::QueueAge, 100.0).0, 1.0, "a loss of none is none");
        trust.note(150.0, &SensorHealthFact::default());
        assert_eq!(weigh(&trust, Rule::Leak, 160.0).0, MILD, "news of probes ends no loss");
    }

    #[test]
    fn what_is_known_by_depth_alone_is_not_punished_twice() {
        let mut trust = SensorHealth::default();
        trust.note(0.0, &fact(&["accept_queue"], &[], &[]));
        assert_eq!(weigh(&trust, Rule::QueueDepth, 0.0).0, 1.0);
        assert_eq!(weigh(&trust, Rule::QueueAge, 0.0).0, MILD);
    }

    #[test]
    fn names_that_nobody_knows_take_nothing_off() {
        let mut trust = SensorHealth::default();
        trust.note(0.0, &fact(&["gpu", ""], &["<script>"], &[("gpu_ring_full", u64::MAX)]));
        RULES.iter().for_each(|&rule| assert_eq!(weigh(&trust, rule, 0.0).0, 1.0));
    }

    #[test]
    fn worse_never_weighs_more() {
        for row in &PROBES {
            assert!(
                row.off.0 <= row.degraded.0 && row.degraded.0 <= 1.0 && row.off.0 > 0.0,
                "{}",
                row.name
            );
        }
        assert!(LOSSES.iter().all(|row| row.doubt.0 > 0.0 && row.doubt.0 <= 1.0));
    }
}
