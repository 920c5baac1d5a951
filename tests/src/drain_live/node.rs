//! Service of a node, and the configuration of its agent.

use std::{net::SocketAddr, path::PathBuf, process::Command, time::Duration};

use crate::{OwnCgroup, Scratch, Workload, built};

/// Starts a server that takes this long for each request on average, up to 64 at once, and leaks
/// this much memory with each.
///
/// # Panics
///
/// Panics if it does not start.
pub fn backend(service: Duration, leak: &str, cgroup: Option<&OwnCgroup>) -> Workload {
    let mut command = Command::new(built("workload"));
    command.args(["--name", "backend", "serve", "--threads", "64", "--leak", leak]);
    command.args(["--service", &format!("{}ms", service.as_millis())]);
    if let Some(cgroup) = cgroup {
        cgroup.admit(&mut command).expect("cannot enter the cgroup");
    }
    Workload::start(&mut command)
}

/// Returns a configuration that judges within seconds and drains, and waits as briefly for
/// connections of others on this machine. It limits nothing, so that only the drain has an effect.
/// Every process with a cgroup of its own is a service.
pub fn quick(scratch: &Scratch, mode: &str, agent_check: SocketAddr) -> PathBuf {
    scratch.file(
        "spillway.toml",
        &format!(
            "mode = \"{mode}\"\n[serve]\nlisten = \"127.0.0.1:0\"\n[sense]\ninterval \
            = \"100ms\"\n[detect.leak]\n\
             warm_up = \"0s\"\nhorizons = [\"4s\", \"6s\", \"10s\", \"20s\"]\nmin_growth \
             = \"8MiB\"\n\
             [decide]\nservices = [\"/*\"]\n[act.limit]\nenabled = false\n[act.drain]\ndwell \
             = \"1s\"\ndrained_within = \"4s\"\n\
             verify = \"2s\"\n\
             [act.drain.agent_check]\nlisten = \"{agent_check}\"\n[record]\nstate_dir = \"{}\"\n",
            scratch.0.join("state").display()
        ),
    )
}
