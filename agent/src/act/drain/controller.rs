//! Controller of the drain: reads the operator's override and the work left, steps the state
//! machine, saves each step to disk, and sends requests when they are due. Calls that may
//! block are made by another thread.

use std::{
    collections::{BTreeMap, hash_map::RandomState},
    fs::{self, File},
    hash::{BuildHasher as _, Hasher as _},
    sync::{Arc, mpsc::Sender},
    time::Duration,
};

use super::{
    active_lock::ActiveLock,
    client::{Attempt, Call},
    condition::Condition,
    operator_override::OverrideFile,
    pending_request::{EXPIRED, PendingRequest, Progress},
    readiness::{DrainView, ReadinessCell},
    request::{DrainReason, Request, RequestKind},
    stagger::{Delay, share},
    state_file::{SavedState, StateFile},
    state_machine::{DrainPhase, DrainState, DrainTimings, Inputs, Override, Reply, Transition},
    trial::{GivenUp, Trial},
    work::Work,
};
use crate::{
    act::{
        fleet::FleetGate,
        notify::Jitter,
        outcome::{Outcome, OutcomeCause, OutcomeKind},
        pause::Pause,
    },
    clock::Clock,
    config::{Config, Pattern},
    decide::{IncidentId, RequestsLeft},
    fleet::{Permit, Rotation},
    os::host,
    sense::SocketList,
};

/// Interval between reads of the operator's override.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Time for which the cause of an earlier run's drain counts without being seen again, in seconds.
/// A leak that continues is found within minutes; if its process has ended, the cause is over at
/// once.
const INHERITED_SECS: f64 = 600.0;

/// Reason that a request without a receiver is granted at once.
const POLLED: &str = "load balancers see it at their next check";

/// State of the node, and all inputs of the next transition.
pub struct DrainController {
    clock: Clock,
    pace: DrainTimings,
    machine: DrainState,
    deadline: Duration,
    performs: bool,
    host: String,
    /// This node's share of a delay, from 0 to 1.
    share: f64,
    /// Reason for a drain, if there is one.
    wanted: Option<DrainReason>,
    /// Time until which `wanted` comes from an earlier run.
    inherited_until: Option<f64>,
    /// Delay before a drain without a receiver.
    delay: Option<Delay>,
    given_up: Option<GivenUp>,
    /// `None` after the drain was judged, or if the harm before it is unknown.
    trial: Option<Trial>,
    helps_within_secs: f64,
    /// Harm of each raised incident; `None` before the first report.
    conditions: Option<BTreeMap<IncidentId, Condition>>,
    /// Reason for the current drain.
    cause: Option<DrainReason>,
    operator_override: Option<Override>,
    has_reported_override: bool,
    asked: Option<PendingRequest>,
    /// Channel to the thread that makes calls; `None` without a receiver.
    calls: Option<Sender<Call>>,
    /// Gate to the other nodes of the group; `None` without a coordinator.
    fleet: Option<FleetGate>,
    /// Set if the receiver or the coordinator knows whether other nodes can carry the load.
    has_granter: bool,
    /// Reason for which this node waits for others of its group, as it was logged last.
    waits_for: Option<String>,
    /// Reason for which the last request had no effect.
    obstacle: Option<String>,
    /// Reason for a drain that the group refused, as it was reported last.
    refused_by_fleet: Option<OutcomeCause>,
    is_closed: bool,
    work: Work,
    store: StateFile,
    override_file: OverrideFile,
    pause: Pause,
    readiness: Arc<ReadinessCell>,
    /// Lock on the state directory; `None` while there is no state to save, or if none can be.
    claim: Option<File>,
    is_theirs: bool,
    standby: ActiveLock,
    outcomes: Sender<Outcome>,
    jitter: Jitter,
}

impl DrainController {
    /// Creates a controller, which saves nothing before [`DrainController::take_over`]. Without
    /// `calls` there is no receiver.
    pub fn new(
        config: &Config,
        clock: Clock,
        performs: bool,
        calls: Option<Sender<Call>>,
        standby: ActiveLock,
        readiness: Arc<ReadinessCell>,
        outcomes: Sender<Outcome>,
    ) -> Self {
        let (drain, state_dir) = (&config.act.drain, &config.record.state_dir);
        let pace = DrainTimings {
            dwell_secs: drain.dwell.as_secs_f64(),
            drained_within_secs: drain.drained_within.as_secs_f64(),
            verify_secs: drain.verify.as_secs_f64(),
            ask_again_secs: config.decide.cooldown.as_secs_f64(),
        };
        let host = host::name();
        // Clones share one of these, seldom both.
        let machine_id = fs::read_to_string("/etc/machine-id").unwrap_or_default();
        let share = share(&[&host, machine_id.trim()]);
        Self {
            clock,
            pace,
            machine: DrainState::new(pace),
            deadline: drain.deadline,
            performs,
            host,
            share,
            wanted: None,
            inherited_until: None,
            delay: None,
            given_up: None,
            trial: None,
            helps_within_secs: drain.helps_within.as_secs_f64(),
            conditions: None,
            cause: None,
            operator_override: None,
            has_reported_override: false,
            asked: None,
            has_granter: calls.is_some(),
            calls,
            fleet: None,
            waits_for: None,
            obstacle: None,
            refused_by_fleet: None,
            is_closed: false,
            work: Work::new(&config.decide.protected, None),
            store: StateFile::below(state_dir),
            override_file: OverrideFile::below(state_dir),
            pause: Pause::below(state_dir),
            readiness,
            claim: None,
            is_theirs: false,
            standby,
            outcomes,
            jitter: Jitter::new(random()),
        }
    }

    /// Asks the other nodes of the group before each drain of an incident. `knows_load` is set if
    /// the coordinator knows whether they can carry the load.
    pub fn coordinate(&mut self, fleet: FleetGate, knows_load: bool) {
        self.fleet = Some(fleet);
        self.has_granter |= knows_load;
    }

    /// Counts connections from this list from now on, if requests are unknown.
    pub fn count_from(&mut self, protected: &[Pattern], list: Arc<SocketList>) {
        self.work = Work::new(protected, Some(list));
    }

    /// Takes a report of the requests that the node's services have left.
    pub fn report_requests(&mut self, report: RequestsLeft) {
        self.work.report(report);
    }

    /// Continues from the state that an earlier run or another agent has saved. `claim` is the lock
    /// on the state directory.
    pub fn take_over(&mut self, claim: Option<File>) {
        (self.claim, self.is_theirs) = (claim, false);
        match self.store.load() {
            Ok(Some(kept)) if kept.phase != DrainPhase::Healthy => self.resume(kept),
            Ok(_) => {}
            Err(why) => {
                tracing::warn!(
                    why,
                    "cannot read the saved drain state; this node counts as healthy"
                )
            }
        }
        self.read_override();
        self.note();
    }

    /// Returns whether another agent holds the lock.
    pub fn is_theirs(&self) -> bool {
        self.is_theirs
    }

    fn resume(&mut self, mut kept: SavedState) {
        let (t, unix_ms) = (self.clock.now(), self.clock.unix_ms());
        if kept.cause.as_ref().is_some_and(|cause| !self.may_leave(cause)) {
            // It was drained by another configuration or version: put it back at once.
            (kept.phase, kept.is_out, kept.request) = (DrainPhase::UndrainRequested, false, None);
        }
        // The host's clock may have been set in between.
        let age_secs = unix_ms.saturating_sub(kept.since_ms) as f64 / 1e3;
        self.machine = DrainState::resume(self.pace, kept.phase, t - age_secs, kept.is_out);
        let is_incident = kept.cause.as_ref().is_some_and(|cause| !cause.is_operator());
        if is_incident && self.performs && kept.phase != DrainPhase::UndrainRequested {
            (self.wanted, self.inherited_until) = (kept.cause.clone(), Some(t + INHERITED_SECS));
        }
        self.cause = kept.cause;
        self.asked = kept.request.map(|request| {
            let left = Duration::from_millis(request.deadline_ms.saturating_sub(unix_ms))
                .min(self.deadline);
            PendingRequest::new(request, t, left)
        });
        tracing::info!(phase = kept.phase.name(), "continuing an earlier run's drain");
    }

    /// Sets or clears the reason for a drain. A reason that may not take this node out of rotation
    /// is ignored.
    pub fn want(&mut self, cause: Option<DrainReason>) {
        if let Some(cause) = cause.as_ref().filter(|cause| !self.may_leave(cause)) {
            tracing::info!(
                incident = cause.outcome_cause().to_string(),
                "not drained: without act.drain.url or a coordinator that knows the other nodes' \
                 load only a leak takes this node out"
            );
            return;
        }
        if cause.is_none() {
            self.given_up = None;
        }
        self.delay =
            cause.as_ref().filter(|_| self.decides_alone() && self.performs).map(|cause| {
                let now = self.clock.now();
                let delay = Delay::new(now, cause.left_secs(now), self.share);
                let secs = delay.secs();
                tracing::info!(
                    incident = cause.outcome_cause().to_string(),
                    secs,
                    "delaying the drain, so that nodes with the same leak do not leave together"
                );
                delay
            });
        (self.wanted, self.inherited_until) = (cause, None);
    }

    /// Returns whether a reason may take the node out of rotation: any, if somebody who knows the
    /// other nodes grants drains; otherwise only a leak or an operator.
    fn may_leave(&self, cause: &DrainReason) -> bool {
        self.has_granter || cause.is_operator() || cause.is_leak()
    }

    /// Returns whether neither a receiver nor the group grants drains.
    fn decides_alone(&self) -> bool {
        self.calls.is_none() && self.fleet.is_none()
    }

    /// Takes the harm of each raised incident.
    pub fn observe(&mut self, conditions: BTreeMap<IncidentId, Condition>) {
        self.conditions = Some(conditions);
    }

    /// Takes the reply to an attempt; ignores that of an earlier request.
    pub fn answered(&mut self, answered: Attempt) {
        let now = self.clock.now();
        let Some(asked) = self.asked.as_mut().filter(|asked| asked.request.id == answered.id)
        else {
            return;
        };
        match asked.progress(now, answered.meaning, self.jitter.next()) {
            Progress::Retrying => {}
            Progress::Settled(reply, why) => {
                if reply == Reply::Closed {
                    tracing::error!(
                        why,
                        "the receiver is gone; the agent requests no drain until it is restarted"
                    );
                    self.is_closed = true;
                }
                self.settle(now, reply, why);
            }
            Progress::Unproven(id, why) => {
                self.given_up = Some(GivenUp { id, why: why.clone() });
                self.settle(now, Reply::Nothing, why);
            }
        }
    }

    /// Reads all inputs, and takes every transition that they allow.
    pub fn update(&mut self) {
        self.read_override();
        loop {
            let now = self.clock.now();
            if self
                .inherited_until
                .is_some_and(|until| now >= until || self.wanted.as_ref().is_some_and(is_gone))
            {
                self.want(None);
            }
            // Until the drain is judged, the work is counted for comparison.
            let drains = self.machine.phase() == DrainPhase::Draining;
            let drained_at = drains.then(|| self.machine.since());
            self.work.update(now, drains || self.trial.is_some(), drained_at);
            self.judge(now);
            let is_given_up = self.is_given_up();
            let may_ask = self.performs && !self.is_closed && !self.pause.is_on();
            let wanted = self.wanted.is_some() && !is_given_up;
            let is_permitted = self.is_permitted(now, wanted && may_ask);
            let facts = Inputs {
                now,
                wanted,
                may_drain: may_ask && is_permitted && !self.is_delayed(now),
                is_useless: is_given_up,
                word: self.operator_override,
                is_done: self.work.is_done(),
            };
            match self.machine.step(facts) {
                Some(step) => self.entered(now, step, None),
                None => break,
            }
        }
        self.send(self.clock.now());
        self.note();
    }

    /// Returns whether drains for the current reason were given up.
    fn is_given_up(&self) -> bool {
        let cause = self.wanted.as_ref().or(self.cause.as_ref());
        let incident = cause.and_then(|cause| cause.incident.as_ref());
        self.given_up.as_ref().zip(incident).is_some_and(|(given_up, id)| given_up.id == *id)
    }

    /// Tells the group whether this node wants to leave, and returns whether it may. A reason for
    /// which it has to stay is reported once for each incident, because nobody may know yet that
    /// nodes are missing; having to wait for others is only logged.
    fn is_permitted(&mut self, now: f64, wants_out: bool) -> bool {
        let Some(fleet) = &self.fleet else { return true };
        let phase = self.machine.phase();
        let rotation = match (self.operator_override, self.machine.is_out()) {
            (Some(Override::Drain | Override::Maintenance), _) => Rotation::OutByOperator,
            (None, true) => Rotation::Out,
            _ => Rotation::In,
        };
        let wants_out = match rotation {
            Rotation::Out => true,
            Rotation::OutByOperator => false,
            Rotation::In if phase == DrainPhase::Healthy => wants_out && !self.machine.is_held(now),
            Rotation::In => phase == DrainPhase::DrainRequested,
        };
        fleet.set(rotation, wants_out);
        match fleet.permit() {
            Permit::Granted => {
                (self.waits_for, self.refused_by_fleet) = (None, None);
                return true;
            }
            Permit::NotAsked => {}
            Permit::Waiting(why) => {
                if phase == DrainPhase::Healthy && self.waits_for.as_ref() != Some(&why) {
                    tracing::info!(why, "waiting for this node's turn to be drained");
                    self.waits_for = Some(why);
                }
            }
            Permit::Refused(why) => {
                let cause = self.wanted.as_ref().map(DrainReason::outcome_cause);
                if phase == DrainPhase::Healthy && self.refused_by_fleet != cause {
                    self.report_for(now, cause.clone(), OutcomeKind::DrainRefused, why);
                    self.refused_by_fleet = cause;
                }
            }
        }
        false
    }

    fn is_delayed(&self, now: f64) -> bool {
        let left_secs =
            self.wanted.as_ref().and_then(|cause| self.condition(cause)?.left_secs(now));
        self.delay.is_some_and(|delay| !delay.is_over(now, left_secs))
    }

    fn condition(&self, cause: &DrainReason) -> Option<&Condition> {
        self.conditions.as_ref()?.get(cause.incident.as_ref()?)
    }

    /// Compares the harm of the drain's incident with that before, once it can be seen; for a leak,
    /// once the node has no more work.
    fn judge(&mut self, now: f64) {
        let (Some(trial), Some(conditions)) = (&mut self.trial, &self.conditions) else { return };
        trial.count(self.work.left());
        if !trial.is_due(now, &self.machine, self.helps_within_secs) {
            return;
        }
        let failed = trial.failed(now, conditions, self.work.left());
        self.trial = None;
        // An operator's override needs no other reason.
        let Some(given_up) = failed.filter(|_| self.operator_override.is_none()) else { return };
        self.report(now, OutcomeKind::DrainUseless, given_up.why.clone());
        self.given_up = Some(given_up);
    }

    /// Returns the time until something is due.
    pub fn sleeps_for(&self) -> Duration {
        let due = self.asked.as_ref().and_then(PendingRequest::due);
        let until_due =
            due.map(|due| Duration::try_from_secs_f64(due - self.clock.now()).unwrap_or_default());
        until_due.unwrap_or(CHECK_INTERVAL).min(CHECK_INTERVAL)
    }

    /// Shows the state to load balancers, in metrics and in the agent's status.
    fn note(&self) {
        let (phase, since, now) = (self.machine.phase(), self.machine.since(), self.clock.now());
        let age_ms = ((now - since).max(0.0) * 1e3) as u64;
        let counts = matches!(phase, DrainPhase::Draining | DrainPhase::Drained);
        let last_reply = self.asked.as_ref().and_then(PendingRequest::last_reply);
        let obstacle = self.waits_for.as_deref().or(last_reply).or(self.obstacle.as_deref());
        self.readiness.note(DrainView {
            phase,
            since_ms: since.is_finite().then(|| self.clock.unix_ms().saturating_sub(age_ms)),
            is_out: self.machine.is_out(),
            operator: self.operator_override,
            incident: self
                .cause
                .as_ref()
                .and_then(|cause| Some(cause.incident.as_ref()?.to_string())),
            why: self.cause.as_ref().map(|cause| cause.why.clone()),
            work: counts.then(|| self.work.left().summary()),
            obstacle: obstacle.map(str::to_owned),
        });
    }

    fn read_override(&mut self) {
        match self.override_file.read() {
            Ok(found) => {
                if std::mem::replace(&mut self.operator_override, found) != found {
                    self.obstacle = None;
                }
                self.has_reported_override = false;
            }
            Err(why) => {
                if !std::mem::replace(&mut self.has_reported_override, true) {
                    tracing::warn!(why, "cannot read the operator's override; it changes nothing");
                }
            }
        }
    }

    /// Takes the final reply to a request, and reports it.
    fn settle(&mut self, now: f64, answer: Reply, why: String) {
        let phase = self.machine.phase();
        if let Some(step) = self.machine.answered(now, answer) {
            self.entered(now, step, Some(why));
        } else if phase == DrainPhase::UndrainRequested {
            self.asked = None;
            self.report(now, OutcomeKind::UndrainFailed, why);
        }
    }

    /// Saves a transition, and carries it out. `answered` is the text of the reply that caused it,
    /// if one did.
    fn entered(&mut self, now: f64, step: Transition, answered: Option<String>) {
        let Transition { from, to } = step;
        self.asked = None;
        let left = self.work.left().describe();
        let refused =
            from == DrainPhase::DrainRequested && answered.is_some() && to != DrainPhase::Draining;
        if let Some(why) = answered.clone().filter(|_| refused) {
            self.report(now, OutcomeKind::DrainRefused, why);
        }
        let over = || match self.operator_override {
            Some(Override::Undrain) => "requested by an operator".to_owned(),
            _ if refused => "the node may have been drained all the same".to_owned(),
            _ if self.is_given_up() => {
                self.given_up.as_ref().map_or_else(String::new, |given_up| given_up.why.clone())
            }
            _ => "there is no reason for a drain any more".to_owned(),
        };
        let told = match to {
            DrainPhase::DrainRequested => {
                let says_so = self.operator_override.is_some_and(Override::is_drain);
                let cause =
                    if says_so { Some(DrainReason::operator()) } else { self.wanted.clone() };
                self.cause = cause;
                let mut why =
                    self.cause.as_ref().map_or_else(String::new, |cause| cause.why.clone());
                if !says_so && let Some(delay) = self.delay.take() {
                    why += &format!(
                        "; waited for {:.1} s, this node's share of a delay that keeps nodes with \
                         the same leak from leaving rotation together",
                        delay.waited_secs(now)
                    );
                }
                self.ask(now, RequestKind::Drain);
                Some((OutcomeKind::DrainRequested, why))
            }
            DrainPhase::UndrainRequested => {
                let why = over();
                if let Some(cause) = &mut self.cause {
                    cause.why.clone_from(&why);
                }
                self.ask(now, RequestKind::Undrain);
                Some((OutcomeKind::UndrainRequested, why))
            }
            DrainPhase::Draining if from == DrainPhase::Verifying => {
                Some((OutcomeKind::Draining, "its reason has returned".to_owned()))
            }
            DrainPhase::Draining => {
                self.trial = self.cause.as_ref().and_then(|cause| {
                    let id = cause.incident.as_ref()?;
                    Some(Trial::new(id, *self.condition(cause)?, now))
                });
                Some((OutcomeKind::Draining, answered.unwrap_or_default()))
            }
            DrainPhase::Drained => Some((OutcomeKind::Drained, left)),
            DrainPhase::Verifying => {
                Some((OutcomeKind::Verifying, "there is no reason for a drain any more".to_owned()))
            }
            DrainPhase::Healthy if refused => None,
            DrainPhase::Healthy => Some((OutcomeKind::Undrained, answered.unwrap_or_default())),
        };
        let kept = self.keep(now);
        if let Some((event, why)) = told {
            self.report(now, event, why);
        }
        if to == DrainPhase::Healthy {
            (self.cause, self.trial) = (None, None);
        }
        match kept {
            Err(why) if to == DrainPhase::DrainRequested => {
                self.settle(now, Reply::Refused, format!("the drain state cannot be saved: {why}"));
            }
            // Load balancers poll.
            _ if to.is_request() && self.calls.is_none() => {
                self.settle(now, Reply::Granted, POLLED.to_owned());
            }
            _ if to.is_request() && self.is_closed => {
                self.settle(now, Reply::Closed, "the receiver is gone".to_owned());
            }
            _ => {}
        }
        self.note();
    }

    fn ask(&mut self, now: f64, ask: RequestKind) {
        let at_ms = self.clock.unix_ms();
        let request = Request {
            id: format!("{}-{at_ms}-{:016x}", ask.name(), random()),
            ask,
            at_ms,
            deadline_ms: at_ms + self.deadline.as_millis() as u64,
            cause: self.cause.clone().unwrap_or_else(DrainReason::operator),
        };
        self.asked = Some(PendingRequest::new(request, now, self.deadline));
    }

    /// Sends the request if it is due. One of an earlier run whose deadline has passed gets no
    /// reply.
    fn send(&mut self, now: f64) {
        if self.asked.is_none() && self.machine.phase().is_request() && !self.machine.is_held(now) {
            // An earlier run ended between two requests.
            let ask = if self.machine.phase() == DrainPhase::DrainRequested {
                RequestKind::Drain
            } else {
                RequestKind::Undrain
            };
            self.ask(now, ask);
        }
        let Some(asked) = self.asked.as_mut().filter(|asked| asked.is_due(now)) else { return };
        let Some(calls) = &self.calls else {
            return self.settle(now, Reply::Granted, POLLED.to_owned());
        };
        match asked.call(now, &self.host) {
            // The thread ends with this one.
            Some(call) => drop(calls.send(call)),
            None => self.settle(now, Reply::Nothing, EXPIRED.to_owned()),
        }
    }

    fn keep(&mut self, now: f64) -> Result<(), String> {
        if self.claim.is_none() {
            self.claim = self.standby.claim_first().map_err(|error| {
                self.is_theirs = true;
                error.to_string()
            })?;
        }
        let age_ms = ((now - self.machine.since()).max(0.0) * 1e3) as u64;
        let request = self.asked.as_ref().map(|asked| asked.request.clone());
        let since_ms = self.clock.unix_ms().saturating_sub(age_ms);
        let kept = SavedState::new(
            self.machine.phase(),
            self.machine.is_out(),
            since_ms,
            self.cause.clone(),
            request,
        );
        self.store.put(&kept).map_err(|error| {
            tracing::warn!(%error, "cannot save the drain state");
            error.to_string()
        })
    }

    fn report(&mut self, t: f64, event: OutcomeKind, why: String) {
        let cause = self.cause.as_ref().map(DrainReason::outcome_cause);
        self.report_for(t, cause, event, why);
    }

    /// Reports an outcome; without a cause it is an operator's.
    fn report_for(&mut self, t: f64, cause: Option<OutcomeCause>, event: OutcomeKind, why: String) {
        if event.is_setback() {
            self.obstacle = Some(why.clone());
        } else if event != OutcomeKind::UndrainRequested {
            self.obstacle = None;
        }
        let cause = cause.unwrap_or(OutcomeCause::Operator);
        let outcome =
            Outcome { t, event, cause, cgroup: Arc::from("node"), limit_bytes: None, why };
        // Nobody listens once the loop has ended.
        let _ = self.outcomes.send(outcome);
    }
}

/// Returns whether the reason is a leak of a process that has ended.
fn is_gone(cause: &DrainReason) -> bool {
    let Some(IncidentId::Leak(id, _)) = cause.incident else { return false };
    let process = procfs::process::Process::new(id.pid as i32).and_then(|process| process.stat());
    match process {
        Ok(stat) => stat.starttime != id.start_ticks,
        Err(procfs::ProcError::NotFound(_)) => true,
        Err(_) => false,
    }
}

/// Returns a random number.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
