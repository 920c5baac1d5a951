//! `/metrics`, `/healthz`, `/ready` and the pages, and HAProxy's agent check.

mod acceptor;
mod access;
mod agent_check;
mod counts;
mod health;
mod http;
mod metrics;
mod slots;
mod text_format;

pub use agent_check::serve_agent_check;
pub use counts::ServeCounts;
pub use health::{HealthReport, HealthStatus, Reason};
pub use http::{Pages, ServeError, serve};
pub use metrics::Metrics;
