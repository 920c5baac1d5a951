//! Properties of the core for any sequence of observations, and for arbitrary bytes read as a
//! trace.
//!
//! Sequences are drawn from small sets of pids, listeners and sizes, so that reuse, gaps, wraps and
//! claims are frequent.

use std::{collections::BTreeMap, io::BufReader, sync::Arc, time::Duration};

use proptest::{collection::vec, option, prelude::*, sample::select};
use spillway_agent::{
    commands::replay::{ReplayOptions, replay},
    config::Config,
    decide::IncidentId,
    detect::{ClaimState, Verdict},
    engine::{Engine, HostInfo, Output},
    sense::{
        CountFact, CountUser, CountedResource, Fact, FleetFact, HostFact, ListenerFact,
        Observation, OutboundFact, ProcessFact, ProcessId, ProcessResourcesFact, RequestsFact,
        SensorHealthFact,
    },
    trace::{TraceReader, TraceWriter},
};

const MIB: u64 = 1 << 20;
const INFO: HostInfo = HostInfo { mem_total_bytes: 16 << 30, cpus: 4 };

/// Configuration that raises claims easily, so that arbitrary sequences reach every state.
fn eager() -> Config {
    let mut config = Config::default();
    config.detect.leak.warm_up = Duration::from_secs(1);
    config.detect.leak.horizons = [8, 32, 128].map(Duration::from_secs).to_vec();
    config.detect.leak.significance = 0.5;
    config.detect.leak.min_growth_bytes = 1024;
    config.detect.leak.max_extrapolation = 1e12;
    config.detect.overload.sustain = Duration::from_millis(200);
    config.detect.overload.clear_after = Duration::from_millis(500);
    config
}

/// Configuration without a warm-up: all processes count as known from the first scan on.
fn known() -> Config {
    let mut config = Config::default();
    config.detect.leak.warm_up = Duration::ZERO;
    config
}

fn process_fact(pid: u32, start_ticks: u64, anon_bytes: u64) -> ProcessFact {
    ProcessFact {
        id: ProcessId { pid, start_ticks },
        ppid: 1,
        comm: Arc::from("api"),
        cgroup: Arc::from("/api.service"),
        anon_bytes,
        ..ProcessFact::default()
    }
}

fn host_fact(mem_available_bytes: u64) -> Fact {
    Fact::Host(HostFact { mem_available_bytes, psi_memory_some_avg10: None })
}

fn id() -> impl Strategy<Value = ProcessId> {
    (1..4_u32, 1..3_u64).prop_map(|(pid, start_ticks)| ProcessId { pid, start_ticks })
}

fn size() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..4_096 * MIB, 1 => any::<u64>(), 1 => Just(0), 1 => Just(u64::MAX)]
}

fn listener_fact() -> impl Strategy<Value = ListenerFact> {
    let counters = (option::of(any::<u32>()), option::of(any::<u64>()), option::of(0..20_000_u64));
    let queue = (
        0..200_u32,
        select(vec![0, 1, 128, u32::MAX]),
        option::of(prop_oneof![0..3_000_000_u64, any::<u64>()]),
    );
    let who = (0..3_u64, option::of(1..3_u32));
    (0..3_u32, queue, counters, who).prop_map(|(netns, queue, counters, (socket, pid))| {
        ListenerFact {
            netns,
            socket,
            addr: Arc::from("[::]:80"),
            cgroup: Arc::from(""),
            pid,
            backlog: queue.0,
            backlog_max: queue.1,
            accepted_total: counters.1,
            overflows_total: counters.0.map(u64::from),
            sojourn_min_us: counters.2,
            sojourn_mean_us: counters.2,
            sojourn_p99_us: counters.2,
            oldest_wait_us: queue.2,
            ..ListenerFact::default()
        }
    })
}

const PROBES: [&str; 7] = [
    "process_memory",
    "fault_samples",
    "process_life",
    "accept_queue",
    "accept_sojourn",
    "outbound_connects",
    "of_a_later_version",
];
const LOSSES: [&str; 5] = [
    "life_ring_full",
    "process_scan_failed",
    "listener_map_full",
    "fault_map_full",
    "of_a_later_version",
];

/// State of each probe (0 at its first choice, 1 degraded, 2 off) and losses.
type Blindness = ([u8; PROBES.len()], [bool; LOSSES.len()]);

fn blindness() -> impl Strategy<Value = Blindness> {
    (prop::array::uniform7(0..3_u8), prop::array::uniform5(any::<bool>()))
}

fn sensing((probes, losses): Blindness) -> SensorHealthFact {
    let at = |grade| {
        PROBES
            .iter()
            .zip(probes)
            .filter(move |(_, g)| *g == grade)
            .map(|(&name, _)| Arc::from(name))
    };
    let lost =
        LOSSES.iter().zip(losses).filter(|(_, lost)| *lost).map(|(&name, _)| (Arc::from(name), 1));
    SensorHealthFact { degraded: at(1).collect(), off: at(2).collect(), lost: lost.collect() }
}

/// Adds the sensors' blindness at the start of every scan.
fn seen_through(blindness: Blindness, observations: &[Observation]) -> Vec<Observation> {
    let with = |observation: &Observation| {
        let opens = matches!(observation.fact, Fact::Host(_));
        let sensing = Observation { t: observation.t, fact: Fact::Sensing(sensing(blindness)) };
        std::iter::once(observation.clone()).chain(opens.then_some(sensing))
    };
    observations.iter().flat_map(with).collect()
}

fn fact() -> impl Strategy<Value = Fact> {
    let known = [option::of(size()), option::of(size()), option::of(size()), option::of(size())];
    let process = (id(), [size(), size(), size(), size()], known).prop_map(
        |(
            id,
            sizes,
            [memory_max_bytes, memory_charged_bytes, faulted_bytes_total, mapped_bytes],
        )| {
            let [anon_bytes, file_bytes, shmem_bytes, swap_bytes] = sizes;
            Fact::Process(ProcessFact {
                file_bytes,
                shmem_bytes,
                swap_bytes,
                memory_max_bytes,
                memory_charged_bytes,
                faulted_bytes_total,
                mapped_bytes,
                ..process_fact(id.pid, id.start_ticks, anon_bytes)
            })
        },
    );
    let steady = (id(), 0..2_000_u64)
        .prop_map(|(id, mib)| Fact::Process(process_fact(id.pid, id.start_ticks, mib * MIB)));
    let host = (size(), option::of(0.0..100.0)).prop_map(
        |(mem_available_bytes, psi_memory_some_avg10)| {
            Fact::Host(HostFact { mem_available_bytes, psi_memory_some_avg10 })
        },
    );
    prop_oneof![
        2 => host,
        2 => process,
        4 => steady,
        6 => listener_fact().prop_map(|fact| Fact::Listener(Box::new(fact))),
        1 => blindness().prop_map(|blindness| Fact::Sensing(sensing(blindness))),
        1 => handles_fact().prop_map(Fact::Handles),
        1 => outbound_fact().prop_map(Fact::Outbound),
        6 => requests_fact().prop_map(Fact::Requests),
        4 => count_fact().prop_map(Fact::Count),
        1 => fleet_fact().prop_map(Fact::Fleet),
        1 => id().prop_map(Fact::Exec),
        1 => id().prop_map(Fact::Exit),
    ]
}

/// Arbitrary counts of a few subjects, with and without limits and users.
fn count_fact() -> impl Strategy<Value = CountFact> {
    let resources = prop_oneof![
        Just("disk_bytes"),
        Just("pids"),
        Just("dying_cgroups"),
        Just("slab_bytes"),
        Just("widgets"),
    ];
    let number = || prop_oneof![0..2_000_u64, size(), any::<u64>()];
    let user = (0..3_u32, option::of(0..3_u32), number()).prop_map(|(name, pid, used)| CountUser {
        name: Arc::from(format!("/var/log/{name}")),
        pid,
        used,
    });
    let users = vec(user, 0..4);
    (resources, 0..2_u32, number(), option::of(number()), users).prop_map(
        |(resource, subject, used, limit, culprits)| CountFact {
            resource: CountedResource::named(resource),
            subject: Arc::from(format!("/{subject}")),
            used,
            limit,
            culprits,
        },
    )
}

fn fleet_fact() -> impl Strategy<Value = FleetFact> {
    let counts = (0..100_u32, 0..100_u32, 0..100_u32, option::of(0..100_u32));
    (counts, option::of(0.0..1e6_f64), option::of("[a-z ]{0,9}")).prop_map(
        |((nodes, need_turn, late, slots_needed), first_end_secs, storm)| FleetFact {
            group: "web".into(),
            nodes,
            need_turn,
            late,
            first_end_secs,
            slots_needed,
            storm: storm.map(Into::into),
        },
    )
}

fn handles_fact() -> impl Strategy<Value = ProcessResourcesFact> {
    (id(), any::<u64>(), option::of(any::<u64>()), any::<u64>(), option::of(any::<u64>())).prop_map(
        |(id, fds, fds_max, threads, close_wait)| ProcessResourcesFact {
            id,
            fds,
            fds_max,
            threads,
            close_wait,
        },
    )
}

/// Arbitrary totals of a few destinations.
fn outbound_fact() -> impl Strategy<Value = OutboundFact> {
    let totals = (size(), size(), size(), size(), option::of(size()));
    (0..3_u32, 0..3_u16, any::<u32>(), totals, any::<u32>()).prop_map(
        |(netns, port, pid, totals, pending)| OutboundFact {
            netns,
            addr: Arc::from(format!("10.0.0.1:{port}")),
            cgroup: Arc::from("/api"),
            pid,
            comm: Arc::from("api"),
            established_total: totals.0,
            refused_total: totals.1,
            timed_out_total: totals.2,
            abandoned_total: totals.3,
            no_local_port_total: totals.4,
            pending,
        },
    )
}

/// Requests of the same listeners, with arbitrary counts, ages and totals.
fn requests_fact() -> impl Strategy<Value = RequestsFact> {
    let count = || prop_oneof![0..200_u32, any::<u32>()];
    let counts = (0..3_u32, count(), count(), count());
    let age = || option::of(prop_oneof![0..9_000_000_u64, any::<u64>()]);
    let total = || option::of(prop_oneof![0..20_000_u64, any::<u64>()]);
    let worker = option::of(0..5_u32);
    (counts, [age(), age(), age(), age()], [total(), total()], worker).prop_map(
        |((netns, unread, in_flight, responding), ages, totals, worker)| RequestsFact {
            netns,
            addr: Arc::from("[::]:80"),
            connections: None,
            unread,
            in_flight,
            responding,
            oldest_unread_us: ages[0],
            oldest_in_flight_us: ages[1],
            youngest_in_flight_us: ages[2],
            answered_total: totals[0],
            abandoned_total: totals[1],
            stuck_pid: worker,
            stuck_us: worker.and(ages[3]),
        },
    )
}

/// Facts in order of time, most of them close together, some after a gap or a suspend.
fn sequence() -> impl Strategy<Value = Vec<Observation>> {
    let step = prop_oneof![6 => Just(0.0), 6 => Just(0.1), 4 => 0.0..2.0, 1 => 0.0..1e6];
    vec((step, fact()), 0..400).prop_map(|facts| {
        let mut t = 0.0;
        facts
            .into_iter()
            .map(|(step, fact)| {
                t += step;
                Observation { t, fact }
            })
            .collect()
    })
}

/// Growing processes and standing queues with interruptions, which raise many claims.
fn eventful() -> impl Strategy<Value = Vec<Observation>> {
    let tick = prop_oneof![30 => Just(None), 1 => id().prop_map(|id| Some(Fact::Exit(id))), 1 => id().prop_map(|id| Some(Fact::Exec(id)))];
    let phase = (0..40_u64, 5..40_usize, any::<bool>(), 1..3_u64);
    (vec(phase, 1..10), vec(tick, 1..20)).prop_map(|(phases, extras)| {
        let (mut observations, mut t, mut mib) = (Vec::new(), 0.0, 100);
        let mut extras = extras.into_iter().cycle();
        for (rate, secs, stuck, start_ticks) in phases {
            for second in 0..secs {
                mib += rate;
                let process = process_fact(1, start_ticks, mib * MIB);
                let mut facts = vec![host_fact(8 << 30), Fact::Process(process)];
                facts.extend(extras.next().flatten());
                let oldest_wait_us = Some(if stuck { second as u64 * 1_000_000 } else { 0 });
                facts.push(Fact::Listener(Box::new(ListenerFact {
                    netns: 0,
                    addr: Arc::from("[::]:80"),
                    backlog: u32::from(stuck),
                    backlog_max: 128,
                    oldest_wait_us,
                    ..ListenerFact::default()
                })));
                let waits = if stuck { 4 * second as u32 } else { 0 };
                facts.push(Fact::Requests(RequestsFact {
                    addr: Arc::from("[::]:80"),
                    unread: waits,
                    in_flight: waits,
                    oldest_unread_us: oldest_wait_us,
                    oldest_in_flight_us: oldest_wait_us,
                    answered_total: Some(20 * second as u64),
                    ..RequestsFact::default()
                }));
                observations.extend(facts.into_iter().map(|fact| Observation { t, fact }));
                t += 1.0;
            }
        }
        observations
    })
}

fn run(config: &Config, observations: &[Observation]) -> (Engine, Output) {
    let mut core = Engine::new(config, INFO);
    let mut output = Output::default();
    observations.iter().for_each(|observation| core.apply_into(observation, &mut output));
    (core, output)
}

/// Verdicts with impossible values, or without alternation that starts with raised.
fn faults(verdicts: &[Verdict]) -> Vec<String> {
    let mut raised: BTreeMap<IncidentId, bool> = BTreeMap::new();
    let mut faults = Vec::new();
    for verdict in verdicts {
        let id = IncidentId::from(verdict);
        let is_raised = raised.get(&id).copied().unwrap_or(false);
        // An active claim may be updated; otherwise it is raised and cleared in turn.
        if is_raised != (verdict.state != ClaimState::Raised) {
            faults.push(format!("no alternation: {verdict:?}"));
        }
        raised.insert(id, verdict.state != ClaimState::Cleared);
        let forecast = verdict.exhaustion_secs.unwrap_or(0.0);
        if !(0.0..=1.0).contains(&verdict.confidence)
            || !forecast.is_finite()
            || forecast < 0.0
            || verdict.why.is_empty()
        {
            faults.push(format!("impossible values: {verdict:?}"));
        }
    }
    faults
}

fn scans(secs: u32, mib: impl Fn(u32) -> u64) -> Vec<Observation> {
    let scan = |t: u32| {
        [host_fact(8 << 30), Fact::Process(process_fact(812, 1, mib(t) * MIB))]
            .map(|fact| (t, fact))
    };
    (0..secs).flat_map(scan).map(|(t, fact)| Observation { t: f64::from(t), fact }).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn any_sequence_gives_sensible_alternating_verdicts(observations in prop_oneof![sequence(), eventful()]) {
        for config in [eager(), Config::default()] {
            let (core, output) = run(&config, &observations);
            prop_assert_eq!(faults(&output.verdicts), Vec::<String>::new());
            let tracked = core.tracked();
            // In each of three namespaces there are two sockets with a number and three owners of
            // sockets without one.
            prop_assert!(tracked.processes <= 3 && tracked.listeners <= 15, "{:?}", tracked);
            let raised = tracked.leaks_raised + tracked.overloads_raised + tracked.cascade_risks_raised
                + tracked.exhaustions_raised;
            prop_assert_eq!(core.raised().count(), raised);
        }
    }

    #[test]
    fn any_time_is_survived(times in vec(any::<f64>(), 0..50), facts in vec(fact(), 50)) {
        let observations: Vec<_> = times.into_iter().zip(facts).map(|(t, fact)| Observation { t, fact }).collect();
        let (_, output) = run(&eager(), &observations);
        prop_assert!(output.verdicts.iter().all(|verdict| verdict.t.is_finite()));
    }

    #[test]
    fn order_within_a_scan_does_not_matter(
        ticks in vec((vec(0..4_000_u64, 6), any::<bool>()), 1..80), seed in any::<u64>(),
    ) {
        // Five processes grow, one is noise; the second core gets every scan in another order.
        let mut orders = [Vec::new(), Vec::new()];
        let mut x = seed | 1;
        for (t, (noise, reverse)) in ticks.iter().enumerate() {
            let mut facts: Vec<_> = (0..6)
                .map(|pid| {
                    // Each is its own workload, because a claim is named after the first process of
                    // its workload.
                    let mib = t as u64 * u64::from(pid) * 3 + noise[pid as usize] % 20;
                    Fact::Process(ProcessFact { comm: format!("api-{pid}").into(), ..process_fact(pid, 1, mib * MIB) })
                })
                .collect();
            for order in &mut orders {
                let scan = std::iter::once(host_fact(4 << 30)).chain(facts.iter().cloned());
                order.extend(scan.map(|fact| Observation { t: t as f64, fact }));
                x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                facts.rotate_left((x >> 60) as usize % 6);
                if *reverse { facts.reverse() }
            }
        }
        let [a, b] = orders.map(|order| {
            let mut verdicts = run(&eager(), &order).1.verdicts;
            verdicts.sort_by(|a, b| a.t.total_cmp(&b.t).then(IncidentId::from(a).cmp(&IncidentId::from(b))));
            verdicts
        });
        prop_assert_eq!(a, b);
    }

    #[test]
    fn seeing_less_never_raises_confidence_and_changes_nothing_else(
        observations in eventful(), probes in prop::array::uniform7((0..3_u8, 0..3_u8)), losses in prop::array::uniform5((any::<bool>(), any::<bool>())),
    ) {
        let better = (probes.map(|(a, b)| a.min(b)), losses.map(|(a, b)| a && b));
        let worse = (probes.map(|(a, b)| a.max(b)), losses.map(|(a, b)| a || b));
        let see = |blindness| run(&eager(), &seen_through(blindness, &observations)).1.verdicts;
        let [plain, better, worse] = [run(&eager(), &observations).1.verdicts, see(better), see(worse)];
        let claims = |verdicts: &[Verdict]| verdicts.iter().map(|v| (v.claim.clone(), v.state, v.exhaustion_secs)).collect::<Vec<_>>();
        prop_assert_eq!(claims(&plain), claims(&better));
        prop_assert_eq!(claims(&plain), claims(&worse));
        for ((plain, better), worse) in plain.iter().zip(&better).zip(&worse) {
            prop_assert!(plain.confidence >= better.confidence && better.confidence >= worse.confidence);
            prop_assert!(worse.confidence > 0.0, "{:?}", worse);
        }
    }

    #[test]
    fn duplicate_observations_change_nothing(observations in eventful()) {
        let twice: Vec<_> = observations.iter().flat_map(|o| [o.clone(), o.clone()]).collect();
        prop_assert_eq!(run(&eager(), &observations).1, run(&eager(), &twice).1);
    }

    #[test]
    fn constant_memory_is_never_a_leak(mib in 0..8_000_u64, gaps in vec(1..5_000_u32, 0..300)) {
        let mut t = 0;
        let mut observations = Vec::new();
        for gap in gaps {
            t += gap % if gap % 7 == 0 { 5_000 } else { 6 };
            let fact = Fact::Process(process_fact(1, 1, mib * MIB));
            observations.push(Observation { t: f64::from(t), fact });
        }
        prop_assert_eq!(run(&eager(), &observations).1, Output::default());
    }

    #[test]
    fn a_straight_steep_leak_is_always_found(base in 0..2_000_u64, rate in 4..64_u64) {
        let output = run(&known(), &scans(64, |t| base + rate * u64::from(t))).1;
        prop_assert_eq!(output.verdicts.len(), 1);
        prop_assert_eq!(output.verdicts[0].state, ClaimState::Raised);
    }

    #[test]
    fn a_suspend_is_no_growth(before in 20..100_u32, asleep in 60..1_000_000_u32, mib in 0..4_000_u64) {
        let mut observations = scans(before, |_| 100);
        let later = scans(100, |_| mib).into_iter();
        observations.extend(later.map(|o| Observation { t: o.t + f64::from(before + asleep), ..o }));
        prop_assert_eq!(run(&Config::default(), &observations).1, Output::default());
    }

    #[test]
    fn a_reused_pid_inherits_nothing(secs in 64..100_u32) {
        let mut observations = scans(secs, |t| 100 + 4 * u64::from(t));
        let next = Fact::Process(ProcessFact { comm: Arc::from("cron"), ..process_fact(812, 2, 5_000 * MIB) });
        observations.push(Observation { t: f64::from(secs), fact: next.clone() });
        observations.push(Observation { t: f64::from(secs + 1), fact: next });
        // Another program is not a successor: the claim waits for one and is then cleared.
        let after = (2..40).map(|later| Observation { t: f64::from(secs + later), fact: host_fact(8 << 30) });
        observations.extend(after);
        let states: Vec<_> = run(&known(), &observations).1.verdicts.iter().map(|v| v.state).collect();
        prop_assert_eq!(states, [ClaimState::Raised, ClaimState::Cleared]);
    }

    #[test]
    fn arbitrary_bytes_never_panic(header in any::<bool>(), lines in vec(prop_oneof![
        vec(any::<u8>(), 0..200),
        "\\PC{0,80}".prop_map(String::into_bytes),
        "\\{\"t\":[-0-9.eE]{1,6},\"kind\":\"(host|exit|exec|process|x)\",\"(pid|mem_available_bytes)\":[-0-9.]{1,4}(,\"start_ticks\":1)?\\}"
            .prop_map(String::into_bytes),
    ], 0..20)) {
        let mut bytes = if header { br#"{"spillway_trace":1,"host":{"mem_total_bytes":1,"cpus":1},"interval_secs":1}"#.to_vec() } else { vec![] };
        lines.iter().for_each(|line| { bytes.push(b'\n'); bytes.extend_from_slice(line) });
        let mut out = Vec::new();
        let result = replay(&bytes[..], &eager(), &mut out, ReplayOptions { decisions: true });
        prop_assert!(!header || result.is_ok());
        // Chunks of any size give the same result.
        let small = replay(BufReader::with_capacity(3, &bytes[..]), &eager(), &mut Vec::new(), ReplayOptions::default());
        prop_assert_eq!(result.ok(), small.ok());
    }

    #[test]
    fn what_is_written_is_read(observations in sequence()) {
        // The reader rejects values that no kernel reports; all others round-trip.
        let sane: Vec<_> = observations.into_iter().filter(|observation| match &observation.fact {
            Fact::Host(host) => host.mem_available_bytes <= 1 << 56,
            Fact::Process(p) => {
                let sizes = [p.anon_bytes, p.file_bytes, p.shmem_bytes, p.swap_bytes];
                let known = [p.mapped_bytes, p.memory_charged_bytes];
                sizes.into_iter().chain(known.into_iter().flatten()).all(|b| b <= 1 << 56)
            }
            Fact::Count(count) => {
                let users = count.culprits.iter().map(|user| user.used);
                users.chain(count.limit).chain([count.used]).all(|number| number <= 1 << 56)
            }
            _ => true,
        }).collect();
        let mut writer = TraceWriter::new(Vec::new(), INFO, 1.0).unwrap();
        sane.iter().for_each(|observation| writer.write(observation).unwrap());
        let bytes = writer.finish().unwrap();
        let read: Result<Vec<_>, _> = TraceReader::new(&bytes[..]).unwrap().collect();
        prop_assert_eq!(read.unwrap(), sane);
    }
}

#[test]
fn state_is_bounded_for_any_number_of_subjects() {
    let mut core = Engine::new(&Config::default(), INFO);
    let json = r#"{"netns":1,"addr":"[::]:80","backlog":0,"backlog_max":1}"#;
    let template: ListenerFact = serde_json::from_str(json).unwrap();
    for n in 0..70_000_u32 {
        core.apply(&Observation { t: 0.0, fact: Fact::Process(process_fact(n, 1, MIB)) });
        core.apply(&Observation {
            t: 0.0,
            fact: Fact::Listener(Box::new(ListenerFact { netns: n, ..template.clone() })),
        });
    }
    let tracked = core.tracked();
    assert_eq!((tracked.processes, tracked.listeners), (65_536, 16_384));
    assert_eq!(tracked.untracked_total, (70_000 - 65_536) + (70_000 - 16_384));
    (0..7)
        .for_each(|t| drop(core.apply(&Observation { t: f64::from(t), fact: host_fact(1 << 30) })));
    assert_eq!((core.tracked().processes, core.tracked().listeners), (0, 0));
}
