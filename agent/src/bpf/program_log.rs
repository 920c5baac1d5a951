//! Messages that the BPF programs log about what they could not store, at `-vv` only.
//!
//! The level is a constant of the programs. At the usual level 0 the verifier removes the code that
//! logs; four instructions that check the level remain where a loss is counted, and none elsewhere.
//! The ring buffer cannot be left out of the object, but is then a single page. At `-vv` it is read
//! with every scan of processes; messages that find it full are dropped, the counts are complete.

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};

/// Constant of the BPF programs with the level of messages that they log.
pub(super) const LEVEL: &str = "AYA_LOG_LEVEL";

/// Ring buffer of the messages.
pub(super) const RING: &str = "AYA_LOGS";

/// Size of the ring buffer, in bytes, while nothing is logged: aya rounds it up to a page.
pub(super) const UNUSED_RING_BYTES: u32 = 4_096;

/// Level of aya-log's `debug!`.
const DEBUG: u8 = 4;

/// Reader of the messages.
pub(super) struct ProgramLog(EbpfLogger<Forwarder>);

/// Passes the messages on to the agent's own log.
struct Forwarder;

impl ProgramLog {
    /// Returns the level of messages to log; 0 for none.
    pub(super) fn level() -> u8 {
        if tracing::enabled!(tracing::Level::TRACE) { DEBUG } else { 0 }
    }

    /// Opens the log of the programs; `None` if they log nothing.
    pub(super) fn open(ebpf: &mut Ebpf) -> Option<Self> {
        if Self::level() == 0 {
            return None;
        }
        match EbpfLogger::init_with_logger(ebpf, Forwarder) {
            Ok(logger) => Some(Self(logger)),
            Err(error) => {
                tracing::warn!(%error, "cannot read the log of the BPF programs");
                None
            }
        }
    }

    /// Logs the messages since the last call. aya panics at a malformed one, but only our own
    /// programs write them.
    pub(super) fn flush(&mut self) {
        self.0.flush();
    }
}

impl Log for Forwarder {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        tracing::trace!("BPF: {}", record.args());
    }

    fn flush(&self) {}
}
