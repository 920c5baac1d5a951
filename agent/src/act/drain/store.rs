//! Where the node is, on disk before anybody is asked: who starts next goes on there.
//!
//! One small file, replaced as a whole: written beside, synced, renamed, and the directory synced. One that cannot be read is set aside
//! and told, and the node is taken for healthy. It refuses to begin a drain that it cannot keep.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    request::{Cause, Request},
    state::Phase,
};

const VERSION: u32 = 1;

/// What is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    #[serde(rename = "spillway_drain")]
    version: u32,
    /// The state.
    pub phase: Phase,
    /// Whether work is taken from the node.
    pub is_out: bool,
    /// When it came into the state, in milliseconds since 1970.
    pub since_ms: u64,
    /// What it is drained for.
    pub cause: Option<Cause>,
    /// What is asked, where an answer is waited for.
    pub request: Option<Request>,
}

/// The file.
#[derive(Debug, Clone)]
pub struct Store {
    path: PathBuf,
}

impl Kept {
    /// All of it.
    pub fn new(phase: Phase, is_out: bool, since_ms: u64, cause: Option<Cause>, request: Option<Request>) -> Self {
        Self { version: VERSION, phase, is_out, since_ms, cause, request }
    }
}

impl Store {
    /// The one below `state_dir`.
    pub fn below(state_dir: &Path) -> Self {
        Self { path: state_dir.join("drain.json") }
    }

    /// What an earlier run has left; `None` where there is nothing. What cannot be read is set aside.
    ///
    /// # Errors
    ///
    /// What is wrong with it, and where it is now.
    pub fn load(&self) -> Result<Option<Kept>, String> {
        let wrong = match self.look()? {
            None => return Ok(None),
            Some(Ok(kept)) => return Ok(Some(kept)),
            Some(Err(wrong)) => wrong,
        };
        let aside = PathBuf::from(format!("{}.unreadable", self.path.display()));
        let path = if fs::rename(&self.path, &aside).is_ok() { &aside } else { &self.path };
        Err(format!("{wrong}; it is now {}", path.display()))
    }

    /// What whoever keeps it has said last; `None` where there is nothing that can be read. It is left as it is.
    pub fn peek(&self) -> Option<Kept> {
        self.look().ok().flatten()?.ok()
    }

    fn look(&self) -> Result<Option<Result<Kept, String>>, String> {
        let bytes = match fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{}: {error}", self.path.display())),
            Ok(bytes) => bytes,
        };
        let kept: Result<Kept, _> = serde_json::from_slice(&bytes);
        Ok(Some(match kept {
            Ok(kept) if kept.version == VERSION => Ok(kept),
            Ok(kept) => Err(format!("it is of version {}, and {VERSION} is understood", kept.version)),
            Err(error) => Err(error.to_string()),
        }))
    }

    /// Keeps it in place of what was there.
    ///
    /// # Errors
    ///
    /// Where it may not be there after a crash.
    pub fn put(&self, kept: &Kept) -> io::Result<()> {
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let unfinished = self.path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        file.write_all(&serde_json::to_vec(kept)?)?;
        file.sync_all()?;
        fs::rename(&unfinished, &self.path)?;
        File::open(directory)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_found_and_what_cannot_be_read_is_set_aside() {
        let directory = std::env::temp_dir().join(format!("spillway-drain-{}", std::process::id()));
        let store = Store::below(&directory);
        assert_eq!(store.load(), Ok(None));
        let kept = Kept::new(Phase::Drained, true, 4_711, Some(Cause::operator()), None);
        store.put(&kept).unwrap();
        assert_eq!(store.load(), Ok(Some(kept)));
        for garbage in ["", "{", r#"{"spillway_drain":2,"phase":"drained","is_out":true,"since_ms":1}"#] {
            fs::write(&store.path, garbage).unwrap();
            let wrong = store.load().unwrap_err();
            assert!(wrong.contains("drain.json.unreadable"), "{wrong}");
            assert_eq!(store.load(), Ok(None));
        }
        fs::remove_dir_all(&directory).unwrap();
    }
}
