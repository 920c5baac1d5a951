//! The executor of `shed`, and the thread that bounds accept queues.
//!
//! The loop passes the facts about a listener on that the thread works on, ten times a second; the
//! thread changes lengths, because that reads files of other processes. In observe mode it is not
//! started. When the agent stops, everything is restored.

use std::{
    io,
    path::Path,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender},
    time::Duration,
};

use super::{
    active_sheds::ActiveSheds,
    control::QueueReading,
    entry::ShedJournal,
    foreign_listener::obstacle,
    netns_sysctl::reset_obstacle,
    overflow_resets::undo_all_resets,
    target::ShedTarget,
    undo::{ShedUndone, undo_all},
    watched::Watched,
};
use crate::{
    act::{
        executor::Executor,
        journal::{Entry, EntryJournal},
        outcome::{Outcome, OutcomeKind},
        worker::{Order, Worker, WorkerChannels},
    },
    clock::Clock,
    config::{Config, Mode},
    decide::{Action, Decision, IncidentId},
    detect::{Claim, Verdict},
    os::trusted::reason,
    sense::Fact,
};

/// Interval between checks of the lengths in effect.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Maximum time to stop.
const STOPS_WITHIN: Duration = Duration::from_secs(10);

/// Time in which a listener has to be seen after the decision: the sensor reads ten times a second.
const SEEN_WITHIN_SECS: f64 = 5.0;

/// Order to the thread.
enum ShedOrder {
    Begin(Box<ShedTarget>),
    Read(IncidentId, QueueReading),
    End(IncidentId),
    Stop,
}

impl Order for ShedOrder {
    fn stop() -> Self {
        Self::Stop
    }
}

/// Handle of the thread, and the listeners that are read for it.
pub struct ShedWorker {
    worker: Worker<ShedOrder>,
    watched: Vec<Watched>,
    /// Reason for which no queue can be bounded, or no connection reset; `None` if nothing is known
    /// to prevent it.
    unable: Option<String>,
}

/// Restores the accept queues that an earlier run bounded, in every mode, unless another agent uses
/// the journal.
pub fn recover(config: &Config, t: f64) -> Vec<Outcome> {
    let state_dir = &config.record.state_dir;
    let mut undone = recover_from(state_dir, undo_all);
    undone.extend(recover_from(state_dir, undo_all_resets));
    undone.iter().map(|one| one.outcome(t)).collect()
}

/// Undoes everything that is recorded below `state_dir`, even while an agent writes there. An error
/// stands for each journal that cannot be read.
pub fn undo_recorded(state_dir: &Path) -> [io::Result<Vec<ShedUndone>>; 2] {
    [undo_found(state_dir, undo_all), undo_found(state_dir, undo_all_resets)]
}

fn undo_found<E: Entry>(
    state_dir: &Path,
    undo_all: fn(&EntryJournal<E>) -> Vec<ShedUndone>,
) -> io::Result<Vec<ShedUndone>> {
    Ok(EntryJournal::find(state_dir)?.as_ref().map(undo_all).unwrap_or_default())
}

/// Undoes the entries of a journal that an earlier run has left.
fn recover_from<E: Entry>(
    state_dir: &Path,
    undo_all: fn(&EntryJournal<E>) -> Vec<ShedUndone>,
) -> Vec<ShedUndone> {
    let found = EntryJournal::<E>::find(state_dir)
        .and_then(|found| found.map(|_| EntryJournal::claim(state_dir)).transpose());
    match found {
        Ok(journal) => journal.as_ref().map(undo_all).unwrap_or_default(),
        Err(error) => {
            tracing::warn!(
                state_dir = %state_dir.display(),
                %error,
                "cannot restore the {} that an earlier run changed to shed load\n  \
                 hint: run `spillway undo`",
                E::DIRECTORY
            );
            Vec::new()
        }
    }
}

impl ShedWorker {
    /// Starts the thread; returns `None` in observe mode or if load is not to be shed.
    ///
    /// # Errors
    ///
    /// Returns an error if the thread cannot be started.
    pub fn start(config: &Config, clock: Clock) -> io::Result<Option<Self>> {
        if config.mode == Mode::Observe || !config.act.shed.enabled {
            return Ok(None);
        }
        let state_dir = &config.record.state_dir;
        let journal = ShedJournal::claim(state_dir)
            .map_err(|error| format!("{}: {}", state_dir.display(), reason(&error, state_dir)));
        let obstacle = match &journal {
            Err(error) => Some(format!("there is no journal: {error}")),
            Ok(_) => obstacle().map(|error| error.to_string()),
        };
        let no_reset = config.act.shed.reset.then(reset_obstacle).flatten().map(|why| {
            format!(
                "act.shed.reset has no effect: {why}\n  hint: under systemd, install \
                 configs/systemd/shed-reset.conf"
            )
        });
        let unable = obstacle.map(|why| format!("no load will be shed: {why}")).or(no_reset);
        if let Some(why) = &unable {
            tracing::warn!("{why}");
        }
        let sheds = ActiveSheds::new(config, journal);
        let (worker, WorkerChannels { orders, outcomes }) =
            Worker::new("spillway-shed", STOPS_WITHIN);
        worker.spawn(move || run(sheds, clock, &orders, &outcomes))?;
        Ok(Some(Self { worker, watched: Vec::new(), unable }))
    }

    /// Returns the reason for which no queue can be bounded, or no connection reset; `None` if
    /// nothing is known to prevent it.
    pub fn unable(&self) -> Option<&str> {
        self.unable.as_deref()
    }

    fn begin(&mut self, decision: &Decision) -> bool {
        let Claim::Overload(claim) = &decision.verdict.claim else { return false };
        let IncidentId::Overload { netns, addr } = &decision.id else { return false };
        if let Some(watched) = self.watched.iter_mut().find(|watched| watched.id == decision.id) {
            // It is still bounded, for an incident that has returned.
            watched.has_begun = false;
            return true;
        }
        self.watched.push(Watched::new(
            decision.t(),
            decision.id.clone(),
            (*netns, addr.clone()),
            claim.cgroup.clone(),
            claim.accepts_per_sec,
        ));
        true
    }

    fn end(&mut self, id: &IncidentId) -> bool {
        self.watched.retain(|watched| watched.id != *id || watched.has_begun);
        self.worker.send(ShedOrder::End(id.clone()))
    }
}

impl Executor for ShedWorker {
    fn perform(&mut self, decision: &Decision, _verdicts: &[Verdict]) -> bool {
        match decision.action {
            _ if decision.refused.is_some() => false,
            Action::Shed => self.begin(decision),
            Action::Unshed => self.end(&decision.id),
            Action::Page { .. }
            | Action::Limit
            | Action::Unlimit
            | Action::Weigh
            | Action::Unweigh
            | Action::Drain
            | Action::Undrain
            | Action::Resolve => false,
        }
    }

    fn observe_fact(&mut self, t: f64, fact: &Fact) {
        if self.watched.is_empty() {
            return;
        }
        let (netns, addr) = match fact {
            Fact::Listener(fact) => (fact.netns, &fact.addr),
            Fact::Requests(fact) => (fact.netns, &fact.addr),
            _ => return,
        };
        let mut watched = self.watched.iter_mut();
        let Some(watched) = watched.find(|one| one.netns == netns && one.addr == *addr) else {
            return;
        };
        match fact {
            Fact::Listener(fact) => watched.listener(t, fact),
            Fact::Requests(fact) => watched.requests(t, fact),
            _ => {}
        }
    }

    /// Also passes the readings since the last call on.
    fn outcomes(&mut self, now: f64) -> Vec<Outcome> {
        let mut outcomes = self.worker.outcomes();
        let is_over = |outcome: &Outcome| outcome.event != OutcomeKind::Shedding;
        for outcome in outcomes.iter().filter(|outcome| is_over(outcome)) {
            let ids = outcome.cause.incidents();
            // One that has not begun is of an incident that has just returned.
            self.watched.retain(|watched| !watched.has_begun || !ids.contains(&watched.id));
        }
        for watched in &mut self.watched {
            let Some((reading, pids)) = watched.reading() else { continue };
            let order = if std::mem::replace(&mut watched.has_begun, true) {
                ShedOrder::Read(watched.id.clone(), reading)
            } else {
                ShedOrder::Begin(Box::new(watched.target(reading, pids)))
            };
            self.worker.send(order);
        }
        self.watched.retain(|watched| {
            let is_seen = watched.has_begun || now - watched.since_t < SEEN_WITHIN_SECS;
            if !is_seen {
                outcomes.push(Outcome {
                    t: now,
                    event: OutcomeKind::ShedRefused,
                    cause: watched.id.clone().into(),
                    cgroup: watched.addr.clone(),
                    limit_bytes: None,
                    why: "the listener is not seen any more".to_owned(),
                });
            }
            is_seen
        });
        outcomes
    }

    /// Restores everything. The journal keeps whatever is not done within [`STOPS_WITHIN`].
    fn stop(self: Box<Self>) -> Vec<Outcome> {
        self.worker.stop()
    }
}

fn run(
    mut sheds: ActiveSheds,
    clock: Clock,
    orders: &Receiver<ShedOrder>,
    reported: &Sender<Outcome>,
) {
    loop {
        let order = orders.recv_timeout(CHECK_INTERVAL);
        let t = clock.now();
        let (mut outcomes, ends) = match order {
            Ok(ShedOrder::Begin(target)) => (vec![sheds.begin(t, &target)], false),
            Ok(ShedOrder::Read(id, reading)) => (sheds.read(&id, reading), false),
            Ok(ShedOrder::End(id)) => {
                sheds.end(t, &id);
                (Vec::new(), false)
            }
            Err(RecvTimeoutError::Timeout) => (Vec::new(), false),
            Ok(ShedOrder::Stop) | Err(RecvTimeoutError::Disconnected) => (sheds.undo_all(t), true),
        };
        if !ends {
            outcomes.extend(sheds.look(t));
        }
        // Without a receiver the loop has ended; everything is restored all the same.
        outcomes.into_iter().for_each(|outcome| drop(reported.send(outcome)));
        if ends {
            return;
        }
    }
}
