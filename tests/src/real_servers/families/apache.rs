//! Apache with the prefork module: a process a connection, kept for a while after its request.

use super::{
    super::{
        play::Started,
        scene::{Family, SLOW_SECS, slowed, usual},
        wire::Target,
    },
    http,
};

const PROGRAM: &str = "usr/sbin/apache2";
const SERVICE_SECS: f64 = 0.05;
const WORKERS: u32 = 4;

/// Modules that it needs.
const MODULES: [&str; 3] = ["mpm_prefork", "authz_core", "lua"];

const APP: &str = "
require 'apache2'
local function is(name)
  local file = io.open(AT .. '/' .. name)
  if file then file:close() end
  return file ~= nil
end
function handle(r)
  while is('stuck') do r:sleep(0.02) end
  r:sleep(is('slow') and SLOW or SECS)
  r.content_type = 'text/plain'
  r:puts('ok')
  return apache2.OK
end
";

/// Four processes. Connections are closed after their request, as under load they have to be.
pub const APACHE: Family = Family {
    name: "apache-prefork",
    needs: &[PROGRAM],
    service_secs: SERVICE_SECS,
    workers: WORKERS,
    forks: false,
    wire: http,
    start: |stage| {
        let (at, addr) = (stage.dir().display(), stage.addr());
        let mut command = stage.program(PROGRAM)?;
        let program = std::path::PathBuf::from(command.get_program());
        let modules = program.ancestors().nth(2).unwrap_or(&program).join("lib/apache2/modules");
        let load =
            |name: &&str| format!("LoadModule {name}_module {}/mod_{name}.so\n", modules.display());
        let settings = format!("AT = '{at}'\nSECS = {SERVICE_SECS}\nSLOW = {SLOW_SECS}\n");
        let script = stage.file("app.lua", &format!("{settings}{APP}"))?;
        let config = stage.file(
            "apache.conf",
            &format!(
                "{}ServerRoot {at}\nServerName localhost\nPidFile {at}/apache.pid\nListen \
                 {addr}\nErrorLog {at}/error.log\nDefaultRuntimeDir {at}\nUser #65534\nGroup #65534\nKeepAlive \
                 Off\nServerLimit {WORKERS}\nMaxRequestWorkers {WORKERS}\nStartServers \
                 {WORKERS}\nMinSpareServers 1\nMaxSpareServers {WORKERS}\n\
                 LuaMapHandler / {}\n",
                MODULES.iter().map(load).collect::<String>(),
                script.display()
            ),
        )?;
        command.arg("-f").arg(config).args(["-D", "FOREGROUND"]);
        let programs = vec![stage.tcp(&mut command, addr)?];
        let watched = vec![addr.to_string()];
        Ok(Started { target: Target::Tcp(addr), watched, fault: stage.by_files(), programs })
    },
    scenes: || [usual(200), slowed()].concat(),
};
