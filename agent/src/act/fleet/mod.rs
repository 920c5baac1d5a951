//! This node in its fleet: the thread that publishes the node's report and asks for its turn to
//! leave, beside the loop.
//!
//! [`FleetGate`] connects it with the drain's thread: the wish to leave goes in, and the permit
//! comes out. Decisions and rules are in [`crate::fleet`].

mod gate;
mod metrics;
mod node_load;
mod proven_file;
mod worker;

pub use gate::FleetGate;
pub use metrics::{FleetMetrics, FleetState};
pub use worker::FleetWorker;
