//! `/metrics`, `/healthz` and `/ready`, and HAProxy's agent check.

mod agent_check;
mod http;
mod metrics;

pub use agent_check::serve_agent_check;
pub use http::{ServeError, serve};
pub use metrics::Metrics;
