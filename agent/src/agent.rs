//! `spillway run` and `spillway record`: the loop over this host's sensors, into the core or into a
//! trace.

use std::{
    fs,
    io::{self, Write},
    net::SocketAddr,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::Arc,
    time::Duration,
};

use crate::{
    act::{self, LimitWorker, Notifier, Outcome, drain::DrainWorker},
    bpf::{ProbeState, ProbeStatus},
    clock::Clock,
    config::{self, Config, Mode, Reload},
    decide::{Decision, IncidentId},
    detect::Verdict,
    engine::{Engine, HostInfo, Output},
    os::{
        StateDir, proc_reader, sandbox,
        self_protection::{self, RealtimeUnderPressure},
    },
    output::EventPrinter,
    scan_loop::{Batch, Intervals, ScanKind, watch},
    sense::{Fact, Hierarchy, OwnSockets, Sensors},
    serve::{Metrics, serve, serve_agent_check},
    service_pods::ServicePods,
    signals::{Hangup, stopped},
    trace::{TraceError, TraceWriter},
};

/// What a recording holds.
#[derive(Debug, Clone, Copy)]
pub struct Recorded {
    /// Observations written.
    pub observations: u64,
    /// Seconds that it spans.
    pub secs: f64,
}

/// What was printed is read by then, or is not waited for at the end.
const PRINTED_WITHIN: Duration = Duration::from_secs(1);

/// Watches this host until a signal asks to stop. `file` is what `config` was read from, and is
/// read again at SIGHUP.
///
/// # Errors
///
/// Where the runtime or a signal handler cannot start. Once it runs it does not fail.
pub fn run(
    config: &Config,
    file: Option<&Path>,
    json: bool,
    sensors: impl FnOnce() -> Sensors,
) -> io::Result<()> {
    runtime()?.block_on(async {
        let (stop, hangup) = (stopped()?, Hangup::listen()?);
        let mut sensors = sensors();
        let clock = Clock::start();
        let metrics = Arc::new(Metrics::new(clock, config.sense.interval.as_secs_f64()));
        let host = host_info(&sensors)?;
        let mem_total_bytes = host.mem_total_bytes;
        let (mut core, mut precedence) = (Engine::new(config, host), RealtimeUnderPressure::default());
        let mut printer = EventPrinter::to_stdout(json)?;
        // Threads that start from now on have it from this one.
        self_protection::wait_for_no_disk();
        for problem in act::check_files(config) {
            // Limits and metrics need none of them.
            tracing::error!(key = problem.key, "{}\n  hint: {}", problem.message, problem.hint);
        }
        // Before anybody may ask: an earlier run's drain goes on.
        let mut drainer = DrainWorker::start(config, clock)?;
        metrics.show_drain(&drainer.readiness());
        // What belongs to init is hidden once files are bounded.
        core.services().set_host_netns(host_netns());
        self_protection::be_killed_last();
        proc_reader::start()?;
        if config.mode == Mode::Enforce {
            // Files are bounded to what is there. Whoever cannot write to it says so.
            let _ = StateDir::create(&config.record.state_dir);
        }
        sandbox::files(&config.record.state_dir, Hierarchy::detect().mount());
        sensors.leave_out(OwnSockets::new(&listen(config, &metrics, &drainer).await));
        let mut paging = Notifier::start(config, clock)?;
        if let Some(paging) = &paging {
            metrics.show_pages(paging.counts());
        }
        for outcome in act::recover(config, clock.now()) {
            tell(&mut printer, &metrics, &mut paging, &outcome);
        }
        let mut actor = LimitWorker::start(config, clock)?;
        if let Some(why) = actor.as_ref().and_then(LimitWorker::unable) {
            metrics.note_standing("action", why.to_owned());
        }
        // Once all is there that lasts: reading the kernel's type information takes a multiple for
        // a moment.
        self_protection::prepare();
        let service_pods = ServicePods::start(config)?;
        sandbox::system_calls();
        let mut output = Output::default();
        let mut told_untracked = false;
        announce(&sensors, config);
        let mut running = config.clone();
        // As long as an overload detector takes for a gap.
        let (stall_secs, mut stalls) = (config.detect.overload.sustain.as_secs_f64() / 2.0, 0_u64);
        let consume = |mut batch: Batch<'_>| {
            if hangup.take() && reload(file, &mut running) {
                core.reload(&running);
                drainer.reload(&running);
                actor.iter().for_each(|actor| actor.reload(&running));
            }
            metrics.note_batch(&mut batch);
            report_stall(&batch, stall_secs, &mut stalls);
            for observation in batch.observations {
                if let Fact::Host(host) = &observation.fact {
                    precedence.look(host, mem_total_bytes);
                }
                core.apply_into(observation, &mut output);
            }
            let limited = actor.as_mut().map(|actor| actor.outcomes(clock.now())).unwrap_or_default();
            for outcome in limited.into_iter().chain(drainer.outcomes()) {
                tell(&mut printer, &metrics, &mut paging, &outcome);
                if outcome.event.is_setback() {
                    core.set_back(outcome.t, &outcome.id, &outcome.why, &mut output);
                }
            }
            for verdict in &output.verdicts {
                metrics.note_verdict(verdict);
                printer.verdict(verdict);
            }
            for mut decision in output.decisions.drain(..) {
                // A diagnosis changes while its verdict stands, so the latest counts.
                let verdicts = evidence(&core, &decision).map_or(&output.verdicts[..], std::slice::from_ref);
                let is_told = paging.as_mut().is_some_and(|paging| paging.decided(&decision, verdicts));
                decision.performed = is_told
                    || actor.as_mut().is_some_and(|actor| actor.perform(&decision))
                    || drainer.perform(&decision, evidence(&core, &decision));
                printer.decision(&decision);
            }
            output.verdicts.clear();
            // Counting walks all that is held: once a scan, not ten times a second.
            if batch.read == ScanKind::Processes {
                if let Some(paging) = &mut paging {
                    paging.tick();
                }
                if let Some(pods) = service_pods.as_ref().and_then(ServicePods::latest) {
                    core.services().name_pods(pods);
                }
                drainer.observe(clock.now(), core.raised());
                let tracked = core.tracked();
                metrics.note_tracked(&tracked);
                if tracked.untracked_total > 0 && !std::mem::replace(&mut told_untracked, true) {
                    tracing::warn!(
                        "there are more processes or listeners than there is room for; see spillway_untracked_total"
                    );
                }
            }
            Ok::<(), io::Error>(())
        };
        watch(sensors, pace(config), clock, stop, consume).await?;
        for outcome in drainer.stop().into_iter().chain(actor.map(LimitWorker::stop).unwrap_or_default()) {
            tell(&mut printer, &metrics, &mut paging, &outcome);
        }
        if let Some(paging) = paging {
            paging.stop();
        }
        printer.drain(PRINTED_WITHIN);
        tracing::info!("stopped");
        Ok(())
    })
}

/// Writes what the sensors see for `duration`, or until a signal asks to stop.
///
/// # Errors
///
/// Where the trace cannot be written, or the runtime cannot start.
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
        let consume = |batch: Batch<'_>| {
            observations += batch.observations.len() as u64;
            batch.observations.iter().try_for_each(|observation| writer.write(observation))
        };
        let clock = Clock::start();
        watch(sensors, pace(config), clock, stop, consume).await?;
        let secs = clock.now();
        writer.finish()?;
        Ok(Recorded { observations, secs })
    })
}

/// Serves metrics, health and the agent check. Gives the addresses in use.
async fn listen(config: &Config, metrics: &Arc<Metrics>, drainer: &DrainWorker) -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    match serve(&config.serve, metrics.clone(), drainer.readiness()).await {
        Ok(listen) => {
            tracing::info!(%listen, "serving /metrics, /healthz and /ready");
            addresses.push(listen);
        }
        // Watching matters more than being watched.
        Err(error) => unserved(metrics, error.to_string()),
    }
    let Some(agent_check) = config.act.drain.agent_check.listen else { return addresses };
    match serve_agent_check(agent_check, &config.serve.allow, metrics, drainer.readiness()).await {
        Ok(address) => {
            tracing::info!(%address, "serving HAProxy's agent check");
            addresses.push(address);
        }
        Err(error) => unserved(
            metrics,
            format!(
                "cannot serve the agent check on {agent_check}: {error}\n  hint: set [act.drain.agent_check] listen to a free address"
            ),
        ),
    }
    addresses
}

fn unserved(metrics: &Metrics, why: String) {
    tracing::warn!("{why}");
    metrics.note_standing("serve", why);
}

/// The verdict that a decision followed from, where its claim stands.
fn evidence<'a>(core: &'a Engine, decision: &Decision) -> Option<&'a Verdict> {
    core.raised().find(|verdict| IncidentId::from(*verdict) == decision.id)
}

/// Prints, counts and pages an outcome; the log has it as well where somebody should look.
fn tell(
    printer: &mut EventPrinter,
    metrics: &Metrics,
    paging: &mut Option<Notifier>,
    outcome: &Outcome,
) {
    metrics.note_outcome(outcome);
    if let Some(paging) = paging {
        paging.done(outcome);
    }
    let Outcome { event, id, cgroup, why, .. } = outcome;
    if event.is_setback() {
        tracing::warn!(decision_id = %id, %cgroup, "{event} {cgroup}: {why}");
    }
    printer.outcome(outcome);
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Reads the configuration again, as far as that needs no restart; says whether `running` follows
/// it. One that is wrong changes nothing.
fn reload(file: Option<&Path>, running: &mut Config) -> bool {
    let Some(file) = file else {
        tracing::warn!(
            "SIGHUP: there is no configuration file to read again\n  hint: start spillway with --config FILE"
        );
        return false;
    };
    let new = match config::load(file) {
        Ok(new) => new,
        Err(errors) => {
            tracing::error!("SIGHUP: the configuration stays as it was: {errors}");
            return false;
        }
    };
    let Reload { applied, needs_restart } = Reload::new(running, &new);
    if !needs_restart.is_empty() {
        let settings = needs_restart.join(", ");
        tracing::warn!(%settings, "SIGHUP: some settings of {} need a restart and stay as they were", file.display());
    }
    *running = applied;
    tracing::info!("SIGHUP: {} is in force", file.display());
    true
}

fn pace(config: &Config) -> Intervals {
    Intervals { processes: config.sense.interval, listeners: config.detect.overload.interval }
}

fn host_info(sensors: &Sensors) -> io::Result<HostInfo> {
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32);
    Ok(HostInfo { mem_total_bytes: sensors.mem_total_bytes()?, cpus })
}

/// Says in the log that nothing was seen for a while: the first time, and then at each power of
/// two, because a starved host stalls often.
fn report_stall(batch: &Batch<'_>, stall_secs: f64, stalls: &mut u64) {
    if batch.gap_secs < stall_secs {
        return;
    }
    *stalls += 1;
    if stalls.is_power_of_two() {
        tracing::warn!(
            seconds = batch.gap_secs,
            stalls,
            "the agent, or the whole host, stood still: no overload is concluded from that time\n  hint: a paused or starved machine does \
             this; spillway_loop_gap_seconds has every stall"
        );
    }
}

/// Network namespaces of the host: this process's, and that of init, which differs in a container.
fn host_netns() -> Vec<u32> {
    let netns = ["/proc/self/ns/net", "/proc/1/ns/net"].map(|path| fs::metadata(path).ok());
    netns.into_iter().flatten().map(|file| file.ino() as u32).collect()
}

/// Says in the log what is watched, and how. One reason is one line, however many probes it keeps
/// from attaching.
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
mod tests {
    use super::*;
    use crate::bpf::{
        Probe,
        fallbacks::{self, Cause, Passed, Unavailable},
    };

    #[test]
    fn one_reason_is_one_line() {
        let reports = ProbeStatus::without_bpf(&Unavailable::new(Cause::Refused, "not root"));
        assert_eq!(
            degraded(&reports),
            [concat!(
                "BPF is not used: not root; process_memory from /proc/PID/{stat,status}, ",
                "process_life from comparing scans, process_handles from /proc/PID/{fd,limits,stat}, ",
                "accept_queue from sock_diag, unix_queue from sock_diag instead"
            )]
        );
    }

    #[test]
    fn probes_that_fail_alone_are_named_alone() {
        let report = |probe, attached: bool| {
            let passed = Passed {
                at: "it",
                shortfall: Unavailable::new(Cause::Refused, "kernel refused it (EPERM)"),
            };
            ProbeStatus::new(
                probe,
                attached.then_some(&fallbacks::of(probe)[0]),
                if attached { vec![] } else { vec![passed] },
            )
        };
        let mut reports = Probe::ALL.map(|probe| report(probe, true));
        assert_eq!(degraded(&reports), [""; 0]);
        reports[1] = report(Probe::FaultSamples, false);
        assert_eq!(
            degraded(&reports),
            ["probe fault_samples not attached: kernel refused it (EPERM)"]
        );
    }
}
