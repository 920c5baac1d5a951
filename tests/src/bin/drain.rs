//! Leaking node behind HAProxy under load, without the agent and then with it: the part of `cargo
//! xtask demo` about drains.
//!
//! Prints one JSON line per event and one per run, and cleans up on a stopping signal. If it cannot
//! run here, its only line gives the reason. Needs root, for the cgroup and the agent.

use std::{
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
};

use anyhow::Context as _;
use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use spillway_tests::{Servers, drain_live::leaking};

/// Exit code of a program that SIGINT ended.
const STOPPED: u8 = 130;

fn main() -> anyhow::Result<ExitCode> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, stop.clone())
            .with_context(|| format!("cannot handle signal {signal}"))?;
    }
    for with_agent in [false, true] {
        let tell = |at_secs: f64, happened| {
            println!(
                "{}",
                json!({"with_agent": with_agent, "at_secs": at_secs, "happened": happened})
            )
        };
        let ran = Servers::find().and_then(|servers| {
            leaking(&servers, &format!("drain-{with_agent}"), with_agent, &stop, tell)
        });
        match ran {
            Ok(Some(ran)) => println!("{}", json!({"with_agent": with_agent, "ran": ran})),
            Ok(None) => return Ok(ExitCode::from(STOPPED)),
            Err(why) => {
                println!("{}", json!({"not_run": why}));
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
