//! Journal of changes to this host, written before each change, so that the agent, its next run or
//! `spillway undo` can restore the original values.
//!
//! One small file for each cgroup or socket, replaced as a whole ([`atomic_file`]). A file that is
//! unreadable or not to be trusted (a failed disk, another version, a pipe, a name that no agent
//! writes) is left as it is and reported each time, and prevents only a new entry for its subject.
//! Cold start: an empty directory, created if necessary. Changes do not outlast a boot, so entries
//! from another boot are removed. Each kind of entry has a directory and a lock of its own.

mod entry;
pub(super) mod whitelist;

use std::{
    fs::File,
    io,
    marker::PhantomData,
    path::{Path, PathBuf},
};

use serde::Serialize;

pub use entry::{Change, ChangedUnit, IsolatedCgroup, JournalEntry, parse};

use crate::os::{
    StateDir,
    atomic_file::{self, Before, UNFINISHED},
    file_lock::lock_exclusive,
    host,
    trusted::reason,
};

const SUFFIX: &str = ".json";

/// Maximum size of an entry; an entry has some hundred bytes.
const ENTRY_BYTES_MAX: u64 = 64 << 10;

/// A file of the journal that cannot be used.
#[derive(Debug)]
pub struct Unreadable {
    /// Path.
    pub path: PathBuf,
    /// Problem.
    pub error: String,
}

/// Kind of entries of one journal.
pub trait Entry: Serialize + Sized {
    /// Directory below the state directory.
    const DIRECTORY: &str;
    /// Name of the lock.
    const LOCK: &str;

    /// Parses an entry.
    ///
    /// # Errors
    ///
    /// Returns an error if no agent writes such an entry.
    fn read(bytes: &[u8]) -> Result<Self, String>;

    /// Name of its file without the suffix.
    fn stem(&self) -> String;

    /// Boot in which it was written.
    fn boot_id(&self) -> &str;

    /// Mark that it has been written: if the file is missing then, an undo has removed it.
    fn on_disk(&mut self) -> &mut bool;
}

/// Journal of changes to cgroups.
pub type Journal = EntryJournal<JournalEntry>;

/// Directory of the entries of one kind.
#[derive(Debug)]
pub struct EntryJournal<E> {
    directory: StateDir,
    boot_id: String,
    /// Lock of the one agent that writes entries; the kernel releases it with the process.
    _claim: Option<File>,
    entries: PhantomData<fn() -> E>,
}

impl Journal {
    /// Makes an empty entry for a cgroup.
    pub fn entry(&self, directory: PathBuf, inode: u64) -> JournalEntry {
        JournalEntry::new(&self.boot_id, directory, inode)
    }
}

impl<E: Entry> EntryJournal<E> {
    /// Opens the journal below `state_dir` for writing, and creates it if necessary. No other agent
    /// can do so until it is dropped.
    ///
    /// # Errors
    ///
    /// Returns an error if the directory is not to be trusted, cannot be created, or is used by
    /// another agent.
    pub fn claim(state_dir: &Path) -> io::Result<Self> {
        let state_dir = StateDir::create(state_dir)?;
        let directory = state_dir.below(E::DIRECTORY, true)?.ok_or(io::ErrorKind::NotFound)?;
        Ok(Self {
            directory,
            boot_id: host::boot_id()?,
            _claim: Some(lock_exclusive(&state_dir, E::LOCK)?),
            entries: PhantomData,
        })
    }

    /// Opens the journal below `state_dir` for an undo, even while an agent writes to it; `None` if
    /// there is none.
    ///
    /// # Errors
    ///
    /// Returns an error if the directory is not to be trusted or cannot be read.
    pub fn find(state_dir: &Path) -> io::Result<Option<Self>> {
        let Some(state_dir) = StateDir::open(state_dir)? else { return Ok(None) };
        let Some(directory) = state_dir.below(E::DIRECTORY, false)? else { return Ok(None) };
        let boot_id = host::boot_id()?;
        Ok(Some(Self { directory, boot_id, _claim: None, entries: PhantomData }))
    }

    /// Boot that entries are made for.
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// Writes an entry in place of its earlier version. An entry that was removed meanwhile, by an
    /// undo, is not written again.
    ///
    /// # Errors
    ///
    /// Returns an error if the entry may be lost in a crash: `NotFound` if it was removed,
    /// `AlreadyExists` if an unreadable file has its name.
    pub fn write(&self, entry: &mut E) -> io::Result<()> {
        let before = if *entry.on_disk() { Before::Present } else { Before::Absent };
        let bytes = serde_json::to_vec(entry)?;
        atomic_file::replace(&self.directory, &entry.stem(), SUFFIX, &bytes, before)?;
        *entry.on_disk() = true;
        Ok(())
    }

    /// Removes an entry.
    ///
    /// # Errors
    ///
    /// Returns an error if it may reappear after a crash.
    pub fn remove(&self, entry: &E) -> io::Result<()> {
        self.directory.remove(&name(entry))?;
        self.directory.sync()
    }

    /// Returns whether an entry still exists: another process may have undone it.
    pub fn contains(&self, entry: &E) -> bool {
        self.directory.holds(&name(entry)).unwrap_or(true)
    }

    /// Reads the entries of this boot, and lists other files. Removes entries of another boot and
    /// unfinished files.
    ///
    /// # Errors
    ///
    /// Returns an error if the directory cannot be read.
    pub fn entries(&self) -> io::Result<(Vec<E>, Vec<Unreadable>)> {
        let (mut entries, mut unreadable) = (Vec::new(), Vec::new());
        for name in self.directory.names()? {
            match self.read_file(&name) {
                Ok(entry) => entries.extend(entry),
                Err(error) => {
                    unreadable.push(Unreadable { path: self.directory.path(&name), error })
                }
            }
        }
        Ok((entries, unreadable))
    }

    /// Reads the entry in a file; `None` if it is removed.
    fn read_file(&self, file: &str) -> Result<Option<E>, String> {
        let remove =
            || self.directory.remove(file).map(|()| None).map_err(|error| error.to_string());
        if file.ends_with(UNFINISHED) {
            return remove();
        }
        // The reader of the directory replaces bytes that are not UTF-8.
        if !file.ends_with(SUFFIX) || file.contains(char::REPLACEMENT_CHARACTER) {
            return Err("the journal has no entries of this name".to_owned());
        }
        let Some(bytes) = self
            .directory
            .read(file, ENTRY_BYTES_MAX)
            .map_err(|error| reason(&error, &self.directory.path(file)))?
        else {
            return Ok(None);
        };
        let mut entry = E::read(&bytes)?;
        // An undo writes where the entry says, so the entry must belong to this name.
        if name(&entry) != file {
            return Err("its name does not match its content".to_owned());
        }
        *entry.on_disk() = true;
        if entry.boot_id() == self.boot_id { Ok(Some(entry)) } else { remove() }
    }
}

impl Entry for JournalEntry {
    const DIRECTORY: &str = "journal";
    const LOCK: &str = "lock";

    fn read(bytes: &[u8]) -> Result<Self, String> {
        Self::read(bytes)
    }

    fn stem(&self) -> String {
        format!("cgroup-{}", self.inode)
    }

    fn boot_id(&self) -> &str {
        &self.boot_id
    }

    fn on_disk(&mut self) -> &mut bool {
        &mut self.is_on_disk
    }
}

fn name(entry: &impl Entry) -> String {
    format!("{}{SUFFIX}", entry.stem())
}

/// Reads an entry, for the fuzz target.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_entry(bytes: &[u8]) -> Result<JournalEntry, String> {
    JournalEntry::read(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    struct Dir(PathBuf);

    impl Dir {
        fn make(name: &str) -> Self {
            let dir = std::env::temp_dir()
                .join(format!("spillway-journal-{name}-{}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }

        fn file(&self) -> PathBuf {
            self.0.join("journal/cgroup-7.json")
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn entry(journal: &Journal) -> JournalEntry {
        let mut entry = journal.entry(PathBuf::from("/sys/fs/cgroup/a"), 7);
        entry.incidents.insert(crate::decide::IncidentId::from("leak-1-2"));
        entry.record("memory.high", "max", "4096");
        entry
    }

    #[test]
    fn entry_is_found_until_it_is_removed() {
        let dir = Dir::make("put");
        let journal = Journal::claim(&dir.0).unwrap();
        let mut entry = entry(&journal);
        journal.write(&mut entry).unwrap();
        entry.record("memory.high", "4096", "8192");
        journal.write(&mut entry).unwrap();
        let (entries, unreadable) = journal.entries().unwrap();
        assert_eq!(entries, [entry.clone()]);
        assert!(unreadable.is_empty());
        assert!(journal.contains(&entry));
        assert!(entry.is_ours("memory.high", "8192") && !entry.is_ours("memory.high", "max"));
        journal.remove(&entry).unwrap();
        journal.remove(&entry).unwrap();
        assert!(!journal.contains(&entry));
        assert!(journal.entries().unwrap().0.is_empty());
    }

    #[test]
    fn entry_undone_meanwhile_is_not_written_again() {
        let dir = Dir::make("undone");
        let journal = Journal::claim(&dir.0).unwrap();
        let mut ours = entry(&journal);
        journal.write(&mut ours).unwrap();
        let by_hand = Journal::find(&dir.0).unwrap().unwrap();
        by_hand.remove(&by_hand.entries().unwrap().0[0]).unwrap();
        ours.record("memory.high", "4096", "8192");
        assert_eq!(journal.write(&mut ours).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(!journal.contains(&ours) && journal.entries().unwrap().0.is_empty());
        assert!(
            fs::read_dir(dir.0.join("journal")).unwrap().next().is_none(),
            "nothing is left of it"
        );
    }

    #[test]
    fn entry_of_the_version_before_is_read() {
        let dir = Dir::make("before");
        let journal = Journal::claim(&dir.0).unwrap();
        let text = format!(
            r#"{{"spillway_journal":1,"boot_id":"{}","directory":"/sys/fs/cgroup/a","inode":7,
               "unit":{{"name":"a.service","had_drop_in":true}},"incidents":["leak-1-2"],
               "changes":[{{"file":"MemoryHigh","prior":"8192","wanted":["4096"]}}]}}"#,
            journal.boot_id
        );
        fs::write(dir.file(), text).unwrap();
        let (mut entries, unreadable) = journal.entries().unwrap();
        assert!(unreadable.is_empty(), "{unreadable:?}");
        let unit = entries[0].unit.clone().unwrap();
        assert!(unit.had_drop_in("MemoryHigh") && !unit.had_drop_in("MemoryMax"));
        // It can be written in the present form, and read again.
        journal.write(&mut entries[0]).unwrap();
        assert_eq!(journal.entries().unwrap().0, entries);
    }

    #[test]
    fn broken_files_never_stop_the_start_and_are_reported() {
        let dir = Dir::make("broken");
        let journal = Journal::claim(&dir.0).unwrap();
        let whole = serde_json::to_vec(&entry(&journal)).unwrap();
        let other = |from: &str, to: &str| {
            String::from_utf8(whole.clone()).unwrap().replace(from, to).into_bytes()
        };
        let broken = [
            Vec::new(),
            vec![0; 4096],
            whole[..whole.len() / 2].to_vec(),
            b"{}".to_vec(),
            vec![0xff; 3],
            vec![b' '; ENTRY_BYTES_MAX as usize + 1],
            br#"{"spillway_journal":2,"everything":"else"}"#.to_vec(),
            other("\"spillway_journal\":1", "\"spillway_journal\":2"),
            other("\"inode\":7", "\"inode\":8"),
            other("\"memory.high\"", "\"../memory.high\""),
        ];
        for bytes in broken {
            fs::write(dir.file(), &bytes).unwrap();
            for _ in 0..2 {
                let (entries, unreadable) = journal.entries().unwrap();
                assert!(entries.is_empty(), "{bytes:?}");
                assert!(
                    matches!(&unreadable[..], [one] if one.path == dir.file() && !one.error.is_empty()),
                    "{bytes:?}"
                );
            }
            // A newer version may have written the file, so it is not replaced.
            assert_eq!(
                journal.write(&mut entry(&journal)).unwrap_err().kind(),
                io::ErrorKind::AlreadyExists
            );
            assert_eq!(fs::read(dir.file()).unwrap(), bytes);
        }
    }

    #[test]
    fn other_files_are_reported_and_neither_opened_nor_removed() {
        let dir = Dir::make("no-entry");
        let journal = Journal::claim(&dir.0).unwrap();
        let path = |name: &str| dir.0.join("journal").join(name);
        nix::unistd::mkfifo(&path("cgroup-1.json"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        std::os::unix::fs::symlink("/dev/zero", path("cgroup-2.json")).unwrap();
        fs::create_dir(path("cgroup-3.json")).unwrap();
        fs::write(path("cgroup-4.json.unreadable"), "").unwrap();
        fs::create_dir(path("cgroup-5.new")).unwrap();
        let no_text = std::os::unix::ffi::OsStrExt::from_bytes(b"cgroup-\xff.json");
        fs::write(dir.0.join("journal").join::<&std::ffi::OsStr>(no_text), "{}").unwrap();
        journal.write(&mut entry(&journal)).unwrap();
        let (entries, unreadable) = journal.entries().unwrap();
        assert_eq!((entries.len(), unreadable.len()), (1, 6), "{unreadable:?}");
    }

    #[test]
    fn unfinished_file_that_is_a_link_is_not_followed() {
        let dir = Dir::make("link");
        let journal = Journal::claim(&dir.0).unwrap();
        let victim = dir.0.join("victim");
        fs::write(&victim, "whole").unwrap();
        std::os::unix::fs::symlink(&victim, dir.0.join("journal/cgroup-7.new")).unwrap();
        journal.write(&mut entry(&journal)).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "whole");
        assert_eq!(journal.entries().unwrap().0.len(), 1);
    }

    #[test]
    fn entries_of_another_boot_and_unfinished_ones_are_removed() {
        let dir = Dir::make("boot");
        let journal = Journal::claim(&dir.0).unwrap();
        let mut old = entry(&journal);
        old.boot_id = "another".to_owned();
        journal.write(&mut old).unwrap();
        let unfinished = dir.0.join("journal/cgroup-9.new");
        fs::write(&unfinished, b"{\"spill").unwrap();
        let (entries, unreadable) = journal.entries().unwrap();
        assert!(entries.is_empty() && unreadable.is_empty());
        assert!(!dir.file().exists() && !unfinished.exists());
    }

    #[test]
    fn removed_journal_is_an_empty_one() {
        let dir = Dir::make("missing");
        let journal = Journal::claim(&dir.0).unwrap();
        fs::remove_dir_all(dir.0.join("journal")).unwrap();
        drop(journal);
        assert!(Journal::find(&dir.0).unwrap().is_none());
        assert!(Journal::claim(&dir.0).unwrap().entries().unwrap().0.is_empty());
    }

    #[test]
    fn one_agent_writes_it_and_anyone_may_undo() {
        let dir = Dir::make("claim");
        let journal = Journal::claim(&dir.0).unwrap();
        journal.write(&mut entry(&journal)).unwrap();
        assert!(Journal::claim(&dir.0).unwrap_err().to_string().contains("another agent"));
        assert_eq!(Journal::find(&dir.0).unwrap().unwrap().entries().unwrap().0.len(), 1);
        drop(journal);
        assert!(Journal::claim(&dir.0).is_ok());
    }
}
