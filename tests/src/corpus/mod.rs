//! The published corpus: labelled runs of hosts whose processes leak or do not, and the score of
//! the leak detector on them.
//!
//! A synthetic run is its family's name and a seed: nothing of it is kept but a line of the
//! manifest, and it is made anew, fact by fact, each time it is scored. A recorded run is a
//! compressed trace. Either reaches the detector as the same stream of observations that a live
//! host gives; labels stay in the manifest, which only the scorer reads. Families stand apart by
//! mechanism, and whole families, never single runs, belong to the tuning or to the held-out part.

mod baselines;
mod bystanders;
mod curve;
mod families;
pub(crate) mod manifest;
pub(crate) mod rng;
pub(crate) mod run;
pub(crate) mod score;
mod sim;

pub use baselines::{Alarm, Rule, rules};
pub use families::{FAMILIES, Family};
pub use manifest::{Entry, Label, Part, Source, Subject, load, render};
pub use run::{Run, Stream, synthetic};
pub use score::{Report, Scored, score_run};
