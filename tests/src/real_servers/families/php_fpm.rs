//! PHP-FPM behind nginx, on a UNIX socket or a TCP listener.

use std::process::Command;

use super::{
    super::{
        play::Started,
        scene::{Family, SLOW_SECS, dependent, upstream},
        stage::{Stage, halting},
        wire::Target,
    },
    http, nginx,
};
use crate::Program;

const PROGRAM: &str = "usr/sbin/php-fpm*";
const SERVICE_SECS: f64 = 0.05;
const WORKERS: u32 = 4;

const APP: &str = "<?php
$at = dirname(__FILE__);
if (getenv('DEPENDENCY')) {
  $asked = stream_socket_client('tcp://' . getenv('DEPENDENCY'), $e, $s, 120);
  stream_set_timeout($asked, 120);
  fwrite($asked, \"?\\n\");
  fgets($asked);
}
clearstatcache();
while (file_exists($at . '/stuck')) { usleep(20000); clearstatcache(); }
usleep(file_exists($at . '/slow') ? SLOW : SECS);
header('Content-Length: 2');
echo 'ok';
";

/// A fixed number of children on a UNIX socket.
pub const UNIX: Family = Family {
    name: "php-fpm-behind-nginx",
    needs: &[PROGRAM, nginx::PROGRAM],
    service_secs: SERVICE_SECS,
    workers: WORKERS,
    forks: false,
    wire: http,
    start: |stage| {
        let socket = stage.dir().join("php.sock");
        let pool = |command: &mut Command| stage.unix(command, &socket);
        start(stage, &socket.display().to_string(), &format!("unix:{}", socket.display()), pool)
    },
    scenes: || [upstream(200), dependent()].concat(),
};

/// A fixed number of children on a TCP listener.
pub const TCP: Family = Family {
    name: "php-fpm-tcp-behind-nginx",
    start: |stage| {
        let addr = stage.upstream().to_string();
        start(stage, &addr, &addr, |command| stage.tcp(command, stage.upstream()))
    },
    ..UNIX
};

/// Starts the pool at an address, which nginx and the agent write as `watched`, and nginx.
fn start(
    stage: &Stage,
    listen: &str,
    watched: &str,
    pool: impl FnOnce(&mut Command) -> anyhow::Result<Program>,
) -> anyhow::Result<Started> {
    let at = stage.dir().display();
    let micros = |secs: f64| format!("{:.0}", secs * 1e6);
    let app = APP.replace("SLOW", &micros(SLOW_SECS)).replace("SECS", &micros(SERVICE_SECS));
    let script = stage.file("app.php", &app)?;
    let config = stage.file(
        "fpm.conf",
        &format!(
            "[global]\nerror_log = {at}/fpm.log\ndaemonize = no\n[www]\nuser = root\ngroup = \
             root\nlisten = {listen}\nlisten.backlog = 511\npm = static\npm.max_children = \
             {WORKERS}\nclear_env = no\n"
        ),
    )?;
    let mut command = stage.program(PROGRAM)?;
    command.args(["--allow-to-run-as-root", "--nodaemonize", "-n", "--fpm-config"]).arg(config);
    let app = pool(&mut command)?;
    let pass = format!(
        "fastcgi_pass behind; fastcgi_param REQUEST_METHOD GET; fastcgi_param SCRIPT_FILENAME {};",
        script.display()
    );
    let proxy = nginx::proxy(stage, &pass, watched)?;
    Ok(Started {
        target: Target::Tcp(stage.addr()),
        watched: vec![stage.addr().to_string(), watched.to_owned()],
        fault: halting(vec![app.pid()], stage.by_files()),
        programs: vec![proxy, app],
    })
}
