//! Identity of incidents, as a type and in print.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{fleet::sign::FleetSign, resource::Resource};
use crate::sense::{CountedResource, ProcessId};

/// Identity of an incident by its subject, so that every restart and every replay names it alike.
/// Prints as `leak-PID-START_TICKS`, `leak-RESOURCE-PID-START_TICKS` if the resource is not memory,
/// `leak-cgroup-CGROUP`, `overload-NETNS-ADDR`, `cascade-risk-NETNS-ADDR-CGROUP`,
/// `cascade-risk-SIGN-GROUP`, `exhaustion-RESOURCE-SUBJECT`, or
/// `exhaustion-local_ports-NETNS-ADDR-CGROUP`; files on disk hold it in this form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum IncidentId {
    /// A leaking process, and the leaking resource.
    Leak(ProcessId, Resource),
    /// A cgroup that leaks memory which is in none of its processes.
    CgroupLeak(Arc<str>),
    /// An overloaded listener.
    Overload {
        /// Inode number of its network namespace.
        netns: u32,
        /// Address and port.
        addr: Arc<str>,
    },
    /// A workload's dependency that does not answer.
    CascadeRisk {
        /// Cgroup of the workload.
        cgroup: Arc<str>,
        /// Inode number of its network namespace.
        netns: u32,
        /// Address that it connects to.
        addr: Arc<str>,
    },
    /// A group of nodes that is about to fail together.
    Fleet {
        /// Risk.
        sign: FleetSign,
        /// Name of the group.
        group: Arc<str>,
    },
    /// A count that nears its limit.
    Exhaustion {
        /// Resource that is counted.
        resource: CountedResource,
        /// Subject that has the limit.
        subject: Arc<str>,
    },
    /// A workload that has no local port left for an address.
    LocalPorts {
        /// Cgroup of the workload.
        cgroup: Arc<str>,
        /// Inode number of its network namespace.
        netns: u32,
        /// Address that it connects to.
        addr: Arc<str>,
    },
    /// Text from a file on disk that another version wrote and this one does not know; it is
    /// printed as it was read, so that the file stays usable.
    Other(Arc<str>),
    /// Subject of the sample detector.
    #[cfg(test)]
    Sample,
}

impl IncidentId {
    /// Returns whether it is a leak.
    pub fn is_leak(&self) -> bool {
        matches!(self, Self::Leak(..) | Self::CgroupLeak(_))
    }
}

impl fmt::Display for IncidentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leak(id, Resource::Memory) => write!(f, "leak-{}-{}", id.pid, id.start_ticks),
            Self::Leak(id, resource) => {
                write!(f, "leak-{}-{}-{}", resource.name(), id.pid, id.start_ticks)
            }
            Self::CgroupLeak(cgroup) => write!(f, "leak-cgroup-{cgroup}"),
            Self::Overload { netns, addr } => write!(f, "overload-{netns}-{addr}"),
            Self::CascadeRisk { cgroup, netns, addr } => {
                write!(f, "cascade-risk-{netns}-{addr}-{cgroup}")
            }
            Self::Fleet { sign, group } => write!(f, "cascade-risk-{}-{group}", sign.name()),
            Self::Exhaustion { resource, subject } => {
                write!(f, "exhaustion-{resource}-{subject}")
            }
            Self::LocalPorts { cgroup, netns, addr } => {
                write!(f, "exhaustion-local_ports-{netns}-{addr}-{cgroup}")
            }
            Self::Other(text) => f.write_str(text),
            #[cfg(test)]
            Self::Sample => f.write_str("sample-host"),
        }
    }
}

impl Serialize for IncidentId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for IncidentId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self::from(&*text))
    }
}

impl From<&str> for IncidentId {
    /// Reads an identity from a file. Every text prints as it was read.
    fn from(text: &str) -> Self {
        // Numbers may be written in several ways, such as `+1`, but print in one.
        known(text)
            .filter(|id| id.to_string() == text)
            .unwrap_or_else(|| Self::Other(Arc::from(text)))
    }
}

fn known(text: &str) -> Option<IncidentId> {
    if let Some(cgroup) = text.strip_prefix("leak-cgroup-") {
        return Some(IncidentId::CgroupLeak(Arc::from(cgroup)));
    }
    if let Some(leak) = text.strip_prefix("leak-") {
        let (resource, process) = match leak.split_once('-')? {
            (name, process) if process.contains('-') => (name.parse().ok()?, process),
            _ => (Resource::Memory, leak),
        };
        let (pid, start_ticks) = process.split_once('-')?;
        let id = ProcessId { pid: pid.parse().ok()?, start_ticks: start_ticks.parse().ok()? };
        return Some(IncidentId::Leak(id, resource));
    }
    if let Some(listener) = text.strip_prefix("overload-") {
        let (netns, addr) = listener.split_once('-')?;
        return Some(IncidentId::Overload { netns: netns.parse().ok()?, addr: Arc::from(addr) });
    }
    if let Some(workload) = text.strip_prefix("cascade-risk-") {
        if let Some((sign, group)) = workload.split_once('-')
            && let Ok(sign) = sign.parse()
        {
            return Some(IncidentId::Fleet { sign, group: Arc::from(group) });
        }
        let (netns, addr, cgroup) = workload_parts(workload)?;
        return Some(IncidentId::CascadeRisk { cgroup, netns, addr });
    }
    if let Some((netns, addr, cgroup)) =
        text.strip_prefix("exhaustion-local_ports-").and_then(workload_parts)
    {
        return Some(IncidentId::LocalPorts { cgroup, netns, addr });
    }
    // No resource's name has a `-`.
    let (resource, subject) = text.strip_prefix("exhaustion-")?.split_once('-')?;
    let resource = CountedResource::named(resource);
    Some(IncidentId::Exhaustion { resource, subject: Arc::from(subject) })
}

/// Splits `NETNS-ADDR-CGROUP`. An address of the network has no `-`, the path of a cgroup may.
fn workload_parts(text: &str) -> Option<(u32, Arc<str>, Arc<str>)> {
    let (netns, rest) = text.split_once('-')?;
    let (addr, cgroup) = rest.split_once('-')?;
    Some((netns.parse().ok()?, Arc::from(addr), Arc::from(cgroup)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn printed_ids_read_as_the_same_ids() {
        let process = ProcessId { pid: 812, start_ticks: 4_711 };
        let (netns, addr) = (4_026_531_840, Arc::from("[::1]:80"));
        let cgroup: Arc<str> = Arc::from("/a-b.slice/c-1, d");
        let resources = [Resource::Memory, Resource::Files, Resource::Threads, Resource::CloseWait];
        let ids =
            resources.map(|resource| IncidentId::Leak(process, resource)).into_iter().chain([
                IncidentId::CgroupLeak(cgroup.clone()),
                IncidentId::Overload { netns, addr: Arc::from("unix:/run/a-b, c.sock") },
                IncidentId::CascadeRisk { cgroup: cgroup.clone(), netns, addr: Arc::clone(&addr) },
                IncidentId::Fleet { sign: FleetSign::FleetLate, group: Arc::from("eu-web") },
                IncidentId::Fleet { sign: FleetSign::FleetStorm, group: Arc::from("web") },
                IncidentId::LocalPorts { cgroup: Arc::from(""), netns, addr: Arc::clone(&addr) },
                IncidentId::LocalPorts { cgroup, netns, addr },
                IncidentId::Exhaustion {
                    resource: CountedResource::DiskBytes,
                    subject: Arc::from("/srv/a-b"),
                },
            ]);
        for id in ids {
            assert_eq!(IncidentId::from(&*id.to_string()), id);
        }
    }

    #[test]
    fn unknown_texts_are_kept_as_they_are() {
        for text in ["", "leak", "leak-1", "leak-+1-2", "leak-01-2", "leak-x-1-2", "leak-1-2, b"] {
            assert_eq!(IncidentId::from(text), IncidentId::Other(Arc::from(text)), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_prints_as_it_was_read(
            text in "(leak-|leak-cgroup-|overload-|cascade-risk-|exhaustion-local_ports-|exhaustion-|)[a-z0-9+/:-]{0,24}"
        ) {
            prop_assert_eq!(IncidentId::from(&*text).to_string(), text);
        }
    }
}
