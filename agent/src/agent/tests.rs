use std::sync::Mutex;

use super::*;
use crate::{act::OutcomeKind, config::ServicePattern, decide::Action, trace::TraceReader};

/// Performs every page, and refuses each once with an outcome.
#[derive(Default)]
struct Pages {
    performed: Arc<Mutex<Vec<String>>>,
    outcomes: Vec<Outcome>,
}

impl Executor for Pages {
    fn perform(&mut self, decision: &Decision, verdicts: &[Verdict]) -> bool {
        if !matches!(decision.action, Action::Page { .. }) {
            return false;
        }
        assert!(verdicts.iter().any(|verdict| IncidentId::from(verdict) == decision.id));
        self.performed.lock().unwrap().push(decision.id.to_string());
        self.outcomes.push(Outcome {
            t: decision.t(),
            event: OutcomeKind::Refused,
            cause: decision.id.clone().into(),
            cgroup: decision.cgroup().clone(),
            limit_bytes: None,
            why: "a test refuses it".to_owned(),
        });
        true
    }

    fn outcomes(&mut self, _now: f64) -> Vec<Outcome> {
        std::mem::take(&mut self.outcomes)
    }

    fn stop(self: Box<Self>) -> Vec<Outcome> {
        self.outcomes
    }
}

/// A buffer to print to.
#[derive(Clone, Default)]
struct Printed(Arc<Mutex<Vec<u8>>>);

impl Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn batches_reach_the_executors_and_their_outcomes_the_output() {
    let trace = include_str!("../../../tests/traces/stuck-acceptor.jsonl");
    let mut reader = TraceReader::new(trace.as_bytes()).unwrap();
    let mut config = Config::default();
    config.decide.services = vec![ServicePattern::new("tcp:0.0.0.0:8080").unwrap()];
    let (clock, printed, pages) = (Clock::start(), Printed::default(), Pages::default());
    let performed = pages.performed.clone();
    let mut agent = Agent {
        clock,
        file: None,
        engine: Engine::new(&config, reader.header().host),
        executors: vec![boxed(pages)],
        service_pods: None,
        requests: ServiceRequests::default(),
        listeners_lost: 0,
        pass_t: f64::NEG_INFINITY,
        printer: EventPrinter::to(Box::new(printed.clone()), true),
        metrics: Arc::new(Metrics::new(clock, 1.0)),
        realtime: RealtimeUnderPressure::default(),
        fleet: None,
        windows: None,
        keepers: EventKeepers::default(),
        host: String::new(),
        tables: HostTables::new(reader.header().host),
        board: None,
        actions: ActionLog::default(),
        service: ServiceManager::default(),
        described: None,
        stalls: 0,
        has_warned_untracked: false,
        flood: FloodWatch::default(),
        output: Output::default(),
        config,
    };
    let mut sensors = Sensors::without_bpf("a test uses none");
    for observation in (&mut reader).flatten() {
        let read = match observation.fact {
            Fact::Listener(_) => ScanKind::Listeners,
            _ => ScanKind::Processes,
        };
        agent.apply(Event::Scan(Batch {
            read,
            observations: &[observation],
            took_secs: 0.001,
            gap_secs: 0.001,
            next_in: Duration::from_secs(1),
            sensors: &mut sensors,
        }));
    }
    // Without a file a reload changes nothing.
    agent.apply(Event::Reload);
    agent.stop();
    let printed = String::from_utf8(printed.0.lock().unwrap().clone()).unwrap();
    let lines = |text: &str| printed.lines().filter(|line| line.contains(text)).count();
    let performed = performed.lock().unwrap().len();
    assert!(performed > 0 && lines("\"state\":\"raised\"") > 0, "{printed}");
    assert_eq!(lines("\"performed\":true"), performed, "{printed}");
    assert_eq!(lines("\"outcome\":\"refused\""), performed, "{printed}");
}
use crate::bpf::{
    Fallback, Hook, Probe,
    fallbacks::{Cause, Passed, Unavailable},
};

#[test]
fn one_reason_is_one_line() {
    let sensors = Sensors::without_bpf("not root");
    assert_eq!(
        degraded(sensors.reports()),
        [concat!(
            "BPF is not used: not root; process_memory from /proc/PID/{stat,status}, ",
            "process_life from comparing scans, process_handles from \
             /proc/PID/{fd,limits,stat}, ",
            "accept_queue from sock_diag, unix_queue from sock_diag, requests from sock_diag \
             instead"
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
            attached.then_some(&Fallback::without_bpf(Hook::new("it"), "it")),
            if attached { vec![] } else { vec![passed] },
        )
    };
    let mut reports = Probe::VARIANTS.map(|probe| report(probe, true));
    assert_eq!(degraded(&reports), [""; 0]);
    reports[1] = report(Probe::FaultSamples, false);
    assert_eq!(degraded(&reports), ["probe fault_samples not attached: kernel refused it (EPERM)"]);
}
