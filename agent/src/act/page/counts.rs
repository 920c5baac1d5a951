//! What became of pages, as metrics.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{desk::Event, sink::SinkKind};

/// Counts since the agent was started.
#[derive(Debug, Default)]
pub struct Counts {
    /// Calls that are still to be made.
    pub waiting: Gauge<i64, AtomicI64>,
    /// Pages that were put on disk.
    pub kept: Counter<u64, AtomicU64>,
    calls: Family<CallLabel, Counter<u64, AtomicU64>>,
    merged: Counter<u64, AtomicU64>,
    lost: Counter<u64, AtomicU64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabel {
    sink: &'static str,
    result: &'static str,
}

impl Counts {
    /// Counts an event.
    pub fn note(&self, event: &Event) {
        match event {
            Event::Kept(count) => drop(self.kept.inc_by(*count as u64)),
            Event::Delivered(sink) => self.called(*sink, "delivered"),
            Event::Failed(sink, _) => self.called(*sink, "failed"),
            Event::Refused(sink, _) => self.called(*sink, "refused"),
            Event::Closed(sink, _) => self.called(*sink, "closed"),
            Event::Merged(count) => drop(self.merged.inc_by(*count as u64)),
            Event::Lost(count) => drop(self.lost.inc_by(*count as u64)),
            Event::NotSaved(_) | Event::Saved => {}
        }
    }

    /// Shows them among an agent's metrics.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "pages_waiting",
            "Calls that tell somebody of an incident and are still to be made",
            self.waiting.clone(),
        );
        registry.register("pages_kept", "Pages that were put on disk before anybody was told", self.kept.clone());
        registry.register(
            "page_calls",
            "Calls that told somebody of an incident, by receiver and result",
            self.calls.clone(),
        );
        registry.register(
            "pages_merged",
            "Pages that were replaced by newer ones of their incidents before they were sent, or were over by then",
            self.merged.clone(),
        );
        registry.register("pages_lost", "Pages that were dropped because too much waited", self.lost.clone());
    }

    fn called(&self, sink: SinkKind, result: &'static str) {
        self.calls.get_or_create(&CallLabel { sink: sink.name(), result }).inc();
    }
}
