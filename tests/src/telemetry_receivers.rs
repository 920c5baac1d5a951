//! Receivers of telemetry by OTLP: VictoriaMetrics as packaged by Debian, which answers queries, and
//! a Collector, which prints what it was sent.
//!
//! `cargo xtask test` unpacks the former, and `cargo xtask test --thorough` builds the latter.
//! `SPILLWAY_TELEMETRY` and `SPILLWAY_COLLECTOR` name their directories.

use std::{
    env,
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::{
    Program,
    drain_live::free_addr,
    http_get,
    servers::{listening, listening_with},
    skip,
};

/// Program of VictoriaMetrics.
pub struct VictoriaMetrics(PathBuf);

/// Running server with its own data. It ends when it is dropped.
pub struct VictoriaMetricsServer {
    addr: SocketAddr,
    _program: Program,
}

/// Running Collector, which receives OTLP and writes everything to a file. It ends when it is
/// dropped.
pub struct Collector {
    addr: SocketAddr,
    received: PathBuf,
    _program: Program,
}

impl VictoriaMetrics {
    /// Finds the program. Returns `None` and reports that the test is skipped without it.
    pub fn find_or_skip(test: &str) -> Option<Self> {
        let reason = "needs VictoriaMetrics, which `cargo xtask test` unpacks where there is \
                      apt-get";
        program_or_skip("SPILLWAY_TELEMETRY", "usr/bin/victoria-metrics", test, reason).map(Self)
    }

    /// Starts a server on a loopback port with its data in `dir`.
    ///
    /// # Panics
    ///
    /// Panics if it does not listen within five seconds.
    pub fn start(&self, dir: &Path) -> VictoriaMetricsServer {
        let addr = free_addr();
        let mut command = Command::new(&self.0);
        command.arg(format!("-httpListenAddr={addr}"));
        command.arg(format!("-storageDataPath={}", dir.display()));
        // Samples are visible at once, and need little memory.
        command.args(["-search.latencyOffset=0s", "-memory.allowedBytes=128MiB"]);
        VictoriaMetricsServer { addr, _program: listening(&mut command, addr) }
    }
}

impl VictoriaMetricsServer {
    /// Address to which the agent appends the paths of OTLP.
    pub fn otlp_url(&self) -> String {
        format!("http://{}/opentelemetry", self.addr)
    }

    /// Series that an expression of MetricsQL has now, as the query API returns them.
    ///
    /// # Panics
    ///
    /// Panics if the server does not answer with JSON.
    pub fn series(&self, expression: &str) -> Vec<Value> {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let path = format!("/api/v1/query?nocache=1&query={encoded}");
        let reply = http_get(self.addr, &path).expect("VictoriaMetrics should answer");
        let body = reply.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let reply: Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {reply}"));
        reply["data"]["result"].as_array().cloned().unwrap_or_default()
    }

    /// Value of the first of these series.
    ///
    /// # Panics
    ///
    /// Panics if the server does not answer with JSON.
    pub fn value(&self, expression: &str) -> Option<f64> {
        self.series(expression).first()?["value"][1].as_str()?.parse().ok()
    }
}

impl Collector {
    /// Starts the program on a loopback port with its files in `dir`. Returns `None` and reports that
    /// the test is skipped without it.
    ///
    /// # Panics
    ///
    /// Panics if it does not listen within five seconds.
    pub fn start_or_skip(test: &str, dir: &Path) -> Option<Self> {
        let reason = "needs a Collector, which `cargo xtask test --thorough` builds";
        let program = program_or_skip("SPILLWAY_COLLECTOR", "collector", test, reason)?;
        let (addr, received) = (free_addr(), dir.join("received"));
        let config = format!(
            "receivers: {{ otlp: {{ protocols: {{ http: {{ endpoint: '{addr}' }} }} }} }}\n\
             exporters: {{ debug: {{ verbosity: detailed }} }}\n\
             service:\n  telemetry: {{ metrics: {{ level: none }} }}\n  pipelines:\n    \
             metrics: {{ receivers: [otlp], exporters: [debug] }}\n    \
             logs: {{ receivers: [otlp], exporters: [debug] }}\n"
        );
        let file = dir.join("collector.yaml");
        fs::write(&file, config).expect("writing the configuration");
        let mut command = Command::new(program);
        command.arg("--config").arg(&file);
        let printed = File::create(&received).expect("creating the file");
        let program = listening_with(command.stderr(printed), addr);
        Some(Self { addr, received, _program: program })
    }

    /// Address to which the agent appends the paths of OTLP.
    pub fn otlp_url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Everything that it was sent so far, as its debug exporter prints it.
    ///
    /// # Panics
    ///
    /// Panics if its file cannot be read.
    pub fn received(&self) -> String {
        fs::read_to_string(&self.received).expect("reading the Collector's output")
    }
}

fn program_or_skip(variable: &str, path: &str, test: &str, reason: &str) -> Option<PathBuf> {
    let program = env::var_os(variable).map(|root| PathBuf::from(root).join(path));
    let program = program.filter(|program| program.is_file());
    if program.is_none() {
        skip(test, reason);
    }
    program
}
