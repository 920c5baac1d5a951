//! Incidents: claims with one cause, which a human is paged for once.

use std::{collections::BTreeMap, fmt::Write as _};

use super::IncidentId;
use crate::detect::{Bottleneck, Claim, Harm, Severity, Sign, Verdict};

/// Quiet claims that an incident remembers beside those that stand. A guess at how many flap at
/// once.
const QUIET_MAX: usize = 64;

/// Other claims that a page names; the rest is counted.
const NAMED_MAX: usize = 3;

/// Claims with one cause.
pub(super) struct Incident {
    /// Claims that stand and claims that may return.
    pub(super) members: BTreeMap<IncidentId, IncidentClaim>,
    pub(super) opened_t: f64,
    /// The page that is open.
    pub(super) page: Option<OpenPage>,
    /// Time since which no claim stands.
    pub(super) quiet_since_t: Option<f64>,
    /// Returns of any of its claims.
    returns: u32,
}

/// A page that is open.
pub(super) struct OpenPage {
    /// The claim that it was first sent for, which names it from then on.
    pub(super) id: IncidentId,
    pub(super) severity: Severity,
    /// Time of its last update.
    pub(super) t: f64,
}

/// One claim of an incident.
#[derive(Clone)]
pub(super) struct IncidentClaim {
    /// The claim with its latest forecast, weighed.
    pub(super) latest: Verdict,
    pub(super) stands: bool,
    pub(super) raised_t: f64,
    pub(super) updated_t: f64,
    /// Diagnosis that was last reported.
    pub(super) diagnosis: (Option<Bottleneck>, Option<Sign>),
    pub(super) limit: Stage,
    pub(super) weigh: Stage,
    pub(super) drain: Stage,
    /// Tells if an action that was taken does not help.
    pub(super) is_set_back: bool,
    /// Reason for which it was last withdrawn.
    pub(super) cleared_why: String,
}

/// Progress of an action that a claim may call for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Not called for yet.
    NotDue,
    /// Refused for now, and reported.
    Deferred,
    /// Refused for good.
    Refused,
    Taken,
}

impl IncidentClaim {
    fn new(verdict: &Verdict, diagnosis: (Option<Bottleneck>, Option<Sign>)) -> Self {
        Self {
            latest: verdict.clone(),
            stands: true,
            raised_t: verdict.t,
            updated_t: verdict.t,
            diagnosis,
            limit: Stage::NotDue,
            weigh: Stage::NotDue,
            drain: Stage::NotDue,
            is_set_back: false,
            cleared_why: String::new(),
        }
    }

    /// Harm as it was weighed last.
    pub(super) fn harm(&self) -> &Harm {
        const NONE: &Harm =
            &Harm { severity: Severity::Info, reason: String::new(), is_nodes: false };
        self.latest.harm.as_ref().unwrap_or(NONE)
    }
}

impl Incident {
    pub(super) fn new(t: f64) -> Self {
        Self { members: BTreeMap::new(), opened_t: t, page: None, quiet_since_t: None, returns: 0 }
    }

    /// Takes a claim that was made, for the first time or again.
    pub(super) fn raise(
        &mut self,
        id: &IncidentId,
        verdict: &Verdict,
        diagnosis: (Option<Bottleneck>, Option<Sign>),
    ) {
        self.quiet_since_t = None;
        if self.members.insert(id.clone(), IncidentClaim::new(verdict, diagnosis)).is_some() {
            self.returns = self.returns.saturating_add(1);
        }
    }

    /// Takes a claim that was withdrawn, and gives it as it stood.
    pub(super) fn clear(&mut self, id: &IncidentId, verdict: &Verdict) -> Option<IncidentClaim> {
        let member = self.members.get_mut(id).filter(|member| member.stands)?;
        let stood = member.clone();
        *member = IncidentClaim {
            stands: false,
            cleared_why: verdict.why.clone(),
            ..IncidentClaim::new(&member.latest, member.diagnosis)
        };
        if self.members.values().all(|member| !member.stands) {
            self.quiet_since_t = Some(verdict.t);
        }
        Some(stood)
    }

    /// The worst of the claims that stand.
    pub(super) fn severity(&self) -> Severity {
        let standing = self.members.values().filter(|member| member.stands);
        standing.map(|member| member.harm().severity).max().unwrap_or(Severity::Info)
    }

    /// Notes that its page is sent or updated on account of a claim, and gives the page's name.
    pub(super) fn paged(&mut self, id: &IncidentId, severity: Severity, t: f64) -> IncidentId {
        let id = self.page.as_ref().map_or(id, |page| &page.id).clone();
        // An update does not make a page less urgent: somebody may be at it.
        let severity = self.page.as_ref().map_or(severity, |page| page.severity.max(severity));
        self.page = Some(OpenPage { id: id.clone(), severity, t });
        id
    }

    /// The claim's evidence, its harm, the other claims of this incident, and if it returned.
    pub(super) fn story(&self, id: &IncidentId, verdict: &Verdict) -> String {
        let mut story = verdict.why.clone();
        if let Some(harm) = verdict.harm.as_ref().filter(|harm| harm.reason != verdict.why) {
            // Writing to a String cannot fail.
            let _ = write!(story, "; {}: {}", harm.severity.name(), harm.reason);
        }
        let others: Vec<_> =
            self.members.iter().filter(|(other, member)| *other != id && member.stands).collect();
        if !others.is_empty() {
            let named: Vec<_> = others
                .iter()
                .take(NAMED_MAX)
                .map(|(_, member)| subject(&member.latest.claim))
                .collect();
            let _ = write!(story, "; the same incident: {}", named.join(", "));
            if others.len() > NAMED_MAX {
                let _ = write!(story, " and {} more", others.len() - NAMED_MAX);
            }
        }
        match self.returns {
            0 => {}
            1 => story.push_str("; it has returned once"),
            times => {
                let _ = write!(story, "; it has returned {times} times");
            }
        }
        story
    }

    /// Tells if one of its claims is short of the same of the host's resources.
    pub(super) fn lacks_same(&self, claim: &Claim) -> bool {
        let hosts = |claim: &Claim| match claim {
            Claim::Overload(claim) => {
                claim.scarce.filter(|scarce| matches!(scarce, Bottleneck::Cpu | Bottleneck::Memory))
            }
            Claim::Leak(_) | Claim::CascadeRisk(_) | Claim::Exhaustion(_) => None,
        };
        let lacks = hosts(claim);
        lacks.is_some() && self.members.values().any(|member| hosts(&member.latest.claim) == lacks)
    }

    /// Quiet claims beyond those that are remembered.
    pub(super) fn surplus(&self) -> Vec<IncidentId> {
        let named = self.page.as_ref().map(|page| &page.id);
        let quiet = self.members.iter().filter(|(id, member)| !member.stands && Some(*id) != named);
        quiet.map(|(id, _)| id.clone()).skip(QUIET_MAX).collect()
    }
}

/// Names the subject of a claim.
fn subject(claim: &Claim) -> String {
    match claim {
        Claim::Leak(claim) => {
            format!("{} of {} (pid {})", claim.resource.name(), claim.comm, claim.id.pid)
        }
        Claim::Overload(claim) => format!("overload of {}", claim.addr),
        Claim::CascadeRisk(claim) => format!("no answer from {}", claim.addr),
        Claim::Exhaustion(claim) => format!("no local port to {}", claim.addr),
    }
}
