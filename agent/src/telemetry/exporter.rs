//! Thread that sends telemetry at intervals.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use hyper::{Request, StatusCode, header::CONTENT_TYPE};
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse},
        metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse},
    },
    logs::v1::{ResourceLogs, ScopeLogs},
    metrics::v1::{ResourceMetrics, ScopeMetrics},
};
use prost::Message as _;

use super::{
    event_queue::EventQueue, export_counts::ExportCounts, exposition, points::PointMaker, records,
    resource,
};
use crate::{
    clock::Clock,
    config::OtlpConfig,
    history::HistoryEvent,
    net::{
        backoff::Backoff,
        header_lines::header_lines,
        http_client::{HttpClient, HttpError, RequestLimits, TlsOptions},
        redact::Redactor,
    },
    os::host,
};

/// Limits of a request: receivers answer within a second, with some bytes.
const REQUEST: RequestLimits =
    RequestLimits { timeout: Duration::from_secs(10), body_bytes_max: 64 << 10 };

/// Events of one request: at 3 KiB at most, they are below a megabyte, which New Relic takes.
const EVENTS_MAX: usize = 250;

/// Maximum delay that a receiver may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// Maximum wait at exit for the last export.
const SENT_WITHIN: Duration = Duration::from_secs(3);

/// Statuses by which a receiver says that it will never take what it was sent.
const REFUSED: [StatusCode; 4] = [
    StatusCode::BAD_REQUEST,
    StatusCode::PAYLOAD_TOO_LARGE,
    StatusCode::UNSUPPORTED_MEDIA_TYPE,
    StatusCode::UNPROCESSABLE_ENTITY,
];

/// Kind of telemetry.
#[derive(Clone, Copy)]
struct Signal {
    name: &'static str,
    /// Path below the receiver's address.
    path: &'static str,
}

const METRICS: Signal = Signal { name: "metrics", path: "/v1/metrics" };
const EVENTS: Signal = Signal { name: "events", path: "/v1/logs" };

/// Sends telemetry.
pub struct TelemetryExporter {
    clock: Clock,
    /// Events for the receiver; `None` if it takes only metrics.
    events: Option<Arc<EventQueue>>,
    stop: Sender<()>,
    stopped: Receiver<()>,
}

/// Everything that the thread works with.
struct ExportThread {
    otlp: OtlpConfig,
    url: String,
    host: String,
    clock: Clock,
    /// Returns the agent's metrics in OpenMetrics text.
    exposition: Box<dyn Fn() -> String + Send>,
    points: PointMaker,
    events: Arc<EventQueue>,
    counts: ExportCounts,
    /// Set once a failure has been logged, until the next success.
    has_warned: bool,
}

/// Request that was not accepted.
struct ExportFailure {
    why: String,
    /// Set if the receiver will never take it.
    is_refused: bool,
    /// Time after which the receiver asks to try again.
    retry_after: Option<Duration>,
}

impl TelemetryExporter {
    /// Starts to send the metrics that `exposition` returns in OpenMetrics text, and counts what it
    /// sends; `None` if there is no receiver.
    ///
    /// # Errors
    ///
    /// Returns an error if the thread cannot be started.
    pub fn start(
        otlp: &OtlpConfig,
        clock: Clock,
        counts: ExportCounts,
        exposition: impl Fn() -> String + Send + 'static,
    ) -> io::Result<Option<Self>> {
        let otlp = otlp.clone();
        let Some(url) = otlp.url.clone() else { return Ok(None) };
        let events = Arc::new(EventQueue::new(counts.clone()));
        let taken = otlp.events.then(|| events.clone());
        let thread = ExportThread {
            points: PointMaker::new(otlp.counters, nanos(clock.unix_ms())),
            otlp,
            url,
            host: host::name(),
            clock,
            exposition: Box::new(exposition),
            events,
            counts,
            has_warned: false,
        };
        let (stop, asked) = channel();
        let (stops, stopped) = channel();
        thread::Builder::new().name("otlp".to_owned()).spawn(move || {
            thread.run(&asked);
            drop(stops);
        })?;
        Ok(Some(Self { clock, events: taken, stop, stopped }))
    }

    /// Takes an event, with a time on the agent's clock.
    pub fn note(&self, event: HistoryEvent) {
        let Some(events) = &self.events else { return };
        let age_ms = ((self.clock.now() - event.t).max(0.0) * 1e3) as u64;
        events.put(nanos(self.clock.unix_ms().saturating_sub(age_ms)), event);
    }

    /// Sends what there is, once, and ends the thread. Waits for at most [`SENT_WITHIN`].
    pub fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.stopped.recv_timeout(SENT_WITHIN);
    }
}

impl ExportThread {
    fn run(mut self, asked: &Receiver<()>) {
        let interval = self.otlp.interval;
        // A receiver that fails is asked no less often than one that does not.
        let mut retries = Backoff::new(interval.as_secs_f64(), None);
        let mut random = fastrand::Rng::new();
        let mut wait = interval;
        loop {
            let is_last = match asked.recv_timeout(wait) {
                Err(RecvTimeoutError::Timeout) => false,
                Ok(()) | Err(RecvTimeoutError::Disconnected) => true,
            };
            let (metrics, events) = (self.export_metrics(), self.export_events());
            if is_last {
                return;
            }
            wait = match metrics.and_then(|rejected| Ok(rejected + events?)) {
                Ok(rejected) => {
                    retries.reset();
                    self.has_warned &= rejected > 0;
                    interval
                }
                Err(failure) => {
                    self.warn(&failure.why);
                    let asked_for = failure.retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
                    let delay_secs = retries.delay_secs(random.f64());
                    Duration::try_from_secs_f64(delay_secs).unwrap_or_default().max(asked_for)
                }
            };
        }
    }

    /// Logs the first of several failures.
    fn warn(&mut self, why: &str) {
        if !std::mem::replace(&mut self.has_warned, true) {
            tracing::warn!(
                "telemetry was not accepted: {why}\n  hint: see [export.otlp]; \
                 spillway_otlp_requests_total counts failures"
            );
        }
    }

    /// Sends metrics. Returns the number of data points that the receiver rejected.
    fn export_metrics(&mut self) -> Result<u64, ExportFailure> {
        let at_nanos = nanos(self.clock.unix_ms());
        let families = exposition::families(&(self.exposition)());
        let mut points = self.points.points(&families, at_nanos);
        let request = ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                resource: Some(resource::of_agent(&self.host)),
                scope_metrics: vec![ScopeMetrics {
                    scope: Some(resource::scope()),
                    metrics: std::mem::take(&mut points.metrics),
                    ..ScopeMetrics::default()
                }],
                ..ResourceMetrics::default()
            }],
        };
        let reply = self.send(METRICS, request.encode_to_vec())?;
        self.points.accept(points);
        let partial = ExportMetricsServiceResponse::decode(reply).ok();
        let partial = partial.and_then(|reply| reply.partial_success).unwrap_or_default();
        Ok(self.note_accepted(METRICS, partial.rejected_data_points, &partial.error_message))
    }

    /// Sends the events that wait. Returns the number that the receiver rejected.
    fn export_events(&mut self) -> Result<u64, ExportFailure> {
        let mut rejected = 0;
        loop {
            let events = self.events.take(EVENTS_MAX);
            if events.is_empty() {
                return Ok(rejected);
            }
            let records = events.iter().map(|(at_nanos, event)| records::record(event, *at_nanos));
            let request = ExportLogsServiceRequest {
                resource_logs: vec![ResourceLogs {
                    resource: Some(resource::of_agent(&self.host)),
                    scope_logs: vec![ScopeLogs {
                        scope: Some(resource::scope()),
                        log_records: records.collect(),
                        ..ScopeLogs::default()
                    }],
                    ..ResourceLogs::default()
                }],
            };
            match self.send(EVENTS, request.encode_to_vec()) {
                Ok(reply) => {
                    let partial = ExportLogsServiceResponse::decode(reply).ok();
                    let partial = partial.and_then(|reply| reply.partial_success);
                    let partial = partial.unwrap_or_default();
                    let count = partial.rejected_log_records;
                    let dropped = self.note_accepted(EVENTS, count, &partial.error_message);
                    self.counts.events_dropped.inc_by(dropped);
                    rejected += dropped;
                }
                Err(failure) => {
                    if failure.is_refused {
                        self.counts.events_dropped.inc_by(events.len() as u64);
                    } else {
                        self.events.put_back(events);
                    }
                    return Err(failure);
                }
            }
        }
    }

    /// Counts an accepted request, of which the receiver may have rejected some items, and returns
    /// their number.
    fn note_accepted(&mut self, signal: Signal, rejected: i64, why: &str) -> u64 {
        let rejected = u64::try_from(rejected).unwrap_or_default();
        self.counts.note(signal.name, if rejected > 0 { "partial" } else { "accepted" });
        if rejected > 0 {
            let why = Redactor::default().line(why);
            self.warn(&format!("{}: {rejected} were rejected: {why}", signal.name));
        }
        rejected
    }

    /// Sends one request; returns the body of the response.
    fn send(&self, signal: Signal, body: Vec<u8>) -> Result<Bytes, ExportFailure> {
        self.try_to_send(signal, body).map_err(|failure| {
            self.counts.note(signal.name, "failed");
            ExportFailure { why: format!("{}: {}", signal.name, failure.why), ..failure }
        })
    }

    fn try_to_send(&self, signal: Signal, body: Vec<u8>) -> Result<Bytes, ExportFailure> {
        let failed = |why: String| ExportFailure { why, is_refused: false, retry_after: None };
        let secret = self.otlp.headers_file.as_ref().map(|file| file.read()).transpose();
        let secret = secret.map_err(failed)?.unwrap_or_default();
        let redactor = Redactor::default().secret(&secret).url(&self.url);
        let mut request =
            Request::post(format!("{}{}", self.url.trim_end_matches('/'), signal.path))
                .header(CONTENT_TYPE, "application/x-protobuf");
        for (name, value) in header_lines(&secret).map_err(failed)? {
            request = request.header(name, value);
        }
        let request = request
            .body(Bytes::from(body))
            .map_err(|_| failed(HttpError::InvalidUrl.to_string()))?;
        let tls = TlsOptions { ca_file: self.otlp.ca_file.clone(), client: None };
        let response = HttpClient::new(&tls)
            .and_then(|client| client.send(request, REQUEST))
            .map_err(|error| failed(redactor.mask_text(&error.to_string())))?;
        if response.status.is_success() {
            return Ok(response.body);
        }
        let text = redactor.line(&String::from_utf8_lossy(&response.body));
        Err(ExportFailure {
            why: format!("{} {text}", response.status),
            is_refused: REFUSED.contains(&response.status),
            retry_after: response.retry_after(self.clock.unix_ms()),
        })
    }
}

fn nanos(unix_ms: u64) -> u64 {
    unix_ms.saturating_mul(1_000_000)
}
