//! Slots from a strict FleetLock server, and none from one that is broken, silent or another.

use std::time::Duration;

use spillway_agent::{
    fleet::{Acquired, Coordinator as _, CoordinatorError, FleetLock, NodeReport, NodeState},
    net::http_client::TlsOptions,
};
use spillway_tests::{
    Scratch,
    fleetlock::{FleetLockServer, LockConduct},
    now,
};

struct Fleet {
    scratch: Scratch,
    server: FleetLockServer,
}

impl Fleet {
    fn start(test: &str) -> Self {
        let fleet = Self {
            scratch: Scratch::make(&format!("fleetlock-{test}")),
            server: FleetLockServer::start(1),
        };
        fleet.scratch.file("ca.crt", &fleet.server.authority.pem());
        fleet
    }

    fn node(&self, group: &str, name: &str) -> FleetLock {
        let tls = TlsOptions { ca_file: Some(self.scratch.0.join("ca.crt")), client: None };
        FleetLock::new(&self.server.url(), group, name, tls).expect("the names are allowed")
    }

    fn error(&self, result: Result<Acquired, CoordinatorError>) -> String {
        let error = result.expect_err("no slot may be taken").to_string();
        error.replace(&self.server.url(), "URL")
    }
}

#[test]
fn slot_is_taken_refused_to_another_and_returned() {
    let fleet = Fleet::start("slot");
    let [mut first, mut second] = ["web-1", "web-2 é"].map(|name| fleet.node("web", name));
    assert_eq!(first.snapshot(), Ok(None));
    for _ in 0..2 {
        assert_eq!(first.acquire(None), Ok(Acquired::Taken), "repeats are harmless");
    }
    let reason = "all slots are locked already (failed_lock_semaphore_full)".to_owned();
    assert_eq!(second.acquire(None), Ok(Acquired::Denied(reason)));
    assert_eq!(fleet.node("db", "web-2").acquire(None), Ok(Acquired::Taken), "another group");
    assert_eq!(second.release(), Ok(()), "it holds none");
    assert_eq!(fleet.server.holders("web"), ["web-1"]);
    for _ in 0..2 {
        assert_eq!(first.release(), Ok(()), "repeats are harmless");
    }
    assert_eq!(second.acquire(None), Ok(Acquired::Taken));
    assert_eq!(fleet.server.holders("web"), ["web-2 é"]);
}

#[test]
fn new_run_returns_the_slot_of_the_last_unless_it_is_out() {
    let fleet = Fleet::start("runs");
    let report = |state| NodeReport { state, ..NodeReport::new("web-1", "web", 7, 1) };
    let holds = || fleet.server.holders("web") == ["web-1"];
    assert_eq!(fleet.node("web", "web-1").acquire(None), Ok(Acquired::Taken));
    let mut run = fleet.node("web", "web-1");
    assert_eq!(run.publish(&report(NodeState::OutByOperator)), Ok(()));
    assert!(holds(), "it may come back by itself");
    assert_eq!(run.publish(&report(NodeState::Serving)), Ok(()));
    assert!(!holds());
    let mut run = fleet.node("web", "web-1");
    assert_eq!(run.publish(&report(NodeState::Out)), Ok(()));
    assert!(holds(), "the truth counts");
    let requests = fleet.server.server.received().len();
    assert_eq!(run.publish(&report(NodeState::Serving)), Ok(()));
    assert!(holds() && fleet.server.server.received().len() == requests, "only at first");
    fleet.server.conduct(LockConduct::Says("503 Down", String::new()));
    let mut run = fleet.node("web", "web-1");
    assert!(run.publish(&report(NodeState::Serving)).is_err());
    fleet.server.conduct(LockConduct::Counts);
    assert_eq!(run.publish(&report(NodeState::Serving)), Ok(()));
    assert!(!holds(), "until it succeeds");
}

#[test]
fn replies_that_are_not_of_the_protocol_take_no_slot() {
    let fleet = Fleet::start("replies");
    let mut node = fleet.node("web", "web-1");
    for (status, body, expected) in [
        (
            "404 Not Found",
            "404 page not found\n",
            "refused: HTTP 404: 404 page not found\n  hint: ",
        ),
        ("502 Bad Gateway", "", "refused: HTTP 502\n  hint: "),
        ("302 Found", "", "refused: HTTP 302\n  hint: "),
        ("200 OK", "<!doctype html>", "sent a reply that cannot be read: HTTP 200 with a page\n"),
        ("500 Oops", "a\nb\u{1b}[31mc", "refused: HTTP 500: a b [31mc\n  hint: "),
    ] {
        fleet.server.conduct(LockConduct::Says(status, body.to_owned()));
        let error = fleet.error(node.acquire(None));
        assert!(error.starts_with(&format!("fleetlock at URL {expected}")), "{error}");
        assert!(node.release().is_err(), "{status}");
    }
    let big = " ".repeat((64 << 10) + 1);
    fleet.server.conduct(LockConduct::Says("200 OK", big));
    let error = fleet.error(node.acquire(None));
    assert!(error.contains("the response is larger than 65536 bytes"), "{error}");
    let fault = r#"{"kind":"no_lock","value":"lock lost"}"#.to_owned();
    fleet.server.conduct(LockConduct::Says("500 Oops", fault));
    let error = node.release().expect_err("the slot may still be taken").to_string();
    assert!(error.ends_with(" refused: lock lost (no_lock)"), "{error}");
}

#[test]
fn silent_and_untrusted_servers_are_errors_within_the_timeout() {
    let fleet = Fleet::start("silent");
    let mut node = fleet.node("web", "web-1");
    fleet.server.conduct(LockConduct::Hangs);
    let started = now();
    let error = node.acquire(None).expect_err("no slot may be taken");
    assert!(matches!(error, CoordinatorError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("timed out after 5 s"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(7));

    let tls = TlsOptions { ca_file: None, client: None };
    let url = format!("{}/8c0d1ab2f7e94c55", fleet.server.url());
    let mut stranger = FleetLock::new(&url, "web", "web-1", tls).expect("the names are allowed");
    let error = stranger.acquire(None).expect_err("no slot may be taken").to_string();
    assert!(error.contains("/base/[secret] did not answer: failed while "), "{error}");
    let ca_file = Some(fleet.scratch.0.join("missing.crt"));
    let tls = TlsOptions { ca_file, client: None };
    let mut node = FleetLock::new(&url, "web", "web-1", tls).expect("the names are allowed");
    let error = node.acquire(None).expect_err("no slot may be taken").to_string();
    assert!(error.starts_with("fleetlock cannot be used: ") && error.contains("missing.crt"));
}
