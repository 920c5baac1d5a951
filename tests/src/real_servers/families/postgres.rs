//! PostgreSQL with pooled clients whose statements take turns at a lock.

use std::{
    io::Write as _,
    net::{SocketAddr, TcpStream},
    process::Command,
};

use anyhow::Context as _;

use super::super::{
    play::Started,
    scene::{Family, Fault, usual},
    stage::{Stage, find},
    wire::{POSTGRES_HELLO, Wire, postgres_query},
};

const PROGRAM: &str = "usr/lib/postgresql/*/bin/postgres";
const INITDB: &str = "usr/lib/postgresql/*/bin/initdb";
const SERVICE_SECS: f64 = 0.02;

/// Statement that holds a lock for so long.
const STATEMENT: &str = "select pg_advisory_xact_lock(1), pg_sleep(0.02)";

/// User that it runs as: it refuses to run as root.
const NOBODY: u32 = 65_534;

/// Script that runs a program as that user. The cache is in a directory that only root can enter,
/// so it is mounted elsewhere for this process alone.
const AS_NOBODY: &str = "mount --bind \"$1\" /mnt && shift && exec setpriv --reuid 65534 --regid \
                         65534 --clear-groups \"$@\"";

/// PostgreSQL, a process a connection.
pub const POSTGRES: Family = Family {
    name: "postgres",
    needs: &[PROGRAM, INITDB],
    service_secs: SERVICE_SECS,
    workers: 1,
    forks: true,
    wire: || Wire::Postgres(STATEMENT.to_owned()),
    start: |stage| {
        let addr = stage.addr();
        std::os::unix::fs::chown(stage.dir(), Some(NOBODY), Some(NOBODY))?;
        let mut init = as_nobody(stage, INITDB)?;
        init.args([
            "-D",
            "data",
            "-U",
            "postgres",
            "-A",
            "trust",
            "-N",
            "--locale=C",
            "-E",
            "UTF8",
        ]);
        stage.finish(&mut init).context("initdb")?;
        let mut command = as_nobody(stage, PROGRAM)?;
        command.args(["-D", "data", "-h", "127.0.0.1", "-p", &addr.port().to_string()]);
        command.args(["-k", "", "-N", "900", "-c", "fsync=off", "-c", "shared_buffers=16MB"]);
        let program = stage.tcp(&mut command, addr)?;
        let mut holder = None;
        let fault = move |fault: Fault, begins: bool| {
            drop(holder.take());
            if fault == Fault::Stuck && begins {
                holder = Some(hold(addr)?);
            }
            Ok(())
        };
        Ok(Started::at(addr, Box::new(fault), program))
    },
    scenes: || usual(150),
};

/// Takes the lock until the connection is dropped.
fn hold(addr: SocketAddr) -> anyhow::Result<TcpStream> {
    let mut holder = TcpStream::connect(addr)?;
    holder.write_all(&POSTGRES_HELLO)?;
    holder.write_all(&postgres_query("select pg_advisory_lock(1)"))?;
    Ok(holder)
}

fn as_nobody(stage: &Stage, path: &str) -> anyhow::Result<Command> {
    let (program, root) = find(&stage.servers, path)?;
    let mut command = Command::new("unshare");
    let root = root.unwrap_or_else(|| "/".into());
    let seen = std::path::Path::new("/mnt").join(program.strip_prefix(&root)?);
    command.args(["--mount", "sh", "-c", AS_NOBODY, "sh"]).arg(&root).arg(seen);
    command.env("LD_LIBRARY_PATH", "/mnt/usr/lib/x86_64-linux-gnu").current_dir(stage.dir());
    Ok(command)
}
