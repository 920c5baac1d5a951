//! VictoriaMetrics as packaged by Debian, which receives telemetry by OTLP and answers queries.
//! `cargo xtask test` unpacks it, and names its directory in `SPILLWAY_TELEMETRY`.

use std::{
    env,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::{Program, drain_live::free_addr, http_get, servers::listening, skip};

/// Program of an unpacked package.
pub struct VictoriaMetrics {
    program: PathBuf,
}

/// Running server with its own data. It ends when it is dropped.
pub struct VictoriaMetricsServer {
    addr: SocketAddr,
    _program: Program,
}

impl VictoriaMetrics {
    /// Finds the program. Returns `None` and reports that the test is skipped without it.
    pub fn find_or_skip(test: &str) -> Option<Self> {
        let root = env::var_os("SPILLWAY_TELEMETRY").map(PathBuf::from);
        let program = root.map(|root| root.join("usr/bin/victoria-metrics"));
        let program = program.filter(|program| program.is_file());
        if program.is_none() {
            let reason = "needs VictoriaMetrics, which `cargo xtask test` unpacks where there is \
                          apt-get";
            skip(test, reason);
        }
        program.map(|program| Self { program })
    }

    /// Starts a server on a loopback port with its data in `dir`.
    ///
    /// # Panics
    ///
    /// Panics if it does not listen within five seconds.
    pub fn start(&self, dir: &Path) -> VictoriaMetricsServer {
        let addr = free_addr();
        let mut command = Command::new(&self.program);
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
