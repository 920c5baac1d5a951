//! Arbitrary bytes as the report of a node, and as a reply of etcd and of Kubernetes: see
//! `spillway_agent::fuzzing::fleet`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| spillway_agent::fuzzing::fleet(bytes));
