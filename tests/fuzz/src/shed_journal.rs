//! Arbitrary bytes as a journal entry of an accept queue: see
//! `spillway_agent::fuzzing::shed_journal`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| spillway_agent::fuzzing::shed_journal(bytes));
