//! Nodes of a group that coordinate through Lease objects, on a strict server whose clock is three
//! hours ahead of theirs. The tests set it forward, as if the nodes had been paused.

use std::{fs, path::PathBuf, time::Duration};

use hyper::{Method, Request, body::Bytes};
use serde_json::{Value, json};
use spillway_agent::{
    fleet::{
        Acquired, Coordinator as _, CoordinatorError, KubernetesCoordinator, KubernetesOptions,
        Member, NodeReport, NodeState, TokenSource,
    },
    net::{
        http_client::{HttpClient, RequestLimits, TlsOptions},
        secret::SecretSource,
    },
};
use spillway_tests::{
    Scratch, agent,
    api_leases::{CONFORMING, LeaseFault, LeaseServer, NAMESPACE, conforming},
    group_node::{GroupNode, holders, member, pages_are_claimed_once},
    now,
};

const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOlsiYXBpIl19.c2ln";
const GROUP: &str = "web";
const SILENT_SECS: i64 = 45;

/// Seconds after which a node counts as silent, with what readers grant it.
const SURELY_SILENT_SECS: i64 = SILENT_SECS + 5;

struct Cluster {
    scratch: Scratch,
    server: LeaseServer,
}

type Node = GroupNode<KubernetesCoordinator>;

fn rules(verbs: &[&str]) -> Value {
    json!([{ "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": verbs }])
}

impl Cluster {
    fn start(test: &str) -> Self {
        let verbs = ["get", "list", "create", "update", "delete"];
        let cluster = Self {
            scratch: Scratch::make(&format!("leases-{test}")),
            server: LeaseServer::start(TOKEN, rules(&verbs)),
        };
        cluster.server.service_account(&cluster.dir(), TOKEN);
        cluster
    }

    fn dir(&self) -> PathBuf {
        self.scratch.0.join("account")
    }

    fn options(&self, name: &str, run: u64) -> KubernetesOptions {
        KubernetesOptions {
            url: self.server.url(),
            namespace: NAMESPACE.to_owned(),
            group: GROUP.to_owned(),
            node: name.to_owned(),
            run,
            tls: TlsOptions { ca_file: Some(self.dir().join("ca.crt")), client: None },
            token: TokenSource::ServiceAccount(self.dir()),
            silent_after: Duration::from_secs(SILENT_SECS as u64),
        }
    }

    fn node(&self, name: &str, run: u64) -> Node {
        let coordinator = KubernetesCoordinator::new(self.options(name, run));
        Node::new(coordinator.expect("the names are allowed"), name, GROUP, run)
    }

    /// Nodes `web-1` to `web-3`, published.
    fn three(&self) -> [Node; 3] {
        let mut nodes = [1, 2, 3].map(|nth| self.node(&format!("web-{nth}"), nth));
        nodes.iter_mut().for_each(Node::publish);
        nodes
    }

    fn slots(&self) -> Value {
        let leases = self.server.leases();
        let (_, lease) =
            leases.iter().find(|(name, _)| name.starts_with("spillway-slots-")).expect("slots");
        let text = lease["metadata"]["annotations"]["spillway.io/slots"].as_str();
        serde_json::from_str(text.expect("the slots are text")).expect("the slots are JSON")
    }
}

#[test]
fn one_node_pages_for_a_leak_of_all_until_it_fails() {
    let cluster = Cluster::start("page");
    let mut nodes = cluster.three();
    let pages = || {
        let leases = cluster.server.leases();
        leases.iter().filter(|(name, _)| name.starts_with("spillway-page-")).count()
    };
    let warning = pages_are_claimed_once(&mut nodes);
    assert_eq!(pages(), 3);
    // Another run of that node goes on with its pages.
    cluster.server.passes(SURELY_SILENT_SECS);
    let mut again = cluster.node("web-3", 33);
    again.publish();
    nodes[0].publish();
    assert_eq!(again.claims_page(&warning), None);
    assert_eq!(nodes[0].claims_page(&warning), Some("web-3".to_owned()));
    // The pager fails. What its earlier run left is deleted by others.
    cluster.server.passes(SURELY_SILENT_SECS);
    nodes[0].publish();
    assert_eq!((nodes[0].claims_page(&warning), pages()), (None, 3));
    nodes[0].snapshot();
    nodes[0].publish();
    assert_eq!(pages(), 2, "those of web-1");
}

#[test]
fn strict_server_answers_as_the_real_one() {
    let cluster = Cluster::start("conforming");
    let tls = TlsOptions { ca_file: Some(cluster.dir().join("ca.crt")), client: None };
    let answers = conforming(&mut |method, rest, body| {
        let url = cluster.server.url();
        let url = format!("{url}/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases{rest}");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = Request::builder()
            .method(method.parse::<Method>().expect("a method"))
            .uri(url)
            .header("authorization", format!("Bearer {TOKEN}"))
            .header("accept", "application/json")
            .header("content-type", "application/json")
            .body(Bytes::from(body))
            .expect("a request");
        let limits = RequestLimits { timeout: Duration::from_secs(5), body_bytes_max: 1 << 20 };
        let reply = HttpClient::new(&tls).and_then(|client| client.send(request, limits));
        let reply = reply.expect("the server answers");
        (reply.status.as_u16(), serde_json::from_slice(&reply.body).unwrap_or_default())
    });
    assert_eq!(answers, CONFORMING);
}

#[test]
fn silent_node_loses_its_slot_and_stays_a_member() {
    let cluster = Cluster::start("silent");
    let [mut first, mut second, mut third] = cluster.three();
    let expected = [&first, &second, &third].map(|node| Member {
        node: node.report.node.clone(),
        is_alive: true,
        has_slot: false,
        report: Ok(node.report.clone()),
    });
    let snapshot = third.snapshot();
    assert_eq!((&snapshot.members[..], snapshot.grant_revision), (&expected[..], 0));
    first.takes_slot();
    assert_eq!(holders(&second.snapshot()), ["web-1"]);
    // Still alive at the end of its time.
    cluster.server.passes(SILENT_SECS);
    assert_eq!(holders(&second.snapshot()), ["web-1"]);
    cluster.server.passes(SURELY_SILENT_SECS - SILENT_SECS);
    second.publish();
    let silent = second.snapshot();
    assert!(!member(&silent, "web-1").is_alive && member(&silent, "web-2").is_alive);
    assert_eq!(holders(&silent), [""; 0], "the slot frees itself");
    assert_eq!(member(&silent, "web-1").report, Ok(first.report.clone()), "a member for an hour");

    // Back from the pause: fenced until it publishes, and without its slot from then on.
    let since = first.snapshot();
    assert_eq!(first.acquire(&since), Acquired::Stale);
    assert!(!first.coordinator.has_lost_slot(), "not noticed yet");
    first.publish();
    assert!(first.coordinator.has_lost_slot());
    assert_eq!(cluster.slots()["slots"], json!([]));
    assert_eq!(second.acquire(&silent), Acquired::Stale, "that was a change");
    second.takes_slot();
    assert_eq!(holders(&third.snapshot()), ["web-2"]);
    assert!(first.coordinator.has_lost_slot(), "until it takes or returns one");
    first.coordinator.release().expect("returning what it does not have");
    assert!(!first.coordinator.has_lost_slot());
    assert_eq!(holders(&third.snapshot()), ["web-2"]);

    // Silent for an hour: the next report of another deletes the lease.
    cluster.server.passes(3_700);
    second.publish();
    let names: Vec<_> = second.snapshot().members.into_iter().map(|member| member.node).collect();
    assert_eq!(names, ["web-2"]);
    assert_eq!(cluster.server.leases().len(), 4);
    second.publish();
    assert_eq!(cluster.server.leases().len(), 2, "web-2 and the slots are left");
    first.publish();
    assert!(member(&second.snapshot(), "web-1").is_alive, "it is back");
}

#[test]
fn slot_of_a_paused_node_is_taken_by_one_other() {
    let cluster = Cluster::start("paused");
    let [mut first, mut second, mut third] = cluster.three();
    first.takes_slot();
    first.publishes_state(NodeState::Out);
    cluster.server.passes(SURELY_SILENT_SECS);
    second.publish();
    third.publish();
    let since = second.snapshot();
    assert_eq!(second.acquire(&since), Acquired::Taken);
    assert_eq!(third.acquire(&since), Acquired::Stale);
    assert_eq!(cluster.slots()["slots"], json!([{ "node": "web-2", "run": 2 }]));
    // The truth counts: the node is out, and has a slot again.
    first.publish();
    assert_eq!(holders(&third.snapshot()), ["web-1", "web-2"]);
    first.publishes_state(NodeState::Serving);
    assert_eq!(holders(&third.snapshot()), ["web-1", "web-2"], "until it is returned");
    first.release();
    // Between the look and the grant the paused node came back.
    second.release();
    first.takes_slot();
    first.publishes_state(NodeState::Out);
    cluster.server.passes(SURELY_SILENT_SECS);
    second.publish();
    let since = second.snapshot();
    assert_eq!(holders(&since), [""; 0]);
    first.publish();
    assert_eq!(second.acquire(&since), Acquired::Stale);
    // Deleted by hand.
    cluster.server.change("spillway-slots-", |lease| *lease = Value::Null);
    first.publish();
    assert_eq!(holders(&third.snapshot()), ["web-1"]);
    first.publishes_state(NodeState::Serving);
    cluster.server.change("spillway-slots-", |lease| *lease = Value::Null);
    first.publish();
    assert!(first.coordinator.has_lost_slot());
}

#[test]
fn repeats_and_lost_replies_are_harmless() {
    let cluster = Cluster::start("replies");
    let [mut first, mut second, mut third] = cluster.three();
    assert_eq!(first.coordinator.acquire(None), Ok(Acquired::Stale), "it judged nothing");
    let since = third.snapshot();
    cluster.server.fails("POST", LeaseFault::LosesReply);
    let error = first.coordinator.acquire(Some(&since)).expect_err("the reply is lost");
    assert!(matches!(error, CoordinatorError::Unreachable { .. }), "{error}");
    assert_eq!(first.acquire(&since), Acquired::Taken);
    assert_eq!(first.acquire(&since), Acquired::Taken);
    assert_eq!(second.acquire(&since), Acquired::Stale);
    for _ in 0..2 {
        first.release();
    }
    // Carried out after the node had given up: the next report returns it.
    let since = third.snapshot();
    cluster.server.fails("PUT", LeaseFault::LosesReply);
    first.coordinator.acquire(Some(&since)).expect_err("the reply is lost");
    assert_eq!(holders(&third.snapshot()), ["web-1"]);
    first.publish();
    assert_eq!(holders(&third.snapshot()), [""; 0]);
    assert!(!first.coordinator.has_lost_slot());
    // A report whose reply is lost is no other run's.
    first.takes_slot();
    cluster.server.fails("PUT", LeaseFault::LosesReply);
    first.coordinator.publish(&first.report).expect_err("the reply is lost");
    first.publish();
    assert_eq!(holders(&third.snapshot()), ["web-1"]);
    assert!(!first.coordinator.has_lost_slot());
    // Another client writes in between.
    cluster.server.fails("PUT", LeaseFault::Busy);
    first.publish();
    cluster.server.fails("PUT", LeaseFault::Busy);
    first.release();
    assert_eq!(holders(&third.snapshot()), [""; 0]);
    let since = third.snapshot();
    cluster.server.fails("PUT", LeaseFault::Busy);
    assert_eq!(first.acquire(&since), Acquired::Stale);
    // Deleted by hand: the next report makes it again.
    cluster.server.change("spillway-web-1-", |lease| *lease = Value::Null);
    first.publish();
    assert!(member(&third.snapshot(), "web-1").is_alive);
}

#[test]
fn two_runs_with_one_name_are_reported_and_the_older_gives_way() {
    let cluster = Cluster::start("name");
    let [mut older, mut newer] = [7, 8].map(|run| cluster.node("web-1", run));
    older.publish();
    older.takes_slot();
    let error = newer.refused();
    assert!(error.contains(" refused: another agent, of run 7, publishes as web-1\n  "), "{error}");
    assert!(error.contains("hint: give each node a name of its own"), "{error}");
    let since = newer.snapshot();
    assert_eq!(newer.acquire(&since), Acquired::Stale);
    newer.coordinator.leave().expect("it has nothing");
    assert_eq!(holders(&older.snapshot()), ["web-1"]);
    // The older run ended: an agent that was restarted takes over, without its slot.
    cluster.server.passes(SURELY_SILENT_SECS);
    newer.publish();
    assert_eq!(holders(&newer.snapshot()), [""; 0], "of another run");
    newer.takes_slot();
    assert_eq!(cluster.slots()["slots"], json!([{ "node": "web-1", "run": 8 }]));
    assert!(older.refused().contains("of run 8"));
    let since = newer.snapshot();
    assert_eq!(older.acquire(&since), Acquired::Stale);
    older.coordinator.leave().expect("it has nothing");
    assert_eq!(holders(&newer.snapshot()), ["web-1"]);
    newer.coordinator.leave().expect("leaving");
    assert!(newer.snapshot().members.is_empty());
    assert_eq!(cluster.slots()["slots"], json!([]));
    newer.coordinator.leave().expect("leaving again");
}

#[test]
fn leases_of_others_are_unreadable_members() {
    let cluster = Cluster::start("hostile");
    let [mut first, mut second, _] = cluster.three();
    let annotate = |lease: &mut Value, name: &str, value: Value| {
        lease["metadata"]["annotations"][name] = value;
    };
    let good = String::from_utf8(second.report.to_json()).expect("a report is text");
    let other_group = String::from_utf8(NodeReport::new("web-2", "db", 2, 1).to_json());
    for (report, expected) in [
        ("\u{1b}[31m".into(), "it is no report: "),
        (good.replace("\"v\":1", "\"v\":2").into(), "it has version 2, and this agent"),
        (good.replace("web-2", "web-9").into(), "it names node \"web-9\", and its key \"web-2\""),
        (other_group.expect("a report is text").into(), "it names group \"db\", and its key"),
        (" ".repeat(3_000).into(), "it has 3000 bytes, more than 2048"),
        (Value::Null, "it has no report"),
    ] {
        cluster.server.change("spillway-web-2-", |lease| {
            if report == Value::Null {
                lease["metadata"]["annotations"] = json!({ "spillway.io/node": "web-2" });
            } else {
                annotate(lease, "spillway.io/report", report);
            }
        });
        let snapshot = first.snapshot();
        let why = member(&snapshot, "web-2").report.clone().expect_err(expected);
        assert!(why.starts_with(expected) && !why.contains('\u{1b}'), "{why}");
    }
    second.publish();
    // Renewed in a future that the server does not know.
    cluster.server.change("spillway-web-2-", |lease| {
        lease["spec"]["renewTime"] = "2199-01-01T00:00:00.000000Z".into();
    });
    assert!(!member(&first.snapshot(), "web-2").is_alive);
    cluster.server.change("spillway-web-2-", |lease| lease["spec"] = json!({}));
    assert!(!member(&first.snapshot(), "web-2").is_alive);
    // A lease with the name of another node, and one without any.
    let copy = cluster
        .server
        .leases()
        .into_values()
        .find(|lease| lease["metadata"]["annotations"]["spillway.io/node"] == "web-1");
    let mut copy = copy.expect("it was published");
    copy["metadata"]["name"] = "web-1".into();
    cluster.server.add(copy.clone());
    copy["metadata"]["name"] = "bare".into();
    copy["metadata"]["annotations"] = Value::Null;
    cluster.server.add(copy);
    let snapshot = first.snapshot();
    assert_eq!(member(&snapshot, "web-1").report, Ok(first.report.clone()));
    let why = |name| member(&snapshot, name).report.clone().expect_err(name);
    let expected = "it names node \"web-1\", whose lease has another name";
    assert_eq!(why("lease/web-1"), expected);
    assert!(why("lease/bare").starts_with("its lease has no annotation spillway.io/node"));

    // Slots that cannot be read: nobody leaves.
    first.takes_slot();
    for (slots, expected) in [
        ("garbage", "expected value"),
        (r#"{"v":9}"#, "they have version 9, and this agent reads version 1"),
        (r#"{"v":1,"group":"db","slots":[]}"#, "they are of group \"db\", and not of \"web\""),
        (r#"{"v":1,"group":"web","slots":[{"node":"a/b","run":1}]}"#, "one is of node \"a/b\""),
        (r#"{"v":1,"group":"web","slots":[{"node":"a","run":-1}]}"#, "invalid value"),
    ] {
        cluster.server.change("spillway-slots-", |lease| {
            annotate(lease, "spillway.io/slots", slots.into());
        });
        for error in [
            first.coordinator.snapshot().err(),
            second.coordinator.acquire(Some(&snapshot)).err(),
            first.coordinator.release().err(),
        ] {
            // web-2 has no lease of its own run now, so it is told to judge again.
            let Some(error) = error.map(|error| error.to_string()) else { continue };
            assert!(error.contains(&format!("the slots of the group: {expected}")), "{error}");
            assert!(error.contains("\n  hint: nobody leaves until lease spillway-slots-web-"));
        }
        assert!(first.coordinator.snapshot().is_err(), "{slots}");
    }
}

#[test]
fn large_groups_are_read_page_by_page_at_one_time() {
    const MEMBERS: usize = 1_201;
    let cluster = Cluster::start("pages");
    let mut node = cluster.node("web-0000", 0);
    node.publish();
    let first = cluster.server.leases().into_values().next().expect("it was published");
    for nth in 1..MEMBERS {
        let mut published = first.clone();
        let (name, run) = (format!("web-{nth:04}"), nth as u64);
        let mut other = cluster.node(&name, run);
        if nth == 1 {
            other.publish();
            continue;
        }
        let report = NodeReport::new(&name, GROUP, run, 1_700_000_000_000).to_json();
        published["metadata"]["name"] = format!("z-{nth}").into();
        published["metadata"]["annotations"]["spillway.io/node"] = name.into();
        published["metadata"]["annotations"]["spillway.io/report"] =
            String::from_utf8(report).expect("a report is text").into();
        cluster.server.add(published);
    }
    let requests = || cluster.server.server.received().len();
    let before = requests();
    let snapshot = node.snapshot();
    assert_eq!((snapshot.members.len(), requests() - before), (MEMBERS, 3));
    assert!(member(&snapshot, "web-0001").is_alive);
    // The token of a page expires once: it is read again from the start.
    cluster.server.fails("GET", LeaseFault::TooMany);
    let error = node.coordinator.snapshot().expect_err("a part of the group").to_string();
    assert!(error.contains("did not answer: HTTP 429: too many requests\n  hint: "), "{error}");
    let before = requests();
    cluster.server.expires_after(1, 1);
    assert_eq!(node.snapshot().members.len(), MEMBERS);
    assert_eq!(requests() - before, 5);
    cluster.server.expires_after(1, 2);
    let error = node.coordinator.snapshot().expect_err("it expires always").to_string();
    assert!(error.contains("its list expires before it is read\n  hint: "), "{error}");
    // More than a group may have.
    cluster.server.fails("GET", LeaseFault::Floods);
    let error = node.coordinator.snapshot().expect_err("it is too large").to_string();
    assert!(error.contains("the response is larger than 33554432 bytes\n  hint: "), "{error}");
}

#[test]
fn token_is_read_again_and_missing_rights_are_named() {
    let cluster = Cluster::start("rights");
    let [mut first, _, _] = cluster.three();
    cluster.server.takes("another-token-of-the-account");
    let error = first.refused();
    assert!(error.contains(" refused: HTTP 401: Unauthorized\n  hint: the token has"), "{error}");
    fs::write(cluster.dir().join("token"), "another-token-of-the-account\n").expect("writing");
    first.publish();
    for (verb, operation) in [("list", 0), ("get", 1), ("update", 2), ("create", 3)] {
        let others: Vec<_> = ["get", "list", "create", "update", "delete"]
            .into_iter()
            .filter(|other| *other != verb)
            .collect();
        cluster.server.rules(rules(&others));
        let mut stranger = cluster.node("web-4", 4);
        let error = match operation {
            0 => first.coordinator.snapshot().map(drop),
            1 => stranger.coordinator.publish(&stranger.report),
            2 => first.coordinator.publish(&first.report),
            _ => stranger.coordinator.publish(&stranger.report),
        };
        let error = error.expect_err(verb).to_string();
        let hint = format!(
            "hint: bind the Role of configs/kubernetes/fleet.yaml to this agent in namespace \
             {NAMESPACE}: it needs the verb {verb:?} on leases.coordination.k8s.io"
        );
        assert!(error.contains(" refused: HTTP 403: leases.") && error.ends_with(&hint), "{error}");
    }
    // A file of one's own, which others must not read.
    let secret = cluster.scratch.secret("token", "another-token-of-the-account");
    let verbs = ["get", "list", "create", "update", "delete"];
    cluster.server.rules(rules(&verbs));
    let token = TokenSource::Secret(SecretSource::File(secret));
    let options = KubernetesOptions { token, ..cluster.options("web-4", 4) };
    let mut outside = KubernetesCoordinator::new(options).expect("the names are allowed");
    outside.publish(&NodeReport::new("web-4", GROUP, 4, 1)).expect("the token is valid");
    fs::remove_file(cluster.dir().join("token")).expect("removing a file");
    let error = first.coordinator.snapshot().expect_err("there is no token").to_string();
    assert!(error.starts_with("kubernetes cannot be used: ") && error.contains("/token: "));
}

#[test]
fn servers_that_cannot_help_are_named_with_a_hint() {
    let cluster = Cluster::start("broken");
    let [mut first, mut second, _] = cluster.three();
    cluster.server.fails("GET", LeaseFault::WithoutDate);
    let error = first.coordinator.snapshot().expect_err("there is no time").to_string();
    assert!(error.contains("it has no valid Date header\n  hint: "), "{error}");
    cluster.server.fails("GET", LeaseFault::Hangs);
    let started = now();
    let error = first.coordinator.snapshot().expect_err("nobody replies");
    assert!(matches!(error, CoordinatorError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("timed out after 2 s"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(4));
    // A clock that is set back, or forward: nobody seems alive until the next reports.
    for secs in [-4_000, 2_000] {
        cluster.server.passes(secs);
        assert!(second.snapshot().members.iter().all(|member| !member.is_alive), "{secs}");
        first.publish();
        second.publish();
        let alive = second.snapshot();
        assert!(member(&alive, "web-1").is_alive && member(&alive, "web-2").is_alive);
        assert!(!member(&alive, "web-3").is_alive);
    }
    let error = {
        let options =
            KubernetesOptions { namespace: "other".to_owned(), ..cluster.options("web-1", 1) };
        let mut lost = KubernetesCoordinator::new(options).expect("the names are allowed");
        lost.snapshot().expect_err("there is no such namespace").to_string()
    };
    assert!(error.contains(" refused: HTTP 404: the server could not find"), "{error}");
    let tls = TlsOptions { ca_file: None, client: None };
    let options = KubernetesOptions { tls, ..cluster.options("web-1", 1) };
    let mut stranger = KubernetesCoordinator::new(options).expect("the names are allowed");
    let error = stranger.snapshot().expect_err("it does not trust the server").to_string();
    assert!(error.contains("did not answer: failed while negotiating TLS"), "{error}");
    assert!(error.contains("\n  hint: the API server has to be reachable from this pod"));
}

#[test]
fn commands_ask_the_api_server_of_the_pod_or_the_named_one() {
    let cluster = Cluster::start("commands");
    cluster.three();
    let dir = cluster.dir();
    let token = cluster.scratch.secret("token", TOKEN);
    let pod = format!(
        "[fleet]\nbackend = \"kubernetes\"\ngroup = \"web\"\nnode = \"web-1\"\n\
         [kubernetes]\nservice_account_dir = \"{}\"\n",
        dir.display()
    );
    let named = format!(
        "[fleet]\nbackend = \"kubernetes\"\ngroup = \"web\"\nnode = \"web-1\"\n\
         urls = [\"{}\"]\nnamespace = \"{NAMESPACE}\"\npassword_file = \"{}\"\n\
         ca_file = \"{}\"\n",
        cluster.server.url(),
        token.display(),
        dir.join("ca.crt").display()
    );
    let run = |word: &str, config: &str, has_pod: bool| {
        let config = cluster.scratch.file("spillway.toml", config);
        let mut command = agent();
        command.args([word, "--config"]).arg(config);
        if word == "doctor" {
            command.arg("--no-bpf");
        }
        command.env_remove("KUBERNETES_SERVICE_HOST").env_remove("KUBERNETES_SERVICE_PORT");
        if has_pod {
            command.env("KUBERNETES_SERVICE_HOST", "127.0.0.1");
            let port = cluster.server.server.addr.port();
            command.env("KUBERNETES_SERVICE_PORT", port.to_string());
        }
        let output = command.output().expect("the agent runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr)
    };
    for (config, has_pod) in [(&pod, true), (&named, false)] {
        let said = run("fleet", config, has_pod);
        let expected = "group web: kubernetes answers; 3 of 3 nodes are in rotation; this node";
        assert!(said.starts_with(expected), "{said}");
        let said = run("doctor", config, has_pod);
        assert!(said.contains("kubernetes answers; 3 of 3 nodes"), "{said}");
    }
    let said = run("doctor", &pod, false);
    let expected =
        "kubernetes cannot be used: KUBERNETES_SERVICE_HOST is not set; every pod has it";
    assert!(said.contains(expected), "{said}");
    fs::remove_file(dir.join("namespace")).expect("removing a file");
    let said = run("fleet", &pod, true);
    assert!(said.contains("/namespace: ") && said.contains("hint: set fleet.namespace"), "{said}");
    cluster.server.takes("another");
    let said = run("fleet", &named, false);
    assert!(said.contains("refused: HTTP 401: Unauthorized"), "{said}");
}
