//! Sensors: from the kernel's bytes to observations.
//!
//! One file a sensor. Each takes what [`crate::kernel`] could attach, and where that is nothing reads the same facts
//! from `/proc` or netlink. A sensor that cannot read says so in [`Lost`] and never stops the agent.

mod cgroups;
mod connects;
mod faults;
mod handles;
mod in_flight;
mod inet_addr;
mod life;
mod listener;
mod listeners;
mod lost;
mod observation;
mod outbound;
mod pressure;
#[doc(hidden)]
pub mod printable;
#[doc(hidden)]
pub mod proc_files;
mod processes;
mod sensing;
mod sensors;
mod sock_diag;
mod strain;
mod unix;
mod unix_addr;
mod waits;

pub use cgroups::{CgroupPaths, HardLimit, Hierarchy, LEAK_CHILD, REST_CHILD};
pub use faults::FaultSensor;
pub use handles::HandleSensor;
pub use in_flight::InFlight;
pub use life::{LifeSensor, LifeTotals};
pub use listeners::ListenerSensor;
pub use lost::Lost;
pub use observation::{
    Fact, HandlesFact, HostFact, ListenerFact, Observation, OutboundFact, ProcessFact, ProcessId, SensingFact,
    StrainFact,
};
pub use outbound::OutboundSensor;
pub use pressure::PressureSensor;
pub use processes::ProcessSensor;
pub use sensing::SensingSensor;
pub use sensors::Sensors;
pub use unix::UnixSensor;
