//! Paging as the loop sees it: decisions and outcomes go in, and whoever is configured is told.

use std::{fs, io, sync::Arc};

use super::{
    incidents::{IncidentTracker, Now, Reporter},
    links::Links,
    metrics::NotifyMetrics,
    sink::{Sink, SinkFormat},
    worker::{NotifySetup, NotifyWorker},
};
use crate::{
    act::outcome::Outcome,
    clock::Clock,
    config::{Config, Mode, PageConfig},
    decide::{Action, Decision, Severity},
    detect::Verdict,
    net::http_client::TlsOptions,
};

/// Beyond the warm-up, in which a leak that ran before is claimed again after minutes: what is not
/// by then is over.
const SURE_AFTER_WARM_UP: std::time::Duration = std::time::Duration::from_mins(10);

/// What is to be told, and who tells it.
pub struct Notifier {
    pager: IncidentTracker,
    notifier: NotifyWorker,
    clock: Clock,
}

impl Notifier {
    /// Starts it; `None` where nobody is configured to be told, or the mode says that nobody is.
    ///
    /// # Errors
    ///
    /// Where no thread can be had.
    pub fn start(config: &Config, clock: Clock) -> io::Result<Option<Self>> {
        let page = &config.act.page;
        let sinks = sinks(page);
        if sinks.is_empty() || (config.mode == Mode::Observe && !page.in_observe) {
            return Ok(None);
        }
        let random = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
        let run = random.trim().replace('-', "");
        let seed = u64::from_str_radix(run.get(..16).unwrap_or_default(), 16).unwrap_or_default();
        let spool = config.record.state_dir.join("spool.redb");
        let (notifier, told) =
            NotifyWorker::start(NotifySetup { spool: &spool, sinks, seed }, clock)?;
        let host = fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned();
        let sure_after = config.detect.leak.warm_up + SURE_AFTER_WARM_UP;
        let pager = IncidentTracker::new(Reporter { host, run, sure_after }, told, clock.now());
        Ok(Some(Self { pager, notifier, clock }))
    }

    /// Tells what there is to tell on account of a decision, and says whether it is one that this
    /// carries out. `verdicts` are those that it followed from.
    pub fn decided(&mut self, decision: &Decision, verdicts: &[Verdict]) -> bool {
        let page = self.pager.decided(self.now(), decision, verdicts);
        self.notifier.tell(page.into_iter().collect());
        match decision.action {
            // What is of no urgency is reported, and nobody is told.
            Action::Page { severity } => severity >= Severity::Warning,
            action => action.is_told(),
        }
    }

    /// Tells what there is to tell on account of what was done.
    pub fn done(&mut self, outcome: &Outcome) {
        let pages = self.pager.done(self.now(), outcome);
        self.notifier.tell(pages);
    }

    /// Tells what there is to tell because time went by.
    pub fn tick(&mut self) {
        let pages = self.pager.due(self.now());
        self.notifier.tell(pages);
    }

    /// What became of pages so far.
    pub fn counts(&self) -> Arc<NotifyMetrics> {
        self.notifier.counts()
    }

    /// Ends it. What waits to be told stays on disk for the next run.
    pub fn stop(self) {
        self.notifier.stop();
    }

    fn now(&self) -> Now {
        Now { t: self.clock.now(), unix_ms: self.clock.unix_ms() }
    }
}

/// Who is configured to be told, and how each is reached.
fn sinks(page: &PageConfig) -> Vec<(Sink, TlsOptions)> {
    let links = Links { runbook: page.runbook_url.clone(), picture: page.picture_url.clone() };
    let (pagerduty, alertmanager) = (&page.pagerduty, &page.alertmanager);
    let (slack, webhook) = (&page.slack, &page.webhook);
    let forms = [
        pagerduty
            .routing_key_file
            .clone()
            .map(|routing_key| SinkFormat::PagerDuty { url: pagerduty.url.clone(), routing_key }),
        alertmanager.url.clone().map(|url| SinkFormat::Alertmanager { url }),
        slack.url_file.clone().map(|url| SinkFormat::Slack { url }),
        webhook
            .url
            .clone()
            .zip(webhook.secret_file.clone())
            .map(|(url, keys)| SinkFormat::Webhook { url, keys }),
    ];
    let identity = || TlsOptions { ca_file: page.ca_file.clone(), client: None };
    forms
        .into_iter()
        .flatten()
        .map(|form| (Sink { form, links: links.clone() }, identity()))
        .collect()
}
