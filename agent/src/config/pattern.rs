//! Patterns by which an operator names units, cgroups, programs, and pods by their namespace or
//! labels.

use std::{collections::BTreeMap, fmt, path::Path};

use glob::MatchOptions;

/// A unit by its name, such as `db-*.service`, where systemd has its cgroup (see [`units_of`]), or
/// a cgroup by its path, such as `/kubepods.slice/*`, either with all that is below it; a program
/// by its path, such as `exe:/usr/lib/postgresql/*/bin/postgres`; or pods, by their namespace, such
/// as `namespace:kube-*`, or a label, such as `pod:app=db-*`. `*`, `?` and `[a-z]` stand for what
/// they do in a shell; `*` never for a `/`.
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

/// What a program's pattern begins with, a namespace's, and a label's.
const PROGRAM: &str = "exe:";
const NAMESPACE: &str = "namespace:";
const LABEL: &str = "pod:";

/// Endings of the names of units that have a cgroup.
const UNITS: [&str; 6] = [".service", ".scope", ".slice", ".socket", ".mount", ".swap"];

/// Longest name in a label's key, and longest prefix of one: what Kubernetes takes.
const KEY_NAME_MAX: usize = 63;
const KEY_PREFIX_MAX: usize = 253;

const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

impl Pattern {
    /// Reads one. A pattern that could never match is refused: it would protect nothing.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn new(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("is empty".to_owned());
        }
        let (of, text) = if let Some(path) = text.strip_prefix(PROGRAM) {
            (Subject::Program, path)
        } else if let Some(name) = text.strip_prefix(NAMESPACE) {
            (Subject::Namespace, name)
        } else if let Some(label) = text.strip_prefix(LABEL) {
            let (key, value) = label
                .split_once('=')
                .ok_or("names a label without its value, as in pod:KEY=VALUE")?;
            if !is_label_key(key) {
                return Err(format!("names a label {key:?}, which no pod can have"));
            }
            (Subject::Label(key.to_owned()), value)
        } else if text.starts_with('/') {
            (Subject::Cgroup, text)
        } else {
            (Subject::Unit, text)
        };
        match of {
            Subject::Unit if text.contains('/') => {
                return Err("is neither a unit's name nor a path, which begins with a /".to_owned());
            }
            // A unit's name may have a colon; a word before one is rather a kind that is spelled
            // otherwise.
            Subject::Unit
                if text.contains(':') && !UNITS.iter().any(|suffix| text.ends_with(suffix)) =>
            {
                return Err(format!(
                    "begins with none of {PROGRAM}, {NAMESPACE} and {LABEL}, and ends as no unit does"
                ));
            }
            Subject::Program if !text.starts_with('/') => {
                return Err("names a program that does not begin with a /".to_owned());
            }
            Subject::Namespace
                if text.is_empty()
                    || !text.chars().all(|c| is_of_namespace(c) || is_of_glob(c)) =>
            {
                return Err("names a namespace by other than lowercase letters, digits and dashes"
                    .to_owned());
            }
            Subject::Label(_) if !text.chars().all(|c| is_of_label(c) || is_of_glob(c)) => {
                return Err(
                    "names a value by other than letters, digits, dashes, dots and underscores"
                        .to_owned(),
                );
            }
            _ => {}
        }
        let glob =
            glob::Pattern::new(text).map_err(|error| format!("is no pattern: {}", error.msg))?;
        if of == Subject::Unit && !may_be_unit(text) {
            return Err(
                "ends neither as a unit's name does, such as in .service, nor in a wildcard"
                    .to_owned(),
            );
        }
        Ok(Self { of, glob })
    }

    /// Whether it names programs, which are known only once a process is looked at.
    pub fn is_program(&self) -> bool {
        self.of == Subject::Program
    }

    /// Whether it names pods, of which a cgroup tells no more than that it is one's.
    pub fn is_pods(&self) -> bool {
        self.of == Subject::Namespace || self.is_label()
    }

    /// Whether it names pods by a label.
    pub fn is_label(&self) -> bool {
        matches!(self.of, Subject::Label(_))
    }

    /// Whether a program is what this names.
    pub fn is_of(&self, program: &Path) -> bool {
        self.is_program() && self.glob.matches_path_with(program, OPTIONS)
    }

    /// Whether a namespace is what this names.
    pub fn is_namespace(&self, namespace: &str) -> bool {
        self.of == Subject::Namespace && self.glob.matches_with(namespace, OPTIONS)
    }

    /// Whether one of a pod's labels is what this names.
    pub fn is_among(&self, labels: &BTreeMap<String, String>) -> bool {
        let Subject::Label(key) = &self.of else { return false };
        labels.get(key).is_some_and(|value| self.glob.matches_with(value, OPTIONS))
    }

    /// Whether a cgroup is what this names, or is below it.
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

/// Names of the units that systemd itself made the cgroup of, from the root inwards: slices, each
/// inside the slice that its name says, then one unit that is no slice. Everything below that unit
/// belongs to whoever the unit runs: a user's own manager, a container, or a service with
/// `Delegate=`. They may name a cgroup there `ssh.service`, and it is not that unit.
///
/// A path that is not under the root that the agent sees (`/../a`) names no unit: nobody knows what
/// it begins in.
fn units_of(cgroup: &str) -> impl Iterator<Item = &str> {
    let mut names = cgroup.strip_prefix('/').unwrap_or_default().split('/');
    // The stem of the slice above; of the root slice it is empty. Nothing once a unit that is no
    // slice was found.
    let mut above = Some("");
    std::iter::from_fn(move || {
        let parent = above?;
        // systemd puts a `_` before a name that would look like a file of the cgroup's own, and
        // before one that begins with a `_`.
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

/// Tells if systemd puts the slice with this stem directly into the other: `a-b.slice` into
/// `a.slice`, and `a.slice` into the root.
fn is_slice_in(parent: &str, stem: &str) -> bool {
    let own = if parent.is_empty() {
        Some(stem)
    } else {
        stem.strip_prefix(parent).and_then(|own| own.strip_prefix('-'))
    };
    own.is_some_and(|own| !own.is_empty() && !own.contains('-'))
}

/// Tells if a name has one of the [`UNITS`]' endings, and something before it.
fn is_unit(name: &str) -> bool {
    UNITS.iter().any(|ending| name.strip_suffix(ending).is_some_and(|stem| !stem.is_empty()))
}

/// Tells if a glob can match the name of a unit: it ends as one does, or in a wildcard.
fn may_be_unit(text: &str) -> bool {
    text.ends_with(['*', '?', ']']) || UNITS.iter().any(|ending| text.ends_with(ending))
}

/// A name with an optional domain before it, as in `app.kubernetes.io/name`.
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
    fn a_unit_is_found_where_systemd_has_it_with_all_below_it() {
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
            // As systemd writes a name that looks like a file of the cgroup's.
            ("memory.service", "/system.slice/_memory.service"),
            ("_a.service", "/system.slice/__a.service"),
        ] {
            assert!(covers(pattern, cgroup), "{pattern} {cgroup}");
        }
    }

    #[test]
    fn a_name_that_anybody_may_give_is_no_unit() {
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
            // Not where systemd would have them.
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

    /// A place that systemd gives to its own: slices, each in the one that its name says.
    fn slices() -> impl Strategy<Value = String> {
        prop::collection::vec("[a-z][a-z0-9\\\\]{0,6}", 0..4).prop_map(|parts| {
            let names =
                (1..=parts.len()).map(|count| format!("/{}.slice", parts[..count].join("-")));
            names.collect()
        })
    }

    /// A cgroup's name as a user may choose it, unit or not.
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
        fn no_path_below_a_leaf_makes_a_unit(
            slices in slices(),
            leaf in "[a-z]{1,8}(@[0-9]{1,4})?\\.(service|scope|socket|mount|swap)|[a-z0-9]{1,12}",
            below in prop::collection::vec(names(), 1..5),
        ) {
            prop_assume!(leaf != "ssh.service" && !leaf.ends_with(".slice"));
            let below: String = below.iter().map(|name| format!("/{name}")).collect();
            let cgroup = format!("{slices}/{leaf}{below}/ssh.service");
            prop_assert!(!covers("ssh.service", &cgroup), "{}", cgroup);
            // Only a path says so.
            prop_assert!(covers(&glob::Pattern::escape(&cgroup), &cgroup));
        }

        #[test]
        fn any_path_is_read_and_names_units_alone(cgroup in ".{0,80}|(/[^/]{0,9}(\\.slice)?){0,6}") {
            for name in units_of(&cgroup) {
                prop_assert!(is_unit(name) && cgroup.contains(name));
            }
        }
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
    fn pods_are_named_by_their_namespace_or_a_label_and_are_no_cgroup() {
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
        // That there is one, and one without a value.
        assert!(Pattern::new("pod:app=*").unwrap().is_among(&labels("app", "")));
        let without = Pattern::new("pod:app=").unwrap();
        assert!(without.is_among(&labels("app", "")) && !without.is_among(&labels("app", "x")));
        for text in ["namespace:kube-*", "pod:app.kubernetes.io/name=db-?", "pod:app="] {
            assert_eq!(Pattern::new(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_names_nothing_is_refused() {
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
