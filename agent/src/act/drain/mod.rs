//! The action `drain`: whoever gives this node its work is asked for no more of it, before what is wrong here costs a request, and
//! for work again when that is over.
//!
//! [`Machine`] says where the node is and when it may go on, and is pure, as are what is asked and what an answer means, when it is asked
//! again, and the weight. A [`Drainer`] is the thread around them. Whoever would rather ask than be asked reads [`Readiness`]:
//! HAProxy by its agent check, anybody else by `/ready`. No grant means no drain, and where nobody is to be asked the balancer
//! that asks is who grants. One agent drains by a state directory, and any other stands by. An operator's [`Word`] holds whatever the agent sees.

mod caller;
mod drainer;
mod keeper;
mod readiness;
mod request;
mod retry;
mod served;
mod standby;
mod state;
mod store;
mod weight;
mod word;

pub(super) use caller::Endpoint;
pub use drainer::Drainer;
pub use readiness::{Readiness, Says};
pub use state::{Machine, Phase, Word};
pub use store::Store;
pub use word::WordFile;

#[cfg(any(test, fuzzing))]
pub(crate) use store::Kept;

/// Words for a reply, for the fuzz target.
#[cfg(any(test, fuzzing))]
pub(crate) fn said_of(status: u16, retry_after: Option<std::time::Duration>, body: &[u8]) -> String {
    match request::meaning(status, retry_after, body) {
        request::Meaning::Granted => String::new(),
        request::Meaning::Refused(said) | request::Meaning::Closed(said) | request::Meaning::Later(_, said) => said,
    }
}
