//! Spillway's agent, in the order in which data flows:
//!
//! ```text
//! Sample → sense → Observation → detect → Verdict → decide → Decision → act → Outcome
//! ```
//!
//! - [`bpf`] loads the BPF programs that this kernel allows, and reports why others are missing.
//! - [`sense`] turns their samples, or `/proc` and netlink, into [`sense::Observation`]s.
//! - [`detect`] keeps a bounded window per process and listener and raises [`detect::Verdict`]s.
//! - [`decide`] turns a verdict into [`decide::Decision`]s: the policy.
//! - [`act`] carries decisions out and reports each [`act::Outcome`].
//! - [`engine`] puts `detect` and `decide` together: pure, shared by the agent and by replay.
//!
//! Around them: [`agent`] is the loop of `spillway run`, [`scan_loop`] its timers and reads,
//! [`output`] what it prints, `saved_windows` what it keeps for its next run, [`history`] what it
//! keeps for people, [`serve`] its metrics and health, [`telemetry`] what it sends of both,
//! [`status`] its report, [`trace`] recorded observations, [`config`] the configuration, [`cli`]
//! the command line, [`commands`] the subcommands, [`net`] clients of other hosts, `os` the
//! operating system, [`units`] numbers for people, and [`clock`] the only reader of time.
//!
//! Each stage imports only the stages before it, and from [`detect`] to [`engine`] nothing knows a
//! clock, a file or a socket. `agent/README.md` describes how to add a sensor, a detector, an
//! executor or a sink.

pub mod act;
pub mod agent;
pub mod bpf;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod config;
pub mod decide;
pub mod detect;
pub mod engine;
pub mod fleet;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod history;
pub mod net;
pub mod os;
pub mod output;
mod saved_windows;
pub mod scan_loop;
pub mod sense;
pub mod serve;
mod service_pods;
mod signals;
mod spare_room;
pub mod status;
pub mod telemetry;
pub mod trace;
pub mod units;
