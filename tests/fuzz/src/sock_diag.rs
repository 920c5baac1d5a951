//! Arbitrary bytes as a `sock_diag` reply: see `spillway_agent::fuzzing::sock_diag`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| spillway_agent::fuzzing::sock_diag(bytes));
