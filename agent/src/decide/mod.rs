//! Decisions: the policy's answers to verdicts. Pure; other code acts on them.

mod decision;
mod guard;
mod incident;
mod policy;
mod service_requests;
mod services;
mod shared_pages;
mod tenant;

pub use decision::{Action, Decision};
pub use guard::{ALWAYS_PROTECTED, ActionBudget, Guard, GuardRefusal, always_protected};
pub use incident::IncidentView;
pub use policy::Policy;
pub use service_requests::{ListenerPlace, RequestsLeft, ServiceRequests};
pub use services::{ServiceStanding, Services};
pub use shared_pages::is_common;
pub use tenant::Tenant;

pub use crate::detect::{IncidentId, Severity};
