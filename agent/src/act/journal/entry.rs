//! What was changed of one cgroup, and what was there before.

use std::{collections::BTreeSet, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::whitelist;

const VERSION: u32 = 1;

/// Files of one cgroup at most: each of the two lists, once.
const CHANGES_MAX: usize = whitelist::CGROUP_FILES.len() + whitelist::PROPERTIES.len();
/// Values at most that are kept of one file; there are three.
const WANTED_MAX: usize = 8;

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

/// The beginning of an entry, whichever version it is of.
#[derive(Deserialize)]
struct Header {
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
        // Another version may have other fields.
        let header: Header = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if header.version != VERSION {
            return Err(format!("it is of version {}, and {VERSION} is understood", header.version));
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
        if let Some(id) = self.incidents.iter().find(|id| !whitelist::is_incident(id)) {
            return named("an incident", id);
        }
        if let Some(text) = self.split.iter().filter_map(|split| split.subtree_control.as_deref()).next()
            && !whitelist::is_controllers(text)
        {
            return named("a list of controllers", text);
        }
        if self.changes.len() > CHANGES_MAX {
            return Err(format!("it has {} changes, more than there are files", self.changes.len()));
        }
        self.changes.iter().try_for_each(|change| change.check(self.unit.is_some()))
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
    use proptest::prelude::*;

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

    fn hostile(change: impl FnOnce(&mut serde_json::Value)) -> Result<Entry, String> {
        let mut entry = serde_json::to_value(entry()).unwrap();
        change(&mut entry);
        Entry::read(&serde_json::to_vec(&entry).unwrap())
    }

    #[test]
    fn an_entry_names_nothing_but_what_an_agent_changes() {
        assert!(hostile(|_| {}).is_ok());
        for directory in ["", "a", "sys/fs/cgroup", "/sys/fs/cgroup/../../../etc", "/a/../b", "/a\n/b"] {
            assert!(hostile(|entry| entry["directory"] = directory.into()).is_err(), "{directory}");
        }
        for file in [
            "",
            ".",
            "..",
            "cgroup.procs",
            "cgroup.kill",
            "shadow",
            "/etc/shadow",
            "memory.high/",
            "MemoryHigh",
            "release_agent",
        ] {
            let found = hostile(|entry| entry["changes"][0]["file"] = file.into());
            assert!(found.is_err(), "{file}");
        }
        for unit in
            ["", ".service", "../a.service", "a/b.service", "a.timer", "a b.service", "a\n.service", ".a.service"]
        {
            let found = hostile(|entry| entry["unit"] = serde_json::json!({ "name": unit }));
            assert!(found.is_err(), "{unit}");
        }
        for unit in ["api.service", "getty@tty1.service", "dev-disk-by\\x2did.swap", "-.slice"] {
            let found = hostile(|entry| {
                entry["unit"] = serde_json::json!({ "name": unit, "had_drop_ins": ["MemoryMax"] });
                entry["changes"][0]["file"] = "MemoryHigh".into();
            });
            assert!(found.is_ok(), "{unit}: {found:?}");
        }
        for value in ["", " ", "root::0:0:::", "1\n2", "max max max", "0x10", "1;2", "-2"] {
            assert!(hostile(|entry| entry["changes"][0]["prior"] = value.into()).is_err(), "{value:?}");
            assert!(hostile(|entry| entry["changes"][0]["wanted"] = vec![value].into()).is_err(), "{value:?}");
        }
        for value in ["0", "max", "-1", "max 100000", "18446744073709551615 1000000"] {
            assert!(hostile(|entry| entry["changes"][0]["prior"] = value.into()).is_ok(), "{value:?}");
        }
        let in_unit = |names: [&str; 1]| {
            hostile(|entry| entry["unit"] = serde_json::json!({ "name": "a.service", "had_drop_ins": names }))
        };
        assert!(in_unit(["../../x"]).is_err() && in_unit(["CPUWeight"]).is_ok());
        assert!(hostile(|entry| entry["incidents"] = vec!["\u{1b}[2J"].into()).is_err());
        assert!(hostile(|entry| entry["split"] = serde_json::json!({ "subtree_control": "+memory" })).is_err());
        let many = serde_json::json!({ "file": "memory.high", "prior": "1", "wanted": ["2"] });
        assert!(hostile(|entry| entry["changes"] = vec![many; 13].into()).is_err());
    }

    /// Text that may matter to a path, a terminal or a parser.
    fn scrap() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-zA-Z0-9./ @\\\\\n\u{1b}-]{0,24}",
            prop::sample::select(
                [
                    "memory.high",
                    "MemoryHigh",
                    "cgroup.procs",
                    "../memory.high",
                    "/etc/shadow",
                    "max",
                    "4096",
                    "a.service",
                    "leak-1-2",
                    "/sys/fs/cgroup/a"
                ]
                .map(str::to_owned)
                .to_vec()
            ),
        ]
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_no_entry(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Entry::read(&bytes).is_err());
        }

        #[test]
        fn whatever_is_read_names_only_what_is_on_the_lists(
            (directory, file, prior, wanted) in (scrap(), scrap(), scrap(), prop::collection::vec(scrap(), 0..4)),
            (unit, drop_in, id, control) in (prop::option::of(scrap()), scrap(), scrap(), prop::option::of(scrap())),
        ) {
            let text = serde_json::json!({
                "spillway_journal": 1, "boot_id": "a", "directory": directory, "inode": 7, "incidents": [id],
                "unit": unit.map(|name| serde_json::json!({ "name": name, "had_drop_ins": [drop_in] })),
                "split": control.map(|control| serde_json::json!({ "subtree_control": control })),
                "changes": [{ "file": file, "prior": prior, "wanted": wanted }],
            });
            if let Ok(entry) = Entry::read(text.to_string().as_bytes()) {
                prop_assert!(entry.directory.is_absolute() && !entry.directory.components().any(|part| part.as_os_str() == ".."));
                let change = &entry.changes[0];
                prop_assert!(!change.file.contains('/'));
                prop_assert!(whitelist::CGROUP_FILES.contains(&&*change.file) || entry.unit.is_some() && is_property(&change.file));
                prop_assert!(change.wanted.iter().chain([&change.prior]).all(|value| whitelist::is_value(value)));
                prop_assert!(entry.unit.iter().all(|unit| !unit.name.contains('/') && unit.had_drop_ins.iter().all(|name| is_property(name))));
                prop_assert!(!text.to_string().contains("\\u001b"), "nothing of it moves a cursor");
            }
        }
    }
}
