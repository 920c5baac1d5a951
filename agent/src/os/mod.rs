//! What this process asks of the operating system for itself.

pub mod proc_reader;
pub mod sandbox;
