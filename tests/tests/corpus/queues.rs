//! Recorded accept queues keep the corpus's promises: traces are complete and small, and their
//! independently determined labels hold in them.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};

use spillway_agent::{
    config::{Config, ServicePattern},
    decide::Action,
    engine::{Engine, HostInfo, Output},
    sense::Fact,
};
use spillway_tests::{
    corpus::{Part, Source},
    queues::{Entry, Kind, Stream, load},
};

/// Two readings: the last came just before, and the next one late.
const SEEN_WITHIN_SECS: f64 = 0.25;

/// Maximum time in which each reading may show waiting connections without an overload: heads that
/// are all young, or a burst that drains.
const WAITS_MAX_SECS: f64 = 2.0;

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/queues")
}

fn recorded() -> Vec<Entry> {
    let entries = load(&dir().join("manifest.jsonl")).unwrap();
    entries.into_iter().filter(|entry| entry.source == Source::Recorded).collect()
}

/// One reading of the address, over all of its sockets.
#[derive(Default)]
struct Reading {
    t: f64,
    backlog: u32,
    overflows_total: u64,
}

fn readings(entry: &Entry) -> Vec<Reading> {
    let mut readings: Vec<Reading> = Vec::new();
    for seen in Stream::open(entry, &dir()).unwrap().map(Result::unwrap) {
        let fact = match seen.fact {
            Fact::Listener(fact) if *fact.addr == *entry.addr => fact,
            Fact::Sensing(_) => continue,
            other => panic!("{}: unexpected fact {other:?}", entry.run),
        };
        if readings.last().is_none_or(|last| last.t < seen.t) {
            readings.push(Reading { t: seen.t, ..Reading::default() });
        }
        let reading = readings.last_mut().unwrap();
        reading.backlog += fact.backlog;
        reading.overflows_total += fact.overflows_total.unwrap();
    }
    readings
}

#[test]
fn recorded_queues_are_complete_and_small() {
    let runs = recorded();
    assert!(runs.len() >= 10, "only {} recordings", runs.len());
    for part in [Part::Tuning, Part::HeldOut] {
        let healthy =
            runs.iter().filter(|entry| entry.part == part).map(|entry| entry.overloads.is_empty());
        assert!(
            healthy.clone().any(|is| is) && healthy.clone().any(|is| !is),
            "{part:?} should have overloaded and healthy runs"
        );
    }
    let mut traces = Vec::new();
    for entry in &runs {
        let (seen, due) = (readings(entry).len(), (entry.secs - 2.0) / entry.interval_secs);
        assert!(seen as f64 > 0.9 * due, "{}: {seen} readings of {due:.0}", entry.run);
        let path = dir().join(entry.trace.as_ref().unwrap());
        assert!(path.metadata().unwrap().len() < 100_000, "{}", entry.run);
        traces.push(path);
    }
    let kept = std::fs::read_dir(dir().join("recorded")).unwrap().map(|file| file.unwrap().path());
    let kept = kept.filter(|path| path.extension().is_some_and(|end| end == "gz"));
    let (mut kept, mut named) = (kept.collect::<Vec<_>>(), traces);
    kept.sort();
    named.sort();
    assert_eq!(kept, named, "a trace has no line in the manifest");
}

#[test]
fn labels_of_recorded_queues_hold_in_their_traces() {
    let mut drops = 0;
    for entry in recorded() {
        let seen = readings(&entry);
        for overload in &entry.overloads {
            let within =
                |reading: &&Reading| (overload.onset_secs..=overload.end_secs).contains(&reading.t);
            let all = seen.iter().filter(within).count();
            let waits = seen.iter().filter(within).filter(|reading| reading.backlog > 0).count();
            // An overload that only drops hardly ever shows in the readings.
            assert!(
                overload.kind == Kind::Drops || 10 * waits > 9 * all,
                "{}: {waits} of {all}",
                entry.run
            );
            // The sensors count drops independently.
            let Some(dropped) = overload.overflow_secs else { continue };
            drops += 1;
            let later = |pair: &&[Reading]| pair[1].t + SEEN_WITHIN_SECS > overload.onset_secs;
            let rose = |pair: &&[Reading]| pair[1].overflows_total > pair[0].overflows_total;
            let rose = seen.windows(2).filter(later).find(rose).map(|pair| pair[1].t).unwrap();
            assert!(
                (rose - dropped).abs() < SEEN_WITHIN_SECS,
                "{}: {rose} and {dropped}",
                entry.run
            );
        }
        let overloaded = |t: f64| {
            entry.overloads.iter().any(|one| (one.onset_secs..=one.end_secs + 1.0).contains(&t))
        };
        let waits = seen
            .chunk_by(|a, b| a.backlog.min(b.backlog) > 0 && !overloaded(a.t) && !overloaded(b.t));
        let longest = waits
            .map(|readings| readings[readings.len() - 1].t - readings[0].t)
            .fold(0.0, f64::max);
        assert!(
            longest < WAITS_MAX_SECS,
            "{}: a connection waited at each reading for {longest:.1} s",
            entry.run
        );
    }
    assert!(drops >= 3, "only {drops} labels have drops");
}

/// One in so many runs of the corpus is played, so that it takes half a minute.
const ONE_IN: usize = 24;

#[test]
fn no_load_is_shed_in_any_healthy_run() {
    let mut config = Config::default();
    config.decide.services = vec![ServicePattern::new("/system.slice/*").unwrap()];
    config.act.shed.enabled = true;
    let host = HostInfo { mem_total_bytes: 16 << 30, cpus: 8 };
    let entries = load(&dir().join("manifest.jsonl")).unwrap();
    let (mut healthy, mut shed, mut overloaded) = (0, Vec::new(), 0);
    for entry in entries.iter().step_by(ONE_IN) {
        let is_healthy = entry.overloads.is_empty();
        // Some of the others show that load is shed at all.
        if !is_healthy && overloaded >= 5 {
            continue;
        }
        let (mut engine, mut output) = (Engine::new(&config, host), Output::default());
        for observation in Stream::open(entry, &dir()).unwrap().map(Result::unwrap) {
            engine.apply_into(&observation, &mut output);
        }
        let is_shed = output.decisions.iter().any(|decision| decision.action == Action::Shed);
        healthy += u32::from(is_healthy);
        overloaded += u32::from(!is_healthy && is_shed);
        shed.extend(Some(&entry.run).filter(|_| is_healthy && is_shed));
    }
    println!("{healthy} healthy runs, {} of them with load shed", shed.len());
    assert!(shed.is_empty(), "{shed:?}");
    assert!(healthy > 30 && overloaded >= 5, "{healthy} healthy runs, {overloaded} others");
}
