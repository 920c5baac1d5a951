//! PHP-FPM on a UNIX socket behind nginx.

use super::{
    super::{
        play::Started,
        scene::{Family, SLOW_SECS, dependent, upstream},
        stage::halting,
        wire::Target,
    },
    http, nginx,
};

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

/// A fixed number of children.
pub const PHP_FPM: Family = Family {
    name: "php-fpm-behind-nginx",
    needs: &[PROGRAM, nginx::PROGRAM],
    service_secs: SERVICE_SECS,
    workers: WORKERS,
    forks: false,
    wire: http,
    start: |stage| {
        let (at, socket) = (stage.dir().display(), stage.dir().join("php.sock"));
        let micros = |secs: f64| format!("{:.0}", secs * 1e6);
        let app = APP.replace("SLOW", &micros(SLOW_SECS)).replace("SECS", &micros(SERVICE_SECS));
        let script = stage.file("app.php", &app)?;
        let config = stage.file(
            "fpm.conf",
            &format!(
                "[global]\nerror_log = {at}/fpm.log\ndaemonize = no\n[www]\nuser = root\ngroup = \
                 root\nlisten = {}\nlisten.backlog = 511\npm = static\npm.max_children = \
                 {WORKERS}\nclear_env = no\n",
                socket.display()
            ),
        )?;
        let mut command = stage.program(PROGRAM)?;
        command.args(["--allow-to-run-as-root", "--nodaemonize", "-n", "--fpm-config"]).arg(config);
        let app = stage.unix(&mut command, &socket)?;
        let pass = format!(
            "fastcgi_pass behind; fastcgi_param REQUEST_METHOD GET; fastcgi_param \
             SCRIPT_FILENAME {};",
            script.display()
        );
        let unix = format!("unix:{}", socket.display());
        let proxy = nginx::proxy(stage, &pass, &unix)?;
        Ok(Started {
            target: Target::Tcp(stage.addr()),
            watched: vec![stage.addr().to_string(), unix],
            fault: halting(vec![app.pid()], stage.by_files()),
            programs: vec![proxy, app],
        })
    },
    scenes: || [upstream(200), dependent()].concat(),
};
