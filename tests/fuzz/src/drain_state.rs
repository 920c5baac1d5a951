//! Arbitrary bytes as the drain's state file: see `spillway_agent::fuzzing::drain_state`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| spillway_agent::fuzzing::drain_state(bytes));
