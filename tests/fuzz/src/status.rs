//! Arbitrary bytes as the status of an agent: see `spillway_agent::fuzzing::status`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| spillway_agent::fuzzing::status(bytes));
