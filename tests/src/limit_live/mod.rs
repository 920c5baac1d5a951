//! Limits on cgroups, live: what the host's tests and the checks of every kernel hold the action to.

mod divided;
mod options;
mod scenarios;
mod stage;
mod thrash;

pub use divided::{divided, divided_and_killed, divided_and_over, divided_and_used, gathered, replaced};
pub use options::{backstop, never_wider_than_before, slowed};
pub use scenarios::{
    Share, by_hand, changed_by_others, held, killed, killed_with_all, over, overtaken, racing, refused,
};
pub use stage::{Programs, Stage, is_alive, life};
pub use thrash::thrashing;
