//! Arbitrary bytes as a minute of history, packed or not: see `spillway_agent::fuzzing::history`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| spillway_agent::fuzzing::history(bytes));
