//! The agent of `spillway run`: events of the loop go through the engine to the executors and the
//! outputs.
//!
//! [`run`] puts the parts together and lets [`watch`] drive them. [`Agent::apply`] handles one
//! event and needs neither tokio nor root, so tests call it directly.

mod event_keepers;

use std::{
    fs,
    io::{self, Write},
    net::SocketAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::process::geteuid;

use self::event_keepers::EventKeepers;
use crate::{
    act::{
        self, Executor, LimitWorker, Notifier, Outcome,
        drain::DrainWorker,
        fleet::{FleetGate, FleetMetrics, FleetWorker},
        shed::{self, ShedWorker},
    },
    bpf::{self, Loss, ProbeState, ProbeStatus},
    clock::Clock,
    config::{self, Choice as _, Config, FleetBackend, Mode, Reload},
    decide::{Decision, IncidentId, ServiceRequests, Severity},
    detect::Verdict,
    engine::{Engine, HostInfo, Output},
    fleet::FleetMember,
    history::{HistoryEvent, HistoryRecorder},
    os::{
        StateDir, allocator, host,
        nonblocking_writer::DroppedLines,
        proc_reader, sandbox,
        self_protection::{self, RealtimeUnderPressure},
        service_manager::{self, ServiceManager},
    },
    output::EventPrinter,
    saved_windows::SavedWindows,
    scan_loop::{Batch, Event, Intervals, ScanKind, watch},
    sense::{
        Fact, Hierarchy, Observation, OwnSockets, RequestSensor, Sensors, identity::Identities,
    },
    serve::{Metrics, Pages, serve, serve_agent_check},
    service_pods::ServicePods,
    signals::{Hangup, stopped},
    spare_room::FloodWatch,
    status::{
        ActionLog, HostTables, LoopSnapshot, StatusBoard, StatusServer, page,
        runtime_dir::{RUNTIME_DIR, socket_path},
    },
    telemetry::{ExportCounts, TelemetryExporter},
    trace::{TraceError, TraceWriter},
};

/// Totals of a recording.
#[derive(Debug, Clone, Copy)]
pub struct Recorded {
    /// Observations written.
    pub observations: u64,
    /// Duration, in seconds.
    pub secs: f64,
}

/// Losses that leave listeners out of a scan.
const LISTENERS_LOST: [Loss; 6] = [
    Loss::ListenerScanFailed,
    Loss::UnixScanFailed,
    Loss::ShortRead,
    Loss::ListenersLeftOut,
    Loss::SockDiagFailed,
    Loss::UnixDiagFailed,
];

/// Signs of life in the time in which systemd has to hear one: a late one is not the last.
const SIGNS_OF_LIFE: u32 = 4;

/// Maximum wait at exit for the output to be written.
const PRINTED_WITHIN: Duration = Duration::from_secs(1);

/// Watches this host until a signal asks to stop. `file` is the file that `config` was read from,
/// and is read again at SIGHUP; `log` counts the lines of the log that were dropped.
///
/// # Errors
///
/// Returns an error if the runtime, a thread or a signal handler cannot start. Once the agent is
/// running it does not fail.
pub fn run(
    config: &Config,
    file: Option<&Path>,
    json: bool,
    log: Option<DroppedLines>,
    sensors: impl FnOnce() -> Sensors,
) -> io::Result<()> {
    runtime()?.block_on(async {
        let (stop, mut hangup) = (stopped()?, Hangup::listen()?);
        let mut sensors = sensors();
        let clock = Clock::start();
        let metrics = Arc::new(Metrics::new(clock, config.sense.interval.as_secs_f64()));
        // Read once: the sandbox hides files of init.
        let (info, netns) = (host_info(&sensors)?, host_netns());
        let new_engine = || {
            let mut engine = Engine::new(config, info);
            engine.services_mut().set_host_netns(netns.clone());
            engine
        };
        let mut engine = new_engine();
        let printer = EventPrinter::to_stdout(json)?;
        metrics.show_dropped_lines(printer.dropped().into_iter().chain(log));
        // Threads that start from now on inherit it.
        self_protection::set_io_flusher();
        for notice in config::notices(config) {
            tracing::warn!("{}\n  hint: {}", notice.message, notice.hint);
        }
        for problem in act::check_files(config) {
            // Limits and metrics work without them.
            tracing::error!(key = problem.key, "{}\n  hint: {}", problem.message, problem.hint);
        }
        // Before a load balancer can ask: an earlier run's drain continues.
        let member = FleetMember::join(config).unwrap_or_else(|error| {
            tracing::error!("{error}");
            metrics.note_permanent("fleet", error.to_string());
            None
        });
        // Without the coordinator that was asked for nobody permits a drain.
        let has_fleet = config.fleet.backend != FleetBackend::None;
        let gate = has_fleet.then(FleetGate::default);
        let drains = DrainWorker::start(config, clock, sensors.socket_list(), gate.clone())?;
        metrics.show_drain(&drains.readiness());
        self_protection::lower_oom_score();
        proc_reader::start()?;
        let identities =
            Identities::start(clock, &config.kubernetes.pod_logs_dir, sensors.program_list())?;
        if config.mode == Mode::Enforce {
            // The sandbox admits only paths that exist. Those who need it report that it is
            // missing.
            let _ = StateDir::create(&config.record.state_dir);
        }
        let mut status = bind_status(&config.record.state_dir, &metrics);
        sandbox::files(
            &config.record.state_dir,
            Path::new(RUNTIME_DIR),
            Hierarchy::detect().mount(),
        );
        let board = Arc::new(StatusBoard::new(config, file, &metrics, drains.readiness()));
        if let Some(status) = &mut status {
            status.start(board.clone())?;
        }
        let windows = SavedWindows::open(&config.record.state_dir, &clock);
        if let Some(windows) = &windows {
            match windows.restore(&mut engine, &clock) {
                Ok(Some(secs)) => tracing::info!(
                    seconds = secs,
                    "going on with the windows of the run before: a leak that was under way is \
                     found as if the agent had not stopped"
                ),
                Ok(None) => {}
                Err(why) => {
                    tracing::warn!(
                        "the windows of the run before are not used: {why}\n  hint: until they are \
                         filled anew, leaks are found up to twenty minutes later"
                    );
                    engine = new_engine();
                }
            }
        }
        engine.identify_with(identities);
        let history =
            HistoryRecorder::start(&config.record.state_dir, config.record.history, clock, info);
        let shown = board.clone();
        let pages = page::pages(move || shown.report(), board.history());
        let own = OwnSockets::new(&listen(config, &metrics, &drains, pages).await);
        sensors.leave_out(match &status {
            Some(status) => own.and_unix(status.path()),
            None => own,
        });
        let telemetry = export(config, clock, &metrics)?;
        let notifier = Notifier::start(config, clock)?;
        if let Some(notifier) = &notifier {
            metrics.show_notifications(notifier.counts());
        }
        let mut agent = Agent {
            clock,
            file: file.map(Path::to_owned),
            config: config.clone(),
            engine,
            executors: Vec::new(),
            service_pods: None,
            requests: ServiceRequests::default(),
            listeners_lost: 0,
            pass_t: f64::NEG_INFINITY,
            printer,
            metrics,
            realtime: RealtimeUnderPressure::default(),
            fleet: gate.clone(),
            windows,
            keepers: EventKeepers { history, telemetry },
            host: host::name(),
            tables: HostTables::new(info),
            board: Some(board),
            actions: ActionLog::default(),
            service: ServiceManager::from_env(),
            described: None,
            stalls: 0,
            has_warned_untracked: false,
            flood: FloodWatch::default(),
            output: Output::default(),
        };
        // The list of executors. Each is asked in turn, and they stop in reverse, so that the
        // notifier hears of what the others did last.
        agent.executors.extend(notifier.map(boxed));
        let now = clock.now();
        for outcome in act::recover(config, now).into_iter().chain(shed::recover(config, now)) {
            agent.report(&outcome);
        }
        let limits = LimitWorker::start(config, clock, sensors.program_list())?;
        if let Some(why) = limits.as_ref().and_then(LimitWorker::unable) {
            agent.metrics.note_permanent("action", why.to_owned());
        }
        agent.executors.extend(limits.map(boxed));
        let sheds = ShedWorker::start(config, clock)?;
        if let Some(why) = sheds.as_ref().and_then(ShedWorker::unable) {
            agent.metrics.note_permanent("action", why.to_owned());
        }
        let is_shedding = sheds.is_some();
        agent.executors.extend(sheds.map(boxed));
        agent.executors.push(boxed(drains));
        if let Some((member, gate)) = member.zip(gate) {
            let counts = Arc::new(FleetMetrics::default());
            agent.metrics.show_fleet(counts.clone());
            let fleet = FleetWorker::start(config, clock, member, gate, counts)?;
            agent.executors.push(boxed(fleet));
        }
        // After everything that stays in memory has been allocated: parsing the kernel's BTF needs
        // several times as much for a moment.
        self_protection::lock_memory();
        // The kernel has the BPF programs by now.
        self_protection::release(bpf::OBJECT);
        agent.service_pods = ServicePods::start(config)?;
        let is_resetting = is_shedding && config.act.shed.reset;
        sandbox::system_calls(sensors.enters_namespaces() || is_resetting, is_shedding);
        agent.publish();
        announce(&sensors, config);
        agent.service.notify("READY=1");
        let consume = |event: Event<'_>| {
            agent.apply(event);
            Ok::<(), io::Error>(())
        };
        let alive = service_manager::watchdog().map(|within| within / SIGNS_OF_LIFE);
        let intervals = Intervals { alive, ..intervals(config) };
        watch(sensors, intervals, clock, stop, async || hangup.received().await, consume).await?;
        agent.stop();
        Ok(())
    })
}

/// Writes everything that the sensors report for `duration`, or until a signal asks to stop.
///
/// # Errors
///
/// Returns an error if the trace cannot be written or the runtime cannot start.
pub fn record(
    config: &Config,
    duration: Duration,
    out: impl Write,
    sensors: impl FnOnce() -> Sensors,
) -> Result<Recorded, TraceError> {
    runtime()?.block_on(async {
        let stopped = stopped()?;
        let sensors = sensors();
        let mut writer =
            TraceWriter::new(out, host_info(&sensors)?, config.sense.interval.as_secs_f64())?;
        announce(&sensors, config);
        let stop = async {
            tokio::select! {
                () = stopped => {}
                () = tokio::time::sleep(duration) => {}
            }
        };
        let mut observations = 0;
        let consume = |event: Event<'_>| {
            let Event::Scan(batch) = event else { return Ok(()) };
            observations += batch.observations.len() as u64;
            batch.observations.iter().try_for_each(|observation| writer.write(observation))
        };
        let clock = Clock::start();
        let no_hangup = async || std::future::pending().await;
        watch(sensors, intervals(config), clock, stop, no_hangup, consume).await?;
        let secs = clock.now();
        writer.finish()?;
        Ok(Recorded { observations, secs })
    })
}

/// Parts of a running agent.
struct Agent {
    clock: Clock,
    /// Configuration file, if there is one.
    file: Option<PathBuf>,
    /// Configuration in effect.
    config: Config,
    engine: Engine,
    executors: Vec<Box<dyn Executor>>,
    service_pods: Option<ServicePods>,
    requests: ServiceRequests,
    /// Losses so far of what shows the listeners.
    listeners_lost: u64,
    /// End of the latest pass over connections, counted or not.
    pass_t: f64,
    printer: EventPrinter,
    metrics: Arc<Metrics>,
    realtime: RealtimeUnderPressure,
    /// Gate to the fleet, if the node coordinates its drains.
    fleet: Option<FleetGate>,
    /// Windows on disk, if they are kept.
    windows: Option<SavedWindows>,
    keepers: EventKeepers,
    /// Name of the host.
    host: String,
    /// Tables of the agent's status.
    tables: HostTables,
    /// Place of the snapshots for the agent's status; `None` in tests.
    board: Option<Arc<StatusBoard>>,
    /// Actions of the open incidents, and changes in effect.
    actions: ActionLog,
    /// The service manager, and the number of open incidents and their severity as it was told
    /// last.
    service: ServiceManager,
    described: Option<(usize, Severity)>,
    /// Stalls so far.
    stalls: u64,
    has_warned_untracked: bool,
    flood: FloodWatch,
    /// Kept between events to reuse its allocations.
    output: Output,
}

impl Agent {
    /// Handles one event of the loop.
    fn apply(&mut self, event: Event<'_>) {
        match event {
            Event::Scan(batch) => self.on_batch(batch),
            Event::Reload => {
                self.service.notify("RELOADING=1");
                self.on_reload();
                self.service.notify("READY=1");
            }
            Event::Alive => self.service.notify("WATCHDOG=1"),
        }
    }

    /// Passes a batch through the engine, hands the decisions to their executors, and reports
    /// everything.
    fn on_batch(&mut self, mut batch: Batch<'_>) {
        self.metrics.note_batch(&mut batch);
        self.report_stall(batch.gap_secs);
        for observation in batch.observations {
            if let Fact::Host(host) = &observation.fact {
                self.realtime.observe(
                    host.mem_available_bytes,
                    host.psi_memory_some_avg10,
                    self.engine.host_info().mem_total_bytes,
                );
            }
            self.engine.apply_into(observation, &mut self.output);
            self.requests.observe(observation.t, &observation.fact);
            if matches!(observation.fact, Fact::Listener(_) | Fact::Requests(_)) {
                for executor in &mut self.executors {
                    executor.observe_fact(observation.t, &observation.fact);
                }
            }
        }
        self.tables.observe(batch.read, self.clock.now(), batch.observations);
        if let Some(history) = &mut self.keepers.history {
            history.observe(batch.read, batch.observations);
        }
        for fact in self.fleet.as_ref().map(FleetGate::take_facts).unwrap_or_default() {
            let t = batch.observations.last().map_or_else(|| self.clock.now(), |last| last.t);
            self.engine.apply_into(&Observation { t, fact }, &mut self.output);
        }
        self.count_requests(batch.sensors);
        let has_outcomes = self.collect_outcomes();
        for verdict in &self.output.verdicts {
            self.metrics.note_verdict(verdict);
            self.printer.verdict(verdict);
            self.keepers.note(|| HistoryEvent::of_verdict(verdict, &self.host));
        }
        let has_news = has_outcomes || !self.output.is_empty();
        self.carry_out();
        self.output.verdicts.clear();
        // Counting walks everything that is tracked: once per scan of processes is enough.
        if batch.read == ScanKind::Processes {
            self.on_process_scan();
        } else if has_news {
            self.publish();
        }
    }

    /// Takes a pass over connections, if it was complete and so were the listeners, and offers the
    /// requests that are left to every executor.
    fn count_requests(&mut self, sensors: &Sensors) {
        let losses = sensors.lost_at_scan();
        let lost = LISTENERS_LOST.iter().map(|loss| losses.total(*loss)).sum();
        let is_complete = std::mem::replace(&mut self.listeners_lost, lost) == lost;
        let pass = sensors.get::<RequestSensor>().and_then(RequestSensor::complete_pass);
        if let Some(pass) = pass.filter(|pass| pass.t > self.pass_t) {
            self.pass_t = pass.t;
            if is_complete {
                self.requests.note_pass(pass);
            }
        }
        let (now, services) = (self.clock.now(), self.engine.services());
        let count = || self.requests.left(now, services, &self.config.decide.protected);
        for executor in &mut self.executors {
            executor.observe_requests(&count);
        }
    }

    /// Reports what executors have done since the last batch. One that failed raises its incident's
    /// severity. Returns whether there are any.
    fn collect_outcomes(&mut self) -> bool {
        let now = self.clock.now();
        let outcomes: Vec<_> =
            self.executors.iter_mut().flat_map(|executor| executor.outcomes(now)).collect();
        let has_any = !outcomes.is_empty();
        for outcome in outcomes {
            self.report(&outcome);
            let (ids, why) = (outcome.cause.incidents(), &outcome.why);
            if outcome.event.is_setback() {
                self.engine.set_back(outcome.t, ids, why, &mut self.output);
            }
            if outcome.event.ends_shedding() {
                self.engine.not_shed(ids);
            }
        }
        has_any
    }

    /// Hands each decision to the executor that it is for.
    fn carry_out(&mut self) {
        for mut decision in self.output.decisions.drain(..) {
            // The diagnosis changes while a verdict is raised, so the latest one counts.
            let verdict = evidence(&self.engine, &decision);
            let verdicts = verdict.map_or(&self.output.verdicts[..], std::slice::from_ref);
            decision.performed =
                self.executors.iter_mut().any(|executor| executor.perform(&decision, verdicts));
            self.printer.decision(&decision);
            self.actions.note_decision(&decision);
            self.keepers.note(|| HistoryEvent::of_decision(&decision));
        }
    }

    /// Tells systemd in a sentence how the host is, if that has changed.
    fn describe(&mut self, (open, severity): (usize, Severity)) {
        if self.described.replace((open, severity)) == Some((open, severity)) {
            return;
        }
        let mode = match self.config.mode {
            Mode::Observe => "Observing",
            Mode::Enforce => "Watching and acting",
        };
        let severity = severity.name();
        self.service.notify(&match open {
            0 => format!("STATUS={mode}; no open incident"),
            1 => format!("STATUS={mode}; 1 open incident, {severity}"),
            open => format!("STATUS={mode}; {open} open incidents, the worst {severity}"),
        });
    }

    /// Puts the state of this moment on the board.
    fn publish(&mut self) {
        self.actions.retain(|id| self.engine.knows(id));
        let snapshot =
            LoopSnapshot::take(&self.engine, &self.actions, &self.tables, self.clock.now());
        self.describe(snapshot.open_incidents());
        if let Some(board) = &self.board {
            board.put(snapshot);
        }
    }

    fn on_process_scan(&mut self) {
        if let Some(pods) = self.service_pods.as_ref().and_then(ServicePods::latest) {
            self.engine.services_mut().name_pods(pods);
        }
        if let Some(fleet) = &self.fleet {
            self.engine.set_turn(fleet.is_turn());
        }
        let now = self.clock.now();
        for executor in &mut self.executors {
            executor.observe(now, &mut self.engine.raised());
        }
        if let Some(windows) = &mut self.windows {
            windows.save_if_due(&self.engine, &self.clock);
        }
        self.publish();
        let (largest, others_bytes) = self.tables.largest_workloads();
        self.metrics.note_workloads(&largest, others_bytes);
        let tracked = self.engine.tracked();
        self.metrics.note_tracked(&tracked);
        let subjects = tracked.processes + tracked.listeners + tracked.destinations;
        if self.flood.note(now, subjects) {
            allocator::give_back();
            tracing::debug!("gave memory back after a flood");
        }
        if tracked.untracked_total > 0 && !std::mem::replace(&mut self.has_warned_untracked, true) {
            tracing::warn!(
                untracked = tracked.untracked_total,
                "too many processes or listeners to track all of them\n  hint: \
                 spillway_untracked_total counts the observations that were ignored"
            );
        }
    }

    /// Prints and counts an outcome, and passes it to every executor. A setback is logged as well.
    fn report(&mut self, outcome: &Outcome) {
        self.metrics.note_outcome(outcome);
        self.actions.note_outcome(outcome);
        self.keepers.note(|| HistoryEvent::of_outcome(outcome));
        for executor in &mut self.executors {
            executor.on_outcome(outcome);
        }
        let Outcome { event, cause, cgroup, why, .. } = outcome;
        if event.is_problem() {
            tracing::warn!(decision_id = %cause, %cgroup, "{event} {cgroup}: {why}");
        }
        self.printer.outcome(outcome);
    }

    /// Logs that the loop was held up: the first time, and then at each power of two, because a
    /// starved host stalls often.
    fn report_stall(&mut self, gap_secs: f64) {
        // The overload detector restarts its windows after such a gap.
        if gap_secs < self.config.detect.overload.sustain.as_secs_f64() / 2.0 {
            return;
        }
        self.stalls += 1;
        if self.stalls.is_power_of_two() {
            tracing::warn!(
                seconds = gap_secs,
                stalls = self.stalls,
                "the agent or the whole host stood still; no overload is concluded from that \
                 time\n  \
                 hint: a paused or starved machine causes this; see spillway_loop_gap_seconds"
            );
        }
    }

    /// Applies a new configuration, as far as that needs no restart.
    fn on_reload(&mut self) {
        if reload(self.file.as_deref(), &mut self.config) {
            self.engine.reload(&self.config);
            for executor in &mut self.executors {
                executor.reload(&self.config);
            }
        }
    }

    /// Stops the executors, reports what that did, and waits for the output.
    fn stop(mut self) {
        self.service.notify("STOPPING=1");
        while let Some(executor) = self.executors.pop() {
            for outcome in executor.stop() {
                self.report(&outcome);
            }
        }
        if let Some(windows) = self.windows.take() {
            windows.stop(&self.engine, &self.clock);
        }
        self.keepers.stop();
        self.printer.drain(PRINTED_WITHIN);
        tracing::info!("stopped");
    }
}

fn boxed(executor: impl Executor + 'static) -> Box<dyn Executor> {
    Box::new(executor)
}

/// Serves the page, metrics, health and the agent check. Returns the addresses in use.
async fn listen(
    config: &Config,
    metrics: &Arc<Metrics>,
    drains: &DrainWorker,
    pages: Pages,
) -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    match serve(&config.serve, metrics.clone(), drains.readiness(), pages).await {
        Ok(listen) => {
            tracing::info!(%listen, "serving the page, /metrics, /healthz and /ready");
            addresses.push(listen);
        }
        // Watching the host matters more than being watched.
        Err(error) => not_served(metrics, error.to_string()),
    }
    let Some(agent_check) = config.act.drain.agent_check.listen else { return addresses };
    match serve_agent_check(agent_check, &config.serve.allow, metrics, drains.readiness()).await {
        Ok(address) => {
            tracing::info!(%address, "serving HAProxy's agent check");
            addresses.push(address);
        }
        Err(error) => not_served(
            metrics,
            format!(
                "cannot serve the agent check on {agent_check}: {error}\n  hint: set \
                 [act.drain.agent_check] listen to a free address"
            ),
        ),
    }
    addresses
}

/// Starts to send telemetry, if somebody takes it.
fn export(
    config: &Config,
    clock: Clock,
    metrics: &Arc<Metrics>,
) -> io::Result<Option<TelemetryExporter>> {
    let otlp = &config.export.otlp;
    let counts = ExportCounts::default();
    let encoded = metrics.clone();
    let exposition = move || encoded.encode().unwrap_or_default();
    let started = TelemetryExporter::start(otlp, clock, counts.clone(), exposition)?;
    if started.is_some() {
        metrics.show_exports(&counts);
    }
    Ok(started)
}

/// Binds the status socket. Without it the agent runs all the same.
fn bind_status(state_dir: &Path, metrics: &Metrics) -> Option<StatusServer> {
    let bound = StatusServer::bind(state_dir).inspect_err(|error| {
        let path = socket_path(state_dir);
        let why = format!(
            "cannot report status at {}: {error}\n  hint: `spillway status` needs it; under \
             systemd set RuntimeDirectory=spillway in the unit",
            path.display()
        );
        if geteuid().is_root() {
            not_served(metrics, why);
        } else {
            // Only root can make the directory, and an agent without root needs nobody's attention.
            tracing::info!("{why}");
            metrics.note_permanent("serve", why);
        }
    });
    bound.ok()
}

fn not_served(metrics: &Metrics, why: String) {
    tracing::warn!("{why}");
    metrics.note_permanent("serve", why);
}

/// Verdict that a decision followed from, if it is still raised.
fn evidence<'a>(engine: &'a Engine, decision: &Decision) -> Option<&'a Verdict> {
    engine.raised().find(|verdict| IncidentId::from(*verdict) == decision.id)
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Reads the configuration again, as far as that needs no restart, and returns whether `running`
/// changed. An invalid file changes nothing.
fn reload(file: Option<&Path>, running: &mut Config) -> bool {
    let Some(file) = file else {
        tracing::warn!(
            "SIGHUP ignored: no configuration file to reload\n  hint: start spillway with --config \
            FILE"
        );
        return false;
    };
    let new = match config::load(file) {
        Ok(new) => new,
        Err(errors) => {
            tracing::error!("SIGHUP: the running configuration stays in effect: {errors}");
            return false;
        }
    };
    let Reload { applied, needs_restart } = Reload::new(running, &new);
    if !needs_restart.is_empty() {
        let settings = needs_restart.join(", ");
        tracing::warn!(
            %settings,
            "SIGHUP: some settings of {} take effect only after a restart",
            file.display()
        );
    }
    *running = applied;
    tracing::info!("SIGHUP: reloaded {}", file.display());
    true
}

fn intervals(config: &Config) -> Intervals {
    Intervals {
        processes: config.sense.interval,
        listeners: config.detect.overload.interval,
        alive: None,
    }
}

fn host_info(sensors: &Sensors) -> io::Result<HostInfo> {
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32);
    Ok(HostInfo { mem_total_bytes: sensors.mem_total_bytes()?, cpus })
}

/// Network namespaces of the host: this process's, and that of init, which differs in a container.
fn host_netns() -> Vec<u32> {
    let netns = ["/proc/self/ns/net", "/proc/1/ns/net"].map(|path| fs::metadata(path).ok());
    netns.into_iter().flatten().map(|file| file.ino() as u32).collect()
}

/// Logs how the host is watched. A reason that several probes share is logged once.
fn announce(sensors: &Sensors, config: &Config) {
    for line in degraded(sensors.reports()) {
        tracing::warn!("{line}");
    }
    tracing::info!(
        mode = config.mode.name(),
        interval = ?config.sense.interval,
        listener_interval = ?config.detect.overload.interval,
        "spillway is watching"
    );
}

fn degraded(reports: &[ProbeStatus]) -> Vec<String> {
    if let [first, rest @ ..] = reports
        && let Some(reason) = first.reason()
        && rest.iter().all(|report| report.reason() == Some(reason))
    {
        let sources: Vec<_> = reports
            .iter()
            .filter(|report| report.state != ProbeState::Off)
            .map(|report| format!("{} from {}", report.probe.name(), report.source))
            .collect();
        return vec![format!("BPF is not used: {reason}; {} instead", sources.join(", "))];
    }
    reports.iter().filter(|report| report.reason().is_some()).map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests;
