//! Shared by the live tests of overload detection and the recorder of the corpus: real servers,
//! real load, and the truth about the queue between them.

pub mod load;
pub mod report;
pub mod server;
pub mod stage;
pub mod truth;
