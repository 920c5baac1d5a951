//! Arbitrary bytes as a journal entry: see `spillway_agent::fuzzing::journal`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| spillway_agent::fuzzing::journal(bytes));
