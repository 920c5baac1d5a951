//! Notifications as the agent's loop sees them: decisions and outcomes in, nothing out.

use std::{fs, io, sync::Arc, time::Duration};

use super::{
    incidents::{IncidentTracker, Now, Reporter},
    metrics::NotifyMetrics,
    sink,
    worker::{NotifySetup, NotifyWorker},
};
use crate::{
    act::outcome::Outcome,
    clock::Clock,
    config::{Config, Mode},
    decide::{Action, Decision, Severity},
    detect::Verdict,
    net::http_client::TlsOptions,
    os::host,
};

/// Time after the warm-up until an incident of an earlier run counts as over. A leak that is still
/// there is claimed again within minutes.
const SURE_AFTER_WARM_UP: Duration = Duration::from_mins(10);

/// Sends notifications of incidents.
pub struct Notifier {
    incidents: IncidentTracker,
    worker: NotifyWorker,
    clock: Clock,
}

impl Notifier {
    /// Starts sending; returns `None` if no receiver is configured, or the mode is `observe` and
    /// `act.page.in_observe` is not set.
    ///
    /// # Errors
    ///
    /// Returns an error if a thread cannot be started, or the host's name cannot be read.
    pub fn start(config: &Config, clock: Clock) -> io::Result<Option<Self>> {
        let page = &config.act.page;
        let sinks = sink::from_config(page);
        if sinks.is_empty() || (config.mode == Mode::Observe && !page.in_observe) {
            return Ok(None);
        }
        let random = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
        let run = random.trim().replace('-', "");
        let seed = u64::from_str_radix(run.get(..16).unwrap_or_default(), 16).unwrap_or_default();
        let setup = NotifySetup {
            spool: &config.record.state_dir.join("spool.redb"),
            sinks,
            tls: TlsOptions { ca_file: page.ca_file.clone(), client: None },
            seed,
        };
        let (worker, open) = NotifyWorker::start(setup, clock)?;
        let host = host::name();
        let sure_after = config.detect.leak.warm_up + SURE_AFTER_WARM_UP;
        let reporter = Reporter { host, run, sure_after };
        let incidents = IncidentTracker::new(reporter, open, clock.now());
        Ok(Some(Self { incidents, worker, clock }))
    }

    /// Sends the notification that a decision calls for, and returns whether the decision is
    /// carried out by a notification. `verdicts` are those that the decision followed from.
    pub fn decided(&mut self, decision: &Decision, verdicts: &[Verdict]) -> bool {
        if decision.refused.is_some() {
            return false;
        }
        let notification = self.incidents.on_decision(self.now(), decision, verdicts);
        self.worker.send(notification.into_iter().collect());
        match decision.action {
            // An incident of severity info is printed, and no human is notified.
            Action::Page { severity } => severity >= Severity::Warning,
            action => action.is_told(),
        }
    }

    /// Sends the notifications that an outcome calls for.
    pub fn done(&mut self, outcome: &Outcome) {
        let notifications = self.incidents.on_outcome(self.now(), outcome);
        self.worker.send(notifications);
    }

    /// Sends the notifications that are due because time has passed.
    pub fn tick(&mut self) {
        let notifications = self.incidents.due(self.now());
        self.worker.send(notifications);
    }

    /// Returns the counts of notifications so far.
    pub fn counts(&self) -> Arc<NotifyMetrics> {
        self.worker.metrics()
    }

    /// Stops sending. Whatever is not delivered stays on disk for the next run.
    pub fn stop(self) {
        self.worker.stop();
    }

    fn now(&self) -> Now {
        Now { t: self.clock.now(), unix_ms: self.clock.unix_ms() }
    }
}
