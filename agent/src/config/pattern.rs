//! Patterns by which an operator names units and cgroups.

use std::fmt;

use glob::MatchOptions;

/// A unit by its name, such as `db-*.service`, or a cgroup by its path, such as `/kubepods.slice/*`; either with all that is below
/// it. `*`, `?` and `[a-z]` stand for what they do in a shell; `*` never for a `/`.
#[derive(Debug, Clone, PartialEq)]
pub struct Pattern(glob::Pattern);

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
        if text.contains('/') && !text.starts_with('/') {
            return Err("is neither a unit's name nor a path, which begins with a /".to_owned());
        }
        glob::Pattern::new(text).map(Self).map_err(|error| format!("is no pattern: {}", error.msg))
    }

    /// Whether a cgroup is what this names, or is below it.
    pub fn covers(&self, cgroup: &str) -> bool {
        if self.0.as_str().starts_with('/') {
            let ends = cgroup.match_indices('/').map(|(at, _)| at).skip(1).chain([cgroup.len()]);
            ends.into_iter().any(|end| self.0.matches_with(&cgroup[..end], OPTIONS))
        } else {
            cgroup.split('/').any(|name| self.0.matches_with(name, OPTIONS))
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
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
    fn what_names_nothing_is_refused() {
        for text in ["", "system.slice/ssh.service", "a[", "***"] {
            assert!(Pattern::new(text).is_err(), "{text}");
        }
    }
}
