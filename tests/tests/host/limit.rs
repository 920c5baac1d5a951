//! Limits on cgroups with real processes. No process is killed, no other cgroup is changed, and
//! nothing is left behind. The first tests are the scenarios that pass on every kernel (see
//! `src/kernel/containment.rs`); the others run the installed agent.

use std::{fs, path::PathBuf, thread::sleep, time::Duration};

use serde_json::Value;
use spillway_agent::sense::LEAK_CHILD;
use spillway_tests::{
    Running, Workload, agent, is_root,
    limit_live::{
        Programs, Share, Stage, backstop, by_hand, changed_by_others, divided, divided_and_killed,
        divided_and_over, divided_and_used, held, is_alive, killed, killed_with_all,
        never_wider_than_before, over, overtaken, refused, replaced, slowed, thrashing, unreadable,
    },
    metric, run_with, skip, wait_for,
};

const MIB: u64 = 1 << 20;

/// Sets up a test. Returns `None` and reports a skip if no cgroup can be limited on this host.
fn stage(test: &str) -> Option<Stage> {
    if !is_root(test) {
        return None;
    }
    let (workload, crash_target) =
        (env!("CARGO_BIN_EXE_workload").into(), env!("CARGO_BIN_EXE_crash_target").into());
    Stage::set(test, Programs { workload, crash_target }).map_err(|reason| skip(test, &reason)).ok()
}

fn on_stage(test: &str, scenario: fn(&Stage) -> String) {
    if let Some(stage) = stage(test) {
        println!("{}", scenario(&stage));
    }
}

#[test]
fn leaker_is_held_without_kills_and_released_afterwards() {
    on_stage("held", held);
}

#[test]
fn ineligible_cgroups_are_refused_with_the_reason() {
    on_stage("refused", refused);
}

#[test]
fn cgroup_with_an_unreadable_program_is_not_limited() {
    on_stage("unreadable", unreadable);
}

#[test]
fn foreign_change_is_reverted_three_times_then_kept() {
    on_stage("others", changed_by_others);
}

#[test]
fn limit_paused_or_undone_by_hand_is_not_set_again() {
    on_stage("by-hand", by_hand);
}

#[test]
fn limit_is_undone_after_the_last_of_two_incidents() {
    on_stage("over", over);
}

#[test]
fn thrashing_cgroup_is_relaxed_three_times_and_reported() {
    on_stage("thrashing", thrashing);
}

#[test]
fn limit_killed_at_any_call_is_undone() {
    on_stage("killed", |stage| killed(stage, Share::WHOLE));
}

#[test]
fn limit_with_all_options_killed_at_any_call_is_undone() {
    on_stage("killed-all", |stage| match stage.is_v1 {
        true => "nothing but the limit is set in this version".to_owned(),
        false => killed_with_all(stage, Share::WHOLE),
    });
}

#[test]
fn limit_undone_at_any_call_does_not_come_back() {
    on_stage("overtaken", |stage| overtaken(stage, Share { of: 2, nth: 0 }));
}

#[test]
fn limit_never_exceeds_the_original_value() {
    on_stage("wider", never_wider_than_before);
}

#[test]
fn backstop_stays_above_the_limit_and_yields_to_others() {
    on_stage("backstop", backstop);
}

#[test]
fn process_spinning_at_its_limit_is_throttled() {
    on_stage("slowed", slowed);
}

#[test]
fn leaker_in_a_shared_cgroup_is_isolated_and_held() {
    on_stage("divided", divided);
}

#[test]
fn isolated_cgroup_is_restored_after_its_incident() {
    on_stage("divided-over", divided_and_over);
}

#[test]
fn foreign_changes_to_an_isolated_cgroup_are_kept() {
    on_stage("divided-used", divided_and_used);
}

#[test]
fn moved_leaker_may_replace_its_memory_but_not_grow() {
    on_stage("replaced", replaced);
}

#[test]
fn isolation_killed_at_any_call_is_undone() {
    on_stage("divided-killed", |stage| divided_and_killed(stage, Share::WHOLE));
}

/// Sets a limit that the leak will soon reach, so that there is a forecast.
fn set_far_limit(stage: &Stage) {
    let file = if stage.is_v1 { "memory.limit_in_bytes" } else { "memory.max" };
    stage.cgroup.set(file, 512 * MIB).expect("the limit can be set");
}

/// Starts an agent and a leaker, and waits until the leaker's cgroup is limited. Returns the
/// cgroup's state before the limit, the agent and the leaker.
fn limited(stage: &Stage) -> (Vec<String>, Running, Workload) {
    set_far_limit(stage);
    let before = stage.state();
    let config = stage.scratch.0.join("spillway.toml");
    fs::write(&config, stage.quick(&stage.only_this())).expect("a configuration can be written");
    let mut command = run_with(&config);
    command.arg("--json");
    let running = Running::start(command);
    let leak = stage.workload(&["leak", "--rate=8MiB", "--limit=400MiB"]);
    let outcome = wait_for(Duration::from_secs(60), || {
        running.line_of("outcome", "limited", &stage.cgroup.path)
    });
    let outcome = outcome
        .unwrap_or_else(|| panic!("nothing was limited: {}{}", running.printed(), running.log()));
    let decision =
        running.line_of("decision", "limit", &stage.cgroup.path).expect("there is a decision");
    assert_eq!(
        (&decision["performed"], &decision["mode"]),
        (&Value::Bool(true), &Value::from("enforce"))
    );
    let limit_bytes = outcome["limit_bytes"].as_u64().expect("the outcome has a limit");
    assert_eq!(stage.number(stage.limit_file()), limit_bytes);
    let t = |line: &Value| line["t"].as_f64().expect("a line has a time");
    let took = t(&outcome) - t(&decision);
    println!("limited {:.0} ms after the decision, at {} MiB", took * 1e3, limit_bytes / MIB);
    assert!(took < 0.5, "{took} s");
    assert_eq!(
        metric(&running.get("/metrics"), "spillway_outcomes_total{outcome=\"limited\"}"),
        1.0
    );
    (before, running, leak)
}

#[test]
fn agent_limits_a_leaker_and_restores_at_stop() {
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
fn sighup_keeps_a_limit_and_sigquit_restores() {
    let Some(stage) = stage("hangup") else { return };
    let (before, running, leak) = limited(&stage);
    let limited = stage.state();
    let file = stage.scratch.0.join("spillway.toml");
    for (text, wanted) in [
        ("mode = \"enforce".to_owned(), "the running configuration stays in effect"),
        (stage.quick(&format!("{}\ncooldown = \"2h\"", stage.only_this())), "SIGHUP: reloaded"),
    ] {
        fs::write(&file, text).expect("a configuration can be written");
        running.signal(libc::SIGHUP);
        let logged =
            wait_for(Duration::from_secs(5), || running.log().contains(wanted).then_some(()));
        assert!(logged.is_some(), "{}", running.log());
        // Long enough for the acting thread to check the limit.
        sleep(Duration::from_millis(1_500));
        assert_eq!(stage.state(), limited);
    }
    let (code, log) = running.stop_by(libc::SIGQUIT);
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(stage.state(), before);
    assert!(is_alive(leak.pid()));
    leak.stop();
}

#[test]
fn disabled_limits_are_decided_but_not_set() {
    let Some(stage) = stage("disabled") else { return };
    set_far_limit(&stage);
    let before = stage.state();
    let config =
        stage.quick(&stage.only_this()).replace("[act.limit]", "[act.limit]\nenabled = false");
    let mut command = run_with(&stage.scratch.file("spillway.toml", &config));
    command.arg("--json");
    let running = Running::start(command);
    let leak = stage.workload(&["leak", "--rate=8MiB", "--limit=400MiB"]);
    let decision = wait_for(Duration::from_secs(60), || {
        running.line_of("decision", "limit", &stage.cgroup.path)
    });
    let decision = decision.unwrap_or_else(|| panic!("{}{}", running.printed(), running.log()));
    assert_eq!(
        (&decision["performed"], &decision["mode"]),
        (&Value::Bool(false), &Value::from("enforce"))
    );
    assert_eq!(decision["refused"], Value::Null, "{decision}");
    // Twice as long as setting a limit takes.
    sleep(Duration::from_secs(1));
    assert_eq!(stage.state(), before);
    assert!(!running.printed().contains("\"outcome\""), "{}", running.printed());
    assert!(!stage.config.record.state_dir.join("journal").exists(), "there is a journal");
    let (code, log) = running.stop();
    assert_eq!(code, Some(0), "{log}");
    leak.stop();
}

#[test]
fn agent_isolates_a_leaker_once_and_restores_both() {
    let Some(stage) = stage("agent-divided") else { return };
    let file = if stage.is_v1 { "memory.limit_in_bytes" } else { "memory.max" };
    stage.cgroup.set(file, 512 * MIB).expect("the limit can be set");
    let before = stage.state();
    let path = &stage.cgroup.path;
    let config = stage
        .quick(&stage.only_this())
        .replace("[act.limit]", &format!("[act.limit]\ndelegated = [\"{path}\"]"));
    let mut command = run_with(&stage.scratch.file("spillway.toml", &config));
    command.arg("--json");
    let running = Running::start(command);
    let neighbour = stage.another_program(&["touch", "--anon-bytes=64MiB"]);
    let leak = stage.workload(&["leak", "--rate=8MiB", "--limit=400MiB"]);
    let outcome = wait_for(Duration::from_secs(60), || running.line_of("outcome", "limited", path));
    let outcome = outcome
        .unwrap_or_else(|| panic!("nothing was limited: {}{}", running.printed(), running.log()));
    assert_eq!(outcome["cgroup"], *path);
    assert!(stage.is_in(LEAK_CHILD, leak.pid()) && !stage.is_in(LEAK_CHILD, neighbour.pid()));
    let limit_bytes = stage.number(&format!("{LEAK_CHILD}/{}", stage.limit_file()));
    assert_eq!(outcome["limit_bytes"], limit_bytes);
    assert_eq!(stage.state()[..2], before[..2]);

    // As long as the second longest of its horizons: the leak from before the move is claimed and
    // limited only once.
    sleep(Duration::from_secs(10));
    let lines = |kind: &str, value: &str| {
        let lines = running.printed();
        let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line[kind] == value && line["cgroup"] == *path).count()
    };
    assert_eq!(lines("state", "raised"), 1, "{}", running.printed());
    assert_eq!(lines("state", "cleared"), 0, "{}", running.printed());
    assert_eq!(
        (lines("decision", "limit"), lines("outcome", "limited")),
        (1, 1),
        "{}",
        running.printed()
    );

    let (code, log) = running.stop();
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(stage.state(), before);
    assert!(stage.is_in(".", leak.pid()) && stage.is_in(".", neighbour.pid()));
    assert!(is_alive(leak.pid()) && is_alive(neighbour.pid()));
    assert_eq!(stage.killed(), 0);
}

#[test]
fn killed_agent_is_undone_by_undo_and_the_next_agent() {
    let Some(stage) = stage("undo") else { return };
    let config = stage.scratch.0.join("spillway.toml");
    for by_command in [true, false] {
        let (before, running, leak) = limited(&stage);
        running.signal(libc::SIGKILL);
        drop(running);
        assert_ne!(stage.state(), before);
        if by_command {
            let undone =
                agent().args(["undo", "--config"]).arg(&config).output().expect("the agent runs");
            let printed = String::from_utf8_lossy(&undone.stdout).into_owned();
            assert!(
                undone.status.success() && printed.starts_with("lifted the limit of "),
                "{printed}"
            );
        } else {
            // Undone in any mode.
            let observe = stage.quick(&stage.only_this()).replace("enforce", "observe");
            fs::write(&config, observe).expect("a configuration can be written");
            let mut command = run_with(&config);
            command.arg("--json");
            let next = Running::start(command);
            let directory = stage.cgroup.directory().display().to_string();
            let undone =
                wait_for(Duration::from_secs(10), || next.line_of("outcome", "undone", &directory));
            assert!(undone.is_some(), "{}{}", next.printed(), next.log());
        }
        assert_eq!(stage.state(), before);
        assert!(is_alive(leak.pid()));
        leak.stop();
    }
    let again = agent().args(["undo", "--config"]).arg(&config).output().expect("the agent runs");
    assert!(String::from_utf8_lossy(&again.stdout).starts_with("nothing to undo"), "{again:?}");
}

#[test]
fn missing_state_directory_stops_actions_not_watching() {
    let Some(stage) = stage("no-journal") else { return };
    let taken: PathBuf = stage.scratch.file("taken", "");
    let config = stage.quick(&stage.only_this()).replace(
        &stage.config.record.state_dir.display().to_string(),
        &taken.display().to_string(),
    );
    let running = Running::start(run_with(&stage.scratch.file("spillway.toml", &config)));
    assert!(running.is_well());
    let (code, log) = running.stop();
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(log.matches("nothing will be limited: there is no journal").count(), 1, "{log}");
}
