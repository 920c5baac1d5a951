//! Entry of the journal for one socket whose accept queue was bounded.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::foreign_listener::{ForeignListener, SocketId};
use crate::{
    act::journal::{Entry, EntryJournal, parse, whitelist},
    decide::IncidentId,
};

const VERSION: u32 = 1;

/// Maximum number of lengths that are kept; there are three at most.
const WANTED_MAX: usize = 8;

/// Journal of changes to accept queues.
pub type ShedJournal = EntryJournal<ShedEntry>;

/// Changes to the accept queue of one socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShedEntry {
    #[serde(rename = "spillway_listener")]
    version: u32,
    boot_id: String,
    /// Address of the socket.
    addr: SocketAddr,
    /// Inode number and cookie, which distinguish it from later sockets.
    inode: u64,
    cookie: u64,
    /// Process that held it when it was changed.
    pid: u32,
    /// Incident that load was shed for.
    #[serde(serialize_with = "by_name")]
    incident: IncidentId,
    /// Original length.
    prior: u32,
    /// Lengths to replace it, of which the last is to be in effect. The one before and the one in
    /// effect are kept until the next is set, because a crash may leave either.
    wanted: Vec<u32>,
    #[serde(skip)]
    is_on_disk: bool,
}

/// Beginning of an entry, the same in all versions.
#[derive(Deserialize)]
struct ShedEntryHeader {
    #[serde(rename = "spillway_listener")]
    version: u32,
}

impl ShedEntry {
    /// Makes an entry for a socket whose queue has length `prior`.
    pub fn new(
        journal: &ShedJournal,
        listener: &ForeignListener,
        prior: u32,
        incident: &IncidentId,
    ) -> Self {
        let SocketId { inode, cookie, addr } = listener.id;
        Self {
            version: VERSION,
            boot_id: journal.boot_id().to_owned(),
            addr,
            inode,
            cookie,
            pid: listener.pid,
            incident: incident.clone(),
            prior,
            wanted: Vec::new(),
            is_on_disk: false,
        }
    }

    /// Identity of the socket.
    pub fn socket(&self) -> SocketId {
        SocketId { inode: self.inode, cookie: self.cookie, addr: self.addr }
    }

    /// Process that held it when it was changed.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Incident that load was shed for.
    pub fn incident(&self) -> &IncidentId {
        &self.incident
    }

    /// Original length.
    pub fn prior(&self) -> u32 {
        self.prior
    }

    /// Replaces the original length, because others have set another one.
    pub fn set_prior(&mut self, prior: u32) {
        self.prior = prior;
        self.wanted.clear();
    }

    /// Returns whether a length is one that this entry has recorded.
    pub fn is_ours(&self, found: u32) -> bool {
        self.wanted.contains(&found)
    }

    /// Records that `length` is to replace `in_effect`.
    pub fn record(&mut self, in_effect: u32, length: u32) {
        let last = self.wanted.last().copied();
        self.wanted.retain(|wanted| *wanted == in_effect || Some(*wanted) == last);
        self.wanted.push(length);
        self.wanted.dedup();
    }
}

impl Entry for ShedEntry {
    const DIRECTORY: &str = "listeners";
    const LOCK: &str = "listeners.lock";

    fn read(bytes: &[u8]) -> Result<Self, String> {
        let entry: Self = parse(bytes, VERSION, |header: &ShedEntryHeader| header.version)?;
        let incident = entry.incident.to_string();
        if !whitelist::is_incident(&incident) {
            return Err(format!("{incident:?} is not an incident"));
        }
        if entry.wanted.len() > WANTED_MAX {
            return Err(format!(
                "there are {} lengths, more than {WANTED_MAX}",
                entry.wanted.len()
            ));
        }
        let longest = entry.wanted.iter().copied().fold(entry.prior, u32::max);
        if longest > i32::MAX as u32 {
            return Err(format!("{longest} is no length of a queue"));
        }
        Ok(entry)
    }

    fn stem(&self) -> String {
        format!("socket-{}", self.inode)
    }

    fn boot_id(&self) -> &str {
        &self.boot_id
    }

    fn on_disk(&mut self) -> &mut bool {
        &mut self.is_on_disk
    }
}

/// Serializes an incident as its name.
pub(super) fn by_name<S: serde::Serializer>(
    id: &IncidentId,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{"spillway_listener":1,"boot_id":"a","addr":"127.0.0.1:80","inode":7,
        "cookie":9,"pid":1,"incident":"overload-1-127.0.0.1:80","prior":511,"wanted":[9]}"#;

    #[test]
    fn length_in_effect_and_the_next_are_ours() {
        let mut entry = ShedEntry::read(TEXT.as_bytes()).unwrap();
        for (in_effect, length) in [(9, 18), (18, 36), (18, 40)] {
            entry.record(in_effect, length);
            assert!(entry.is_ours(in_effect) && entry.is_ours(length));
            assert!(entry.wanted.len() <= 3, "{:?}", entry.wanted);
        }
        assert!(!entry.is_ours(9) && !entry.is_ours(511));
        entry.set_prior(128);
        assert!(!entry.is_ours(18) && entry.prior() == 128);
    }

    #[test]
    fn entries_that_no_agent_writes_are_refused() {
        assert!(ShedEntry::read(TEXT.as_bytes()).is_ok());
        for (from, to) in [
            ("\"spillway_listener\":1", "\"spillway_listener\":2"),
            ("511", "-1"),
            ("511", "2147483648"),
            ("[9]", "[1,2,3,4,5,6,7,8,9]"),
            ("[9]", "[4294967295]"),
            ("127.0.0.1:80\",\"inode", "unix:/a\",\"inode"),
            ("overload-1", "overload\\u001b"),
            ("\"cookie\":9,", ""),
        ] {
            let text = TEXT.replace(from, to);
            assert_ne!(text, TEXT);
            assert!(ShedEntry::read(text.as_bytes()).is_err(), "{text}");
        }
    }
}
