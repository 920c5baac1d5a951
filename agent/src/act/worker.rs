//! Thread that carries out orders beside the loop.
//!
//! Neither side waits for the other: a write to a cgroup may make the kernel reclaim memory before
//! it returns, and detection must not wait for that. The thread reads orders until
//! [`Order::stop`], which is also sent when the [`Worker`] is dropped.

use std::{
    io,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::Duration,
};

use super::outcome::Outcome;

/// An order to a worker's thread.
pub trait Order: Send + 'static {
    /// Makes the last order: the thread finishes and ends.
    fn stop() -> Self;
}

/// Handle of a worker's thread.
pub struct Worker<O: Order> {
    name: &'static str,
    /// Maximum time that [`Worker::stop`] waits between two outcomes.
    stops_within: Duration,
    orders: Sender<O>,
    outcomes: Receiver<Outcome>,
    has_reported_end: bool,
}

/// Channels of a worker's thread.
pub struct WorkerChannels<O> {
    /// Orders, in the order in which they were sent.
    pub orders: Receiver<O>,
    /// Outcomes to be reported.
    pub outcomes: Sender<Outcome>,
}

impl<O: Order> Worker<O> {
    /// Makes a worker whose thread is still to be started, by [`Worker::spawn`].
    pub fn new(name: &'static str, stops_within: Duration) -> (Self, WorkerChannels<O>) {
        let (orders, ordered) = channel();
        let (reported, outcomes) = channel();
        let worker = Self { name, stops_within, orders, outcomes, has_reported_end: false };
        (worker, WorkerChannels { orders: ordered, outcomes: reported })
    }

    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel refuses another thread.
    pub fn spawn(&self, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        thread::Builder::new().name(self.name.to_owned()).spawn(run).map(drop)
    }

    /// Returns a sender of orders for another thread.
    pub fn sender(&self) -> Sender<O> {
        self.orders.clone()
    }

    /// Sends an order; returns `false` if the thread has ended, which is logged once.
    pub fn send(&mut self, order: O) -> bool {
        let is_sent = self.orders.send(order).is_ok();
        if !is_sent && !std::mem::replace(&mut self.has_reported_end, true) {
            tracing::error!(
                thread = self.name,
                "thread {} has ended: its decisions are not carried out\n  \
                 hint: restart the agent, and report the last lines of its log as a bug",
                self.name
            );
        }
        is_sent
    }

    /// Returns the outcomes since the last call, without waiting.
    pub fn outcomes(&self) -> Vec<Outcome> {
        self.outcomes.try_iter().collect()
    }

    /// Stops the thread and returns its remaining outcomes. Waits for its end, and for at most
    /// `stops_within` for each outcome.
    pub fn stop(self) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        if self.orders.send(O::stop()).is_ok() {
            while let Ok(outcome) = self.outcomes.recv_timeout(self.stops_within) {
                outcomes.push(outcome);
            }
        }
        outcomes
    }
}

impl<O: Order> Drop for Worker<O> {
    /// Stops the thread: another one that it waits for may have a sender of its orders.
    fn drop(&mut self) {
        // Fails only if the thread has ended.
        let _ = self.orders.send(O::stop());
    }
}
