//! Live: limits on cgroups, with real processes in them: nobody is killed, nobody else is touched, and nothing stays. The first
//! are the scenarios that hold on every kernel, see `src/kernel/containment.rs`; then there is the agent as it is installed.

use std::{fs, path::PathBuf, time::Duration};

use serde_json::Value;
use spillway_tests::{
    ANY_PORT, Running, Workload, agent, is_root,
    limit_live::{
        Programs, Share, Stage, by_hand, changed_by_others, held, is_alive, killed, over, refused, thrashing,
    },
    metric, run_with, skip, wait_for,
};

const MIB: u64 = 1 << 20;

/// `None`, told as a skip, where no cgroup can be limited here.
fn stage(test: &str) -> Option<Stage> {
    if !is_root(test) {
        return None;
    }
    let (workload, contain) = (env!("CARGO_BIN_EXE_workload").into(), env!("CARGO_BIN_EXE_contain").into());
    Stage::set(test, Programs { workload, contain }).map_err(|reason| skip(test, &reason)).ok()
}

fn on_stage(test: &str, scenario: fn(&Stage) -> String) {
    if let Some(stage) = stage(test) {
        println!("{}", scenario(&stage));
    }
}

#[test]
fn a_leaker_is_held_and_nobody_is_killed_and_it_goes_on_when_that_is_over() {
    on_stage("held", held);
}

#[test]
fn what_should_not_be_limited_is_refused_with_the_reason_and_left_as_it_is() {
    on_stage("refused", refused);
}

#[test]
fn what_others_change_is_set_again_three_times_and_then_theirs() {
    on_stage("others", changed_by_others);
}

#[test]
fn whatever_is_paused_or_undone_by_hand_is_not_set_again() {
    on_stage("by-hand", by_hand);
}

#[test]
fn an_incident_that_is_over_gives_back_what_was_there_and_one_of_two_does_not() {
    on_stage("over", over);
}

#[test]
fn what_does_nothing_but_wait_at_its_limit_gets_more_three_times_and_is_then_told() {
    on_stage("thrashing", thrashing);
}

#[test]
fn killed_between_any_two_system_calls_it_leaves_what_undo_puts_back() {
    on_stage("killed", |stage| killed(stage, Share::WHOLE));
}

/// A configuration that judges within seconds and acts.
fn quick(stage: &Stage) -> String {
    format!(
        "mode = \"enforce\"\n{ANY_PORT}[sense]\ninterval = \"100ms\"\n[detect.leak]\nwarm_up = \"0s\"\n\
         horizons = [\"4s\", \"6s\", \"10s\", \"20s\"]\nmin_growth = \"16MiB\"\n[decide]\nlimit_within = \"1d\"\n\
         [act.limit]\nmargin = \"16MiB\"\n[record]\nstate_dir = \"{}\"\n",
        stage.config.record.state_dir.display()
    )
}

/// The first line that the agent prints of this kind, as JSON.
fn line_of(running: &Running, kind: &str, value: &str) -> Option<Value> {
    let is_it = |line: &Value| line[kind] == value;
    running.printed().lines().filter_map(|line| serde_json::from_str(line).ok()).find(is_it)
}

/// What the cgroup was before, an agent that has limited it, and the leaker in it.
fn limited(stage: &Stage) -> (Vec<String>, Running, Workload) {
    // An end that is near, for a forecast.
    let file = if stage.is_v1 { "memory.limit_in_bytes" } else { "memory.max" };
    stage.cgroup.set(file, 1_024 * MIB).expect("the kernel takes it");
    let before = stage.state();
    let config = stage.scratch.0.join("spillway.toml");
    fs::write(&config, quick(stage)).expect("a configuration can be written");
    let mut command = run_with(&config);
    command.arg("--json");
    let running = Running::start(command);
    let leak = stage.workload(&["leak", "--rate=8MiB", "--limit=800MiB"]);
    let outcome = wait_for(Duration::from_secs(60), || line_of(&running, "outcome", "limited"));
    let outcome = outcome.unwrap_or_else(|| panic!("it limits nothing: {}{}", running.printed(), running.log()));
    let decision = line_of(&running, "decision", "limit").expect("it was decided");
    assert_eq!((&decision["performed"], &decision["mode"]), (&Value::Bool(true), &Value::from("enforce")));
    assert_eq!(outcome["cgroup"], stage.cgroup.path);
    let limit_bytes = outcome["limit_bytes"].as_u64().expect("it says which");
    assert_eq!(stage.number(stage.limit_file()), limit_bytes);
    let t = |line: &Value| line["t"].as_f64().expect("it has a time");
    let took = t(&outcome) - t(&decision);
    println!("limited {:.0} ms after it was decided, at {} MiB", took * 1e3, limit_bytes / MIB);
    assert!(took < 0.5, "{took} s");
    assert_eq!(metric(&running.get("/metrics"), "spillway_outcomes_total{outcome=\"limited\"}"), 1.0);
    (before, running, leak)
}

#[test]
fn the_agent_limits_a_leaker_and_puts_back_what_was_when_it_is_told_to_stop() {
    let Some(stage) = stage("agent") else { return };
    let (before, running, leak) = limited(&stage);
    let (code, log) = running.stop();
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(stage.state(), before);
    assert!(is_alive(leak.pid()));
    assert_eq!(stage.killed(), 0);
    leak.stop();
}

#[test]
fn a_killed_agent_leaves_what_the_undo_command_and_the_next_agent_put_back() {
    let Some(stage) = stage("undo") else { return };
    let config = stage.scratch.0.join("spillway.toml");
    for by_command in [true, false] {
        let (before, running, leak) = limited(&stage);
        running.signal(libc::SIGKILL);
        drop(running);
        assert_ne!(stage.state(), before);
        if by_command {
            let undone = agent().args(["undo", "--config"]).arg(&config).output().expect("the agent runs");
            let told = String::from_utf8_lossy(&undone.stdout).into_owned();
            assert!(undone.status.success() && told.starts_with("put back the limit of "), "{told}");
        } else {
            // Whatever it is configured to do.
            let observe = quick(&stage).replace("enforce", "observe");
            fs::write(&config, observe).expect("a configuration can be written");
            let mut command = run_with(&config);
            command.arg("--json");
            let next = Running::start(command);
            assert!(line_of(&next, "outcome", "undone").is_some(), "{}{}", next.printed(), next.log());
        }
        assert_eq!(stage.state(), before);
        assert!(is_alive(leak.pid()));
        leak.stop();
    }
    let again = agent().args(["undo", "--config"]).arg(&config).output().expect("the agent runs");
    assert!(String::from_utf8_lossy(&again.stdout).starts_with("nothing to undo"), "{again:?}");
}

#[test]
fn a_directory_that_is_not_to_be_had_keeps_it_from_acting_and_not_from_watching() {
    let Some(stage) = stage("no-journal") else { return };
    let taken: PathBuf = stage.scratch.file("taken", "");
    let config =
        quick(&stage).replace(&stage.config.record.state_dir.display().to_string(), &taken.display().to_string());
    let running = Running::start(run_with(&stage.scratch.file("spillway.toml", &config)));
    assert!(running.is_well());
    let (code, log) = running.stop();
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(log.matches("nothing will be limited: there is no journal").count(), 1, "{log}");
}
