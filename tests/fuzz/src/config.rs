//! Arbitrary text as a configuration: it is accepted, or every problem has one of the text's lines.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spillway_agent::config::parse;

fuzz_target!(|text: &str| {
    if let Err(errors) = parse(text, "fuzz.toml") {
        assert!(!errors.problems().is_empty());
        let lines = text.lines().count().max(1);
        for problem in errors.problems() {
            assert!(problem.line.is_none_or(|line| (1..=lines).contains(&line)), "{problem:?}");
        }
    }
});
