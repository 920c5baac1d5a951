//! Report of a node: what the others have to know to grant it a drain, or to leave one to it.
//!
//! Pure. A report is one JSON object of at most [`REPORT_BYTES_MAX`]. Others write reports, so each
//! is checked: version, name, group, numbers and text. One that fails is kept as unreadable, and
//! its node counts as gone.

use serde::{Deserialize, Serialize};

use crate::net::redact::Redactor;

/// Maximum size of a report. A real one has about 400 bytes.
pub const REPORT_BYTES_MAX: usize = 2_048;

/// Version of the format.
const VERSION: u32 = 1;

/// Maximum length of a name: that of a host's name in DNS.
pub(super) const NAME_BYTES_MAX: usize = 253;

/// Maximum length of the name of what leaks.
const CAUSE_BYTES_MAX: usize = 128;

/// Maximum of any number: beyond it a report is damaged.
const NUMBER_MAX: f64 = 1e12;

/// Difference between two loads that matters, as a share of the proven one. Half of the margin with
/// which drains are granted.
const LOAD_SHARE: f64 = 0.1;

/// Difference between two forecasts of an end that matters, in milliseconds.
const END_MS: f64 = 60_000.0;

/// Maximum number of drains that is counted.
const DRAINS_MAX: u32 = 1_000;

/// Report of one node at one time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Name of the node, unique in its group.
    pub node: String,
    /// Group of nodes that can take each other's load.
    pub group: String,
    /// Zone; empty if there is one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub zone: String,
    /// Region; empty if there is one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub region: String,
    /// Random number of the agent's run, so that two nodes with one name are noticed.
    pub run: u64,
    /// Time at which the report was made, in milliseconds since 1970 by the node's clock.
    pub at_ms: u64,
    /// State of the node.
    pub state: NodeState,
    /// Set if the node waits for its turn to leave.
    #[serde(default, skip_serializing_if = "is_false")]
    pub waits: bool,
    /// Set if the load is far above that of the last hour.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_surging: bool,
    /// CPUs in use.
    pub cpus: Load,
    /// Requests answered per second; `None` if unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<Load>,
    /// Requests in flight at the node's services; `None` if unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u64>,
    /// Load that this node gave up when it left, until the others' reports show it; `None` if there
    /// is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_up: Option<GivenUpLoad>,
    /// Wait of the oldest connection in a queue, in microseconds; `None` if unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_wait_us: Option<u64>,
    /// Drains of this node in the last six hours.
    #[serde(default)]
    pub recent_drains: u32,
    /// Forecast of the node's end; `None` without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<ForecastEnd>,
}

/// Load of a node in one unit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// Load now.
    pub now: f64,
    /// Maximum load that it carried well in recent days, or the operator's figure.
    pub proven: f64,
}

/// Load that a node gave up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct GivenUpLoad {
    /// CPUs in use.
    pub cpus: f64,
    /// Requests answered per second; `None` if unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<f64>,
}

/// State of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// In rotation and well.
    Serving,
    /// In rotation, and overloaded or failing: it can take no more.
    Unwell,
    /// Out of rotation by the agent.
    Out,
    /// Out of rotation by an operator.
    OutByOperator,
}

/// Forecast end of a node, in seconds from the time of the report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ForecastEnd {
    /// Forecast.
    pub secs: f64,
    /// Soonest end by the forecast's interval.
    pub soonest_secs: f64,
    /// Latest end by the forecast's interval.
    pub latest_secs: f64,
    /// Name of what ends the node, such as the unit that leaks and its release: nodes with the same
    /// one have one incident.
    pub cause: String,
}

/// Reason for which a report is not read.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ReportError {
    /// It is too large.
    #[error("it has {0} bytes, more than {REPORT_BYTES_MAX}")]
    TooLarge(usize),
    /// It is not a report.
    #[error("it is no report: {0}")]
    Invalid(String),
    /// Another version of Spillway wrote it.
    #[error("it has version {0}, and this agent reads version {VERSION}")]
    Version(u32),
    /// It names another node or group than its key.
    #[error("it names {kind} {found:?}, and its key {expected:?}")]
    Name {
        /// Kind of name: `node` or `group`.
        kind: &'static str,
        /// Name in the report.
        found: String,
        /// Name in the key.
        expected: String,
    },
    /// A field has an impossible value.
    #[error("{0} has an impossible value")]
    Value(&'static str),
}

impl Load {
    /// Load that the node can take in addition.
    pub fn headroom(self) -> f64 {
        (self.proven - self.now).max(0.0)
    }

    fn is_near(self, other: Self) -> bool {
        let apart_max = LOAD_SHARE * self.proven.min(other.proven);
        (self.now - other.now).abs() <= apart_max && (self.proven - other.proven).abs() <= apart_max
    }
}

impl ForecastEnd {
    /// Returns whether two ends with these times of their reports are at the same time.
    fn is_near(&self, at_ms: u64, other: &Self, other_at_ms: u64) -> bool {
        let later_ms = at_ms as f64 - other_at_ms as f64;
        let pairs = [
            (self.secs, other.secs),
            (self.soonest_secs, other.soonest_secs),
            (self.latest_secs, other.latest_secs),
        ];
        let is_near = |(secs, other): (f64, f64)| (later_ms + (secs - other) * 1e3).abs() <= END_MS;
        self.cause == other.cause && pairs.into_iter().all(is_near)
    }
}

impl NodeState {
    /// Returns whether the node is in rotation.
    pub fn is_in_rotation(self) -> bool {
        matches!(self, Self::Serving | Self::Unwell)
    }
}

impl NodeReport {
    /// Creates the report of an idle node in rotation.
    pub fn new(node: &str, group: &str, run: u64, at_ms: u64) -> Self {
        Self {
            node: node.to_owned(),
            group: group.to_owned(),
            zone: String::new(),
            region: String::new(),
            run,
            at_ms,
            state: NodeState::Serving,
            waits: false,
            is_surging: false,
            cpus: Load::default(),
            requests: None,
            in_flight: None,
            given_up: None,
            queue_wait_us: None,
            recent_drains: 0,
            end: None,
        }
    }

    /// Reads a report that was published under this name of a node and a group.
    ///
    /// # Errors
    ///
    /// Returns an error if it is damaged, of another version, or about another node.
    pub fn parse(bytes: &[u8], node: &str, group: &str) -> Result<Self, ReportError> {
        #[derive(Deserialize)]
        struct Versioned {
            v: u32,
        }
        if bytes.len() > REPORT_BYTES_MAX {
            return Err(ReportError::TooLarge(bytes.len()));
        }
        // The error quotes what another node wrote.
        let invalid = |error: serde_json::Error| {
            ReportError::Invalid(Redactor::default().line(&error.to_string()))
        };
        let Versioned { v } = serde_json::from_slice(bytes).map_err(invalid)?;
        if v != VERSION {
            return Err(ReportError::Version(v));
        }
        let report: Self = serde_json::from_slice(bytes).map_err(invalid)?;
        for (kind, found, expected) in
            [("node", &report.node, node), ("group", &report.group, group)]
        {
            if found != expected {
                let (found, expected) = (bounded(found), bounded(expected));
                return Err(ReportError::Name { kind, found, expected });
            }
        }
        match report.impossible() {
            Some(field) => Err(ReportError::Value(field)),
            None => Ok(report),
        }
    }

    /// Returns the report as it is published.
    pub fn to_json(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Versioned<'a> {
            v: u32,
            #[serde(flatten)]
            report: &'a NodeReport,
        }
        // Serialising to memory fails only for maps with other keys than text.
        serde_json::to_vec(&Versioned { v: VERSION, report: self }).unwrap_or_default()
    }

    /// Returns whether the others would judge by this report as they do by `last`, an earlier one
    /// of the same run: numbers may differ a little, and waits and requests in flight are
    /// only shown.
    pub fn is_no_news_after(&self, last: &Self) -> bool {
        let are_near = match (&self.requests, &last.requests) {
            (Some(requests), Some(last)) => requests.is_near(*last),
            (requests, last) => requests.is_some() == last.is_some(),
        };
        let is_same_end = match (&self.end, &last.end) {
            (Some(end), Some(last_end)) => end.is_near(self.at_ms, last_end, last.at_ms),
            (end, last_end) => end.is_some() == last_end.is_some(),
        };
        let with_numbers_of_last = Self {
            at_ms: last.at_ms,
            cpus: last.cpus,
            requests: last.requests,
            queue_wait_us: last.queue_wait_us,
            in_flight: last.in_flight,
            end: last.end.clone(),
            ..self.clone()
        };
        are_near && self.cpus.is_near(last.cpus) && is_same_end && with_numbers_of_last == *last
    }

    /// Returns the first field whose value cannot be true.
    fn impossible(&self) -> Option<&'static str> {
        let is_number = |number: f64| (0.0..=NUMBER_MAX).contains(&number);
        let is_load = |load: &Load| is_number(load.now) && is_number(load.proven);
        let is_end = |end: &ForecastEnd| {
            is_number(end.soonest_secs)
                && end.soonest_secs <= end.secs
                && end.secs <= end.latest_secs
                && is_number(end.latest_secs)
                && is_name(&end.cause, CAUSE_BYTES_MAX)
        };
        let is_given_up =
            |load: &GivenUpLoad| is_number(load.cpus) && load.requests.is_none_or(is_number);
        let checks = [
            ("node", !self.node.is_empty() && is_name(&self.node, NAME_BYTES_MAX)),
            ("group", !self.group.is_empty() && is_name(&self.group, NAME_BYTES_MAX)),
            ("zone", is_name(&self.zone, NAME_BYTES_MAX)),
            ("region", is_name(&self.region, NAME_BYTES_MAX)),
            ("cpus", is_load(&self.cpus)),
            ("requests", self.requests.as_ref().is_none_or(is_load)),
            ("given_up", self.given_up.as_ref().is_none_or(is_given_up)),
            ("recent_drains", self.recent_drains <= DRAINS_MAX),
            ("end", self.end.as_ref().is_none_or(is_end)),
        ];
        checks.iter().find(|(_, is_possible)| !is_possible).map(|(field, _)| *field)
    }
}

/// Returns whether text is short and printable, so that it may be shown to a person.
pub(super) fn is_name(text: &str, bytes_max: usize) -> bool {
    text.len() <= bytes_max && !text.chars().any(char::is_control)
}

/// Returns whether text can be the name of a node or a group, which becomes part of keys.
pub(super) fn is_key_name(text: &str) -> bool {
    !text.is_empty() && is_name(text, NAME_BYTES_MAX) && !text.contains('/')
}

fn bounded(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}

fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn report() -> NodeReport {
        NodeReport {
            zone: "a".to_owned(),
            requests: Some(Load { now: 40.0, proven: 90.0 }),
            end: Some(ForecastEnd {
                secs: 7_200.0,
                soonest_secs: 5_400.0,
                latest_secs: 9_000.0,
                cause: "api.service 2.4.1".to_owned(),
            }),
            ..NodeReport::new("web-1", "web", 7, 1_700_000_000_000)
        }
    }

    #[test]
    fn report_is_read_back_as_it_was_published() {
        let bytes = report().to_json();
        assert!(bytes.len() < 400, "{} bytes", bytes.len());
        assert_eq!(NodeReport::parse(&bytes, "web-1", "web"), Ok(report()));
    }

    #[test]
    fn forged_damaged_and_future_reports_are_refused() {
        let refused = |bytes: &[u8]| NodeReport::parse(bytes, "web-1", "web").unwrap_err();
        let text = String::from_utf8(report().to_json()).unwrap();
        let changed = |from: &str, to: &str| {
            assert!(text.contains(from), "{text}");
            refused(text.replace(from, to).as_bytes())
        };
        assert_eq!(changed("\"v\":1", "\"v\":2"), ReportError::Version(2));
        assert_eq!(refused(br#"{"v":9,"new":true}"#), ReportError::Version(9));
        let error = changed("\"web-1\"", "\"web-2\"").to_string();
        assert_eq!(error, r#"it names node "web-2", and its key "web-1""#);
        let error = changed("\"group\":\"web\"", "\"group\":\"db\"").to_string();
        assert_eq!(error, r#"it names group "db", and its key "web""#);
        assert_eq!(changed("\"now\":40.0", "\"now\":-1"), ReportError::Value("requests"));
        assert_eq!(changed("\"now\":40.0", "\"now\":1e300"), ReportError::Value("requests"));
        assert_eq!(changed("5400.0", "8000.0"), ReportError::Value("end"));
        assert_eq!(changed("\"a\"", "\"a\\u001b[31m\""), ReportError::Value("zone"));
        assert!(matches!(refused(b"garbage"), ReportError::Invalid(_)));
        assert!(matches!(refused(b""), ReportError::Invalid(_)));
        let escape = changed("\"serving\"", "\"\\u001b[31m\"").to_string();
        assert!(escape.starts_with("it is no report: ") && !escape.contains('\u{1b}'), "{escape}");
        assert_eq!(refused(&[b' '; 4_096]), ReportError::TooLarge(4_096));
    }

    #[test]
    fn report_is_news_if_others_would_judge_by_it_otherwise() {
        let last = NodeReport { cpus: Load { now: 3.0, proven: 8.0 }, ..report() };
        let after = |change: &dyn Fn(&mut NodeReport)| {
            let mut report = last.clone();
            change(&mut report);
            report.is_no_news_after(&last)
        };
        let with_end = |report: &mut NodeReport, change: &dyn Fn(&mut ForecastEnd)| {
            change(report.end.as_mut().unwrap());
        };
        assert!(after(&|_| {}));
        assert!(after(&|report| report.cpus.now = 3.7));
        assert!(after(&|report| report.queue_wait_us = Some(9)));
        assert!(after(&|report| report.in_flight = Some(9)));
        // The same end, said later.
        assert!(after(&|report| {
            report.at_ms += 90_000;
            with_end(report, &|end| {
                end.secs -= 90.0;
                end.soonest_secs -= 90.0;
                end.latest_secs -= 90.0;
            });
        }));
        assert!(!after(&|report| report.cpus.now = 3.9));
        assert!(!after(&|report| report.cpus.proven = 7.0));
        assert!(!after(&|report| report.requests.as_mut().unwrap().now = 60.0));
        assert!(!after(&|report| report.requests = None));
        assert!(!after(&|report| report.state = NodeState::Unwell));
        assert!(!after(&|report| report.waits = true));
        assert!(!after(&|report| report.is_surging = true));
        assert!(!after(&|report| report.given_up = Some(GivenUpLoad::default())));
        assert!(!after(&|report| report.recent_drains = 1));
        assert!(!after(&|report| report.end = None));
        assert!(!after(&|report| with_end(report, &|end| end.soonest_secs -= 61.0)));
        assert!(!after(&|report| with_end(report, &|end| end.cause = "x".to_owned())));
        let idle = NodeReport::new("web-1", "web", 7, 1);
        let busy = NodeReport { cpus: Load { now: 0.1, proven: 0.1 }, ..idle.clone() };
        assert!(idle.is_no_news_after(&idle) && !busy.is_no_news_after(&idle));
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_report_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = NodeReport::parse(&bytes, "web-1", "web");
        }

        #[test]
        fn changed_reports_are_read_with_possible_numbers_or_refused(
            at in 0..300_usize,
            byte in any::<u8>(),
        ) {
            let mut bytes = report().to_json();
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Ok(read) = NodeReport::parse(&bytes, "web-1", "web") {
                prop_assert!(read.cpus.headroom() >= 0.0 && read.cpus.headroom().is_finite());
                prop_assert_eq!(read.impossible(), None);
            }
        }
    }
}
