//! Threads that deliver notifications, so that neither the disk nor a slow receiver delays the
//! agent's loop.
//!
//! One thread has the [`Outbox`]. Each sink has one more, which makes one call at a time: sockets
//! do not pile up while a receiver hangs. A notification is on disk before it is sent, unless the
//! disk fails. At the end, whatever is not delivered stays on disk for the next run.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::Duration,
};

use super::{
    Notification,
    inbox::Inbox,
    metrics::NotifyMetrics,
    outbox::{Outbox, OutboxEvent},
    sink::{Delivery, OutgoingRequest, Sink, SinkReply},
    spool::{Spool, SpoolRecovery},
};
use crate::{clock::Clock, net::http_client};

/// Time for one call, from the lookup of the name to the last byte of the reply.
const CALL_WITHIN: Duration = Duration::from_secs(10);

/// Maximum size of a reply that is read. Receivers send some hundreds of bytes.
const REPLY_BYTES_MAX: usize = 16 << 10;

/// Time for stopping, in which calls in flight may be answered.
const STOPS_WITHIN: Duration = Duration::from_secs(3);

/// Maximum time that the thread sleeps.
const SLEEP_MAX: Duration = Duration::from_secs(60);

/// Parts of a [`NotifyWorker`].
pub struct NotifySetup<'a> {
    /// Path of the spool.
    pub spool: &'a Path,
    /// Receivers.
    pub sinks: Vec<Box<dyn Sink>>,
    /// Certificates by which receivers are trusted.
    pub tls: http_client::TlsOptions,
    /// Seed of the jitter; anything that differs from run to run.
    pub seed: u64,
}

/// The threads that deliver notifications.
pub struct NotifyWorker {
    inbox: Arc<Inbox>,
    orders: Sender<NotifyOrder>,
    stopped: Receiver<()>,
    metrics: Arc<NotifyMetrics>,
}

enum NotifyOrder {
    /// The inbox is no longer empty.
    Wake,
    /// A sink's call ended.
    Answered(usize, Result<http_client::Response, String>),
    Stop,
}

impl NotifyWorker {
    /// Starts the threads, and returns the last notification of each incident that an earlier run
    /// left open.
    ///
    /// # Errors
    ///
    /// Returns an error if a thread cannot be started.
    pub fn start(setup: NotifySetup<'_>, clock: Clock) -> io::Result<(Self, Vec<Notification>)> {
        let NotifySetup { spool: path, sinks, tls, seed } = setup;
        let (spool, found) = Spool::open::<Notification>(path).unwrap_or_else(|error| {
            tracing::warn!(
                %error,
                "cannot open the spool: notifications are queued in memory, and those that an \
                 earlier run left are not sent yet\n  hint: opening is tried again every 5 s"
            );
            (Spool::later(path), SpoolRecovery::default())
        });
        if let Some((aside, why)) = &found.set_aside {
            tracing::warn!(
                why,
                "the spool {} is damaged: it was moved to {}, and notifications in it are not \
                 sent\n  hint: keep the file for a bug report, or remove it",
                path.display(),
                aside.display()
            );
        }
        if found.unread > 0 {
            tracing::warn!(
                count = found.unread,
                "the spool {} has notifications of another version: they are kept, and not sent",
                path.display()
            );
        }
        let (orders, ordered) = channel();
        let mut callers = Vec::new();
        for (at, sink) in sinks.iter().enumerate() {
            let (requests, requested) = channel();
            let (replies, tls) = (orders.clone(), tls.clone());
            let run = move || {
                call(&tls, &requested, |reply| {
                    replies.send(NotifyOrder::Answered(at, reply)).is_ok()
                })
            };
            thread::Builder::new().name(format!("page-{}", sink.name())).spawn(run)?;
            callers.push(requests);
        }
        let outbox = Outbox::new(spool, sinks, found.waiting, clock.unix_ms());
        let (stops, stopped) = channel();
        let metrics = Arc::new(NotifyMetrics::default());
        metrics.waiting.set(outbox.waiting() as i64);
        let inbox = Arc::new(Inbox::default());
        let worker = Self { inbox, orders, stopped, metrics };
        let (inbox, metrics) = (worker.inbox.clone(), worker.metrics.clone());
        let run = move || {
            deliver(outbox, &inbox, &ordered, &callers, &metrics, clock, Jitter::new(seed));
            drop(stops);
        };
        thread::Builder::new().name("spillway-page".to_owned()).spawn(run)?;
        Ok((worker, found.open))
    }

    /// Sends notifications, in this order.
    pub fn send(&self, notifications: Vec<Notification>) {
        if notifications.is_empty() {
            return;
        }
        let (was_empty, events) = self.inbox.put(notifications);
        events.iter().for_each(|event| report(event, &self.metrics));
        if was_empty {
            // The thread ends only with this worker.
            let _ = self.orders.send(NotifyOrder::Wake);
        }
    }

    /// Returns the counts of notifications so far.
    pub fn metrics(&self) -> Arc<NotifyMetrics> {
        self.metrics.clone()
    }

    /// Ends the threads, once everything is on disk and calls in flight were answered. Waits for at
    /// most [`STOPS_WITHIN`].
    pub fn stop(self) {
        let _ = self.orders.send(NotifyOrder::Stop);
        let _ = self.stopped.recv_timeout(STOPS_WITHIN);
    }
}

/// Runs the outbox until it is to stop.
fn deliver(
    mut outbox: Outbox,
    inbox: &Inbox,
    orders: &Receiver<NotifyOrder>,
    callers: &[Sender<OutgoingRequest>],
    metrics: &NotifyMetrics,
    clock: Clock,
    mut jitter: Jitter,
) {
    let (mut calls, mut stops) = (0_usize, false);
    loop {
        let t = clock.now();
        outbox.catch_up(t);
        let notifications = inbox.take();
        if !notifications.is_empty() {
            outbox.accept(t, notifications);
        }
        if !stops {
            for (at, request) in outbox.due(t, clock.unix_ms() / 1_000, jitter.next()) {
                if callers[at].send(request).is_ok() {
                    calls += 1;
                }
            }
        }
        outbox.events().iter().for_each(|event| report(event, metrics));
        metrics.waiting.set(outbox.waiting() as i64);
        if stops && calls == 0 {
            return;
        }
        let wakes_in = outbox
            .wakes_at(t)
            .map_or(SLEEP_MAX, |at| Duration::try_from_secs_f64(at - t).unwrap_or_default());
        match orders.recv_timeout(wakes_in.min(SLEEP_MAX)) {
            Ok(NotifyOrder::Answered(at, response)) => {
                calls -= 1;
                let delivery = match response {
                    Ok(response) => outbox.classify(
                        at,
                        &SinkReply {
                            status: response.status.as_u16(),
                            retry_after: response.retry_after(clock.unix_ms()),
                            body: &response.body,
                        },
                    ),
                    Err(why) => Delivery::Unknown(why),
                };
                outbox.answered(clock.now(), at, delivery, jitter.next());
            }
            Ok(NotifyOrder::Stop) | Err(RecvTimeoutError::Disconnected) => stops = true,
            Ok(NotifyOrder::Wake) | Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// Makes the calls of one sink, one after the other.
fn call(
    tls: &http_client::TlsOptions,
    requests: &Receiver<OutgoingRequest>,
    answered: impl Fn(Result<http_client::Response, String>) -> bool,
) {
    let limits =
        http_client::RequestLimits { timeout: CALL_WITHIN, body_bytes_max: REPLY_BYTES_MAX };
    while let Ok(OutgoingRequest { url, headers, body, redactor }) = requests.recv() {
        // A new client each time: certificates are replaced while the agent runs.
        let response = http_client::HttpClient::new(tls)
            .and_then(|client| client.post(&url, &headers, body, limits));
        let response = response.map(|response| http_client::Response {
            body: redactor.mask(&response.body).into(),
            ..response
        });
        if !answered(response.map_err(|error| redactor.mask_text(&error.to_string()))) {
            return;
        }
    }
}

/// Counts and logs an event.
fn report(event: &OutboxEvent, metrics: &NotifyMetrics) {
    metrics.count(event);
    match event {
        OutboxEvent::Kept(_) => {}
        OutboxEvent::Delivered(sink) => tracing::debug!(%sink, "notification delivered"),
        OutboxEvent::Failed(sink, why) => {
            tracing::warn!(%sink, why, "notification not delivered yet; trying again")
        }
        OutboxEvent::Refused(sink, why) => tracing::error!(
            %sink,
            why,
            "notification refused by the receiver; not sent again\n  hint: see its reply above, \
             and [act.page.{sink}]"
        ),
        OutboxEvent::Closed(sink, why) => tracing::error!(
            %sink,
            why,
            "the receiver is gone for good (HTTP 410); nothing is sent there until the agent \
             restarts\n  hint: correct or remove [act.page.{sink}]"
        ),
        OutboxEvent::Merged(count) => {
            tracing::debug!(count, "notifications replaced by newer ones, or obsolete")
        }
        OutboxEvent::Lost(count) => tracing::warn!(
            count,
            "too many notifications are waiting; the least important were dropped\n  hint: see \
             the receivers that fail above, and spillway_pages_lost_total"
        ),
        OutboxEvent::NotSaved(why) => tracing::warn!(
            why,
            "cannot write the spool; notifications are kept in memory, and a crash would lose \
             them\n  hint: free space in record.state_dir; writing is tried again every 5 s"
        ),
        OutboxEvent::Saved => tracing::info!("the spool is written again"),
    }
}

/// Non-cryptographic random numbers, by which many agents spread their retries.
pub(in crate::act) struct Jitter(fastrand::Rng);

impl Jitter {
    /// Starts a sequence that depends on `seed` alone.
    pub(in crate::act) fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    /// Returns the next number, at least 0 and below 1.
    pub(in crate::act) fn next(&mut self) -> f64 {
        self.0.f64()
    }
}
