//! Arbitrary bytes as saved windows: see `spillway_agent::fuzzing::windows`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| spillway_agent::fuzzing::windows(bytes));
