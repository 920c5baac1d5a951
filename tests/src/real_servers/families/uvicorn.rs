//! uvicorn: one event loop, which each request keeps.

use super::{
    super::{
        play::Started,
        scene::{Family, SLOW_SECS, dependent, slowed, usual},
    },
    http,
};

const PROGRAM: &str = "usr/bin/uvicorn";
const SERVICE_SECS: f64 = 0.02;

/// Clients of the closed load: each waits for three seconds.
const CLOSED: u32 = 150;

/// ASGI application. The dependency is awaited, as an asynchronous client does.
const APP: &str = "
import asyncio, os, time
DEPENDENCY = os.environ.get('DEPENDENCY')
async def app(scope, receive, send):
    if DEPENDENCY:
        host, port = DEPENDENCY.split(':')
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b'?\\n')
        await reader.readline()
        writer.close()
    while os.path.exists('stuck'):
        time.sleep(0.02)
    time.sleep(SLOW if os.path.exists('slow') else SECS)
    headers = [(b'content-length', b'2')]
    await send({'type': 'http.response.start', 'status': 200, 'headers': headers})
    await send({'type': 'http.response.body', 'body': b'ok'})
";

/// One event loop.
pub const UVICORN: Family = Family {
    name: "uvicorn",
    needs: &[PROGRAM],
    service_secs: SERVICE_SECS,
    workers: 1,
    forks: false,
    wire: http,
    start: |stage| {
        let addr = stage.addr();
        stage.file("app.py", &format!("SECS = {SERVICE_SECS}\nSLOW = {SLOW_SECS}\n{APP}"))?;
        let mut command = stage.program(PROGRAM)?;
        command.args(["--lifespan=off", "--log-level=error", "--host=127.0.0.1"]);
        command.arg(format!("--port={}", addr.port())).arg("--app-dir=.").arg("app:app");
        let program = stage.tcp(&mut command, addr)?;
        Ok(Started::at(addr, stage.by_files(), program))
    },
    scenes: || [usual(CLOSED), dependent(), slowed()].concat(),
};
