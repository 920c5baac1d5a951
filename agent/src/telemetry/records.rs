//! Log records of OTLP, made of the agent's events. Pure.

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, any_value::Value},
    logs::v1::{LogRecord, SeverityNumber},
};

use super::resource::{attribute, text, texts};
use crate::{decide::Severity, history::HistoryEvent};

/// Makes the log record of an event at a time, in nanoseconds since 1970.
pub(super) fn record(event: &HistoryEvent, at_nanos: u64) -> LogRecord {
    let about = if event.verdict.is_empty() { &event.action } else { "verdict" };
    let body = if event.headline.is_empty() { &event.why } else { &event.headline };
    let mut attributes = vec![texts("spillway.incident.ids", &event.ids)];
    let named = [
        ("spillway.verdict", &event.verdict),
        ("spillway.action", &event.action),
        ("spillway.severity", &event.severity),
        ("spillway.cgroup", &event.cgroup),
        ("spillway.why", &event.why),
        ("spillway.advice", &event.advice),
    ];
    let named = named.into_iter().filter(|(_, value)| !value.is_empty());
    attributes.extend(named.map(|(key, value)| text(key, value)));
    let pid = event.pid.map(|pid| attribute("process.pid", Value::IntValue(pid.into())));
    let left = event
        .exhaustion_secs
        .map(|secs| attribute("spillway.exhaustion_seconds", Value::DoubleValue(secs)));
    attributes.extend(pid.into_iter().chain(left));
    LogRecord {
        time_unix_nano: at_nanos,
        observed_time_unix_nano: at_nanos,
        severity_number: severity(event) as i32,
        severity_text: event.severity.clone(),
        body: Some(AnyValue { value: Some(Value::StringValue(body.clone())) }),
        attributes,
        event_name: format!("spillway.{about}.{}", event.event),
        ..LogRecord::default()
    }
}

/// Returns the severity of a record: that of a verdict while it stands.
fn severity(event: &HistoryEvent) -> SeverityNumber {
    let is_over = event.event == "cleared";
    match &*event.severity {
        text if text == Severity::Critical.name() && !is_over => SeverityNumber::Error,
        text if text == Severity::Warning.name() && !is_over => SeverityNumber::Warn,
        _ => SeverityNumber::Info,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leak(event: &str) -> HistoryEvent {
        HistoryEvent {
            event: event.to_owned(),
            ids: vec!["leak-1".to_owned()],
            verdict: "leak".to_owned(),
            severity: "critical".to_owned(),
            cgroup: "/system.slice/api.service".to_owned(),
            pid: Some(7),
            exhaustion_secs: Some(60.5),
            headline: "api leaks memory".to_owned(),
            why: "it grew".to_owned(),
            ..HistoryEvent::default()
        }
    }

    #[test]
    fn verdict_is_a_record_with_its_severity_and_subject() {
        let record = record(&leak("raised"), 5);
        assert_eq!(record.event_name, "spillway.verdict.raised");
        assert_eq!(record.severity_number, SeverityNumber::Error as i32);
        assert_eq!(record.body.unwrap().value, Some(Value::StringValue("api leaks memory".into())));
        let keys: Vec<_> = record.attributes.iter().map(|one| &*one.key).collect();
        assert_eq!(
            keys,
            [
                "spillway.incident.ids",
                "spillway.verdict",
                "spillway.severity",
                "spillway.cgroup",
                "spillway.why",
                "process.pid",
                "spillway.exhaustion_seconds"
            ]
        );
        assert_eq!(super::record(&leak("cleared"), 5).severity_number, SeverityNumber::Info as i32);
    }

    #[test]
    fn action_is_a_record_with_its_reason() {
        let (action, event, why) = ("limit".to_owned(), "would".to_owned(), "it leaks".to_owned());
        let decision = HistoryEvent { action, event, why, ..HistoryEvent::default() };
        let record = record(&decision, 5);
        assert_eq!(record.event_name, "spillway.limit.would");
        assert_eq!(record.body.unwrap().value, Some(Value::StringValue("it leaks".into())));
    }
}
