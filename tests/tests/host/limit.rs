//! Live: limits on cgroups, with real processes in them: nobody is killed, nobody else is touched,
//! and nothing stays. The first are the scenarios that hold on every kernel, see
//! `src/kernel/containment.rs`; then there is the agent as it is installed.

use std::{fs, path::PathBuf, thread::sleep, time::Duration};

use serde_json::Value;
use spillway_agent::sense::LEAK_CHILD;
use spillway_tests::{
    Running, Workload, agent, is_root,
    limit_live::{
        Programs, Share, Stage, backstop, by_hand, changed_by_others, divided, divided_and_killed,
        divided_and_over, divided_and_used, held, is_alive, killed, killed_with_all,
        never_wider_than_before, over, overtaken, refused, replaced, slowed, thrashing,
    },
    metric, run_with, skip, wait_for,
};

const MIB: u64 = 1 << 20;

/// `None`, told as a skip, where no cgroup can be limited here.
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

#[test]
fn killed_with_all_that_may_be_set_it_leaves_what_undo_puts_back() {
    on_stage("killed-all", |stage| match stage.is_v1 {
        true => "nothing but the limit is set in this version".to_owned(),
        false => killed_with_all(stage, Share::WHOLE),
    });
}

#[test]
fn undone_by_hand_between_any_two_system_calls_it_does_not_come_back() {
    on_stage("overtaken", |stage| overtaken(stage, Share { of: 2, nth: 0 }));
}

#[test]
fn a_limit_that_would_be_wider_than_what_was_there_gives_way_to_it() {
    on_stage("wider", never_wider_than_before);
}

#[test]
fn a_backstop_stands_well_above_the_limit_and_gives_way_with_it_and_to_others() {
    on_stage("backstop", backstop);
}

#[test]
fn what_spins_at_its_limit_is_slowed_until_the_limit_goes_or_the_reason_told_why_not() {
    on_stage("slowed", slowed);
}

#[test]
fn a_leaker_that_shares_its_cgroup_is_moved_and_held_and_the_others_are_not() {
    on_stage("divided", divided);
}

#[test]
fn a_divided_cgroup_is_whole_again_with_the_end_of_the_leaker_or_of_its_incident() {
    on_stage("divided-over", divided_and_over);
}

#[test]
fn what_others_make_of_a_divided_cgroup_is_theirs_and_nobody_stays_limited() {
    on_stage("divided-used", divided_and_used);
}

#[test]
fn a_moved_leaker_may_replace_what_it_had_and_not_take_more() {
    on_stage("replaced", replaced);
}

#[test]
fn killed_anywhere_while_it_divides_it_leaves_what_undo_puts_together() {
    on_stage("divided-killed", |stage| divided_and_killed(stage, Share::WHOLE));
}

/// An end that is near, for a forecast.
fn has_an_end(stage: &Stage) {
    let file = if stage.is_v1 { "memory.limit_in_bytes" } else { "memory.max" };
    stage.cgroup.set(file, 512 * MIB).expect("the kernel takes it");
}

/// What the cgroup was before, an agent that has limited it, and the leaker in it.
fn limited(stage: &Stage) -> (Vec<String>, Running, Workload) {
    has_an_end(stage);
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
        .unwrap_or_else(|| panic!("it limits nothing: {}{}", running.printed(), running.log()));
    let decision =
        running.line_of("decision", "limit", &stage.cgroup.path).expect("it was decided");
    assert_eq!(
        (&decision["performed"], &decision["mode"]),
        (&Value::Bool(true), &Value::from("enforce"))
    );
    let limit_bytes = outcome["limit_bytes"].as_u64().expect("it says which");
    assert_eq!(stage.number(stage.limit_file()), limit_bytes);
    let t = |line: &Value| line["t"].as_f64().expect("it has a time");
    let took = t(&outcome) - t(&decision);
    println!("limited {:.0} ms after it was decided, at {} MiB", took * 1e3, limit_bytes / MIB);
    assert!(took < 0.5, "{took} s");
    assert_eq!(
        metric(&running.get("/metrics"), "spillway_outcomes_total{outcome=\"limited\"}"),
        1.0
    );
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
fn sighup_keeps_a_limit_that_stands_and_sigquit_puts_it_back() {
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
        // Long enough for the acting thread to look at what stands.
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
fn limits_that_are_not_enabled_are_decided_and_not_set_while_others_are_enforced() {
    let Some(stage) = stage("disabled") else { return };
    has_an_end(&stage);
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
    assert_eq!(decision["refused"], Value::Null, "nothing speaks against it: {decision}");
    // Twice as long as it takes where they are.
    sleep(Duration::from_secs(1));
    assert_eq!(stage.state(), before);
    assert!(!running.printed().contains("\"outcome\""), "{}", running.printed());
    assert!(!stage.config.record.state_dir.join("journal").exists(), "nobody keeps a journal");
    let (code, log) = running.stop();
    assert_eq!(code, Some(0), "{log}");
    leak.stop();
}

#[test]
fn the_agent_moves_a_leaker_from_its_neighbour_limits_it_once_and_puts_both_back() {
    let Some(stage) = stage("agent-divided") else { return };
    let file = if stage.is_v1 { "memory.limit_in_bytes" } else { "memory.max" };
    stage.cgroup.set(file, 512 * MIB).expect("the kernel takes it");
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
        .unwrap_or_else(|| panic!("it limits nothing: {}{}", running.printed(), running.log()));
    assert_eq!(outcome["cgroup"], *path);
    assert!(stage.is_in(LEAK_CHILD, leak.pid()) && !stage.is_in(LEAK_CHILD, neighbour.pid()));
    let limit_bytes = stage.number(&format!("{LEAK_CHILD}/{}", stage.limit_file()));
    assert_eq!(outcome["limit_bytes"], limit_bytes);
    assert_eq!(stage.state()[..2], before[..2]);

    // As long as the longest but one of its horizons: what moved is what leaked before, and is
    // claimed and limited once.
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
fn a_killed_agent_leaves_what_the_undo_command_and_the_next_agent_put_back() {
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
            let told = String::from_utf8_lossy(&undone.stdout).into_owned();
            assert!(
                undone.status.success() && told.starts_with("put back the limit of "),
                "{told}"
            );
        } else {
            // Whatever it is configured to do.
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
fn a_directory_that_is_not_to_be_had_keeps_it_from_acting_and_not_from_watching() {
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
