//! Arbitrary bytes as a command line, an executable, the path of a cgroup and files of container
//! engines: see `spillway_agent::fuzzing::identity`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| spillway_agent::fuzzing::identity(bytes));
