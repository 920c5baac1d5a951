//! One process at one scan.

use super::headroom::Headroom;
use crate::{detect::Context, sense::ProcessFact};

/// One process at one scan, with what it takes to judge it.
pub(super) struct ProcessScan<'a> {
    pub(super) context: &'a Context<'a>,
    pub(super) fact: &'a ProcessFact,
    /// Time for which the host was awake, in seconds.
    pub(super) now: f64,
    pub(super) headroom: Headroom,
}
