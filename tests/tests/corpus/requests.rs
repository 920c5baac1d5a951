//! The corpus of request queues keeps its promises: labels that fit its families, both parts of every
//! family, and runs that are the same each time.

use std::path::Path;

use spillway_tests::{
    corpus::Part,
    queues::requests::{Entry, FAMILIES, entry, load},
};

/// Share of the runs of an overload's family that must be one: a wait that is too short for the
/// time that a service takes is none.
const OVERLOADED_SHARE: f64 = 0.9;

fn entries() -> Vec<Entry> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/requests");
    load(&dir.join("manifest.jsonl")).expect("the manifest is there")
}

#[test]
fn labels_fit_their_families_in_both_parts() {
    let entries = entries();
    for family in FAMILIES {
        for part in [Part::Tuning, Part::HeldOut] {
            let own: Vec<_> = entries
                .iter()
                .filter(|entry| entry.family == family.name && entry.part == part)
                .collect();
            assert_eq!(own.len() as u64, family.runs, "{} {part:?}", family.name);
            let overloaded = own.iter().filter(|entry| !entry.overloads.is_empty()).count();
            let share = overloaded as f64 / own.len() as f64;
            let fits = if family.overloads { share >= OVERLOADED_SHARE } else { share == 0.0 };
            assert!(fits, "{} {part:?}: {overloaded} of {}", family.name, own.len());
        }
    }
}

#[test]
fn overloads_are_in_order_and_within_their_runs() {
    for entry in entries() {
        let mut end_secs = 0.0;
        for overload in &entry.overloads {
            assert!(end_secs <= overload.onset_secs, "{}", entry.run);
            assert!(overload.onset_secs < overload.condition_secs, "{}", entry.run);
            assert!(overload.condition_secs < overload.end_secs, "{}", entry.run);
            end_secs = overload.end_secs;
        }
        assert!(end_secs <= entry.secs, "{}", entry.run);
    }
}

#[test]
fn request_runs_are_the_same_each_time() {
    for entry_then in entries() {
        let Some(seed) = entry_then.seed.filter(|seed| seed % 500 == 3) else { continue };
        let family = FAMILIES.iter().find(|family| family.name == entry_then.family);
        let now = entry(family.expect("its family is known"), seed);
        assert_eq!(now, entry_then);
    }
}
