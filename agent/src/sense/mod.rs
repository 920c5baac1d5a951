//! Sensors: from the kernel's bytes to observations.
//!
//! One file a sensor, listed in [`SENSORS`]. Each declares its probe and attaches it through
//! [`crate::bpf`]; without BPF it reads the same facts from `/proc` or netlink. A sensor that
//! cannot read is counted as a [`Loss`] and never stops the agent.

mod accept_latency;
mod addr;
mod cgroup_memory;
mod cgroup_namespace;
mod cgroup_pids;
mod cgroups;
mod connections;
mod counted_resource;
mod file_systems;
mod host_memory;
pub mod identity;
mod kernel_counts;
pub mod kubepods;
mod losses;
mod observation;
mod open_files;
mod outbound;
mod outside;
mod overflows;
mod own;
mod pace;
mod page_faults;
#[doc(hidden)]
pub mod printable;
#[doc(hidden)]
pub mod proc_files;
mod process_events;
mod process_memory;
mod process_resources;
mod program_list;
mod requests;
mod sensor;
mod sensor_health;
mod sensors;
mod service_pressure;
mod shares;
mod sock_diag;
mod socket_list;
mod system_v;
mod tcp_listeners;
mod thread_time;
mod unix_listeners;
mod unix_workers;
mod waiting_requests;

pub use crate::bpf::Loss;
pub use accept_latency::AcceptLatency;
pub use cgroup_memory::{CgroupMemorySensor, owner as cgroup_owner};
pub use cgroup_pids::CgroupPidsSensor;
pub use cgroups::{CgroupPaths, HardLimit, Hierarchy, LEAK_CHILD, REST_CHILD};
pub use connections::EstablishedConnections;
pub use counted_resource::CountedResource;
pub use file_systems::FileSystemSensor;
pub use host_memory::HostMemorySensor;
pub use kernel_counts::KernelCountSensor;
pub use losses::LossCounters;
pub use observation::{
    CgroupFact, CountFact, CountUser, Fact, FactKind, FleetFact, HostFact, ListenerFact, MemorySum,
    Observation, OutboundFact, PagerFact, ProcessFact, ProcessId, ProcessResourcesFact,
    RequestsFact, SensorHealthFact, ServicePressureFact,
};
pub use outbound::OutboundSensor;
pub use own::OwnSockets;
pub use page_faults::PageFaults;
pub use process_events::{ProcessEventSensor, ProcessEventTotals};
pub use process_memory::ProcessMemorySensor;
pub use process_resources::ProcessResourceSensor;
pub use program_list::ProgramList;
pub use requests::{CompletePass, PassCost, RequestSensor};
use sensor::boxed;
pub use sensor::{Observations, Schedule, Sensor, SensorEntry};
pub use sensor_health::SensorHealthSensor;
pub use sensors::{Sensors, probes};
pub use socket_list::SocketList;
pub use tcp_listeners::{ListenerProbes, TcpListenerSensor};
pub use unix_listeners::{UnixListenerSensor, UnixProbes};

/// Every sensor. They are started and read in this order: the machine opens a scan, and page faults
/// are sampled before processes are scanned, and processes show which cgroups there are.
pub const SENSORS: &[SensorEntry] = &[
    SensorEntry { probes: &[], start: |_, _| boxed(Some(HostMemorySensor::default())) },
    SensorEntry { probes: &[], start: |_, _| boxed(Some(SensorHealthSensor::default())) },
    SensorEntry {
        probes: &[&PageFaults::PROBE],
        start: |bpf, _| {
            PageFaults::attach(bpf);
            None
        },
    },
    SensorEntry {
        probes: &[&ProcessMemorySensor::PROBE],
        start: |bpf, hierarchy| boxed(Some(ProcessMemorySensor::start(bpf, hierarchy))),
    },
    SensorEntry { probes: &[], start: |_, hierarchy| boxed(CgroupMemorySensor::start(hierarchy)) },
    SensorEntry {
        probes: &[&ProcessEventSensor::PROBE],
        start: |bpf, _| boxed(ProcessEventSensor::start(bpf)),
    },
    SensorEntry {
        probes: &[&ProcessResourceSensor::PROBE],
        start: |bpf, _| boxed(Some(ProcessResourceSensor::start(bpf))),
    },
    SensorEntry {
        probes: &[&TcpListenerSensor::PROBE, &AcceptLatency::PROBE],
        start: |bpf, hierarchy| boxed(Some(TcpListenerSensor::start(bpf, hierarchy))),
    },
    SensorEntry {
        probes: &[&UnixListenerSensor::PROBE],
        start: |bpf, hierarchy| boxed(UnixListenerSensor::start(bpf, hierarchy)),
    },
    SensorEntry {
        probes: &[&OutboundSensor::PROBE],
        start: |bpf, hierarchy| boxed(OutboundSensor::start(bpf, hierarchy)),
    },
    SensorEntry {
        probes: &[&RequestSensor::PROBE],
        start: |bpf, hierarchy| boxed(Some(RequestSensor::start(bpf, hierarchy))),
    },
    SensorEntry {
        probes: &[&FileSystemSensor::PROBE],
        start: |bpf, _| boxed(FileSystemSensor::start(bpf)),
    },
    SensorEntry { probes: &[], start: |_, _| boxed(Some(KernelCountSensor::default())) },
    SensorEntry { probes: &[], start: |_, _| boxed(CgroupPidsSensor::start()) },
];

#[cfg(any(test, fuzzing))]
pub(crate) use fuzzed::{from_records, from_sock_diag, from_texts};

/// Decoding of bytes into facts, for the fuzz targets.
#[cfg(any(test, fuzzing))]
mod fuzzed {
    use std::sync::Arc;

    use spillway_ebpf::{
        HandleSample, LifeSample, ListenerSample, OpenFileSample, OutboundConnect, OutboundCount,
        ProgramNameSample, RequestSample, SocketOwnerSample, SocketSample, TaskSample,
        UnixAcceptedSample, UnixFoundSample, UnixSample,
    };

    use super::{
        addr, cgroup_memory, cgroups, printable::printable, process_resources, program_list,
        requests, service_pressure, sock_diag,
    };
    use crate::bpf::{Plain, decode};

    /// Returns the names in records of every kind.
    pub fn from_records(bytes: &[u8]) -> Vec<Arc<str>> {
        fn all<T: Plain>(bytes: &[u8]) -> impl Iterator<Item = T> {
            decode::<T>(bytes)
        }
        assert!(
            all::<HandleSample>(bytes)
                .all(|sample| process_resources::fact(&sample, 10_000_000).close_wait.is_some())
        );
        all::<OutboundConnect>(bytes).for_each(drop);
        all::<SocketOwnerSample>(bytes).for_each(drop);
        program_list::programs_in(all::<ProgramNameSample>(bytes));
        let counts = [
            all::<OpenFileSample>(bytes).count(),
            all::<OutboundCount>(bytes).count(),
            all::<LifeSample>(bytes).count(),
            all::<UnixSample>(bytes).count(),
            all::<UnixAcceptedSample>(bytes).count(),
        ];
        assert!(counts.iter().all(|count| *count <= bytes.len()));
        let comms = all::<TaskSample>(bytes).map(|sample| printable(sample.comm));
        let paths = all::<UnixFoundSample>(bytes).map(|sample| {
            addr::unix_addr(&sample.name[..(sample.name_len as usize).min(sample.name.len())])
        });
        let addrs = all::<ListenerSample>(bytes).map(|sample| {
            Arc::from(addr::inet_addr(sample.family, sample.addr, sample.port).to_string())
        });
        let sockets = all::<SocketSample>(bytes).map(|sample| {
            Arc::from(addr::inet_addr(sample.family, sample.addr, sample.port).to_string())
        });
        let requests = requests::addresses(all::<RequestSample>(bytes));
        comms.chain(paths).chain(addrs).chain(sockets).chain(requests).collect()
    }

    /// Returns the addresses in a response of `sock_diag`.
    pub fn from_sock_diag(bytes: &[u8]) -> Vec<Arc<str>> {
        sock_diag::addresses(bytes)
    }

    /// Parses the numbers in files of cgroups.
    pub fn from_texts(text: &str) {
        cgroups::sum_of(text, ["anon", "shmem"]);
        cgroup_memory::kernel_bytes(text);
        service_pressure::stall_us(text);
    }
}
