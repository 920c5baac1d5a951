//! Name resolution fails for a while, as if the collector, the resolvers and PagerDuty failed at
//! once. The agent keeps watching, uses no more resources than before, and sends the queued
//! notifications once names resolve again.
//!
//! The network and the resolver belong to the test. The agent is the installed one, and all sinks
//! but Alertmanager use TLS.

use std::{net::SocketAddr, process::Command, thread::sleep, time::Duration};

use spillway_tests::{
    ANY_PORT, Held, Knows, Resolver, Running, Scratch, agent, apart, find_metric,
    http_server::respond,
    is_root, metric, now, own_network, own_resolver,
    receiver::{Form, Manner, PAGERDUTY_KEY, Receiver},
    run_with,
    tls::{Authority, TlsServer},
    wait_for,
};

const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// Time without resolution after each sink's first failure. Each sink fails a few more times in it.
const DARK: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_secs(60);
const SINKS: [&str; 4] = ["pagerduty", "slack", "webhook", "alertmanager"];

/// Starts the TLS server of one name, which answers every request with this status and body.
fn server(
    authority: &Authority,
    name: &'static str,
    status: &'static str,
    body: &'static str,
) -> TlsServer {
    TlsServer::start(authority, &[name], None, move |_, stream| {
        respond(stream, status, "content-type: application/json\r\n", body.as_bytes())
    })
}

fn calls(metrics: &str, sink: &str, result: &str) -> f64 {
    find_metric(
        metrics,
        &format!("spillway_page_calls_total{{sink=\"{sink}\",result=\"{result}\"}}"),
    )
    .unwrap_or(0.0)
}

#[test]
fn unresolved_names_cost_nothing_and_are_notified_later() {
    let test = "host-names";
    if !is_root(test) {
        return;
    }
    let scratch = Scratch::make(test);
    own_network().expect("root can create a network namespace");
    let all = "nameserver 127.0.0.1\nnameserver 127.0.0.2\nnameserver 127.0.0.3\n";
    own_resolver(&scratch.file("resolv.conf", all)).expect("root can replace resolv.conf");
    let resolver = Resolver::start(Knows::Nothing).expect("the port is free in a new namespace");
    let authority = Authority::make();
    let pagerduty =
        server(&authority, "events.internal", "202 Accepted", "{\"status\":\"success\"}");
    let slack = server(&authority, "hooks.internal", "200 OK", "ok");
    let webhook = server(&authority, "pages.internal", "204 No Content", "");
    let balancer = server(&authority, "lb.internal", "204 No Content", "");
    let alertmanager = Receiver::start(Form::Webhook);
    alertmanager.behaves(Manner::Answers(200, "", Vec::new()));
    let config = configuration(
        &scratch,
        &authority,
        [pagerduty.addr, slack.addr, webhook.addr, balancer.addr],
        &alertmanager,
    );
    let mut leak = Command::new(env!("CARGO_BIN_EXE_workload"));
    let (_cgroup, leak) =
        apart("names-leak", leak.args(["leak", "--rate=8MiB", "--limit=1500MiB"]));
    let running = Running::start(run_with(&config));
    let output = agent().args(["drain", "--config"]).arg(&config).output().expect("the agent runs");
    assert!(output.status.success(), "{output:?}");

    let has_failed = |metrics: &str| SINKS.iter().all(|sink| calls(metrics, sink, "failed") >= 1.0);
    let failed = wait_for(SOON, || has_failed(&running.get("/metrics")).then_some(()));
    assert!(
        failed.is_some(),
        "not every sink has failed: {}{}",
        running.log(),
        running.get("/metrics")
    );
    let (begun, before) = (now(), Held::by(running.pid()));
    let mut most = before;
    while begun.elapsed() < DARK {
        sleep(Duration::from_millis(500));
        let held = Held::by(running.pid());
        most.resident_bytes = most.resident_bytes.max(held.resident_bytes);
        most.threads = most.threads.max(held.threads);
        most.descriptors = most.descriptors.max(held.descriptors);
        assert!(running.is_well(), "{}", running.log());
    }
    let metrics = running.get("/metrics");
    let tries = SINKS.map(|sink| calls(&metrics, sink, "failed"));
    let gap = metric(&metrics, "spillway_loop_gap_max_seconds");
    println!(
        "{before:?}, and at most {most:?} in {DARK:?}; {tries:?} failed attempts, the loop's \
         longest gap {gap} s"
    );
    // Each sink's second attempt has ended by now: an attempt takes ten seconds. No sink makes more
    // than ten attempts a minute.
    assert!(tries.iter().all(|tries| (2.0..=10.0).contains(tries)), "{tries:?}");
    assert!(SINKS.iter().all(|sink| calls(&metrics, sink, "delivered") == 0.0), "{metrics}");
    assert!(metric(&metrics, "spillway_pages_waiting") >= SINKS.len() as f64, "{metrics}");
    assert!(gap < 1.0, "the loop was blocked for {gap} s");
    assert!(most.resident_bytes < before.resident_bytes + (1 << 20), "{before:?}, then {most:?}");
    // One more call than at the start may be open: one thread for each of five names, and one
    // socket for each resolver.
    assert!(
        most.threads <= before.threads + 5 && most.descriptors <= before.descriptors + 5 * 4,
        "{most:?}"
    );

    resolver.behaves(Knows::All);
    let all_called = || {
        let tls = [&pagerduty, &slack, &webhook, &balancer]
            .into_iter()
            .all(|server| !server.received().is_empty());
        (tls && !alertmanager.calls().is_empty()).then_some(())
    };
    let (begun, called) = (now(), wait_for(SOON, all_called));
    assert!(
        called.is_some(),
        "not every sink was called: {}{}",
        running.log(),
        running.get("/metrics")
    );
    println!(
        "every sink was called within {:.0} s after names resolved again",
        begun.elapsed().as_secs_f64()
    );
    let settled = wait_for(SOON, || {
        let metrics = running.get("/metrics");
        SINKS.iter().all(|sink| calls(&metrics, sink, "delivered") >= 1.0).then_some(())
    });
    assert!(settled.is_some(), "{}", running.get("/metrics"));
    let (code, log) = running.stop();
    assert_eq!(code, Some(0), "{log}");
    leak.stop();
}

/// Configures every sink by a name that only the test's resolver knows.
fn configuration(
    scratch: &Scratch,
    authority: &Authority,
    [pagerduty, slack, webhook, balancer]: [SocketAddr; 4],
    alertmanager: &Receiver,
) -> std::path::PathBuf {
    let secret = |name: &str, text: &str| scratch.secret(name, text).display().to_string();
    let (routing_key, keys) = (secret("routing-key", PAGERDUTY_KEY), secret("keys", KEY));
    let slack =
        secret("slack", &format!("https://hooks.internal:{}/services/T0/B0/x", slack.port()));
    let (ca_file, state_dir) = (scratch.file("ca.crt", &authority.pem()), scratch.0.join("state"));
    let (ca_file, state_dir) = (ca_file.display(), state_dir.display());
    let alertmanager = alertmanager.url("/api/v2/alerts").replace("127.0.0.1", "alerts.internal");
    let (pagerduty, webhook, balancer) = (pagerduty.port(), webhook.port(), balancer.port());
    scratch.file(
        "spillway.toml",
        &format!(
            "{ANY_PORT}[sense]\ninterval = \"100ms\"\n[detect.leak]\nwarm_up = \"0s\"\nhorizons = \
            [\"4s\", \"6s\", \"10s\"]\n\
             min_growth = \"16MiB\"\n[record]\nstate_dir = \"{state_dir}\"\n[act.page]\nin_observe \
             = true\nca_file = \"{ca_file}\"\n\
             [act.page.pagerduty]\nurl \
             = \"https://events.internal:{pagerduty}/v2/enqueue\"\nrouting_key_file \
             = \"{routing_key}\"\n\
             [act.page.slack]\nurl_file = \"{slack}\"\n[act.page.alertmanager]\nurl \
             = \"{alertmanager}\"\n\
             [act.page.webhook]\nurl = \"https://pages.internal:{webhook}/\"\nsecret_file \
             = \"{keys}\"\n\
             [act.drain]\nurl = \"https://lb.internal:{balancer}/\"\nsecret_file \
             = \"{keys}\"\nca_file = \"{ca_file}\"\n"
        ),
    )
}
