//! The published corpus: labelled runs of hosts whose processes leak or do not, and the leak
//! detector's score on them.
//!
//! A synthetic run is its family's name and a seed: only a line in the manifest is stored, and the
//! run is generated again, fact by fact, each time it is scored. A recorded run is a compressed
//! trace. Both reach the detector as the same stream of observations that a live host gives; labels
//! stay in the manifest, which only the scorer reads. Families are separated by mechanism, and
//! whole families, never single runs, belong to the tuning or the held-out part.

mod baselines;
mod bystanders;
mod curve;
mod families;
pub(crate) mod manifest;
pub(crate) mod rng;
pub(crate) mod run;
pub(crate) mod score;
mod sim;

pub use baselines::{Alarm, Compared, Rule, rules};
pub use families::{FAMILIES, Family};
pub use manifest::{Entry, Label, Part, Source, Subject, load, render};
pub use run::{Run, Stream, synthetic};
pub use score::{PartScore, Report, Scored, score_run};
