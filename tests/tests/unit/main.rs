//! Tests without root, in parallel: properties, replayed traces, configuration, and the agent's
//! messages to receivers of the test's own.

mod cli;
mod config;
mod core_properties;
mod delivery;
mod drain;
mod drain_kills;
mod files;
mod fleet;
mod fleetlock;
mod https;
mod kubernetes;
mod kubernetes_leases;
mod offsets;
mod page;
mod page_flood;
mod replay;
mod replay_requests;
mod serve;
mod source;
mod spool;
mod telemetry;
