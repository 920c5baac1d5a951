//! Both sets of the second generator keep their promises: the same seed gives the same bytes, truths hold in what
//! the agent sees, and hosts add up.
//!
//! No detector takes part. Scans are rarer than the agent's, so that every mechanism
//! can be lived through in an unoptimised test.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::HashMap;

use spillway_agent::{sense::Observation, trace::TraceWriter};
use spillway_tests::{
    corpus::Label,
    independent::{Due, Entry, Mechanism, Run, SeenProcess, Set, Sight},
};

const MIB: f64 = 1_048_576.0;
const DAY: f64 = 86_400.0;

/// One run of each mechanism, by another seed than the one that figures are quoted on.
fn each_run(every: f64, mut check: impl FnMut(Run)) {
    for (set, mechanism) in each_mechanism() {
        check(Run::new(set, mechanism, 0, set.seed() + 1).every(every));
    }
}

fn each_mechanism() -> impl Iterator<Item = (Set, &'static Mechanism)> {
    Set::ALL.into_iter().flat_map(|set| set.mechanisms().map(move |(one, _)| (set, one)))
}

fn bytes(run: Run, take: usize) -> Vec<u8> {
    let (host, interval) = (run.host(), run.entry.interval_secs);
    let mut writer = TraceWriter::new(Vec::new(), host, interval).unwrap();
    let observations: Vec<Observation> =
        run.observations().map(Result::unwrap).take(take).collect();
    observations.iter().for_each(|observation| writer.write(observation).unwrap());
    writer.finish().unwrap()
}

#[test]
fn same_seed_gives_the_same_bytes() {
    for (set, mechanism) in each_mechanism() {
        let of = |nth, seed| bytes(Run::new(set, mechanism, nth, seed), 600);
        let first = of(0, 1);
        assert!(first == of(0, 1), "{}", mechanism.name);
        assert!(first != of(0, 2), "{}: seeds", mechanism.name);
        assert!(first != of(1, 1), "{}: numbers", mechanism.name);
    }
}

#[test]
fn sets_have_as_many_healthy_runs_as_leaks() {
    let count = |entries: &[Entry], label| entries.iter().filter(|run| run.label == label).count();
    for set in Set::ALL {
        for runs in [10, 64, 300] {
            let entries = set.entries(7, runs);
            assert_eq!(entries.len(), runs);
            let (leaks, healthy) = (count(&entries, Label::Leak), count(&entries, Label::Healthy));
            assert!(healthy >= leaks, "{set:?} {runs}: {leaks} leaks, {healthy} healthy");
        }
        let names: std::collections::HashSet<_> =
            set.mechanisms().map(|(mechanism, _)| mechanism.name).collect();
        assert_eq!(names.len(), set.mechanisms().count(), "{set:?}: two mechanisms, one name");
        for entry in set.entries(7, 300) {
            let leaks = set.mechanisms().any(|(one, leaks)| one.name == entry.mechanism && leaks);
            assert_eq!(leaks, entry.label == Label::Leak, "{}", entry.run);
            assert_eq!(Set::of(set.part()), Some(entry.set), "{}", entry.run);
        }
    }
}

/// Private bytes of the subject as the agent sees them, over time: of its processes, or of its cgroup
/// if that leaks.
fn weights(run: &mut Run) -> Vec<(f64, f64)> {
    let subject = run.entry.subject.clone();
    let (mut weights, mut charged) = (Vec::new(), 0.0);
    while let Some(seen) = run.scan() {
        let (mut sum, mut t) = (0.0, 0.0);
        for sight in &seen {
            t = sight.t();
            match sight {
                Sight::Process(_, fact)
                    if *fact.comm == *subject.comm && fact.cgroup.starts_with(&*subject.cgroup) =>
                {
                    sum += (fact.anon_bytes + fact.shmem_bytes + fact.swap_bytes) as f64;
                }
                Sight::Cgroup(_, fact) if *fact.cgroup == *subject.cgroup => {
                    charged = (fact.anon_bytes + fact.shmem_bytes + fact.kernel_bytes) as f64;
                }
                _ => {}
            }
        }
        weights.push((t, if subject.comm.is_empty() { charged } else { sum }));
    }
    weights
}

fn mean(weights: &[(f64, f64)], from: f64, to: f64) -> f64 {
    let within: Vec<_> =
        weights.iter().filter(|(t, _)| (from..=to).contains(t)).map(|one| one.1).collect();
    within.iter().sum::<f64>() / within.len() as f64
}

#[test]
fn leaks_have_taken_what_makes_them_due() {
    let mut capped = 0;
    each_run(10.0, |mut run| {
        let Some(start) = run.entry.leak_start_secs else { return };
        if run.entry.loops {
            return;
        }
        let name = run.entry.run.clone();
        let weights = weights(&mut run);
        let Due { due_secs, taken_bytes, size_bytes, .. } =
            run.due().unwrap_or_else(|| panic!("{name}: never due"));
        let (from, unseen) = (start.max(0.0), if start < 0.0 { 1_500.0 } else { 0.0 });
        let spent = due_secs - from;
        assert!((60.0..=DAY + unseen + 20.0).contains(&spent), "{name}: due after {spent}");
        let least = (64.0 * MIB).max(0.5 * size_bytes);
        let in_a_day = spent >= DAY;
        capped += u32::from(in_a_day);
        assert!(
            taken_bytes >= least || in_a_day || run.exhausted(),
            "{name}: {taken_bytes} of {least} bytes"
        );
        // Without a shape's word for it: the sum of what is seen has grown by that.
        if run.entry.subject.comm.is_empty() && weights.iter().all(|weight| weight.1 == 0.0) {
            return;
        }
        let window = (0.08 * spent).max(25.0);
        let before = mean(&weights, from, from + window);
        let grown = mean(&weights, due_secs - window, due_secs + window) - before;
        // A day's load or a snapshot may have fallen meanwhile.
        assert!(
            grown >= 0.35 * taken_bytes,
            "{name}: seen to grow by {grown:.0}, leaked {taken_bytes:.0} bytes"
        );
    });
    assert!(capped < 16, "{capped} leaks are due by the clock alone");
}

#[test]
fn crash_loops_are_due_when_the_third_life_ends() {
    let mut seen_any = 0;
    each_run(1.0, |mut run| {
        if !run.entry.loops {
            return;
        }
        let (name, subject) = (run.entry.run.clone(), run.entry.subject.clone());
        let (mut lives, mut ends, mut born) = (HashMap::new(), Vec::new(), Vec::new());
        while let Some(seen) = run.scan() {
            for sight in &seen {
                match sight {
                    Sight::Exec(t, id) => born.push((*t, *id)),
                    Sight::Process(_, fact)
                        if fact.cgroup.starts_with(&*subject.cgroup)
                            && *fact.comm == *subject.comm =>
                    {
                        lives.insert(
                            fact.id,
                            fact.anon_bytes as f64 / fact.max_bytes.unwrap() as f64,
                        );
                    }
                    Sight::Exit(t, id) if lives.contains_key(id) => {
                        let began = born.iter().any(|one| one.1 == *id);
                        ends.push((*t, began, lives[id]));
                    }
                    _ => {}
                }
            }
        }
        let due = run.due().unwrap_or_else(|| panic!("{name}: never due")).due_secs;
        let third = ends.iter().filter(|end| end.1).nth(2).unwrap().0;
        assert!((due - third).abs() <= 5.0, "{name}: due {due}, third life ended {third}");
        assert!(ends.iter().all(|end| end.2 > 0.85), "{name}: killed far from its limit: {ends:?}");
        seen_any += 1;
    });
    assert_eq!(seen_any, 8);
}

#[test]
fn hosts_add_up() {
    each_run(30.0, |mut run| {
        let (name, total) = (run.entry.run.clone(), run.host().mem_total_bytes as f64);
        // Shared and inherited memory is counted with each process that maps it.
        let counted_twice = [
            "buffers-touched",
            "copy-on-write",
            "redis-snapshots",
            "release-rolling",
            "shared-buffers",
            "shm-pool-grows",
            "shm-ring",
            "swings-snapshots",
            "workers-recycled",
        ]
        .contains(&&*run.entry.mechanism)
            || run.entry.mechanism.starts_with("pool-");
        let (mut last_t, mut seen_host) = (f64::NEG_INFINITY, false);
        while let Some(seen) = run.scan() {
            let (mut available, mut held) = (0.0, 0.0);
            for sight in &seen {
                assert!(sight.t() >= last_t, "{name}: time runs backwards");
                last_t = sight.t();
                match sight {
                    Sight::Host(_, host) => {
                        (available, seen_host) = (host.available_bytes as f64, true);
                    }
                    Sight::Process(_, fact) => {
                        assert!(seen_host, "{name}: a process before its host");
                        held += (fact.anon_bytes + fact.shmem_bytes) as f64;
                        let resident = fact.anon_bytes + fact.shmem_bytes + fact.file_bytes;
                        let peak = fact.peak_rss_bytes.map_or(f64::INFINITY, |peak| peak as f64);
                        assert!(peak + 260_000.0 >= resident as f64, "{name}: above its peak");
                    }
                    _ => {}
                }
            }
            assert!(available <= total, "{name}: more available than there is");
            assert!(
                counted_twice || held <= total - available + 0.03 * total,
                "{name} at {last_t}: {held} held, {available} of {total} available"
            );
        }
        assert!(run.used_bytes() <= total, "{name}: more in use than there is");
    });
}

#[test]
fn healthy_runs_lose_nothing_to_limits() {
    each_run(30.0, |mut run| {
        if run.entry.label == Label::Leak {
            return;
        }
        let name = run.entry.run.clone();
        while let Some(seen) = run.scan() {
            for sight in &seen {
                let Sight::Cgroup(_, fact) = sight else { continue };
                assert_eq!(fact.oom_kills_total, 0, "{name}: killed at its limit");
                let max = fact.max_bytes.unwrap_or(u64::MAX);
                assert!(fact.current_bytes <= max, "{name}: above its limit");
            }
        }
        // A killed subject ends its run.
        assert!(!run.exhausted(), "{name}: memory ran out");
    });
}

/// The mechanisms' own words: growth that is called small is far below what makes a leak due.
#[test]
fn small_growth_is_below_half_of_the_size() {
    let small = [
        "cache-large-slow",
        "cache-small-share",
        "connection-pool",
        "day-small",
        "huge-pages",
        "python-generation-2",
        "restless",
        "rise-to-plateau",
    ];
    each_run(30.0, |mut run| {
        if !small.contains(&&*run.entry.mechanism) {
            return;
        }
        let name = run.entry.run.clone();
        let weights = weights(&mut run);
        let lowest = weights.iter().map(|one| one.1).fold(f64::INFINITY, f64::min);
        let highest = weights.iter().map(|one| one.1).fold(0.0, f64::max);
        assert!(
            highest - lowest < (48.0 * MIB).max(0.45 * lowest),
            "{name}: {lowest:.0} to {highest:.0} bytes"
        );
    });
}

/// Sights of the subject's processes in a run that is lived through.
fn subject(run: &mut Run) -> Vec<SeenProcess> {
    let subject = run.entry.subject.clone();
    let mut found = Vec::new();
    while let Some(seen) = run.scan() {
        found.extend(seen.into_iter().filter_map(|sight| match sight {
            Sight::Process(_, fact)
                if *fact.comm == *subject.comm && *fact.cgroup == *subject.cgroup =>
            {
                Some(fact)
            }
            _ => None,
        }));
    }
    found
}

fn resident(fact: &SeenProcess) -> f64 {
    (fact.anon_bytes + fact.shmem_bytes + fact.file_bytes) as f64
}

#[test]
fn earlier_peaks_are_seen_from_the_start() {
    let peaked = [
        "cache-flushed",
        "compaction",
        "day-follows",
        "day-keeps",
        "dotnet-generations",
        "gogc-long",
        "heap-uncommits",
        "high-water",
        "import-at-night",
        "jvm-old-generation",
        "large-requests",
        "reports-by-the-hour",
    ];
    let mut seen = 0;
    each_run(30.0, |mut run| {
        if run.entry.set != Set::Second || !peaked.contains(&&*run.entry.mechanism) {
            return;
        }
        let name = run.entry.run.clone();
        let facts = subject(&mut run);
        let peak = facts[0].peak_rss_bytes.unwrap() as f64;
        let highest = facts.iter().map(resident).fold(0.0, f64::max);
        assert!(
            highest < peak + (32.0 * MIB).max(0.25 * peak),
            "{name}: {highest:.0} bytes, {peak:.0} before"
        );
        seen += 1;
    });
    assert_eq!(seen, peaked.len());
}

#[test]
fn pools_are_mapped_before_they_are_touched() {
    let mut seen = 0;
    each_run(30.0, |mut run| {
        let whole = ["buffers-private", "jvm-heap-start", "jvm-old-generation"];
        if run.entry.set != Set::Second || !whole.contains(&&*run.entry.mechanism) {
            return;
        }
        let name = run.entry.run.clone();
        let facts = subject(&mut run);
        let mapped = facts[0].mapped_bytes.unwrap() as f64;
        let highest = facts.iter().map(|fact| fact.anon_bytes as f64).fold(0.0, f64::max);
        assert!(mapped >= highest, "{name}: {mapped} bytes mapped at first, {highest} touched");
        seen += 1;
    });
    assert_eq!(seen, 3);
}

#[test]
fn connections_rise_with_the_memory_they_need() {
    let follows = ["connection-pool", "connections-churn", "connections-rise", "failover"];
    let mut seen = 0;
    each_run(10.0, |mut run| {
        if run.entry.set != Set::Second || !follows.contains(&&*run.entry.mechanism) {
            return;
        }
        let name = run.entry.run.clone();
        let subject = run.entry.subject.clone();
        let (mut bytes, mut pairs) = (HashMap::new(), Vec::new());
        while let Some(sights) = run.scan() {
            for sight in sights {
                match sight {
                    Sight::Process(_, fact)
                        if *fact.comm == *subject.comm && *fact.cgroup == *subject.cgroup =>
                    {
                        bytes.insert(fact.id, fact.anon_bytes as f64);
                    }
                    Sight::Handles(_, id, files, _) => {
                        pairs.extend(bytes.get(&id).map(|bytes| (*bytes, files as f64)));
                    }
                    _ => {}
                }
            }
        }
        pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
        let tenth = pairs.len() / 10;
        let files = |pairs: &[(f64, f64)]| {
            pairs.iter().map(|pair| pair.1).sum::<f64>() / pairs.len() as f64
        };
        let (few, many) = (files(&pairs[..tenth]), files(&pairs[pairs.len() - tenth..]));
        assert!(many > 1.1 * few, "{name}: {few} open files at least memory, {many} at most");
        seen += 1;
    });
    assert_eq!(seen, follows.len());
}
