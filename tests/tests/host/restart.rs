//! A restart of the agent, which forgets nothing about the memory of processes.

use std::{fs, time::Duration};

use spillway_tests::{ANY_PORT, Running, Scratch, Workload, built, is_root, run_with, wait_for};

/// Time in which a leak is found with the horizons here, and a claim is raised again.
const SOON: Duration = Duration::from_secs(60);

/// Starts an agent, and waits for its first verdict about the leak. Returns it with the agent.
fn leak_seen(config: &std::path::Path, pid: u32) -> (Running, serde_json::Value) {
    let mut command = run_with(config);
    command.arg("--json");
    let running = Running::start(command);
    let verdict = wait_for(SOON, || {
        let printed = running.printed();
        let mut lines = printed.lines().filter_map(|line| serde_json::from_str(line).ok());
        lines.find(|line: &serde_json::Value| line["verdict"] == "leak" && line["pid"] == pid)
    });
    let verdict = verdict.unwrap_or_else(|| panic!("no leak of {pid}: {}", running.log()));
    (running, verdict)
}

#[test]
fn leak_is_claimed_again_at_once_after_a_restart() {
    if !is_root("leak_is_claimed_again_at_once_after_a_restart") {
        return;
    }
    let scratch = Scratch::make("restart");
    let state_dir = scratch.0.join("state");
    let text = format!(
        "mode = \"enforce\"\n{ANY_PORT}[sense]\ninterval = \"100ms\"\n[detect.leak]\nwarm_up = \
         \"0s\"\nhorizons = [\"4s\", \"6s\", \"10s\"]\nmin_growth = \"16MiB\"\n[decide]\nallow = \
         [\"/no/such\"]\n[record]\nstate_dir = \"{}\"\n",
        state_dir.display()
    );
    let config = scratch.file("spillway.toml", &text);
    let leak = Workload::start(
        std::process::Command::new(built("workload")).args(["leak", "--rate=8MiB"]),
    );
    let pid = leak.pid();
    let (running, first) = leak_seen(&config, pid);
    assert_eq!(first["state"], "raised", "{first}");
    let (code, log) = running.stop();
    assert_eq!(code, Some(0), "{log}");
    let windows = state_dir.join("windows.bin");
    assert!(windows.exists(), "{log}");

    let (running, second) = leak_seen(&config, pid);
    assert_eq!(second["state"], "raised", "{second}");
    assert_eq!(second["start_ticks"], first["start_ticks"]);
    let why = second["why"].as_str().unwrap_or_default();
    assert!(why.contains("before the agent restarted"), "{why}");
    assert!(running.log().contains("going on with the windows"), "{}", running.log());
    // Killed, it leaves what was there before.
    running.stop_by(libc::SIGKILL);
    let (running, third) = leak_seen(&config, pid);
    let why = third["why"].as_str().unwrap_or_default();
    assert!(why.contains("before the agent restarted"), "{why}");
    running.stop_by(libc::SIGKILL);

    let mut bytes = fs::read(&windows).expect("the windows are there");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&windows, bytes).expect("root may write");
    let (running, fourth) = leak_seen(&config, pid);
    let why = fourth["why"].as_str().unwrap_or_default();
    assert!(!why.contains("before the agent restarted"), "{why}");
    assert!(running.log().contains("are not used: it is damaged"), "{}", running.log());
    let (code, log) = running.stop();
    assert_eq!(code, Some(0), "{log}");
    leak.stop();
}
