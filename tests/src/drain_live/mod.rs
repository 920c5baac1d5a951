//! Drains, live: Debian's HAProxy by the files of `configs/haproxy/`, backends behind it, and one
//! of them that leaks until it is killed.
//!
//! What the tests assert is what `cargo xtask demo` shows.

mod balancer;
mod leaking;
mod node;
mod two_nodes;

pub use balancer::{Balancer, free_addr};
pub use leaking::{Happened, Ran, leaking};
pub use node::{backend, quick};
pub use two_nodes::{Served, two_nodes};

use std::time::Duration;

/// What is due within an interval is there by then on a busy machine too.
pub const SOON: Duration = Duration::from_secs(15);
