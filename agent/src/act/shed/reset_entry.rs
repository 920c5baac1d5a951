//! Entry of the journal for one network namespace in which full accept queues reset connections.

use serde::{Deserialize, Serialize};

use super::entry::by_name;
use crate::{
    act::journal::{Entry, EntryJournal, parse, whitelist},
    decide::IncidentId,
};

const VERSION: u32 = 1;

/// Journal of changes to network namespaces.
pub type ResetJournal = EntryJournal<ResetEntry>;

/// Change of `net.ipv4.tcp_abort_on_overflow` from 0 to 1 in one network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetEntry {
    #[serde(rename = "spillway_netns")]
    version: u32,
    boot_id: String,
    /// Inode number of the namespace.
    pub(super) netns: u32,
    /// Process that was inside when it was changed.
    pub(super) pid: u32,
    /// First incident that load was shed for.
    #[serde(serialize_with = "by_name")]
    pub(super) incident: IncidentId,
    #[serde(skip)]
    is_on_disk: bool,
}

/// Beginning of an entry, the same in all versions.
#[derive(Deserialize)]
struct ResetEntryHeader {
    #[serde(rename = "spillway_netns")]
    version: u32,
}

impl ResetEntry {
    /// Makes an entry for a namespace.
    pub fn new(journal: &ResetJournal, netns: u32, pid: u32, incident: &IncidentId) -> Self {
        Self {
            version: VERSION,
            boot_id: journal.boot_id().to_owned(),
            netns,
            pid,
            incident: incident.clone(),
            is_on_disk: false,
        }
    }
}

impl Entry for ResetEntry {
    const DIRECTORY: &str = "namespaces";
    const LOCK: &str = "namespaces.lock";

    fn read(bytes: &[u8]) -> Result<Self, String> {
        let entry: Self = parse(bytes, VERSION, |header: &ResetEntryHeader| header.version)?;
        let incident = entry.incident.to_string();
        match whitelist::is_incident(&incident) {
            true => Ok(entry),
            false => Err(format!("{incident:?} is not an incident")),
        }
    }

    fn stem(&self) -> String {
        format!("netns-{}", self.netns)
    }

    fn boot_id(&self) -> &str {
        &self.boot_id
    }

    fn on_disk(&mut self) -> &mut bool {
        &mut self.is_on_disk
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_that_no_agent_writes_are_refused() {
        const TEXT: &str = r#"{"spillway_netns":1,"boot_id":"a","netns":4026532000,"pid":7,
            "incident":"overload-1-127.0.0.1:80"}"#;
        let entry = ResetEntry::read(TEXT.as_bytes()).unwrap();
        assert_eq!((entry.netns, entry.stem()), (4_026_532_000, "netns-4026532000".to_owned()));
        for (from, to) in [
            ("\"spillway_netns\":1", "\"spillway_netns\":2"),
            ("4026532000", "4294967296"),
            ("overload-1", "overload\\u001b"),
            ("\"pid\":7,", ""),
        ] {
            let text = TEXT.replace(from, to);
            assert_ne!(text, TEXT);
            assert!(ResetEntry::read(text.as_bytes()).is_err(), "{text}");
        }
    }
}
