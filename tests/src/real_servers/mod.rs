//! Real servers below, around and above what they can do, healthy and with faults, watched by the
//! agent on its defaults.
//!
//! A family is a server of one kind: a file in `families/` and a line in [`FAMILIES`]. It says how
//! the server is started and what it can do; its scenes say what its clients do, what fails, and
//! the right answer. Every scene runs in a network namespace, a cgroup and a directory of its own.
//! The clients note how long each request waits, which is the truth that claims are judged by. The
//! definition of an overload is that of the corpus of request queues.

mod clients;
mod corpus;
mod dependency;
mod families;
mod judge;
mod play;
mod report;
mod run;
mod scene;
mod shed;
mod stage;
mod watching;
mod wire;

pub use clients::{Connections, Counts};
pub use families::FAMILIES;
pub use judge::{CLEARED_WITHIN_SECS, Judged, WITHIN_SECS};
pub use play::{Played, Started};
pub use report::{rightly, table};
pub use run::{Options, Outcome, Seen, named, recordings, run};
pub use scene::{Expected, Family, Fault, Load, SLOW_SECS, Scene};
pub use shed::{SHED_SERVERS, Scores, ShedServer, Shedding, draw, shed};
pub use stage::Stage;
pub use watching::{Claim, Watching};
pub use wire::{Target, Wire};
