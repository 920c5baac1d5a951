//! Spillway, told in the order in which data flows:
//!
//! ```text
//! Sample → sense → Observation → detect → Verdict → decide → Decision → act → Outcome → record
//! ```
//!
//! - [`kernel`] attaches the BPF programs that this kernel allows, and says why not the others.
//! - [`sense`] turns what they emit, or what `/proc` and netlink say in their place, into
//!   [`sense::Observation`]s.
//! - [`detect`] keeps a bounded window per process and per listener, and claims
//!   [`detect::Verdict`]s with evidence.
//! - [`decide`] says what the policy makes of a verdict: a [`decide::Decision`].
//! - [`act`] does what a decision asks for, where that is allowed, and says what came of it: an
//!   [`act::Outcome`].
//! - [`core`] puts `detect` and `decide` together: pure, driven by the live agent and by replay
//!   alike.
//! - [`record`] writes and reads traces, and prints verdicts, decisions and outcomes.
//!
//! Around it: [`config`] is what an operator may say about all of it, [`daemon`] the loop that
//! reads the sensors, [`live`] that loop into the core or into a trace, [`serve`] metrics and
//! health, [`doctor`] what works on this host, [`explain`] one process of a trace as a picture,
//! `hardship` what keeps it going when memory is short, `os` the files that the agent trusts and
//! what it forbids itself, [`https`] how others are asked, `resolve` how their names are looked up,
//! [`kubernetes`] what is asked of its API, [`commands`] what each command does, and [`clock`] the
//! only reader of time.
//!
//! Each stage imports only the stages before it, and from [`detect`] to [`decide`] nothing knows a
//! clock, a file or a socket. The next sensor is a file in `sense/` and a line in
//! [`sense::Sensors`]; the next detector a file in `detect/` and a line in
//! [`core::Core::apply_into`]; the next action a variant of [`decide::Action`] and a module in
//! `act/`.

pub mod act;
pub mod agent;
pub mod bpf;
pub mod clock;
pub mod commands;
pub mod config;
pub mod decide;
pub mod detect;
pub mod engine;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod net;
pub mod os;
pub mod output;
pub mod scan_loop;
pub mod sense;
pub mod serve;
mod service_pods;
mod signals;
pub mod trace;
pub mod units;
