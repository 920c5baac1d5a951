//! Executor of the fleet: it carries out no decision, but passes what the loop sees to the thread
//! that publishes the node's report and asks for its turn.
//!
//! The thread runs in mode "observe" too: the others count on this node's headroom, and its
//! margins are shown. Failure of the coordinator is logged once, and again when it is over.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use super::{
    gate::FleetGate,
    metrics::FleetMetrics,
    node_load::{CpuLoad, RequestLoad},
    proven_file::ProvenLoads,
};
use crate::{
    act::{
        executor::Executor,
        outcome::Outcome,
        worker::{Order, Worker, WorkerChannels},
    },
    clock::Clock,
    config::Config,
    decide::{Decision, RequestsLeft, is_common},
    detect::{Claim, LeakClaim, Severity, Verdict},
    fleet::{FleetMember, ForecastEnd, Load, NodeFacts, PageSubject, Rotation},
    sense::Fact,
};

/// Time between two turns of the thread: a wish of the drain's thread waits for at most as long.
const TURN: Duration = Duration::from_millis(500);

/// Maximum time to stop: a call may be under way.
const STOPS_WITHIN: Duration = Duration::from_secs(10);

/// Time after which what the loop saw is too old to publish, in seconds.
const SEEN_SECS_MAX: f64 = 30.0;

/// Time between two writes of the proven loads, in seconds.
const SAVE_SECS: f64 = 600.0;

/// State of this node, as the loop sees it.
#[derive(Debug, Clone, Default)]
struct Seen {
    t: f64,
    requests_per_sec: Option<f64>,
    in_flight: Option<u64>,
    queue_wait_us: Option<u64>,
    is_unwell: bool,
    end: Option<ForecastEnd>,
    page: Option<PageSubject>,
}

enum FleetOrder {
    Seen(Seen),
    Stop,
}

impl Order for FleetOrder {
    fn stop() -> Self {
        Self::Stop
    }
}

/// Handle of the fleet's thread.
pub struct FleetWorker {
    worker: Worker<FleetOrder>,
    clock: Clock,
    requests: RequestLoad,
    in_flight: Option<u64>,
    queue_wait_us: Option<u64>,
}

/// Thread that publishes and asks.
struct FleetThread {
    clock: Clock,
    member: FleetMember,
    gate: FleetGate,
    metrics: Arc<FleetMetrics>,
    state_dir: PathBuf,
    proven: ProvenLoads,
    saved_at: f64,
    cpus: CpuLoad,
    seen: Seen,
    /// Operator's figures.
    capacity_cpus: Option<f64>,
    capacity_requests: Option<f64>,
    /// Problem that was logged last.
    logged: Option<String>,
}

impl FleetWorker {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel refuses another thread.
    pub fn start(
        config: &Config,
        clock: Clock,
        member: FleetMember,
        gate: FleetGate,
        metrics: Arc<FleetMetrics>,
    ) -> io::Result<Self> {
        let (worker, WorkerChannels { orders, .. }) = Worker::new("spillway-fleet", STOPS_WITHIN);
        let state_dir = config.record.state_dir.clone();
        let thread = FleetThread {
            clock,
            member,
            gate,
            metrics,
            proven: ProvenLoads::read(&state_dir),
            state_dir,
            saved_at: clock.now(),
            cpus: CpuLoad::default(),
            seen: Seen::default(),
            capacity_cpus: config.fleet.capacity_cpus,
            capacity_requests: config.fleet.capacity_requests,
            logged: None,
        };
        worker.spawn(move || thread.run(&orders))?;
        let requests = RequestLoad::default();
        Ok(Self { worker, clock, requests, in_flight: None, queue_wait_us: None })
    }
}

impl Executor for FleetWorker {
    fn perform(&mut self, _decision: &Decision, _verdicts: &[Verdict]) -> bool {
        false
    }

    fn observe_fact(&mut self, _t: f64, fact: &Fact) {
        if let Fact::Listener(listener) = fact {
            self.queue_wait_us = self.queue_wait_us.max(listener.oldest_wait_us);
        }
    }

    fn observe(&mut self, now: f64, raised: &mut dyn Iterator<Item = &Verdict>) {
        let mut seen = Seen {
            t: now,
            requests_per_sec: self.requests.per_sec(),
            in_flight: self.in_flight,
            queue_wait_us: self.queue_wait_us.take(),
            ..Seen::default()
        };
        for verdict in raised.filter(|verdict| is_nodes(verdict)) {
            match &verdict.claim {
                Claim::Overload(_) => seen.is_unwell = true,
                Claim::Leak(leak) => {
                    let end = forecast_end(now, leak, verdict);
                    let is_sooner = end.as_ref().is_some_and(|end| {
                        seen.end.as_ref().is_none_or(|first| end.soonest_secs < first.soonest_secs)
                    });
                    if is_sooner {
                        (seen.end, seen.page) = (end, page_subject(leak, verdict));
                    }
                }
                _ => {}
            }
        }
        self.worker.send(FleetOrder::Seen(seen));
    }

    fn observe_requests(&mut self, count: &dyn Fn() -> RequestsLeft) {
        let now = self.clock.now();
        if self.requests.is_due(now) {
            let left = count();
            self.requests.take(now, left.answered_total);
            // A listener whose requests are unknown would make the number too small.
            let is_complete = left.pass_t.is_some() && left.unseen.is_empty();
            self.in_flight = is_complete.then_some(left.in_flight);
        }
    }

    /// Returns none: the drain's outcomes say what became of the node's wish.
    fn outcomes(&mut self, _now: f64) -> Vec<Outcome> {
        Vec::new()
    }

    fn stop(self: Box<Self>) -> Vec<Outcome> {
        self.worker.stop()
    }
}

/// Returns whether a verdict is about a service or the whole host.
fn is_nodes(verdict: &Verdict) -> bool {
    let harm = verdict.harm.as_ref();
    harm.is_some_and(|harm| harm.is_nodes && harm.severity >= Severity::Warning)
}

/// Forecast end of a leak, from `now`.
fn forecast_end(now: f64, leak: &LeakClaim, verdict: &Verdict) -> Option<ForecastEnd> {
    let age_secs = now - verdict.t;
    let secs = verdict.exhaustion_secs?;
    let [soonest, latest] = verdict.exhaustion_interval_secs.unwrap_or([secs, secs]);
    let [secs, soonest_secs, latest_secs] =
        [secs, soonest.min(secs), latest.max(secs)].map(|secs| (secs - age_secs).max(0.0));
    Some(ForecastEnd { secs, soonest_secs, latest_secs, cause: leak.shared_name() })
}

/// Subject of the page for a leak; `None` if no other node can have it.
fn page_subject(leak: &LeakClaim, verdict: &Verdict) -> Option<PageSubject> {
    let severity = verdict.harm.as_ref().map(|harm| harm.severity);
    is_common(leak).then(|| PageSubject {
        cause: leak.shared_name(),
        is_critical: severity >= Some(Severity::Critical),
    })
}

impl FleetThread {
    fn run(mut self, orders: &Receiver<FleetOrder>) {
        let mut next_turn = self.clock.now();
        loop {
            let left = Duration::try_from_secs_f64(next_turn - self.clock.now());
            match orders.recv_timeout(left.unwrap_or_default()) {
                Ok(FleetOrder::Seen(seen)) => self.seen = seen,
                Err(RecvTimeoutError::Timeout) => {
                    self.turn();
                    next_turn = self.clock.now() + TURN.as_secs_f64();
                }
                Ok(FleetOrder::Stop) | Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.save();
        // A node that is out keeps its slot until its agent is back.
        if self.gate.wish().rotation == Rotation::In {
            self.member.leave();
        }
    }

    fn turn(&mut self) {
        let (now, unix_ms) = (self.clock.now(), self.clock.unix_ms());
        let wish = self.gate.wish();
        let seen = match &self.seen {
            seen if now - seen.t <= SEEN_SECS_MAX => seen.clone(),
            _ => Seen::default(),
        };
        // A load that is not known yet must not pass for none.
        let Some(cpus) = self.cpus.read(now) else { return };
        let is_well = wish.rotation == Rotation::In && !seen.is_unwell;
        let unix_secs = unix_ms as f64 / 1e3;
        self.proven.cpus.note(unix_secs, cpus, is_well);
        if let Some(requests) = seen.requests_per_sec {
            self.proven.requests.note(unix_secs, requests, is_well);
        }
        let load = |now: f64, capacity: Option<f64>, proven: f64| Load {
            now,
            proven: capacity.unwrap_or(proven),
        };
        let requests = seen
            .requests_per_sec
            .map(|per_sec| load(per_sec, self.capacity_requests, self.proven.requests.most()));
        let facts = NodeFacts {
            rotation: wish.rotation,
            wants_out: wish.wants_out,
            is_unwell: seen.is_unwell,
            cpus: load(cpus, self.capacity_cpus, self.proven.cpus.most()),
            requests,
            in_flight: seen.in_flight,
            queue_wait_us: seen.queue_wait_us,
            end: seen.end,
            page: seen.page,
        };
        self.member.step(now, unix_ms, &facts);
        self.gate.answer(wish, self.member.permit().clone());
        self.gate.set_turn(self.member.is_turn());
        self.gate.add_facts(self.member.take_facts());
        self.metrics.note(self.member.problem(), self.member.margins());
        self.log();
        if now - self.saved_at >= SAVE_SECS {
            self.save();
            self.saved_at = now;
        }
    }

    /// Logs that the coordinator fails, once for each reason, and that it answers again.
    fn log(&mut self) {
        let problem = self.member.problem();
        if problem == self.logged.as_deref() {
            return;
        }
        match problem {
            Some(problem) => tracing::warn!(
                "{problem}\n  hint: this node is not drained until the coordinator answers; \
                 limits, shedding and pages work as before"
            ),
            None => tracing::info!("the coordinator answers, and this node's report is published"),
        }
        self.logged = problem.map(str::to_owned);
    }

    fn save(&self) {
        if let Err(error) = self.proven.write(&self.state_dir) {
            tracing::debug!(%error, "cannot save the proven load");
        }
    }
}
