//! Live: listeners that come back. Depth, age and owner are held against the truth on every kernel, see `src/kernel/listeners.rs`.

use std::process::Command;

use spillway_agent::kernel::Probe;
use spillway_tests::{Workload, listeners, sensors_with};

#[test]
fn a_restarted_server_is_named_by_its_new_pid() {
    let test = "a_restarted_server_is_named_by_its_new_pid";
    let Some(mut sensors) = sensors_with(Probe::AcceptQueue, test) else { return };
    let serve = |addr: &str| {
        Workload::start(Command::new(env!("CARGO_BIN_EXE_workload")).args(["stuck-server", "--addr", addr]))
    };
    let addr = serve("127.0.0.1:0").addr();
    // The kernel likes to put the new socket where the old one was; owners are looked up only every ten seconds.
    for restart in 0..20 {
        let server = serve(&addr.to_string());
        let facts = listeners(&mut sensors, f64::from(restart) / 10.0);
        let fact = facts.iter().find(|fact| *fact.addr == *addr.to_string()).expect("the server listens");
        assert_eq!(fact.pid, Some(server.pid()), "restart {restart}");
    }
}
