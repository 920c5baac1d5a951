//! Interface of all coordinators: existing services that many nodes can read and write, one of
//! which gives a slot to one node at a time.
//!
//! A coordinator only stores and compares. Whether a node may leave is judged by
//! [`grant`](super::grant), on each node by the same rules.

use super::{
    report::{NAME_BYTES_MAX, NodeReport, is_key_name},
    snapshot::Snapshot,
};

/// Stores the reports of a group, and hands out its slots.
///
/// Calls block for a few seconds at most, so they are made by a thread of their own.
pub trait Coordinator: Send {
    /// Name in output, as `fleet.backend`.
    fn name(&self) -> &'static str;

    /// Publishes this node's report, and renews it and the slot, if the node holds one. A node that
    /// reports itself out takes its slot back if it lost it: the truth counts.
    ///
    /// # Errors
    ///
    /// Returns an error if the report may not be seen by the others.
    fn publish(&mut self, report: &NodeReport) -> Result<(), CoordinatorError>;

    /// Returns whether this node has lost the slot that it took last, because it did not renew it
    /// in time: it has to ask again. Known after each report.
    fn has_lost_slot(&self) -> bool {
        false
    }

    /// Reads all reports of the group; `None` if this coordinator keeps none, and only counts.
    ///
    /// # Errors
    ///
    /// Returns an error if the reports cannot be read in full.
    fn snapshot(&mut self) -> Result<Option<Snapshot>, CoordinatorError>;

    /// Takes a slot for this node, if no slot was taken since the snapshot. Repeats are harmless.
    ///
    /// # Errors
    ///
    /// Returns an error if it is unknown whether the slot was taken.
    fn acquire(&mut self, since: Option<&Snapshot>) -> Result<Acquired, CoordinatorError>;

    /// Returns this node's slot. Repeats are harmless. To be called before a report that the node
    /// is back, and never followed by one that it is out.
    ///
    /// # Errors
    ///
    /// Returns an error if the slot may still be taken. It frees itself once it is not renewed.
    fn release(&mut self) -> Result<(), CoordinatorError>;

    /// Claims the page for something that other nodes may have too: the first node that claims it
    /// pages for all, for as long as it publishes. Returns the other node that pages already;
    /// `None` if this one does. Repeats are harmless. By default each node pages for itself.
    ///
    /// # Errors
    ///
    /// Returns an error if it is unknown who pages.
    fn claim_page(&mut self, _subject: &PageSubject) -> Result<Option<String>, CoordinatorError> {
        Ok(None)
    }

    /// Gives up a claim of this node. Repeats are harmless.
    ///
    /// # Errors
    ///
    /// Returns an error if the others may still rely on this node. They do until it stops
    /// publishing, at most.
    fn release_page(&mut self, _subject: &PageSubject) -> Result<(), CoordinatorError> {
        Ok(())
    }

    /// Ends the membership of this node at once, with its slot: the others then neither wait for it
    /// nor count it as failed. By default it is forgotten once it stops renewing.
    ///
    /// # Errors
    ///
    /// Returns an error if the others may still count it.
    fn leave(&mut self) -> Result<(), CoordinatorError> {
        Ok(())
    }
}

/// Subject of a page that nodes of a group may have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageSubject {
    /// Name of what leaks, as [`ForecastEnd::cause`](super::ForecastEnd).
    pub cause: String,
    /// Set for a critical page: one in working hours does not stand for it.
    pub is_critical: bool,
}

/// Result of an attempt to take a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acquired {
    /// This node has a slot.
    Taken,
    /// The coordinator refuses, for this reason.
    Denied(String),
    /// Another node took a slot since the snapshot, or this node's report has expired: judge again.
    Stale,
}

/// Slot of this node, as far as this run knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SlotState {
    /// It was not taken, or was returned.
    None,
    /// It was taken.
    Held,
    /// It was taken, and expired.
    Lost,
}

/// Error of a coordinator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoordinatorError {
    /// A setting or a file of this host is wrong: no request was made.
    #[error("{coordinator} cannot be used: {why}")]
    Unusable {
        /// Name of the coordinator.
        coordinator: &'static str,
        /// Cause, with a hint.
        why: String,
    },
    /// There was no complete reply.
    #[error("{coordinator} at {address} did not answer: {why}")]
    Unreachable {
        /// Name of the coordinator.
        coordinator: &'static str,
        /// Address.
        address: String,
        /// Cause, with a hint if there is one.
        why: String,
    },
    /// It refused the request.
    #[error("{coordinator} at {address} refused: {why}")]
    Refused {
        /// Name of the coordinator.
        coordinator: &'static str,
        /// Address.
        address: String,
        /// Cause, with a hint if there is one.
        why: String,
    },
    /// The reply cannot be understood.
    #[error("{coordinator} at {address} sent a reply that cannot be read: {why}")]
    Invalid {
        /// Name of the coordinator.
        coordinator: &'static str,
        /// Address.
        address: String,
        /// Cause, with a hint if there is one.
        why: String,
    },
}

impl SlotState {
    /// Returns the state once it is known whether this run's slot is there.
    pub(super) fn noted(self, is_there: bool) -> Self {
        match self {
            _ if is_there => Self::Held,
            Self::None => Self::None,
            Self::Held | Self::Lost => Self::Lost,
        }
    }
}

/// Checks the name of a node or a group, which becomes part of keys.
///
/// # Errors
///
/// Returns an error that says what is wrong with it.
pub(super) fn check_name(
    coordinator: &'static str,
    kind: &str,
    name: &str,
) -> Result<(), CoordinatorError> {
    if is_key_name(name) {
        return Ok(());
    }
    let shown: String = name.chars().take(64).collect();
    let why = format!(
        "the {kind}'s name is {shown:?}\n  \
         hint: a name has 1 to {NAME_BYTES_MAX} bytes, and neither a / nor control characters"
    );
    Err(CoordinatorError::Unusable { coordinator, why })
}
