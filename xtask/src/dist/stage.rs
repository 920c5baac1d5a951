//! Files as they are installed, in a directory.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use super::{Arch, run};
use crate::workspace::Workspace;

/// Path of the program in the unit file that is installed by hand.
const BY_HAND: &str = "/usr/local/bin/spillway";

/// Documents of the repository, and their names as installed.
const DOCUMENTS: [(&str, &str); 3] = [
    ("README.md", "README.md"),
    ("configs/README.md", "OPERATING.md"),
    ("SECURITY.md", "SECURITY.md"),
];

/// Directories of `configs/` with examples.
const EXAMPLES: [&str; 9] = [
    "balancers",
    "grafana",
    "haproxy",
    "kubernetes",
    "kubernetes/agent",
    "kubernetes/cordon",
    "kubernetes/enforce",
    "kubernetes/monitoring",
    "prometheus",
];

/// Directory with the installed files, and what the packages need to know about them.
pub struct Stage {
    pub root: PathBuf,
    /// Checkout.
    pub source: PathBuf,
    /// Generated manual pages and completions.
    pub manuals: PathBuf,
    pub arch: Arch,
    /// Time of all files.
    pub epoch: String,
}

impl Stage {
    /// Fills the directory anew.
    pub fn fill(
        workspace: &Workspace,
        arch: Arch,
        epoch: String,
        binary: &Path,
        manuals: &Path,
    ) -> anyhow::Result<Self> {
        let root = workspace.target.join("dist/stage").join(arch.kernel);
        if root.exists() {
            fs::remove_dir_all(&root)
                .with_context(|| format!("{} cannot be removed", root.display()))?;
        }
        let source = workspace.root.clone();
        let stage = Self { root, source, manuals: manuals.to_owned(), arch, epoch };
        stage.program(binary)?;
        stage.service()?;
        stage.command_line()?;
        stage.documents()?;
        Ok(stage)
    }

    fn program(&self, binary: &Path) -> anyhow::Result<()> {
        let program = self.copy(binary, "usr/bin/spillway", 0o755)?;
        let strip = if self.arch.debian == "amd64" { "strip" } else { "aarch64-linux-gnu-strip" };
        run("strip the binary of symbols", Command::new(strip).arg(program))
    }

    fn service(&self) -> anyhow::Result<()> {
        let configs = self.source.join("configs");
        self.copy(&configs.join("spillway.toml"), "etc/spillway/spillway.toml", 0o644)?;
        let unit = read(&configs.join("systemd/spillway.service"))?;
        self.write("usr/lib/systemd/system/spillway.service", packaged(&unit).as_bytes())?;
        for file in files(&configs.join("systemd"))? {
            let name = name(&file);
            if name.ends_with(".conf") {
                self.copy(&file, &format!("usr/share/spillway/systemd/{name}"), 0o644)?;
            }
        }
        Ok(())
    }

    fn command_line(&self) -> anyhow::Result<()> {
        for page in files(&self.manuals.join("man"))? {
            let path = format!("usr/share/man/man1/{}", name(&page));
            self.compress(self.copy(&page, &path, 0o644)?)?;
        }
        for (completion, path) in [
            ("spillway.bash", "usr/share/bash-completion/completions/spillway"),
            ("_spillway", "usr/share/zsh/vendor-completions/_spillway"),
            ("spillway.fish", "usr/share/fish/vendor_completions.d/spillway.fish"),
        ] {
            self.copy(&self.manuals.join("completions").join(completion), path, 0o644)?;
        }
        Ok(())
    }

    fn documents(&self) -> anyhow::Result<()> {
        let doc = |name: &str| format!("usr/share/doc/spillway/{name}");
        for (from, to) in DOCUMENTS {
            self.copy(&self.source.join(from), &doc(to), 0o644)?;
        }
        self.compress(self.copy(&self.source.join("CHANGELOG.md"), &doc("changelog"), 0o644)?)?;
        let copyright = self.source.join("packaging/debian/copyright");
        self.copy(&copyright, &doc("copyright"), 0o644)?;
        for directory in EXAMPLES {
            for file in files(&self.source.join("configs").join(directory))? {
                let path = doc(&format!("examples/{directory}/{}", name(&file)));
                self.copy(&file, &path, 0o644)?;
            }
        }
        Ok(())
    }

    /// Copies a file to a path below the directory.
    pub fn copy(&self, from: &Path, to: &str, mode: u32) -> anyhow::Result<PathBuf> {
        let path = self.write(to, &fs::read(from).with_context(|| unreadable(from))?)?;
        set_mode(&path, mode)?;
        Ok(path)
    }

    /// Writes a file with the usual mode below the directory.
    pub fn write(&self, to: &str, bytes: &[u8]) -> anyhow::Result<PathBuf> {
        let path = self.root.join(to);
        let parent = path.parent().context("the path has no directory")?;
        fs::create_dir_all(parent)
            .with_context(|| format!("{} cannot be created", parent.display()))?;
        // Directories too: the umask of this user must not get into the packages.
        for directory in parent.ancestors().take_while(|path| path.starts_with(&self.root)) {
            set_mode(directory, 0o755)?;
        }
        fs::write(&path, bytes).with_context(|| format!("{} cannot be written", path.display()))?;
        set_mode(&path, 0o644)?;
        Ok(path)
    }

    /// Compresses a file in place, without its name and time.
    pub fn compress(&self, path: PathBuf) -> anyhow::Result<()> {
        let done = super::child::output_of(Command::new("gzip").args(["-9nf"]).arg(&path));
        done.map(drop).with_context(|| format!("{} cannot be compressed by gzip", path.display()))
    }
}

/// Returns the unit for a packaged program, without the advice for an installation by hand.
fn packaged(unit: &str) -> String {
    let body = unit.split_once("\n\n").map_or(unit, |(_, body)| body);
    format!(
        "# Spillway, in mode = \"observe\". The drop-ins in /usr/share/spillway/systemd are for \
         mode =\n# \"enforce\" and more; each says what for and how to install it.\n\n{}",
        body.replace(BY_HAND, "/usr/bin/spillway")
    )
}

fn set_mode(path: &Path, mode: u32) -> anyhow::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("the mode of {} cannot be set", path.display()))
}

/// Returns the files of a directory, sorted.
pub fn files(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| unreadable(directory))?;
    let mut files: Vec<_> =
        entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.sort();
    Ok(files)
}

/// Reads a text file.
pub fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| unreadable(path))
}

/// Returns the name of a file.
pub fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn unreadable(path: &Path) -> String {
    format!("{} cannot be read", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packaged_unit_differs_in_header_and_program() {
        let unit = include_str!("../../../configs/systemd/spillway.service");
        let packaged = packaged(unit);
        assert!(!packaged.contains("/usr/local/"), "{packaged}");
        assert!(!packaged.contains("install -"), "{packaged}");
        let settings = |unit: &str| unit.split_once("[Unit]").expect("a section").1.to_owned();
        assert_eq!(settings(unit).replace(BY_HAND, "/usr/bin/spillway"), settings(&packaged));
    }
}
