//! Changes to one cgroup, with the original values.

use std::{collections::BTreeSet, path::PathBuf};

use serde::{Deserialize, Serialize, Serializer, de::DeserializeOwned};

use super::whitelist;
use crate::decide::IncidentId;

const VERSION: u32 = 1;

/// Maximum number of changes: each file and each property once.
const CHANGES_MAX: usize = whitelist::CGROUP_FILES.len() + whitelist::PROPERTIES.len();
/// Maximum number of values that are kept of one file; there are three at most.
const WANTED_MAX: usize = 8;

/// Changes to one cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalEntry {
    #[serde(rename = "spillway_journal")]
    version: u32,
    /// Boot in which the cgroup was changed.
    pub(super) boot_id: String,
    /// Directory of the cgroup.
    pub directory: PathBuf,
    /// Inode number, which distinguishes it from a later cgroup of the same path.
    pub inode: u64,
    /// The systemd unit, if the cgroup is that of one: then its properties were changed, which
    /// outlive the cgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<ChangedUnit>,
    /// Set if the cgroup was divided: then the changes are to the child with the leaking process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<IsolatedCgroup>,
    /// Incidents that the limit is for.
    #[serde(serialize_with = "by_name")]
    pub incidents: BTreeSet<IncidentId>,
    /// Changes, in the order in which they were made.
    pub changes: Vec<Change>,
    /// Set once it has been written: if the file is missing then, an undo has removed it.
    #[serde(skip)]
    pub(super) is_on_disk: bool,
}

/// A systemd unit that was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedUnit {
    /// Name.
    pub name: String,
    /// Properties that others had set for this boot before.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub had_drop_ins: BTreeSet<String>,
    /// Set if MemoryHigh was among them, from when only that was set.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    had_drop_in: bool,
}

/// A cgroup that was divided into children of ours. The moved processes are not listed: all in the
/// children move back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IsolatedCgroup {
    /// Original content of `cgroup.subtree_control`; `None` in cgroup v1, which has no such file.
    pub subtree_control: Option<String>,
}

/// A file of a cgroup, or a property of its unit, with a changed value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Name of the file or property.
    pub file: String,
    /// Original value.
    pub prior: String,
    /// Values to replace it, of which the last is to be in effect. The one before and the one in
    /// effect are kept until the next is written, because a crash may leave either.
    pub wanted: Vec<String>,
}

/// Beginning of an entry, the same in all versions.
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
            return Err(format!("{file:?} is no file that Spillway changes"));
        }
        if wanted.len() > WANTED_MAX {
            return Err(format!("{file} has {} values, more than {WANTED_MAX}", wanted.len()));
        }
        match wanted.iter().chain([prior]).find(|value| !whitelist::is_value(value)) {
            Some(value) => Err(format!("{value:?} is no value of {file}")),
            None => Ok(()),
        }
    }
}

impl ChangedUnit {
    /// Makes a unit without changes.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), had_drop_ins: BTreeSet::new(), had_drop_in: false }
    }

    /// Returns whether others had set this property for this boot before.
    pub fn had_drop_in(&self, property: &str) -> bool {
        self.had_drop_ins.contains(property) || self.had_drop_in && property == "MemoryHigh"
    }
}

/// Parses an entry that says in its header that it has this version. Another version may have other
/// fields.
///
/// # Errors
///
/// Returns an error if it is malformed or has another version.
pub fn parse<H: DeserializeOwned, E: DeserializeOwned>(
    bytes: &[u8],
    version: u32,
    version_of: impl Fn(&H) -> u32,
) -> Result<E, String> {
    let header: H = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let found = version_of(&header);
    if found != version {
        return Err(format!("format version {found} is not supported, only {version}"));
    }
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

impl JournalEntry {
    /// Makes an empty entry.
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
            is_on_disk: false,
        }
    }

    /// Parses an entry.
    ///
    /// # Errors
    ///
    /// Returns an error if it is invalid.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let entry: Self = parse(bytes, VERSION, |header: &EntryHeader| header.version)?;
        entry.check()?;
        Ok(entry)
    }

    /// Refuses an entry that no agent writes: it may have been made to have other files changed.
    fn check(&self) -> Result<(), String> {
        let invalid = |what: &str, name: &str| Err(format!("{name:?} is not {what}"));
        if !whitelist::is_directory(&self.directory) {
            return invalid("the directory of a cgroup", &self.directory.to_string_lossy());
        }
        if let Some(unit) = &self.unit {
            if !whitelist::is_unit(&unit.name) {
                return invalid("a unit with a cgroup", &unit.name);
            }
            if let Some(name) = unit.had_drop_ins.iter().find(|name| !is_property(name)) {
                return invalid("a property that Spillway changes", name);
            }
        }
        if let Some(id) =
            self.incidents.iter().map(ToString::to_string).find(|id| !whitelist::is_incident(id))
        {
            return invalid("an incident", &id);
        }
        if let Some(text) =
            self.split.iter().filter_map(|split| split.subtree_control.as_deref()).next()
            && !whitelist::is_controllers(text)
        {
            return invalid("a list of controllers", text);
        }
        if self.changes.len() > CHANGES_MAX {
            return Err(format!(
                "there are {} changes, more than {CHANGES_MAX}",
                self.changes.len()
            ));
        }
        self.changes.iter().try_for_each(|change| change.check(self.unit.is_some()))
    }

    /// Returns whether a value of a file is one that this entry has recorded for it.
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

    /// Records that `value` is to be written to a file in which `found` is now.
    pub fn record(&mut self, file: &str, found: &str, value: &str) {
        match self.changes.iter_mut().find(|change| change.file == file) {
            Some(change) => {
                let last = change.wanted.pop();
                // Earlier values may never have been written, if the cgroup outgrew each of them
                // first.
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
