//! Arbitrary bytes as a spool entry: see `spillway_agent::fuzzing::spool`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| spillway_agent::fuzzing::spool(bytes));
