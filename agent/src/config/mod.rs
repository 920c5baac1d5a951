//! The configuration: what may be said, what is said by default, and what is wrong with what was said.

mod schema;

pub use schema::{Config, DecideConfig, DetectConfig, LeakConfig, Mode, OverloadConfig, SenseConfig, ServeConfig};
