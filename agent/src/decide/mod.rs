//! The policy: what is made of a verdict. Pure; it decides, and others act.

mod decision;
mod ladder;

pub use decision::{Action, Decision, IncidentId, Severity};
pub use ladder::Ladder;
