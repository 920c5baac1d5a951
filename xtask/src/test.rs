//! `cargo xtask test`: runs all tests, and lists those that could not run, with the reason; with
//! `--quick`, only those that are fast enough to run between two edits; with `--thorough`, also all
//! scenes with real servers, load shed at their doors, and ten thousand schedules of faults; with
//! `--kubernetes`, only those with a real API server, which is built once.
//!
//! A test that needs root or BPF and lacks it appends `name<TAB>reason` to the file named in
//! `SPILLWAY_SKIPS` and passes. After the tests, every probe is checked on every available kernel,
//! and the detectors are scored on the corpora beside it. Skipped tests are listed last. If `CI` is
//! set, a skip that `.ci/expected-skips` does not list fails the run, because CI promises to run
//! everything else.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;

use anyhow::Context as _;

use crate::deb_servers::{SERVERS, TELEMETRY};
use crate::signals::Interrupted;
use crate::tools::{DENY, NEXTEST};
use crate::wheels::{BALANCERS, WEBHOOKS};
use crate::workspace::{Workspace, is_ci, lint};
use crate::{
    build::{self, RELEASE_BINARIES},
    child, collector, corpus, dist, kubernetes, scenes, setup, simulate, vm,
};

/// Run all tests: formatting, lints, unit, replay, host and kernel tests
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask test              everything; without root or BPF, tests that need them are \
    listed as skipped\n  \
    cargo xtask test --quick      formatting, lints, unit and pure tests, while you work\n  \
    cargo xtask test leak         only tests whose name contains \"leak\", without formatting and \
    lints\n  \
    cargo xtask test --thorough   everything, all scenes with real servers, and more\n  \
    cargo xtask test --thorough redis/   scenes whose name contains \"redis/\", and such tests\n  \
    cargo xtask test --kubernetes   only tests with a real API server of Kubernetes\n\n\
    Exit codes: 0 all passed, 1 something failed (or, if CI is set, was skipped unexpectedly).")]
pub struct Args {
    /// Run only tests whose name contains one of these
    filters: Vec<String>,

    /// Run only formatting, lints and fast tests, within two minutes in a built tree: those that
    /// need no root, other kernel, server, corpus or thousand kills
    #[arg(long)]
    quick: bool,

    /// Also run all scenes with real servers, shed load at their doors, and play ten thousand
    /// schedules of faults in a fleet; some servers are downloaded (250 MB); about half an hour
    #[arg(long, conflicts_with = "quick")]
    thorough: bool,

    /// Run only tests with a real Kubernetes API server, which is built once from Debian's source
    /// (six minutes on two cores); with names, run those tests with it
    #[arg(long, conflicts_with_all = ["quick", "thorough"])]
    kubernetes: bool,
}

/// Parts of the names of all tests with a real Kubernetes API server or the container image.
const WITH_KUBERNETES: [&str; 2] = ["real_kubernetes::", "daemonset::"];

impl Args {
    /// Returns whether the build lints, too: a run of selected tests is to work in an unfinished
    /// tree.
    fn lints(&self) -> bool {
        self.filters().is_empty()
    }

    /// Returns the parts of names that select tests; all are run without any.
    fn filters(&self) -> Vec<String> {
        match self.kubernetes && self.filters.is_empty() {
            true => WITH_KUBERNETES.map(str::to_owned).to_vec(),
            false => self.filters.clone(),
        }
    }
}

/// Runs the command.
pub fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let workspace = Workspace::find()?;
    let strict = is_ci();
    let nextest = setup::cargo_tool(&workspace, &NEXTEST)?;
    let mut skips = BTreeMap::new();
    let mut has_programs = !args.quick;
    // The quick tests run no BPF programs; programs that are already built are embedded.
    let compiler = if args.quick { Ok(None) } else { setup::bpf(&workspace).map(Some) };
    match compiler {
        Ok(None) => {}
        Ok(Some(compiler)) => build::bpf_with(&workspace, &compiler)?,
        // If they cannot be built, for example without root and sudo, the other tests still run,
        // except in CI.
        Err(error) if strict || error.is::<Interrupted>() => return Err(error),
        Err(error) => {
            eprintln!("test: continuing without the BPF programs: {error:#}");
            let reason = error.to_string().lines().next().unwrap_or_default().to_owned();
            skips.insert("every test of the BPF programs, on every kernel".to_owned(), reason);
            has_programs = false;
        }
    }
    let is_full_run = args.filters().is_empty() && !args.quick;
    let passed = thread::scope(|scope| {
        // The builds run in parallel, because each leaves a processor idle near its end. Both end
        // before the first test: agents under test would report the growing compiler.
        let release = is_full_run
            .then(|| scope.spawn(|| build::binaries(&workspace, true, &RELEASE_BINARIES)));
        let passed = check_and_build(args, &workspace)?;
        if let Some(release) = release {
            release.join().map_err(|_| anyhow::anyhow!("the release build panicked"))??;
        }
        anyhow::Ok(passed)
    })?;
    if !passed {
        return Ok(ExitCode::FAILURE);
    }
    let skips_file = workspace.target.join("skipped-tests");
    fs::write(&skips_file, "")
        .with_context(|| format!("{} cannot be written", skips_file.display()))?;
    let mut command = nextest;
    command
        .args(["run", "--workspace", "--locked"])
        .args(args.filters())
        .env("SPILLWAY_SKIPS", &skips_file);
    // A full run tests the agent as it ships. A run of selected tests needs no optimised build.
    command.env("SPILLWAY_BIN", workspace.binary(is_full_run, "spillway"));
    if args.quick {
        command.args(["--profile", "quick"]);
    }
    let has_scenes = args.thorough && scenes::are_any(&workspace, &args.filters)?;
    if has_scenes {
        // The filters may name scenes alone.
        command.args(["--no-tests", "pass"]);
    }
    workspace.equip(&mut command);
    if args.lints() {
        // The same build as before.
        lint(&mut command);
    }
    if !args.quick {
        provide(&mut command, strict)?;
    }
    if args.thorough {
        command.env("SPILLWAY_BALANCERS", BALANCERS.provide()?);
        command.env("SPILLWAY_BROWSER", setup::browser()?);
        command.env("SPILLWAY_COLLECTOR", collector::provide()?);
    }
    if args.kubernetes {
        command.env("SPILLWAY_KUBERNETES", kubernetes::provide()?);
        setup::containers()?;
        command.env("SPILLWAY_IMAGE", dist::image_for_tests(&workspace)?);
    }
    let mut failures = thread::scope(|scope| {
        // The scores take what everything else leaves of the processors: most tests wait.
        let scores = is_full_run.then(|| {
            scope.spawn(|| {
                Ok([corpus::meets_targets(&workspace)?, simulate::meets_targets(&workspace)?])
            })
        });
        let mut failures = run_tests(args, has_scenes, &workspace, &mut command)?;
        if let Some(scores) = scores {
            let (failed, skipped) = check_kernels(&workspace, has_programs, scores)?;
            failures.extend(failed);
            skips.extend(skipped);
        }
        anyhow::Ok(failures)
    })?;

    skips.extend(parse_skips(&fs::read_to_string(&skips_file).unwrap_or_default()));
    println!("{}", list(&skips));
    let unexpected = unexpected(&skips, &expected_skips(&workspace.root));
    if strict && !unexpected.is_empty() {
        println!(
            "hint: if CI is set, a skipped test has to run, or to be listed in \
             .ci/expected-skips with a reason"
        );
        failures.extend(unexpected.iter().map(|name| format!("{name}: skipped in CI")));
    }
    // Last, so that the log ends with it.
    failures.iter().for_each(|failure| println!("Failed: {failure}"));
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs nextest, and the scenes with real servers if there are any. Returns the failures.
fn run_tests(
    args: &Args,
    has_scenes: bool,
    workspace: &Workspace,
    nextest: &mut Command,
) -> anyhow::Result<Vec<String>> {
    let report = report(workspace, args.quick);
    // A report of an earlier run would be misleading.
    fs::remove_file(&report).ok();
    let mut failures = Vec::new();
    if !child::streaming("tests", nextest)?.success() {
        failures = failed(&fs::read_to_string(&report).unwrap_or_default());
        if failures.is_empty() {
            failures
                .push("the tests could not be run; their output begins with the reason".to_owned());
        }
    }
    if has_scenes && !scenes::run(workspace, &args.filters, is_ci())? {
        failures
            .push("fewer than 95 % of the scenes with real servers were judged correctly".into());
    }
    // With filters the command of its own is meant.
    if args.thorough && args.filters.is_empty() {
        if !scenes::shed_all(workspace, is_ci())? {
            failures.push("a server missed its targets while load was shed; see above".into());
        }
        if !simulate::keeps_rules(workspace)? {
            failures.push("a schedule of faults broke a rule of the fleet; see above".into());
        }
    }
    Ok(failures)
}

/// Checks every probe on every kernel if there are programs, and waits for the scores: the checks
/// of this host's own kernel run alone. Returns the failures, and the skipped kernels with the
/// reason.
fn check_kernels(
    workspace: &Workspace,
    has_programs: bool,
    scores: thread::ScopedJoinHandle<'_, anyhow::Result<[bool; 2]>>,
) -> anyhow::Result<(Vec<String>, BTreeMap<String, String>)> {
    let scored = || {
        let met = scores.join().map_err(|_| anyhow::anyhow!("scoring panicked"))??;
        let failures = [
            "a detector misses its targets on the corpora; `cargo xtask corpus score` names them",
            "the simulated fleet misses a target; `cargo xtask simulate --check` names it",
        ];
        let missed = failures.into_iter().zip(met).filter(|(_, met)| !met);
        anyhow::Ok(missed.map(|(failure, _)| failure.to_owned()).collect::<Vec<_>>())
    };
    if !has_programs {
        return Ok((scored()?, BTreeMap::new()));
    }
    let mut failures = Vec::new();
    let (failed, skipped) = vm::all(workspace, || {
        failures.extend(scored()?);
        Ok(())
    })?;
    failures.extend(failed);
    Ok((failures, skipped))
}

/// Returns the path of nextest's report, as set in `.config/nextest.toml`.
fn report(workspace: &Workspace, is_quick: bool) -> PathBuf {
    let profile = match is_quick {
        true => "quick".to_owned(),
        false => env::var("NEXTEST_PROFILE").unwrap_or_else(|_| "default".to_owned()),
    };
    workspace.target.join("nextest").join(profile).join("junit.xml")
}

/// Parses nextest's JUnit report: the failed tests, one line each, with the part of their output
/// that nextest takes as the reason.
fn failed(report: &str) -> Vec<String> {
    let cases = report.split("<testcase ").skip(1).filter_map(|rest| {
        let case = rest.split("</testcase>").next()?;
        let failure = ["<failure", "<error"].iter().find_map(|tag| case.split_once(tag))?.1;
        let (name, binary) = (attribute(case, "name")?, attribute(case, "classname")?);
        let (head, rest) = failure.split_once('>')?;
        let output =
            if head.ends_with('/') { None } else { rest.split("</").next().map(unescaped) };
        let output = output
            .filter(|output| !output.trim().is_empty())
            .or_else(|| attribute(failure, "type"))
            .unwrap_or_default();
        // The first two lines: the place of the panic, and its message.
        let reason = output
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .take(2)
            .collect::<Vec<_>>()
            .join(" ");
        Some(format!("{binary} {name}: {reason}"))
    });
    cases.collect()
}

/// Returns an attribute of the XML element that begins here.
fn attribute(element: &str, name: &str) -> Option<String> {
    let element = format!(" {}", element.split('>').next()?);
    let value = element.split_once(&format!(" {name}=\""))?.1.split('"').next()?;
    Some(unescaped(value))
}

fn unescaped(text: &str) -> String {
    let text = text
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&apos;", "'");
    text.replace("&#10;", "\n").replace("&amp;", "&")
}

/// Passes the servers and libraries to the tests that need them. If one is unavailable, these tests
/// report that.
fn provide(command: &mut Command, strict: bool) -> anyhow::Result<()> {
    let servers = [
        ("SPILLWAY_SERVERS", SERVERS.what, setup::servers()),
        ("SPILLWAY_TELEMETRY", TELEMETRY.what, TELEMETRY.provide()),
        ("SPILLWAY_WEBHOOKS", WEBHOOKS.what, WEBHOOKS.provide()),
    ];
    for (variable, what, provided) in servers {
        match provided {
            Ok(root) => drop(command.env(variable, root)),
            Err(error) if strict || error.is::<Interrupted>() => return Err(error),
            Err(error) => eprintln!("test: continuing without {what}: {error:#}"),
        }
    }
    for provided in [setup::python(), setup::tmux()] {
        match provided {
            Err(error) if strict || error.is::<Interrupted>() => return Err(error),
            Err(error) => eprintln!("test: continuing: {error:#}"),
            Ok(()) => {}
        }
    }
    Ok(())
}

/// Runs the checks that precede the tests, unless tests are selected by name, and builds the agent
/// and the tests. Returns true if all checks passed.
fn check_and_build(args: &Args, workspace: &Workspace) -> anyhow::Result<bool> {
    if args.filters().is_empty() {
        let deny = (!args.quick).then(|| setup::cargo_tool(workspace, &DENY)).transpose()?;
        for (what, mut command) in checks(workspace, deny) {
            if !child::streaming(what, &mut command)?.success() {
                return Ok(false);
            }
        }
    }
    build::tests(workspace, args.lints())?;
    Ok(true)
}

/// Returns the checks that precede the tests, cheapest first. There are no documentation tests,
/// which the source test asserts. Without `deny`, only the checks that take seconds.
fn checks(workspace: &Workspace, deny: Option<Command>) -> Vec<(&'static str, Command)> {
    let mut format = workspace.cargo("fmt");
    format.args(["--all", "--check"]);
    let Some(mut deny) = deny else { return vec![("formatting", format)] };
    // Without advisories, because their database is a repository that would have to be fetched.
    deny.args(["--log-level", "error", "--locked", "check", "--hide-inclusion-graph"])
        .current_dir(&workspace.root);
    deny.args(["bans", "licenses", "sources"]);
    // The fuzz targets are a separate workspace, which no other step resolves.
    let mut lock = workspace.cargo("tree");
    lock.args(["--quiet", "--locked", "--depth=0", "--manifest-path", "tests/fuzz/Cargo.toml"]);
    vec![("formatting", format), ("dependencies", deny), ("the fuzz targets' lock file", lock)]
}

/// Parses the tests' lines: the test's name, a tab, the reason. Tests write concurrently, but each
/// line in one piece.
fn parse_skips(text: &str) -> BTreeMap<String, String> {
    let pair = |line: &str| {
        let (name, reason) = line.split_once('\t').unwrap_or((line, "no reason was given"));
        (name.trim().to_owned(), reason.trim().to_owned())
    };
    text.lines().filter(|line| !line.trim().is_empty()).map(pair).collect()
}

/// Parses the names of `.ci/expected-skips`, one per line; `#` begins a comment.
fn parse_expected(text: &str) -> Vec<String> {
    let names = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn expected_skips(root: &Path) -> Vec<String> {
    parse_expected(&fs::read_to_string(root.join(".ci/expected-skips")).unwrap_or_default())
}

fn unexpected<'a>(skips: &'a BTreeMap<String, String>, expected: &[String]) -> Vec<&'a str> {
    skips
        .keys()
        .map(String::as_str)
        .filter(|name| !expected.iter().any(|known| known == name))
        .collect()
}

fn list(skips: &BTreeMap<String, String>) -> String {
    let width = skips.keys().map(|name| name.chars().count()).max().unwrap_or(0);
    let mut text = format!("Skipped: {}", skips.len());
    for (name, reason) in skips {
        text.push_str(&format!("\n  {name:width$}  {reason}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skips_are_read_once_each_with_their_reason() {
        let skips = parse_skips("b\tneeds root\n\na\tno BTF here\nb\tneeds root\nbare\n");
        assert_eq!(
            list(&skips),
            "Skipped: 3\n  a     no BTF here\n  b     needs root\n  bare  no reason was given"
        );
    }

    #[test]
    fn failed_tests_are_named_with_their_reason() {
        let report = r#"<testsuites><testsuite name="a::b">
            <testcase name="fine" classname="a::b" time="0.1"><system-out>&lt;failure</system-out></testcase>
            <testcase name="mod::wrong" classname="a::b" time="0.2">
                <failure message="panicked" type="x">thread &apos;wrong&apos; panicked at a.rs:1:2:
1 &lt; 0
note</failure>
            </testcase>
            <testcase name="slow" classname="a::c"><failure type="test timeout"/><system-out>so far</system-out></testcase>
            <testcase name="skipped" classname="a::c"/></testsuite></testsuites>"#;
        let wrong = "a::b mod::wrong: thread 'wrong' panicked at a.rs:1:2: 1 < 0";
        assert_eq!(failed(report), [wrong, "a::c slow: test timeout"]);
        assert!(failed("").is_empty());
    }

    #[test]
    fn zero_skips_are_reported_too() {
        assert_eq!(list(&parse_skips("")), "Skipped: 0");
    }

    #[test]
    fn only_unlisted_skips_are_unexpected() {
        let skips = parse_skips("a\tx\nb\ty\n");
        let expected = parse_expected("# comment\nb   # no nested KVM\n\n");
        assert_eq!(unexpected(&skips, &expected), ["a"]);
    }
}
