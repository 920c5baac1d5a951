//! Apache with the prefork module: a process a connection, in front of a server that is larger.

use std::path::PathBuf;

use super::{
    super::scene::{Family, upstream},
    gunicorn, http, nginx,
};

const PROGRAM: &str = "usr/sbin/apache2";
const WORKERS: u32 = 4;

/// Modules that it needs.
const MODULES: [&str; 4] = ["mpm_prefork", "authz_core", "proxy", "proxy_http"];

/// Four processes. Connections are closed after their request, as under load they have to be.
pub const APACHE: Family = Family {
    name: "apache-prefork",
    needs: &[PROGRAM, gunicorn::PROGRAM],
    service_secs: 0.05,
    workers: WORKERS,
    forks: false,
    wire: http,
    start: |stage| {
        let behind = gunicorn::threads(stage, stage.upstream(), 4 * WORKERS)?;
        let (at, addr, upstream) = (stage.dir().display(), stage.addr(), stage.upstream());
        let mut command = stage.program(PROGRAM)?;
        let program = PathBuf::from(command.get_program());
        let modules = program.ancestors().nth(2).unwrap_or(&program).join("lib/apache2/modules");
        let load =
            |name: &&str| format!("LoadModule {name}_module {}/mod_{name}.so\n", modules.display());
        let text = format!(
            "{}ServerRoot {at}\nServerName localhost\nPidFile {at}/apache.pid\nListen \
             {addr}\nErrorLog {at}/error.log\nDefaultRuntimeDir {at}\nUser #65534\nGroup \
             #65534\nKeepAlive Off\nServerLimit {WORKERS}\nMaxRequestWorkers \
             {WORKERS}\nStartServers {WORKERS}\nMinSpareServers 1\nMaxSpareServers \
             {WORKERS}\nTimeout 120\nProxyPass / http://{upstream}/\n",
            MODULES.iter().map(load).collect::<String>(),
        );
        let config = stage.file("apache.conf", &text)?;
        command.arg("-f").arg(config).args(["-D", "FOREGROUND"]);
        let front = stage.tcp(&mut command, addr)?;
        nginx::proxied(stage, vec![front, behind])
    },
    scenes: || upstream(200),
};
