//! Arbitrary bytes as a kernel's type information: see `spillway_agent::fuzzing::btf`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| spillway_agent::fuzzing::btf(bytes));
