//! Limits on cgroups, live: what the host's tests and the checks of every kernel hold the action to.

mod options;
mod scenarios;
mod stage;

pub use options::{backstop, never_wider_than_before, slowed};
pub use scenarios::{Share, by_hand, changed_by_others, held, killed, killed_with_all, over, racing, refused};
pub use stage::{Programs, Stage, is_alive, life};
