//! Incidents: claims with one cause, for which a person is paged once.

use std::{cmp::Ordering, collections::BTreeMap, fmt::Write as _, sync::Arc};

use super::IncidentId;
use crate::detect::{Claim, Diagnosis, Harm, Severity, Verdict};

/// Quiet claims that an incident remembers beside the open ones. A guess at how many flap at once.
const QUIET_MAX: usize = 64;

/// Other claims that a page names; the rest is counted.
const NAMED_MAX: usize = 3;

/// Claims of an incident that are listed; the rest is counted.
const LISTED_MAX: usize = 16;

/// An open incident as it is now, for people.
#[derive(Debug, Clone)]
pub struct IncidentView {
    /// Identity of its page, or of its worst claim if nobody is paged.
    pub id: IncidentId,
    /// Time at which its first claim was raised.
    pub opened_t: f64,
    /// Open claims, the worst first.
    pub claims: Vec<Arc<Verdict>>,
    /// Evidence with which the worst was raised; the claim itself has that of its latest forecast.
    pub evidence: Arc<str>,
    /// Number of open claims, of which not all are listed.
    pub claims_total: usize,
    /// Set if a page is open.
    pub is_paged: bool,
    /// Other node of the group that pages for it.
    pub paged_by: Option<Arc<str>>,
}

/// Order of incidents and claims, the worst first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct IncidentRank {
    severity: Severity,
    /// Seconds to the end that is forecast; infinite without one.
    left_secs: f64,
    opened_t: f64,
}

impl IncidentRank {
    fn of(verdict: &Verdict, severity: Severity, opened_t: f64) -> Self {
        Self { severity, left_secs: verdict.exhaustion_secs.unwrap_or(f64::INFINITY), opened_t }
    }

    /// Compares, the worse one first.
    pub(super) fn total_cmp(&self, other: &Self) -> Ordering {
        let by_severity = other.severity.cmp(&self.severity);
        by_severity
            .then(self.left_secs.total_cmp(&other.left_secs))
            .then(self.opened_t.total_cmp(&other.opened_t))
    }
}

/// Claims with one cause.
pub(super) struct Incident {
    /// Open claims, and claims that may return.
    pub(super) members: BTreeMap<IncidentId, IncidentClaim>,
    pub(super) opened_t: f64,
    /// Open page.
    pub(super) page: Option<OpenPage>,
    /// Other node of the group that pages for it.
    pub(super) paged_by: Option<Arc<str>>,
    /// Time since which no claim is open.
    pub(super) quiet_since_t: Option<f64>,
    /// Returns of any of its claims.
    returns: u32,
}

/// An open page.
pub(super) struct OpenPage {
    /// Claim that it was first sent for, which names it from then on.
    pub(super) id: IncidentId,
    pub(super) severity: Severity,
    /// Time of its last update.
    pub(super) t: f64,
}

/// One claim of an incident.
#[derive(Clone)]
pub(super) struct IncidentClaim {
    /// Claim with its latest forecast and its harm.
    pub(super) latest: Arc<Verdict>,
    pub(super) is_open: bool,
    pub(super) raised_t: f64,
    /// Evidence with which it was raised.
    raised_why: Arc<str>,
    pub(super) updated_t: f64,
    /// Diagnosis that was last reported.
    pub(super) diagnosis: Diagnosis,
    pub(super) limit: Stage,
    pub(super) shed: Stage,
    pub(super) weigh: Stage,
    pub(super) drain: Stage,
    /// Whether an action that was taken did not help.
    pub(super) is_set_back: bool,
    /// Reason for which it was last cleared.
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
    fn new(verdict: &Arc<Verdict>, diagnosis: Diagnosis) -> Self {
        Self {
            latest: verdict.clone(),
            is_open: true,
            raised_t: verdict.t,
            raised_why: Arc::from(verdict.why.as_str()),
            updated_t: verdict.t,
            diagnosis,
            limit: Stage::NotDue,
            shed: Stage::NotDue,
            weigh: Stage::NotDue,
            drain: Stage::NotDue,
            is_set_back: false,
            cleared_why: String::new(),
        }
    }

    /// Harm as last assessed.
    pub(super) fn harm(&self) -> &Harm {
        const NONE: &Harm =
            &Harm { severity: Severity::Info, reason: String::new(), is_nodes: false };
        self.latest.harm.as_ref().unwrap_or(NONE)
    }
}

impl Incident {
    pub(super) fn new(t: f64) -> Self {
        Self {
            members: BTreeMap::new(),
            opened_t: t,
            page: None,
            paged_by: None,
            quiet_since_t: None,
            returns: 0,
        }
    }

    /// Takes a claim that was raised, for the first time or again.
    pub(super) fn raise(&mut self, id: &IncidentId, verdict: &Arc<Verdict>) {
        self.quiet_since_t = None;
        let claim = IncidentClaim::new(verdict, verdict.claim.diagnosis());
        if self.members.insert(id.clone(), claim).is_some() {
            self.returns = self.returns.saturating_add(1);
        }
    }

    /// Takes a claim that was cleared, and returns it as it was while open.
    pub(super) fn clear(&mut self, id: &IncidentId, verdict: &Verdict) -> Option<IncidentClaim> {
        let member = self.members.get_mut(id).filter(|member| member.is_open)?;
        let open = member.clone();
        *member = IncidentClaim {
            is_open: false,
            cleared_why: verdict.why.clone(),
            ..IncidentClaim::new(&member.latest, member.diagnosis)
        };
        if self.members.values().all(|member| !member.is_open) {
            self.quiet_since_t = Some(verdict.t);
        }
        Some(open)
    }

    /// Highest severity of the open claims.
    pub(super) fn severity(&self) -> Severity {
        let open = self.members.values().filter(|member| member.is_open);
        open.map(|member| member.harm().severity).max().unwrap_or(Severity::Info)
    }

    /// Open claim with the highest severity; `None` if none is open.
    pub(super) fn worst(&self) -> Option<(IncidentId, Arc<Verdict>)> {
        let open = self.members.iter().filter(|(_, member)| member.is_open);
        let (id, member) = open.max_by_key(|(_, member)| member.harm().severity)?;
        Some((id.clone(), member.latest.clone()))
    }

    /// Place among the open incidents; `None` if no claim is open.
    pub(super) fn rank(&self) -> Option<IncidentRank> {
        self.ranked().map(|(rank, _)| rank).min_by(IncidentRank::total_cmp)
    }

    /// Open claims with their places.
    fn ranked(&self) -> impl Iterator<Item = (IncidentRank, &IncidentClaim)> {
        let open = self.members.values().filter(|member| member.is_open);
        open.map(|member| {
            let severity = member.harm().severity;
            (IncidentRank::of(&member.latest, severity, member.raised_t), member)
        })
    }

    /// The incident as it is now; `None` if no claim is open.
    pub(super) fn view(&self) -> Option<IncidentView> {
        let mut open: Vec<_> = self.ranked().collect();
        open.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        let worst = open.first()?.1;
        let id = || worst.latest.claim.id();
        Some(IncidentView {
            id: self.page.as_ref().map_or_else(id, |page| page.id.clone()),
            opened_t: self.opened_t,
            evidence: worst.raised_why.clone(),
            claims: open.iter().take(LISTED_MAX).map(|(_, claim)| claim.latest.clone()).collect(),
            claims_total: open.len(),
            is_paged: self.page.is_some(),
            paged_by: self.paged_by.clone(),
        })
    }

    /// Records that the page is sent or updated because of a claim, and returns the page's id.
    pub(super) fn paged(&mut self, id: &IncidentId, severity: Severity, t: f64) -> IncidentId {
        let id = self.page.as_ref().map_or(id, |page| &page.id).clone();
        // An update does not make a page less urgent: a person may be working on it.
        let severity = self.page.as_ref().map_or(severity, |page| page.severity.max(severity));
        self.page = Some(OpenPage { id: id.clone(), severity, t });
        id
    }

    /// Text of a page: the claim's evidence, its harm, the other claims of this incident, and how
    /// often it has recurred.
    pub(super) fn story(&self, id: &IncidentId, verdict: &Verdict) -> String {
        let mut story = verdict.why.clone();
        if let Some(harm) = verdict.harm.as_ref().filter(|harm| harm.reason != verdict.why) {
            // Writing to a String cannot fail.
            let _ = write!(story, "; {}: {}", harm.severity.name(), harm.reason);
        }
        let others: Vec<_> =
            self.members.iter().filter(|(other, member)| *other != id && member.is_open).collect();
        if !others.is_empty() {
            let named: Vec<_> = others
                .iter()
                .take(NAMED_MAX)
                .map(|(_, member)| member.latest.claim.label())
                .collect();
            let _ = write!(story, "; same incident: {}", named.join(", "));
            if others.len() > NAMED_MAX {
                let _ = write!(story, " and {} more", others.len() - NAMED_MAX);
            }
        }
        match self.returns {
            0 => {}
            1 => story.push_str("; it has recurred once"),
            times => {
                let _ = write!(story, "; it has recurred {times} times");
            }
        }
        story
    }

    /// Returns whether one of its claims is short of the same resource of the host.
    pub(super) fn lacks_same(&self, claim: &Claim) -> bool {
        let shortage = claim.host_shortage();
        let is_same = |member: &IncidentClaim| member.latest.claim.host_shortage() == shortage;
        shortage.is_some() && self.members.values().any(is_same)
    }

    /// Quiet claims beyond those that are remembered.
    pub(super) fn surplus(&self) -> Vec<IncidentId> {
        let named = self.page.as_ref().map(|page| &page.id);
        let quiet =
            self.members.iter().filter(|(id, member)| !member.is_open && Some(*id) != named);
        quiet.map(|(id, _)| id.clone()).skip(QUIET_MAX).collect()
    }
}
