//! Drains over real sockets: the requests to a working receiver, and proof that a slow, broken or
//! lying one takes no work from a node.
//!
//! Signatures are verified by a library that is not the agent's.

use std::{
    fs,
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use spillway_agent::{
    act::{
        Executor as _, Outcome, OutcomeKind,
        drain::{DrainWorker, Override, OverrideFile, Readiness},
    },
    clock::Clock,
    config::{Config, Mode, parse},
    decide::{Action, Decision, GuardRefusal, IncidentId},
    detect::{Bound, Claim, ClaimState, LeakClaim, OverloadClaim, Resource, Verdict},
    sense::ProcessId,
};
use spillway_tests::{
    Reference, Scratch, agent,
    http_server::respond,
    now,
    receiver::{Call, Form, Manner, Receiver},
    skip,
    tls::{Authority, TlsServer},
    wait_for,
};
use standardwebhooks::Webhook;

const KEYS: [&str; 2] = [
    "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD4bZ4Y1qx2WQ=",
];
const SOON: Duration = Duration::from_secs(10);

/// Node with its configuration and the receiver of its requests.
struct Node {
    scratch: Scratch,
    receiver: Receiver,
    config: Config,
}

/// Agent of a node, and its outcomes so far.
struct Agent {
    /// Drain worker; `None` once it has ended.
    drainer: Option<DrainWorker>,
    outcomes: Vec<Outcome>,
}

impl Node {
    fn make(test: &str) -> Self {
        let (scratch, receiver) =
            (Scratch::make(&format!("drain-{test}")), Receiver::start(Form::Webhook));
        let keys = scratch.secret("keys", &KEYS.join("\n"));
        let text = format!(
            "mode = \"enforce\"\n[act.drain]\nurl = \"{}\"\nsecret_file = \"{}\"\ndeadline \
            = \"3s\"\ndwell = \"1s\"\nverify = \"1s\"\n\
             drained_within = \"1s\"\n\
             [record]\nstate_dir = \"{}\"\n",
            receiver.url("/drains"),
            keys.display(),
            scratch.0.join("state").display()
        );
        let config = parse(&text, "x.toml").unwrap_or_else(|errors| panic!("{errors}"));
        Self { scratch, receiver, config }
    }

    fn start(&self) -> Agent {
        Agent {
            drainer: Some(
                DrainWorker::start(&self.config, Clock::start(), None, None)
                    .expect("starting the worker"),
            ),
            outcomes: Vec::new(),
        }
    }

    fn word(&self) -> OverrideFile {
        OverrideFile::below(&self.config.record.state_dir)
    }

    /// Calls of this type, each signed with both keys and all under one identity with the same
    /// bytes.
    fn calls(&self, ask: &str) -> Vec<Call> {
        let wanted = format!("io.spillway.node.{ask}.requested");
        let calls: Vec<_> = self
            .receiver
            .calls()
            .into_iter()
            .filter(|call| call.json()["type"] == wanted)
            .collect();
        for call in &calls {
            verify(call);
        }
        calls
    }

    fn kept(&self) -> Value {
        let text =
            fs::read(self.config.record.state_dir.join("drain.json")).expect("reading a test file");
        serde_json::from_slice(&text).expect("the file should be JSON")
    }
}

impl Drop for Agent {
    /// Ends the worker, so that it writes nothing after the test's directory is removed.
    fn drop(&mut self) {
        self.drainer.take().map(|drainer| Box::new(drainer).stop());
    }
}

impl Agent {
    fn drainer(&self) -> &DrainWorker {
        self.drainer.as_ref().expect("the worker runs until dropped")
    }

    fn decide(&mut self, action: Action) -> bool {
        self.decide_on(action, &verdict(300.0))
    }

    fn decide_on(&mut self, action: Action, verdict: &Verdict) -> bool {
        let drainer = self.drainer.as_mut().expect("the worker runs until dropped");
        drainer.perform(&decision(action, verdict), std::slice::from_ref(verdict))
    }

    /// Passes the active claims once, as the agent's loop does at each scan.
    fn sees(&mut self, t: f64, claims: &[Verdict]) {
        self.drainer
            .as_mut()
            .expect("the worker runs until dropped")
            .observe(t, &mut claims.iter());
    }

    /// All outcomes not yet waited for.
    fn rest(&mut self) -> Vec<OutcomeKind> {
        self.outcomes.extend(self.drainer.iter_mut().flat_map(|drainer| drainer.outcomes(0.0)));
        self.outcomes.iter().map(|outcome| outcome.event).collect()
    }

    /// Waits for an outcome of this kind and returns it.
    fn until(&mut self, event: OutcomeKind) -> Outcome {
        let found = wait_for(SOON, || {
            self.outcomes.extend(self.drainer.iter_mut().flat_map(|drainer| drainer.outcomes(0.0)));
            self.outcomes.iter().position(|outcome| outcome.event == event)
        });
        let at = found.unwrap_or_else(|| panic!("no outcome {event:?}: {:?}", self.outcomes));
        self.outcomes.drain(..=at).next_back().expect("the range is not empty")
    }

    fn says(&self) -> Readiness {
        self.drainer().readiness().says()
    }
}

fn leak(pid: u32) -> IncidentId {
    IncidentId::Leak(ProcessId { pid, start_ticks: 4_711 }, Resource::Memory)
}

fn decision(action: Action, verdict: &Verdict) -> Decision {
    let (id, mode, why) = (IncidentId::from(verdict), Mode::Enforce, verdict.why.clone());
    let verdict = Arc::new(verdict.clone());
    Decision { action, mode, verdict, id, performed: false, refused: None, why }
}

fn overload(backlog: u32) -> Verdict {
    let addr = Arc::from("0.0.0.0:8080");
    let claim =
        OverloadClaim { addr, netns: 7, backlog, backlog_max: 128, ..OverloadClaim::default() };
    Verdict { claim: Claim::Overload(claim), why: "its queue stands".to_owned(), ..verdict(4.0) }
}

/// Leak that ends this many seconds after the start of the test.
fn verdict(exhaustion_secs: f64) -> Verdict {
    let claim = LeakClaim {
        cgroup_memory: None,
        resource: Resource::Memory,
        id: ProcessId { pid: std::process::id(), start_ticks: 4_711 },
        comm: Arc::from("api"),
        cgroup: Arc::from("/api.service"),
        growth_bytes_per_sec: Some(1_048_576.0),
        growth_handles_per_sec: None,
        growth_interval_bytes_per_sec: None,
        bound: Bound::Host,
    };
    Verdict {
        t: 0.0,
        claim: Claim::Leak(claim),
        exhaustion_secs: Some(exhaustion_secs),
        exhaustion_interval_secs: None,
        harm: None,
        identity: None,
        confidence: 1.0,
        state: ClaimState::Raised,
        why: "it leaks".to_owned(),
    }
}

/// Checks that the holder of either key accepts the call, and no other.
fn verify(call: &Call) {
    let headers = call.header_map();
    for key in KEYS {
        let webhook = Webhook::new(key).expect("the key should be valid");
        webhook.verify(&call.body, &headers).unwrap_or_else(|error| panic!("{error}: {call:?}"));
        let forged = [&call.body[..], b" "].concat();
        assert!(webhook.verify(&forged, &headers).is_err());
    }
    assert_eq!(
        call.headers["webhook-id"],
        call.json()["id"].as_str().expect("the request should have an id")
    );
    assert_eq!(call.headers["content-type"], "application/cloudevents+json; charset=utf-8");
}

fn assert_one_request(calls: &[Call]) {
    for call in calls {
        assert_eq!(call.headers["webhook-id"], calls[0].headers["webhook-id"]);
        assert_eq!(call.body, calls[0].body);
    }
}

#[test]
fn granted_drain_is_undone_when_the_incident_is_over() {
    let node = Node::make("granted");
    let mut agent = node.start();
    assert!(agent.decide(Action::Drain));
    let asked = agent.until(OutcomeKind::DrainRequested);
    assert_eq!(
        (asked.cause, &*asked.cgroup, asked.why.as_str()),
        (leak(std::process::id()).into(), "node", "it leaks")
    );
    agent.until(OutcomeKind::Draining);
    assert_eq!(agent.says(), Readiness::Drain);
    agent.until(OutcomeKind::Drained);
    assert!(agent.decide(Action::Undrain));
    agent.until(OutcomeKind::Verifying);
    assert_eq!(agent.says(), Readiness::Drain);
    agent.until(OutcomeKind::UndrainRequested);
    agent.until(OutcomeKind::Undrained);
    assert_eq!(agent.says(), Readiness::Ready(100));

    let (drains, undrains) = (node.calls("drain"), node.calls("undrain"));
    assert_eq!((drains.len(), undrains.len()), (1, 1));
    let event = drains[0].json();
    assert_eq!((&event["specversion"], &event["subject"]), (&json!("1.0"), &event["data"]["node"]));
    let data = &event["data"];
    assert_eq!(
        (&data["reason"], &data["evidence"]["verdict"]),
        (&json!("it leaks"), &json!("leak")),
        "{event}"
    );
    assert!(data["deadline"].as_str() > event["time"].as_str(), "{event}");
    assert_ne!(drains[0].headers["webhook-id"], undrains[0].headers["webhook-id"]);
    assert_eq!(node.kept()["phase"], "healthy");
}

#[test]
fn python_library_accepts_only_unchanged_signatures() {
    let reference = match Reference::find() {
        Ok(reference) => reference,
        Err(reason) => return skip("drain-reference", &reason),
    };
    let node = Node::make("reference");
    let mut agent = node.start();
    agent.decide(Action::Drain);
    agent.until(OutcomeKind::Drained);
    // The older key is removed once every receiver has the newer one.
    fs::write(node.scratch.0.join("keys"), KEYS[0]).expect("writing a test file");
    agent.decide(Action::Undrain);
    agent.until(OutcomeKind::Undrained);
    let calls = node.receiver.calls();
    assert_eq!(calls.len(), 2);
    reference.judge(&KEYS, &calls[0]);
    reference.judge(&KEYS[..1], &calls[1]);
    assert_eq!(reference.verify(KEYS[1], &calls[1]), Err("No matching signature found".to_owned()));
}

#[test]
fn failed_request_is_retried_until_granted() {
    let node = Node::make("retried");
    node.receiver.behaves(Manner::Answers(503, "", Vec::new()));
    let mut agent = node.start();
    agent.decide(Action::Drain);
    let seen = |count: usize| -> Instant {
        wait_for(SOON, || (node.receiver.calls().len() >= count).then(now))
            .expect("the agent should send a request")
    };
    let (first, second) = (seen(1), seen(2));
    // A busy machine adds to the delay.
    assert!(second - first < Duration::from_millis(1_500), "{:?}", second - first);
    assert_eq!(agent.says(), Readiness::Ready(100));
    // Most of the deadline.
    sleep(Duration::from_millis(500));
    node.receiver.behaves(Manner::Well);
    agent.until(OutcomeKind::Draining);
    let drains = node.calls("drain");
    assert!(drains.len() >= 3, "{}", drains.len());
    assert_one_request(&drains);
}

#[test]
fn ungranted_drain_takes_no_work_from_the_node() {
    for (nth, manner) in [
        Manner::Hangs,
        Manner::Resets,
        Manner::Answers(503, "", Vec::new()),
        Manner::Answers(302, "location: /elsewhere\r\n", Vec::new()),
        Manner::Answers(200, "", vec![b'x'; 1 << 20]),
        Manner::Answers(429, "retry-after: 60\r\n", Vec::new()),
        Manner::Slow(Duration::from_secs(20)),
    ]
    .into_iter()
    .enumerate()
    {
        let node = Node::make(&format!("denied-{nth}"));
        node.receiver.behaves(manner.clone());
        let mut agent = node.start();
        let begun = now();
        agent.decide(Action::Drain);
        let refused = agent.until(OutcomeKind::DrainRefused);
        assert!(begun.elapsed() < Duration::from_secs(6), "{manner:?}: {:?}", begun.elapsed());
        assert!(
            refused.event.is_setback()
                && refused.why.starts_with("no receiver granted it before the deadline"),
            "{refused:?}"
        );
        assert_eq!(agent.says(), Readiness::Ready(100));
        assert_one_request(&node.calls("drain"));
        // The receiver may have drained the node all the same.
        node.receiver.behaves(Manner::Well);
        agent.until(OutcomeKind::UndrainRequested);
        assert!(
            node.receiver
                .calls()
                .iter()
                .all(|call| call.method_and_target() == ("POST", "/drains")),
            "a redirect was followed"
        );
    }
}

#[test]
fn refused_drain_is_reported_and_not_retried() {
    for status in [409, 423] {
        let node = Node::make(&format!("refused-{status}"));
        node.receiver.behaves(Manner::Answers(status, "", b"two are drained already".to_vec()));
        let mut agent = node.start();
        agent.decide(Action::Drain);
        let refused = agent.until(OutcomeKind::DrainRefused);
        assert_eq!(refused.why, format!("refused: HTTP {status}: two are drained already"));
        assert!(refused.event.is_setback());
        sleep(Duration::from_secs(2));
        assert_eq!((node.receiver.calls().len(), agent.says()), (1, Readiness::Ready(100)));
        assert_eq!(node.kept()["phase"], "healthy");
    }
}

#[test]
fn drain_that_ends_before_its_grant_is_withdrawn() {
    let node = Node::make("withdrawn");
    node.receiver.behaves(Manner::Slow(Duration::from_secs(1)));
    let mut agent = node.start();
    agent.decide(Action::Drain);
    wait_for(SOON, || (node.receiver.most_open() > 0).then_some(()))
        .expect("the agent should send a request");
    agent.decide(Action::Undrain);
    agent.until(OutcomeKind::UndrainRequested);
    agent.until(OutcomeKind::Undrained);
    // In this order, so that the undrain is in effect at the end; the late grant had no effect.
    let types: Vec<_> =
        node.receiver.calls().iter().map(|call| call.json()["type"].clone()).collect();
    assert_eq!(types, ["io.spillway.node.drain.requested", "io.spillway.node.undrain.requested"]);
    assert!(
        agent.outcomes.is_empty() && agent.says() == Readiness::Ready(100),
        "{:?}",
        agent.outcomes
    );
}

#[test]
fn receiver_returning_410_gets_no_more_requests() {
    let node = Node::make("gone");
    node.receiver.behaves(Manner::Answers(410, "", Vec::new()));
    let mut agent = node.start();
    agent.decide(Action::Drain);
    agent.until(OutcomeKind::DrainRefused);
    node.receiver.behaves(Manner::Well);
    node.word().set(Override::Drain).expect("writing the override");
    // An operator's override applies whatever the receiver does.
    assert!(wait_for(SOON, || (agent.says() == Readiness::Drain).then_some(())).is_some());
    agent.until(OutcomeKind::DrainRefused);
    assert_eq!(node.receiver.calls().len(), 1);
}

#[test]
fn retry_after_is_respected() {
    let node = Node::make("later");
    node.receiver.behaves(Manner::Answers(429, "retry-after: 2\r\n", Vec::new()));
    let mut agent = node.start();
    agent.decide(Action::Drain);
    let seen = |count: usize| {
        wait_for(SOON, || (node.receiver.calls().len() >= count).then(now))
            .expect("the agent should send a request")
    };
    let first = seen(1);
    node.receiver.behaves(Manner::Well);
    let waited = seen(2) - first;
    assert!(waited >= Duration::from_millis(1_900), "{waited:?}");
    agent.until(OutcomeKind::Draining);
}

#[test]
fn success_with_invalid_body_is_a_grant() {
    let node = Node::make("nonsense");
    node.receiver.behaves(Manner::Echoes(200, b"<html>\xff{".to_vec()));
    let mut agent = node.start();
    agent.decide(Action::Drain);
    agent.until(OutcomeKind::Draining);
}

#[test]
fn receiver_returning_200_to_everything_drains_nothing() {
    let mut node = Node::make("unproven");
    node.config.act.drain.deadline = Duration::from_secs(300);
    node.receiver.behaves(Manner::Answers(
        200,
        "webhook-id: drain-1\r\n",
        b"<html>welcome".to_vec(),
    ));
    let mut agent = node.start();
    agent.decide(Action::Drain);
    let refused = agent.until(OutcomeKind::DrainRefused);
    let why = "HTTP 200: <html>welcome, without the webhook-id of the request\n  hint: have the \
    receiver return it";
    assert!(refused.why.starts_with(why), "{}", refused.why);
    // The receiver may have drained all the same; returning to service needs no proof.
    agent.until(OutcomeKind::Undrained);
    sleep(Duration::from_secs(2));
    assert_eq!(
        (node.calls("drain").len(), node.calls("undrain").len(), agent.says()),
        (3, 1, Readiness::Ready(100))
    );
    // Another incident makes a new request.
    node.receiver.behaves(Manner::Well);
    agent.decide(Action::Undrain);
    agent.decide(Action::Drain);
    agent.until(OutcomeKind::Draining);
}

#[test]
fn receiver_without_echo_grants_only_if_configured() {
    let mut node = Node::make("no-echo");
    node.config.act.drain.require_echo = false;
    node.receiver.behaves(Manner::Answers(200, "", Vec::new()));
    let mut agent = node.start();
    agent.decide(Action::Drain);
    agent.until(OutcomeKind::Draining);
}

#[test]
fn useless_drain_is_undone_and_not_repeated() {
    let mut node = Node::make("useless");
    node.config.act.drain.helps_within = Duration::from_secs(1);
    let mut agent = node.start();
    let before = [overload(100)];
    agent.sees(0.0, &before);
    assert!(agent.decide_on(Action::Drain, &before[0]), "the receiver should grant it");
    agent.until(OutcomeKind::Draining);
    agent.sees(1.0, &[overload(97)]);
    let useless = agent.until(OutcomeKind::DrainUseless);
    assert_eq!(useless.why, "the drain did not help in 1 s: 97 connections wait, 100 before");
    assert!(useless.event.is_setback());
    let asked = agent.until(OutcomeKind::UndrainRequested);
    assert_eq!(asked.why, useless.why);
    agent.until(OutcomeKind::Undrained);
    sleep(Duration::from_secs(2));
    assert_eq!((node.calls("drain").len(), agent.says()), (1, Readiness::Ready(100)));
    // The next incident of the same name is a new one, and its drain helps.
    agent.decide_on(Action::Undrain, &before[0]);
    agent.decide_on(Action::Drain, &before[0]);
    agent.until(OutcomeKind::Draining);
    agent.sees(2.0, &[overload(20)]);
    sleep(Duration::from_secs(2));
    assert!(
        !agent.rest().contains(&OutcomeKind::DrainUseless) && agent.says() == Readiness::Drain,
        "{:?}",
        agent.outcomes
    );
}

/// Node whose balancer polls and which has no receiver.
fn without_granter(test: &str) -> Node {
    let mut node = Node::make(test);
    node.config.act.drain.url = None;
    node.config.act.drain.agent_check.listen =
        Some("127.0.0.1:1".parse().expect("the address should be valid"));
    node
}

#[test]
fn ungranted_overload_lowers_the_weight_to_the_floor() {
    for action in [Action::Weigh, Action::Drain] {
        let node = without_granter(&format!("floor-{action}"));
        let mut agent = node.start();
        assert_eq!(agent.decide_on(action, &overload(100)), action == Action::Weigh);
        let steps: Vec<_> = (0..8)
            .map(|nth| {
                // The overload never shrinks.
                agent.sees(f64::from(nth) * 4.0, &[overload(100)]);
                agent.says()
            })
            .collect();
        assert_eq!(steps, [90, 80, 70, 60, 50, 50, 50, 50].map(Readiness::Ready));
        sleep(Duration::from_secs(2));
        assert_eq!((agent.rest(), agent.says()), (vec![], Readiness::Ready(50)), "{action}");
        agent.decide_on(
            if action == Action::Weigh { Action::Unweigh } else { Action::Undrain },
            &overload(100),
        );
        let steps: Vec<_> = (0..7)
            .map(|nth| {
                agent.sees(40.0 + f64::from(nth) * 10.0, &[]);
                agent.says()
            })
            .collect();
        assert_eq!(steps, [60, 70, 80, 90, 100, 100, 100].map(Readiness::Ready));
        assert!(node.receiver.calls().is_empty());
    }
}

#[test]
fn overload_drain_of_an_old_config_ends_at_once() {
    let mut node = Node::make("floor-kept");
    let mut agent = node.start();
    agent.decide_on(Action::Drain, &overload(100));
    agent.until(OutcomeKind::Drained);
    drop(agent);
    node.config.act.drain.url = None;
    node.config.act.drain.agent_check.listen =
        Some("127.0.0.1:1".parse().expect("the address should be valid"));
    let mut agent = node.start();
    assert_eq!(agent.says(), Readiness::Ready(100), "ready from the start");
    agent.until(OutcomeKind::Undrained);
    assert_eq!(node.kept()["phase"], "healthy");
}

#[test]
fn ungranted_leak_waits_for_the_nodes_stagger() {
    let node = without_granter("stagger");
    let mut agent = node.start();
    assert!(agent.decide_on(Action::Drain, &verdict(6.0)));
    let asked = agent.until(OutcomeKind::DrainRequested);
    let waited = asked
        .why
        .split("it leaks; waited for ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next()?.parse().ok());
    let waited: f64 = waited.unwrap_or_else(|| panic!("{}", asked.why));
    // At most a third, plus half a second until the next check.
    assert!((0.0..=2.6).contains(&waited), "{waited}");
    agent.until(OutcomeKind::Draining);
    assert_eq!(agent.says(), Readiness::Drain);
}

#[test]
fn refused_drain_does_not_lower_the_weight() {
    let mut node = Node::make("refused-weight");
    node.config.act.drain.agent_check.listen =
        Some("127.0.0.1:1".parse().expect("the address should be valid"));
    node.receiver.behaves(Manner::Answers(409, "", b"two are drained already".to_vec()));
    let (mut agent, near) = (node.start(), [verdict(300.0)]);
    agent.sees(1.0, &near);
    assert_eq!(agent.says(), Readiness::Ready(50), "the leak's end is near");
    agent.decide(Action::Drain);
    agent.until(OutcomeKind::DrainRefused);
    let risen: Vec<_> = (0..6)
        .map(|nth| {
            agent.sees(11.0 + 10.0 * f64::from(nth), &near);
            agent.says()
        })
        .collect();
    assert_eq!(risen, [60, 70, 80, 90, 100, 100].map(Readiness::Ready));

    // A drain that policy refuses does not lower it either.
    let node = without_granter("refused-by-policy");
    let mut agent = node.start();
    let refused = Some(GuardRefusal::Budget { actions_per_hour_max: 6 });
    let refused = Decision { refused, ..decision(Action::Drain, &near[0]) };
    assert!(
        !agent.drainer.as_mut().expect("the worker should be running").perform(&refused, &near)
    );
    agent.sees(1.0, &near);
    assert_eq!(agent.says(), Readiness::Ready(100));
}

#[test]
fn operator_undrain_restores_the_full_weight() {
    let node = without_granter("whole");
    let mut agent = node.start();
    agent.sees(1.0, &[verdict(300.0)]);
    assert_eq!(agent.says(), Readiness::Ready(50));
    node.word().set(Override::Undrain).expect("writing the override");
    assert!(wait_for(SOON, || (agent.says() == Readiness::Ready(100)).then_some(())).is_some());
    node.word().clear().expect("writing the override");
    assert!(wait_for(SOON, || (agent.says() == Readiness::Ready(50)).then_some(())).is_some());
}

#[test]
fn next_run_continues_and_undrains_what_is_over() {
    let node = Node::make("restart");
    let mut agent = node.start();
    agent.decide(Action::Drain);
    agent.until(OutcomeKind::Drained);
    drop(agent);
    // The recorded process has this test's pid with another start time, so it is gone.
    let mut agent = node.start();
    assert_eq!(agent.says(), Readiness::Drain, "drained from the start");
    agent.until(OutcomeKind::Verifying);
    agent.until(OutcomeKind::Undrained);
    assert_eq!((node.calls("drain").len(), node.calls("undrain").len()), (1, 1));
}

#[test]
fn second_agent_drains_once_the_first_ends() {
    let node = Node::make("two");
    fs::create_dir(&node.config.record.state_dir).expect("making the state directory");
    let mut first = node.start();
    let mut second = node.start();
    assert!(!second.decide(Action::Drain), "the first agent drains");
    sleep(Duration::from_secs(1));
    assert!(node.receiver.calls().is_empty() && first.says() == Readiness::Ready(100));
    assert!(first.decide(Action::Drain));
    first.until(OutcomeKind::Drained);
    let follows = wait_for(SOON, || (second.says() == Readiness::Drain).then_some(()));
    assert!(follows.is_some(), "the second agent should report the same to balancers");
    drop(first);
    // It continues the requested drain without another request.
    assert!(wait_for(SOON, || second.decide(Action::Drain).then_some(())).is_some());
    assert_eq!(second.says(), Readiness::Drain);
    let mut third = node.start();
    assert!(second.decide(Action::Undrain) && !third.decide(Action::Undrain));
    second.until(OutcomeKind::Undrained);
    assert_eq!((node.calls("drain").len(), node.calls("undrain").len()), (1, 1));
    drop(second);
    drop(third);
    // A lock that is held forever must not delay the end.
    let lock = fs::File::open(node.config.record.state_dir.join("drain.lock"))
        .expect("opening a test file");
    lock.lock().expect("the lock should be free");
    let waits = node.start();
    let begun = now();
    drop(waits);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[test]
fn two_agents_without_state_send_one_request() {
    let node = Node::make("two-new");
    let mut agents = [node.start(), node.start()];
    assert!(
        !node.config.record.state_dir.exists(),
        "an agent without state should not make its directory"
    );
    let decided = agents.each_mut().map(|agent| agent.decide(Action::Drain));
    assert!(decided.contains(&true), "one of them should drain");
    let first = wait_for(SOON, || {
        let says = agents.each_ref().map(|agent| agent.says() == Readiness::Drain);
        (says == [true; 2]).then_some(())
    });
    assert!(first.is_some(), "one should drain and the other follow");
    assert_eq!(node.calls("drain").len(), 1);
    let refused = agents.iter_mut().filter_map(|agent| {
        agent.rest();
        agent.outcomes.iter().find(|outcome| outcome.event == OutcomeKind::DrainRefused).cloned()
    });
    let refused: Vec<_> = refused.collect();
    assert!(
        matches!(&refused[..], [one] if one.why.ends_with("another agent has locked it")),
        "{refused:?}"
    );
}

#[test]
fn a_request_outlives_a_restart_as_the_same_request() {
    let node = Node::make("restart-request");
    node.receiver.behaves(Manner::Answers(503, "", Vec::new()));
    node.word().set(Override::Drain).expect("writing the override");
    let agent = node.start();
    wait_for(SOON, || (!node.receiver.calls().is_empty()).then_some(()))
        .expect("the agent should send a request");
    drop(agent);
    node.receiver.behaves(Manner::Well);
    let mut agent = node.start();
    agent.until(OutcomeKind::Draining);
    assert_one_request(&node.calls("drain"));
}

#[test]
fn changed_clock_is_harmless() {
    let node = Node::make("clock");
    let mut agent = node.start();
    node.word().set(Override::Drain).expect("writing the override");
    agent.until(OutcomeKind::Drained);
    drop(agent);
    for since_ms in [0_u64, u64::MAX] {
        let mut kept = node.kept();
        kept["since_ms"] = json!(since_ms);
        fs::write(node.config.record.state_dir.join("drain.json"), kept.to_string())
            .expect("writing a test file");
        let agent = node.start();
        assert_eq!(agent.says(), Readiness::Drain);
        sleep(Duration::from_millis(300));
        assert_eq!(agent.says(), Readiness::Drain);
        drop(agent);
    }
    // A request that has expired by this clock gets no response and is withdrawn.
    let mut kept = node.kept();
    let cause = json!({"id": "operator", "why": "so", "evidence": null});
    let request =
        json!({"id": "drain-old", "ask": "drain", "at_ms": 1, "deadline_ms": 2, "cause": cause});
    (kept["phase"], kept["is_out"], kept["request"]) =
        (json!("drain_requested"), json!(false), request);
    fs::write(node.config.record.state_dir.join("drain.json"), kept.to_string())
        .expect("writing a test file");
    let mut agent = node.start();
    agent.until(OutcomeKind::DrainRefused);
    agent.until(OutcomeKind::UndrainRequested);
}

#[test]
fn override_applies_whatever_the_agent_sees() {
    let mut node = Node::make("word");
    node.config.mode = Mode::Observe;
    let mut agent = node.start();
    assert!(!agent.decide(Action::Drain), "observe mode should drain nothing");
    node.word().set(Override::Drain).expect("writing the override");
    agent.until(OutcomeKind::Drained);
    assert_eq!(agent.says(), Readiness::Drain);
    node.word().set(Override::Maintenance).expect("writing the override");
    assert!(wait_for(SOON, || (agent.says() == Readiness::Maintenance).then_some(())).is_some());
    node.word().set(Override::Undrain).expect("writing the override");
    agent.until(OutcomeKind::Undrained);
    assert_eq!(agent.says(), Readiness::Ready(100));
    drop(agent);

    node.config.mode = Mode::Enforce;
    let mut agent = node.start();
    let asked = node.receiver.calls().len();
    assert!(agent.decide(Action::Drain));
    sleep(Duration::from_secs(2));
    assert_eq!(
        (node.receiver.calls().len(), agent.says()),
        (asked, Readiness::Ready(100)),
        "the node should stay in service"
    );
}

#[test]
fn pause_stops_only_new_drains() {
    let node = Node::make("paused");
    let pause = spillway_agent::act::Pause::below(&node.config.record.state_dir);
    pause.turn_on().expect("writing the pause file");
    let mut agent = node.start();
    agent.decide(Action::Drain);
    sleep(Duration::from_secs(2));
    assert!(node.receiver.calls().is_empty());
    pause.turn_off().expect("writing the pause file");
    agent.until(OutcomeKind::Drained);
    pause.turn_on().expect("writing the pause file");
    sleep(Duration::from_secs(2));
    assert_eq!(agent.says(), Readiness::Drain);
}

#[test]
fn without_receiver_nothing_drains_unless_a_balancer_asks() {
    let mut node = Node::make("nobody");
    node.config.act.drain.url = None;
    assert!(!node.start().decide(Action::Drain));
    assert!(!node.start().decide_on(Action::Weigh, &overload(100)), "no balancer reads the weight");
    node.config.act.drain.agent_check.listen =
        Some("127.0.0.1:1".parse().expect("the address should be valid"));
    let mut agent = node.start();
    assert!(agent.decide_on(Action::Drain, &verdict(3.0)));
    agent.until(OutcomeKind::Draining);
    assert_eq!((agent.says(), node.receiver.calls().len()), (Readiness::Drain, 0));
}

#[test]
fn unwritable_disk_prevents_drains() {
    let node = Node::make("disk");
    fs::write(node.scratch.0.join("state"), "no directory").expect("writing a test file");
    let mut agent = node.start();
    // The pause flag cannot be read either, so the agent counts as paused; an operator cannot set
    // an override.
    assert!(agent.decide(Action::Drain));
    sleep(Duration::from_secs(1));
    agent.rest();
    assert!(
        node.receiver.calls().is_empty() && agent.says() == Readiness::Ready(100),
        "{:?}",
        agent.outcomes
    );
}

#[test]
fn tls_receiver_and_agent_authenticate_each_other() {
    let mut node = Node::make("tls");
    let (servers, clients) = (Authority::make(), Authority::make());
    let server = TlsServer::start(&servers, &["127.0.0.1"], Some(&clients), |_, stream| {
        respond(stream, "204 No Content", "", b"")
    });
    let [cert_file, key_file] = ["client.crt", "client.key"].map(|name| node.scratch.0.join(name));
    clients.client(&cert_file, &key_file);
    let drain = &mut node.config.act.drain;
    drain.url = Some(format!("https://{}/drains", server.addr));
    drain.require_echo = false;
    (drain.client_cert_file, drain.client_key_file) = (Some(cert_file), Some(key_file));
    drain.ca_file = Some(node.scratch.file("ca.crt", &servers.pem()));
    let mut agent = node.start();
    agent.decide(Action::Drain);
    agent.until(OutcomeKind::Draining);
    assert_eq!(server.received().len(), 1);

    // A server with another certificate gets no request.
    let mut other = Node::make("tls-other");
    other.config.act.drain = node.config.act.drain.clone();
    other.config.act.drain.ca_file = Some(other.scratch.file("ca.crt", &clients.pem()));
    let mut agent = other.start();
    agent.decide(Action::Drain);
    let refused = agent.until(OutcomeKind::DrainRefused);
    assert!(refused.why.contains("negotiating TLS"), "{refused:?}");
    assert_eq!(server.received().len(), 1);
}

#[test]
fn undo_of_the_unit_keeps_an_operators_drain() {
    let node = Node::make("keep");
    let config = format!("[record]\nstate_dir = \"{}\"\n", node.config.record.state_dir.display());
    let config = node.scratch.file("agent.toml", &config);
    let unit = include_str!("../../../configs/systemd/spillway.service");
    let after = unit.lines().find_map(|line| line.strip_prefix("ExecStopPost=+")).expect("a line");
    let command: Vec<_> = after.split(' ').skip(1).take_while(|word| *word != "--config").collect();
    node.word().set(Override::Drain).expect("writing the override");
    let mut first = node.start();
    first.until(OutcomeKind::Draining);
    drop(first);
    let output = agent().args(&command).arg("--config").arg(&config).output().expect("running it");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(node.word().read(), Ok(Some(Override::Drain)));
    assert_ne!(node.start().says(), Readiness::Ready(100));
}

#[test]
fn undo_undrains_and_resume_returns_control() {
    let node = Node::make("undo");
    let config = format!("[record]\nstate_dir = \"{}\"\n", node.config.record.state_dir.display());
    let config = node.scratch.file("agent.toml", &config);
    // Without a status socket the drain's worker counts as no agent.
    let run = |command: &str, exits: i32| {
        let output =
            agent().arg(command).arg("--config").arg(&config).output().expect("running the agent");
        assert_eq!(output.status.code(), Some(exits), "{output:?}");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    assert!(run("undo", 0).starts_with("nothing to undo"));
    assert_eq!(node.word().read(), Ok(None));
    let mut agent = node.start();
    agent.decide(Action::Drain);
    agent.until(OutcomeKind::Draining);
    assert!(run("undo", 1).starts_with("the agent undrains this node"));
    agent.until(OutcomeKind::Undrained);
    assert_eq!(agent.says(), Readiness::Ready(100));
    run("resume", 0);
    assert_eq!(node.word().read(), Ok(None));
    for (command, exits, word) in [("drain", 1, Override::Drain), ("undrain", 0, Override::Undrain)]
    {
        assert!(run(command, exits).to_lowercase().contains("no agent runs"));
        assert_eq!(node.word().read(), Ok(Some(word)));
    }
}
