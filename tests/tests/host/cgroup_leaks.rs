//! A leak that no process shows, found by the installed agent: files that a real program leaves in
//! a tmpfs, in a cgroup of its own.

use std::time::Duration;

use spillway_tests::{
    Running, is_root,
    limit_live::{Programs, Stage, is_alive},
    run_with, skip, wait_for,
};

const MIB: u64 = 1 << 20;

/// Horizons by which most of a minute of growth is enough, and each bucket of the longest of which
/// sees a reading of the cgroup.
const HORIZONS: &str = r#"["32s", "64s", "96s", "128s", "160s", "176s"]"#;

#[test]
fn files_left_in_a_tmpfs_are_a_leak_of_their_cgroup() {
    let test = "files_left_in_a_tmpfs_are_a_leak_of_their_cgroup";
    if !is_root(test) {
        return;
    }
    let programs = Programs {
        workload: env!("CARGO_BIN_EXE_workload").into(),
        crash_target: env!("CARGO_BIN_EXE_crash_target").into(),
    };
    let stage = match Stage::set("files-left", programs) {
        Ok(stage) => stage,
        Err(reason) => return skip(test, &reason),
    };
    let file = if stage.is_v1 { "memory.limit_in_bytes" } else { "memory.max" };
    stage.cgroup.set(file, 700 * MIB).expect("the limit can be set");
    let leak = stage.workload(&["leave-files", "--rate=4MiB", "--limit=600MiB"]);
    let config = stage.quick(&stage.only_this());
    let line = config
        .lines()
        .find(|line| line.starts_with("horizons"))
        .map_or_else(|| panic!("the configuration names no horizons: {config}"), str::to_owned);
    let config = config.replace(&line, &format!("horizons = {HORIZONS}"));
    let mut command = run_with(&stage.scratch.file("spillway.toml", &config));
    command.arg("--json");
    let running = Running::start(command);
    let raised = wait_for(Duration::from_secs(150), || {
        running.line_of("verdict", "leak", &stage.cgroup.path)
    });
    let raised =
        raised.unwrap_or_else(|| panic!("no leak: {}{}", running.printed(), running.log()));
    assert_eq!(raised["cgroup_memory"], "shared", "{raised}");
    let why = raised["why"].as_str().unwrap_or_default();
    assert!(why.contains("while that of its processes did not"), "{why}");
    let rate = raised["growth_bytes_per_sec"].as_f64().expect("a leak has a rate");
    assert!((3.2..4.8).contains(&(rate / MIB as f64)), "{raised}");
    let limited = wait_for(Duration::from_secs(10), || {
        running.line_of("outcome", "limited", &stage.cgroup.path)
    });
    assert!(limited.is_some(), "nothing was limited: {}{}", running.printed(), running.log());
    let verdicts = running.printed();
    let of_cgroup = verdicts.lines().filter(|line| {
        line.contains("\"verdict\":\"leak\"") && line.contains(stage.cgroup.path.as_str())
    });
    assert_eq!(of_cgroup.count(), 1, "{verdicts}");
    assert!(is_alive(leak.pid()));
    assert_eq!(stage.killed(), 0);
    let (code, log) = running.stop();
    assert_eq!(code, Some(0), "{log}");
    leak.stop();
}
