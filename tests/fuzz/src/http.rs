//! Arbitrary bytes from a client of the HTTP server: see `spillway_agent::fuzzing::http`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| spillway_agent::fuzzing::http(bytes));
