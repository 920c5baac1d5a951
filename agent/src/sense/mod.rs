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
mod outside;
mod overflows;
mod own;
mod pressure;
#[doc(hidden)]
pub mod printable;
#[doc(hidden)]
pub mod proc_files;
mod processes;
mod sensing;
mod sensors;
mod shares;
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
pub use own::OwnSockets;
pub use pressure::PressureSensor;
pub use processes::ProcessSensor;
pub use sensing::SensingSensor;
pub use sensors::Sensors;
pub use unix::UnixSensor;

#[cfg(any(test, fuzzing))]
pub(crate) use fuzzed::{from_records, from_sock_diag, from_texts};

/// Facts that sensors make of bytes, for the fuzz targets.
#[cfg(any(test, fuzzing))]
mod fuzzed {
    use std::sync::Arc;

    use spillway_ebpf::{
        HandleSample, LifeSample, ListenerSample, OutboundConnect, OutboundCount, SocketOwnerSample, TaskSample,
        UnixFoundSample, UnixSample,
    };

    use super::{cgroups, handles, inet_addr::inet_addr, printable::printable, sock_diag, strain, unix_addr};
    use crate::kernel::{Plain, decode};

    /// Names in records of every kind.
    pub fn from_records(bytes: &[u8]) -> Vec<Arc<str>> {
        fn all<T: Plain>(bytes: &[u8]) -> impl Iterator<Item = T> {
            decode::<T>(bytes)
        }
        assert!(all::<HandleSample>(bytes).all(|sample| handles::fact(&sample, 10_000_000).close_wait.is_some()));
        all::<OutboundConnect>(bytes).for_each(drop);
        all::<SocketOwnerSample>(bytes).for_each(drop);
        let counts =
            [all::<OutboundCount>(bytes).count(), all::<LifeSample>(bytes).count(), all::<UnixSample>(bytes).count()];
        assert!(counts.iter().all(|count| *count <= bytes.len()));
        let comms = all::<TaskSample>(bytes).map(|sample| printable(sample.comm));
        let paths = all::<UnixFoundSample>(bytes)
            .map(|sample| unix_addr::of_kernel(&sample.name[..(sample.name_len as usize).min(sample.name.len())]));
        let addrs = all::<ListenerSample>(bytes)
            .map(|sample| Arc::from(inet_addr(sample.family, sample.addr, sample.port).to_string()));
        comms.chain(paths).chain(addrs).collect()
    }

    /// Addresses in an answer of `sock_diag`.
    pub fn from_sock_diag(bytes: &[u8]) -> Vec<Arc<str>> {
        sock_diag::addresses(bytes)
    }

    /// Numbers in files of cgroups.
    pub fn from_texts(text: &str) {
        cgroups::sum_of(text, ["anon", "shmem"]);
        strain::stall_us(text);
    }
}
