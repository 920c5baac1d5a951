//! Arbitrary bytes from a client of the agent check: see `spillway_agent::fuzzing::agent_check`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| spillway_agent::fuzzing::agent_check(bytes));
