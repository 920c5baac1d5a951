//! nginx in front of a server with a pool of threads.

use super::{
    super::{
        play::Started,
        scene::{Family, upstream},
        stage::{Stage, halting},
        wire::Target,
    },
    gunicorn, http,
};
use crate::{Program, nginx_temporary};

pub(super) const PROGRAM: &str = "usr/sbin/nginx";

/// nginx in front of gunicorn, to which it keeps connections.
pub const NGINX: Family = Family {
    name: "nginx-upstream",
    needs: &[PROGRAM, gunicorn::PROGRAM],
    service_secs: 0.05,
    workers: gunicorn::WORKERS,
    forks: false,
    wire: http,
    start: |stage| {
        let app = gunicorn::threads(stage, stage.upstream(), gunicorn::WORKERS)?;
        let upstream = stage.upstream().to_string();
        let proxy = proxy(stage, &to_http("behind"), &upstream)?;
        proxied(stage, vec![proxy, app])
    },
    scenes: || upstream(200),
};

/// Returns what is known of a proxy, the first program, and the server behind it.
pub(super) fn proxied(stage: &Stage, programs: Vec<Program>) -> anyhow::Result<Started> {
    let behind = programs.iter().skip(1).map(Program::pid).collect();
    Ok(Started {
        target: Target::Tcp(stage.addr()),
        watched: vec![stage.addr().to_string(), stage.upstream().to_string()],
        fault: halting(behind, stage.by_files()),
        programs,
    })
}

/// Returns the directives that pass requests on by HTTP.
pub(super) fn to_http(upstream: &str) -> String {
    let pass = if upstream.starts_with("unix:") { "behind" } else { upstream };
    format!("proxy_pass http://{pass}; proxy_http_version 1.1; proxy_set_header Connection \"\";")
}

/// Starts nginx with one worker in front of a server.
pub(super) fn proxy(stage: &Stage, pass: &str, upstream: &str) -> anyhow::Result<Program> {
    let at = stage.dir().display();
    let temporary = nginx_temporary(stage.dir());
    let text = format!(
        "daemon off; user root; worker_processes 1; worker_rlimit_nofile 16384; pid \
         {at}/nginx.pid;\nevents {{ worker_connections 8192; }}\nhttp {{ access_log off;\n\
         {temporary}upstream behind {{ server {upstream}; keepalive 32; }}\n\
         server {{ listen {}; location / {{ {pass} }} }} }}\n",
        stage.addr()
    );
    let config = stage.file("nginx.conf", &text)?;
    let mut command = stage.program(PROGRAM)?;
    command.arg("-e").arg(stage.dir().join("error.log")).arg("-c").arg(config);
    stage.tcp(&mut command, stage.addr())
}
