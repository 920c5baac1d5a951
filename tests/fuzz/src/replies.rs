//! Arbitrary bytes as a reply of a receiver or of the Kubernetes API: see
//! `spillway_agent::fuzzing::replies`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| spillway_agent::fuzzing::replies(bytes));
