//! One minute of history as bytes: a gzip member that holds a trace, so that `zcat` reads it.
//!
//! The gzip header carries the time of the frame and, in an extra field, the length of the whole
//! member: a reader finds a frame without unpacking those before it. The first line is a trace
//! header with a few more fields, then come events, which a trace reader skips and which can be
//! read alone, then observations.
//! Everything that is read is taken for damaged until its length and checksum are right.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};

use flate2::{Compression, GzBuilder, read::GzDecoder};
use serde::{Deserialize, Serialize};

use super::HistoryEvent;
use crate::{
    detect::HostInfo,
    sense::Observation,
    trace::{TRACE_VERSION, TraceError, TraceReader, format::write_line},
};

/// Length of the gzip header with its extra field.
pub const HEADER_LEN: usize = 20;

/// Maximum length of a frame: some 300,000 processes.
pub const FRAME_BYTES_MAX: usize = 4 << 20;

/// Maximum length of a frame when unpacked. Traces shrink to less than a tenth.
const UNPACKED_BYTES_MAX: u64 = 64 << 20;

/// Beginning of the gzip header: magic, deflate, and no other flag than that of the extra field.
const MAGIC: [u8; 4] = [0x1f, 0x8b, 8, 4];

/// Subfield with the length: its name, and the size of its value.
const SUBFIELD: [u8; 4] = [b'S', b'W', 4, 0];

/// Position of the length in the gzip header.
const LENGTH_AT: usize = 16;

/// First line of a frame. Its first three fields are those of a trace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FrameHeader {
    /// Version of the trace format.
    pub spillway_trace: u64,
    /// Host.
    pub host: HostInfo,
    /// Time between two frames, in seconds.
    pub interval_secs: f64,
    /// Boot of the host, in which process ids and times mean something.
    pub boot_id: String,
    /// Time of the frame in seconds since that boot: the clock of its observations and events.
    pub t: f64,
    /// Time of the frame in milliseconds since 1970.
    pub at_ms: u64,
    /// Number of events, which follow.
    #[serde(default)]
    pub events: u32,
}

impl FrameHeader {
    /// Creates a header.
    pub fn new(host: HostInfo, interval_secs: f64, boot_id: String, t: f64, at_ms: u64) -> Self {
        let spillway_trace = TRACE_VERSION;
        Self { spillway_trace, host, interval_secs, boot_id, t, at_ms, events: 0 }
    }

    /// Returns a time on the clock of the frame in milliseconds since 1970.
    pub fn unix_ms(&self, t: f64) -> u64 {
        let ms = self.at_ms as f64 + (t - self.t) * 1e3;
        // A cast saturates, and a time that is not a number becomes zero.
        ms as u64
    }
}

/// Beginning of a frame: its time and its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameStart {
    /// Time in seconds since 1970.
    pub unix_secs: u32,
    /// Length of the frame in bytes, with its header.
    pub len: usize,
}

/// An unpacked frame.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryFrame {
    /// First line.
    pub header: FrameHeader,
    /// Text of the frame, with the first line.
    text: Vec<u8>,
}

/// Packs a frame.
///
/// # Errors
///
/// Returns an error if it is longer than [`FRAME_BYTES_MAX`].
pub fn pack<'a>(
    header: &FrameHeader,
    observations: impl IntoIterator<Item = &'a Observation>,
    events: &[HistoryEvent],
) -> io::Result<Vec<u8>> {
    let extra = [&SUBFIELD[..], &[0; 4]].concat();
    let unix_secs = u32::try_from(header.at_ms / 1_000).unwrap_or(u32::MAX);
    let builder = GzBuilder::new().mtime(unix_secs).extra(extra);
    let mut packed = builder.write(Vec::new(), Compression::default());
    let json = |error| match error {
        TraceError::Io(error) => error,
        error => io::Error::other(error.to_string()),
    };
    let header = FrameHeader { events: events.len() as u32, ..header.clone() };
    write_line(&mut packed, &header).map_err(json)?;
    for event in events {
        write_line(&mut packed, event).map_err(json)?;
    }
    for observation in observations {
        write_line(&mut packed, observation).map_err(json)?;
    }
    packed.flush()?;
    let mut bytes = packed.finish()?;
    if bytes.len() > FRAME_BYTES_MAX {
        let problem = format!("a minute takes {} bytes, more than {FRAME_BYTES_MAX}", bytes.len());
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, problem));
    }
    let len = bytes.len() as u32;
    bytes[LENGTH_AT..HEADER_LEN].copy_from_slice(&len.to_le_bytes());
    Ok(bytes)
}

/// Reads the beginning of a frame; `None` if it is none.
pub fn start(bytes: &[u8]) -> Option<FrameStart> {
    let header: &[u8; HEADER_LEN] = bytes.get(..HEADER_LEN)?.try_into().ok()?;
    let number = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let has_length = header[10..12] == [8, 0] && header[12..LENGTH_AT] == SUBFIELD;
    let len = number(LENGTH_AT) as usize;
    let is_frame = header[..4] == MAGIC && has_length;
    (is_frame && (HEADER_LEN + 1..=FRAME_BYTES_MAX).contains(&len))
        .then(|| FrameStart { unix_secs: number(4), len })
}

/// Unpacks a frame; `None` if it is damaged or of another version.
pub fn unpack(bytes: &[u8]) -> Option<HistoryFrame> {
    start(bytes).filter(|start| start.len == bytes.len())?;
    let mut unpacked = GzDecoder::new(bytes);
    let mut text = Vec::with_capacity(bytes.len() * 8);
    // The checksum is compared at the end of the member.
    let read = (&mut unpacked).take(UNPACKED_BYTES_MAX + 1).read_to_end(&mut text).ok()?;
    if read as u64 > UNPACKED_BYTES_MAX {
        return None;
    }
    of_text(text)
}

/// Unpacks only the header and the events of a frame, at a fraction of the cost; `None` if they
/// cannot be read. The checksum, which covers all of it, is not looked at.
pub fn unpack_events(bytes: &[u8]) -> Option<HistoryFrame> {
    start(bytes).filter(|start| start.len == bytes.len())?;
    let mut unpacked = BufReader::new(GzDecoder::new(bytes).take(UNPACKED_BYTES_MAX));
    let mut text = Vec::new();
    unpacked.read_until(b'\n', &mut text).ok()?;
    let frame = of_text(text)?;
    let (header, mut text) = (frame.header, frame.text);
    for _ in 0..header.events {
        unpacked.read_until(b'\n', &mut text).ok()?;
    }
    Some(HistoryFrame { header, text })
}

/// Reads the text of a frame; `None` if it is of another version.
pub(crate) fn of_text(text: Vec<u8>) -> Option<HistoryFrame> {
    let line = text.split(|byte| *byte == b'\n').next()?;
    let header: FrameHeader = serde_json::from_slice(line).ok()?;
    let is_usable = header.spillway_trace == TRACE_VERSION && header.t.is_finite();
    is_usable.then_some(HistoryFrame { header, text })
}

impl HistoryFrame {
    /// Iterates over its observations. Lines that cannot be used are skipped.
    pub fn observations(&self) -> impl Iterator<Item = Observation> {
        self.matching(None)
    }

    /// Iterates over its observations whose line contains these bytes.
    pub fn observations_with(&self, needle: &[u8]) -> impl Iterator<Item = Observation> {
        self.matching(Some(needle))
    }

    fn matching(&self, needle: Option<&[u8]>) -> impl Iterator<Item = Observation> {
        let lines = self.text.split(|byte| *byte == b'\n');
        let mut lines = lines.filter(|line| !line.is_empty());
        let mut selected = lines.next().unwrap_or_default().to_vec();
        selected.push(b'\n');
        for line in lines {
            if !is_event(line) && needle.is_none_or(|needle| contains(line, needle)) {
                selected.extend_from_slice(line);
                selected.push(b'\n');
            }
        }
        let reader = TraceReader::new(BufReader::new(io::Cursor::new(selected))).ok();
        reader.into_iter().flatten().flatten()
    }

    /// Iterates over its events.
    pub fn events(&self) -> impl Iterator<Item = HistoryEvent> {
        let lines = self.text.split(|byte| *byte == b'\n').filter(|line| is_event(line));
        lines.filter_map(|line| serde_json::from_slice(line).ok())
    }
}

/// Returns whether a line is one of an event, which is written with its kind first.
fn is_event(line: &[u8]) -> bool {
    line.starts_with(br#"{"kind":"event""#)
}

fn contains(line: &[u8], needle: &[u8]) -> bool {
    let Some((first, rest)) = needle.split_first() else { return true };
    let mut from = 0;
    while let Some(at) = line[from..].iter().position(|byte| byte == first) {
        from += at + 1;
        if line[from..].starts_with(rest) {
            return true;
        }
    }
    false
}
