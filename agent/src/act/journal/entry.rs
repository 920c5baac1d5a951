//! Changes to one cgroup, with the original values.

use std::{collections::BTreeSet, path::PathBuf};

use serde::{Deserialize, Serialize, Serializer};

use super::whitelist;
use crate::decide::IncidentId;

const VERSION: u32 = 1;

/// Files of one cgroup at most: each of the two lists, once.
const CHANGES_MAX: usize = whitelist::CGROUP_FILES.len() + whitelist::PROPERTIES.len();
/// Values at most that are kept of one file; there are three.
const WANTED_MAX: usize = 8;

/// Changes to one cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalEntry {
    #[serde(rename = "spillway_journal")]
    version: u32,
    /// The boot in which it was changed.
    pub(super) boot_id: String,
    /// Directory of the cgroup.
    pub directory: PathBuf,
    /// Inode number, which distinguishes it from a later cgroup of the same path.
    pub inode: u64,
    /// The systemd unit whose own cgroup it is, if it is one's: then that is what was changed, and
    /// it outlives the cgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<ChangedUnit>,
    /// Where it was divided: then what was changed is the child that its leaker was moved to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<IsolatedCgroup>,
    /// Incidents on whose account it is limited.
    #[serde(serialize_with = "by_name")]
    pub incidents: BTreeSet<IncidentId>,
    /// Changes, in order.
    pub changes: Vec<Change>,
    /// Whether it is on disk, or was: who finds it gone then has been overtaken by an undo.
    #[serde(skip)]
    pub(super) is_kept: bool,
}

/// A unit of systemd's that was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedUnit {
    /// Name.
    pub name: String,
    /// Properties that somebody had set for this boot before.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub had_drop_ins: BTreeSet<String>,
    /// Whether MemoryHigh was one, as long as it was the only one that was set.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    had_drop_in: bool,
}

/// A cgroup that was divided into children of ours. Who was moved is not kept: whoever is in them
/// goes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IsolatedCgroup {
    /// What its `cgroup.subtree_control` said before; `None` in version 1, which has none.
    pub subtree_control: Option<String>,
}

/// A file of a cgroup, or a property of its unit, whose content was replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Name.
    pub file: String,
    /// Original value.
    pub prior: String,
    /// What was put there instead; the last is what should be there. The one before it, and the one
    /// that is there, stay until the next is written: a crash in between leaves either.
    pub wanted: Vec<String>,
}

/// The beginning of an entry, whichever version it is of.
#[derive(Deserialize)]
struct EntryHeader {
    #[serde(rename = "spillway_journal")]
    version: u32,
}

fn is_property(name: &str) -> bool {
    whitelist::PROPERTIES.contains(&name)
}

impl Change {
    fn check(&self, has_unit: bool) -> Result<(), String> {
        let Self { file, prior, wanted } = self;
        if !(whitelist::CGROUP_FILES.contains(&file.as_str()) || has_unit && is_property(file)) {
            return Err(format!("it names {file:?}, which is not a file that is changed"));
        }
        if wanted.len() > WANTED_MAX {
            return Err(format!("it has {} values of {file}", wanted.len()));
        }
        match wanted.iter().chain([prior]).find(|value| !whitelist::is_value(value)) {
            Some(value) => Err(format!("it has {value:?}, which {file} never says")),
            None => Ok(()),
        }
    }
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

impl JournalEntry {
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
    /// Returns an error if it is invalid.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        // Another version may have other fields.
        let header: EntryHeader =
            serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if header.version != VERSION {
            return Err(format!(
                "it is of version {}, and {VERSION} is understood",
                header.version
            ));
        }
        let entry: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        entry.check()?;
        Ok(Self { is_kept: true, ..entry })
    }

    /// Refuses what no agent writes: whoever made such a file wants something else changed.
    fn check(&self) -> Result<(), String> {
        let named = |what: &str, name: &str| Err(format!("it names {name:?}, which is not {what}"));
        if !whitelist::is_directory(&self.directory) {
            return named("the directory of a cgroup", &self.directory.to_string_lossy());
        }
        if let Some(unit) = &self.unit {
            if !whitelist::is_unit(&unit.name) {
                return named("a unit with a cgroup", &unit.name);
            }
            if let Some(name) = unit.had_drop_ins.iter().find(|name| !is_property(name)) {
                return named("a property that is changed", name);
            }
        }
        if let Some(id) =
            self.incidents.iter().map(ToString::to_string).find(|id| !whitelist::is_incident(id))
        {
            return named("an incident", &id);
        }
        if let Some(text) =
            self.split.iter().filter_map(|split| split.subtree_control.as_deref()).next()
            && !whitelist::is_controllers(text)
        {
            return named("a list of controllers", text);
        }
        if self.changes.len() > CHANGES_MAX {
            return Err(format!(
                "it has {} changes, more than there are files",
                self.changes.len()
            ));
        }
        self.changes.iter().try_for_each(|change| change.check(self.unit.is_some()))
    }

    /// Whether a file says something that was put there on this entry's account.
    pub fn is_ours(&self, file: &str, found: &str) -> bool {
        self.changes
            .iter()
            .any(|change| change.file == file && change.wanted.iter().any(|wanted| wanted == found))
    }

    /// Returns the incidents in the order of their names, as on disk.
    pub fn incidents_by_name(&self) -> Vec<IncidentId> {
        let mut ids: Vec<_> = self.incidents.iter().cloned().collect();
        ids.sort_by_cached_key(ToString::to_string);
        ids
    }

    /// Returns the change of a file.
    pub fn change(&self, file: &str) -> Option<&Change> {
        self.changes.iter().find(|change| change.file == file)
    }

    /// Notes that `value` is to be put into a file in which `found` is now.
    pub fn want(&mut self, file: &str, found: &str, value: &str) {
        match self.changes.iter_mut().find(|change| change.file == file) {
            Some(change) => {
                let last = change.wanted.pop();
                // What was wanted since may never have been written, as often as the cgroup outgrew
                // it first.
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

fn by_name<S: Serializer>(ids: &BTreeSet<IncidentId>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(ids.iter().map(ToString::to_string).collect::<BTreeSet<_>>())
}

#[cfg(test)]
mod tests;
