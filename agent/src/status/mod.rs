//! Status of the running agent, for `spillway status` and the commands that change its state.
//!
//! The loop puts an immutable snapshot on the [`StatusBoard`]; a thread ([`StatusServer`]) makes a
//! [`StatusReport`] of it for each connection to a UNIX socket in the runtime directory;
//! [`client::ask`] reads it, and [`text`] prints it for a person. [`page`] shows the same in a
//! browser.

mod action_log;
mod board;
pub mod client;
pub mod page;
pub(crate) mod report;
pub mod runtime_dir;
mod server;
mod tables;
pub mod text;

pub use action_log::ActionLog;
pub use board::{LoopSnapshot, StatusBoard};
pub use report::StatusReport;
pub use server::StatusServer;
pub use tables::HostTables;
