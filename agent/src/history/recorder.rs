//! Recorder of the history: gathers a minute on the loop, and packs and writes it on a thread.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    thread,
    time::Duration,
};

use super::{
    HistoryEvent, HistoryRing, MINUTE_SECS, Minute, RingLimits,
    frame::{self, FrameHeader},
};
use crate::{
    clock::Clock,
    detect::HostInfo,
    os::{StateDir, file_lock::lock_exclusive, host, trusted::reason},
    scan_loop::ScanKind,
    sense::Observation,
};

/// Lock by which one agent writes.
const LOCK: &str = "history.lock";

/// Events that a minute keeps. A guess: more is a storm, of which the first ones say enough.
const EVENTS_MAX: usize = 500;

/// Maximum wait at exit for a disk.
const WRITTEN_WITHIN: Duration = Duration::from_secs(2);

/// A minute to be written, its times on the agent's clock.
struct MinuteSample {
    header: FrameHeader,
    /// Time of the header on the agent's clock.
    now: f64,
    observations: Vec<Observation>,
    events: Vec<HistoryEvent>,
}

/// Records the history.
#[derive(Debug)]
pub struct HistoryRecorder {
    clock: Clock,
    host: HostInfo,
    boot_id: String,
    directory: PathBuf,
    minute: Minute,
    events: Vec<HistoryEvent>,
    has_warned: bool,
    samples: Option<SyncSender<MinuteSample>>,
    written: Receiver<io::Result<()>>,
    _claim: File,
}

impl HistoryRecorder {
    /// Starts to record below `state_dir`; `None`, with the reason in the log, if that is not
    /// possible, and if nothing is to be kept.
    pub fn start(state_dir: &Path, keep: Duration, clock: Clock, host: HostInfo) -> Option<Self> {
        if keep.is_zero() {
            return None;
        }
        Self::try_start(state_dir, keep, clock, host).unwrap_or_else(|error| {
            tracing::warn!(
                directory = %state_dir.display(),
                "no history is kept: {}",
                reason(&error, state_dir)
            );
            None
        })
    }

    fn try_start(
        state_dir: &Path,
        keep: Duration,
        clock: Clock,
        host: HostInfo,
    ) -> io::Result<Option<Self>> {
        let Some(dir) = StateDir::open(state_dir)? else {
            tracing::info!(
                directory = %state_dir.display(),
                "the state directory does not exist, so no history is kept\n  hint: create it, or \
                 run the agent as a service of systemd"
            );
            return Ok(None);
        };
        let claim = lock_exclusive(&dir, LOCK)?;
        let (samples, to_write) = sync_channel::<MinuteSample>(1);
        let (report, written) = sync_channel(1);
        let mut ring = HistoryRing::new(state_dir.to_owned(), keep, RingLimits::default());
        thread::Builder::new().name("history".to_owned()).spawn(move || {
            for sample in to_write {
                // Only the latest result matters.
                let _ = report.try_send(write(&mut ring, sample));
            }
        })?;
        Ok(Some(Self {
            clock,
            host,
            boot_id: host::boot_id()?,
            directory: state_dir.to_owned(),
            minute: Minute::default(),
            events: Vec::new(),
            has_warned: false,
            samples: Some(samples),
            written,
            _claim: claim,
        }))
    }

    /// Takes the observations of one read.
    pub fn observe(&mut self, read: ScanKind, observations: &[Observation]) {
        if let Ok(written) = self.written.try_recv() {
            self.report(written);
        }
        if let Some(sample) = self.minute.observe(read, self.clock.now(), observations) {
            self.send(sample);
        }
    }

    /// Takes an event.
    pub fn note(&mut self, event: HistoryEvent) {
        if self.events.len() < EVENTS_MAX {
            self.events.push(event);
        }
    }

    fn send(&mut self, observations: Vec<Observation>) {
        let (now, boot_secs, at_ms) =
            (self.clock.now(), self.clock.boot_secs(), self.clock.unix_ms());
        let header =
            FrameHeader::new(self.host, MINUTE_SECS, self.boot_id.clone(), boot_secs, at_ms);
        let events = std::mem::take(&mut self.events);
        let sent = match &self.samples {
            Some(samples) => {
                match samples.try_send(MinuteSample { header, now, observations, events }) {
                    Ok(()) => Ok(()),
                    Err(TrySendError::Full(sample)) => {
                        // The next minute takes them with it.
                        self.events = sample.events;
                        Err(io::Error::other("the disk is too slow"))
                    }
                    Err(TrySendError::Disconnected(_)) => {
                        Err(io::Error::other("its thread has ended"))
                    }
                }
            }
            None => Ok(()),
        };
        self.report(sent);
    }

    /// Logs the first failure.
    fn report(&mut self, result: io::Result<()>) {
        let Err(error) = result else { return };
        if !std::mem::replace(&mut self.has_warned, true) {
            tracing::warn!(
                directory = %self.directory.display(),
                "a minute of history is not kept: {}\n  hint: pages and `spillway record --last` \
                 lack it; nothing else is affected",
                reason(&error, &self.directory)
            );
        }
    }

    /// Writes what there is, and waits until it is on disk, within limits.
    pub fn stop(mut self) {
        while let Ok(written) = self.written.try_recv() {
            self.report(written);
        }
        let rest = self.minute.end();
        if !self.events.is_empty() {
            self.send(rest);
        }
        // The thread ends once it has written what it has.
        drop(self.samples.take());
        while let Ok(written) = self.written.recv_timeout(WRITTEN_WITHIN) {
            self.report(written);
        }
    }
}

fn write(ring: &mut HistoryRing, mut sample: MinuteSample) -> io::Result<()> {
    let header = &sample.header;
    let since_boot = |t: f64| t - sample.now + header.t;
    sample.observations.iter_mut().for_each(|observation| {
        observation.t = since_boot(observation.t);
    });
    sample.events.iter_mut().for_each(|event| event.t = since_boot(event.t));
    let packed = frame::pack(header, &sample.observations, &sample.events)?;
    let unix_secs = u32::try_from(header.at_ms / 1_000).unwrap_or(u32::MAX);
    ring.append(&packed, unix_secs)
}
