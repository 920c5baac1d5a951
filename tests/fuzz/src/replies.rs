//! A reply of a receiver, or of the Kubernetes API, in any bytes: see
//! `spillway_agent::fuzzing::replies`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| spillway_agent::fuzzing::replies(bytes));
