//! The kernel's side of the agent: which probes could be attached, where, and why not elsewhere.
//!
//! Loading never fails as a whole. Each probe climbs down its [`ladder`] of hooks to the first that
//! this kernel gives; what is passed over keeps its reason in a [`ProbeReport`], and the sensor
//! that wanted the probe uses what was taken.

mod attach;
mod batch;
pub mod btf;
pub mod btf_offsets;
mod error;
pub mod fallbacks;
mod features;
mod iter;
mod load;
mod samples;
mod status;

pub use attach::{
    FaultMaps, LISTENERS_MAX, ListenerProbes, OUTBOUND_MAX, OutboundMaps, SharedStruct, Sojourns,
    UNIX_LISTENERS_MAX, UnixProbes,
};
pub use batch::BatchMap;
pub use fallbacks::Hook;
pub use iter::IterHandle;
pub use load::{LoadOptions, LoadedBpf};
pub use samples::{Plain, decode, pass};
pub use spillway_ebpf::{Loss, Probe};
pub use status::{ProbeState, ProbeStatus};

#[cfg(any(test, fuzzing))]
pub(crate) use btf::Btf;

/// Looks up everything in type information, for the fuzz target.
#[cfg(any(test, fuzzing))]
pub(crate) fn look_up(btf: &Btf) {
    features::find(btf);
    for memory_v1 in [false, true] {
        btf_offsets::find(btf, memory_v1);
    }
}
