//! The installed agent pages once for a real leak. After it is killed, the next agent does not page
//! for the same leak again.

use std::{process::Command, time::Duration};

use serde_json::Value;
use spillway_tests::{
    ANY_PORT, Running, Scratch, apart, find_metric,
    receiver::{Form, PAGERDUTY_KEY, Receiver},
    run_with, wait_for,
};

const SOON: Duration = Duration::from_secs(60);

#[test]
fn leak_is_paged_once_across_agent_restarts() {
    let (scratch, receiver) = (Scratch::make("host-page"), Receiver::start(Form::PagerDuty));
    let key = scratch.secret("key", PAGERDUTY_KEY);
    let config = scratch.file(
        "spillway.toml",
        &format!(
            "{ANY_PORT}[sense]\ninterval = \"100ms\"\n[detect.leak]\nwarm_up = \"0s\"\nhorizons = \
            [\"4s\", \"6s\", \"10s\"]\n\
             min_growth = \"16MiB\"\n[act.page]\nin_observe = true\n[act.page.pagerduty]\nurl \
             = \"{}\"\nrouting_key_file = \"{}\"\n\
             [record]\nstate_dir = \"{}\"\n",
            receiver.url("/v2/enqueue"),
            key.display(),
            scratch.0.join("state").display()
        ),
    );
    let mut leak = Command::new(env!("CARGO_BIN_EXE_workload"));
    let (_cgroup, leak) = apart("page-leak", leak.args(["leak", "--rate=8MiB", "--limit=1500MiB"]));
    let incident = format!("/leak-{}-", leak.pid());
    let run = || {
        let mut command = run_with(&config);
        command.arg("--json");
        Running::start(command)
    };
    let pages = || {
        let calls = receiver.calls().into_iter().filter(|call| {
            call.json()["dedup_key"].as_str().is_some_and(|key| key.contains(&incident))
        });
        calls.collect::<Vec<_>>()
    };
    let has_claimed = |running: &Running| {
        let is_it = |line: &Value| line["verdict"] == "leak" && line["pid"] == leak.pid();
        running
            .printed()
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .any(|line: Value| is_it(&line))
    };

    let running = run();
    let calls = wait_for(SOON, || Some(pages()).filter(|calls| !calls.is_empty()));
    let calls = calls.unwrap_or_else(|| panic!("no page: {}{}", running.printed(), running.log()));
    assert_eq!((calls[0].status, &calls[0].json()["event_action"]), (202, &Value::from("trigger")));
    let summary =
        calls[0].json()["payload"]["summary"].as_str().expect("the page has a summary").to_owned();
    println!("page: {summary}");
    assert!(summary.starts_with(&format!("workload (pid {}) on ", leak.pid())), "{summary}");
    // The receiver keeps a call before it answers, and the agent counts the answer. Calls are made
    // one after the other, and earlier ones may be about leaks of other tests.
    let received = receiver.calls().len() as f64;
    let delivered = "spillway_page_calls_total{sink=\"pagerduty\",result=\"delivered\"}";
    let count = || find_metric(&running.get("/metrics"), delivered);
    let counted = wait_for(SOON, || count().filter(|count| *count >= received));
    assert!(counted >= Some(1.0), "{counted:?}");
    let said = running.printed() + &running.log() + &running.get("/metrics");
    assert!(!said.contains(PAGERDUTY_KEY), "the key leaked");
    running.signal(libc::SIGKILL);
    drop(running);

    let running = run();
    let claimed = wait_for(SOON, || has_claimed(&running).then_some(()));
    assert!(claimed.is_some(), "{}{}", running.printed(), running.log());
    let (code, log) = running.stop();
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(pages().len(), 1, "{:?}", pages());
    leak.stop();
}
