use std::{fs, os::unix::fs::PermissionsExt as _};

use redb::TableDefinition;

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
fn an_entry_waits_until_every_receiver_has_it() {
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
fn a_damaged_file_is_set_aside_whatever_the_damage() {
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
    let mut broken = vec![vec![0; 1], vec![0; whole.len()], b"not a database".to_vec(), garbage];
    for part in 1..32 {
        broken.push(whole[..whole.len() * part / 32].to_vec());
        broken.push(zeroed_from(whole.len() * part / 32));
    }
    let mut set_aside = 0;
    for bytes in broken {
        fs::write(dir.file(), &bytes).unwrap();
        let (mut spool, found) = dir.open();
        set_aside += u32::from(found.set_aside.is_some());
        // Entries that are found were there, and new ones are found.
        assert!(
            found.waiting.iter().all(|(nth, entry)| *nth < 50 && entry.what == "a".repeat(500))
        );
        spool.accept(&[(99, entry(&["x"], "b"))], &[]).unwrap();
        assert_eq!(spool.get(99).unwrap(), Some(entry(&["x"], "b")));
    }
    assert!(set_aside > 30, "{set_aside}");
}

#[test]
fn a_file_that_is_in_use_is_not_set_aside() {
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
fn unreadable_entries_are_kept_and_counted_each_time() {
    let dir = Dir::make("rows");
    let (mut spool, _) = dir.open();
    spool.accept(&[(1, entry(&["x"], "a"))], &[]).unwrap();
    let other = SpoolEntry { to: vec!["x".to_owned()], what: vec![7_u8] };
    spool.accept(&[(9, other)], &[]).unwrap();
    drop(spool);
    for _ in 0..2 {
        let (mut spool, found) = dir.open();
        assert_eq!((found.waiting, found.unread), (vec![(1, entry(&["x"], "a"))], 1));
        // Its number is used again, and it is still there.
        spool.accept(&[(9, entry(&["x"], "b"))], &[]).unwrap();
        spool.settle::<String>(&[(9, None)]).unwrap();
    }
}

#[test]
fn a_spool_that_is_not_a_regular_file_is_refused() {
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
