//! History on disk: a sample of what the sensors reported for each minute, with every verdict,
//! decision and outcome, for the pages, for `spillway record --last` and for whoever asks the next
//! morning.
//!
//! [`Minute`] chooses what a minute keeps; [`frame`] makes one gzip member of it; [`HistoryRing`]
//! appends that to files of which the oldest are removed; [`FrameReader`] finds the frames of a
//! time, [`series`] what they say about one workload or listener. A thread packs and writes, so
//! that the loop never waits for a disk. Cold start: none. Failure costs the history, never the
//! agent: a frame that is damaged or of another version is skipped, and where the disk is nearly
//! full the ring gives room back. Without a state directory there is none.

pub(crate) mod chart;
pub(crate) mod event;
pub mod frame;
mod minute;
mod read;
mod recorder;
mod ring;
pub mod series;
mod stored;

pub use event::HistoryEvent;
pub use minute::{MINUTE_SECS, Minute};
pub use read::{FrameReader, HistoryError, Period};
pub use recorder::HistoryRecorder;
pub use ring::{HistoryRing, RingLimits};
pub use stored::StoredHistory;

#[cfg(test)]
mod tests;
