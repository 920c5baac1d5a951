//! Interface of all that carries out decisions.

use super::{notify::Notifier, outcome::Outcome};
use crate::{
    config::Config,
    decide::{Decision, RequestsLeft},
    detect::Verdict,
    sense::Fact,
};

/// Carries out one kind of decision, beside the loop.
///
/// Every executor gets every decision, verdict and outcome, and picks its own. No call may block:
/// the work is done by a thread of the executor, such as that of [`Worker`](super::worker::Worker).
pub trait Executor {
    /// Takes a decision, and returns whether this executor will carry it out. `verdicts` has the
    /// latest verdict of its incident: that in [`Decision::verdict`] may be of another claim of the
    /// incident.
    fn perform(&mut self, decision: &Decision, verdicts: &[Verdict]) -> bool;

    /// Takes a fact about a listener or the requests at one, before the decisions on it.
    fn observe_fact(&mut self, _t: f64, _fact: &Fact) {}

    /// Takes all verdicts that are raised at `now`, after each scan of the processes.
    fn observe(&mut self, _now: f64, _raised: &mut dyn Iterator<Item = &Verdict>) {}

    /// Takes the requests that the node's services have left, after each read of the sensors.
    /// `count` computes them, for an executor that needs them now.
    fn observe_requests(&mut self, _count: &dyn Fn() -> RequestsLeft) {}

    /// Returns the outcomes since the last call.
    fn outcomes(&mut self, now: f64) -> Vec<Outcome>;

    /// Takes an outcome of any executor.
    fn on_outcome(&mut self, _outcome: &Outcome) {}

    /// Applies a reloaded configuration.
    fn reload(&mut self, _config: &Config) {}

    /// Stops, and returns the remaining outcomes.
    fn stop(self: Box<Self>) -> Vec<Outcome>;
}

impl Executor for Notifier {
    fn perform(&mut self, decision: &Decision, verdicts: &[Verdict]) -> bool {
        self.decided(decision, verdicts)
    }

    fn observe(&mut self, _now: f64, _raised: &mut dyn Iterator<Item = &Verdict>) {
        self.tick();
    }

    /// Returns none: notifications do not change this host.
    fn outcomes(&mut self, _now: f64) -> Vec<Outcome> {
        Vec::new()
    }

    fn on_outcome(&mut self, outcome: &Outcome) {
        self.done(outcome);
    }

    fn stop(self: Box<Self>) -> Vec<Outcome> {
        Notifier::stop(*self);
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread, time::Duration};

    use super::*;
    use crate::{
        act::{
            outcome::{OutcomeCause, OutcomeKind},
            worker::{Order, Worker, WorkerChannels},
        },
        decide::Action,
    };

    /// A sample executor, which refuses every limit and does nothing else.
    struct SampleExecutor {
        worker: Worker<SampleOrder>,
        heard: Vec<OutcomeKind>,
    }

    enum SampleOrder {
        Refuse(f64),
        Stop,
    }

    impl Order for SampleOrder {
        fn stop() -> Self {
            Self::Stop
        }
    }

    fn outcome(t: f64, event: OutcomeKind) -> Outcome {
        let why = "it is a sample".to_owned();
        let (cause, cgroup) = (OutcomeCause::UNKNOWN, Arc::from("/a"));
        Outcome { t, event, cause, cgroup, limit_bytes: None, why }
    }

    impl SampleExecutor {
        fn start() -> Self {
            let (worker, WorkerChannels { orders, outcomes }) =
                Worker::new("sample", Duration::from_secs(10));
            let run = move || {
                while let Ok(SampleOrder::Refuse(t)) = orders.recv() {
                    outcomes.send(outcome(t, OutcomeKind::Refused)).unwrap();
                }
                outcomes.send(outcome(9.0, OutcomeKind::Undone)).unwrap();
            };
            worker.spawn(run).unwrap();
            Self { worker, heard: Vec::new() }
        }
    }

    impl Executor for SampleExecutor {
        fn perform(&mut self, decision: &Decision, _verdicts: &[Verdict]) -> bool {
            decision.action == Action::Limit && self.worker.send(SampleOrder::Refuse(decision.t()))
        }

        fn outcomes(&mut self, _now: f64) -> Vec<Outcome> {
            self.worker.outcomes()
        }

        fn on_outcome(&mut self, outcome: &Outcome) {
            self.heard.push(outcome.event);
        }

        fn stop(self: Box<Self>) -> Vec<Outcome> {
            self.worker.stop()
        }
    }

    #[test]
    fn executors_pick_decisions_and_return_outcomes() {
        let mut executors: Vec<Box<dyn Executor>> = vec![Box::new(SampleExecutor::start())];
        let mut reported = Vec::new();
        for executor in &mut executors {
            assert!(!executor.perform(&Decision::sample(Action::Drain), &[]));
            assert!(executor.perform(&Decision::sample(Action::Limit), &[]));
            while reported.is_empty() {
                reported = executor.outcomes(0.0);
                thread::sleep(Duration::from_millis(1));
            }
            executor.on_outcome(&reported[0]);
        }
        for executor in executors {
            reported.extend(executor.stop());
        }
        let reported: Vec<_> = reported.iter().map(|outcome| (outcome.t, outcome.event)).collect();
        assert_eq!(reported, [(3.0, OutcomeKind::Refused), (9.0, OutcomeKind::Undone)]);
    }

    #[test]
    fn worker_that_has_ended_takes_no_order() {
        let mut sample = SampleExecutor::start();
        assert!(sample.worker.send(SampleOrder::Stop));
        while sample.worker.send(SampleOrder::Stop) {
            thread::sleep(Duration::from_millis(1));
        }
        assert!(!sample.perform(&Decision::sample(Action::Limit), &[]));
    }
}
