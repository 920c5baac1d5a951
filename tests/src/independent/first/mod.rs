//! First set, held out until 2026-11-29 and for tuning since.

pub(super) mod healthy;
pub(super) mod leaks;
