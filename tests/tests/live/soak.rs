//! `cargo xtask soak` in short: its figures are those of a run, and it leaves nothing behind.

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Read as _},
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use spillway_agent::sense::Hierarchy;
use spillway_tests::{is_root, wait_for};

/// Command with the short floods of a test.
fn soak(floods: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_soak"));
    command.args([
        "--json",
        "--minutes=0.1",
        "--flood-secs=4",
        "--rest-secs=10",
        "--listeners=300",
    ]);
    command.args(["--processes=300", "--cgroups=30"]);
    command.args(floods.iter().flat_map(|flood| ["--flood", flood]));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Cgroups of the run of this process, and directories of its agent.
fn left_by(pid: u32) -> Vec<String> {
    let hierarchy = Hierarchy::detect();
    let mount = hierarchy.mount().expect("root has a memory controller").to_owned();
    let all = [mount, env::temp_dir()].into_iter().filter_map(|dir| fs::read_dir(dir).ok());
    let names = all.flatten().flatten().map(|entry| entry.file_name().into_string());
    let own = names.flatten().filter(|name| name.starts_with("spillway-soak"));
    own.filter(|name| name.ends_with(&format!("-{pid}"))).collect()
}

#[test]
fn short_run_has_the_figures_of_each_flood() {
    if !is_root("short_run_has_the_figures_of_each_flood") {
        return;
    }
    let run = soak(&["churn", "listeners"]).spawn().expect("the run starts");
    let pid = run.id();
    let output = run.wait_with_output().expect("the run ends");
    let log = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout).expect(&log);
    assert_eq!(output.status.code(), Some(i32::from(report["met"] == false)), "{report}");
    let floods = report["figures"]["floods"].as_array().expect("the report lists floods");
    let names: Vec<_> = floods.iter().map(|flood| flood["flood"].as_str()).collect();
    assert_eq!(names, [Some("churn"), Some("listeners")]);
    for flood in floods {
        let [before, most, after] = ["before_bytes", "most_bytes", "after_bytes"]
            .map(|key| flood[key].as_u64().expect("a size is a number"));
        assert!(before > 4 << 20 && after > 4 << 20 && most >= before, "{flood}");
    }
    assert!(report["counts"]["processes"].as_u64() > Some(0), "{report}");
    assert!(report["counts"]["listeners"].as_u64() >= Some(300), "{report}");
    // Nothing but the slope, which so short a run cannot tell, is left open.
    let open = report["targets"].as_array().map(|rows| {
        rows.iter().filter(|row| row["is_met"].is_null()).filter_map(|row| row["target"].as_str())
    });
    let open: Vec<_> = open.expect("the report lists targets").collect();
    assert_eq!(open, ["slope at rest: under 1 MiB a day"]);
    assert_eq!(left_by(pid), [""; 0]);
}

#[test]
fn run_that_is_interrupted_leaves_nothing_behind() {
    if !is_root("run_that_is_interrupted_leaves_nothing_behind") {
        return;
    }
    let mut run = soak(&["processes"]).spawn().expect("the run starts");
    let pid = run.id();
    let mut log = BufReader::new(run.stderr.take().expect("stderr should be piped"));
    let mut line = String::new();
    while !line.contains("flood of processes") {
        line.clear();
        assert!(log.read_line(&mut line).is_ok_and(|read| read > 0), "the run ended early");
    }
    let has_begun = || left_by(pid).len() == 3;
    assert!(has_begun(), "a cgroup for the agent, one for floods, a directory: {:?}", left_by(pid));
    // SAFETY: a signal to a child that was not waited for yet.
    assert_eq!(unsafe { libc::kill(pid as i32, libc::SIGINT) }, 0);
    let ended = wait_for(Duration::from_secs(10), || run.try_wait().expect("it is our child"));
    let mut rest = String::new();
    log.read_to_string(&mut rest).expect("the log is text");
    assert_eq!(ended.and_then(|ended| ended.code()), Some(130), "{rest}");
    assert_eq!(left_by(pid), [""; 0], "{rest}");
}
