//! Arbitrary bytes as records of the ring buffer and of iterators: see
//! `spillway_agent::fuzzing::records`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| spillway_agent::fuzzing::records(bytes));
