//! gunicorn: sync workers, a pool of threads, and sync workers on a UNIX socket behind nginx.

use std::{net::SocketAddr, process::Command};

use super::{
    super::{
        play::Started,
        scene::{Family, SLOW_SECS, dependent, slowed, upstream, usual},
        stage::{Stage, halting},
        wire::Target,
    },
    http, nginx,
};
use crate::Program;

pub(super) const PROGRAM: &str = "usr/bin/gunicorn";
const SERVICE_SECS: f64 = 0.05;
pub(super) const WORKERS: u32 = 4;

/// Clients of the closed load: each waits for two seconds and a half.
const CLOSED: u32 = 200;

/// WSGI application.
const APP: &str = "
import os, socket, time
DEPENDENCY = os.environ.get('DEPENDENCY')
def app(environ, start_response):
    if DEPENDENCY:
        host, port = DEPENDENCY.split(':')
        with socket.create_connection((host, int(port))) as asked:
            asked.sendall(b'?\\n')
            asked.recv(16)
    while os.path.exists('stuck'):
        time.sleep(0.02)
    time.sleep(SLOW if os.path.exists('slow') else SECS)
    start_response('200 OK', [('Content-Length', '2')])
    return [b'ok']
";

/// Sync workers, each of which accepts a connection when it is free.
pub const SYNC: Family = Family {
    name: "gunicorn-sync",
    needs: &[PROGRAM],
    service_secs: SERVICE_SECS,
    workers: WORKERS,
    forks: false,
    wire: http,
    start: |stage| {
        let mut command = command(stage, &stage.addr().to_string())?;
        command.arg(format!("--workers={WORKERS}"));
        let program = stage.tcp(&mut command, stage.addr())?;
        Ok(Started::at(stage.addr(), stage.by_files(), program))
    },
    scenes: || [usual(CLOSED), dependent(), slowed()].concat(),
};

/// One worker whose loop accepts, with a pool of threads.
pub const THREADS: Family = Family {
    name: "gunicorn-gthread",
    start: |stage| {
        let program = threads(stage, stage.addr(), WORKERS)?;
        Ok(Started::at(stage.addr(), stage.by_files(), program))
    },
    ..SYNC
};

/// Sync workers on a UNIX socket behind nginx.
pub const UNIX: Family = Family {
    name: "gunicorn-unix-behind-nginx",
    needs: &[PROGRAM, nginx::PROGRAM],
    start: |stage| {
        let socket = stage.dir().join("app.sock");
        let mut command = command(stage, &format!("unix:{}", socket.display()))?;
        command.arg(format!("--workers={WORKERS}"));
        let app = stage.unix(&mut command, &socket)?;
        let upstream = format!("unix:{}", socket.display());
        let proxy = nginx::proxy(stage, &nginx::to_http(&upstream), &upstream)?;
        let watched = vec![stage.addr().to_string(), upstream];
        let fault = halting(vec![app.pid()], stage.by_files());
        let target = Target::Tcp(stage.addr());
        Ok(Started { target, watched, fault, programs: vec![proxy, app] })
    },
    scenes: || [upstream(CLOSED), dependent()].concat(),
    ..SYNC
};

/// Starts one worker with a pool of threads.
pub(super) fn threads(stage: &Stage, addr: SocketAddr, count: u32) -> anyhow::Result<Program> {
    let mut command = command(stage, &addr.to_string())?;
    command.args(["--worker-class=gthread", &format!("--threads={count}")]);
    stage.tcp(&mut command, addr)
}

fn command(stage: &Stage, bind: &str) -> anyhow::Result<Command> {
    stage.file("app.py", &format!("SECS = {SERVICE_SECS}\nSLOW = {SLOW_SECS}\n{APP}"))?;
    let mut command = stage.program(PROGRAM)?;
    command.arg(format!("--bind={bind}")).args(["--timeout=120", "--log-level=error", "app:app"]);
    Ok(command)
}
