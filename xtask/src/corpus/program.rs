//! A real program of the corpus: its versions, and the commands that install it, start it and load
//! it.
//!
//! The description is `tests/corpus/programs/NAME/program.json`. Its commands contain placeholders
//! in braces: `{here}` is the directory of that file, `{programs}` the one above, `{dir}` the
//! directory in which this version is installed, `{scratch}` a temporary directory, `{port}` a free
//! port on loopback, and `{version}`. Installed files stay in the user's cache for the next run.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::child::{self, OnInterrupt};
use crate::workspace;

/// One version of a program, ready to be installed and run.
#[derive(Debug)]
pub struct Program {
    /// Directory name under `programs/`.
    pub family: String,
    pub version: String,
    /// True if this version leaks, as documented and as measured.
    pub leaks: bool,
    /// Complete content of `program.json`.
    pub spec: Value,
    here: PathBuf,
    dir: PathBuf,
    scratch: PathBuf,
    port: u16,
}

impl Program {
    /// Loads every version of the named programs, or of all programs if `names` is empty.
    pub fn load(programs: &Path, names: &[String], scratch: &Path) -> anyhow::Result<Vec<Self>> {
        let entries = fs::read_dir(programs)
            .with_context(|| format!("cannot read {}", programs.display()))?;
        let mut families: Vec<String> = entries
            .flatten()
            .filter(|entry| entry.path().join("program.json").is_file())
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        families.sort();
        if let Some(name) = names.iter().find(|name| !families.contains(name)) {
            bail!(
                "no program {name:?} in {}\n  hint: available: {}",
                programs.display(),
                families.join(", ")
            );
        }
        families.retain(|family| names.is_empty() || names.contains(family));
        let mut all = Vec::new();
        for family in families {
            let here = programs.join(&family);
            let path = here.join("program.json");
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let spec: Value = serde_json::from_str(&text)
                .with_context(|| format!("{} is not JSON", path.display()))?;
            for version in spec["versions"].as_array().into_iter().flatten() {
                let name = version["version"].as_str();
                let name =
                    name.with_context(|| format!("{}: a version without a name", path.display()))?;
                all.push(Self {
                    version: name.to_owned(),
                    leaks: version["label"] == "leak",
                    dir: workspace::cache_dir()?.join(format!("corpus/{family}-{name}")),
                    scratch: scratch.join(format!("{family}-{name}")),
                    port: free_port()?,
                    here: here.clone(),
                    family: family.clone(),
                    spec: spec.clone(),
                });
            }
        }
        Ok(all)
    }

    /// Returns `family-version`, the name of files and cgroups.
    pub fn id(&self) -> String {
        format!("{}-{}", self.family, self.version)
    }

    /// Returns a number of `program.json`.
    pub fn number(&self, key: &str) -> f64 {
        self.spec[key].as_f64().unwrap_or(0.0)
    }

    /// Installs the program into the cache, unless it is already installed.
    pub fn install(&self) -> anyhow::Result<()> {
        if let Some(needed) = self.spec["needs"].as_str()
            && !Path::new(needed).exists()
        {
            bail!(
                "{} needs {needed}, which does not exist\n  hint: install the package {}",
                self.family,
                self.spec["package"]
            );
        }
        fs::create_dir_all(&self.scratch)
            .with_context(|| format!("cannot create {}", self.scratch.display()))?;
        let done = self.dir.join(".installed");
        if done.exists() {
            return Ok(());
        }
        fs::create_dir_all(&self.dir)
            .with_context(|| format!("cannot create {}", self.dir.display()))?;
        for words in self.spec["install"].as_array().into_iter().flatten() {
            let hint = "check the package manager's configuration, which sets the source";
            child::quiet(
                &format!("install {}", self.id()),
                &mut self.fill(words)?,
                hint,
                OnInterrupt::Stop,
            )?;
        }
        fs::write(&done, "").with_context(|| format!("cannot write {}", done.display()))
    }

    /// Returns the words of the command `key` with its placeholders filled in; `None` if there is
    /// no such command.
    pub fn words(&self, key: &str) -> Option<Vec<String>> {
        let words = self.spec[key].as_array()?;
        Some(words.iter().filter_map(Value::as_str).map(|word| self.filled(word)).collect())
    }

    /// Adds the program's environment to a command.
    pub fn equip(&self, command: &mut Command) {
        for (name, value) in self.spec["env"].as_object().into_iter().flatten() {
            command.env(name, self.filled(value.as_str().unwrap_or_default()));
        }
        command.current_dir(&self.scratch);
    }

    fn fill(&self, words: &Value) -> anyhow::Result<Command> {
        let words: Vec<String> = words
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(|word| self.filled(word))
            .collect();
        let (program, arguments) =
            words.split_first().with_context(|| format!("{}: an empty command", self.family))?;
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&self.scratch);
        Ok(command)
    }

    fn filled(&self, word: &str) -> String {
        let programs = self.here.parent().unwrap_or(&self.here);
        word.replace("{here}", &self.here.to_string_lossy())
            .replace("{programs}", &programs.to_string_lossy())
            .replace("{dir}", &self.dir.to_string_lossy())
            .replace("{scratch}", &self.scratch.to_string_lossy())
            .replace("{port}", &self.port.to_string())
            .replace("{version}", &self.version)
    }
}

/// Returns a port that is free now. Another process may take it before the program does; the
/// program then fails, and its recording is not kept.
fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no free port on 127.0.0.1")?;
    Ok(listener.local_addr().context("a listener without an address")?.port())
}
