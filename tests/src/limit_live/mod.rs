//! Live properties of limits on cgroups, shared by the host's tests and the checks of every kernel.

mod crash_points;
mod divided;
mod options;
mod scenarios;
mod stage;
mod thrash;

pub use crash_points::{Killed, Share, killed, killed_anywhere, killed_with_all, overtaken};
pub use divided::{
    divided, divided_and_killed, divided_and_over, divided_and_used, gathered, replaced,
};
pub use options::{backstop, never_wider_than_before, slowed};
pub use scenarios::{by_hand, changed_by_others, held, over, racing, refused, unreadable};
pub use stage::{Programs, Stage, is_alive, life};
pub use thrash::thrashing;
