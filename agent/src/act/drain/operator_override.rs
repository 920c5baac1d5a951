//! An operator's override of the drain state, in a file: it applies even if nothing else answers.
//!
//! `spillway drain` and `spillway undrain` write the file, and an editor can. The agent reads it
//! twice a second. An unknown word is reported and changes nothing. The file stays until
//! `spillway resume` removes it.

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

/// Maximum size of the file. A word has some letters.
const BYTES_MAX: u64 = 64;

/// File with the override.
#[derive(Debug, Clone)]
pub struct OverrideFile {
    state_dir: PathBuf,
    path: PathBuf,
}

impl OverrideFile {
    /// Returns the file below `state_dir`.
    pub fn below(state_dir: &Path) -> Self {
        Self { state_dir: state_dir.to_owned(), path: state_dir.join(NAME) }
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the override; `None` if there is none.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read, or has an unknown word.
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
                "{} has an unknown word; known are drain, maintenance and undrain\n  hint: \
                 `spillway resume` removes the file",
                self.path.display()
            )
        })
    }

    /// Writes an override.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be written.
    pub fn set(&self, word: Override) -> io::Result<()> {
        let dir = StateDir::create(&self.state_dir)?;
        atomic_file::replace(&dir, NAME, "", format!("{}\n", word.name()).as_bytes(), Before::Any)
    }

    /// Removes the override.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be removed.
    pub fn clear(&self) -> io::Result<()> {
        StateDir::open(&self.state_dir)?.map_or(Ok(()), |dir| dir.remove(NAME))
    }
}

impl Override {
    /// Name in the file and on the command line.
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
    fn override_is_read_back_and_unknown_word_is_an_error() {
        let directory = std::env::temp_dir().join(format!("spillway-word-{}", std::process::id()));
        let file = OverrideFile::below(&directory);
        assert_eq!(file.read(), Ok(None));
        for word in [Override::Drain, Override::Maintenance, Override::Undrain] {
            file.set(word).unwrap();
            assert_eq!(file.read(), Ok(Some(word)));
        }
        for garbage in ["", "drained", "\u{0}"] {
            fs::write(file.path(), garbage).unwrap();
            assert!(file.read().unwrap_err().contains("unknown word"));
        }
        file.clear().unwrap();
        file.clear().unwrap();
        assert_eq!(file.read(), Ok(None));
        fs::remove_dir_all(&directory).unwrap();
    }
}
