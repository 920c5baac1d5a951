//! Telemetry to a receiver that accepts, refuses, fails, hangs and echoes secrets.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse},
        metrics::v1::ExportMetricsServiceRequest,
    },
    common::v1::any_value::Value,
    metrics::v1::{AggregationTemporality, metric::Data, number_data_point},
};
use prost::Message;
use spillway_agent::{
    clock::Clock,
    config::{OtlpConfig, parse},
    history::HistoryEvent,
    telemetry::{ExportCounts, TelemetryExporter},
};
use spillway_tests::{
    Scratch, now,
    receiver::{Call, Form, Manner, Receiver},
    wait_for,
};

const SOON: Duration = Duration::from_secs(20);

/// Total of the counter that the exporter of these tests reads.
static SEEN: AtomicU64 = AtomicU64::new(0);

/// Exporter and its receiver.
struct Export {
    receiver: Receiver,
    exporter: TelemetryExporter,
    counts: ExportCounts,
    clock: Clock,
}

impl Export {
    /// Exports once a second, with more options.
    fn start(options: &str) -> Self {
        Self::every("1s", options)
    }

    fn every(interval: &str, options: &str) -> Self {
        let receiver = Receiver::start(Form::Telemetry);
        let config = otlp(&format!(
            "url = \"{}\"\ninterval = \"{interval}\"\n{options}",
            receiver.url("/otlp/")
        ));
        let (clock, counts) = (Clock::start(), ExportCounts::default());
        let exporter = TelemetryExporter::start(&config, clock, counts.clone(), exposition)
            .expect("starting the exporter")
            .expect("a receiver is configured");
        Self { receiver, exporter, counts, clock }
    }

    fn note(&self, headline: &str) {
        let event = HistoryEvent {
            t: self.clock.now(),
            event: "raised".to_owned(),
            verdict: "leak".to_owned(),
            severity: "critical".to_owned(),
            headline: headline.to_owned(),
            ..HistoryEvent::default()
        };
        self.exporter.note(event);
    }

    /// Waits until this is true of the calls so far.
    fn wait_until(&self, what: &str, is_true: impl Fn(&[Call]) -> bool) -> Vec<Call> {
        let calls = || Some(self.receiver.calls()).filter(|calls| is_true(calls));
        wait_for(SOON, calls).unwrap_or_else(|| panic!("{what}: {:?}", self.receiver.calls()))
    }

    /// Metrics of the export itself, as `/metrics` shows them.
    fn counted(&self) -> String {
        let mut registry = prometheus_client::registry::Registry::default();
        self.counts.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("encoding");
        text
    }
}

fn otlp(table: &str) -> OtlpConfig {
    let config = parse(&format!("[export.otlp]\n{table}"), "telemetry.toml");
    config.expect("the configuration should be valid").export.otlp
}

fn exposition() -> String {
    format!("# TYPE spillway_seen counter\nspillway_seen_total {}\n", SEEN.load(Ordering::SeqCst))
}

fn is_to(path: &'static str) -> impl Fn(&&Call) -> bool {
    move |call| call.method_and_target() == ("POST", path)
}

/// Headlines of the events that the receiver accepted, in order.
fn accepted_headlines(calls: &[Call]) -> Vec<String> {
    let accepted = calls.iter().filter(|call| call.status == 200).filter(is_to("/otlp/v1/logs"));
    let records = accepted.flat_map(|call| {
        let request = ExportLogsServiceRequest::decode(&call.body[..]).expect("logs");
        request.resource_logs.into_iter().flat_map(|one| one.scope_logs)
    });
    let bodies = records.flat_map(|scope| scope.log_records).map(|record| record.body);
    let text = |body| match body {
        Some(Value::StringValue(text)) => text,
        other => panic!("{other:?} is no text"),
    };
    bodies.map(|body| text(body.and_then(|body| body.value))).collect()
}

/// Increases of the counter that the receiver accepted, in order.
fn accepted_increases(calls: &[Call]) -> Vec<i64> {
    let accepted = calls.iter().filter(|call| call.status == 200).filter(is_to("/otlp/v1/metrics"));
    let metrics = accepted.flat_map(|call| {
        let request = ExportMetricsServiceRequest::decode(&call.body[..]).expect("metrics");
        let scopes = request.resource_metrics.into_iter().flat_map(|one| one.scope_metrics);
        scopes.flat_map(|scope| scope.metrics).collect::<Vec<_>>()
    });
    let increase = |data| {
        let Some(Data::Sum(sum)) = data else { panic!("{data:?}") };
        assert_eq!(sum.aggregation_temporality, AggregationTemporality::Delta as i32);
        let Some(number_data_point::Value::AsInt(value)) = sum.data_points[0].value else {
            panic!("{sum:?}")
        };
        value
    };
    metrics.map(|metric| increase(metric.data)).collect()
}

#[test]
fn metrics_and_events_are_sent_with_headers_of_a_file() {
    let scratch = Scratch::make("otlp-headers");
    let file = scratch.secret("headers", "api-key: s3cret-k3y\nDD-Source: spillway\n");
    let export = Export::start(&format!("headers_file = \"{}\"\n", file.display()));
    export.note("api leaks memory");
    let calls = export.wait_until("both are sent", |calls| {
        calls.iter().any(|call| is_to("/otlp/v1/metrics")(&call))
            && calls.iter().any(|call| is_to("/otlp/v1/logs")(&call))
    });
    for call in &calls {
        assert_eq!(call.header("content-type"), Some("application/x-protobuf"));
        assert_eq!(call.header("api-key"), Some("s3cret-k3y"));
        assert_eq!(call.header("dd-source"), Some("spillway"));
    }
    assert_eq!(accepted_headlines(&calls), ["api leaks memory"]);
    let first = calls.iter().find(is_to("/otlp/v1/metrics")).expect("metrics");
    let request = ExportMetricsServiceRequest::decode(&first.body[..]).expect("metrics");
    let resource = request.resource_metrics[0].resource.as_ref().expect("a resource");
    let keys: Vec<_> = resource.attributes.iter().map(|one| &*one.key).collect();
    assert!(["service.name", "host.name"].iter().all(|key| keys.contains(key)), "{keys:?}");
}

#[test]
fn nothing_is_lost_or_sent_twice_in_an_outage() {
    let export = Export::start("counters = \"delta\"\n");
    let bad_gateway = Manner::Answers(502, "", b"bad gateway".to_vec());
    for (turn, manner) in [bad_gateway, Manner::Resets].into_iter().enumerate() {
        export.receiver.behaves(manner);
        let failed = export.receiver.calls().len() + 2;
        SEEN.fetch_add(5, Ordering::SeqCst);
        export.note(&format!("event {turn}"));
        export.wait_until("it is asked in vain", |calls| calls.len() >= failed);
        export.receiver.behaves(Manner::Well);
        let is_over = |calls: &[Call]| {
            accepted_headlines(calls).len() > turn
                && accepted_increases(calls).iter().sum::<i64>()
                    == SEEN.load(Ordering::SeqCst) as i64
        };
        export.wait_until("everything has arrived", is_over);
    }
    let calls = export.receiver.calls();
    assert_eq!(accepted_headlines(&calls), ["event 0", "event 1"]);
    let counted = export.counted();
    assert!(counted.contains("otlp_events_dropped_total 0"), "{counted}");
    assert!(counted.contains("signal=\"events\",result=\"failed\""), "{counted}");
}

#[test]
fn refused_events_are_dropped_and_counted() {
    let export = Export::start("");
    export.receiver.behaves(Manner::Answers(400, "", b"no".to_vec()));
    export.note("refused");
    let refused = |calls: &[Call]| calls.iter().any(|call| is_to("/otlp/v1/logs")(&call));
    export.wait_until("events are sent though metrics are refused", refused);
    let partial = ExportLogsServiceResponse {
        partial_success: Some(ExportLogsPartialSuccess {
            rejected_log_records: 1,
            error_message: "too old".to_owned(),
        }),
    };
    export.receiver.behaves(Manner::Answers(200, "", partial.encode_to_vec()));
    export.note("rejected");
    let rejected = |calls: &[Call]| accepted_headlines(calls) == ["rejected"];
    export.wait_until("the other is rejected with a success", rejected);
    let counted = || Some(export.counted()).filter(|text| text.contains("dropped_total 2"));
    assert!(wait_for(SOON, counted).is_some(), "{}", export.counted());
    assert!(export.counted().contains("result=\"partial\""), "{}", export.counted());
}

#[test]
fn hanging_receiver_delays_neither_events_nor_the_stop() {
    let export = Export::start("");
    export.receiver.behaves(Manner::Hangs);
    export.wait_until("it hangs", |calls| !calls.is_empty());
    let start = now();
    // More than it keeps.
    (0..1_500).for_each(|nth| export.note(&nth.to_string()));
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    let counted = export.counted();
    assert!(counted.contains("otlp_events_dropped_total 500"), "{counted}");
    let start = now();
    export.exporter.stop();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn last_events_are_sent_at_the_stop() {
    let export = Export::every("1h", "");
    export.note("at the end");
    export.exporter.stop();
    assert_eq!(accepted_headlines(&export.receiver.calls()), ["at the end"]);
}

#[test]
fn metrics_only_receiver_is_sent_no_events() {
    let export = Export::start("events = false\n");
    export.note("unwanted");
    let twice = |calls: &[Call]| calls.iter().filter(is_to("/otlp/v1/metrics")).count() >= 2;
    let calls = export.wait_until("metrics are sent", twice);
    assert!(calls.iter().all(|call| is_to("/otlp/v1/metrics")(&call)), "{calls:?}");
}

#[test]
fn headers_are_secrets_that_need_https() {
    let scratch = Scratch::make("otlp-http");
    let file = scratch.secret("headers", "api-key: s3cret-k3y\n");
    let table = |url: &str| {
        let text =
            format!("[export.otlp]\nurl = \"{url}\"\nheaders_file = \"{}\"\n", file.display());
        parse(&text, "telemetry.toml")
    };
    assert!(table("https://otlp.internal").is_ok() && table("http://127.0.0.1:4318").is_ok());
    let refused = table("http://otlp.internal:4318").expect_err("a secret in plain text");
    let refused = refused.to_string();
    assert!(refused.contains("export.otlp.url") && refused.contains("https"), "{refused}");
}
