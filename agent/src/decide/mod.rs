//! The policy: what is made of a verdict. Pure; it decides, and others act.

mod decision;
mod guard;
mod ladder;
pub mod pod;

pub use decision::{Action, Decision, IncidentId, Severity};
pub use guard::{ALWAYS_PROTECTED, Guard, Refusal, always_protected};
pub use ladder::Ladder;
