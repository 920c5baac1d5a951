//! The kernel's side of the agent: which probes could be attached, where, and why not elsewhere.
//!
//! Loading never fails as a whole. Each probe climbs down its [`ladder`] of hooks to the first that this kernel gives; what is
//! passed over keeps its reason in a [`ProbeReport`], and the sensor that wanted the probe uses what was taken.

mod attach;
mod batch;
pub mod btf;
mod failure;
mod iter;
pub mod ladder;
mod load;
mod offer;
pub mod offsets;
mod probe;
mod report;
mod samples;
mod sys;

pub use attach::{
    FaultMaps, LISTENERS_MAX, ListenerProbes, OUTBOUND_MAX, OutboundMaps, Shared, Sojourns, UNIX_LISTENERS_MAX,
    UnixProbes,
};
pub use batch::BatchMap;
pub use iter::IterHandle;
pub use ladder::Hook;
pub use load::{Kernel, Wanted};
pub use probe::Probe;
pub use report::{ProbeReport, ProbeState};
pub use samples::{Plain, decode, pass};

#[cfg(any(test, fuzzing))]
pub(crate) use btf::Btf;

/// Looks up everything in type information, for the fuzz target.
#[cfg(any(test, fuzzing))]
pub(crate) fn look_up(btf: &Btf) {
    offer::find(btf);
    for memory_v1 in [false, true] {
        offsets::find(btf, memory_v1);
    }
}
