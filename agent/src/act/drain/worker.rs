//! Draining beside the loop: decisions go in, outcomes come out, and neither waits for the other.
//!
//! One thread keeps where the node is, one more makes the calls. It always runs, because an
//! operator's word holds without any configuration. Of several agents with one state directory one
//! drains, and the next when that one ends. What it tells balancers is right before it is started:
//! an earlier run's drain goes on. At the end nothing is given back: who stops or replaces the
//! agent does not mean to send work to a node that is unwell.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread,
    time::Duration,
};

use super::{
    active_lock::ActiveLock,
    client::{self, Attempt, DrainClient},
    condition::Condition,
    controller::{DrainController, LOOK_EVERY},
    readiness::ReadinessCell,
    request::DrainReason,
    weight::Weight,
};
use crate::{
    act::{
        executor::Executor,
        outcome::{Outcome, OutcomeKind},
        worker::{Order, Worker, WorkerChannels},
    },
    clock::Clock,
    config::{Config, Mode},
    decide::{Action, Decision, IncidentId},
    detect::Verdict,
    sense::SocketList,
};

/// Maximum time to stop, in which the last decision is saved.
const STOPS_WITHIN: Duration = Duration::from_secs(3);

enum DrainOrder {
    Drain(DrainReason),
    Undrain,
    Observed(BTreeMap<IncidentId, Condition>),
    Answered(Attempt),
    Stop,
}

impl Order for DrainOrder {
    fn stop() -> Self {
        Self::Stop
    }
}

/// The threads that drain, as the loop sees them.
pub struct DrainWorker {
    worker: Worker<DrainOrder>,
    readiness: Arc<ReadinessCell>,
    weight: Weight,
    /// Incidents on whose account less work is asked for, and whether a drain was decided for that.
    weighed: BTreeMap<IncidentId, bool>,
    /// Incidents whose drain was refused or did not help: they do not lower the weight.
    refused: BTreeSet<IncidentId>,
    /// Set if no claim stood when the keeper was last told.
    is_calm: bool,
    /// Whether decisions are carried out, by the one agent that drains.
    performs: bool,
    /// Set if a balancer asks for the weight.
    has_agent_check: bool,
    /// Set if somebody grants drains.
    has_granter: bool,
    is_ours: Arc<AtomicBool>,
}

impl DrainWorker {
    /// Starts them.
    ///
    /// # Errors
    ///
    /// Returns an error if no thread can be had.
    pub fn start(
        config: &Config,
        clock: Clock,
        sockets: Option<Arc<SocketList>>,
    ) -> io::Result<Self> {
        let drain = &config.act.drain;
        let endpoint = DrainClient::new(drain);
        let (has_granter, has_agent_check) =
            (endpoint.is_some(), drain.agent_check.listen.is_some());
        let performs =
            config.mode == Mode::Enforce && drain.enabled && (has_granter || has_agent_check);
        let readiness = Arc::new(ReadinessCell::default());
        let (worker, WorkerChannels { orders, outcomes }) =
            Worker::new("spillway-drain", STOPS_WITHIN);
        let calls = endpoint.map(|endpoint| {
            let (calls, called) = channel();
            let answers = worker.sender();
            let run =
                move || client::run(&endpoint, clock, &called, &answers, DrainOrder::Answered);
            thread::Builder::new().name("drain-call".to_owned()).spawn(run).map(|_| calls)
        });
        let calls = calls.transpose()?;
        let standby = ActiveLock::below(&config.record.state_dir, readiness.clone());
        let mut keeper = DrainController::new(
            config,
            clock,
            performs,
            calls,
            standby.clone(),
            readiness.clone(),
            outcomes,
        );
        if let Some(list) = sockets {
            keeper.count_from(&config.decide.protected, list);
        }
        let is_ours = Arc::new(AtomicBool::new(true));
        match standby.claim() {
            Ok(claim) => keeper.take_over(claim),
            Err(error) => stand_by(&standby, &is_ours, &error.to_string()),
        }
        let weight = Weight::new(&config.decide, drain.agent_check.floor_percent);
        let keeps = is_ours.clone();
        worker.spawn(move || {
            while wait(&mut keeper, &standby, &keeps, &orders) && keep(&mut keeper, &orders) {
                stand_by(&standby, &keeps, "another agent acts by it");
            }
        })?;
        let (weighed, refused) = (BTreeMap::new(), BTreeSet::new());
        Ok(Self {
            worker,
            readiness,
            weight,
            weighed,
            refused,
            is_calm: false,
            performs,
            has_agent_check,
            has_granter,
            is_ours,
        })
    }

    /// Returns the readiness for load balancers.
    pub fn readiness(&self) -> Arc<ReadinessCell> {
        self.readiness.clone()
    }
}

impl Executor for DrainWorker {
    fn perform(&mut self, decision: &Decision, verdicts: &[Verdict]) -> bool {
        let id = decision.id.clone();
        if !self.performs {
            return false;
        }
        if decision.refused.is_some() {
            if decision.action == Action::Drain {
                self.refused.insert(id);
            }
            return false;
        }
        let order = match decision.action {
            // Policy asks for none of these; whatever does, it must not take the node out.
            Action::Drain if !self.has_granter && !matches!(decision.id, IncidentId::Leak(..)) => {
                tracing::info!(
                    incident = id.to_string(),
                    "lowers the weight: without act.drain.url only a leak drains this node"
                );
                self.weighed.insert(id, true);
                return false;
            }
            Action::Drain => {
                self.refused.remove(&id);
                let mut verdicts = verdicts.iter().rev();
                let evidence = verdicts.find(|verdict| IncidentId::from(*verdict) == decision.id);
                let evidence = serde_json::to_value(evidence).unwrap_or_default();
                let (incident, why) = (Some(id), decision.why.clone());
                DrainOrder::Drain(DrainReason { incident, why, evidence })
            }
            Action::Undrain => {
                self.weighed.retain(|_, is_drain| !*is_drain);
                DrainOrder::Undrain
            }
            Action::Weigh if self.has_agent_check => {
                self.weighed.insert(id, false);
                return self.is_ours.load(Ordering::Relaxed);
            }
            // The policy lowers the weight once for all incidents, and raises it when the last of
            // them is over.
            Action::Unweigh => {
                let before = self.weighed.len();
                self.weighed.retain(|_, is_drain| *is_drain);
                return self.weighed.len() < before;
            }
            Action::Page { .. }
            | Action::Limit
            | Action::Unlimit
            | Action::Resolve
            | Action::Weigh => return false,
        };
        // Whoever waits needs to know as well.
        self.worker.send(order) && self.is_ours.load(Ordering::Relaxed)
    }

    fn reload(&mut self, config: &Config) {
        self.weight.reload(&config.decide);
    }

    /// Takes the claims that stand at `t`: by their harm the weight falls, and a drain is judged.
    fn observe(&mut self, t: f64, claims: &mut dyn Iterator<Item = &Verdict>) {
        if !self.performs {
            return;
        }
        // What hurts neither a service nor the whole host is no reason to give this node less work.
        let claims =
            claims.filter(|verdict| verdict.harm.as_ref().is_none_or(|harm| harm.is_nodes));
        let conditions: BTreeMap<_, _> =
            claims.map(|verdict| (IncidentId::from(verdict), Condition::of(verdict))).collect();
        self.refused.retain(|id| conditions.contains_key(id));
        let leaks = conditions
            .iter()
            .filter(|(id, condition)| condition.is_leak && !self.refused.contains(*id));
        let leak_secs =
            leaks.filter_map(|(_, condition)| condition.left_secs(t)).min_by(f64::total_cmp);
        // A queue that cannot be seen is not seen to shrink; that of a claim which is over for now
        // asks for nothing more.
        let queued = |id: &IncidentId| {
            conditions.get(id).map_or(0, |condition| condition.queued.unwrap_or(u64::MAX))
        };
        let weighed = self.weighed.keys().filter(|id| !self.refused.contains(*id));
        self.readiness.weigh(self.weight.note(t, leak_secs, weighed.map(queued).max()));
        if std::mem::replace(&mut self.is_calm, conditions.is_empty()) && conditions.is_empty() {
            return;
        }
        self.worker.send(DrainOrder::Observed(conditions));
    }

    fn outcomes(&mut self, _now: f64) -> Vec<Outcome> {
        let outcomes = self.worker.outcomes();
        for outcome in &outcomes {
            if matches!(outcome.event, OutcomeKind::DrainRefused | OutcomeKind::DrainUseless) {
                self.refused.extend(outcome.cause.incidents().iter().cloned());
            }
        }
        outcomes
    }

    fn stop(self: Box<Self>) -> Vec<Outcome> {
        self.worker.stop()
    }
}

/// From now on another agent drains.
fn stand_by(standby: &ActiveLock, is_ours: &AtomicBool, why: &str) {
    tracing::warn!(why, "this agent does not drain until the other one ends");
    is_ours.store(false, Ordering::Relaxed);
    standby.follow();
}

/// Waits until no other agent drains; `false` where this one is told to stop.
fn wait(
    keeper: &mut DrainController,
    standby: &ActiveLock,
    is_ours: &AtomicBool,
    orders: &Receiver<DrainOrder>,
) -> bool {
    let mut wanted = None;
    while !is_ours.load(Ordering::Relaxed) {
        match orders.recv_timeout(LOOK_EVERY) {
            Ok(DrainOrder::Drain(cause)) => wanted = Some(Some(cause)),
            Ok(DrainOrder::Undrain) => wanted = Some(None),
            Ok(DrainOrder::Answered(_) | DrainOrder::Observed(_))
            | Err(RecvTimeoutError::Timeout) => {}
            Ok(DrainOrder::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
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

/// Keeps where the node is; `false` where it is told to stop, `true` where another agent was found
/// to.
fn keep(keeper: &mut DrainController, orders: &Receiver<DrainOrder>) -> bool {
    while !keeper.is_theirs() {
        keeper.look();
        match orders.recv_timeout(keeper.sleeps_for()) {
            Ok(DrainOrder::Drain(cause)) => keeper.want(Some(cause)),
            Ok(DrainOrder::Undrain) => keeper.want(None),
            Ok(DrainOrder::Observed(conditions)) => keeper.observe(conditions),
            Ok(DrainOrder::Answered(answered)) => keeper.answered(answered),
            Err(RecvTimeoutError::Timeout) => {}
            Ok(DrainOrder::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
    true
}
