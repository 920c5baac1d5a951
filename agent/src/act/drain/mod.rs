//! The action `drain`: whoever gives this node its work is asked for no more of it, before what is
//! wrong here costs a request, and for work again when that is over.
//!
//! [`Machine`] says where the node is and when it may go on, and is pure, as are what is asked and
//! what an answer means, when it is asked again, and the weight. A [`Drainer`] is the thread around
//! them. Whoever would rather ask than be asked reads [`Readiness`]: HAProxy by its agent check,
//! anybody else by `/ready`.
//!
//! A drain must help. No grant means no drain. Where nobody is to be asked only a leak takes the
//! node out, after a delay of the node's own (`stagger`), because its end comes whatever the load;
//! an overload lowers the weight to a floor, as its load would only move to nodes that are as busy.
//! After a drain the harm is compared with that before (`condition`): a drain that did not help is
//! undone.
//!
//! One agent drains by a state directory, and any other stands by. An operator's [`Word`] holds
//! whatever the agent sees.

mod active_lock;
mod client;
mod condition;
mod connections;
mod controller;
mod operator_override;
mod readiness;
mod request;
mod stagger;
mod state_file;
mod state_machine;
mod trial;
mod weight;
mod worker;

pub(super) use client::DrainClient;
pub use operator_override::OverrideFile;
pub use readiness::{Readiness, ReadinessCell};
pub use state_file::StateFile;
pub use state_machine::{DrainPhase, DrainState, Override};
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
