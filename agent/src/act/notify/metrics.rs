//! What became of pages, as metrics.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64},
    },
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{outbox::OutboxEvent, sink::SinkKind};

/// Counts since the agent was started.
#[derive(Debug, Default)]
pub struct NotifyMetrics {
    /// Calls that are still to be made.
    pub waiting: Gauge<i64, AtomicI64>,
    /// Pages that were put on disk.
    pub kept: Counter<u64, AtomicU64>,
    calls: Family<CallLabel, Counter<u64, AtomicU64>>,
    merged: Counter<u64, AtomicU64>,
    lost: Counter<u64, AtomicU64>,
    /// Why notifications are not delivered, by receiver or as `disk`; empty if they are.
    troubles: Mutex<BTreeMap<&'static str, &'static str>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabel {
    sink: &'static str,
    result: &'static str,
}

impl NotifyMetrics {
    /// Counts an event.
    pub fn note(&self, event: &OutboxEvent) {
        self.note_trouble(event);
        match event {
            OutboxEvent::Kept(count) => drop(self.kept.inc_by(*count as u64)),
            OutboxEvent::Delivered(sink) => self.called(*sink, "delivered"),
            OutboxEvent::Failed(sink, _) => self.called(*sink, "failed"),
            OutboxEvent::Refused(sink, _) => self.called(*sink, "refused"),
            OutboxEvent::Closed(sink, _) => self.called(*sink, "closed"),
            OutboxEvent::Merged(count) => drop(self.merged.inc_by(*count as u64)),
            OutboxEvent::Lost(count) => drop(self.lost.inc_by(*count as u64)),
            OutboxEvent::NotSaved(_) | OutboxEvent::Saved => {}
        }
    }

    /// Why notifications are not delivered at the moment, a sentence for each reason.
    pub fn undelivered(&self) -> Vec<String> {
        let troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        troubles.iter().map(|(subject, why)| format!("{subject}: {why}")).collect()
    }

    fn note_trouble(&self, event: &OutboxEvent) {
        let (subject, why) = match event {
            OutboxEvent::Delivered(sink) => (sink.name(), None),
            OutboxEvent::Failed(sink, _) => {
                (sink.name(), Some("the last notification was not delivered, and is tried again"))
            }
            OutboxEvent::Refused(sink, _) => {
                (sink.name(), Some("the last notification was refused"))
            }
            OutboxEvent::Closed(sink, _) => {
                (sink.name(), Some("the receiver is gone: nothing is sent there until a restart"))
            }
            OutboxEvent::NotSaved(_) => {
                ("disk", Some("it does not take notifications, which are kept in memory"))
            }
            OutboxEvent::Saved => ("disk", None),
            OutboxEvent::Kept(_) | OutboxEvent::Merged(_) | OutboxEvent::Lost(_) => return,
        };
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        match why {
            Some(why) => drop(troubles.insert(subject, why)),
            None => drop(troubles.remove(subject)),
        }
    }

    /// Shows them among an agent's metrics.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "pages_waiting",
            "Calls that tell somebody of an incident and are still to be made",
            self.waiting.clone(),
        );
        registry.register(
            "pages_kept",
            "Pages that were put on disk before anybody was told",
            self.kept.clone(),
        );
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
        registry.register(
            "pages_lost",
            "Pages that were dropped because too much waited",
            self.lost.clone(),
        );
    }

    fn called(&self, sink: SinkKind, result: &'static str) {
        self.calls.get_or_create(&CallLabel { sink: sink.name(), result }).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_is_in_trouble_until_it_takes_a_notification() {
        let counts = NotifyMetrics::default();
        counts.note(&OutboxEvent::Kept(1));
        assert_eq!(counts.undelivered(), [""; 0]);
        counts.note(&OutboxEvent::Failed(SinkKind::Slack, "timed out".to_owned()));
        counts.note(&OutboxEvent::NotSaved("No space left on device".to_owned()));
        let undelivered = counts.undelivered();
        assert!(
            undelivered[0].starts_with("disk: ") && undelivered[1].starts_with("slack: "),
            "{undelivered:?}"
        );
        counts.note(&OutboxEvent::Delivered(SinkKind::Slack));
        counts.note(&OutboxEvent::Saved);
        assert_eq!(counts.undelivered(), [""; 0]);
    }
}
