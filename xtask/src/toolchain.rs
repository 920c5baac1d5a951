//! Choice of the compiler and the linker for the BPF programs, and of the next step if one is
//! missing.
//!
//! The programs need `core` built from source, and therefore a compiler with its sources and
//! unstable flags: a rustup nightly with `rust-src`, or the distribution's `rustc-web` with
//! `rust-web-src` and `RUSTC_BOOTSTRAP=1`. bpf-linker reads the compiler's bitcode, so it has to be
//! built against the LLVM major of that compiler. [`decide`] is pure: it gets facts and returns one
//! step; `setup` performs the step, gathers the facts again, and repeats.

use std::collections::BTreeSet;
use std::path::PathBuf;

/// LLVM majors that bpf-linker 0.13 can be built against.
pub const LLVM_MAJORS: [u32; 3] = [21, 22, 23];
/// `rust-version` of the workspace: cargo rejects an older compiler.
const OLDEST_RUST: (u32, u32) = (1, 95);
/// Packages of Debian and Ubuntu with a current compiler and its sources.
const DISTRIBUTION_RUST: [&str; 2] = ["rustc-web", "rust-web-src"];

/// Compiler that may build the BPF programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiler {
    /// Origin, which determines how it is called.
    pub origin: Origin,
    /// First two numbers of its version.
    pub version: (u32, u32),
    /// Major version of its LLVM.
    pub llvm: u32,
    /// True if the sources of `core` are installed.
    pub has_src: bool,
}

/// Origin of a compiler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Rustup toolchain, by name.
    Rustup(String),
    /// The distribution's compiler, by path.
    Distribution(PathBuf),
}

impl Compiler {
    /// Returns its name for messages.
    pub fn name(&self) -> String {
        let (major, minor) = self.version;
        match &self.origin {
            Origin::Rustup(name) => {
                format!("rustup's {name} ({major}.{minor}, LLVM {})", self.llvm)
            }
            Origin::Distribution(path) => {
                format!("{} ({major}.{minor}, LLVM {})", path.display(), self.llvm)
            }
        }
    }

    fn usable(&self) -> bool {
        self.has_src && self.version >= OLDEST_RUST && LLVM_MAJORS.contains(&self.llvm)
    }
}

/// Facts about the machine.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// All compilers found, the preferred one first.
    pub compilers: Vec<Compiler>,
    /// LLVM majors for which a working bpf-linker is in the cache.
    pub linkers: BTreeSet<u32>,
    /// LLVM majors whose development files are installed.
    pub llvm_dev: BTreeSet<u32>,
    /// True if a C compiler is installed.
    pub has_cc: bool,
    /// True if the distribution uses apt.
    pub has_apt: bool,
    /// Packages that setup has already installed in this run: requesting them again would not help.
    pub tried: BTreeSet<String>,
}

/// Next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Build with this compiler, and with the bpf-linker for its LLVM major.
    Ready(Compiler),
    /// Build bpf-linker against this LLVM major.
    BuildLinker(u32),
    /// Install these packages with apt-get.
    Install { packages: Vec<String>, why: String },
    /// Ask the user to do something first.
    Ask(String),
}

/// Returns the next step towards building the BPF programs.
pub fn decide(facts: &Facts) -> Next {
    if !facts.has_cc {
        return install(
            facts,
            vec!["gcc".into()],
            "there is no C compiler `cc`, which links every Rust program",
        )
        .unwrap_or_else(|| {
            Next::Ask("there is no C compiler `cc`\n  hint: install gcc or clang".into())
        });
    }
    let usable = || facts.compilers.iter().filter(|compiler| compiler.usable());
    // A compiler whose linker exists, or can be built without new packages, avoids an installation.
    if let Some(compiler) = usable().find(|compiler| facts.linkers.contains(&compiler.llvm)) {
        return Next::Ready(compiler.clone());
    }
    if let Some(compiler) = usable().find(|compiler| facts.llvm_dev.contains(&compiler.llvm)) {
        return Next::BuildLinker(compiler.llvm);
    }
    for compiler in usable() {
        let why = format!("bpf-linker has to be built against the LLVM of {}", compiler.name());
        if let Some(next) = install(facts, llvm_packages(compiler.llvm), &why) {
            return next;
        }
    }
    let has_distribution =
        facts.compilers.iter().any(|c| matches!(c.origin, Origin::Distribution(_)) && c.usable());
    if !has_distribution {
        let packages = DISTRIBUTION_RUST.map(String::from).to_vec();
        let why = "the BPF programs need `core` built from source, and no rustup \
                   nightly with rust-src is suitable";
        if let Some(next) = install(facts, packages, why) {
            return next;
        }
    }
    Next::Ask(advice(facts))
}

/// Returns the packages that the build of bpf-linker needs for one LLVM major.
fn llvm_packages(major: u32) -> Vec<String> {
    vec![
        format!("llvm-{major}-dev"),
        format!("libpolly-{major}-dev"),
        "libzstd-dev".into(),
        "zlib1g-dev".into(),
    ]
}

fn install(facts: &Facts, packages: Vec<String>, why: &str) -> Option<Next> {
    let untried = facts.has_apt && !packages.iter().all(|package| facts.tried.contains(package));
    untried.then(|| Next::Install { packages, why: why.into() })
}

/// Returns the advice for the user if setup cannot install what is missing.
fn advice(facts: &Facts) -> String {
    let mut text = String::from("no compiler here can build the BPF programs\n");
    if facts.compilers.is_empty() {
        text.push_str("  found: neither a rustup nightly nor the distribution's rustc\n");
    }
    for compiler in &facts.compilers {
        let lack = if !compiler.has_src {
            "lacks the sources of `core`".into()
        } else if compiler.version < OLDEST_RUST {
            format!("is older than {}.{}", OLDEST_RUST.0, OLDEST_RUST.1)
        } else if !LLVM_MAJORS.contains(&compiler.llvm) {
            format!("has an LLVM that bpf-linker does not support (it supports {LLVM_MAJORS:?})")
        } else {
            format!("needs the development files of LLVM {} to build bpf-linker", compiler.llvm)
        };
        text.push_str(&format!("  found: {}: {lack}\n", compiler.name()));
    }
    if facts.has_apt {
        text.push_str(&format!("  tried: apt-get install {}\n", DISTRIBUTION_RUST.join(" ")));
    }
    text.push_str(
        "  hint: `rustup toolchain install nightly --component rust-src`, and the development \
         files of the LLVM ",
    );
    text.push_str(
        "that `rustc +nightly -vV` names (llvm-config and libLLVM; `llvm22-devel`, `llvm-22-dev` \
         or the like)",
    );
    text
}

/// Parses version and LLVM major from the output of `rustc -vV`.
pub fn parse_version(text: &str) -> Option<((u32, u32), u32)> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let mut release = field("release: ")?.split('.');
    let version = (release.next()?.parse().ok()?, release.next()?.parse().ok()?);
    let llvm = field("LLVM version: ")?.split('.').next()?.parse().ok()?;
    Some((version, llvm))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nightly(llvm: u32, has_src: bool) -> Compiler {
        Compiler { origin: Origin::Rustup("nightly".into()), version: (1, 97), llvm, has_src }
    }

    fn debian(llvm: u32) -> Compiler {
        let origin = Origin::Distribution("/usr/bin/rustc".into());
        Compiler { origin, version: (1, 96), llvm, has_src: true }
    }

    fn facts(compilers: Vec<Compiler>, linkers: &[u32], llvm_dev: &[u32]) -> Facts {
        Facts {
            compilers,
            linkers: linkers.iter().copied().collect(),
            llvm_dev: llvm_dev.iter().copied().collect(),
            has_cc: true,
            has_apt: true,
            tried: BTreeSet::new(),
        }
    }

    fn packages(next: Next) -> Vec<String> {
        match next {
            Next::Install { packages, .. } => packages,
            other => panic!("expected an installation, not {other:?}"),
        }
    }

    #[test]
    fn a_fresh_debian_gets_the_compiler_then_llvm_then_the_linker() {
        let mut facts = facts(vec![], &[], &[]);
        assert_eq!(packages(decide(&facts)), ["rustc-web", "rust-web-src"]);
        facts.compilers.push(debian(22));
        assert_eq!(packages(decide(&facts))[0], "llvm-22-dev");
        facts.llvm_dev.insert(22);
        assert_eq!(decide(&facts), Next::BuildLinker(22));
        facts.linkers.insert(22);
        assert_eq!(decide(&facts), Next::Ready(debian(22)));
    }

    #[test]
    fn a_nightly_with_sources_is_preferred() {
        let facts = facts(vec![nightly(22, true), debian(22)], &[22], &[]);
        assert_eq!(decide(&facts), Next::Ready(nightly(22, true)));
    }

    #[test]
    fn a_nightly_without_sources_is_skipped() {
        let facts = facts(vec![nightly(22, false), debian(22)], &[22], &[]);
        assert_eq!(decide(&facts), Next::Ready(debian(22)));
    }

    #[test]
    fn a_compiler_with_a_built_linker_avoids_an_installation() {
        let facts = facts(vec![nightly(23, true), debian(22)], &[22], &[]);
        assert_eq!(decide(&facts), Next::Ready(debian(22)));
    }

    #[test]
    fn nightly_without_its_llvm_falls_back_to_the_distribution() {
        let mut facts = facts(vec![nightly(23, true)], &[], &[]);
        assert_eq!(packages(decide(&facts))[0], "llvm-23-dev");
        facts.tried = llvm_packages(23).into_iter().collect();
        assert_eq!(packages(decide(&facts)), ["rustc-web", "rust-web-src"]);
    }

    #[test]
    fn nothing_is_installed_twice() {
        let mut facts = facts(vec![], &[], &[]);
        facts.tried = DISTRIBUTION_RUST.map(String::from).into();
        assert!(
            matches!(decide(&facts), Next::Ask(text) if text.contains("hint:") && text.contains("rust-src"))
        );
    }

    #[test]
    fn without_apt_the_advice_names_what_each_compiler_lacks() {
        let mut facts =
            facts(vec![nightly(22, false), nightly(25, true), nightly(21, true)], &[], &[]);
        facts.has_apt = false;
        let Next::Ask(text) = decide(&facts) else { panic!("expected advice") };
        for part in ["lacks the sources", "[21, 22, 23]", "development files of LLVM 21"] {
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
    }

    #[test]
    fn a_compiler_older_than_the_workspace_is_skipped() {
        let old = Compiler { version: (1, 85), ..debian(21) };
        assert_eq!(
            packages(decide(&facts(vec![old], &[21], &[21]))),
            ["rustc-web", "rust-web-src"]
        );
    }

    #[test]
    fn a_missing_c_compiler_comes_first() {
        let mut facts = facts(vec![debian(22)], &[22], &[22]);
        facts.has_cc = false;
        assert_eq!(packages(decide(&facts)), ["gcc"]);
        facts.has_apt = false;
        assert!(matches!(decide(&facts), Next::Ask(text) if text.contains("hint: install gcc")));
    }

    #[test]
    fn versions_are_read_from_rustc() {
        let text = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nhost: x86_64-unknown-linux-gnu\n\
                    release: 1.97.0-nightly\nLLVM version: 22.1.4\n";
        assert_eq!(parse_version(text), Some(((1, 97), 22)));
        assert_eq!(parse_version("rustc 1.97.0"), None);
    }
}
