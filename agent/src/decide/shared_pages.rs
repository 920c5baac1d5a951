//! Pages for leaks that several nodes of a group have: one of the nodes pages for all.
//!
//! Pure. Which node that is, the coordinator of the group says within seconds of the claim; a page
//! waits for its answer, and for no longer than [`ANSWER_SECS`]. A page in working hours does not
//! stand for a critical one, and only the system's units are taken for the same on all nodes. Cold
//! start: unknown, so that a page waits. Failure: without an answer,
//! or after an old one, this node pages.

use std::sync::Arc;

use super::{incident::IncidentClaim, tenant::Tenant};
use crate::{
    detect::{Claim, LeakClaim, Severity},
    sense::PagerFact,
};

/// Maximum time for which a page waits to hear which node sends it, in seconds. The coordinator
/// usually answers within two scans of the processes.
const ANSWER_SECS: f64 = 15.0;

/// Time for which an answer holds, in seconds. It is asked for again every four minutes at most.
const HOLDS_SECS: f64 = 600.0;

/// Sender of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pager {
    /// This node.
    Here,
    /// Not known yet.
    Unknown,
    /// Another node.
    Elsewhere(Arc<str>),
}

/// Latest answer of the coordinator.
#[derive(Debug, Default)]
pub(super) struct SharedPages {
    /// Set if this node is in a group with a coordinator.
    pub(super) is_in_group: bool,
    latest: Option<(f64, PagerFact)>,
    /// Other nodes that this node's page counted last.
    told_others: u32,
}

impl SharedPages {
    /// Takes an answer.
    pub fn observe(&mut self, t: f64, fact: &PagerFact) {
        if self.latest.as_ref().is_none_or(|(_, last)| last.cause != fact.cause) {
            self.told_others = 0;
        }
        self.latest = Some((t, fact.clone()));
    }

    /// Returns whether more than twice as many other nodes have a leak as its page says.
    pub fn has_untold(&self, t: f64, member: &IncidentClaim) -> bool {
        self.fact_for(t, member).is_some_and(|fact| {
            fact.pager.is_none() && fact.others > self.told_others.saturating_mul(2)
        })
    }

    /// Returns who pages for a claim at `t`.
    pub fn pager(&self, t: f64, member: &IncidentClaim) -> Pager {
        if !self.is_in_group || !is_shared(member) {
            return Pager::Here;
        }
        let is_critical = member.harm().severity >= Severity::Critical;
        let known = self.fact_for(t, member).filter(|fact| fact.is_critical || !is_critical);
        match known {
            Some(fact) => fact.pager.clone().map_or(Pager::Here, Pager::Elsewhere),
            None if t - member.updated_t < ANSWER_SECS => Pager::Unknown,
            None => Pager::Here,
        }
    }

    /// Describes the other nodes that a page stands for, and counts them as told; `None` if there
    /// are none.
    pub fn tell_others(&mut self, t: f64, member: &IncidentClaim) -> Option<String> {
        let PagerFact { group, others, .. } =
            self.fact_for(t, member).filter(|fact| fact.pager.is_none() && fact.others > 0)?;
        let (others, group) = (*others, group.clone());
        self.told_others = others;
        let nodes =
            if others == 1 { "1 other node".into() } else { format!("{others} other nodes") };
        Some(format!(
            "{nodes} of group {group} leak in the same way, and this page is for all of them"
        ))
    }

    fn fact_for(&self, t: f64, member: &IncidentClaim) -> Option<&PagerFact> {
        let Claim::Leak(leak) = &member.latest.claim else { return None };
        let (at, fact) = self.latest.as_ref()?;
        (t - at < HOLDS_SECS && *fact.cause == *leak.shared_name()).then_some(fact)
    }
}

/// Returns whether a claim is one that the group hears of: a leak with a forecast, of a service or
/// toward the end of the host.
fn is_shared(member: &IncidentClaim) -> bool {
    let latest = &member.latest;
    matches!(&latest.claim, Claim::Leak(leak) if is_common(leak))
        && latest.exhaustion_secs.is_some()
        && member.harm().is_nodes
}

/// Returns whether other nodes with a leak of this name run the same: it is of a unit that an
/// administrator set up. Users name their units as they like, so that one of them could keep the
/// page for another node's service back, and programs in containers that have nothing to do with
/// each other have one name, such as `java`.
pub fn is_common(leak: &LeakClaim) -> bool {
    let is_unit = matches!(Tenant::of(&leak.cgroup), Tenant::System(unit) if unit == leak.cgroup);
    is_unit && !leak.is_in_container()
}
