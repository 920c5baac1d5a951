//! Files of the history: frames appended to segments of which the oldest are removed.
//!
//! The segments are in `history` in the state directory, named by a number that rises. One that a
//! killed agent left with half a frame at its end is cut before the next frame is appended, so that
//! every byte of a segment belongs to a whole frame. Nothing is synced: after a power cut the last
//! minutes may be missing. All of it is bounded by [`BYTES_MAX`] and by the time that is kept, and
//! where the disk is nearly full, by what leaves [`FREE_BYTES_MIN`] free.

use std::{
    fs::File,
    io::{self, Write as _},
    os::unix::fs::FileExt as _,
    path::PathBuf,
    time::Duration,
};

use rustix::fs::OFlags;

use super::frame::{self, FrameStart, HEADER_LEN};
use crate::os::StateDir;

/// Maximum size of all segments together.
const BYTES_MAX: u64 = 64 << 20;

/// Size from which a segment is full: the ring loses a thirtieth of itself at a time.
const SEGMENT_BYTES: u64 = 2 << 20;

/// Space that is left free on the file system. With less, the oldest segment is removed each
/// minute, and nothing is written.
const FREE_BYTES_MIN: u64 = 256 << 20;

/// Name of the directory in the state directory.
const DIRECTORY: &str = "history";

/// Ending of a segment's name: JSON lines, packed.
const ENDING: &str = ".jsonl.gz";

/// Ring of segments, for its one writer.
#[derive(Debug)]
pub struct HistoryRing {
    state_dir: PathBuf,
    keep: Duration,
    limits: RingLimits,
    /// Segment of which the end is known to be that of a frame.
    checked: Option<u64>,
}

/// Limits of a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingLimits {
    /// Maximum size of all segments together.
    pub bytes_max: u64,
    /// Size from which a segment is full.
    pub segment_bytes: u64,
    /// Space that is left free on the file system.
    pub free_bytes_min: u64,
}

impl Default for RingLimits {
    fn default() -> Self {
        Self { bytes_max: BYTES_MAX, segment_bytes: SEGMENT_BYTES, free_bytes_min: FREE_BYTES_MIN }
    }
}

/// A segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    number: u64,
    bytes: u64,
}

/// A segment that is read.
#[derive(Debug)]
pub(super) struct SegmentFile(File);

impl HistoryRing {
    /// Creates the ring below a state directory. It keeps what is younger than `keep`.
    pub fn new(state_dir: PathBuf, keep: Duration, limits: RingLimits) -> Self {
        Self { state_dir, keep, limits, checked: None }
    }

    /// Appends a frame of this time. Removes what is too old or too much.
    ///
    /// # Errors
    ///
    /// Returns an error if it is not written; then no part of it is. The state directory must
    /// exist.
    pub fn append(&mut self, packed: &[u8], unix_secs: u32) -> io::Result<()> {
        let state_dir = StateDir::open(&self.state_dir)?.ok_or(io::ErrorKind::NotFound)?;
        let Some(dir) = state_dir.below(DIRECTORY, true)? else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let mut segments = segments(&dir)?;
        self.remove_old(&dir, &mut segments, packed.len() as u64, unix_secs)?;
        let free = dir.free_bytes()?;
        if free < self.limits.free_bytes_min + packed.len() as u64 {
            if let Some(oldest) = segments.first() {
                dir.remove(&name(oldest.number))?;
            }
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!("only {free} bytes are free on its file system"),
            ));
        }
        let last = segments.last().copied();
        let number = match last {
            Some(last) if last.bytes < self.limits.segment_bytes => last.number,
            last => last.map_or(1, |last| last.number + 1),
        };
        let flags = OFlags::RDWR | OFlags::CREATE;
        let mut file = dir.open_file(&name(number), flags, u64::MAX)?;
        let mut end = file.metadata()?.len();
        if self.checked != Some(number) {
            end = SegmentFile(file.try_clone()?).end();
            file.set_len(end)?;
            self.checked = Some(number);
        }
        io::Seek::seek(&mut file, io::SeekFrom::Start(end))?;
        file.write_all(packed).inspect_err(|_| {
            // If that fails as well, the end is looked for again.
            self.checked = None;
            let _ = file.set_len(end);
        })
    }

    fn remove_old(
        &self,
        dir: &StateDir,
        segments: &mut Vec<Segment>,
        more_bytes: u64,
        unix_secs: u32,
    ) -> io::Result<()> {
        let oldest = u64::from(unix_secs).saturating_sub(self.keep.as_secs());
        while let [first, rest @ ..] = &segments[..] {
            let total: u64 = segments.iter().map(|segment| segment.bytes).sum();
            // All of a segment is older than the first frame of the next one.
            let next = rest.first().and_then(|next| SegmentFile::open(dir, *next).ok()?.at(0));
            let is_old = next.is_some_and(|next| u64::from(next.unix_secs) < oldest);
            if total + more_bytes <= self.limits.bytes_max && !is_old {
                break;
            }
            dir.remove(&name(first.number))?;
            segments.remove(0);
        }
        Ok(())
    }
}

/// Opens the directory of the segments; `None` if there is none.
///
/// # Errors
///
/// Returns an error if it is refused or cannot be opened.
pub(super) fn directory(state_dir: &std::path::Path) -> io::Result<Option<StateDir>> {
    let state_dir = StateDir::open(state_dir)?;
    state_dir.map_or(Ok(None), |state_dir| state_dir.below(DIRECTORY, false))
}

/// Lists the segments, the oldest first. Other files are left alone.
///
/// # Errors
///
/// Returns an error if the directory or a segment cannot be read.
pub(super) fn segments(dir: &StateDir) -> io::Result<Vec<Segment>> {
    let numbers = dir.names()?.into_iter().filter_map(|name| number_in(&name));
    let mut segments = Vec::new();
    for number in numbers {
        let file = dir.open_file(&name(number), OFlags::RDONLY, u64::MAX)?;
        segments.push(Segment { number, bytes: file.metadata()?.len() });
    }
    Ok(segments)
}

/// Name of a segment. Ten digits keep them in order, for longer than anyone writes one a minute.
fn name(number: u64) -> String {
    format!("{number:010}{ENDING}")
}

fn number_in(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(ENDING)?;
    let is_number = digits.len() == 10 && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().ok())?
}

impl SegmentFile {
    /// Opens a segment.
    ///
    /// # Errors
    ///
    /// Returns an error if it is refused or cannot be opened.
    pub(super) fn open(dir: &StateDir, segment: Segment) -> io::Result<Self> {
        dir.open_file(&name(segment.number), OFlags::RDONLY, u64::MAX).map(Self)
    }

    /// Beginning of the frame at an offset; `None` at the end, or if there is none.
    pub(super) fn at(&self, offset: u64) -> Option<FrameStart> {
        let mut header = [0; HEADER_LEN];
        self.0.read_exact_at(&mut header, offset).ok()?;
        frame::start(&header)
    }

    /// Reads a frame at an offset; `None` if it is cut off.
    pub(super) fn read(&self, offset: u64, start: FrameStart) -> Option<Vec<u8>> {
        let mut bytes = vec![0; start.len];
        self.0.read_exact_at(&mut bytes, offset).ok()?;
        Some(bytes)
    }

    /// Returns the end of the last whole frame.
    fn end(&self) -> u64 {
        let size = self.0.metadata().map_or(0, |metadata| metadata.len());
        let mut end = 0;
        while let Some(start) = self.at(end) {
            let next = end + start.len as u64;
            if next > size {
                break;
            }
            end = next;
        }
        end
    }
}
