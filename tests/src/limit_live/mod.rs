//! Limits on cgroups, live: what the host's tests and the checks of every kernel hold the action to.

mod scenarios;
mod stage;
mod thrash;

pub use scenarios::{Share, by_hand, changed_by_others, held, killed, over, racing, refused};
pub use stage::{Programs, Stage, is_alive, life};
pub use thrash::thrashing;
