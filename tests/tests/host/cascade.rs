//! Dependencies that stop answering. The installed agent on its defaults reports a refusing one and
//! a silent one once each, and the recovery of one of them.

use std::{net::SocketAddr, process::Command, thread::sleep, time::Duration};

use serde_json::Value;
use spillway_agent::bpf::Probe;
use spillway_tests::{
    ANY_PORT, Running, Scratch, Workload, is_root, now, own_network, run_with, sensors_with,
    wait_for,
};

/// Long enough for the agent to see successful connects.
const HEALTHY: Duration = Duration::from_secs(5);
/// Every connect must have failed for this long.
const SUSTAIN: Duration = Duration::from_secs(15);
/// Time within which a failure is reported. Results of connects are read once a second.
const REPORTED_WITHIN: Duration = Duration::from_secs(10);

fn workload(args: &[&str]) -> Workload {
    Workload::start(Command::new(env!("CARGO_BIN_EXE_workload")).args(args))
}

fn serve(addr: SocketAddr) -> Workload {
    workload(&["serve", &format!("--addr={addr}"), "--backlog=128", "--threads=4", "--service=1ms"])
}

#[test]
fn silent_or_refusing_dependency_is_a_risk_until_it_answers() {
    let test = "silent_or_refusing_dependency_is_a_risk_until_it_answers";
    if !is_root(test) {
        return;
    }
    let Some(sensors) = sensors_with(Probe::OutboundConnects, test) else { return };
    drop(sensors);
    let scratch = Scratch::make(test);
    let mut command = run_with(&scratch.file("spillway.toml", ANY_PORT));
    command.arg("--json");
    let running = Running::start(command);
    let netns = own_network().expect("root can create a network namespace");
    let lines = |addr: SocketAddr, state: &str| -> Vec<Value> {
        let printed = running.printed();
        let parsed = printed.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let risks =
            parsed.filter(|line| line["verdict"] == "cascade_risk" && line["netns"] == netns);
        risks.filter(|line| line["addr"] == addr.to_string() && line["state"] == state).collect()
    };

    let (refusing, silent) =
        (SocketAddr::from(([127, 0, 0, 1], 8_000)), SocketAddr::from(([127, 0, 0, 1], 8_001)));
    let server = serve(refusing);
    let healthy_for = format!("--healthy-for={}s", HEALTHY.as_secs());
    let _stuck =
        workload(&["stuck-server", &format!("--addr={silent}"), "--backlog=1", &healthy_for]);
    let _clients = [refusing, silent].map(|addr| {
        workload(&["clients", &format!("--addr={addr}"), "--rate-per-sec=10", "--for=120s"])
    });
    sleep(HEALTHY);
    drop(server);
    let gone = now();
    sleep(SUSTAIN.saturating_sub(gone.elapsed() + Duration::from_secs(1)));
    assert!(lines(refusing, "raised").is_empty(), "claimed too early: {}", running.printed());
    for (addr, how) in [(refusing, "refused"), (silent, "without an answer yet")] {
        let risk = wait_for(REPORTED_WITHIN, || lines(addr, "raised").pop());
        let risk = risk.unwrap_or_else(|| {
            panic!("{addr} was not reported within {:?}: {}", gone.elapsed(), running.log())
        });
        println!("{:.1} s after the failure: {}", gone.elapsed().as_secs_f64(), risk["why"]);
        assert_eq!(risk["sign"], "dependency_down");
        assert!(risk["why"].as_str().is_some_and(|why| why.contains(how)), "{risk}");
    }
    let _server = serve(refusing);
    assert!(
        wait_for(REPORTED_WITHIN, || lines(refusing, "cleared").pop()).is_some(),
        "{}",
        running.printed()
    );
    assert_eq!([refusing, silent].map(|addr| lines(addr, "raised").len()), [1, 1]);
    assert_eq!([refusing, silent].map(|addr| lines(addr, "cleared").len()), [1, 0]);
    let (code, log) = running.stop();
    assert_eq!(code, Some(0), "{log}");
}
