//! Page for a leak that several nodes of a group have: one of them pages for all.
//!
//! The first node that claims the page with the coordinator sends it, and keeps the claim until its
//! leak is over. The others ask again every few minutes, so that one of them takes over if that
//! node fails. A critical page is claimed for itself: a page in working hours does not stand for
//! it. A claim of a node that does not report the leak counts for nothing. Cold start: nothing is
//! claimed. Failure: without an answer no fact is made, and each node pages for itself.

use std::sync::Arc;

use super::{
    coordinator::{Coordinator, CoordinatorError, PageSubject},
    snapshot::{Member, Snapshot},
};
use crate::sense::PagerFact;

/// Minimum time between two claims for one leak, in seconds.
const CLAIM_SECS: f64 = 60.0;

/// Time between two claims for each node of a large group, in seconds, so that a leak on all nodes
/// costs the coordinator a handful of requests a second.
const CLAIM_SECS_PER_MEMBER: f64 = 0.3;

/// Maximum time between two claims, in seconds. Well below the time for which the policy relies on
/// the last.
const CLAIM_SECS_MAX: f64 = 240.0;

/// Claims of this node.
#[derive(Debug, Default)]
pub(super) struct SharedPage {
    claimed: Option<Claimed>,
    /// Subjects for which this node pages, all of one cause.
    own: Vec<PageSubject>,
    /// Time of the last look, the other live nodes with an end that it showed, and its causes.
    looked_at: f64,
    others: Vec<(String, String)>,
    members: usize,
    fact: Option<PagerFact>,
}

/// Claim for one subject.
#[derive(Debug)]
struct Claimed {
    subject: PageSubject,
    first_at: f64,
    at: f64,
}

impl SharedPage {
    /// Takes a look at the group.
    pub fn look(&mut self, now: f64, snapshot: &Snapshot, own: &str) {
        (self.looked_at, self.members) = (now, snapshot.members.len());
        let others = snapshot.members.iter().filter(|member| member.node != own);
        let with_end = |member: &Member| {
            let end = member.live_report()?.end.as_ref()?;
            Some((member.node.clone(), end.cause.clone()))
        };
        self.others = others.filter_map(with_end).collect();
    }

    /// Claims the page for this node's leak if that is due, or gives its claims up; `None` if there
    /// is no leak.
    ///
    /// # Errors
    ///
    /// Returns an error if it is unknown who pages. The next call tries again.
    pub fn step(
        &mut self,
        now: f64,
        group: &str,
        subject: Option<&PageSubject>,
        coordinator: &mut dyn Coordinator,
    ) -> Result<(), CoordinatorError> {
        let is_over = |own: &PageSubject| subject.is_none_or(|now| now.cause != own.cause);
        while let Some(own) = self.own.last().filter(|own| is_over(own)) {
            coordinator.release_page(own)?;
            self.own.pop();
        }
        let Some(subject) = subject else {
            self.claimed = None;
            return Ok(());
        };
        let every_secs = (self.members as f64 * CLAIM_SECS_PER_MEMBER).min(CLAIM_SECS_MAX);
        let before = self.claimed.as_ref().filter(|claimed| claimed.subject == *subject);
        if before.is_some_and(|claimed| now - claimed.at < every_secs.max(CLAIM_SECS)) {
            return Ok(());
        }
        let first_at = before.map_or(now, |claimed| claimed.first_at);
        let pager = coordinator.claim_page(subject)?;
        self.claimed = Some(Claimed { subject: subject.clone(), first_at, at: now });
        self.own.retain(|own| own != subject);
        if pager.is_none() {
            self.own.push(subject.clone());
        }
        let others = self.others.iter().filter(|(_, cause)| *cause == subject.cause);
        // Its report is there by now.
        let is_shown = self.looked_at >= first_at + CLAIM_SECS;
        let pager =
            pager.filter(|pager| !is_shown || others.clone().any(|(node, _)| node == pager));
        let others = others.count();
        self.fact = Some(PagerFact {
            group: Arc::from(group),
            cause: Arc::from(subject.cause.as_str()),
            pager: pager.map(Arc::from),
            is_critical: subject.is_critical,
            others: u32::try_from(others).unwrap_or(u32::MAX),
        });
        Ok(())
    }

    /// Takes the fact that the last claim made, if there is one since the last call.
    pub fn take_fact(&mut self) -> Option<PagerFact> {
        self.fact.take()
    }
}
