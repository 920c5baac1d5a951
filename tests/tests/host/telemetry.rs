//! Telemetry of a real agent in a real VictoriaMetrics, queried back, and in a real Collector.

use std::{process::Command, time::Duration};

use spillway_tests::{
    Collector, OwnCgroup, Running, Scratch, VictoriaMetrics, Workload, apart, metric, run_with,
    thread_cpu_ms, wait_for,
};

/// Maximum wait for a verdict on a leak, and for what VictoriaMetrics shows: it makes new samples
/// visible after some seconds.
const SOON: Duration = Duration::from_secs(60);

/// Maximum processor time of an export of this host's metrics, in milliseconds: a hundredth of a
/// core at one export a second, and far less at the default of one a minute.
const EXPORT_MS_MAX: f64 = 10.0;

/// Starts an agent with fast verdicts that exports once a second.
fn start(scratch: &Scratch, url: &str, options: &str) -> Running {
    let config = format!(
        "serve.listen = '127.0.0.1:0'\nsense.interval = '100ms'\n\
         detect.leak.warm_up = '0s'\ndetect.leak.horizons = ['4s', '6s', '10s']\n\
         detect.leak.min_growth = '16MiB'\nrecord.state_dir = '{}'\n\
         export.otlp.url = '{url}'\nexport.otlp.interval = '1s'\n{options}",
        scratch.0.join("state").display()
    );
    Running::start(run_with(&scratch.file("spillway.toml", &config)))
}

/// Starts a leak that is soon claimed. Its cgroup is to be dropped after it.
fn leak(test: &str) -> (Option<OwnCgroup>, Workload) {
    let mut leak = Command::new(env!("CARGO_BIN_EXE_workload"));
    apart(test, leak.args(["leak", "--rate=8MiB", "--limit=1500MiB"]))
}

/// Names of the families that an agent exports, with their types.
fn families(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    // A family may be declared before its first sample.
    let has_samples = |(name, kind): &(&str, &str)| {
        let name = sample_name(name, kind);
        text.lines().any(|line| line.split(['{', ' ']).next() == Some(&name))
    };
    let families = lines.filter(has_samples);
    families.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect()
}

/// Name of a sample of a family.
fn sample_name(family: &str, kind: &str) -> String {
    if kind == "histogram" { format!("{family}_bucket") } else { family.to_owned() }
}

#[test]
fn metrics_are_received_by_victoria_metrics_and_queried_back() {
    let Some(victoria) = VictoriaMetrics::find_or_skip("telemetry-victoria") else { return };
    let scratch = Scratch::make("telemetry");
    let victoria = victoria.start(&scratch.0.join("victoria"));
    let (_cgroup, _leak) = leak("telemetry-leak");
    let running = start(&scratch, &victoria.otlp_url(), "export.otlp.events = false\n");
    let raised = || victoria.value("sum(spillway_verdicts_raised_total)").filter(|&n| n >= 1.0);
    assert!(wait_for(SOON, raised).is_some(), "{}\n{}", running.get("/metrics"), running.log());
    let series = victoria.series("spillway_processes");
    assert_eq!(series[0]["metric"]["service.name"], "spillway", "{series:?}");
    // Every family under the name that /metrics has: counters, gauges with a unit, histograms.
    let families = families(&running.get("/metrics"));
    assert!(families.len() > 20, "{families:?}");
    let missing = || {
        let is_missing = |(name, kind): &&(String, String)| {
            victoria.value(&format!("count({})", sample_name(name, kind))).is_none()
        };
        families.iter().filter(is_missing).collect::<Vec<_>>()
    };
    let all = wait_for(SOON, || missing().is_empty().then_some(()));
    assert!(all.is_some(), "not received: {:?}", missing());
    let median =
        victoria.value("histogram_quantile(0.5, sum(spillway_read_seconds_bucket) by (le))");
    assert!(median.is_some_and(|secs| secs > 0.0 && secs < 1.0), "{median:?}");
    // The cost of it all.
    let accepted = "spillway_otlp_requests_total{signal=\"metrics\",result=\"accepted\"}";
    let exports = || metric(&running.get("/metrics"), accepted);
    let cpu_ms = || thread_cpu_ms(running.pid(), "otlp").expect("the agent runs");
    let (before, spent) = (exports(), cpu_ms());
    let more = wait_for(SOON, || Some(exports() - before).filter(|&more| more >= 10.0));
    let per_export_ms = (cpu_ms() - spent) / more.expect("it exports");
    println!("an export of {} families takes {per_export_ms:.2} ms", families.len());
    assert!(per_export_ms < EXPORT_MS_MAX, "{per_export_ms} ms");
}

#[test]
fn metrics_and_verdicts_are_received_by_a_collector() {
    let scratch = Scratch::make("collector");
    let Some(collector) = Collector::start_or_skip("collector", &scratch.0) else { return };
    let (_cgroup, leak) = leak("collector-leak");
    let running = start(&scratch, &collector.otlp_url(), "");
    let headline = || {
        let received = collector.received();
        let record = received.split("LogRecord #").find(|record| {
            record.contains("EventName: spillway.verdict.raised")
                && record.contains(&format!("process.pid: Int({})", leak.pid()))
        })?;
        let body = record.lines().find_map(|line| line.strip_prefix("Body: Str("))?;
        Some((body.to_owned(), record.to_owned()))
    };
    let (body, record) = wait_for(SOON, headline)
        .unwrap_or_else(|| panic!("{}\n{}", collector.received(), running.log()));
    assert!(body.contains("leaks memory"), "{record}");
    assert!(record.contains("spillway.severity: Str("), "{record}");
    let received = collector.received();
    for family in families(&running.get("/metrics")).iter().map(|(name, _)| name) {
        assert!(received.contains(&format!("-> Name: {family}\n")), "{family} was not received");
    }
    for kind in ["Gauge", "Sum", "Histogram"] {
        assert!(received.contains(&format!("-> DataType: {kind}\n")), "no {kind}");
    }
}
