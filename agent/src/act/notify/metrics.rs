//! Metrics of notifications.

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

use super::outbox::OutboxEvent;

/// Counts since the agent was started.
#[derive(Debug, Default)]
pub struct NotifyMetrics {
    /// Deliveries that are still to be made.
    pub waiting: Gauge<i64, AtomicI64>,
    /// Notifications that were written to disk.
    pub kept: Counter<u64, AtomicU64>,
    calls: Family<CallLabel, Counter<u64, AtomicU64>>,
    merged: Counter<u64, AtomicU64>,
    lost: Counter<u64, AtomicU64>,
    /// Reasons why notifications are not delivered, by receiver or as `disk`; empty if they are.
    problems: Mutex<BTreeMap<&'static str, &'static str>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabel {
    sink: &'static str,
    result: &'static str,
}

impl NotifyMetrics {
    /// Counts an event.
    pub fn count(&self, event: &OutboxEvent) {
        self.update_problems(event);
        match event {
            OutboxEvent::Kept(count) => drop(self.kept.inc_by(*count as u64)),
            OutboxEvent::Delivered(sink) => self.called(sink, "delivered"),
            OutboxEvent::Failed(sink, _) => self.called(sink, "failed"),
            OutboxEvent::Refused(sink, _) => self.called(sink, "refused"),
            OutboxEvent::Closed(sink, _) => self.called(sink, "closed"),
            OutboxEvent::Merged(count) => drop(self.merged.inc_by(*count as u64)),
            OutboxEvent::Lost(count) => drop(self.lost.inc_by(*count as u64)),
            OutboxEvent::NotSaved(_) | OutboxEvent::Saved => {}
        }
    }

    /// Returns the number of deliveries that are still to be made.
    pub fn waiting(&self) -> u64 {
        self.waiting.get().max(0) as u64
    }

    /// Returns the reasons why notifications are not delivered now, one sentence each.
    pub fn undelivered(&self) -> Vec<String> {
        let problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        problems.iter().map(|(subject, why)| format!("{subject}: {why}")).collect()
    }

    fn update_problems(&self, event: &OutboxEvent) {
        let (subject, why) = match event {
            OutboxEvent::Delivered(sink) => (*sink, None),
            OutboxEvent::Failed(sink, _) => {
                (*sink, Some("the last notification was not delivered; trying again"))
            }
            OutboxEvent::Refused(sink, _) => (*sink, Some("the last notification was refused")),
            OutboxEvent::Closed(sink, _) => {
                (*sink, Some("the receiver is gone for good; nothing is sent until a restart"))
            }
            OutboxEvent::NotSaved(_) => {
                ("disk", Some("cannot write notifications; they are kept in memory"))
            }
            OutboxEvent::Saved => ("disk", None),
            OutboxEvent::Kept(_) | OutboxEvent::Merged(_) | OutboxEvent::Lost(_) => return,
        };
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        match why {
            Some(why) => drop(problems.insert(subject, why)),
            None => drop(problems.remove(subject)),
        }
    }

    /// Registers the metrics.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "pages_waiting",
            "Notifications still to be delivered, one for each receiver",
            self.waiting.clone(),
        );
        registry.register(
            "pages_kept",
            "Notifications written to disk before they were sent",
            self.kept.clone(),
        );
        registry.register(
            "page_calls",
            "Calls to receivers of notifications, by receiver and result",
            self.calls.clone(),
        );
        registry.register(
            "pages_merged",
            "Notifications replaced by newer ones of their incidents, or obsolete before they were \
             sent",
            self.merged.clone(),
        );
        registry.register(
            "pages_lost",
            "Notifications dropped because too many were waiting",
            self.lost.clone(),
        );
    }

    fn called(&self, sink: &'static str, result: &'static str) {
        self.calls.get_or_create(&CallLabel { sink, result }).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_has_a_problem_until_it_takes_a_notification() {
        let metrics = NotifyMetrics::default();
        metrics.count(&OutboxEvent::Kept(1));
        assert_eq!(metrics.undelivered(), [""; 0]);
        metrics.count(&OutboxEvent::Failed("slack", "timed out".to_owned()));
        metrics.count(&OutboxEvent::NotSaved("No space left on device".to_owned()));
        let undelivered = metrics.undelivered();
        assert!(
            undelivered[0].starts_with("disk: ") && undelivered[1].starts_with("slack: "),
            "{undelivered:?}"
        );
        metrics.count(&OutboxEvent::Delivered("slack"));
        metrics.count(&OutboxEvent::Saved);
        assert_eq!(metrics.undelivered(), [""; 0]);
    }
}
