//! File system of a virtual machine: the programs, the libraries that they need, and modules.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use super::cpio::Cpio;
use crate::child;

/// Writes the image: programs in the root directory under the given names, modules under `/modules`
/// in their order.
pub fn write(
    image: &Path,
    programs: &[(&str, PathBuf)],
    modules: &[PathBuf],
) -> anyhow::Result<()> {
    let file =
        File::create(image).with_context(|| format!("{} cannot be written", image.display()))?;
    let mut cpio = Cpio::new(BufWriter::new(file));
    let mut libraries = BTreeSet::new();
    for (_, path) in programs {
        let needed = child::output(Command::new("ldd").arg(path))?;
        libraries.extend(parse_ldd(&String::from_utf8_lossy(&needed)));
    }
    let mut directories: BTreeSet<PathBuf> = ["dev", "modules"].iter().map(PathBuf::from).collect();
    for library in &libraries {
        directories.extend(relative(library).ancestors().skip(1).map(Path::to_path_buf));
    }
    // Sorted, so that each directory comes after its parents.
    for directory in directories.iter().filter(|directory| !directory.as_os_str().is_empty()) {
        cpio.directory(&directory.to_string_lossy())?;
    }
    cpio.device("dev/console", 5, 1)?;
    for (name, path) in programs {
        cpio.file(name, &read(path)?)?;
    }
    for library in &libraries {
        cpio.file(&relative(library).to_string_lossy(), &read(library)?)?;
    }
    for module in modules {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        cpio.file(&format!("modules/{name}"), &read(module)?)?;
    }
    cpio.finish()?;
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("{} cannot be read", path.display()))
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

/// Parses the files that `ldd` prints: `libc.so.6 => /lib/…/libc.so.6 (0x…)`, and the loader alone:
/// `/lib64/ld-….so.2 (0x…)`.
fn parse_ldd(text: &str) -> Vec<PathBuf> {
    let words =
        text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    words.map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_loader_are_found() {
        let text = "\tlinux-vdso.so.1 (0x00007ffe)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 \
        (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found =
            ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(parse_ldd(text), found);
    }
}
