//! Metrics in Prometheus's text format 0.0.4, made from OpenMetrics text.
//!
//! The encoder knows only OpenMetrics, whose families `promtool check metrics` and older scrapers
//! cannot read: they have no type `info`, and name a counter's family with its suffix.

use hyper::header::{ACCEPT, HeaderMap};

/// Media type of OpenMetrics.
const OPENMETRICS_NAME: &str = "application/openmetrics-text";

/// Content type of metrics in OpenMetrics.
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Content type of metrics in the text format.
pub const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Returns whether a client asks for OpenMetrics, as Prometheus does. One that says nothing, such
/// as curl, receives the text format.
pub fn accepts_openmetrics(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let is_named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(OPENMETRICS_NAME));
        // Weight 0 means "not this one" (RFC 9110, 12.4.2).
        let is_refused = |part: &str| {
            let weight = part.strip_prefix("q=").or_else(|| part.strip_prefix("Q="));
            weight.and_then(|weight| weight.parse::<f64>().ok()) == Some(0.0)
        };
        is_named && !parts.any(is_refused)
    })
}

/// Converts OpenMetrics text, as the encoder writes it, to the text format: samples stay as they
/// are, and each family has the name of its samples and a type that the format knows.
pub fn from_openmetrics(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len());
    // A family's help comes before its type, which decides its name.
    let mut help = None;
    for line in openmetrics.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(_), words) => help = words,
            (Some("#"), Some("TYPE"), Some(family), Some(kind)) => {
                let (suffix, kind) = match kind {
                    "counter" => ("_total", "counter"),
                    "info" => ("_info", "gauge"),
                    "unknown" => ("", "untyped"),
                    other => ("", other),
                };
                if let Some(help) = help.take() {
                    text.extend(["# HELP ", family, suffix, " ", help, "\n"]);
                }
                text.extend(["# TYPE ", family, suffix, " ", kind, "\n"]);
            }
            (Some("#"), Some("UNIT" | "EOF"), ..) => {}
            _ => text.extend([line, "\n"]),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn families_have_the_names_of_their_samples() {
        let openmetrics = "\
# HELP spillway_build The agent's version.
# TYPE spillway_build info
spillway_build_info{version=\"1\"} 1
# HELP spillway_cpu_seconds CPU time of the agent.
# TYPE spillway_cpu_seconds counter
# UNIT spillway_cpu_seconds seconds
spillway_cpu_seconds_total 1.5
# HELP spillway_processes Processes in the latest scan.
# TYPE spillway_processes gauge
spillway_processes 7
# EOF
";
        let text = "\
# HELP spillway_build_info The agent's version.
# TYPE spillway_build_info gauge
spillway_build_info{version=\"1\"} 1
# HELP spillway_cpu_seconds_total CPU time of the agent.
# TYPE spillway_cpu_seconds_total counter
spillway_cpu_seconds_total 1.5
# HELP spillway_processes Processes in the latest scan.
# TYPE spillway_processes gauge
spillway_processes 7
";
        assert_eq!(from_openmetrics(openmetrics), text);
    }

    #[test]
    fn a_client_receives_openmetrics_only_if_it_asks() {
        let accepts = |value: &str| {
            let value = HeaderValue::from_str(value).expect("a header");
            accepts_openmetrics(&HeaderMap::from_iter([(ACCEPT, value)]))
        };
        assert!(!accepts_openmetrics(&HeaderMap::new()));
        for (value, expected) in [
            ("*/*", false),
            ("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", false),
            ("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", true),
            ("text/plain;q=0.5, Application/OpenMetrics-Text; version=0.0.1", true),
            ("application/openmetrics-text;q=0,text/plain", false),
        ] {
            assert_eq!(accepts(value), expected, "{value}");
        }
    }
}
