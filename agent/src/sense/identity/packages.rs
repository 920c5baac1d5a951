//! Debian package of an executable, and names of users, from the host's files.
//!
//! `dpkg -S` reads the same lists. All lists of a host are many megabytes, so an answer is kept for
//! each executable. Other package managers keep their lists in databases; there the build id has to
//! do.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{BufRead, BufReader, Read as _},
    path::Path,
};

use super::host_files::open_regular;
use crate::sense::printable::printable;

/// Directory of dpkg's lists of files, below the root directory like the paths below.
const LISTS: &str = "var/lib/dpkg/info";

/// State of dpkg, with the versions.
const STATUS: &str = "var/lib/dpkg/status";

/// Users of the host.
const USERS: &str = "etc/passwd";

/// Maximum size of these files. A guess at several times the largest. They are read line by line.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Maximum length of a line of interest.
const LINE_BYTES_MAX: u64 = 8_192;

/// Answers that are kept.
const KEPT_MAX: usize = 64;

/// Directories outside of which packages install no programs.
const PACKAGED: [&str; 6] = ["/usr/", "/bin/", "/sbin/", "/lib/", "/lib64/", "/opt/"];

/// Packages of executables that were asked for.
#[derive(Debug, Default)]
pub(super) struct Packages {
    /// By path and time of the file's last change: an upgrade changes the answer.
    known: HashMap<(String, i64), Option<String>>,
}

impl Packages {
    /// Returns the package of an executable with its version, such as `nginx 1.22.1-9`.
    /// `changed_secs` is the time at which the file last changed.
    pub(super) fn of(
        &mut self,
        root: &Path,
        executable: &str,
        changed_secs: i64,
    ) -> Option<String> {
        let is_packaged = PACKAGED.iter().any(|root| executable.starts_with(root));
        if !is_packaged || executable.starts_with("/usr/local/") {
            return None;
        }
        let file = (executable.to_owned(), changed_secs);
        if let Some(known) = self.known.get(&file) {
            return known.clone();
        }
        let found = look_up(root, executable);
        if self.known.len() >= KEPT_MAX {
            self.known.clear();
        }
        self.known.insert(file, found.clone());
        found
    }
}

fn look_up(root: &Path, executable: &str) -> Option<String> {
    // Packages from before the merge of /usr list their files without it.
    let paths = [Some(executable), executable.strip_prefix("/usr")];
    let is_it = |line: &[u8]| paths.iter().flatten().any(|path| path.as_bytes() == line);
    for entry in fs::read_dir(root.join(LISTS)).ok()?.filter_map(Result::ok) {
        let name = entry.file_name();
        let Some(package) = name.to_str().and_then(|name| name.strip_suffix(".list")) else {
            continue;
        };
        let Some(list) = open(&entry.path()) else { continue };
        if first_line(list, |line| is_it(line).then_some(())).is_some() {
            let package = package.split(':').next().unwrap_or(package);
            let version = version_in(open(&root.join(STATUS))?, package);
            let version = version.map(|version| format!(" {version}")).unwrap_or_default();
            return Some(printable(format!("{package}{version}")).to_string());
        }
    }
    None
}

fn open(path: &Path) -> Option<BufReader<std::io::Take<File>>> {
    Some(BufReader::new(open_regular(path)?.take(FILE_BYTES_MAX)))
}

/// Returns the first result that a line gives. Longer lines than [`LINE_BYTES_MAX`] come in pieces.
fn first_line<T>(mut text: impl BufRead, mut of: impl FnMut(&[u8]) -> Option<T>) -> Option<T> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = text.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line).ok()?;
        if length == 0 {
            return None;
        }
        if let Some(found) = of(line.strip_suffix(b"\n").unwrap_or(&line)) {
            return Some(found);
        }
    }
}

/// Returns the version of a package in the text of dpkg's state.
pub(super) fn version_in(status: impl BufRead, package: &str) -> Option<String> {
    let mut is_its = false;
    first_line(status, |line| {
        if let Some(name) = line.strip_prefix(b"Package: ") {
            is_its = name == package.as_bytes();
        }
        let version = line.strip_prefix(b"Version: ").filter(|_| is_its)?;
        Some(printable(version).to_string())
    })
}

/// Returns the name of a user below a root directory.
pub(super) fn user_name(root: &Path, uid: u32) -> Option<String> {
    user_in(open(&root.join(USERS))?, uid)
}

/// Returns the name of a user in the text of `/etc/passwd`.
pub(super) fn user_in(users: impl BufRead, uid: u32) -> Option<String> {
    first_line(users, |line| {
        let mut fields = line.split(|byte| *byte == b':');
        let (name, _password, id) = (fields.next()?, fields.next()?, fields.next()?);
        let is_it = str::from_utf8(id).ok()?.parse() == Ok(uid);
        is_it.then(|| printable(name).to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_of_a_program_is_what_dpkg_says() {
        let Ok(said) = std::process::Command::new("dpkg-query")
            .args(["--show", "--showformat", "${Package} ${Version}", "coreutils"])
            .output()
        else {
            eprintln!("skipped: no dpkg");
            return;
        };
        let said = String::from_utf8(said.stdout).unwrap();
        let (mut packages, root) = (Packages::default(), Path::new("/"));
        // Listed as /bin/ls in Debian 12, and as /usr/bin/ls in later ones.
        assert_eq!(packages.of(root, "/usr/bin/ls", 1), Some(said.clone()));
        assert_eq!(packages.of(root, "/usr/bin/ls", 1), Some(said));
        assert_eq!(packages.of(root, "/usr/bin/no-such-program", 1), None);
        assert_eq!(packages.of(root, "/home/a/program", 1), None);
        // Another version may be there by now.
        let upgraded = ("/usr/bin/ls".to_owned(), 2);
        assert!(!packages.known.contains_key(&upgraded));
    }

    #[test]
    fn texts_of_dpkg_and_passwd_are_read_by_whole_fields() {
        let status = b"Package: a\nVersion: 1\n\nPackage: ab\nStatus: install\nVersion: 2\n";
        assert_eq!(version_in(&status[..], "ab").as_deref(), Some("2"));
        assert_eq!(version_in(&status[..], "b"), None);
        let users = &b"root:x:0:0::/root:/bin/sh\nbroken\nwww\x1b:x:33:33::/:/bin/false\n"[..];
        assert_eq!(user_in(users, 33).as_deref(), Some("www\\x1b"));
        assert_eq!(user_in(users, 3), None);
    }
}
