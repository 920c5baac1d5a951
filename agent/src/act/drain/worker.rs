//! Executor of drains, beside the loop: decisions go in, outcomes come out, and neither blocks the
//! other.
//!
//! One thread runs the [`DrainController`], another makes the calls. They always run, because an
//! operator's override needs no configuration. Of several agents with one state directory one
//! drains, and the next when that one ends. Load balancers get the right answer from the start,
//! because an earlier run's drain continues. Stopping the agent ends no drain: whoever stops or
//! replaces the agent does not mean to send work to an unhealthy node.

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
    controller::{CHECK_INTERVAL, DrainController},
    readiness::{Readiness, ReadinessCell},
    request::DrainReason,
    weight::Weight,
};
use crate::{
    act::{
        executor::Executor,
        fleet::FleetGate,
        outcome::{Outcome, OutcomeKind},
        worker::{Order, Worker, WorkerChannels},
    },
    clock::Clock,
    config::{Config, Mode},
    decide::{Action, Decision, IncidentId, RequestsLeft},
    detect::Verdict,
    sense::SocketList,
};

/// Maximum time to stop, in which the last decision is saved.
const STOPS_WITHIN: Duration = Duration::from_secs(3);

enum DrainOrder {
    Drain(DrainReason),
    Undrain,
    Observed(BTreeMap<IncidentId, Condition>),
    Requests(RequestsLeft),
    Answered(Attempt),
    Stop,
}

impl Order for DrainOrder {
    fn stop() -> Self {
        Self::Stop
    }
}

/// Handle of the threads that drain.
pub struct DrainWorker {
    worker: Worker<DrainOrder>,
    readiness: Arc<ReadinessCell>,
    weight: Weight,
    /// Incidents that lower the weight, and whether each does so in place of a drain.
    weighed: BTreeMap<IncidentId, bool>,
    /// Incidents whose drain was refused or did not help: they do not lower the weight.
    refused: BTreeSet<IncidentId>,
    /// Set if nothing was raised at the last report to the controller.
    is_calm: bool,
    /// Set if decisions are carried out, by the agent that drains.
    performs: bool,
    /// Set if a load balancer polls the weight.
    has_agent_check: bool,
    /// Set if a receiver grants drains.
    has_granter: bool,
    is_ours: Arc<AtomicBool>,
}

impl DrainWorker {
    /// Starts the threads. Connections are counted from `sockets` if BPF lists them and requests
    /// are unknown. With a gate to the fleet the group is asked before each drain.
    ///
    /// # Errors
    ///
    /// Returns an error if a thread cannot be started.
    pub fn start(
        config: &Config,
        clock: Clock,
        sockets: Option<Arc<SocketList>>,
        fleet: Option<FleetGate>,
    ) -> io::Result<Self> {
        let drain = &config.act.drain;
        let endpoint = DrainClient::new(drain);
        let has_granter = config.has_granter();
        let performs = config.mode == Mode::Enforce && config.drains();
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
        let mut controller = DrainController::new(
            config,
            clock,
            performs,
            calls,
            standby.clone(),
            readiness.clone(),
            outcomes,
        );
        if let Some(fleet) = fleet {
            controller.coordinate(fleet, config.fleet.backend.knows_load());
        }
        if let Some(list) = sockets {
            controller.count_from(&config.decide.protected, list);
        }
        let is_ours = Arc::new(AtomicBool::new(true));
        match standby.claim() {
            Ok(claim) => controller.take_over(claim),
            Err(error) => stand_by(&standby, &is_ours, &error.to_string()),
        }
        let weight = Weight::new(&config.decide, drain.agent_check.floor_percent);
        let shared = is_ours.clone();
        worker.spawn(move || {
            while wait(&mut controller, &standby, &shared, &orders) && run(&mut controller, &orders)
            {
                stand_by(&standby, &shared, "another agent acts by it");
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
            has_agent_check: drain.agent_check.listen.is_some(),
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
            // The policy decides none of these; whatever does must not take the node out of
            // rotation.
            Action::Drain if !self.has_granter && !decision.id.is_leak() => {
                tracing::info!(
                    incident = id.to_string(),
                    "lowering the weight: without act.drain.url only a leak drains this node"
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
            | Action::Shed
            | Action::Unshed
            | Action::Resolve
            | Action::Weigh => return false,
        };
        // An agent that stands by keeps the order for later.
        self.worker.send(order) && self.is_ours.load(Ordering::Relaxed)
    }

    fn reload(&mut self, config: &Config) {
        self.weight.reload(&config.decide);
    }

    /// Takes the raised verdicts at `t`: their harm lowers the weight, and shows whether a drain
    /// helped.
    fn observe(&mut self, t: f64, claims: &mut dyn Iterator<Item = &Verdict>) {
        if !self.performs {
            return;
        }
        // Harm to neither a service nor the whole host is no reason to lower the weight.
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
        // A queue of unknown length counts as long; that of a cleared verdict counts as empty.
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

    /// Passes the requests left on, while a drain waits for them or is judged by them.
    fn observe_requests(&mut self, count: &dyn Fn() -> RequestsLeft) {
        let is_out = !matches!(self.readiness.says(), Readiness::Ready(_));
        if is_out && self.is_ours.load(Ordering::Relaxed) {
            self.worker.send(DrainOrder::Requests(count()));
        }
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

/// Stands by, because another agent drains.
fn stand_by(standby: &ActiveLock, is_ours: &AtomicBool, why: &str) {
    tracing::warn!(why, "this agent does not drain until the other one ends");
    is_ours.store(false, Ordering::Relaxed);
    standby.follow();
}

/// Waits until no other agent drains. Returns false if this one has to stop.
fn wait(
    controller: &mut DrainController,
    standby: &ActiveLock,
    is_ours: &AtomicBool,
    orders: &Receiver<DrainOrder>,
) -> bool {
    let mut wanted = None;
    while !is_ours.load(Ordering::Relaxed) {
        match orders.recv_timeout(CHECK_INTERVAL) {
            Ok(DrainOrder::Drain(cause)) => wanted = Some(Some(cause)),
            Ok(DrainOrder::Undrain) => wanted = Some(None),
            Ok(DrainOrder::Answered(_) | DrainOrder::Observed(_) | DrainOrder::Requests(_))
            | Err(RecvTimeoutError::Timeout) => {}
            Ok(DrainOrder::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
        }
        match standby.claim() {
            Ok(claim) => {
                tracing::info!("no other agent drains any more, and this one does");
                controller.take_over(claim);
                is_ours.store(true, Ordering::Relaxed);
            }
            Err(_) => standby.follow(),
        }
    }
    if let Some(cause) = wanted {
        controller.want(cause);
    }
    true
}

/// Runs the controller. Returns false if it has to stop, true if another agent holds the lock.
fn run(controller: &mut DrainController, orders: &Receiver<DrainOrder>) -> bool {
    while !controller.is_theirs() {
        controller.update();
        match orders.recv_timeout(controller.sleeps_for()) {
            Ok(DrainOrder::Drain(cause)) => controller.want(Some(cause)),
            Ok(DrainOrder::Undrain) => controller.want(None),
            Ok(DrainOrder::Observed(conditions)) => controller.observe(conditions),
            Ok(DrainOrder::Requests(report)) => controller.report_requests(report),
            Ok(DrainOrder::Answered(answered)) => controller.answered(answered),
            Err(RecvTimeoutError::Timeout) => {}
            Ok(DrainOrder::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
    true
}
