//! Load shed at the door of a real server, beside the same load without: gunicorn with synchronous
//! workers. `cargo xtask shed` does the same with every kind of server.

use spillway_agent::bpf::Probe;
use spillway_tests::{
    Servers, is_root,
    real_servers::{SHED_SERVERS, shed},
    sensors_with, skip,
};

const SERVER: &str = "gunicorn-sync";

#[test]
fn overloaded_server_answers_what_it_can() {
    let test = "overloaded_server_answers_what_it_can";
    if !is_root(test) {
        return;
    }
    let Ok(servers) = Servers::find().inspect_err(|reason| skip(test, reason)) else { return };
    // Without waits and accepts an overload is seen too late for a surge this short.
    if sensors_with(Probe::AcceptQueue, test).is_none() {
        return;
    }
    let server = SHED_SERVERS.iter().find(|server| server.family.name == SERVER);
    let server = server.expect("it is in the table");
    let shedding = match shed(server, &servers) {
        Ok(shedding) => shedding,
        Err(error) => panic!("{SERVER}: {error:#}"),
    };
    println!("{}", shedding.report());
    assert_eq!(shedding.missed(), [] as [String; 0], "{}", shedding.log);
}
