//! Notifications that are not delivered yet, on disk: whatever was accepted survives a kill, and is
//! sent after the next start.
//!
//! The last notification of each open incident is stored too, so that the next run of the agent can
//! end the incident. One embedded store (redb), whose commits are atomic and synced. A file that
//! cannot be read, is truncated or zeroed is set aside for a human, and a new one is begun: no file
//! stops the agent. If the disk fails the error says so; the caller keeps its notifications and
//! tries again.

mod file;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use redb::{Database, ReadableDatabase as _, ReadableTable as _, WriteTransaction};
use serde::{Deserialize, Serialize};

use file::{Contents, OPEN, Unopened, WAITING, json, open_database, read, set_aside};

/// Size of a file from which it is shrunk when possible: within today's bounds it never gets there.
const SHRINKS_FROM_BYTES: u64 = 8 << 20;

/// A store of notifications that wait, each for some receivers.
pub struct Spool {
    path: PathBuf,
    database: Option<Database>,
}

/// An entry that waits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpoolEntry<T> {
    /// Names of the receivers that have not got it yet.
    pub to: Vec<String>,
    /// The notification.
    pub what: T,
}

/// Contents of a spool when it was opened.
#[derive(Debug)]
pub struct SpoolRecovery<T> {
    /// Entries that wait, oldest first.
    pub waiting: Vec<(u64, SpoolEntry<T>)>,
    /// Last notification of each open incident.
    pub open: Vec<T>,
    /// New path of a file that could not be read, and the reason.
    pub set_aside: Option<(PathBuf, String)>,
    /// Number of entries that could not be read, by this run or an earlier one. They are kept.
    pub unread: u64,
}

/// A change of an open incident.
#[derive(Debug, Clone, Copy)]
pub enum IncidentChange<'a, T> {
    /// Its last notification.
    Last(&'a str, &'a T),
    /// It is over.
    Over(&'a str),
}

/// An error of the spool: its path and the reason.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct SpoolError {
    path: PathBuf,
    why: String,
}

impl<T> Default for SpoolRecovery<T> {
    fn default() -> Self {
        Self { waiting: Vec::new(), open: Vec::new(), set_aside: None, unread: 0 }
    }
}

impl Spool {
    /// Opens the spool at `path`, or creates it.
    ///
    /// # Errors
    ///
    /// Returns an error if the file can be neither opened nor created.
    pub fn open<T: for<'a> Deserialize<'a>>(
        path: &Path,
    ) -> Result<(Self, SpoolRecovery<T>), SpoolError> {
        let failed = |why: String| SpoolError { path: path.to_owned(), why };
        let (contents, set_aside) = match read(path) {
            Ok(contents) => (contents, None),
            Err(Unopened::Unavailable(why)) => return Err(failed(why)),
            Err(Unopened::Damaged(why)) => {
                let aside = set_aside(path).map_err(|error| failed(error.to_string()))?;
                (read(path).map_err(|again| failed(again.why()))?, Some((aside, why)))
            }
        };
        let Contents { database, waiting, open, unread } = contents;
        let spool = Self { path: path.to_owned(), database: Some(database) };
        Ok((spool, SpoolRecovery { waiting, open, set_aside, unread }))
    }

    /// Makes a spool that could not be opened; each change tries to open it again.
    pub fn later(path: &Path) -> Self {
        Self { path: path.to_owned(), database: None }
    }

    /// Writes entries and the changes of their incidents; all or nothing.
    ///
    /// # Errors
    ///
    /// Returns an error if they may not be there after a crash.
    pub fn accept<T: Serialize + for<'a> Deserialize<'a>>(
        &mut self,
        entries: &[(u64, SpoolEntry<T>)],
        incidents: &[IncidentChange<'_, T>],
    ) -> Result<(), SpoolError> {
        self.change(&[], entries, incidents)
    }

    /// Removes entries that are delivered or given up, each for one receiver or for all. All or
    /// nothing: no entry comes back after a crash without the later ones.
    ///
    /// # Errors
    ///
    /// Returns an error if they may come back after a crash.
    pub fn settle<T: Serialize + for<'a> Deserialize<'a>>(
        &mut self,
        settled: &[(u64, Option<&str>)],
    ) -> Result<(), SpoolError> {
        self.change::<T>(settled, &[], &[])
    }

    /// Removes settled entries and writes new ones in one transaction: an entry that replaces
    /// others is there if and only if they are not.
    ///
    /// # Errors
    ///
    /// Returns an error if the change may not be there after a crash.
    pub fn change<T: Serialize + for<'a> Deserialize<'a>>(
        &mut self,
        settled: &[(u64, Option<&str>)],
        entries: &[(u64, SpoolEntry<T>)],
        incidents: &[IncidentChange<'_, T>],
    ) -> Result<(), SpoolError> {
        self.commit(|write| {
            let mut waiting = write.open_table(WAITING)?;
            for (nth, to) in settled {
                let entry = match waiting.get(nth)? {
                    Some(bytes) => serde_json::from_slice::<SpoolEntry<T>>(bytes.value()).ok(),
                    None => continue,
                };
                let left = entry.map(|mut entry| {
                    entry.to.retain(|other| to.is_some_and(|to| *other != to));
                    entry
                });
                match left.filter(|entry| !entry.to.is_empty()) {
                    Some(entry) => drop(waiting.insert(nth, &json(&entry)?[..])?),
                    None => drop(waiting.remove(nth)?),
                }
            }
            for (nth, entry) in entries {
                waiting.insert(nth, &json(entry)?[..])?;
            }
            let mut open = write.open_table(OPEN)?;
            for change in incidents {
                match change {
                    IncidentChange::Last(incident, last) => {
                        drop(open.insert(*incident, &json(last)?[..])?)
                    }
                    IncidentChange::Over(incident) => drop(open.remove(*incident)?),
                }
            }
            Ok(())
        })
    }

    /// Reads an entry that waits; `None` if it is not there.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read.
    pub fn get<T: for<'a> Deserialize<'a>>(
        &mut self,
        nth: u64,
    ) -> Result<Option<SpoolEntry<T>>, SpoolError> {
        let database = self.database()?;
        let entry = || -> Result<Option<SpoolEntry<T>>, redb::Error> {
            let waiting = database.begin_read()?.open_table(WAITING)?;
            Ok(waiting.get(nth)?.and_then(|bytes| serde_json::from_slice(bytes.value()).ok()))
        };
        let found = entry().map_err(|error| error.to_string());
        found.map_err(|why| self.failed(why))
    }

    /// Shrinks a file that was once large. A file that cannot be shrunk stays as it is.
    pub fn shrink(&mut self) {
        let is_large =
            std::fs::symlink_metadata(&self.path).is_ok_and(|file| file.len() > SHRINKS_FROM_BYTES);
        if let (true, Some(database)) = (is_large, &mut self.database) {
            let compacted = catch_unwind(AssertUnwindSafe(|| database.compact()));
            if !matches!(compacted, Ok(Ok(_))) {
                self.database = None;
            }
        }
    }

    fn commit(
        &mut self,
        change: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), SpoolError> {
        let database = self.database()?;
        let committed = || -> Result<(), redb::Error> {
            let write = database.begin_write()?;
            change(&write)?;
            Ok(write.commit()?)
        };
        let committed = committed().map_err(|error| error.to_string());
        committed.map_err(|why| self.failed(why))
    }

    /// Closes the database after an error of the disk, after which it returns that error alone: the
    /// next attempt opens it again.
    fn failed(&mut self, why: String) -> SpoolError {
        self.database = None;
        SpoolError { path: self.path.clone(), why }
    }

    fn database(&mut self) -> Result<&Database, SpoolError> {
        if self.database.is_none() {
            let failed = |why| SpoolError { path: self.path.clone(), why };
            let opened = match open_database(&self.path) {
                // A file that was being created when the disk was full.
                Err(Unopened::Damaged(_)) => {
                    set_aside(&self.path).map_err(|error| failed(error.to_string()))?;
                    open_database(&self.path)
                }
                opened => opened,
            };
            self.database = Some(opened.map_err(|error| failed(error.why()))?);
        }
        self.database.as_ref().ok_or_else(|| SpoolError {
            path: self.path.clone(),
            why: "the database is not open".to_owned(),
        })
    }
}

#[cfg(test)]
mod tests;
