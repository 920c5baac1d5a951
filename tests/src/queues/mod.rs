//! The published corpus of accept queues: labelled runs of listeners that are overloaded or not,
//! and the score of the overload detector on them.
//!
//! It is made as the corpus of leaks is ([`crate::corpus`]): a synthetic run is its family's name
//! and a seed, a recorded one a compressed trace, and whole families belong to a part. What differs
//! is where labels come from: a simulation of connections, accept queue and server says itself when
//! more was offered than could be taken, and no family is asked.

mod families;
mod line;
mod looks;
mod manifest;
mod plan;
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
