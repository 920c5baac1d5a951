//! Parts that keep or send every verdict, decision and outcome of the agent.

use crate::{
    history::{HistoryEvent, HistoryRecorder},
    telemetry::TelemetryExporter,
};

/// Parts that keep or send every verdict, decision and outcome.
#[derive(Default)]
pub(super) struct EventKeepers {
    /// History on disk, if it is kept.
    pub(super) history: Option<HistoryRecorder>,
    /// Receiver of telemetry, if there is one.
    pub(super) telemetry: Option<TelemetryExporter>,
}

impl EventKeepers {
    /// Passes on an event, which is made only if somebody takes it.
    pub(super) fn note(&mut self, event: impl FnOnce() -> HistoryEvent) {
        if self.history.is_none() && self.telemetry.is_none() {
            return;
        }
        let event = event();
        if let Some(telemetry) = &self.telemetry {
            telemetry.note(event.clone());
        }
        if let Some(history) = &mut self.history {
            history.note(event);
        }
    }

    /// Writes and sends what there is, within limits.
    pub(super) fn stop(self) {
        if let Some(history) = self.history {
            history.stop();
        }
        if let Some(telemetry) = self.telemetry {
            telemetry.stop();
        }
    }
}
