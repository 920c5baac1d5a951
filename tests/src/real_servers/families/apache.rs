//! Apache with a process or a thread for each connection, in front of a server that is larger.

use std::path::PathBuf;

use super::{
    super::{
        play::Started,
        scene::{Family, upstream},
        stage::Stage,
    },
    gunicorn, http, nginx,
};

const PROGRAM: &str = "usr/sbin/apache2";
const WORKERS: u32 = 4;

/// Modules that it needs, beside the one that serves connections.
const MODULES: [&str; 3] = ["authz_core", "proxy", "proxy_http"];

/// Four processes. Connections are closed after their request, as under load they have to be.
pub const PREFORK: Family = Family {
    name: "apache-prefork",
    needs: &[PROGRAM, gunicorn::PROGRAM],
    service_secs: 0.05,
    workers: WORKERS,
    forks: false,
    wire: http,
    start: |stage| {
        let processes = format!(
            "ServerLimit {WORKERS}\nStartServers {WORKERS}\nMinSpareServers 1\nMaxSpareServers \
             {WORKERS}\n"
        );
        start(stage, "mpm_prefork", &processes)
    },
    scenes: || upstream(200),
};

/// One process with four threads.
pub const WORKER: Family = Family {
    name: "apache-worker",
    start: |stage| {
        let threads = format!(
            "ServerLimit 1\nStartServers 1\nThreadLimit {WORKERS}\nThreadsPerChild \
             {WORKERS}\nMinSpareThreads 1\nMaxSpareThreads {WORKERS}\n"
        );
        start(stage, "mpm_worker", &threads)
    },
    ..PREFORK
};

fn start(stage: &Stage, processing: &str, settings: &str) -> anyhow::Result<Started> {
    let behind = gunicorn::threads(stage, stage.upstream(), 4 * WORKERS)?;
    let (at, addr, upstream) = (stage.dir().display(), stage.addr(), stage.upstream());
    let mut command = stage.program(PROGRAM)?;
    let program = PathBuf::from(command.get_program());
    let modules = program.ancestors().nth(2).unwrap_or(&program).join("lib/apache2/modules");
    let load =
        |name: &str| format!("LoadModule {name}_module {}/mod_{name}.so\n", modules.display());
    let text = format!(
        "{}ServerRoot {at}\nServerName localhost\nPidFile {at}/apache.pid\nListen {addr}\nErrorLog \
         {at}/error.log\nDefaultRuntimeDir {at}\nUser #65534\nGroup #65534\nKeepAlive \
         Off\n{settings}MaxRequestWorkers {WORKERS}\nTimeout 120\nProxyPass / http://{upstream}/\n",
        [processing].into_iter().chain(MODULES).map(load).collect::<String>(),
    );
    let config = stage.file("apache.conf", &text)?;
    command.arg("-f").arg(config).args(["-D", "FOREGROUND"]);
    let front = stage.tcp(&mut command, addr)?;
    nginx::proxied(stage, vec![front, behind])
}
