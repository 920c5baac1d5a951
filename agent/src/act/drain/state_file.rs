//! State of the drain on disk, saved before any request, so that the next run continues there.
//!
//! One small file, replaced as a whole: written beside, synced, renamed, and the directory synced.
//! A file that cannot be read is set aside and reported, and the node counts as healthy. A drain
//! whose state cannot be saved does not begin.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    request::{DrainReason, Request},
    state_machine::DrainPhase,
};
use crate::os::{
    StateDir,
    atomic_file::{self, Before},
    trusted::reason,
};

const VERSION: u32 = 1;

const STEM: &str = "drain";
const NAME: &str = "drain.json";
const UNREADABLE: &str = ".unreadable";

/// Maximum size of the file. Evidence has some kilobytes.
const BYTES_MAX: u64 = 1 << 20;

/// Saved state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedState {
    #[serde(rename = "spillway_drain")]
    version: u32,
    /// Phase.
    pub phase: DrainPhase,
    /// Set if the node is out of rotation.
    pub is_out: bool,
    /// Time at which the phase began, in milliseconds since 1970.
    pub since_ms: u64,
    /// Reason for the drain.
    pub cause: Option<DrainReason>,
    /// Request without a final reply.
    pub request: Option<Request>,
}

/// The file.
#[derive(Debug, Clone)]
pub struct StateFile {
    state_dir: PathBuf,
}

impl SavedState {
    /// Creates a state to save.
    pub fn new(
        phase: DrainPhase,
        is_out: bool,
        since_ms: u64,
        cause: Option<DrainReason>,
        request: Option<Request>,
    ) -> Self {
        Self { version: VERSION, phase, is_out, since_ms, cause, request }
    }
}

impl StateFile {
    /// Returns the file below `state_dir`.
    pub fn below(state_dir: &Path) -> Self {
        Self { state_dir: state_dir.to_owned() }
    }

    /// Loads the state of an earlier run; `None` if there is none. A file that cannot be read is
    /// set aside.
    ///
    /// # Errors
    ///
    /// Returns an error if it is invalid, with the place where it is now.
    pub fn load(&self) -> Result<Option<SavedState>, String> {
        let Some(dir) = self.open()? else { return Ok(None) };
        let wrong = match look(&dir) {
            Ok(kept) => return Ok(kept),
            Err(wrong) => wrong,
        };
        match atomic_file::set_aside(&dir, NAME, UNREADABLE) {
            Ok(aside) => Err(format!("it is {} now: {wrong}", dir.path(&aside).display())),
            Err(error) => {
                Err(format!("{} cannot be set aside ({error}): {wrong}", dir.path(NAME).display()))
            }
        }
    }

    /// Reads the state that another agent saved last; `None` if it cannot be read. The file is left
    /// as it is.
    pub fn peek(&self) -> Option<SavedState> {
        look(&self.open().ok()??).ok()?
    }

    /// Lists the files that cannot be read, with the reason: this one, and those that were set
    /// aside.
    pub fn unreadable(&self) -> Vec<String> {
        let dir = match self.open() {
            Ok(Some(dir)) => dir,
            Ok(None) => return Vec::new(),
            Err(wrong) => return vec![wrong],
        };
        let wrong = look(&dir).err().map(|wrong| format!("{}: {wrong}", dir.path(NAME).display()));
        let names = dir.names().unwrap_or_default().into_iter();
        let aside = names.filter(|name| name.starts_with(&format!("{NAME}{UNREADABLE}")));
        wrong
            .into_iter()
            .chain(
                aside.map(|name| format!("{}: no agent could read it", dir.path(&name).display())),
            )
            .collect()
    }

    fn open(&self) -> Result<Option<StateDir>, String> {
        StateDir::open(&self.state_dir).map_err(|error| {
            format!("{}: {}", self.state_dir.display(), reason(&error, &self.state_dir))
        })
    }

    /// Saves a state in place of the earlier one.
    ///
    /// # Errors
    ///
    /// Returns an error if it may not be there after a crash.
    pub fn put(&self, kept: &SavedState) -> io::Result<()> {
        let dir = StateDir::create(&self.state_dir)?;
        atomic_file::replace(&dir, STEM, ".json", &serde_json::to_vec(kept)?, Before::Any)
    }
}

/// Beginning of the file, in every version.
#[derive(Deserialize)]
struct StateFileHeader {
    #[serde(rename = "spillway_drain")]
    version: u32,
}

fn look(dir: &StateDir) -> Result<Option<SavedState>, String> {
    let Some(bytes) = dir.read(NAME, BYTES_MAX).map_err(|error| reason(&error, &dir.path(NAME)))?
    else {
        return Ok(None);
    };
    let header: StateFileHeader =
        serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    if header.version != VERSION {
        return Err(format!("it is of version {}, and {VERSION} is understood", header.version));
    }
    serde_json::from_slice(&bytes).map(Some).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_kept_is_found_and_what_cannot_be_read_is_set_aside() {
        let directory = std::env::temp_dir().join(format!("spillway-drain-{}", std::process::id()));
        let store = StateFile::below(&directory);
        assert_eq!(store.load(), Ok(None));
        let kept =
            SavedState::new(DrainPhase::Drained, true, 4_711, Some(DrainReason::operator()), None);
        store.put(&kept).unwrap();
        assert_eq!(store.load(), Ok(Some(kept)));
        for garbage in
            ["", "{", r#"{"spillway_drain":2,"phase":"drained","is_out":true,"since_ms":1}"#]
        {
            fs::write(directory.join(NAME), garbage).unwrap();
            let wrong = store.load().unwrap_err();
            assert!(wrong.contains("drain.json.unreadable"), "{wrong}");
            assert_eq!(store.load(), Ok(None));
        }
        fs::remove_dir_all(&directory).unwrap();
    }
}
