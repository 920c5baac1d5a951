//! Sensors: from the kernel's bytes to observations.

mod observation;

pub use observation::{Fact, HostFact, ListenerFact, Observation, ProcessFact, ProcessId};
