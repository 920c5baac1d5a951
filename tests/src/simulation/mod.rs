//! Simulation of a fleet: virtual hosts behind a balancer with retrying clients, and the agent's
//! real engine, drain, grant, turns, brake and law of shedding on each.
//!
//! `cargo xtask simulate` runs it; `tests/README.md` describes the model, its parameters and its
//! limits. The same scenario, size, policy and seed give the same outcome on every machine.

mod agent;
mod balancer;
mod clients;
mod drains;
mod hosts;
mod memory_coordinator;
mod picture;
mod policies;
mod report;
mod scenarios;
pub mod schedules;
mod shedding;
mod sweep;
mod targets;
mod world;

pub use picture::draw;
pub use policies::Policy;
pub use report::{Outcome, table};
pub use scenarios::{Scenario, all};
pub use sweep::sweep;
pub use targets::missed_targets;
pub use world::{Run, simulate};
