//! Spillway, told in the order in which data flows:
//!
//! ```text
//! Sample → sense → Observation → detect → Verdict → decide → Decision → act → Outcome → record
//! ```
//!
//! - [`sense`] turns what the kernel emits into typed, timestamped [`sense::Observation`]s.
//! - [`detect`] keeps a bounded window per process and per listener, and claims [`detect::Verdict`]s with evidence.
//! - [`decide`] says what the policy makes of a verdict: a decision, holding included.
//! - [`core`] puts `detect` and `decide` together: pure, driven by the live daemon and by replay alike.
//! - [`record`] writes and reads traces, and prints verdicts and decisions.
//! - [`config`] is what an operator may say about all of it.
//!
//! Each stage imports only the stages before it, and nothing after [`sense`] knows a clock, a file or a socket.

pub mod clock;
pub mod commands;
pub mod config;
pub mod core;
pub mod daemon;
pub mod decide;
pub mod detect;
pub mod doctor;
pub mod kernel;
pub mod live;
pub mod record;
pub mod sense;
pub mod serve;
