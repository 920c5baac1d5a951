//! What an operator says of this node: a file, so that it holds when nothing else answers, and whatever else is true.
//!
//! `spillway drain`, `spillway undrain` and an editor do the same. The agent looks at it twice a second. What is none of the words is
//! told and changes nothing. It stays until `spillway resume` takes it away.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::state::Word;

/// Longest that is read. A word has some letters.
const BYTES_MAX: u64 = 64;

/// The file.
#[derive(Debug, Clone)]
pub struct WordFile {
    path: PathBuf,
}

impl WordFile {
    /// The one below `state_dir`.
    pub fn below(state_dir: &Path) -> Self {
        Self { path: state_dir.join("operator") }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says; `None` where it is not there.
    ///
    /// # Errors
    ///
    /// Where it cannot be told.
    pub fn read(&self) -> Result<Option<Word>, String> {
        let mut said = String::new();
        match fs::File::open(&self.path).and_then(|file| file.take(BYTES_MAX).read_to_string(&mut said)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{}: {error}", self.path.display())),
            Ok(_) => {}
        }
        let word = [Word::Drain, Word::Maintenance, Word::Undrain].into_iter().find(|word| word.name() == said.trim());
        word.map(Some).ok_or_else(|| {
            format!(
                "{} says none of drain, maintenance and undrain\n  hint: `spillway resume` takes it away",
                self.path.display()
            )
        })
    }

    /// Says so from now on.
    ///
    /// # Errors
    ///
    /// Where that is not possible.
    pub fn say(&self, word: Word) -> io::Result<()> {
        if let Some(parent) = self.path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }
        let unfinished = self.path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        writeln!(file, "{}", word.name())?;
        file.sync_all()?;
        fs::rename(&unfinished, &self.path)
    }

    /// Says nothing any more.
    ///
    /// # Errors
    ///
    /// Where it still does.
    pub fn clear(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl Word {
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
    use super::*;

    #[test]
    fn what_is_said_is_read_and_what_is_no_word_is_told() {
        let directory = std::env::temp_dir().join(format!("spillway-word-{}", std::process::id()));
        let file = WordFile::below(&directory);
        assert_eq!(file.read(), Ok(None));
        for word in [Word::Drain, Word::Maintenance, Word::Undrain] {
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
