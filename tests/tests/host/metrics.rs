//! Metrics of a real agent as Prometheus's own tools read them, and the alerts and the dashboard that
//! are made of them.

use std::{collections::BTreeSet, fs, path::Path, process::Command, time::Duration};

use serde_json::Value;
use spillway_tests::{Running, Scratch, Servers, apart, http_get_with, metric, run_with, wait_for};

/// Agent with every part that has metrics of its own, and fast verdicts. Nobody answers at the
/// addresses.
const EVERYTHING: &str = "\
serve.listen = '127.0.0.1:0'
sense.interval = '100ms'
detect.leak.warm_up = '0s'
detect.leak.horizons = ['4s', '6s', '10s']
detect.leak.min_growth = '16MiB'
act.page.in_observe = true
act.drain.agent_check.listen = '127.0.0.1:0'
act.page.alertmanager.url = 'http://127.0.0.1:9/'
fleet.backend = 'fleetlock'
fleet.urls = ['http://127.0.0.1:9/']
fleet.group = 'web'
";

/// Metrics that take a group of nodes with load, and an action that this agent must not take, with
/// the sources that say that they are exported.
const NEED_MORE: [(&str, &str); 2] = [
    ("spillway_fleet_margin", include_str!("../../../agent/src/act/fleet/metrics.rs")),
    ("spillway_outcomes_total", include_str!("../../../agent/src/serve/metrics.rs")),
];

/// Maximum wait for a verdict on a leak and its page.
const SOON: Duration = Duration::from_secs(60);

/// Directory of the repository.
const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

fn start() -> (Scratch, Running) {
    let scratch = Scratch::make("metrics");
    let config = format!("{EVERYTHING}record.state_dir = '{}'\n", scratch.0.display());
    let running = Running::start(run_with(&scratch.file("spillway.toml", &config)));
    let has_scanned =
        || (metric(&running.get("/metrics"), "spillway_processes") > 0.0).then_some(());
    wait_for(Duration::from_secs(10), has_scanned).expect("the agent should scan");
    (scratch, running)
}

fn body(response: &str) -> &str {
    response.split_once("\r\n\r\n").expect("the response should be HTTP").1
}

/// Names of the samples that an agent exports, as their families are declared.
fn exported(text: &str) -> BTreeSet<String> {
    let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let names = families.flat_map(|family| match family.split_once(' ') {
        Some((name, "histogram")) => {
            ["bucket", "sum", "count"].map(|part| format!("{name}_{part}")).to_vec()
        }
        Some((name, _)) => vec![name.to_owned()],
        None => Vec::new(),
    });
    names.collect()
}

/// Names of the agent's metrics in an expression.
fn used(expression: &str) -> impl Iterator<Item = &str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    expression.split(move |c| !is_name(c)).filter(|word| word.starts_with("spillway_"))
}

/// Every value of a key, wherever it is.
fn values<'a>(document: &'a Value, key: &str, found: &mut Vec<&'a str>) {
    match document {
        Value::Object(fields) => {
            found.extend(fields.get(key).and_then(Value::as_str));
            fields.values().for_each(|field| values(field, key, found));
        }
        Value::Array(items) => items.iter().for_each(|item| values(item, key, found)),
        _ => {}
    }
}

#[test]
fn metrics_are_read_by_promtool_and_an_openmetrics_parser() {
    let Some(servers) = Servers::find_or_skip("metrics-promtool") else { return };
    let (_scratch, running) = start();
    let text = running.get("/metrics");
    let checked = servers.promtool(&["check", "metrics", "--extended"], body(&text));
    assert!(checked.status.success() && checked.stderr.is_empty(), "{checked:?}\n{text}");
    let headers = ["host: localhost", "accept: application/openmetrics-text; version=1.0.0"];
    let openmetrics =
        http_get_with(running.address(), "/metrics", &headers).expect("the agent should respond");
    assert!(openmetrics.contains("content-type: application/openmetrics-text"), "{openmetrics}");
    let parsed = servers.parse_openmetrics(body(&openmetrics));
    assert!(parsed.status.success(), "{parsed:?}\n{openmetrics}");
    let families = openmetrics.lines().filter(|line| line.starts_with("# TYPE ")).count();
    assert_eq!(String::from_utf8_lossy(&parsed.stdout).trim(), families.to_string());
}

#[test]
fn alerts_and_dashboard_use_what_an_agent_exports() {
    let mut leak = Command::new(env!("CARGO_BIN_EXE_workload"));
    let (_cgroup, _leak) =
        apart("metrics-leak", leak.args(["leak", "--rate=8MiB", "--limit=1500MiB"]));
    let (_scratch, running) = start();
    let read = |path: &str| {
        fs::read_to_string(Path::new(REPOSITORY).join(path))
            .unwrap_or_else(|e| panic!("{path}: {e}"))
    };
    let alerts = read("configs/prometheus/alerts.yml");
    let dashboard: Value =
        serde_json::from_str(&read("configs/grafana/dashboard.json")).expect("JSON");
    let mut shown = Vec::new();
    values(&dashboard["panels"], "expr", &mut shown);
    assert!(shown.len() >= 10, "{shown:?}");
    let mut names: BTreeSet<_> = shown.iter().flat_map(|expression| used(expression)).collect();
    names.extend(alerts.lines().filter(|line| line.contains("expr: ")).flat_map(used));
    assert!(names.len() >= 10, "{names:?}");
    for (name, source) in NEED_MORE {
        let registered = name.trim_start_matches("spillway_").trim_end_matches("_total");
        assert!(names.remove(name) && source.contains(&format!("\"{registered}\"")), "{name}");
    }
    // Counts of incidents and pages are exported once there was one.
    let missing = || {
        let text = running.get("/metrics");
        let exported = exported(body(&text));
        names.iter().filter(|name| !exported.contains(**name)).copied().collect::<Vec<_>>()
    };
    let all = wait_for(SOON, || missing().is_empty().then_some(()));
    assert!(all.is_some(), "not exported: {:?}\n{}", missing(), running.get("/metrics"));
}

#[test]
fn promtool_accepts_the_alerts_and_the_dashboards_expressions() {
    let Some(servers) = Servers::find_or_skip("metrics-alerts") else { return };
    let tests = format!("{REPOSITORY}/tests/prometheus/alerts_test.yml");
    let tested = servers.promtool(&["test", "rules", &tests], "");
    assert!(tested.status.success(), "{tested:?}");
    let alerts = format!("{REPOSITORY}/configs/prometheus/alerts.yml");
    let checked = servers.promtool(&["check", "rules", &alerts], "");
    assert!(checked.status.success() && checked.stderr.is_empty(), "{checked:?}");
    let dashboard = fs::read_to_string(format!("{REPOSITORY}/configs/grafana/dashboard.json"));
    let dashboard: Value = serde_json::from_str(&dashboard.expect("the file")).expect("JSON");
    let mut shown = Vec::new();
    values(&dashboard["panels"], "expr", &mut shown);
    let rule = |(nth, expression): (usize, &&str)| serde_json::json!({ "record": format!("panel:{nth}"), "expr": expression });
    let rules: Vec<_> = shown.iter().enumerate().map(rule).collect();
    let rules = serde_json::json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    let scratch = Scratch::make("dashboard");
    let file = scratch.file("rules.yml", &rules.to_string());
    let checked = servers.promtool(&["check", "rules", &file.display().to_string()], "");
    assert!(checked.status.success(), "{checked:?}");
}
