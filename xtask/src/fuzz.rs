//! `cargo xtask fuzz`: feeds arbitrary bytes to Spillway's parsers, for a given time.
//!
//! The targets in `tests/fuzz` are built with the stable compiler's own coverage and address
//! sanitizer, so that they need neither a nightly nor another tool, only a C++ compiler for
//! libFuzzer. The corpora start with the traces and the configuration in the tree, and with
//! `tests/fuzz/seeds`, and grow under `target/fuzz`. An input that breaks a target is saved beside
//! them, and its path is printed.

use std::fs;
use std::process::{Command, ExitCode};

use anyhow::Context as _;

use crate::child::{self, OnInterrupt};
use crate::workspace::Workspace;

/// Flags that cargo-fuzz passes too: counters at every edge, the operands of comparisons, and a
/// check of every access.
const FLAGS: &[&str] = &[
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Zsanitizer=address",
    "-Ccodegen-units=1",
];

/// Target of the build. The sanitizer requires it to be named, so that build scripts and macros are
/// built without it.
const HOST: &str = "x86_64-unknown-linux-gnu";

/// Targets, each with the directory of its seeds and their file extension. The name says which
/// bytes a target gets; see `agent/src/fuzzing.rs`.
const TARGETS: &[(&str, &str, &str)] = &[
    ("trace", "tests/traces", "jsonl"),
    ("explain", "tests/traces", "jsonl"),
    ("config", "configs", "toml"),
    ("journal", "tests/fuzz/seeds/journal", "json"),
    ("shed_journal", "tests/fuzz/seeds/shed_journal", "json"),
    ("drain_state", "tests/fuzz/seeds/drain_state", "json"),
    ("spool", "tests/fuzz/seeds/spool", "json"),
    ("btf", "tests/fuzz/seeds/btf", "bin"),
    ("records", "tests/fuzz/seeds/records", "bin"),
    ("proc", "tests/fuzz/seeds/proc", "txt"),
    ("sock_diag", "tests/fuzz/seeds/sock_diag", "bin"),
    ("replies", "tests/fuzz/seeds/replies", "bin"),
    ("agent_check", "tests/fuzz/seeds/agent_check", "txt"),
    ("http", "tests/fuzz/seeds/http", "txt"),
    ("windows", "tests/fuzz/seeds/windows", "bin"),
    ("fleet", "tests/fuzz/seeds/fleet", "json"),
    ("status", "tests/fuzz/seeds/status", "json"),
    ("identity", "tests/fuzz/seeds/identity", "bin"),
    ("history", "tests/fuzz/seeds/history", "bin"),
];

/// Feed arbitrary bytes to Spillway's parsers.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask fuzz               every target, one minute each\n  \
    cargo xtask fuzz trace --secs 3600\n\n\
    Exit codes: 0 no target broke, 1 a target broke.")]
pub struct Args {
    /// Run only this target
    #[arg(value_parser = TARGETS.iter().map(|(name, ..)| *name).collect::<Vec<_>>())]
    target: Option<String>,
    /// Seconds to run each target
    #[arg(long, default_value_t = 60)]
    secs: u32,
}

/// Runs the command.
pub fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let workspace = Workspace::find()?;
    let home = workspace.target.join("fuzz");
    let mut build = workspace.cargo("build");
    build.args([
        "--release",
        "--locked",
        "--target",
        HOST,
        "--manifest-path",
        "tests/fuzz/Cargo.toml",
    ]);
    build.arg("--target-dir").arg(&home).env("RUSTC_BOOTSTRAP", "1");
    build.env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"));
    child::quiet(
        "build the fuzz targets",
        &mut build,
        "libFuzzer needs a C++ compiler (g++)",
        OnInterrupt::Stop,
    )?;

    let mut ok = true;
    for &(name, seeds, ending) in
        TARGETS.iter().filter(|(name, ..)| args.target.as_deref().is_none_or(|it| it == *name))
    {
        let corpus = home.join("corpus").join(name);
        fs::create_dir_all(&corpus)
            .with_context(|| format!("cannot create {}", corpus.display()))?;
        for seed in fs::read_dir(workspace.root.join(seeds))?.flatten() {
            if seed.path().extension().is_some_and(|it| it == ending) {
                fs::copy(seed.path(), corpus.join(seed.file_name()))?;
            }
        }
        let mut run = Command::new(home.join(HOST).join("release").join(name));
        run.arg(&corpus).arg(format!("-max_total_time={}", args.secs));
        run.args(["-rss_limit_mb=2048", "-timeout=10", "-print_final_stats=1"]);
        run.arg(format!("-artifact_prefix={}/", home.display())).current_dir(&workspace.root);
        ok &= child::streaming(&format!("fuzz {name}"), &mut run)?.success();
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
