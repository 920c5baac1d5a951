//! Draining beside the loop: decisions go in, outcomes come out, and neither waits for the other.
//!
//! One thread keeps where the node is, one more makes the calls. It always runs, because an operator's word holds without any
//! configuration. Of several agents with one state directory one drains, and the next when that one ends. What it tells balancers is right
//! before it is started: an earlier run's drain goes on. At the end nothing is given back: who stops or replaces the agent does not mean to
//! send work to a node that is unwell.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::Duration,
};

use super::{
    caller::{self, Answered, Endpoint},
    keeper::{Keeper, LOOK_EVERY},
    readiness::Readiness,
    request::Cause,
    standby::Standby,
    weight::Weight,
};
use crate::{
    act::outcome::Outcome,
    clock::Clock,
    config::{Config, Mode},
    decide::{Action, Decision},
    detect::Verdict,
};

/// How long the end may take: what was decided last is on disk by then.
const STOPS_WITHIN: Duration = Duration::from_secs(3);

enum Order {
    Drain(Cause),
    Undrain,
    Answered(Answered),
    Stop,
}

/// The threads that drain, as the loop sees them.
pub struct Drainer {
    orders: Sender<Order>,
    outcomes: Receiver<Outcome>,
    readiness: Arc<Readiness>,
    weight: Weight,
    /// Whether decisions are carried out, by the one agent that drains.
    performs: bool,
    is_ours: Arc<AtomicBool>,
}

impl Drainer {
    /// Starts them.
    ///
    /// # Errors
    ///
    /// Where no thread can be had.
    pub fn start(config: &Config, clock: Clock) -> io::Result<Self> {
        let drain = &config.act.drain;
        let endpoint = Endpoint::new(drain);
        let performs =
            config.mode == Mode::Enforce && drain.enabled && (endpoint.is_some() || drain.agent_check.is_some());
        let readiness = Arc::new(Readiness::default());
        let (orders, ordered) = channel();
        let (told, outcomes) = channel();
        let calls = endpoint.map(|endpoint| {
            let (calls, called) = channel();
            let answers = orders.clone();
            let run = move || caller::run(&endpoint, clock, &called, &answers, Order::Answered);
            thread::Builder::new().name("drain-call".to_owned()).spawn(run).map(|_| calls)
        });
        let calls = calls.transpose()?;
        let standby = Standby::below(&config.record.state_dir, readiness.clone());
        let mut keeper = Keeper::new(config, clock, performs, calls, standby.clone(), readiness.clone(), told);
        let is_ours = Arc::new(AtomicBool::new(true));
        match standby.claim() {
            Ok(claim) => keeper.take_over(claim),
            Err(error) => stand_by(&standby, &is_ours, &error.to_string()),
        }
        let weight = Weight::new(&config.decide);
        let keeps = is_ours.clone();
        thread::Builder::new().name("spillway-drain".to_owned()).spawn(move || {
            while wait(&mut keeper, &standby, &keeps, &ordered) && keep(&mut keeper, &ordered) {
                stand_by(&standby, &keeps, "another agent acts by it");
            }
        })?;
        Ok(Self { orders, outcomes, readiness, weight, performs, is_ours })
    }

    /// What balancers are told.
    pub fn readiness(&self) -> Arc<Readiness> {
        self.readiness.clone()
    }

    /// Takes a decision that is this one's to carry out, and says whether it did. `evidence` is the verdict behind it.
    pub fn perform(&self, decision: &Decision, evidence: Option<&Verdict>) -> bool {
        if !self.performs || decision.refused.is_some() {
            return false;
        }
        let order = match decision.action {
            Action::Drain => Order::Drain(Cause {
                id: decision.id.to_string(),
                why: decision.why.clone(),
                evidence: serde_json::to_value(evidence).unwrap_or_default(),
            }),
            Action::Undrain => Order::Undrain,
            Action::Page { .. } | Action::Limit | Action::Unlimit | Action::Resolve => return false,
        };
        // Whoever waits needs to know as well.
        self.orders.send(order).is_ok() && self.is_ours.load(Ordering::Relaxed)
    }

    /// Follows another policy.
    pub fn reload(&mut self, config: &Config) {
        self.weight.reload(&config.decide);
    }

    /// Takes the nearest forecast of the open incidents, in seconds from `t`; `None` where there is none.
    pub fn weigh(&mut self, t: f64, nearest_secs: Option<f64>) {
        if self.performs {
            self.readiness.weigh(self.weight.note(t, nearest_secs));
        }
    }

    /// What was done since.
    pub fn outcomes(&self) -> Vec<Outcome> {
        self.outcomes.try_iter().collect()
    }

    /// Ends the thread, and gives what was done since; waits for at most [`STOPS_WITHIN`].
    pub fn stop(self) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        if self.orders.send(Order::Stop).is_ok() {
            while let Ok(outcome) = self.outcomes.recv_timeout(STOPS_WITHIN) {
                outcomes.push(outcome);
            }
        }
        outcomes
    }
}

impl Drop for Drainer {
    /// The threads know one another, and would go on for ever.
    fn drop(&mut self) {
        let _ = self.orders.send(Order::Stop);
    }
}

/// From now on another agent drains.
fn stand_by(standby: &Standby, is_ours: &AtomicBool, why: &str) {
    tracing::warn!(why, "this agent does not drain until the other one ends");
    is_ours.store(false, Ordering::Relaxed);
    standby.follow();
}

/// Waits until no other agent drains; `false` where this one is told to stop.
fn wait(keeper: &mut Keeper, standby: &Standby, is_ours: &AtomicBool, orders: &Receiver<Order>) -> bool {
    let mut wanted = None;
    while !is_ours.load(Ordering::Relaxed) {
        match orders.recv_timeout(LOOK_EVERY) {
            Ok(Order::Drain(cause)) => wanted = Some(Some(cause)),
            Ok(Order::Undrain) => wanted = Some(None),
            Ok(Order::Answered(_)) | Err(RecvTimeoutError::Timeout) => {}
            Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
        }
        match standby.claim() {
            Ok(claim) => {
                tracing::info!("no other agent drains any more, and this one does");
                keeper.take_over(claim);
                is_ours.store(true, Ordering::Relaxed);
            }
            Err(_) => standby.follow(),
        }
    }
    if let Some(cause) = wanted {
        keeper.want(cause);
    }
    true
}

/// Keeps where the node is; `false` where it is told to stop, `true` where another agent was found to.
fn keep(keeper: &mut Keeper, orders: &Receiver<Order>) -> bool {
    while !keeper.is_theirs() {
        keeper.look();
        match orders.recv_timeout(keeper.sleeps_for()) {
            Ok(Order::Drain(cause)) => keeper.want(Some(cause)),
            Ok(Order::Undrain) => keeper.want(None),
            Ok(Order::Answered(answered)) => keeper.answered(answered),
            Err(RecvTimeoutError::Timeout) => {}
            Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
    true
}
