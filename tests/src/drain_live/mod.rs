//! Live drains: Debian's HAProxy with the files of `configs/haproxy/`, backends behind it, and one
//! of them that leaks until it is killed.
//!
//! The tests assert what `cargo xtask demo` shows.

mod balancer;
mod leaking;
mod node;
mod two_nodes;

pub use balancer::{Balancer, free_addr};
pub use leaking::{Happened, Ran, leaking};
pub use node::{backend, quick};
pub use two_nodes::{NodeAgent, Served, two_nodes};

use std::time::Duration;

/// Maximum time until an event that is due within an interval has happened, also on a busy machine.
pub const SOON: Duration = Duration::from_secs(15);
