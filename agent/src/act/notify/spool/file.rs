//! The file of a spool: opening it, judging its contents, setting it aside.

use std::{
    fs::File,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use redb::{
    Builder, Database, ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _,
    TableDefinition, TableHandle as _, backends::FileBackend,
};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::SpoolEntry;
use crate::os::{StateDir, atomic_file, trusted::reason};

/// Memory for cached pages of the file: the least that redb works with, for some kilobytes of data.
const CACHE_BYTES: usize = 256 << 10;

/// Entries that wait, by number.
pub const WAITING: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("waiting-1");
/// Last notification of each open incident.
pub const OPEN: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("open-1");
/// Rows that no version up to this one can read, kept for one that can.
const UNREAD: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("unread-1");

/// Suffix of a file that was set aside.
const UNREADABLE: &str = ".unreadable";

/// Maximum size of the file: far more than a long outage of every receiver leaves.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// Reason why a file is not open.
pub enum Unopened {
    /// Its contents cannot be read.
    Damaged(String),
    /// It is not available now, and may be intact.
    Unavailable(String),
}

impl Unopened {
    /// Returns the reason as text.
    pub fn why(self) -> String {
        match self {
            Self::Damaged(why) | Self::Unavailable(why) => why,
        }
    }
}

/// Contents of a file.
pub struct Contents<T> {
    /// The open database.
    pub database: Database,
    /// Entries that wait, oldest first.
    pub waiting: Vec<(u64, SpoolEntry<T>)>,
    /// Last notification of each open incident.
    pub open: Vec<T>,
    /// Number of rows that cannot be read.
    pub unread: u64,
}

/// Opens the file at `path` and reads all of it: a file that opens may be damaged further in.
pub fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Contents<T>, Unopened> {
    let database = open_database(path)?;
    // A page that was overwritten may contain anything: redb was seen to fail an assertion on one.
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
            unread_open + move_unread(&database, unread)?,
        ))
    }));
    match contents {
        Ok(Ok((waiting, open, unread))) => Ok(Contents { database, waiting, open, unread }),
        Ok(Err(error)) => Err(Unopened::Damaged(error.to_string())),
        Err(_) => Err(Unopened::Damaged("its contents are inconsistent".to_owned())),
    }
}

/// Moves rows that cannot be read to a table of their own, and returns the number of rows there.
fn move_unread(database: &Database, rows: Vec<(u64, Vec<u8>)>) -> Result<u64, redb::Error> {
    // The usual case needs no write.
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

/// Opens or creates the file at `path`, with its tables.
pub fn open_database(path: &Path) -> Result<Database, Unopened> {
    let file = open_file(path).map_err(|error| Unopened::Unavailable(reason(&error, path)))?;
    let opened = catch_unwind(AssertUnwindSafe(|| -> Result<Database, Unopened> {
        let backend = FileBackend::new(file).map_err(redb::Error::from)?;
        let database = Builder::new()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(backend)
            .map_err(redb::Error::from)?;
        let write = database.begin_write().map_err(redb::Error::from)?;
        // Another version gives its tables other names, and they stay unread here.
        let known = [WAITING.name(), OPEN.name(), UNREAD.name()];
        let others = write
            .list_tables()
            .map_err(redb::Error::from)?
            .find(|table| !known.contains(&table.name()));
        if let Some(other) = others {
            return Err(Unopened::Damaged(format!(
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
        Err(_) => Err(Unopened::Damaged("its contents are inconsistent".to_owned())),
    }
}

/// Opens the file, which belongs to root or the agent's user, as does its directory.
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
            Self::Damaged(error.to_string())
        }
    }
}

/// Returns whether an error is not due to the contents of the file.
fn is_unavailable(error: &redb::Error) -> bool {
    match error {
        redb::Error::DatabaseAlreadyOpen => true,
        // A truncated file ends too early, and a file of another kind has no header.
        redb::Error::Io(error) => !matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput
        ),
        _ => false,
    }
}

/// Renames a damaged file and returns its new path.
pub fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let (parent, name) = parts(path)?;
    let dir = StateDir::create(parent)?;
    atomic_file::set_aside(&dir, name, UNREADABLE).map(|aside| dir.path(&aside))
}

/// Encodes a row.
pub fn json(value: &impl Serialize) -> Result<Vec<u8>, redb::Error> {
    serde_json::to_vec(value).map_err(|error| redb::Error::Io(error.into()))
}
