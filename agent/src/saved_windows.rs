//! The detectors' windows on disk, so that a restart or an upgrade of the agent forgets nothing.
//!
//! They are written every five minutes and when the agent stops, by a thread of their own: the loop
//! only writes them down in memory. One file, `windows.bin` in the state directory, is replaced as
//! a whole. It begins with its version and a digest of the rest; then come the boot and the moment
//! on its clock, and what [`Engine::save`] returned. A file that is damaged, of another version,
//! layout, boot or time, or that others could have written, is not used: the agent then begins as
//! it does on a new host. Failure costs the windows, never the agent. While another agent holds
//! the lock, and where no state directory exists, nothing is kept.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    thread,
    time::Duration,
};

use ciborium::{de::from_reader, ser::into_writer};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::{
    clock::Clock,
    engine::Engine,
    os::{
        StateDir,
        atomic_file::{self, Before},
        file_lock::lock_exclusive,
        host,
        trusted::reason,
    },
};

const STEM: &str = "windows";
const ENDING: &str = ".bin";
const NAME: &str = "windows.bin";
const LOCK: &str = "windows.lock";

/// Beginning of the file; the number is the version.
const MAGIC: &[u8] = b"spillway_windows 1\n";

/// Length of the digest that follows.
const DIGEST_LEN: usize = 32;

/// Maximum size of the file: more than the processes that are saved take. Larger ones are neither
/// written nor read.
const BYTES_MAX: usize = 32 << 20;

/// Time between two writes: so much is lost if the agent is killed. A guess: an hour of writes is
/// some 30 MB at 2,000 processes.
const EVERY_SECS: f64 = 300.0;

/// Age above which windows are not used. A guess: an upgrade takes less, and a claim that is held
/// over should be of this hour.
const AGE_SECS_MAX: f64 = 900.0;

/// Maximum wait at exit for a disk.
const WRITTEN_WITHIN: Duration = Duration::from_secs(2);

/// Origin of the windows in a file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Origin {
    boot_id: String,
    /// Seconds since the boot.
    boot_secs: f64,
}

/// Windows on disk.
#[derive(Debug)]
pub struct SavedWindows {
    boot_id: String,
    saved_t: f64,
    directory: PathBuf,
    has_warned: bool,
    files: Option<SyncSender<Vec<u8>>>,
    written: Receiver<io::Result<()>>,
    _claim: File,
}

impl SavedWindows {
    /// Starts keeping windows below `state_dir`; `None`, with the reason in the log, if they cannot
    /// be kept there.
    pub fn open(state_dir: &Path, clock: &Clock) -> Option<Self> {
        match Self::try_open(state_dir, clock) {
            Ok(Some(windows)) => return Some(windows),
            Ok(None) => tracing::info!(
                directory = %state_dir.display(),
                "the state directory does not exist, so a restart of the agent begins its windows \
                 anew\n  hint: create it, or run the agent as a service of systemd"
            ),
            Err(error) => tracing::warn!(
                directory = %state_dir.display(),
                "windows are not kept for the next run: {}",
                reason(&error, state_dir)
            ),
        }
        None
    }

    fn try_open(state_dir: &Path, clock: &Clock) -> io::Result<Option<Self>> {
        let Some(dir) = StateDir::open(state_dir)? else { return Ok(None) };
        let claim = lock_exclusive(&dir, LOCK)?;
        let (files, to_write) = sync_channel::<Vec<u8>>(1);
        let (report, written) = sync_channel(1);
        let directory = state_dir.to_owned();
        thread::Builder::new().name("windows".to_owned()).spawn({
            let directory = directory.clone();
            move || {
                for bytes in to_write {
                    // Only the latest result matters.
                    let _ = report.try_send(write(&directory, &bytes));
                }
            }
        })?;
        Ok(Some(Self {
            boot_id: host::boot_id()?,
            saved_t: clock.now(),
            directory,
            has_warned: false,
            files: Some(files),
            written,
            _claim: claim,
        }))
    }

    /// Gives the windows of the last run to an engine that has seen nothing yet. Returns their age
    /// in seconds; `None` if there are none.
    ///
    /// # Errors
    ///
    /// Returns the reason for not using them; then the engine must not be used either.
    pub fn restore(&self, engine: &mut Engine, clock: &Clock) -> Result<Option<f64>, String> {
        let bytes = StateDir::open(&self.directory)
            .and_then(|dir| dir.map_or(Ok(None), |dir| dir.read(NAME, BYTES_MAX as u64)))
            .map_err(|error| reason(&error, &self.directory.join(NAME)))?;
        let Some(bytes) = bytes else { return Ok(None) };
        let (age_secs, windows) = unpack(&bytes, &self.boot_id, clock.boot_secs())?;
        engine.restore(clock.now(), age_secs, windows).map_err(|error| error.to_string())?;
        Ok(Some(age_secs))
    }

    /// Saves the windows if it is time to.
    pub fn save_if_due(&mut self, engine: &Engine, clock: &Clock) {
        if clock.now() - self.saved_t >= EVERY_SECS {
            self.save(engine, clock);
        }
    }

    fn save(&mut self, engine: &Engine, clock: &Clock) {
        self.saved_t = clock.now();
        let origin = Origin { boot_id: self.boot_id.clone(), boot_secs: clock.boot_secs() };
        let packed = engine
            .save(clock.now())
            .map_err(|error| error.to_string())
            .and_then(|windows| pack(&origin, &windows));
        let sent = packed.and_then(|bytes| match &self.files {
            Some(files) => match files.try_send(bytes) {
                Ok(()) => Ok(()),
                Err(TrySendError::Full(_)) => Err("the disk is too slow".to_owned()),
                Err(TrySendError::Disconnected(_)) => Err("its thread has ended".to_owned()),
            },
            None => Ok(()),
        });
        self.report(sent);
        if let Ok(written) = self.written.try_recv() {
            self.report(written.map_err(|error| error.to_string()));
        }
    }

    /// Logs the first failure.
    fn report(&mut self, result: Result<(), String>) {
        let Err(why) = result else { return };
        if !std::mem::replace(&mut self.has_warned, true) {
            tracing::warn!(
                file = %self.directory.join(NAME).display(),
                "cannot save the windows of processes: {why}\n  hint: after a restart the agent \
                 needs up to twenty minutes to judge them again"
            );
        }
    }

    /// Saves the windows for the last time, and waits until they are on disk, within limits.
    pub fn stop(mut self, engine: &Engine, clock: &Clock) {
        while let Ok(written) = self.written.try_recv() {
            self.report(written.map_err(|error| error.to_string()));
        }
        self.save(engine, clock);
        // The thread ends once it has written what it has.
        drop(self.files.take());
        match self.written.recv_timeout(WRITTEN_WITHIN) {
            Ok(written) => self.report(written.map_err(|error| error.to_string())),
            Err(_) => self.report(Err("the disk is too slow".to_owned())),
        }
    }
}

fn write(directory: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = StateDir::open(directory)?
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the directory is gone"))?;
    atomic_file::replace(&dir, STEM, ENDING, bytes, Before::Any)
}

/// Returns the content of the file.
fn pack(origin: &Origin, windows: &[u8]) -> Result<Vec<u8>, String> {
    let mut body = Vec::with_capacity(windows.len() + 256);
    into_writer(origin, &mut body).map_err(|error| error.to_string())?;
    body.extend_from_slice(windows);
    let bytes = [MAGIC, digest(&SHA256, &body).as_ref(), &body].concat();
    if bytes.len() > BYTES_MAX {
        return Err(format!("they take {} bytes, more than {BYTES_MAX}", bytes.len()));
    }
    Ok(bytes)
}

/// Returns the age of the windows in a file, and themselves.
fn unpack<'a>(bytes: &'a [u8], boot_id: &str, boot_secs: f64) -> Result<(f64, &'a [u8]), String> {
    let rest = bytes.strip_prefix(MAGIC).ok_or("it is of another version")?;
    let (sum, mut rest) = rest.split_at_checked(DIGEST_LEN).ok_or("it is cut off")?;
    if digest(&SHA256, rest).as_ref() != sum {
        return Err("it is damaged: its digest is another".to_owned());
    }
    let origin: Origin = from_reader(&mut rest).map_err(|error| error.to_string())?;
    if origin.boot_id != boot_id {
        return Err("it is of another boot of this host".to_owned());
    }
    let age_secs = boot_secs - origin.boot_secs;
    if !(0.0..=AGE_SECS_MAX).contains(&age_secs) {
        return Err(format!("it is {age_secs:.0} s old; up to {AGE_SECS_MAX} s are bridged"));
    }
    Ok((age_secs, rest))
}

#[cfg(test)]
mod tests;
