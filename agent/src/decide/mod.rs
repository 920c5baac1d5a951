//! The policy: the answer to a verdict. Pure; it decides, and others act.

mod decision;
mod guard;
mod incident;
pub mod kubepods;
mod policy;
mod services;
mod severity;
mod tenant;

pub use decision::{Action, Decision, IncidentId};
pub use guard::{ALWAYS_PROTECTED, Guard, GuardRefusal, always_protected};
pub use policy::Policy;
pub use services::{ServiceStanding, Services};
pub use tenant::Tenant;

pub use crate::detect::Severity;
