//! The installed agent on a kernel that refuses some facility. Within five seconds it watches with
//! what is left, logs the loss in one line, counts it in its metrics and reports itself healthy. It
//! ends on SIGTERM.
//!
//! Each result is compared with the same agent on the same host without the fault: a probe that
//! does not attach there cannot be lost.

use std::{
    collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _, process::Command, time::Duration,
};

use serde_json::Value;
use spillway_agent::bpf::Probe;
use spillway_tests::{
    ANY_PORT, Refused, Running, STARTS_WITHIN, Scratch, Workload, agent, break_program,
    find_metric, hide, is_root, metric, refuse, run_with, skip, wait_for, warnings,
};

/// State of an agent after its start.
struct Started {
    attached: BTreeSet<&'static str>,
    warnings: Vec<String>,
    metrics: String,
}

/// Runs the agent until its second scan, and checks everything that must be true under any fault.
fn start(command: Command) -> Started {
    let running = Running::start(command);
    let scanned = wait_for(STARTS_WITHIN, || {
        let metrics = running.get("/metrics");
        let scans = find_metric(&metrics, "spillway_read_seconds_count{sensor=\"processes\"}")?;
        (scans >= 2.0).then_some(metrics)
    });
    let metrics = scanned.unwrap_or_else(|| panic!("the agent does not scan: {}", running.log()));
    assert!(metric(&metrics, "spillway_processes") >= 2.0, "{metrics}");
    assert!(
        metric(&metrics, "spillway_listeners") >= 1.0,
        "its own listener is missing: {metrics}"
    );
    assert!(running.is_well());
    let (code, log) = running.stop();
    assert_eq!(code, Some(0), "{log}");
    let value = |probe: &Probe| {
        metric(&metrics, &format!("spillway_probe_attached{{probe=\"{}\"}}", probe.name()))
    };
    let attached = Probe::VARIANTS
        .iter()
        .filter(|probe| value(probe) == 1.0)
        .map(|probe| probe.name())
        .collect();
    // The prefix of a line is the agent's uptime.
    let warning = |line: &str| line.split_once(" WARN ").map_or(line, |(_, text)| text).to_owned();
    Started { attached, warnings: warnings(&log).into_iter().map(warning).collect(), metrics }
}

/// Test of a fault: a scratch directory, a configuration, and the state of an agent without the
/// fault.
struct Stage {
    scratch: Scratch,
    usual: Started,
}

impl Stage {
    /// Sets up a test. Returns `None` and reports a skip if no BPF program attaches on this host.
    fn set(test: &str) -> Option<Self> {
        if !is_root(test) {
            return None;
        }
        let scratch = Scratch::make(test);
        let usual = start(run_with(&scratch.file("spillway.toml", ANY_PORT)));
        if usual.attached.is_empty() {
            skip(test, "nothing attaches here even without a fault");
            return None;
        }
        Some(Self { scratch, usual })
    }

    fn command(&self) -> Command {
        run_with(&self.scratch.0.join("spillway.toml"))
    }

    /// Command like [`Stage::command`] that runs another binary of the agent.
    fn own_agent(&self, binary: &[u8]) -> Command {
        let path = self.scratch.0.join("spillway");
        fs::write(&path, binary).expect("the agent can be written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("the mode can be set");
        let mut command = Command::new(path);
        command.args(self.command().get_args());
        command
    }

    fn refused(&self, refused: Refused) -> Started {
        let mut command = self.command();
        refuse(&mut command, refused);
        start(command)
    }

    /// Checks that nothing attached, for one reason that a single line of the log names.
    fn assert_nothing_attached(&self, started: &Started, because: &str) {
        assert_eq!(started.attached, BTreeSet::new());
        assert_eq!(started.warnings.len(), 1, "{:?}", started.warnings);
        assert!(started.warnings[0].starts_with("BPF is not used: "), "{:?}", started.warnings);
        assert!(started.warnings[0].contains(because), "{:?}", started.warnings);
        assert!(started.metrics.contains(
            r#"spillway_probe_state{probe="process_memory",state="degraded",source="/proc/"#
        ));
        assert!(
            started.metrics.contains(r#"spillway_probe_state{probe="fault_samples",state="off","#),
            "{}",
            started.metrics
        );
    }

    /// Checks that every usual probe but this one attached, and that a single additional line of
    /// the log names it.
    fn assert_lost(&self, started: &Started, probe: Probe, because: &str) {
        let mut left = self.usual.attached.clone();
        assert!(left.remove(probe.name()), "{} does not attach here without a fault", probe.name());
        assert_eq!(started.attached, left);
        let fresh: Vec<_> =
            started.warnings.iter().filter(|line| !self.usual.warnings.contains(line)).collect();
        assert_eq!(
            (fresh.len(), started.warnings.len()),
            (1, self.usual.warnings.len() + 1),
            "{:?}",
            started.warnings
        );
        assert!(
            fresh[0].starts_with(&format!("probe {} not attached: ", probe.name())),
            "{fresh:?}"
        );
        assert!(fresh[0].contains(because), "{fresh:?}");
    }
}

#[test]
fn agent_runs_without_btf() {
    let Some(stage) = Stage::set("agent_runs_without_btf") else { return };
    let started = start(hide(&stage.command(), &["/sys/kernel/btf"]));
    stage.assert_nothing_attached(&started, "the kernel has no BTF");
}

#[test]
fn missing_tracefs_costs_nothing() {
    let Some(stage) = Stage::set("missing_tracefs_costs_nothing") else { return };
    let started = start(hide(&stage.command(), &["/sys/kernel/tracing", "/sys/kernel/debug"]));
    assert_eq!((started.attached, started.warnings), (stage.usual.attached, stage.usual.warnings));
}

#[test]
fn agent_runs_when_bpf_is_denied() {
    let Some(stage) = Stage::set("agent_runs_when_bpf_is_denied") else { return };
    let started = stage.refused(Refused::BPF);
    stage.assert_nothing_attached(&started, "kernel refused BPF maps (EPERM)");
}

#[test]
fn agent_runs_without_memory_for_maps() {
    let Some(stage) = Stage::set("agent_runs_without_memory_for_maps") else { return };
    let started = stage.refused(Refused::BPF_MAPS);
    stage.assert_nothing_attached(&started, "BPF maps failed (ENOMEM)");
}

#[test]
fn refused_perf_events_cost_nothing() {
    let Some(stage) = Stage::set("refused_perf_events_cost_nothing") else { return };
    let started = stage.refused(Refused::PERF_EVENTS);
    assert_eq!((started.attached, started.warnings), (stage.usual.attached, stage.usual.warnings));
    let source =
        r#"{probe="fault_samples",state="attached",source="tp_btf page_fault_{user,kernel}""#;
    assert!(started.metrics.contains(source), "{}", started.metrics);
}

/// Runs an agent some of whose BPF programs do not pass the verifier.
fn rejected(stage: &Stage, programs: &[&str]) -> Started {
    let mut binary = fs::read(agent().get_program()).expect("the agent can be read");
    programs.iter().for_each(|program| break_program(&mut binary, program));
    start(stage.own_agent(&binary))
}

#[test]
fn rejected_program_disables_its_whole_probe() {
    let test = "rejected_program_disables_its_whole_probe";
    let Some(stage) = Stage::set(test) else { return };
    // One program of each of two rungs is broken. The other programs of a rung must be detached
    // too, or they would fill a ring without a reader.
    let mut binary = fs::read(agent().get_program()).expect("the agent can be read");
    for program in ["process_exit", "process_exit_raw"] {
        break_program(&mut binary, program);
    }
    let started = start(stage.own_agent(&binary));
    stage.assert_lost(
        &started,
        Probe::ProcessLife,
        "the kernel's verifier rejected tp_btf sched_process_exit: ",
    );
    let running = Running::start(stage.own_agent(&binary));
    let mut churn = Workload::start(
        Command::new(env!("CARGO_BIN_EXE_workload")).args(["churn", "--count=12000"]),
    );
    churn.until_done();
    let scans =
        |metrics: &str| metric(metrics, "spillway_read_seconds_count{sensor=\"processes\"}");
    let before = scans(&running.get("/metrics"));
    let later = wait_for(STARTS_WITHIN, || {
        let metrics = running.get("/metrics");
        (scans(&metrics) > before + 1.0).then_some(metrics)
    });
    let lost = find_metric(
        &later.expect("the agent scans"),
        "spillway_lost_total{what=\"life_ring_full\"}",
    );
    assert_eq!(lost.unwrap_or(0.0), 0.0);
}

#[test]
fn losses_are_logged_with_their_process_at_vv() {
    let Some(stage) = Stage::set("losses_are_logged_with_their_process_at_vv") else { return };
    let binary = fs::read(agent().get_program()).expect("the agent can be read");
    for (verbose, is_logged) in [("-vv", true), ("-v", false)] {
        let mut command = stage.own_agent(&binary);
        command.arg(verbose);
        let running = Running::start(command);
        // While the agent is stopped, the ring of process events fills.
        running.signal(libc::SIGSTOP);
        let mut churn = Workload::start(
            Command::new(env!("CARGO_BIN_EXE_workload")).args(["churn", "--count=12000"]),
        );
        churn.until_done();
        running.signal(libc::SIGCONT);
        let lost = wait_for(STARTS_WITHIN, || {
            let log = running.log();
            log.contains("what=\"life_ring_full\"").then_some(log)
        });
        assert!(lost.is_some(), "{verbose}: nothing was lost");
        let (code, log) = running.stop();
        assert_eq!(code, Some(0), "{log}");
        assert_eq!(log.contains("BPF: life_ring_full in process "), is_logged, "{verbose}: {log}");
    }
}

#[test]
fn rejected_program_disables_no_other_probe() {
    let Some(stage) = Stage::set("rejected_program_disables_no_other_probe") else { return };
    let started = rejected(&stage, &["scan_tasks"]);
    stage.assert_lost(&started, Probe::ProcessMemory, "the kernel's verifier rejected iter/task: ");
    let started = rejected(&stage, &["sample_faults", "fault_kernel"]);
    stage.assert_lost(
        &started,
        Probe::FaultSamples,
        "the kernel's verifier rejected perf event programs: ",
    );
}

#[test]
fn recording_names_missing_probes() {
    if !is_root("recording_names_missing_probes") {
        return;
    }
    let mut command = agent();
    command.args(["record", "--duration", "1s", "--out", "-"]);
    refuse(&mut command, Refused::BPF);
    let output = command.output().expect("the agent runs");
    let trace = String::from_utf8(output.stdout).expect("a trace is text");
    let lines: Vec<_> = trace.lines().filter(|line| line.contains(r#""kind":"sensing""#)).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    let sensing: Value = serde_json::from_str(lines[0]).expect("a line is JSON");
    assert_eq!(
        sensing["off"],
        serde_json::json!(["fault_samples", "accept_sojourn", "outbound_connects", "open_files"])
    );
    assert!(
        sensing["degraded"]
            .as_array()
            .is_some_and(|names| names.contains(&"process_memory".into())),
        "{sensing}"
    );
}

/// Finds the overload verdict on a listener in the agent's output.
fn raised(running: &Running, addr: &str) -> Option<Value> {
    let verdicts = running.printed();
    let mut verdicts = verdicts.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    verdicts.find(|line| {
        line["verdict"] == "overload" && line["state"] == "raised" && line["addr"] == addr
    })
}

#[test]
fn verdict_is_less_confident_without_bpf() {
    let test = "verdict_is_less_confident_without_bpf";
    let Some(stage) = Stage::set(test) else { return };
    let usual = Running::start(json(stage.command()));
    let mut command = json(stage.command());
    refuse(&mut command, Refused::BPF);
    let denied = Running::start(command);

    let workload = || Command::new(env!("CARGO_BIN_EXE_workload"));
    let server =
        Workload::start(workload().args(["stuck-server", "--healthy-for=1s", "--backlog=128"]));
    let addr = server.addr().to_string();
    let _clients =
        Workload::start(workload().args(["clients", "--rate-per-sec=40", "--addr", &addr]));
    let [usual, denied] = [usual, denied].map(|running| {
        let raised = wait_for(Duration::from_secs(20), || raised(&running, &addr));
        let raised = raised.unwrap_or_else(|| panic!("no overload of {addr}: {}", running.log()));
        assert_eq!(running.stop().0, Some(0));
        raised
    });
    let confidence =
        |verdict: &Value| verdict["confidence"].as_f64().expect("the confidence is a number");
    assert!(confidence(&denied) <= confidence(&usual) - 0.05, "{usual} against {denied}");
    // Either the depth of the queue shows it, or requests in it, which sock_diag sees as well.
    let why = denied["why"].as_str().unwrap_or_default();
    let says_so = ["the oldest wait cannot be read here", "were read in a coarser way"];
    assert!(says_so.iter().any(|text| why.contains(text)), "{denied}");
}

fn json(mut command: Command) -> Command {
    command.arg("--json");
    command
}
