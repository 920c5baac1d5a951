//! The published corpus of request queues: labelled runs of servers whose connections stay open, or
//! that accept early, and the score of the overload detector on them.
//!
//! A simulation of single requests makes it, as the corpus of accept queues is made: clients that
//! wait for each answer or do not, connections that are kept or made anew, an event loop, a pool of
//! workers, goroutines behind a semaphore, a proxy before an upstream. Each family is in both
//! parts, under other seeds and in other ranges of rates, times and strengths. Labels rest on how
//! long requests truly wait, which no sensor sees.

mod families;
mod manifest;
mod plan;
mod run;
mod score;
mod seen;
mod sim;
pub(crate) mod truth;

pub use families::{FAMILIES, Family, HELD_OUT_FROM};
pub use manifest::{Entry, load, put};
pub use run::{Stream, entry};
pub use score::{RECORDED, Report, Scored, score_run};
pub use truth::Overload;
