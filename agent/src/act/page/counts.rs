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
    /// Why notifications are not delivered, by receiver or as `disk`; empty if they are.
    troubles: Mutex<BTreeMap<&'static str, &'static str>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabel {
    sink: &'static str,
    result: &'static str,
}

impl Counts {
    /// Counts an event.
    pub fn note(&self, event: &Event) {
        self.note_trouble(event);
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

    /// Why notifications are not delivered at the moment, a sentence for each reason.
    pub fn undelivered(&self) -> Vec<String> {
        let troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        troubles.iter().map(|(subject, why)| format!("{subject}: {why}")).collect()
    }

    fn note_trouble(&self, event: &Event) {
        let (subject, why) = match event {
            Event::Delivered(sink) => (sink.name(), None),
            Event::Failed(sink, _) => {
                (sink.name(), Some("the last notification was not delivered, and is tried again"))
            }
            Event::Refused(sink, _) => (sink.name(), Some("the last notification was refused")),
            Event::Closed(sink, _) => {
                (sink.name(), Some("the receiver is gone: nothing is sent there until a restart"))
            }
            Event::NotSaved(_) => ("disk", Some("it does not take notifications, which are kept in memory")),
            Event::Saved => ("disk", None),
            Event::Kept(_) | Event::Merged(_) | Event::Lost(_) => return,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_is_in_trouble_until_it_takes_a_notification() {
        let counts = Counts::default();
        counts.note(&Event::Kept(1));
        assert_eq!(counts.undelivered(), [""; 0]);
        counts.note(&Event::Failed(SinkKind::Slack, "timed out".to_owned()));
        counts.note(&Event::NotSaved("No space left on device".to_owned()));
        let undelivered = counts.undelivered();
        assert!(undelivered[0].starts_with("disk: ") && undelivered[1].starts_with("slack: "), "{undelivered:?}");
        counts.note(&Event::Delivered(SinkKind::Slack));
        counts.note(&Event::Saved);
        assert_eq!(counts.undelivered(), [""; 0]);
    }
}
