//! Telemetry by OTLP over HTTP: the agent's metrics, and its verdicts, decisions and outcomes as
//! log records, sent to a receiver at intervals.
//!
//! [`exposition`] reads the metrics as `/metrics` shows them, so that both have the same names;
//! [`points`] makes data points of them and [`records`] log records of events; a
//! [`TelemetryExporter`] sends both on a thread, so that the loop never waits for a receiver. Off
//! by default. Cold start: none. Failure: metrics are sent anew at the next export, increases and
//! all; events wait, up to a number, and then the oldest are dropped and counted.

mod event_queue;
mod export_counts;
mod exporter;
mod exposition;
mod points;
mod records;
mod resource;

pub use export_counts::ExportCounts;
pub use exporter::TelemetryExporter;
