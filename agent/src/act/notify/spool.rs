//! What is to be told and is not delivered yet, on disk: whatever was accepted is there after a
//! kill, and goes out after the next start.
//!
//! Beside it stands what was told last of each incident that is open, so that the next run of the
//! agent can end it. One embedded store (redb), whose commits are atomic and synced. A file that
//! cannot be read, truncated or zeroed, is set aside for a person to look at, and a new one begun:
//! no file stops the agent. Where the disk takes nothing the error says so; the caller keeps what
//! it has, and tries again.

use std::{
    fs::File,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use redb::{
    Builder, Database, ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _,
    TableDefinition, TableHandle as _, WriteTransaction, backends::FileBackend,
};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::os::{StateDir, atomic_file, trusted::reason};

/// Memory for its pages: the least that it works with, for what is rarely more than some kilobytes.
const CACHE_BYTES: usize = 256 << 10;

/// A file that is larger than this is made smaller when it can be: one within today's bounds never
/// is.
const SHRINKS_FROM_BYTES: u64 = 8 << 20;

/// What waits, by number.
const WAITING: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("waiting-1");
/// What was told last of each open incident.
const OPEN: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("open-1");

/// Rows that no version up to this one can read, kept for one that can.
const UNREAD: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("unread-1");

/// Ending of a file that was set aside.
const UNREADABLE: &str = ".unreadable";

/// Largest file: much more than what is kept of a long outage of every receiver.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// A store of what waits, each for some receivers.
pub struct Spool {
    path: PathBuf,
    database: Option<Database>,
}

/// One that waits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpoolEntry<T> {
    /// Who has not got it yet.
    pub to: Vec<String>,
    /// What it is.
    pub what: T,
}

/// What a spool held when it was opened.
#[derive(Debug)]
pub struct SpoolRecovery<T> {
    /// What waits, oldest first.
    pub waiting: Vec<(u64, SpoolEntry<T>)>,
    /// What was told last of each open incident.
    pub open: Vec<T>,
    /// Where a file was put that could not be read, and why.
    pub set_aside: Option<(PathBuf, String)>,
    /// Entries that could not be read, of this run or an earlier one. They are kept.
    pub unread: u64,
}

/// A change of an open incident.
#[derive(Debug, Clone, Copy)]
pub enum IncidentChange<'a, T> {
    /// This was told last of it.
    Last(&'a str, &'a T),
    /// It is over.
    Over(&'a str),
}

/// Why the disk did not take something.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct SpoolError {
    path: PathBuf,
    why: String,
}

impl Spool {
    /// Opens the spool at `path`, or begins one.
    ///
    /// # Errors
    ///
    /// Where there can be none.
    pub fn open<T: for<'a> Deserialize<'a>>(
        path: &Path,
    ) -> Result<(Self, SpoolRecovery<T>), SpoolError> {
        let failed = |why: String| SpoolError { path: path.to_owned(), why };
        let (contents, set_aside) = match read(path) {
            Ok(contents) => (contents, None),
            Err(Unopened::Unavailable(why)) => return Err(failed(why)),
            Err(Unopened::Broken(why)) => {
                let aside = set_aside(path).map_err(|error| failed(error.to_string()))?;
                (read(path).map_err(|again| failed(again.why()))?, Some((aside, why)))
            }
        };
        let Contents { database, waiting, open, unread } = contents;
        let spool = Self { path: path.to_owned(), database: Some(database) };
        Ok((spool, SpoolRecovery { waiting, open, set_aside, unread }))
    }

    /// One that is not to be had yet: what it is given it refuses, until it can be opened.
    pub fn later(path: &Path) -> Self {
        Self { path: path.to_owned(), database: None }
    }

    /// Puts these on disk, and how their incidents stand; all or nothing.
    ///
    /// # Errors
    ///
    /// Where they may not be there after a crash.
    pub fn accept<T: Serialize + for<'a> Deserialize<'a>>(
        &mut self,
        entries: &[(u64, SpoolEntry<T>)],
        told: &[IncidentChange<'_, T>],
    ) -> Result<(), SpoolError> {
        self.change(&[], entries, told)
    }

    /// Forgets these, which are delivered or never will be, each for one receiver or for all; all
    /// or nothing, so that none is there again after a crash without what was delivered after it.
    ///
    /// # Errors
    ///
    /// Where they may be there again after a crash.
    pub fn settle<T: Serialize + for<'a> Deserialize<'a>>(
        &mut self,
        settled: &[(u64, Option<&str>)],
    ) -> Result<(), SpoolError> {
        self.change::<T>(settled, &[], &[])
    }

    /// Forgets what is settled and puts the entries on disk, as one change that a crash does not
    /// part: an entry that replaces others is there if and only if they are not.
    ///
    /// # Errors
    ///
    /// The change may not be there after a crash.
    pub fn change<T: Serialize + for<'a> Deserialize<'a>>(
        &mut self,
        settled: &[(u64, Option<&str>)],
        entries: &[(u64, SpoolEntry<T>)],
        told: &[IncidentChange<'_, T>],
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
            for told in told {
                match told {
                    IncidentChange::Last(incident, last) => {
                        drop(open.insert(*incident, &json(last)?[..])?)
                    }
                    IncidentChange::Over(incident) => drop(open.remove(*incident)?),
                }
            }
            Ok(())
        })
    }

    /// One that waits; `None` where it is not there.
    ///
    /// # Errors
    ///
    /// Where that cannot be read.
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

    /// Gives room back to the disk that a spool which was once large does not need any more. One
    /// that cannot be made smaller stays as it is.
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

    /// After an error of the disk a database answers nothing but that error: the next try opens it
    /// anew.
    fn failed(&mut self, why: String) -> SpoolError {
        self.database = None;
        SpoolError { path: self.path.clone(), why }
    }

    fn database(&mut self) -> Result<&Database, SpoolError> {
        if self.database.is_none() {
            let failed = |why| SpoolError { path: self.path.clone(), why };
            let begun = match begin(&self.path) {
                // One that was being made when the disk was full.
                Err(Unopened::Broken(_)) => {
                    set_aside(&self.path).map_err(|error| failed(error.to_string()))?;
                    begin(&self.path)
                }
                begun => begun,
            };
            self.database = Some(begun.map_err(|error| failed(error.why()))?);
        }
        self.database
            .as_ref()
            .ok_or_else(|| SpoolError { path: self.path.clone(), why: "it is not open".to_owned() })
    }
}

/// Why a file is not opened.
enum Unopened {
    /// It says nothing that can be read.
    Broken(String),
    /// It may well be whole, and is not to be had now.
    Unavailable(String),
}

impl Unopened {
    fn why(self) -> String {
        match self {
            Self::Broken(why) | Self::Unavailable(why) => why,
        }
    }
}

/// Content of a file.
struct Contents<T> {
    database: Database,
    waiting: Vec<(u64, SpoolEntry<T>)>,
    open: Vec<T>,
    unread: u64,
}

/// Opens the file at `path` and reads all of it: one that opens may still be broken further in.
fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Contents<T>, Unopened> {
    let database = begin(path)?;
    // A page that was written over may be anything, and has been seen to trip an assertion.
    let contents = catch_unwind(AssertUnwindSafe(|| -> Result<_, redb::Error> {
        let read = database.begin_read()?;
        let (table, open) = (read.open_table(WAITING)?, read.open_table(OPEN)?);
        let (mut waiting, mut unread) = (Vec::new(), Vec::new());
        for row in table.iter()? {
            let (nth, bytes) = row?;
            match serde_json::from_slice(bytes.value()) {
                Ok(entry) => waiting.push((nth.value(), entry)),
                Err(_) => unread.push((nth.value(), bytes.value().to_vec())),
            }
        }
        let rows = open
            .iter()?
            .map(|row| row.map(|(_, bytes)| serde_json::from_slice::<T>(bytes.value()).ok()));
        let rows = rows.collect::<Result<Vec<_>, _>>()?;
        let unread_open = rows.iter().filter(|row| row.is_none()).count() as u64;
        Ok((
            waiting,
            rows.into_iter().flatten().collect(),
            unread_open + put_by(&database, unread)?,
        ))
    }));
    match contents {
        Ok(Ok((waiting, open, unread))) => Ok(Contents { database, waiting, open, unread }),
        Ok(Err(error)) => Err(Unopened::Broken(error.to_string())),
        Err(_) => Err(Unopened::Broken("it contradicts itself".to_owned())),
    }
}

/// Moves rows that cannot be read to a table where no number is given again; gives how many are
/// there.
fn put_by(database: &Database, rows: Vec<(u64, Vec<u8>)>) -> Result<u64, redb::Error> {
    // The usual case, which needs no write.
    if rows.is_empty() {
        return match database.begin_read()?.open_table(UNREAD) {
            Ok(unread) => Ok(unread.len()?),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(0),
            Err(error) => Err(error.into()),
        };
    }
    let write = database.begin_write()?;
    let count = {
        let (mut waiting, mut unread) = (write.open_table(WAITING)?, write.open_table(UNREAD)?);
        let mut next = unread.last()?.map_or(0, |(nth, _)| nth.value() + 1);
        for (nth, bytes) in rows {
            unread.insert(next, &bytes[..])?;
            waiting.remove(nth)?;
            next += 1;
        }
        next
    };
    write.commit()?;
    Ok(count)
}

/// Opens the file at `path`, or makes it, with its tables.
fn begin(path: &Path) -> Result<Database, Unopened> {
    let file = open_file(path).map_err(|error| Unopened::Unavailable(reason(&error, path)))?;
    let opened = catch_unwind(AssertUnwindSafe(|| -> Result<Database, Unopened> {
        let backend = FileBackend::new(file).map_err(redb::Error::from)?;
        let database = Builder::new()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(backend)
            .map_err(redb::Error::from)?;
        let write = database.begin_write().map_err(redb::Error::from)?;
        // One of another version has tables of other names, which stay unread here.
        let known = [WAITING.name(), OPEN.name(), UNREAD.name()];
        let others = write
            .list_tables()
            .map_err(redb::Error::from)?
            .find(|table| !known.contains(&table.name()));
        if let Some(other) = others {
            return Err(Unopened::Broken(format!(
                "it has a table {:?}: another version wrote it",
                other.name()
            )));
        }
        let make = || -> Result<(), redb::Error> {
            write.open_table(WAITING)?;
            write.open_table(OPEN)?;
            Ok(())
        };
        make()?;
        write.commit().map_err(redb::Error::from)?;
        Ok(database)
    }));
    match opened {
        Ok(opened) => opened,
        Err(_) => Err(Unopened::Broken("it contradicts itself".to_owned())),
    }
}

/// The file itself, which belongs to root or the agent's user, in a directory of theirs.
fn open_file(path: &Path) -> io::Result<File> {
    let (parent, name) = parts(path)?;
    StateDir::create(parent)?.open_file(name, OFlags::RDWR | OFlags::CREATE, FILE_BYTES_MAX)
}

fn parts(path: &Path) -> io::Result<(&Path, &str)> {
    let name = path.file_name().and_then(|name| name.to_str());
    path.parent().zip(name).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}

impl From<redb::Error> for Unopened {
    fn from(error: redb::Error) -> Self {
        if is_unavailable(&error) {
            Self::Unavailable(error.to_string())
        } else {
            Self::Broken(error.to_string())
        }
    }
}

/// Whether an error says nothing of the file's contents.
fn is_unavailable(error: &redb::Error) -> bool {
    match error {
        redb::Error::DatabaseAlreadyOpen => true,
        // What was cut off ends too early, and what is no database has no beginning.
        redb::Error::Io(error) => !matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput
        ),
        _ => false,
    }
}

fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let (parent, name) = parts(path)?;
    let dir = StateDir::create(parent)?;
    atomic_file::set_aside(&dir, name, UNREADABLE).map(|aside| dir.path(&aside))
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, redb::Error> {
    serde_json::to_vec(value).map_err(|error| redb::Error::Io(error.into()))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    struct Dir(PathBuf);

    impl Dir {
        fn make(name: &str) -> Self {
            let dir =
                std::env::temp_dir().join(format!("spillway-spool-{name}-{}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }

        fn file(&self) -> PathBuf {
            self.0.join("state/spool.redb")
        }

        fn open(&self) -> (Spool, SpoolRecovery<String>) {
            Spool::open(&self.file()).unwrap()
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn entry(to: &[&str], what: &str) -> SpoolEntry<String> {
        SpoolEntry { to: to.iter().map(|to| (*to).to_owned()).collect(), what: what.to_owned() }
    }

    #[test]
    fn what_is_accepted_waits_until_everybody_has_it() {
        let dir = Dir::make("waits");
        let (mut spool, found) = dir.open();
        assert!(found.waiting.is_empty() && found.open.is_empty() && found.set_aside.is_none());
        let last = "a raised".to_owned();
        let entries = [(1, entry(&["x", "y"], "a")), (2, entry(&["x"], "b"))];
        spool
            .accept(&entries, &[IncidentChange::Last("a", &last), IncidentChange::Last("b", &last)])
            .unwrap();
        spool.settle::<String>(&[(1, Some("x"))]).unwrap();
        spool.settle::<String>(&[(2, Some("x")), (9, Some("x"))]).unwrap();
        spool.accept::<String>(&[], &[IncidentChange::Over("b")]).unwrap();
        assert_eq!(spool.get(1).unwrap(), Some(entry(&["y"], "a")));
        assert_eq!(spool.get::<String>(2).unwrap(), None);
        drop(spool);
        let (mut spool, found) = dir.open();
        assert_eq!((found.waiting, found.open), (vec![(1, entry(&["y"], "a"))], vec![last]));
        spool.settle::<String>(&[(1, None)]).unwrap();
        assert_eq!(spool.get::<String>(1).unwrap(), None);
        assert_eq!(fs::metadata(dir.file()).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_set_aside_however_it_is_broken() {
        let dir = Dir::make("broken");
        let (mut spool, _) = dir.open();
        for nth in 0..50 {
            spool.accept(&[(nth, entry(&["x"], &"a".repeat(500)))], &[]).unwrap();
        }
        drop(spool);
        let whole = fs::read(dir.file()).unwrap();
        let zeroed_from = |at: usize| {
            let mut bytes = whole.clone();
            bytes[at..].fill(0);
            bytes
        };
        let garbage: Vec<u8> =
            whole.iter().enumerate().map(|(at, byte)| byte ^ (at as u8).wrapping_mul(31)).collect();
        let mut broken =
            vec![vec![0; 1], vec![0; whole.len()], b"not a database".to_vec(), garbage];
        for part in 1..32 {
            broken.push(whole[..whole.len() * part / 32].to_vec());
            broken.push(zeroed_from(whole.len() * part / 32));
        }
        let mut set_aside = 0;
        for bytes in broken {
            fs::write(dir.file(), &bytes).unwrap();
            let (mut spool, found) = dir.open();
            set_aside += u32::from(found.set_aside.is_some());
            // What is found was there, and what is put there next is found.
            assert!(
                found.waiting.iter().all(|(nth, entry)| *nth < 50 && entry.what == "a".repeat(500))
            );
            spool.accept(&[(99, entry(&["x"], "b"))], &[]).unwrap();
            assert_eq!(spool.get(99).unwrap(), Some(entry(&["x"], "b")));
        }
        assert!(set_aside > 30, "{set_aside}");
    }

    #[test]
    fn a_file_that_another_has_is_not_set_aside() {
        let dir = Dir::make("shared");
        let (mut spool, _) = dir.open();
        assert!(Spool::open::<String>(&dir.file()).is_err());
        spool.accept(&[(1, entry(&["x"], "a"))], &[]).unwrap();
        drop(spool);
        assert_eq!(dir.open().1.waiting.len(), 1);
    }

    #[test]
    fn a_file_of_another_version_is_kept_and_reported() {
        let dir = Dir::make("version");
        let (spool, _) = dir.open();
        let other: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("waiting-2");
        let write = spool.database.as_ref().unwrap().begin_write().unwrap();
        write.open_table(other).unwrap().insert(1, &b"from the future"[..]).unwrap();
        write.commit().unwrap();
        drop(spool);
        fs::write(dir.0.join("state/spool.redb.unreadable"), "an earlier one").unwrap();
        let (aside, why) = dir.open().1.set_aside.unwrap();
        assert!(
            aside.ends_with("spool.redb.unreadable-2") && why.contains("another version"),
            "{aside:?}: {why}"
        );
        let kept = Database::open(aside).unwrap().begin_read().unwrap().open_table(other).unwrap();
        assert_eq!(kept.get(1).unwrap().unwrap().value(), b"from the future");
        assert_eq!(fs::read(dir.0.join("state/spool.redb.unreadable")).unwrap(), b"an earlier one");
    }

    #[test]
    fn entries_that_cannot_be_read_are_kept_and_counted_each_time() {
        let dir = Dir::make("rows");
        let (mut spool, _) = dir.open();
        spool.accept(&[(1, entry(&["x"], "a"))], &[]).unwrap();
        let other = SpoolEntry { to: vec!["x".to_owned()], what: vec![7_u8] };
        spool.accept(&[(9, other)], &[]).unwrap();
        drop(spool);
        for _ in 0..2 {
            let (mut spool, found) = dir.open();
            assert_eq!((found.waiting, found.unread), (vec![(1, entry(&["x"], "a"))], 1));
            // Its number is given again, and it is still there.
            spool.accept(&[(9, entry(&["x"], "b"))], &[]).unwrap();
            spool.settle::<String>(&[(9, None)]).unwrap();
        }
    }

    #[test]
    fn a_spool_that_is_no_regular_file_is_refused_at_once() {
        let dir = Dir::make("fifo");
        fs::create_dir(dir.0.join("state")).unwrap();
        nix::unistd::mkfifo(&dir.file(), nix::sys::stat::Mode::S_IRUSR).unwrap();
        let refused = Spool::open::<String>(&dir.file()).map(drop).unwrap_err();
        assert!(refused.to_string().contains("is a named pipe"), "{refused}");
        fs::remove_file(dir.file()).unwrap();
        fs::write(dir.0.join("victim"), "whole").unwrap();
        std::os::unix::fs::symlink(dir.0.join("victim"), dir.file()).unwrap();
        let refused = Spool::open::<String>(&dir.file()).map(drop).unwrap_err();
        assert!(refused.to_string().contains("is a symbolic link"), "{refused}");
        assert_eq!(fs::read_to_string(dir.0.join("victim")).unwrap(), "whole");
    }
}
