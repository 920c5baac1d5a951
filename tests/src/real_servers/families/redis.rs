//! Redis with pooled clients: one thread that reads and answers in turn.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use super::super::{
    play::Started,
    scene::{Family, Fault, usual},
    wire::Wire,
};

const PROGRAM: &str = "usr/bin/redis-server";
const SERVICE_SECS: f64 = 0.01;

/// Command that stops it for the time that matters.
const STOP: &[u8] = b"DEBUG SLEEP 9\r\n";

/// Redis, whose command takes a fixed time of its only thread.
pub const REDIS: Family = Family {
    name: "redis",
    needs: &[PROGRAM],
    service_secs: SERVICE_SECS,
    workers: 1,
    forks: false,
    wire: || {
        let words = ["DEBUG", "SLEEP", "0.01"];
        Wire::Redis(words.map(str::to_owned).to_vec())
    },
    start: |stage| {
        let addr = stage.addr();
        let mut command = stage.program(PROGRAM)?;
        command.args(["--bind", "127.0.0.1", "--port", &addr.port().to_string()]);
        command.args(["--save", "", "--appendonly", "no", "--enable-debug-command", "yes"]);
        let program = stage.tcp(&mut command, addr)?;
        let mut stuck: Option<TcpStream> = None;
        let fault = move |fault: Fault, begins: bool| {
            match (fault, begins, stuck.take()) {
                (Fault::Stuck, true, _) => {
                    let mut client = TcpStream::connect(addr)?;
                    client.write_all(STOP)?;
                    stuck = Some(client);
                }
                (Fault::Stuck, false, Some(mut client)) => drop(client.read(&mut [0; 16])?),
                _ => {}
            }
            Ok(())
        };
        Ok(Started::at(addr, Box::new(fault), program))
    },
    scenes: || usual(300),
};
