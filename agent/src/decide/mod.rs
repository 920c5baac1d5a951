//! The policy: the answer to a verdict. Pure; it decides, and others act.

mod decision;
mod guard;
mod incident;
pub mod pod;
mod policy;
mod services;
mod severity;
mod tenant;

pub use decision::{Action, Decision, IncidentId};
pub use guard::{ALWAYS_PROTECTED, Guard, Refusal, always_protected};
pub use policy::Policy;
pub use services::{Services, Standing};
pub use tenant::Tenant;

pub use crate::detect::Severity;
