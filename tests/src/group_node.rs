//! Node of a group, as tests drive it through a coordinator of any kind.

use spillway_agent::fleet::{
    Acquired, Coordinator, CoordinatorError, Member, NodeReport, NodeState, PageSubject, Snapshot,
};

/// Node with its client of a coordinator, and the report that it publishes.
pub struct GroupNode<C> {
    /// Client.
    pub coordinator: C,
    /// Report.
    pub report: NodeReport,
}

impl<C: Coordinator> GroupNode<C> {
    /// Creates a node that has published nothing yet.
    pub fn new(coordinator: C, name: &str, group: &str, run: u64) -> Self {
        Self { coordinator, report: NodeReport::new(name, group, run, 1_700_000_000_000) }
    }

    /// Publishes the report.
    ///
    /// # Panics
    ///
    /// Panics if that fails.
    pub fn publish(&mut self) {
        self.coordinator.publish(&self.report).expect("publishing a report");
    }

    /// Publishes the report with another state.
    pub fn publishes_state(&mut self, state: NodeState) {
        self.report.state = state;
        self.publish();
    }

    /// Publishes the report, and returns why it was refused.
    ///
    /// # Panics
    ///
    /// Panics if it is not refused.
    pub fn refused(&mut self) -> String {
        let error = self.coordinator.publish(&self.report).expect_err("it has to be refused");
        assert!(matches!(error, CoordinatorError::Refused { .. }), "{error}");
        error.to_string()
    }

    /// Reads the group.
    ///
    /// # Panics
    ///
    /// Panics if it cannot be read.
    pub fn snapshot(&mut self) -> Snapshot {
        self.coordinator.snapshot().expect("reading the group").expect("it keeps reports")
    }

    /// Tries to take a slot, by this snapshot.
    ///
    /// # Panics
    ///
    /// Panics if it is unknown whether it was taken.
    pub fn acquire(&mut self, since: &Snapshot) -> Acquired {
        self.coordinator.acquire(Some(since)).expect("taking a slot")
    }

    /// Takes a slot.
    ///
    /// # Panics
    ///
    /// Panics if it is not free.
    pub fn takes_slot(&mut self) {
        let since = self.snapshot();
        assert_eq!(self.acquire(&since), Acquired::Taken);
    }

    /// Returns the slot.
    ///
    /// # Panics
    ///
    /// Panics if that fails.
    pub fn release(&mut self) {
        self.coordinator.release().expect("returning the slot");
    }

    /// Claims a page. Returns the node that pages already, if it is another.
    ///
    /// # Panics
    ///
    /// Panics if that is unknown.
    pub fn claims_page(&mut self, subject: &PageSubject) -> Option<String> {
        self.coordinator.claim_page(subject).expect("claiming a page")
    }

    /// Gives a page up.
    ///
    /// # Panics
    ///
    /// Panics if that fails.
    pub fn releases_page(&mut self, subject: &PageSubject) {
        self.coordinator.release_page(subject).expect("releasing a page");
    }
}

/// Subject of a page.
pub fn page_subject(cause: &str, is_critical: bool) -> PageSubject {
    PageSubject { cause: cause.to_owned(), is_critical }
}

/// Checks with the published nodes `web-1` to `web-3` that the first to claim a page sends it for
/// all, until it gives it up. Returns the subject for which the third pages at the end; the first
/// has another page, and the third a second one.
///
/// # Panics
///
/// Panics if that does not hold.
pub fn pages_are_claimed_once<C: Coordinator>(nodes: &mut [GroupNode<C>; 3]) -> PageSubject {
    let warning = page_subject("api in /odd name.service", false);
    let critical = PageSubject { is_critical: true, ..warning.clone() };
    let second = || Some("web-2".to_owned());
    assert_eq!(nodes[1].claims_page(&warning), None);
    assert_eq!(nodes[1].claims_page(&warning), None, "repeats are harmless");
    assert_eq!([0, 2].map(|nth| nodes[nth].claims_page(&warning)), [second(), second()]);
    assert_eq!(nodes[0].claims_page(&critical), None);
    assert_eq!(nodes[2].claims_page(&page_subject("worker", false)), None);
    assert_eq!(nodes[0].snapshot().members.len(), 3, "pages are no members");
    nodes[0].releases_page(&warning);
    assert_eq!(nodes[0].claims_page(&warning), second(), "nobody gives up another's page");
    nodes[1].releases_page(&warning);
    assert_eq!(nodes[2].claims_page(&warning), None);
    warning
}

/// Member of this name.
///
/// # Panics
///
/// Panics if there is none.
pub fn member<'a>(snapshot: &'a Snapshot, name: &str) -> &'a Member {
    snapshot.member(name).unwrap_or_else(|| panic!("no {name} in {snapshot:?}"))
}

/// Names of the nodes that hold a slot.
pub fn holders(snapshot: &Snapshot) -> Vec<&str> {
    let held = snapshot.members.iter().filter(|member| member.has_slot);
    held.map(|member| member.node.as_str()).collect()
}
