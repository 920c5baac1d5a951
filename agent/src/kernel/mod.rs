//! The kernel's side of the agent: which probes could be attached, where, and why the others could not.
//!
//! Loading never fails as a whole. Whatever the kernel refuses becomes a [`ProbeReport`] with a reason, and the sensor
//! that wanted the probe uses what is left.

mod iter;
mod load;
mod offsets;
mod report;

pub use iter::IterHandle;
pub use load::{FaultMaps, Kernel, ListenerProbes};
pub use report::{Probe, ProbeReport, ProbeState};
