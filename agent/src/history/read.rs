//! Frames of a time, in the order in which they were written. A frame that is damaged is skipped.

use std::{io, path::Path, vec::IntoIter};

use thiserror::Error;

use super::{
    frame::{self, HistoryFrame},
    ring::{self, Segment, SegmentFile},
};
use crate::os::{StateDir, trusted::reason};

/// Reason why there is no history.
#[derive(Debug, Error)]
pub enum HistoryError {
    /// No minute was ever written.
    #[error(
        "there is no history below {0}\n  hint: the agent writes it once a minute, if the state \
         directory exists and record.history is not 0s"
    )]
    None(String),
    /// It cannot be read.
    #[error("cannot read the history below {0}: {1}\n  hint: use sudo")]
    Unreadable(String, String),
}

/// A time, and how dense frames are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// First time, in seconds since 1970.
    pub from_secs: u64,
    /// Last time, in seconds since 1970.
    pub to_secs: u64,
    /// Least time between two frames with their observations; 0 for all. Those between have their
    /// events alone.
    pub step_secs: u64,
}

/// Iterates over the frames of a period.
#[derive(Debug)]
pub struct FrameReader {
    dir: StateDir,
    segments: IntoIter<Segment>,
    /// Segment that is read, and the offset of the next frame in it.
    current: Option<(SegmentFile, u64)>,
    period: Period,
    next_secs: u64,
}

impl FrameReader {
    /// Opens the history below a state directory.
    ///
    /// # Errors
    ///
    /// Returns an error if there is none, or it cannot be read.
    pub fn open(state_dir: &Path, period: Period) -> Result<Self, HistoryError> {
        let shown = state_dir.display().to_string();
        let unreadable =
            |error: io::Error| HistoryError::Unreadable(shown.clone(), reason(&error, state_dir));
        let dir = ring::directory(state_dir).map_err(unreadable)?;
        let dir = dir.ok_or_else(|| HistoryError::None(shown.clone()))?;
        let segments = ring::segments(&dir).map_err(unreadable)?;
        let next_secs = period.from_secs;
        Ok(Self { dir, segments: segments.into_iter(), current: None, period, next_secs })
    }
}

impl Iterator for FrameReader {
    type Item = HistoryFrame;

    fn next(&mut self) -> Option<HistoryFrame> {
        loop {
            let Some((file, offset)) = &mut self.current else {
                // The writer may have removed it meanwhile.
                let segment = self.segments.next()?;
                self.current = SegmentFile::open(&self.dir, segment).ok().map(|file| (file, 0));
                continue;
            };
            let Some(start) = file.at(*offset) else {
                self.current = None;
                continue;
            };
            let at = std::mem::replace(offset, *offset + start.len as u64);
            let secs = u64::from(start.unix_secs);
            if secs < self.period.from_secs || secs > self.period.to_secs {
                continue;
            }
            let Some(bytes) = file.read(at, start) else { continue };
            let is_sampled = secs >= self.next_secs;
            let unpack = if is_sampled { frame::unpack } else { frame::unpack_events };
            let Some(frame) = unpack(&bytes) else { continue };
            if is_sampled {
                self.next_secs = secs.saturating_add(self.period.step_secs);
            }
            return Some(frame);
        }
    }
}
