//! The corpus keeps its promises: the same seeds give the same runs, truths hold in the traces, and
//! the manifest matches the families.
//!
//! These tests do not involve a detector: `cargo xtask corpus score` measures it.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use spillway_agent::{
    sense::{Fact, Observation},
    trace::{TraceReader, TraceWriter},
};
use spillway_tests::corpus::{
    Entry, FAMILIES, Label, Part, Run, Source, Stream, load, render, synthetic,
};

fn dir() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn manifest() -> Vec<Entry> {
    load(&dir().join("manifest.jsonl")).unwrap()
}

fn observations(entry: &Entry) -> impl Iterator<Item = Observation> + use<> {
    Stream::open(entry, &dir()).unwrap().observations().map(Result::unwrap)
}

/// Runs short enough for an unoptimised test.
fn short() -> Vec<Entry> {
    let entries = manifest().into_iter().filter(|entry| entry.source == Source::Synthetic);
    entries.filter(|entry| entry.secs / entry.interval_secs < 4_000.0).collect()
}

#[test]
fn manifest_matches_the_families() {
    let kept: Vec<_> =
        manifest().into_iter().filter(|entry| entry.source == Source::Synthetic).collect();
    let made: Vec<_> = synthetic(None).map(|(family, seed)| Run::new(family, seed).entry).collect();
    assert!(
        render(&kept).unwrap() == render(&made).unwrap(),
        "hint: run `cargo xtask corpus write-manifest`"
    );
}

#[test]
fn both_parts_have_leaks_and_more_that_do_not() {
    let runs = manifest();
    let count =
        |label, part| runs.iter().filter(|run| run.label == label && run.part == part).count();
    for part in [Part::Tuning, Part::HeldOut] {
        let (leaks, healthy) = (count(Label::Leak, part), count(Label::Healthy, part));
        assert!(leaks >= 75 && healthy >= leaks, "{part:?}: {leaks} leaks, {healthy} healthy");
    }
    for family in FAMILIES {
        assert!(
            runs.iter().filter(|run| run.family == family.name).all(|run| run.part == family.part)
        );
    }
}

#[test]
fn same_seed_gives_the_same_observations() {
    for entry in short().iter().step_by(9) {
        let family = FAMILIES.iter().find(|family| family.name == entry.family).unwrap();
        let seen = |seed| Run::new(family, seed).stream().observations().map(Result::unwrap);
        let seed = entry.seed.unwrap();
        assert!(seen(seed).take(3_000).eq(seen(seed).take(3_000)), "{}", entry.run);
        assert!(!seen(seed).take(3_000).eq(seen(seed + 1_000).take(3_000)), "{}", entry.run);
    }
}

#[test]
fn traces_are_read_back_without_a_skip() {
    for entry in short().iter().step_by(17) {
        let stream = Stream::open(entry, &dir()).unwrap();
        let mut writer = TraceWriter::new(Vec::new(), stream.host, entry.interval_secs).unwrap();
        let written: Vec<_> = stream.observations().map(Result::unwrap).take(5_000).collect();
        written.iter().for_each(|observation| writer.write(observation).unwrap());
        let trace = writer.finish().unwrap();
        let read: Vec<_> = TraceReader::new(&trace[..]).unwrap().map(Result::unwrap).collect();
        assert!(read == written, "{}", entry.run);
    }
}

/// Private bytes of all the subject's processes at each scan.
fn weights(entry: &Entry) -> Vec<(f64, f64)> {
    let (mut now, mut weights): (HashMap<_, f64>, Vec<(f64, f64)>) = (HashMap::new(), Vec::new());
    for observation in observations(entry) {
        match observation.fact {
            Fact::Process(fact)
                if *fact.comm == *entry.subject.comm && *fact.cgroup == *entry.subject.cgroup =>
            {
                now.insert(fact.id, fact.private_bytes() as f64);
            }
            Fact::Exit(id) => drop(now.remove(&id)),
            Fact::Host(_) if !now.is_empty() => weights.push((observation.t, now.values().sum())),
            _ => {}
        }
    }
    weights
}

#[test]
fn peaks_never_fall_and_cover_what_is_resident() {
    let runs = short().into_iter().filter(|entry| entry.part == Part::Broad);
    let (mut with, mut without, mut earlier) = (0, 0, 0);
    for entry in runs.step_by(2) {
        let (mut peaks, mut known) = (HashMap::new(), false);
        for observation in observations(&entry) {
            let Fact::Process(fact) = observation.fact else { continue };
            let Some(peak) = fact.peak_rss_bytes else { continue };
            let rss = fact.anon_bytes + fact.file_bytes + fact.shmem_bytes;
            assert!(peak >= rss, "{}: {peak} of {rss}", entry.run);
            let before = peaks.insert(fact.id, peak);
            assert!(before.is_none_or(|before| before <= peak), "{}", entry.run);
            earlier += u32::from(before.is_none() && peak > rss + rss / 4);
            known = true;
        }
        *if known { &mut with } else { &mut without } += 1;
    }
    assert!(with >= 10 && without >= 10 && earlier > 0, "{with}, {without}, {earlier}");
}

fn lowest(weights: &[(f64, f64)]) -> f64 {
    weights.iter().map(|weight| weight.1).fold(f64::INFINITY, f64::min)
}

#[test]
fn leaks_grow_at_the_stated_rate_from_the_stated_start() {
    let leaks = short()
        .into_iter()
        .filter(|run| run.label == Label::Leak && !run.family.starts_with("restart"))
        // Leaks that began before the run, and lives that end, have no level before.
        .filter(|run| run.part != Part::Broad);
    let mut seen = 0;
    for entry in leaks {
        let (start, rate) = (entry.leak_start_secs.unwrap(), entry.leak_bytes_per_sec.unwrap());
        let weights = weights(&entry);
        let from = weights.partition_point(|weight| weight.0 < start);
        let tenth = (weights.len() - from) / 10;
        // Minima of the time before and of the last tenth of the leak, because collectors and
        // bursts rise above them. The time before is its last fifth: a cache may have filled until
        // then. A collector's tooth may be longer.
        let settled = if entry.family.starts_with("gc-leak") { 0 } else { from - from.div_ceil(5) };
        let (before, after) =
            (lowest(&weights[settled..from]), lowest(&weights[weights.len() - tenth..]));
        let grown = rate * (entry.secs - start);
        let share = (after - before) / grown;
        assert!((0.5..1.6).contains(&share), "{}: {share:.2} of {grown:.0} bytes", entry.run);
        seen += 1;
    }
    assert!(seen >= 20, "only {seen} leaks are short enough");
}

#[test]
fn healthy_runs_stay_below_their_limits() {
    // Forked processes count memory shared with their parent as their own, but their limit counts
    // it once.
    let shares = |entry: &&Entry| !entry.family.starts_with("copy-on-write");
    for entry in short().iter().filter(|run| run.label == Label::Healthy).filter(shares) {
        let limits = observations(entry).filter_map(|observation| match observation.fact {
            Fact::Process(fact) => fact.memory_max_bytes,
            _ => None,
        });
        let heaviest = weights(entry).iter().map(|weight| weight.1).fold(0.0, f64::max);
        assert!(
            limits.min().is_none_or(|limit| heaviest < limit as f64),
            "{}: {heaviest} bytes",
            entry.run
        );
        let ran_out = observations(entry)
            .any(|one| matches!(one.fact, Fact::Host(host) if host.mem_available_bytes == 0));
        assert!(!ran_out, "{}", entry.run);
    }
}

/// Checks the promises of `cargo xtask corpus record` for every trace.
#[test]
fn recorded_runs_are_complete() {
    let runs: Vec<_> =
        manifest().into_iter().filter(|entry| entry.source == Source::Recorded).collect();
    assert!(runs.len() >= 18, "only {} recordings", runs.len());
    for entry in &runs {
        let (mut execs, mut first, mut handles, mut limits) =
            (HashSet::new(), None, HashSet::new(), HashSet::new());
        for observation in observations(entry) {
            match observation.fact {
                Fact::Exec(id) => drop(execs.insert(id)),
                Fact::Handles(fact) => drop(handles.insert(fact.id)),
                Fact::Process(fact) if *fact.cgroup == *entry.subject.cgroup => {
                    first.get_or_insert((fact.id, execs.contains(&fact.id)));
                    limits.insert(fact.memory_max_bytes.unwrap());
                }
                _ => {}
            }
        }
        let (first, began) = first.unwrap();
        assert!(
            began && handles.contains(&first),
            "{}: its first process has no exec or no handles",
            entry.run
        );
        assert_eq!(limits.len(), 1, "{}: its limit was changed", entry.run);
        let leaks = entry.label == Label::Leak;
        // A program that is killed all the time runs out within the recording.
        let ends_later = entry.exhausted_secs.is_some_and(|end| end > entry.secs);
        assert!(leaks == (ends_later || entry.due_secs.is_some()), "{}", entry.run);
        let weights = weights(entry);
        let (warm, end) = (weights[weights.len() / 4].1, weights[weights.len() - 1].1);
        let grows = end > 1.3 * warm || entry.due_secs.is_some();
        assert!(!leaks || grows, "{}: from {warm:.0} to {end:.0} bytes", entry.run);
    }
    let traces = std::fs::read_dir(dir().join("recorded")).unwrap().filter(|file| {
        let name = file.as_ref().unwrap().file_name();
        name.to_string_lossy().ends_with(".gz")
    });
    assert_eq!(traces.count(), runs.len(), "a trace has no line in the manifest");
}
