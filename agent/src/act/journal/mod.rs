//! What the agent has changed on this host, on disk before each change: whoever starts next, `spillway undo` included, finds what
//! to put back.
//!
//! One small file for each cgroup, replaced as a whole: written beside, synced, renamed, and the directory synced, so that a crash
//! leaves the old one or the new one. A file that cannot be read all the same, after a disk failed or somebody edited it, is set
//! aside and told, and stops nothing. Cold start: an empty directory, made where there is none. Changes do not outlive a boot, and an
//! entry from another boot is forgotten.

mod entry;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, RenameFlags, renameat2},
};

pub use entry::{Change, ChangedUnit, Entry, Split};

use super::claim::claim;

const SUFFIX: &str = ".json";
/// Of a file that was being written when the agent died. Nothing was changed on its account yet.
const UNFINISHED: &str = ".new";
const UNREADABLE: &str = ".unreadable";

/// A file of the journal that said nothing, and where it was put.
#[derive(Debug)]
pub struct Unreadable {
    /// Where it is now.
    pub path: PathBuf,
    /// What is wrong with it.
    pub error: String,
}

/// The directory of entries.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
    boot_id: String,
    /// Of the one agent that adds to it; released with it, however it ends.
    _claim: Option<File>,
}

impl Journal {
    /// The journal below `state_dir`, to add to: made where it is not there, and nobody else's until it is dropped.
    ///
    /// # Errors
    ///
    /// Where it cannot be made, or another agent adds to it.
    pub fn claim(state_dir: &Path) -> io::Result<Self> {
        let directory = state_dir.join("journal");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        Ok(Self { directory, boot_id: boot_id()?, _claim: Some(claim(&state_dir.join("lock"))?) })
    }

    /// The journal below `state_dir`, to undo what it says, whoever adds to it and whether it answers; `None` where there is none.
    ///
    /// # Errors
    ///
    /// Where it cannot be told.
    pub fn find(state_dir: &Path) -> io::Result<Option<Self>> {
        let directory = state_dir.join("journal");
        match fs::exists(&directory)? {
            true => Ok(Some(Self { directory, boot_id: boot_id()?, _claim: None })),
            false => Ok(None),
        }
    }

    /// An entry for a cgroup of which nothing was changed yet.
    pub fn entry(&self, directory: PathBuf, inode: u64) -> Entry {
        Entry::new(&self.boot_id, directory, inode)
    }

    /// Puts an entry on disk, in place of the one before it. One that was there and is not any more was undone by somebody, and stays so.
    ///
    /// # Errors
    ///
    /// Where it may not be there after a crash; not found where it was undone.
    pub fn put(&self, entry: &mut Entry) -> io::Result<()> {
        let path = self.path(entry);
        let unfinished = path.with_extension(&UNFINISHED[1..]);
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        file.write_all(&serde_json::to_vec(entry)?)?;
        file.sync_all()?;
        let placed = if entry.is_kept { replace(&unfinished, &path) } else { fs::rename(&unfinished, &path) };
        if let Err(error) = placed {
            let _ = fs::remove_file(&unfinished);
            return Err(error);
        }
        entry.is_kept = true;
        self.sync()
    }

    /// Forgets an entry.
    ///
    /// # Errors
    ///
    /// Where it may still be there after a crash.
    pub fn remove(&self, entry: &Entry) -> io::Result<()> {
        match fs::remove_file(self.path(entry)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.sync(),
        }
    }

    /// Whether an entry is still there: another process may have undone it.
    pub fn holds(&self, entry: &Entry) -> bool {
        fs::exists(self.path(entry)).unwrap_or(true)
    }

    /// Every entry of this boot. What is of another, or was not finished, is removed; what cannot be read is set aside.
    ///
    /// # Errors
    ///
    /// Where the directory cannot be read.
    pub fn entries(&self) -> io::Result<(Vec<Entry>, Vec<Unreadable>)> {
        let (mut entries, mut unreadable) = (Vec::new(), Vec::new());
        let mut paths = fs::read_dir(&self.directory)?.map(|file| Ok(file?.path())).collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        for path in paths {
            let name = path.to_string_lossy();
            if name.ends_with(UNFINISHED) {
                fs::remove_file(&path)?;
            } else if name.ends_with(SUFFIX) {
                match self.read(&path) {
                    Ok(entry) if entry.boot_id != self.boot_id => fs::remove_file(&path)?,
                    Ok(entry) => entries.push(entry),
                    Err(error) => unreadable.push(set_aside(&path, error)),
                }
            }
        }
        Ok((entries, unreadable))
    }

    fn read(&self, path: &Path) -> Result<Entry, String> {
        let bytes = fs::read(path).map_err(|error| error.to_string())?;
        let entry = Entry::read(&bytes)?;
        // What is put back goes where the entry says: it has to be an entry's own name at least.
        if self.path(&entry) != path {
            return Err("its name is another's".to_owned());
        }
        Ok(entry)
    }

    fn path(&self, entry: &Entry) -> PathBuf {
        self.directory.join(format!("cgroup-{}{SUFFIX}", entry.inode))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }
}

/// Puts a file in the place of one that has to be there, in one step: in between somebody might remove that.
fn replace(new: &Path, old: &Path) -> io::Result<()> {
    match renameat2(AT_FDCWD, new, AT_FDCWD, old, RenameFlags::RENAME_EXCHANGE) {
        Ok(()) => fs::remove_file(new),
        // A file system that cannot.
        Err(Errno::EINVAL | Errno::ENOSYS) if fs::exists(old)? => fs::rename(new, old),
        Err(error) => Err(error.into()),
    }
}

/// Moves a file away so that it is not read again, and stays for a person to look at.
fn set_aside(path: &Path, error: String) -> Unreadable {
    let aside = PathBuf::from(format!("{}{UNREADABLE}", path.display()));
    let path = if fs::rename(path, &aside).is_ok() { aside } else { path.to_owned() };
    Unreadable { path, error }
}

fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Reads an entry, for the fuzz target.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_entry(bytes: &[u8]) -> Result<Entry, String> {
    Entry::read(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dir(PathBuf);

    impl Dir {
        fn make(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("spillway-journal-{name}-{}", std::process::id()));
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

    fn entry(journal: &Journal) -> Entry {
        let mut entry = journal.entry(PathBuf::from("/sys/fs/cgroup/a"), 7);
        entry.incidents.insert("leak-1-2".to_owned());
        entry.want("memory.high", "max", "4096");
        entry
    }

    #[test]
    fn what_is_put_is_found_until_it_is_removed() {
        let dir = Dir::make("put");
        let journal = Journal::claim(&dir.0).unwrap();
        let mut entry = entry(&journal);
        journal.put(&mut entry).unwrap();
        entry.want("memory.high", "4096", "8192");
        journal.put(&mut entry).unwrap();
        let (entries, unreadable) = journal.entries().unwrap();
        assert_eq!(entries, [entry.clone()]);
        assert!(unreadable.is_empty());
        assert!(journal.holds(&entry));
        assert!(entry.is_ours("memory.high", "8192") && !entry.is_ours("memory.high", "max"));
        journal.remove(&entry).unwrap();
        journal.remove(&entry).unwrap();
        assert!(!journal.holds(&entry));
        assert!(journal.entries().unwrap().0.is_empty());
    }

    #[test]
    fn what_was_undone_meanwhile_is_not_put_again() {
        let dir = Dir::make("undone");
        let journal = Journal::claim(&dir.0).unwrap();
        let mut ours = entry(&journal);
        journal.put(&mut ours).unwrap();
        let by_hand = Journal::find(&dir.0).unwrap().unwrap();
        by_hand.remove(&by_hand.entries().unwrap().0[0]).unwrap();
        ours.want("memory.high", "4096", "8192");
        assert_eq!(journal.put(&mut ours).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(!journal.holds(&ours) && journal.entries().unwrap().0.is_empty());
        assert!(fs::read_dir(dir.0.join("journal")).unwrap().next().is_none(), "nothing is left of it");
    }

    #[test]
    fn what_the_version_before_has_left_is_read() {
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
        // And what is written of it now is read as well.
        journal.put(&mut entries[0]).unwrap();
        assert_eq!(journal.entries().unwrap().0, entries);
    }

    #[test]
    fn no_file_stops_the_start_however_broken() {
        let dir = Dir::make("broken");
        let journal = Journal::claim(&dir.0).unwrap();
        let whole = serde_json::to_vec(&entry(&journal)).unwrap();
        let other = |from: &str, to: &str| String::from_utf8(whole.clone()).unwrap().replace(from, to).into_bytes();
        let broken = [
            Vec::new(),
            vec![0; 4096],
            whole[..whole.len() / 2].to_vec(),
            b"{}".to_vec(),
            vec![0xff; 3],
            other("\"spillway_journal\":1", "\"spillway_journal\":2"),
            other("\"inode\":7", "\"inode\":8"),
            other("\"memory.high\"", "\"../memory.high\""),
        ];
        for bytes in broken {
            fs::write(dir.file(), &bytes).unwrap();
            let (entries, unreadable) = journal.entries().unwrap();
            assert!(entries.is_empty(), "{bytes:?}");
            assert!(matches!(&unreadable[..], [one] if one.path.exists() && !one.error.is_empty()), "{bytes:?}");
            assert!(!dir.file().exists());
            let (entries, unreadable) = journal.entries().unwrap();
            assert!(entries.is_empty() && unreadable.is_empty(), "it is told once");
        }
    }

    #[test]
    fn what_is_of_another_boot_or_was_not_finished_is_forgotten() {
        let dir = Dir::make("boot");
        let journal = Journal::claim(&dir.0).unwrap();
        let mut old = entry(&journal);
        old.boot_id = "another".to_owned();
        journal.put(&mut old).unwrap();
        let unfinished = dir.0.join("journal/cgroup-9.new");
        fs::write(&unfinished, b"{\"spill").unwrap();
        let (entries, unreadable) = journal.entries().unwrap();
        assert!(entries.is_empty() && unreadable.is_empty());
        assert!(!dir.file().exists() && !unfinished.exists());
    }

    #[test]
    fn a_journal_that_went_missing_is_an_empty_one() {
        let dir = Dir::make("missing");
        let journal = Journal::claim(&dir.0).unwrap();
        fs::remove_dir_all(dir.0.join("journal")).unwrap();
        drop(journal);
        assert!(Journal::find(&dir.0).unwrap().is_none());
        assert!(Journal::claim(&dir.0).unwrap().entries().unwrap().0.is_empty());
    }

    #[test]
    fn one_agent_adds_to_it_and_anybody_may_undo() {
        let dir = Dir::make("claim");
        let journal = Journal::claim(&dir.0).unwrap();
        journal.put(&mut entry(&journal)).unwrap();
        assert!(Journal::claim(&dir.0).unwrap_err().to_string().contains("another agent"));
        assert_eq!(Journal::find(&dir.0).unwrap().unwrap().entries().unwrap().0.len(), 1);
        drop(journal);
        assert!(Journal::claim(&dir.0).is_ok());
    }
}
