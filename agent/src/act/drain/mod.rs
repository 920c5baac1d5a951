//! The action `drain`: takes this node out of rotation before its problem costs a request, and puts
//! it back afterwards.
//!
//! [`DrainState`] is the state machine. It is pure, as are the requests, the meaning of replies,
//! the schedule of retries, and the weight. [`DrainWorker`] is the thread around them. Load
//! balancers that poll read [`Readiness`]: HAProxy through its agent check, others through
//! `/ready`.
//!
//! A drain must help. Without a grant there is no drain. If no receiver grants drains, only a leak
//! takes the node out of rotation, after a delay of the node's own (`stagger`), because a leak ends
//! whatever the load; an overload lowers the weight to a floor, because its load would only move to
//! nodes that are as busy. After a drain, the harm is compared with that before (`condition`), and
//! a drain that did not help is undone. A node is drained once its services have no request in
//! flight (`work`).
//!
//! Of several agents with one state directory one drains, and the others stand by. An operator's
//! [`Override`] applies whatever the agent sees.

mod active_lock;
mod client;
mod condition;
mod controller;
mod operator_override;
mod pending_request;
mod readiness;
mod request;
mod stagger;
mod state_file;
mod state_machine;
mod trial;
mod weight;
mod work;
mod worker;

pub(super) use client::DrainClient;
pub use operator_override::OverrideFile;
pub use readiness::{DrainView, Readiness, ReadinessCell};
pub use state_file::StateFile;
pub use state_machine::{
    DrainPhase, DrainState, DrainTimings, Inputs, Override, Reply, Transition,
};
pub use worker::DrainWorker;

#[cfg(any(test, fuzzing))]
pub(crate) use state_file::SavedState;

/// Words for a reply, for the fuzz target.
#[cfg(any(test, fuzzing))]
pub(crate) fn said_of(
    status: u16,
    retry_after: Option<std::time::Duration>,
    body: &[u8],
) -> String {
    match request::meaning(status, retry_after, body, false) {
        request::ReplyClass::Granted => String::new(),
        request::ReplyClass::Unproven(said)
        | request::ReplyClass::Refused(said)
        | request::ReplyClass::Closed(said)
        | request::ReplyClass::Later(_, said) => said,
    }
}
