//! Loading and attaching of BPF programs.
//!
//! Loading never fails as a whole. Each probe gets the best of its [`fallbacks`] that this kernel
//! accepts; those passed over keep their reason in a [`ProbeStatus`], and the sensor that owns the
//! probe uses the one that was taken.

mod attach;
mod batch;
pub mod btf;
pub mod btf_offsets;
mod error;
pub mod fallbacks;
mod features;
mod iter;
pub mod kernel_offset;
mod load;
mod program_log;
mod samples;
mod status;

pub use attach::{AttachContext, broken, optional};
pub use batch::BatchMap;
pub use fallbacks::{Fallback, FallbackChain, Hook, Need, ProgramKind, Unavailable};
pub use iter::IterHandle;
pub use load::{LoadOptions, LoadedBpf, Loader, OBJECT};
pub use samples::{OpenPass, SharedStruct, decode, pass};
pub use spillway_ebpf::{LISTENERS_MAX, Loss, OUTBOUND_MAX, Plain, Probe, UNIX_LISTENERS_MAX};
pub use status::{ProbeState, ProbeStatus};

#[cfg(any(test, fuzzing))]
pub(crate) use btf::Btf;

/// Looks up everything in type information, for the fuzz target.
#[cfg(any(test, fuzzing))]
pub(crate) fn look_up(btf: &Btf, chains: &[&FallbackChain]) {
    features::find(btf, chains);
    for memory_v1 in [false, true] {
        btf_offsets::find(btf, memory_v1, chains);
    }
}
