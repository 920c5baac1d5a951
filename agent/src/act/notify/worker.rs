//! Telling beside the loop: pages go in, and neither the disk nor a slow receiver holds anything
//! up.
//!
//! One thread keeps the [`Desk`]; each sink has one more, which makes one call at a time, so that
//! sockets do not pile up where nobody answers. Nothing is told before it is on disk, unless the
//! disk takes nothing. At the end what waits stays there for the next run.

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
    sink::{Delivery, OutgoingRequest, Sink},
};
use crate::{
    act::notify::spool::{Spool, SpoolRecovery},
    clock::Clock,
    net::http_client,
};

/// For one call, from the look-up of the name to the last byte of the answer.
const CALL_WITHIN: Duration = Duration::from_secs(10);

/// Most bytes of an answer that are read. Those of all receivers have some hundreds.
const ANSWER_BYTES_MAX: usize = 16 << 10;

/// How long the end may take: what is being sent may be answered.
const STOPS_WITHIN: Duration = Duration::from_secs(3);

/// Longest that the thread sleeps.
const SLEEPS_FOR: Duration = Duration::from_secs(60);

/// Who is told, by which client, and where what waits is kept.
pub struct NotifySetup<'a> {
    /// The file of the spool.
    pub spool: &'a Path,
    /// Who is told, and how each is reached.
    pub sinks: Vec<(Sink, http_client::TlsOptions)>,
    /// For backing off by chance; anything that differs from run to run.
    pub seed: u64,
}

/// The threads that tell, as the loop sees them.
pub struct NotifyWorker {
    inbox: Arc<Inbox>,
    orders: Sender<NotifyOrder>,
    stopped: Receiver<()>,
    counts: Arc<NotifyMetrics>,
}

enum NotifyOrder {
    /// Something is in the inbox.
    Look,
    Answered(usize, Result<http_client::Response, String>),
    Stop,
}

impl NotifyWorker {
    /// Starts them, and gives what an earlier run has told last of each incident that it did not
    /// end.
    ///
    /// # Errors
    ///
    /// Where no thread is to be had.
    pub fn start(setup: NotifySetup<'_>, clock: Clock) -> io::Result<(Self, Vec<Notification>)> {
        let (spool, found) = Spool::open::<Notification>(setup.spool).unwrap_or_else(|error| {
            tracing::warn!(%error, "what waits to be told is not on disk, and what an earlier run has left is not told yet");
            (Spool::later(setup.spool), SpoolRecovery { waiting: Vec::new(), open: Vec::new(), set_aside: None, unread: 0 })
        });
        if let Some((path, why)) = &found.set_aside {
            tracing::warn!(
                why,
                "what waited to be told could not be read and is now {}",
                path.display()
            );
        }
        if found.unread > 0 {
            tracing::warn!(
                count = found.unread,
                "notifications of another version are in the spool: they are kept, and not sent"
            );
        }
        let (orders, ordered) = channel();
        let (sinks, identities): (Vec<_>, Vec<_>) = setup.sinks.into_iter().unzip();
        let names: Vec<_> = sinks.iter().map(|sink| sink.kind().name()).collect();
        let desk = Outbox::new(spool, sinks, found.waiting, clock.unix_ms());
        let mut callers = Vec::new();
        for (at, (name, identity)) in names.into_iter().zip(identities).enumerate() {
            let (posts, posted) = channel();
            let answers = orders.clone();
            let call = move || {
                call(&identity, &posted, |answer| {
                    answers.send(NotifyOrder::Answered(at, answer)).is_ok()
                })
            };
            thread::Builder::new().name(format!("page-{name}")).spawn(call)?;
            callers.push(posts);
        }
        let (stops, stopped) = channel();
        let counts = Arc::new(NotifyMetrics::default());
        counts.waiting.set(desk.waiting() as i64);
        let (inbox, counted) = (Arc::new(Inbox::default()), counts.clone());
        let keeps = inbox.clone();
        let run = move || {
            keep(desk, &keeps, &ordered, &callers, &counted, clock, setup.seed);
            drop(stops);
        };
        thread::Builder::new().name("spillway-page".to_owned()).spawn(run)?;
        Ok((Self { inbox, orders, stopped, counts }, found.open))
    }

    /// Tells these, in this order.
    pub fn tell(&self, pages: Vec<Notification>) {
        if pages.is_empty() {
            return;
        }
        let (was_empty, events) = self.inbox.put(pages);
        events.iter().for_each(|event| tell_log(event, &self.counts));
        if was_empty {
            // The thread ends with this alone.
            let _ = self.orders.send(NotifyOrder::Look);
        }
    }

    /// What became of pages so far.
    pub fn counts(&self) -> Arc<NotifyMetrics> {
        self.counts.clone()
    }

    /// Ends the threads, once what was told is on disk and what is being sent was answered; waits
    /// for at most [`STOPS_WITHIN`].
    pub fn stop(self) {
        let _ = self.orders.send(NotifyOrder::Stop);
        let _ = self.stopped.recv_timeout(STOPS_WITHIN);
    }
}

/// Keeps the desk until it is told to stop.
fn keep(
    mut desk: Outbox,
    inbox: &Inbox,
    orders: &Receiver<NotifyOrder>,
    callers: &[Sender<OutgoingRequest>],
    counts: &NotifyMetrics,
    clock: Clock,
    seed: u64,
) {
    let mut chance = Chance(seed);
    let (mut calls, mut stops) = (0_usize, false);
    loop {
        let t = clock.now();
        desk.catch_up(t);
        let pages = inbox.take();
        if !pages.is_empty() {
            desk.accept(t, pages);
        }
        if !stops {
            for (at, post) in desk.due(t, clock.unix_ms() / 1_000, chance.next()) {
                if callers[at].send(post).is_ok() {
                    calls += 1;
                }
            }
        }
        desk.events().iter().for_each(|event| tell_log(event, counts));
        counts.waiting.set(desk.waiting() as i64);
        if stops && calls == 0 {
            return;
        }
        let wakes_in = desk
            .wakes_at(t)
            .map_or(SLEEPS_FOR, |at| Duration::try_from_secs_f64(at - t).unwrap_or_default());
        match orders.recv_timeout(wakes_in.min(SLEEPS_FOR)) {
            Ok(NotifyOrder::Answered(at, answer)) => {
                calls -= 1;
                let fate = match answer {
                    Ok(answer) => desk.fate(
                        at,
                        answer.status.as_u16(),
                        answer.retry_after(clock.unix_ms()),
                        &answer.body,
                    ),
                    Err(why) => Delivery::Unknown(why),
                };
                desk.answered(clock.now(), at, fate, chance.next());
            }
            Ok(NotifyOrder::Stop) | Err(RecvTimeoutError::Disconnected) => stops = true,
            Ok(NotifyOrder::Look) | Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// Makes the calls of one sink, one after the other.
fn call(
    identity: &http_client::TlsOptions,
    posts: &Receiver<OutgoingRequest>,
    answered: impl Fn(Result<http_client::Response, String>) -> bool,
) {
    let bounds =
        http_client::RequestLimits { within: CALL_WITHIN, body_bytes_max: ANSWER_BYTES_MAX };
    while let Ok(OutgoingRequest { url, headers, body, hidden }) = posts.recv() {
        // Certificates are replaced while the agent runs.
        let answer = http_client::HttpClient::new(identity)
            .and_then(|client| client.post(&url, &headers, body, bounds));
        let answer = answer.map(|answer| http_client::Response {
            body: hidden.mask(&answer.body).into(),
            ..answer
        });
        if !answered(answer.map_err(|error| hidden.mask_text(&error.to_string()))) {
            return;
        }
    }
}

fn tell_log(event: &OutboxEvent, counts: &NotifyMetrics) {
    counts.note(event);
    match event {
        OutboxEvent::Kept(_) => {}
        OutboxEvent::Delivered(sink) => tracing::debug!(%sink, "page delivered"),
        OutboxEvent::Failed(sink, why) => {
            tracing::warn!(%sink, why, "page not delivered yet, and tried again")
        }
        OutboxEvent::Refused(sink, why) => {
            tracing::error!(%sink, why, "page refused, and not tried again")
        }
        OutboxEvent::Closed(sink, why) => {
            tracing::error!(%sink, why, "the receiver is gone: nothing more is sent there until the agent is started again")
        }
        OutboxEvent::Merged(count) => {
            tracing::debug!(count, "pages replaced by newer ones, or over before they were sent")
        }
        OutboxEvent::Lost(count) => tracing::warn!(
            count,
            "too many pages wait, and those that are missed least were dropped\n  hint: see the receivers that fail above, and \
             spillway_pages_lost_total"
        ),
        OutboxEvent::NotSaved(why) => {
            tracing::warn!(why, "what waits to be told is not on disk, and kept in memory")
        }
        OutboxEvent::Saved => tracing::info!("what waits to be told is on disk again"),
    }
}

/// Numbers from 0 to 1 that nobody has to be unable to guess: splitmix64.
pub(in crate::act) struct Chance(pub(in crate::act) u64);

impl Chance {
    pub(in crate::act) fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}
