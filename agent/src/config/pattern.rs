//! Patterns for units, cgroups, programs, and for pods by namespace or label.

use std::{collections::BTreeMap, fmt, path::Path};

use glob::MatchOptions;

/// A pattern for a unit by name, such as `db-*.service`, at the place of its cgroup under systemd
/// (see [`units_of`]), or for a cgroup by path, such as `/kubepods.slice/*`, either with everything
/// below; for a program by path, such as `exe:/usr/lib/postgresql/*/bin/postgres`; or for pods by
/// namespace, such as `namespace:kube-*`, or label, such as `pod:app=db-*`. `*`, `?` and `[a-z]`
/// mean the same as in a shell; `*` does not match `/`.
#[derive(Debug, Clone, PartialEq)]
pub struct Pattern {
    of: Subject,
    glob: glob::Pattern,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Subject {
    Unit,
    Cgroup,
    Program,
    Namespace,
    /// The label with this key.
    Label(String),
}

/// Prefixes of patterns for programs, namespaces and labels.
const PROGRAM: &str = "exe:";
const NAMESPACE: &str = "namespace:";
const LABEL: &str = "pod:";

/// Suffixes of units that have a cgroup.
const UNITS: [&str; 6] = [".service", ".scope", ".slice", ".socket", ".mount", ".swap"];

/// Maximum length of the name and of the prefix in a label's key: those of Kubernetes.
const KEY_NAME_MAX: usize = 63;
const KEY_PREFIX_MAX: usize = 253;

const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

impl Pattern {
    /// Parses a pattern. One that can never match is refused: it would protect nothing.
    ///
    /// # Errors
    ///
    /// Returns the mistake, to follow the text in a sentence.
    pub fn new(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("is empty".to_owned());
        }
        let (of, text) = if let Some(path) = text.strip_prefix(PROGRAM) {
            (Subject::Program, path)
        } else if let Some(name) = text.strip_prefix(NAMESPACE) {
            (Subject::Namespace, name)
        } else if let Some(label) = text.strip_prefix(LABEL) {
            let (key, value) =
                label.split_once('=').ok_or("has a label without a value: write pod:KEY=VALUE")?;
            if !is_label_key(key) {
                return Err(format!("has the label {key:?}, which Kubernetes does not allow"));
            }
            (Subject::Label(key.to_owned()), value)
        } else if text.starts_with('/') {
            (Subject::Cgroup, text)
        } else {
            (Subject::Unit, text)
        };
        match of {
            Subject::Unit if text.contains('/') => {
                return Err("is neither a unit name nor an absolute path".to_owned());
            }
            // A unit name may contain a colon, but here it more likely ends a misspelled prefix.
            Subject::Unit
                if text.contains(':') && !UNITS.iter().any(|suffix| text.ends_with(suffix)) =>
            {
                return Err(format!(
                    "begins with an unknown prefix: use {PROGRAM}, {NAMESPACE} or {LABEL}"
                ));
            }
            Subject::Program if !text.starts_with('/') => {
                return Err("names a program by a relative path".to_owned());
            }
            Subject::Namespace
                if text.is_empty()
                    || !text.chars().all(|c| is_of_namespace(c) || is_of_glob(c)) =>
            {
                return Err(
                    "has a namespace with characters other than lowercase letters, digits \
                     and dashes"
                        .to_owned(),
                );
            }
            Subject::Label(_) if !text.chars().all(|c| is_of_label(c) || is_of_glob(c)) => {
                return Err(
                    "has a label value with characters other than letters, digits, dashes, \
                     dots and underscores"
                        .to_owned(),
                );
            }
            _ => {}
        }
        let glob = glob::Pattern::new(text)
            .map_err(|error| format!("is not a valid pattern: {}", error.msg))?;
        if of == Subject::Unit && !may_be_unit(text) {
            return Err(
                "ends neither in a unit suffix such as .service nor in a wildcard".to_owned()
            );
        }
        Ok(Self { of, glob })
    }

    /// Returns whether it matches programs, which takes more than the cgroup of a process.
    pub fn is_program(&self) -> bool {
        self.of == Subject::Program
    }

    /// Returns whether it matches pods, by namespace or label, which takes more than their cgroup.
    pub fn is_pods(&self) -> bool {
        self.of == Subject::Namespace || self.is_label()
    }

    /// Returns whether it matches pods by a label.
    pub fn is_label(&self) -> bool {
        matches!(self.of, Subject::Label(_))
    }

    /// Returns whether it matches a program.
    pub fn is_of(&self, program: &Path) -> bool {
        self.is_program() && self.glob.matches_path_with(program, OPTIONS)
    }

    /// Returns whether it matches a namespace.
    pub fn is_namespace(&self, namespace: &str) -> bool {
        self.of == Subject::Namespace && self.glob.matches_with(namespace, OPTIONS)
    }

    /// Returns whether it matches one of a pod's labels.
    pub fn is_among(&self, labels: &BTreeMap<String, String>) -> bool {
        let Subject::Label(key) = &self.of else { return false };
        labels.get(key).is_some_and(|value| self.glob.matches_with(value, OPTIONS))
    }

    /// Returns whether it matches a cgroup or one above it.
    pub fn covers(&self, cgroup: &str) -> bool {
        match self.of {
            Subject::Cgroup => {
                let mut ends =
                    cgroup.match_indices('/').map(|(at, _)| at).skip(1).chain([cgroup.len()]);
                ends.any(|end| self.glob.matches_with(&cgroup[..end], OPTIONS))
            }
            Subject::Unit => units_of(cgroup).any(|name| self.glob.matches_with(name, OPTIONS)),
            Subject::Program | Subject::Namespace | Subject::Label(_) => false,
        }
    }
}

/// Returns the names of the units whose cgroups systemd itself created, from the root down: slices,
/// each inside the slice that its name implies, then one unit that is not a slice. Everything below
/// that unit belongs to its processes: a user's own manager, a container, or a service with
/// `Delegate=`. They may name a cgroup there `ssh.service`, which is not that unit.
///
/// A path outside the root that the agent sees (`/../a`) contains no unit: its beginning is
/// unknown.
fn units_of(cgroup: &str) -> impl Iterator<Item = &str> {
    let mut names = cgroup.strip_prefix('/').unwrap_or_default().split('/');
    // Stem of the slice above, empty for the root slice; `None` after a unit that is not a slice.
    let mut above = Some("");
    std::iter::from_fn(move || {
        let parent = above?;
        // systemd puts `_` before a name that looks like a control file of cgroups, and before one
        // that begins with `_`.
        let name = names.next().map(|name| name.strip_prefix('_').unwrap_or(name))?;
        above = match name.strip_suffix(".slice") {
            Some(stem) if is_slice_in(parent, stem) => Some(stem),
            Some(_) => return None,
            None => None,
        };
        is_unit(name).then_some(name)
    })
    .fuse()
}

/// Returns whether systemd puts the slice with this stem directly into the parent: `a-b.slice` into
/// `a.slice`, and `a.slice` into the root.
fn is_slice_in(parent: &str, stem: &str) -> bool {
    let own = if parent.is_empty() {
        Some(stem)
    } else {
        stem.strip_prefix(parent).and_then(|own| own.strip_prefix('-'))
    };
    own.is_some_and(|own| !own.is_empty() && !own.contains('-'))
}

/// Returns whether a name has one of the suffixes in [`UNITS`], and a stem.
fn is_unit(name: &str) -> bool {
    UNITS.iter().any(|ending| name.strip_suffix(ending).is_some_and(|stem| !stem.is_empty()))
}

/// Returns whether a glob can match a unit name: it ends in a unit suffix or in a wildcard.
fn may_be_unit(text: &str) -> bool {
    text.ends_with(['*', '?', ']']) || UNITS.iter().any(|ending| text.ends_with(ending))
}

/// Returns whether a key is a name with an optional domain, as in `app.kubernetes.io/name`.
fn is_label_key(key: &str) -> bool {
    let (prefix, name) =
        key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let ends_well = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.ends_with(|c: char| c.is_ascii_alphanumeric())
    };
    let is_prefix = |prefix: &str| {
        prefix.len() <= KEY_PREFIX_MAX
            && ends_well(prefix)
            && prefix.chars().all(|c| is_of_namespace(c) || c == '.')
    };
    name.len() <= KEY_NAME_MAX
        && ends_well(name)
        && name.chars().all(is_of_label)
        && prefix.is_none_or(is_prefix)
}

fn is_of_namespace(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'
}

fn is_of_label(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

fn is_of_glob(c: char) -> bool {
    matches!(c, '*' | '?' | '[' | ']' | '!')
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.of {
            Subject::Unit | Subject::Cgroup => {}
            Subject::Program => f.write_str(PROGRAM)?,
            Subject::Namespace => f.write_str(NAMESPACE)?,
            Subject::Label(key) => write!(f, "{LABEL}{key}=")?,
        }
        f.write_str(self.glob.as_str())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn covers(pattern: &str, cgroup: &str) -> bool {
        Pattern::new(pattern).unwrap().covers(cgroup)
    }

    #[test]
    fn a_unit_matches_at_its_place_with_everything_below() {
        assert!(covers("ssh.service", "/system.slice/ssh.service"));
        assert!(covers("dbus-:1.2-*.service", "/system.slice/dbus-:1.2-org.example.service"));
        assert!(covers(
            "user@*.service",
            "/user.slice/user-0.slice/user@0.service/app.slice/app.service"
        ));
        assert!(!covers("ssh.service", "/system.slice/openssh.service"));
        assert!(!covers("ssh.service", "/system.slice/ssh.service-backup.service"));
        assert!(!covers("*.service", "/a.slice/b.scope"));
        for (pattern, cgroup) in [
            ("init.scope", "/init.scope"),
            ("spillway.service", "/spillway.service"),
            ("*getty@*.service", "/system.slice/system-getty.slice/getty@tty1.service"),
            ("x.service", "/foo.slice/foo-bar.slice/x.service"),
            ("foo-bar.slice", "/foo.slice/foo-bar.slice/x.service"),
            ("user.slice", "/user.slice/user-1000.slice/user@1000.service/app.slice/ssh.service"),
            ("session-*.scope", "/user.slice/user-1000.slice/session-3.scope"),
            ("ssh.service", "/system.slice/ssh.service/worker/1"),
            (
                "system-systemd\\x2dfsck.slice",
                "/system.slice/system-systemd\\x2dfsck.slice/systemd-fsck@a.service",
            ),
            ("docker-*", "/system.slice/docker-0a1b.scope/ssh.service"),
            // Names that look like control files of cgroups.
            ("memory.service", "/system.slice/_memory.service"),
            ("_a.service", "/system.slice/__a.service"),
        ] {
            assert!(covers(pattern, cgroup), "{pattern} {cgroup}");
        }
    }

    #[test]
    fn a_name_that_anyone_can_choose_is_not_a_unit() {
        for (pattern, cgroup) in [
            ("ssh.service", "/user.slice/user-1000.slice/user@1000.service/app.slice/ssh.service"),
            (
                "session-*.scope",
                "/user.slice/user-1000.slice/user@1000.service/app.slice/session-9.scope",
            ),
            ("systemd-*", "/user.slice/user-1000.slice/user@1000.service/systemd-journald.service"),
            ("ssh.service", "/system.slice/docker-0a1b.scope/system.slice/ssh.service"),
            ("ssh.service", "/system.slice/api.service/ssh.service"),
            ("ssh.service", "/docker/0a1b/ssh.service"),
            ("ssh.service", "/kubepods/burstable/pod1/0a1b/ssh.service"),
            (
                "ssh.service",
                "/kubepods.slice/kubepods-pod1.slice/cri-containerd-0a1b.scope/ssh.service",
            ),
            ("ssh.service", "/machine.slice/libpod-0a1b.scope/container/ssh.service"),
            // Not at the place that systemd would choose.
            ("ssh.service", "/system.slice/evil.slice/ssh.service"),
            ("ssh.service", "/a-b.slice/ssh.service"),
            ("ssh.service", "/.slice/ssh.service"),
            ("ssh.service", "/system.slice/system-.slice/ssh.service"),
            ("ssh.service", "/system.slice/system-a-b.slice/ssh.service"),
            ("ssh.service", "/system.slice//ssh.service"),
            ("ssh.service", "/../system.slice/ssh.service"),
            ("ssh.service", "ssh.service"),
            ("*", "/docker/0a1b"),
            ("*", "/"),
            ("*", ""),
        ] {
            assert!(!covers(pattern, cgroup), "{pattern} {cgroup}");
        }
    }

    /// Slices, each in the one that its name implies.
    fn slices() -> impl Strategy<Value = String> {
        prop::collection::vec("[a-z][a-z0-9\\\\]{0,6}", 0..4).prop_map(|parts| {
            let names =
                (1..=parts.len()).map(|count| format!("/{}.slice", parts[..count].join("-")));
            names.collect()
        })
    }

    /// Names of cgroups as users may choose them.
    fn names() -> impl Strategy<Value = String> {
        let units = [
            "ssh.service",
            "session-3.scope",
            "init.scope",
            "system.slice",
            "a-b.slice",
            "user@0.service",
            "..",
            "_",
            "",
        ];
        prop_oneof![prop::sample::select(units.to_vec()).prop_map(str::to_owned), "[^/\n]{1,12}"]
    }

    proptest! {
        #[test]
        fn a_unit_is_protected_wherever_its_slice_is(slices in slices(), below in prop::collection::vec(names(), 0..3)) {
            let below: String = below.iter().map(|name| format!("/{name}")).collect();
            let cgroup = format!("{slices}/ssh.service{below}");
            prop_assert!(covers("ssh.service", &cgroup) && covers("s?h.*", &cgroup), "{}", cgroup);
        }

        #[test]
        fn nothing_below_a_unit_is_a_unit(
            slices in slices(),
            leaf in "[a-z]{1,8}(@[0-9]{1,4})?\\.(service|scope|socket|mount|swap)|[a-z0-9]{1,12}",
            below in prop::collection::vec(names(), 1..5),
        ) {
            prop_assume!(leaf != "ssh.service" && !leaf.ends_with(".slice"));
            let below: String = below.iter().map(|name| format!("/{name}")).collect();
            let cgroup = format!("{slices}/{leaf}{below}/ssh.service");
            prop_assert!(!covers("ssh.service", &cgroup), "{}", cgroup);
            // A path matches.
            prop_assert!(covers(&glob::Pattern::escape(&cgroup), &cgroup));
        }

        #[test]
        fn any_path_contains_units_only(cgroup in ".{0,80}|(/[^/]{0,9}(\\.slice)?){0,6}") {
            for name in units_of(&cgroup) {
                prop_assert!(is_unit(name) && cgroup.contains(name));
            }
        }
    }

    #[test]
    fn a_path_covers_everything_below_and_nothing_beside() {
        assert!(covers("/kubepods.slice", "/kubepods.slice/pod1/c"));
        assert!(covers("/kubepods.slice/*", "/kubepods.slice/pod1/c"));
        assert!(covers("/a", "/a"));
        assert!(!covers("/kubepods.slice/*", "/kubepods.slice"));
        assert!(!covers("/a", "/ab"));
        assert!(!covers("/a/c", "/a/b/c"));
        assert!(!covers("/a", ""));
    }

    #[test]
    fn a_program_matches_by_path_and_is_not_a_cgroup() {
        let pattern = Pattern::new("exe:/usr/lib/postgresql/*/bin/postgres").unwrap();
        assert!(pattern.is_of(Path::new("/usr/lib/postgresql/15/bin/postgres")));
        assert!(!pattern.is_of(Path::new("/usr/lib/postgresql/15/16/bin/postgres")));
        assert!(!pattern.covers("/usr/lib/postgresql/15/bin/postgres"));
        assert!(!Pattern::new("/usr/bin/x").unwrap().is_of(Path::new("/usr/bin/x")));
        assert_eq!(pattern.to_string(), "exe:/usr/lib/postgresql/*/bin/postgres");
    }

    #[test]
    fn pods_match_by_namespace_or_label_and_are_not_cgroups() {
        let namespace = Pattern::new("namespace:kube-*").unwrap();
        assert!(namespace.is_namespace("kube-system") && !namespace.is_namespace("shop-kube-1"));
        assert!(namespace.is_pods() && !namespace.is_label() && !namespace.covers("kube-system"));
        assert!(!Pattern::new("kube-*").unwrap().is_namespace("kube-system"));

        let labels = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        let label = Pattern::new("pod:app.kubernetes.io/name=db-?").unwrap();
        assert!(label.is_among(&labels("app.kubernetes.io/name", "db-1")));
        assert!(!label.is_among(&labels("app.kubernetes.io/name", "db-10")));
        assert!(!label.is_among(&labels("name", "db-1")) && !label.is_among(&BTreeMap::new()));
        assert!(
            label.is_pods()
                && label.is_label()
                && !label.covers("db-1")
                && !label.is_namespace("db-1")
        );
        // Any value, and no value.
        assert!(Pattern::new("pod:app=*").unwrap().is_among(&labels("app", "")));
        let without = Pattern::new("pod:app=").unwrap();
        assert!(without.is_among(&labels("app", "")) && !without.is_among(&labels("app", "x")));
        for text in ["namespace:kube-*", "pod:app.kubernetes.io/name=db-?", "pod:app="] {
            assert_eq!(Pattern::new(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_pattern_that_cannot_match_is_refused() {
        let long = format!("pod:{}=x", "k".repeat(64));
        for text in [
            "",
            "system.slice/ssh.service",
            "ns:kube-*",
            "Namespace:shop",
            "label:app=db",
            "a[",
            "docker",
            "ssh.servic",
            "***",
            "exe:",
            "exe:postgres",
            "namespace:",
            "namespace:Shop",
            "namespace:a/b",
            "namespace:a_b",
            "namespace:[a",
            "pod:",
            "pod:app",
            "pod:=x",
            "pod:a/b/c=x",
            "pod:/a=x",
            "pod:Example.com/a=x",
            "pod:-a=x",
            "pod:a=b/c",
            "pod:a=b,c=d",
            "pod:a b=c",
            "pod:a=b=c",
            &long,
        ] {
            assert!(Pattern::new(text).is_err(), "{text}");
        }
    }
}
