//! Kernels to boot, kept outside the tree: `~/.cache/spillway/kernels/NAME`.
//!
//! The archive is asked for newer ones at most every [`ASK_AGAIN`]. If it cannot be reached, the
//! cached kernel is used.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;

use super::first_line;
use crate::debian_archive::{Archive, Sites};
use crate::signals::Interrupted;
use crate::{child, clock, workspace};

/// Minimum time between two requests to the archive: Debian publishes four times a day.
const ASK_AGAIN: Duration = Duration::from_hours(6);
/// Kernel features that the checks need and Debian builds as modules.
const MODULES: [&str; 3] = ["inet_diag", "tcp_diag", "unix_diag"];

/// Kernel, and the Debian suite that it comes from.
#[derive(Debug)]
pub struct Kernel {
    /// Series, which is its name on the command line.
    pub name: &'static str,
    suite: &'static str,
    has_security: bool,
}

/// One kernel per release of Debian, from one older than most features that the probes use to the
/// newest.
pub const KERNELS: [Kernel; 4] = [
    Kernel { name: "5.10", suite: "bullseye", has_security: true },
    Kernel { name: "6.1", suite: "bookworm", has_security: true },
    Kernel { name: "6.12", suite: "trixie", has_security: true },
    Kernel { name: "7.2", suite: "sid", has_security: false },
];

/// Package that depends on the newest kernel of its suite.
const PACKAGE: &str = "linux-image-cloud-amd64";

/// Files of a kernel that can be booted.
#[derive(Debug)]
pub struct Found {
    pub vmlinuz: PathBuf,
    /// Modules in the order in which they can be loaded.
    pub modules: Vec<PathBuf>,
}

/// Returns the newest version of a kernel, or the cached one if the archive cannot be reached.
pub fn get(kernel: &Kernel) -> anyhow::Result<Found> {
    let directory = workspace::cache_dir()?.join("kernels").join(kernel.name);
    let asked = directory.join("asked");
    let kept = kept(&directory);
    if let Some(found) = kept
        && clock::age(&asked).is_some_and(|age| age < ASK_AGAIN)
    {
        return Ok(found);
    }
    match refresh(kernel, &directory) {
        Ok(()) => fs::write(&asked, "")
            .with_context(|| format!("{} cannot be written", asked.display()))?,
        Err(error) if error.is::<Interrupted>() => return Err(error),
        Err(error) => match self::kept(&directory) {
            Some(found) => {
                eprintln!("vm: using the cached {}: {}", kernel.name, first_line(&error));
                return Ok(found);
            }
            None => return Err(error),
        },
    }
    self::kept(&directory).with_context(|| format!("{} has no kernel", directory.display()))
}

fn kept(directory: &Path) -> Option<Found> {
    let entries = fs::read_dir(directory.join("modules")).ok()?;
    let mut modules: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    modules.sort();
    let vmlinuz = directory.join("vmlinuz");
    // Written last: an interrupted download is not used, and neither is one that was made for other
    // modules.
    let made = fs::read_to_string(directory.join("packages"))
        .is_ok_and(|made| made.ends_with(&made_for()));
    made.then_some(Found { vmlinuz, modules })
}

/// End of the list of packages: the modules that were extracted from them.
fn made_for() -> String {
    format!("\nwith {}", MODULES.join(" "))
}

fn refresh(kernel: &Kernel, directory: &Path) -> anyhow::Result<()> {
    let list = Sites::find()?.list(kernel.suite, kernel.has_security);
    let archive = Archive::open(&directory.join("apt"), list)?;
    archive.update(&format!("kernels of {}", kernel.suite))?;
    let packages = archive.needs(PACKAGE)?;
    let made = packages.join("\n") + &made_for();
    if !packages.iter().any(|package| package.starts_with(&format!("linux-image-{}.", kernel.name)))
    {
        eprintln!(
            "vm: {} no longer has {}; using its current kernel: {}",
            kernel.suite,
            kernel.name,
            packages.join(", ")
        );
    }
    if fs::read_to_string(directory.join("packages")).is_ok_and(|kept| kept == made) {
        return Ok(());
    }
    let unpacked = directory.join("unpacked");
    fs::remove_dir_all(&unpacked).ok();
    fs::create_dir_all(&unpacked)
        .with_context(|| format!("{} cannot be created", unpacked.display()))?;
    let done =
        archive.download(&format!("kernel {}", kernel.name), &packages, &unpacked).and_then(|()| {
            fs::remove_file(directory.join("packages")).ok();
            unpack(&unpacked, directory)
        });
    fs::remove_dir_all(&unpacked).ok();
    done?;
    fs::write(directory.join("packages"), made).context("the list of packages cannot be written")
}

/// Extracts the kernel and its modules from the packages in a directory.
fn unpack(packages: &Path, into: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(packages)?.flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "deb") {
            child::output(
                Command::new("dpkg-deb")
                    .arg("--extract")
                    .arg(entry.path())
                    .arg(packages.join("root")),
            )?;
        }
    }
    let mut files = Vec::new();
    walk(&packages.join("root"), &mut files)?;
    let vmlinuz = files
        .iter()
        .find(|path| name(path).starts_with("vmlinuz"))
        .context("the packages have no vmlinuz")?;
    fs::copy(vmlinuz, into.join("vmlinuz")).context("the kernel cannot be copied")?;
    let modules = into.join("modules");
    fs::remove_dir_all(&modules).ok();
    fs::create_dir_all(&modules)?;
    let mut order = Vec::new();
    for module in MODULES {
        load(module, &files, &mut order)?;
    }
    for (number, (name, bytes)) in order.iter().enumerate() {
        fs::write(modules.join(format!("{number:02}-{name}.ko")), bytes)?;
    }
    Ok(())
}

/// Adds a module after its dependencies.
fn load(module: &str, files: &[PathBuf], order: &mut Vec<(String, Vec<u8>)>) -> anyhow::Result<()> {
    if order.iter().any(|(name, _)| name == module) {
        return Ok(());
    }
    let is_wanted = |path: &&PathBuf| {
        name(path).split_once(".ko").is_some_and(|(name, _)| name.replace('-', "_") == module)
    };
    let path = files
        .iter()
        .find(is_wanted)
        .with_context(|| format!("the packages have no module {module}"))?;
    let bytes = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => {
            child::output(Command::new("xz").args(["--decompress", "--stdout"]).arg(path))?
        }
        _ => fs::read(path)?,
    };
    for needed in depends(&bytes) {
        load(&needed, files, order)?;
    }
    order.push((module.to_owned(), bytes));
    Ok(())
}

/// Returns the names after `depends=` in a module's own description.
fn depends(module: &[u8]) -> Vec<String> {
    const FIELD: &[u8] = b"\0depends=";
    let Some(start) = module.windows(FIELD.len()).position(|window| window == FIELD) else {
        return vec![];
    };
    let value = module[start + FIELD.len()..].split(|&byte| byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(value);
    names.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

fn walk(directory: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(directory)
        .with_context(|| format!("{} cannot be read", directory.display()))?
    {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_modules_dependencies_are_parsed() {
        assert_eq!(
            depends(b"\x7fELF\0license=GPL\0depends=inet-diag,udp\0name=x\0"),
            ["inet_diag", "udp"]
        );
        assert!(depends(b"license=GPL\0depends=\0name=x\0").is_empty());
        assert!(depends(b"no description").is_empty());
    }
}
