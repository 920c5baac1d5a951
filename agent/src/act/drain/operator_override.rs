//! What an operator says of this node: a file, so that it holds when nothing else answers, and
//! whatever else is true.
//!
//! `spillway drain`, `spillway undrain` and an editor do the same. The agent looks at it twice a
//! second. What is none of the words is told and changes nothing. It stays until `spillway resume`
//! takes it away.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::state_machine::Override;
use crate::os::{
    StateDir,
    atomic_file::{self, Before},
    trusted::reason,
};

const NAME: &str = "operator";

/// Largest file. A word has some letters.
const BYTES_MAX: u64 = 64;

/// The file.
#[derive(Debug, Clone)]
pub struct OverrideFile {
    state_dir: PathBuf,
    path: PathBuf,
}

impl OverrideFile {
    /// The one below `state_dir`.
    pub fn below(state_dir: &Path) -> Self {
        Self { state_dir: state_dir.to_owned(), path: state_dir.join(NAME) }
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says; `None` where it is not there.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be told.
    pub fn read(&self) -> Result<Option<Override>, String> {
        let wrong =
            |error: io::Error| format!("{}: {}", self.path.display(), reason(&error, &self.path));
        let Some(dir) = StateDir::open(&self.state_dir).map_err(wrong)? else { return Ok(None) };
        let Some(said) = dir.read(NAME, BYTES_MAX).map_err(wrong)? else { return Ok(None) };
        let said = String::from_utf8_lossy(&said);
        let word = [Override::Drain, Override::Maintenance, Override::Undrain]
            .into_iter()
            .find(|word| word.name() == said.trim());
        word.map(Some).ok_or_else(|| {
            format!(
                "{} says none of drain, maintenance and undrain\n  hint: `spillway resume` takes \
                it away",
                self.path.display()
            )
        })
    }

    /// Says so from now on.
    ///
    /// # Errors
    ///
    /// Returns an error if that is not possible.
    pub fn say(&self, word: Override) -> io::Result<()> {
        let dir = StateDir::create(&self.state_dir)?;
        atomic_file::replace(&dir, NAME, "", format!("{}\n", word.name()).as_bytes(), Before::Any)
    }

    /// Says nothing any more.
    ///
    /// # Errors
    ///
    /// Returns an error if it still does.
    pub fn clear(&self) -> io::Result<()> {
        StateDir::open(&self.state_dir)?.map_or(Ok(()), |dir| dir.remove(NAME))
    }
}

impl Override {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Maintenance => "maintenance",
            Self::Undrain => "undrain",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_said_is_read_and_what_is_no_word_is_told() {
        let directory = std::env::temp_dir().join(format!("spillway-word-{}", std::process::id()));
        let file = OverrideFile::below(&directory);
        assert_eq!(file.read(), Ok(None));
        for word in [Override::Drain, Override::Maintenance, Override::Undrain] {
            file.say(word).unwrap();
            assert_eq!(file.read(), Ok(Some(word)));
        }
        for garbage in ["", "drained", "\u{0}"] {
            fs::write(file.path(), garbage).unwrap();
            assert!(file.read().unwrap_err().contains("says none of"));
        }
        file.clear().unwrap();
        file.clear().unwrap();
        assert_eq!(file.read(), Ok(None));
        fs::remove_dir_all(&directory).unwrap();
    }
}
