//! Claims about a dependency: that it does not answer, or that no local port is left for it.

use std::sync::Arc;

use serde::Serialize;

use crate::{
    detect::{
        claim::{Assessment, ClaimDetails, Severity, Sign, program},
        incident_id::IncidentId,
    },
    units::Count,
};

/// A failure that makes others fail.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CascadeRiskClaim {
    /// Sign of the cascade.
    pub sign: Sign,
    /// Address of the dependency.
    pub addr: Arc<str>,
    /// Inode number of the caller's network namespace.
    pub netns: u32,
    /// A process that connects.
    pub pid: u32,
    /// Name of that process; empty if unknown.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub comm: Arc<str>,
    /// Cgroup of that process; empty if unknown.
    pub cgroup: Arc<str>,
    /// Connects that have failed in a row.
    pub failed: u64,
    /// Reason to think that no user misses the dependency; `None` without one.
    #[serde(skip)]
    pub spared: Option<Spared>,
}

/// Reason to think that no user misses a dependency that does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spared {
    /// Connects are far fewer than before, as if only health checks were left.
    OnlyChecks,
    /// Another address with the same port answers the same workload.
    OthersAnswer,
}

/// A workload that has no local port left to a destination.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LocalPortsClaim {
    /// Name of the resource: [`LocalPortsClaim::RESOURCE`].
    pub resource: &'static str,
    /// Address that the ports lead to.
    pub addr: Arc<str>,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// A process that connects.
    pub pid: u32,
    /// Name of that process; empty if unknown.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub comm: Arc<str>,
    /// Cgroup of that process; empty if unknown.
    pub cgroup: Arc<str>,
    /// Connects that have failed in a row for want of a port.
    pub failed: u64,
}

impl LocalPortsClaim {
    /// Name of local ports as a resource.
    pub const RESOURCE: &'static str = "local_ports";
}

impl ClaimDetails for CascadeRiskClaim {
    fn id(&self) -> IncidentId {
        IncidentId::CascadeRisk {
            cgroup: self.cgroup.clone(),
            netns: self.netns,
            addr: self.addr.clone(),
        }
    }

    fn resource(&self) -> &'static str {
        "dependency"
    }

    fn cgroup(&self) -> &Arc<str> {
        &self.cgroup
    }

    fn pid(&self) -> Option<u32> {
        Some(self.pid).filter(|pid| *pid > 0)
    }

    fn severity(&self, assessment: &Assessment<'_>) -> (Severity, String) {
        match self.spared {
            Some(Spared::OnlyChecks) => {
                let reason = "only health checks still connect to it, so no user should miss it";
                (Severity::Info, reason.to_owned())
            }
            Some(Spared::OthersAnswer) => {
                (Severity::Info, "other addresses with this port still answer".to_owned())
            }
            None => cut_off(assessment),
        }
    }

    fn label(&self) -> String {
        format!("no answer from {}", self.addr)
    }

    fn component(&self) -> String {
        program(&self.comm, "a workload").to_owned()
    }

    fn class(&self) -> String {
        "cascade risk".to_owned()
    }

    fn headline(&self, host: &str, _exhaustion_secs: Option<f64>) -> String {
        let (workload, failed) = (program(&self.comm, "a workload"), Count(self.failed));
        format!(
            "{} does not answer {workload} on {host}: {failed} connects failed; if nothing is \
             done, services that depend on it fail next",
            self.addr
        )
    }

    fn advice(&self, _exhaustion_secs: Option<f64>) -> String {
        format!("check {} and the network to it", self.addr)
    }
}

impl ClaimDetails for LocalPortsClaim {
    fn id(&self) -> IncidentId {
        IncidentId::LocalPorts {
            cgroup: self.cgroup.clone(),
            netns: self.netns,
            addr: self.addr.clone(),
        }
    }

    fn resource(&self) -> &'static str {
        Self::RESOURCE
    }

    fn cgroup(&self) -> &Arc<str> {
        &self.cgroup
    }

    fn pid(&self) -> Option<u32> {
        Some(self.pid).filter(|pid| *pid > 0)
    }

    fn severity(&self, assessment: &Assessment<'_>) -> (Severity, String) {
        cut_off(assessment)
    }

    fn label(&self) -> String {
        format!("no local port to {}", self.addr)
    }

    fn component(&self) -> String {
        program(&self.comm, "a workload").to_owned()
    }

    fn class(&self) -> String {
        "exhaustion of local ports".to_owned()
    }

    fn headline(&self, host: &str, _exhaustion_secs: Option<f64>) -> String {
        let (workload, failed) = (program(&self.comm, "A workload"), Count(self.failed));
        format!(
            "{workload} on {host} has no local port left for {}: {failed} connects failed; if \
             nothing is done, further ones fail too",
            self.addr
        )
    }

    fn advice(&self, _exhaustion_secs: Option<f64>) -> String {
        "reuse connections, or widen net.ipv4.ip_local_port_range".to_owned()
    }
}

/// Severity of a workload that cannot reach what it needs. Draining the node would not help: other
/// nodes lack the same dependency.
fn cut_off(assessment: &Assessment<'_>) -> (Severity, String) {
    let importance = assessment.importance;
    (importance.severity_if_alone(), importance.reason.clone())
}
