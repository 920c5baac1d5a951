//! The published corpus of accept queues: labelled runs of listeners that are overloaded or not,
//! and the overload detector's score on them.
//!
//! It is built like the corpus of leaks ([`crate::corpus`]): a synthetic run is its family's name
//! and a seed, a recorded one is a compressed trace, and whole families belong to a part. Labels
//! come from elsewhere: a simulation of connections, accept queue and server determines when
//! offered load exceeded the capacity; families do not state it.

mod events;
mod families;
mod line;
mod looks;
mod manifest;
pub(crate) mod plan;
mod ramp;
pub mod requests;
mod rules;
mod run;
mod score;
mod sim;
mod socket;
mod truth;

pub use families::{FAMILIES, Family};
pub use manifest::{Entry, load, put};
pub use plan::Scarce;
pub use ramp::{Ramp, Tick};
pub use rules::{Claim, Rule, rules};
pub use run::{Stream, entry, synthetic};
pub use score::{Report, Scored, score_run};
pub use truth::{Drops, Kind, Overload, together};
