//! Without root: properties, replayed traces, configuration, and everything that the agent says to
//! others, at receivers of the test's own. In parallel.

mod cli;
mod config;
mod core_properties;
mod delivery;
mod drain;
mod drain_kills;
mod files;
mod https;
mod kubernetes;
mod offsets;
mod page;
mod page_flood;
mod replay;
mod replay_requests;
mod serve;
mod source;
mod spool;
