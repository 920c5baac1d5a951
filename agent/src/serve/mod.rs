//! `/metrics` and `/healthz`.

mod http;
mod metrics;

pub use http::{ServeError, serve};
pub use metrics::Metrics;
