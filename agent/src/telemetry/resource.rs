//! Attributes that all telemetry has in common: the agent and its host.

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
};

/// Returns the resource of the agent on a host, in OpenTelemetry's semantic conventions.
pub(super) fn of_agent(host: &str) -> Resource {
    let attributes = vec![
        text("service.name", "spillway"),
        text("service.version", env!("CARGO_PKG_VERSION")),
        text("service.instance.id", host),
        text("host.name", host),
        text("os.type", "linux"),
    ];
    Resource { attributes, ..Resource::default() }
}

/// Returns the scope of everything that the agent sends.
pub(super) fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "spillway".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}

/// Returns an attribute.
pub(super) fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

/// Returns an attribute that is a text.
pub(super) fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

/// Returns an attribute that is a list of texts.
pub(super) fn texts(key: &str, values: &[String]) -> KeyValue {
    let value = |text: &String| AnyValue { value: Some(Value::StringValue(text.clone())) };
    attribute(key, Value::ArrayValue(ArrayValue { values: values.iter().map(value).collect() }))
}
