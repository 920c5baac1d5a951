//! Detectors: a bounded window and a rule each, from observations to verdicts.

mod verdict;

pub use verdict::{Claim, LeakClaim, OverloadClaim, State, Verdict};
