//! Node: one event loop, and a cluster of four whose first process accepts and hands on.

use super::{
    super::{
        play::Started,
        scene::{Family, SLOW_SECS, dependent, slowed, usual},
        stage::Stage,
    },
    http,
};

const PROGRAM: &str = "usr/bin/node";
const SINGLE_SECS: f64 = 0.02;
const BRISK_SECS: f64 = 0.01;
const CLUSTER_SECS: f64 = 0.05;
const WORKERS: u32 = 4;

/// Program; each request keeps the loop of its process.
const APP: &str = "
const cluster = require('cluster'), fs = require('fs'), http = require('http'), net = require('net');
const cell = new Int32Array(new SharedArrayBuffer(4));
const rest = secs => Atomics.wait(cell, 0, 0, secs * 1000);
const dependency = process.env.DEPENDENCY;
const answer = response => {
  while (fs.existsSync('stuck')) rest(0.02);
  rest(fs.existsSync('slow') ? SLOW : SECS);
  response.end('ok');
};
const serve = (_, response) => {
  if (!dependency) return answer(response);
  const [host, port] = dependency.split(':');
  const asked = net.connect(Number(port), host, () => asked.write('?\\n'));
  asked.once('data', () => { asked.destroy(); answer(response); });
  asked.on('error', () => response.destroy());
};
if (WORKERS > 1 && cluster.isPrimary) for (let i = 0; i < WORKERS; i++) cluster.fork();
else http.createServer(serve).listen(PORT, '127.0.0.1');
";

/// One event loop.
pub const SINGLE: Family = Family {
    name: "node",
    needs: &[PROGRAM],
    service_secs: SINGLE_SECS,
    workers: 1,
    forks: false,
    wire: http,
    start: |stage| start(stage, 1, SINGLE_SECS),
    scenes: || [usual(150), dependent(), slowed()].concat(),
};

/// One event loop with requests of half that time: the more requests, the sooner it is certain that
/// too many wait.
pub const BRISK: Family = Family {
    name: "node-brisk",
    service_secs: BRISK_SECS,
    start: |stage| start(stage, 1, BRISK_SECS),
    ..SINGLE
};

/// Four event loops.
pub const CLUSTER: Family = Family {
    name: "node-cluster",
    service_secs: CLUSTER_SECS,
    workers: WORKERS,
    start: |stage| start(stage, WORKERS, CLUSTER_SECS),
    scenes: || [usual(200), dependent(), slowed()].concat(),
    ..SINGLE
};

fn start(stage: &Stage, workers: u32, secs: f64) -> anyhow::Result<Started> {
    let addr = stage.addr();
    let settings = format!(
        "const SECS = {secs}, SLOW = {SLOW_SECS}, WORKERS = {workers}, PORT = {};",
        addr.port()
    );
    stage.file("app.js", &format!("{settings}{APP}"))?;
    let program = stage.tcp(stage.program(PROGRAM)?.arg("app.js"), addr)?;
    Ok(Started::at(addr, stage.by_files(), program))
}
