//! Patterns by which an operator names units, cgroups and programs.

use std::{fmt, path::Path};

use glob::MatchOptions;

/// A unit by its name, such as `db-*.service`, or a cgroup by its path, such as `/kubepods.slice/*`, either with all that is below
/// it; or a program by its path, such as `exe:/usr/lib/postgresql/*/bin/postgres`. `*`, `?` and `[a-z]` stand for what they do in a
/// shell; `*` never for a `/`.
#[derive(Debug, Clone, PartialEq)]
pub struct Pattern {
    of: Of,
    glob: glob::Pattern,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Unit,
    Cgroup,
    Program,
}

/// What a program's pattern begins with.
const PROGRAM: &str = "exe:";

const OPTIONS: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false };

impl Pattern {
    /// Reads one.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn new(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("is empty".to_owned());
        }
        let (of, text) = match text.strip_prefix(PROGRAM) {
            Some(path) => (Of::Program, path),
            None if text.starts_with('/') => (Of::Cgroup, text),
            None => (Of::Unit, text),
        };
        match of {
            Of::Unit if text.contains('/') => {
                return Err("is neither a unit's name nor a path, which begins with a /".to_owned());
            }
            Of::Program if !text.starts_with('/') => {
                return Err("names a program that does not begin with a /".to_owned());
            }
            _ => {}
        }
        let glob = glob::Pattern::new(text).map_err(|error| format!("is no pattern: {}", error.msg))?;
        Ok(Self { of, glob })
    }

    /// Whether it names programs, which are known only once a process is looked at.
    pub fn is_program(&self) -> bool {
        self.of == Of::Program
    }

    /// Whether a program is what this names.
    pub fn is_of(&self, program: &Path) -> bool {
        self.is_program() && self.glob.matches_path_with(program, OPTIONS)
    }

    /// Whether a cgroup is what this names, or is below it.
    pub fn covers(&self, cgroup: &str) -> bool {
        match self.of {
            Of::Cgroup => {
                let mut ends = cgroup.match_indices('/').map(|(at, _)| at).skip(1).chain([cgroup.len()]);
                ends.any(|end| self.glob.matches_with(&cgroup[..end], OPTIONS))
            }
            Of::Unit => cgroup.split('/').any(|name| self.glob.matches_with(name, OPTIONS)),
            Of::Program => false,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_program() {
            f.write_str(PROGRAM)?;
        }
        f.write_str(self.glob.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(pattern: &str, cgroup: &str) -> bool {
        Pattern::new(pattern).unwrap().covers(cgroup)
    }

    #[test]
    fn a_unit_is_found_wherever_it_is_with_all_below_it() {
        assert!(covers("ssh.service", "/system.slice/ssh.service"));
        assert!(covers("user@*.service", "/user.slice/user-0.slice/user@0.service/app.slice/app.service"));
        assert!(!covers("ssh.service", "/system.slice/openssh.service"));
        assert!(!covers("ssh.service", "/system.slice/ssh.service-backup.service"));
        assert!(!covers("*.service", "/a.slice/b.scope"));
    }

    #[test]
    fn a_path_covers_what_is_below_it_and_nothing_beside_it() {
        assert!(covers("/kubepods.slice", "/kubepods.slice/pod1/c"));
        assert!(covers("/kubepods.slice/*", "/kubepods.slice/pod1/c"));
        assert!(covers("/a", "/a"));
        assert!(!covers("/kubepods.slice/*", "/kubepods.slice"));
        assert!(!covers("/a", "/ab"));
        assert!(!covers("/a/c", "/a/b/c"));
        assert!(!covers("/a", ""));
    }

    #[test]
    fn a_program_is_named_by_its_path_and_is_no_cgroup() {
        let pattern = Pattern::new("exe:/usr/lib/postgresql/*/bin/postgres").unwrap();
        assert!(pattern.is_of(Path::new("/usr/lib/postgresql/15/bin/postgres")));
        assert!(!pattern.is_of(Path::new("/usr/lib/postgresql/15/16/bin/postgres")));
        assert!(!pattern.covers("/usr/lib/postgresql/15/bin/postgres"));
        assert!(!Pattern::new("/usr/bin/x").unwrap().is_of(Path::new("/usr/bin/x")));
        assert_eq!(pattern.to_string(), "exe:/usr/lib/postgresql/*/bin/postgres");
    }

    #[test]
    fn what_names_nothing_is_refused() {
        for text in ["", "system.slice/ssh.service", "a[", "***", "exe:", "exe:postgres"] {
            assert!(Pattern::new(text).is_err(), "{text}");
        }
    }
}
