//! Arbitrary bytes as files of `/proc` and cgroups: see `spillway_agent::fuzzing::proc`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| spillway_agent::fuzzing::proc(bytes));
