//! The thread that sets, checks and lifts limits.
//!
//! Orders are carried out one after another beside the loop, because a write to a cgroup may make
//! the kernel reclaim memory before it returns, and detection must not wait for that. The loop
//! reports an order that takes long; the order continues. Between orders the thread checks the
//! limits in effect every [`CHECK_INTERVAL`]. In observe mode it is not started. When the agent
//! stops, everything is restored.

use std::{
    io,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender},
    },
    time::Duration,
};

use crate::{
    act::{
        executor::Executor,
        journal::Journal,
        limit::{ActiveLimits, LimitRefusal, undo_all},
        outcome::{Outcome, OutcomeCause, OutcomeKind},
        worker::{Order, Worker, WorkerChannels},
    },
    clock::Clock,
    config::{Config, Mode},
    decide::{Action, Decision, IncidentId},
    detect::{Claim, Verdict},
    os::{is_read_only, trusted::reason},
    sense::{Hierarchy, ProcessId, ProgramList},
};

/// Interval between checks of the limits in effect, in which changes by others are noticed.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Duration after which an order is reported as slow. Setting a limit takes some milliseconds,
/// mostly for the disk.
const SLOW_SECS: f64 = 5.0;

/// Maximum time to stop.
const STOPS_WITHIN: Duration = Duration::from_secs(10);

/// Order to the thread.
enum LimitOrder {
    Limit { id: IncidentId, cgroup: Arc<str>, culprit: ProcessId },
    Unlimit { id: IncidentId },
    Reload(Box<Config>),
    Stop,
}

impl Order for LimitOrder {
    fn stop() -> Self {
        Self::Stop
    }
}

/// Order in progress.
struct Busy {
    since: f64,
    reported: bool,
    cause: OutcomeCause,
    cgroup: Arc<str>,
}

/// Handle of the thread.
pub struct LimitWorker {
    worker: Worker<LimitOrder>,
    busy: Arc<Mutex<Option<Busy>>>,
    /// Reason for which nothing can be limited; `None` if limits can be set.
    unable: Option<String>,
}

/// Undoes the limits of an earlier run, in every mode, unless another agent uses the journal.
pub fn recover(config: &Config, t: f64) -> Vec<Outcome> {
    let state_dir = &config.record.state_dir;
    match Journal::find(state_dir)
        .and_then(|found| found.map(|_| Journal::claim(state_dir)).transpose())
    {
        Ok(Some(journal)) => undo_all(&journal).iter().map(|undone| undone.outcome(t)).collect(),
        Ok(None) => Vec::new(),
        Err(error) => {
            tracing::warn!(
                state_dir = %state_dir.display(),
                %error,
                "cannot undo the limits of an earlier run\n  hint: run `spillway undo`"
            );
            Vec::new()
        }
    }
}

impl LimitWorker {
    /// Starts the thread; returns `None` in observe mode or if limits are disabled.
    ///
    /// # Errors
    ///
    /// Returns an error if the thread cannot be started.
    pub fn start(
        config: &Config,
        clock: Clock,
        programs: Option<Arc<ProgramList>>,
    ) -> io::Result<Option<Self>> {
        if config.mode == Mode::Observe || !config.act.limit.enabled {
            return Ok(None);
        }
        let state_dir = &config.record.state_dir;
        let journal = Journal::claim(state_dir)
            .map_err(|error| format!("{}: {}", state_dir.display(), reason(&error, state_dir)));
        let mount =
            Hierarchy::detect().mount().filter(|mount| is_read_only(mount)).map(Path::to_owned);
        let obstacle = match (&journal, mount) {
            (Err(error), _) => Some(LimitRefusal::NoJournal(error.clone())),
            (Ok(_), mount) => mount.map(LimitRefusal::ReadOnly),
        };
        let unable = obstacle.map(|obstacle| format!("nothing will be limited: {obstacle}"));
        if let Some(why) = &unable {
            tracing::warn!("{why}");
        }
        let limits = ActiveLimits::new(config, journal).listing_programs(programs);
        let (worker, WorkerChannels { orders, outcomes }) =
            Worker::new("spillway-act", STOPS_WITHIN);
        let busy = Arc::new(Mutex::new(None));
        let shared = busy.clone();
        worker.spawn(move || run(limits, clock, &orders, &shared, &outcomes))?;
        Ok(Some(Self { worker, busy, unable }))
    }

    /// Returns the reason for which nothing can be limited; `None` if limits can be set.
    pub fn unable(&self) -> Option<&str> {
        self.unable.as_deref()
    }
}

impl Executor for LimitWorker {
    fn perform(&mut self, decision: &Decision, _verdicts: &[Verdict]) -> bool {
        let culprit = match (&decision.id, &decision.verdict.claim) {
            (IncidentId::Leak(culprit, _), _) => *culprit,
            (IncidentId::CgroupLeak(_), Claim::Leak(claim)) => claim.id,
            _ => return false,
        };
        let id = decision.id.clone();
        let order = match decision.action {
            _ if decision.refused.is_some() => return false,
            Action::Limit => LimitOrder::Limit { id, cgroup: decision.cgroup().clone(), culprit },
            Action::Unlimit => LimitOrder::Unlimit { id },
            Action::Page { .. }
            | Action::Shed
            | Action::Unshed
            | Action::Weigh
            | Action::Unweigh
            | Action::Drain
            | Action::Undrain
            | Action::Resolve => return false,
        };
        self.worker.send(order)
    }

    fn reload(&mut self, config: &Config) {
        self.worker.send(LimitOrder::Reload(Box::new(config.clone())));
    }

    /// Also reports the current order once if it takes long.
    fn outcomes(&mut self, t: f64) -> Vec<Outcome> {
        let mut outcomes = self.worker.outcomes();
        if let Some(busy) = lock(&self.busy).as_mut()
            && t - busy.since > SLOW_SECS
            && !std::mem::replace(&mut busy.reported, true)
        {
            let why = format!(
                "the kernel or the disk has not finished for {SLOW_SECS:.0} s; the limit may still \
                 be set"
            );
            let (cause, cgroup) = (busy.cause.clone(), busy.cgroup.clone());
            outcomes.push(Outcome {
                t,
                event: OutcomeKind::Failed,
                cause,
                cgroup,
                limit_bytes: None,
                why,
            });
        }
        outcomes
    }

    /// Restores everything. The journal keeps whatever is not done within [`STOPS_WITHIN`].
    fn stop(self: Box<Self>) -> Vec<Outcome> {
        self.worker.stop()
    }
}

fn run(
    mut limits: ActiveLimits,
    clock: Clock,
    orders: &Receiver<LimitOrder>,
    busy: &Mutex<Option<Busy>>,
    reported: &Sender<Outcome>,
) {
    loop {
        let order = orders.recv_timeout(CHECK_INTERVAL);
        let t = clock.now();
        let (cause, cgroup) = match &order {
            Ok(LimitOrder::Limit { id, cgroup, .. }) => (id.clone().into(), cgroup.clone()),
            _ => (OutcomeCause::UNKNOWN, Arc::from("")),
        };
        *lock(busy) = Some(Busy { since: t, reported: false, cause, cgroup });
        let (outcomes, ends) = match order {
            Ok(LimitOrder::Limit { id, cgroup, culprit }) => {
                (vec![limits.limit(t, &id, &cgroup, culprit)], false)
            }
            Ok(LimitOrder::Unlimit { id }) => {
                limits.end(&id);
                (limits.look(t), false)
            }
            Ok(LimitOrder::Reload(config)) => {
                limits.reload(&config);
                (limits.look(t), false)
            }
            Err(RecvTimeoutError::Timeout) => (limits.look(t), false),
            Ok(LimitOrder::Stop) | Err(RecvTimeoutError::Disconnected) => {
                (limits.undo_all(t), true)
            }
        };
        *lock(busy) = None;
        // An outcome has the time at which the action was done.
        let done_t = clock.now();
        // Without a receiver the loop has ended; everything is restored all the same.
        outcomes
            .into_iter()
            .for_each(|outcome| drop(reported.send(Outcome { t: done_t, ..outcome })));
        if ends {
            return;
        }
    }
}

fn lock(busy: &Mutex<Option<Busy>>) -> std::sync::MutexGuard<'_, Option<Busy>> {
    busy.lock().unwrap_or_else(PoisonError::into_inner)
}
