//! Shared code of the host tests: workloads that end with the test, reported skips, the running
//! agent, and injected faults.

pub mod api_leases;
pub mod api_nodes;
pub mod api_server;
mod broken;
pub mod corpus;
pub mod counts;
mod crash_schedule;
pub mod drain_live;
pub mod etcd;
pub mod fleetlock;
pub mod group_node;
mod held;
pub mod http_server;
pub mod independent;
mod known_requests;
pub mod limit_live;
pub mod manifests;
mod netns;
pub mod node;
pub mod overload_live;
mod own_cgroup;
mod proc_files;
mod program_costs;
pub mod queues;
pub mod real_kubernetes;
pub mod real_servers;
mod real_time;
pub mod receiver;
pub mod recorder;
mod reference;
mod refuse;
mod resolver;
mod running;
mod script;
mod servers;
pub mod simulation;
mod syscall_stepper;
mod telemetry_receivers;
pub mod tls;

use std::{
    env,
    fs::OpenOptions,
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use spillway_agent::{
    bpf::Probe,
    sense::{Fact, ListenerFact, OutboundFact, ProcessFact, RequestsFact, Sensors},
};

pub use broken::break_program;
pub use crash_schedule::{Kills, in_lanes};
pub use held::Held;
pub use known_requests::{Habit, KnownRequests, Truth};
pub use netns::{loopback_up, network, own_network, own_resolver};
pub use own_cgroup::{OwnCgroup, apart};
pub use proc_files::{cpu_secs, field_bytes, thread_cpu_ms};
pub use program_costs::{ProgramCost, program_costs, recursion_misses};
pub use real_time::{ahead_of_servers, in_real_time, real_time};
pub use reference::Reference;
pub use refuse::{Refused, hide, refuse};
pub use resolver::{Knows, Resolver};
pub use running::{
    ANY_PORT, Printed, Running, STARTS_WITHIN, Scratch, agent, find_metric, http_get,
    http_get_with, metric, run_with, warnings,
};
pub use script::Script;
pub use servers::{Program, Servers, Work, nginx_temporary};
pub use syscall_stepper::{Call, Stopped};
pub use telemetry_receivers::{Collector, VictoriaMetrics, VictoriaMetricsServer};

/// Program that runs until it is dropped.
pub struct Workload {
    child: Child,
    output: BufReader<ChildStdout>,
    /// Ready line that it printed.
    pub ready: Value,
}

/// Program that was started and has not yet printed its ready line.
pub struct Starting {
    command: String,
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Starting {
    /// Starts a command.
    ///
    /// # Panics
    ///
    /// Panics if the command cannot be started.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} did not start: {error}"));
        let output = BufReader::new(child.stdout.take().expect("stdout should be piped"));
        Self { command: format!("{command:?}"), child, output }
    }

    /// Waits for the ready line.
    ///
    /// # Panics
    ///
    /// Panics if the program prints none.
    pub fn ready(mut self) -> Workload {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("reading the workload's output");
        let command = self.command;
        let ready = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("{command} said {line:?}: {error}"));
        Workload { child: self.child, output: self.output, ready }
    }
}

impl Workload {
    /// Starts a command and waits for its ready line.
    ///
    /// # Panics
    ///
    /// Panics if the command cannot be started or prints no ready line.
    pub fn start(command: &mut Command) -> Self {
        Starting::start(command).ready()
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Address that the workload listens on.
    ///
    /// # Panics
    ///
    /// Panics if its ready line has none.
    pub fn addr(&self) -> SocketAddr {
        self.ready["addr"]
            .as_str()
            .and_then(|addr| addr.parse().ok())
            .expect("the ready line should have an address")
    }

    /// Next line that the workload prints.
    ///
    /// # Panics
    ///
    /// Panics if its output cannot be read.
    pub fn next_line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("reading the workload's output");
        line
    }

    /// Waits until a workload that ends by itself reports that it is done.
    ///
    /// # Panics
    ///
    /// Panics if its output cannot be read.
    pub fn until_done(&mut self) {
        while !self.ready.to_string().contains("done") && !self.next_line().contains("done") {}
    }

    /// Returns true while the process is running.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|ended| ended.is_none())
    }

    /// Ends the process and waits until it is gone.
    pub fn stop(self) {}
}

impl Drop for Workload {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Path of one of this package's binaries: beside this program or one directory up.
///
/// # Panics
///
/// Panics if it is not built.
pub fn built(name: &str) -> PathBuf {
    let own = env::current_exe().expect("this program should have a path");
    let mut beside = own.ancestors().skip(1).take(2).map(|dir| dir.join(name));
    beside.find(|path| path.is_file()).unwrap_or_else(|| panic!("{name} is not built"))
}

/// Reports that a test cannot run here, and why. The test then returns.
pub fn skip(test: &str, reason: &str) {
    println!("SKIP {test}: {reason}");
    if let Some(file) = env::var_os("SPILLWAY_SKIPS") {
        let file = OpenOptions::new().append(true).create(true).open(file);
        let _ = file.and_then(|mut file| file.write_all(format!("{test}\t{reason}\n").as_bytes()));
    }
}

/// Sensors with the probe under test attached. Reports a skip and returns `None` if it cannot be
/// attached.
pub fn sensors_with(probe: Probe, test: &str) -> Option<Sensors> {
    let sensors = Sensors::start();
    let report = sensors.reports().iter().find(|report| report.probe == probe);
    match report.and_then(|report| report.reason()) {
        Some(reason) => {
            skip(test, reason);
            None
        }
        None => Some(sensors),
    }
}

/// Returns true if the test runs as root; otherwise reports a skip.
pub fn is_root(test: &str) -> bool {
    // SAFETY: a plain system call without arguments.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        skip(test, "needs root");
    }
    root
}

/// One scan of every process.
pub fn processes(sensors: &mut Sensors) -> Vec<ProcessFact> {
    let mut seen = Vec::new();
    sensors.scan_processes(0.0, &mut seen);
    seen.into_iter()
        .filter_map(|one| if let Fact::Process(fact) = one.fact { Some(fact) } else { None })
        .collect()
}

/// One reading of every listener, `t` seconds into the test.
pub fn listeners(sensors: &mut Sensors, t: f64) -> Vec<ListenerFact> {
    let mut seen = Vec::new();
    sensors.scan_listeners(t, &mut seen);
    seen.into_iter()
        .filter_map(|one| if let Fact::Listener(fact) = one.fact { Some(*fact) } else { None })
        .collect()
}

/// Current time of the monotonic clock.
#[expect(clippy::disallowed_methods, reason = "tests compare results with their own clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// Outbound connects of one scan, `t` seconds into the test.
pub fn outbound(sensors: &mut Sensors, t: f64) -> Vec<OutboundFact> {
    let mut seen = Vec::new();
    sensors.scan_processes(t, &mut seen);
    seen.into_iter()
        .filter_map(|one| if let Fact::Outbound(fact) = one.fact { Some(fact) } else { None })
        .collect()
}

/// Facts about requests on connections in one sample, `t` seconds into the test.
pub fn requests(sensors: &mut Sensors, t: f64) -> Vec<RequestsFact> {
    let mut seen = Vec::new();
    sensors.scan_listeners(t, &mut seen);
    seen.into_iter()
        .filter_map(|one| if let Fact::Requests(fact) = one.fact { Some(fact) } else { None })
        .collect()
}

/// Waits at most `limit` until `done` returns a value.
pub fn wait_for<T>(limit: Duration, mut done: impl FnMut() -> Option<T>) -> Option<T> {
    const STEP: Duration = Duration::from_millis(20);
    for _ in 0..=limit.as_millis() / STEP.as_millis() {
        if let Some(found) = done() {
            return Some(found);
        }
        std::thread::sleep(STEP);
    }
    None
}
