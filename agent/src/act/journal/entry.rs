//! What was changed of one cgroup, and what was there before.

use std::{collections::BTreeSet, path::PathBuf};

use serde::{Deserialize, Serialize};

const VERSION: u32 = 1;

/// What was changed of one cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    #[serde(rename = "spillway_journal")]
    version: u32,
    /// The boot in which it was changed.
    pub(super) boot_id: String,
    /// Directory of the cgroup.
    pub directory: PathBuf,
    /// Its inode number, which tells it from one that has the same path later.
    pub inode: u64,
    /// The systemd unit whose own cgroup it is, if it is one's: then that is what was changed, and it outlives the cgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<ChangedUnit>,
    /// Where it was divided: then what was changed is the child that its leaker was moved to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
    /// Incidents on whose account it is limited.
    pub incidents: BTreeSet<String>,
    /// What was changed, in the order in which it was.
    pub changes: Vec<Change>,
    /// Whether it is on disk, or was: who finds it gone then has been overtaken by an undo.
    #[serde(skip)]
    pub(super) is_kept: bool,
}

/// A unit of systemd's that was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedUnit {
    /// Its name.
    pub name: String,
    /// Properties that somebody had set for this boot before.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub had_drop_ins: BTreeSet<String>,
    /// Whether MemoryHigh was one, as long as it was the only one that was set.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    had_drop_in: bool,
}

/// A cgroup that was divided into children of ours. Who was moved is not kept: whoever is in them goes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// What its `cgroup.subtree_control` said before; `None` in version 1, which has none.
    pub subtree_control: Option<String>,
}

/// A file of a cgroup, or a property of its unit, whose content was replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Its name.
    pub file: String,
    /// What was there before the first change.
    pub prior: String,
    /// What was put there instead; the last is what should be there. The one before it, and the one that is there, stay until the next is
    /// written: a crash in between leaves either.
    pub wanted: Vec<String>,
}

impl ChangedUnit {
    /// One of which nothing was changed yet.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), had_drop_ins: BTreeSet::new(), had_drop_in: false }
    }

    /// Whether somebody had set this property for this boot before.
    pub fn had_drop_in(&self, property: &str) -> bool {
        self.had_drop_ins.contains(property) || self.had_drop_in && property == "MemoryHigh"
    }
}

impl Entry {
    /// One of which nothing was changed yet.
    pub(super) fn new(boot_id: &str, directory: PathBuf, inode: u64) -> Self {
        Self {
            version: VERSION,
            boot_id: boot_id.to_owned(),
            directory,
            inode,
            unit: None,
            split: None,
            incidents: BTreeSet::new(),
            changes: Vec::new(),
            is_kept: false,
        }
    }

    /// One as it was written.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let entry: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if entry.version != VERSION {
            return Err(format!("it is of version {}, and {VERSION} is understood", entry.version));
        }
        let units = entry.unit.iter().map(|unit| &unit.name);
        if entry.changes.iter().map(|change| &change.file).chain(units).any(|name| name.contains('/')) {
            return Err("it names a file outside of its cgroup".to_owned());
        }
        Ok(Self { is_kept: true, ..entry })
    }

    /// Whether a file says something that was put there on this entry's account.
    pub fn is_ours(&self, file: &str, found: &str) -> bool {
        self.changes.iter().any(|change| change.file == file && change.wanted.iter().any(|wanted| wanted == found))
    }

    /// What was changed of a file.
    pub fn change(&self, file: &str) -> Option<&Change> {
        self.changes.iter().find(|change| change.file == file)
    }

    /// Notes that `value` is to be put into a file in which `found` is now.
    pub fn want(&mut self, file: &str, found: &str, value: &str) {
        match self.changes.iter_mut().find(|change| change.file == file) {
            Some(change) => {
                let last = change.wanted.pop();
                // What was wanted since may never have been written, as often as the cgroup outgrew it first.
                change.wanted.retain(|wanted| wanted == found);
                change.wanted.extend(last.into_iter().chain([value.to_owned()]));
                change.wanted.dedup();
            }
            None => self.changes.push(Change {
                file: file.to_owned(),
                prior: found.to_owned(),
                wanted: vec![value.to_owned()],
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        let mut entry = Entry::new("a boot", PathBuf::from("/sys/fs/cgroup/a"), 7);
        entry.want("memory.high", "max", "4096");
        entry
    }

    #[test]
    fn the_first_prior_and_the_last_two_values_are_kept() {
        let mut entry = entry();
        for value in ["3", "2", "1"] {
            entry.want("memory.high", "whatever was found", value);
        }
        let change = Change { file: "memory.high".into(), prior: "max".into(), wanted: vec!["2".into(), "1".into()] };
        assert_eq!(entry.changes, [change]);
    }

    #[test]
    fn what_stands_is_ours_however_often_the_next_is_not_written() {
        let mut entry = entry();
        for value in ["5000", "6000", "7000"] {
            entry.want("memory.high", "4096", value);
        }
        assert!(entry.is_ours("memory.high", "4096") && entry.is_ours("memory.high", "7000"));
        assert_eq!(entry.changes[0].wanted, ["4096", "6000", "7000"]);
    }
}
