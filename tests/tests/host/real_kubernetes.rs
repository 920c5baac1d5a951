//! Leases, rights, cordons and evictions on a real Kubernetes API server, which `cargo xtask test
//! --kubernetes` builds.

use std::{
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

use serde_json::{Value, json};
use spillway_agent::{
    fleet::{
        Acquired, Coordinator as _, CoordinatorError, KubernetesCoordinator, KubernetesOptions,
        NodeState, TokenSource,
    },
    net::http_client::TlsOptions,
};
use spillway_tests::{
    Scratch, agent,
    api_leases::{CONFORMING, conforming},
    group_node::{GroupNode, holders, member, pages_are_claimed_once},
    manifests::{Manifests, kustomized, read_shipped},
    now,
    real_kubernetes::RealKubernetes,
    wait_for,
};

use crate::cordon::{NODE, Receiver, write_keys};

const GROUP: &str = "web";

/// Time after which a node is silent.
const SILENT_AFTER: Duration = Duration::from_secs(2);

/// Time within which its slot has to be free.
const FREE_WITHIN: Duration = Duration::from_secs(2 + 15);

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/spillway/leases";

/// Starts an API server with the shipped rights of a fleet. Returns `None` and reports a skip if
/// something is missing.
fn start(test: &str) -> Option<(Scratch, RealKubernetes)> {
    let scratch = Scratch::make(&format!("kubernetes-{test}"));
    let started = now();
    let cluster = RealKubernetes::start(&scratch.0)?;
    println!("the API server was ready after {:.1} s", started.elapsed().as_secs_f64());
    cluster.namespace("spillway");
    cluster.apply(&read_shipped("fleet.yaml"));
    cluster.service_account(&account(&scratch), "spillway-fleet");
    Some((scratch, cluster))
}

fn account(scratch: &Scratch) -> PathBuf {
    scratch.0.join("account")
}

type Node = GroupNode<KubernetesCoordinator>;

fn new_node(account: &Path, name: &str, run: u64) -> Node {
    let coordinator = KubernetesCoordinator::new(KubernetesOptions {
        url: RealKubernetes::url(),
        namespace: "spillway".to_owned(),
        group: GROUP.to_owned(),
        node: name.to_owned(),
        run,
        tls: TlsOptions { ca_file: Some(account.join("ca.crt")), client: None },
        token: TokenSource::ServiceAccount(account.to_path_buf()),
        silent_after: SILENT_AFTER,
    });
    Node::new(coordinator.expect("the names are allowed"), name, GROUP, run)
}

#[test]
fn real_server_answers_as_the_strict_one() {
    let Some((_scratch, cluster)) = start("conforming") else { return };
    let answers = conforming(&mut |method, rest, body| {
        cluster.ask_as_admin(method, &format!("{LEASES}{rest}"), body)
    });
    assert_eq!(answers, CONFORMING);
}

#[test]
fn paused_node_loses_its_slot_and_a_second_of_its_name_waits() {
    let Some((scratch, _cluster)) = start("pause") else { return };
    let account = account(&scratch);
    let node = |name: &str, run| new_node(&account, name, run);
    let [mut first, mut second, mut third] = [1, 2, 3].map(|nth| node(&format!("web-{nth}"), nth));
    for one in [&mut first, &mut second, &mut third] {
        one.publish();
    }
    let since = third.snapshot();
    assert!(since.members.iter().all(|member| member.is_alive && member.report.is_ok()));
    assert_eq!((since.members.len(), since.grant_revision), (3, 0));
    assert_eq!(first.acquire(&since), Acquired::Taken);
    assert_eq!(first.acquire(&since), Acquired::Taken, "repeats are harmless");
    assert_eq!(second.acquire(&since), Acquired::Stale);
    first.report.state = NodeState::Out;
    first.publish();
    // Another agent of its name is refused, as long as the first renews.
    let mut other = node("web-1", 11);
    let error = other.coordinator.publish(&other.report).expect_err("the name is taken");
    assert!(matches!(&error, CoordinatorError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("another agent, of run 1, publishes as web-1"), "{error}");

    // From now on the first stops renewing, as a paused agent does.
    let paused = now();
    let silent = wait_for(FREE_WITHIN, || {
        second.publish();
        third.publish();
        let snapshot = third.snapshot();
        holders(&snapshot).is_empty().then_some(snapshot)
    });
    let since = silent.expect("an orphaned slot frees itself");
    println!("its slot was free after {:.1} s", paused.elapsed().as_secs_f64());
    assert!(paused.elapsed() > SILENT_AFTER);
    assert!(!member(&since, "web-1").is_alive && member(&since, "web-2").is_alive);
    // Of two that judged the same, one takes it.
    assert_eq!(second.acquire(&since), Acquired::Taken);
    assert_eq!(third.acquire(&since), Acquired::Stale);
    let asked = first.snapshot();
    assert_eq!(first.acquire(&asked), Acquired::Stale, "fenced until it publishes");
    first.report.state = NodeState::Serving;
    first.publish();
    assert!(first.coordinator.has_lost_slot());
    second.publish();
    assert_eq!(holders(&third.snapshot()), ["web-2"]);
    // A node that is out takes its slot back, because the truth counts.
    first.report.state = NodeState::Out;
    first.publish();
    second.publish();
    assert_eq!(holders(&third.snapshot()), ["web-1", "web-2"]);

    // The agent of the first ends, and another takes its name over.
    let taken = wait_for(FREE_WITHIN, || other.coordinator.publish(&other.report).ok());
    taken.expect("the run before is forgotten");
    assert!(first.coordinator.publish(&first.report).is_err());
    second.coordinator.leave().expect("leaving");
    other.publish();
    let snapshot = third.snapshot();
    assert!(snapshot.member("web-2").is_none() && holders(&snapshot).is_empty());
    for mut one in [other, third, second] {
        one.coordinator.leave().expect("leaving");
    }
    let since = node("web-9", 9).snapshot();
    assert!(since.members.is_empty() && since.grant_revision > 0, "{since:?}");
}

#[test]
fn one_node_pages_for_a_leak_of_all_until_it_fails() {
    let Some((scratch, cluster)) = start("page") else { return };
    let account = account(&scratch);
    let mut nodes = [1, 2, 3].map(|nth| new_node(&account, &format!("web-{nth}"), nth));
    nodes.iter_mut().for_each(Node::publish);
    let pages = || {
        let leases = cluster.admin("GET", LEASES, &Value::Null);
        let names = leases["items"].as_array().into_iter().flatten();
        let is_page = |lease: &&Value| {
            lease["metadata"]["name"]
                .as_str()
                .is_some_and(|name| name.starts_with("spillway-page-"))
        };
        names.filter(is_page).count()
    };
    let warning = pages_are_claimed_once(&mut nodes);
    assert_eq!(pages(), 3);
    // The pager fails: it publishes no more.
    let freed = wait_for(FREE_WITHIN, || {
        nodes[..2].iter_mut().for_each(Node::publish);
        nodes[0].claims_page(&warning).is_none().then_some(())
    });
    assert!(freed.is_some(), "a silent node still pages");
    assert_eq!(nodes[1].claims_page(&warning), Some("web-1".to_owned()));
}

#[test]
fn group_of_a_thousand_is_read_page_by_page() {
    const MEMBERS: usize = 1_000;
    let Some((scratch, cluster)) = start("thousand") else { return };
    let account = account(&scratch);
    let published = now();
    for nth in 1..MEMBERS {
        new_node(&account, &format!("web-{nth:04}"), nth as u64).publish();
    }
    let took = published.elapsed();
    println!("{MEMBERS} first reports took {:.1} s, with 3 requests each", took.as_secs_f64());
    let mut node = new_node(&account, "web-0000", 0);
    node.publish();
    let mut times: Vec<_> = (0..5)
        .map(|_| {
            let started = now();
            assert_eq!(node.snapshot().members.len(), MEMBERS);
            started.elapsed()
        })
        .collect();
    times.sort();
    let each = node.coordinator.snapshot_bytes() / MEMBERS;
    println!("{MEMBERS} members: {each} bytes each, {:?}, at most {:?}", times[2], times[4]);
    assert!(each < 2_000, "{each} bytes");
    assert!(times[2] < Duration::from_secs(2), "{:?}", times[2]);
    assert!(member(&node.snapshot(), "web-0000").is_alive);
    let all = cluster.admin("GET", LEASES, &Value::Null);
    assert_eq!(all["items"].as_array().map(Vec::len), Some(MEMBERS));
}

#[test]
fn role_of_a_fleet_allows_what_is_used_and_nothing_else() {
    let Some((scratch, cluster)) = start("role") else { return };
    let account = account(&scratch);
    let mut node = new_node(&account, "web-1", 1);
    node.publish();
    let since = node.snapshot();
    assert_eq!(node.acquire(&since), Acquired::Taken);
    node.publish();
    node.release();

    let config = scratch.file(
        "spillway.toml",
        &format!(
            "[fleet]\nbackend = \"kubernetes\"\ngroup = \"{GROUP}\"\nnode = \"web-1\"\n\
             silent_after = \"2s\"\n[kubernetes]\nservice_account_dir = \"{}\"\n",
            account.display()
        ),
    );
    let said = |word: &str| {
        let mut command = agent();
        command.args([word, "--config"]).arg(&config);
        command.env("KUBERNETES_SERVICE_HOST", "127.0.0.1");
        command.env("KUBERNETES_SERVICE_PORT", RealKubernetes::port().to_string());
        let output = command.output().expect("the agent runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr)
    };
    for word in ["fleet", "doctor"] {
        let said = said(word);
        assert!(said.contains("kubernetes answers; 1 of 1 nodes are in rotation"), "{said}");
    }

    cluster.namespace("other");
    let token = cluster.token("spillway-fleet");
    let name = cluster.admin("GET", LEASES, &Value::Null)["items"][0]["metadata"]["name"].clone();
    let name = name.as_str().expect("a lease has a name");
    let none = Value::Null;
    let other = "/apis/coordination.k8s.io/v1/namespaces/other/leases";
    for (method, path) in [
        ("PATCH", format!("{LEASES}/{name}")),
        ("DELETE", LEASES.to_owned()),
        ("GET", format!("{LEASES}?watch=1")),
        ("GET", other.to_owned()),
        ("GET", "/apis/coordination.k8s.io/v1/leases".to_owned()),
        ("GET", "/api/v1/nodes".to_owned()),
        ("GET", "/api/v1/namespaces/spillway/pods".to_owned()),
        ("GET", "/api/v1/namespaces/spillway/secrets".to_owned()),
        ("GET", "/api/v1/namespaces/spillway/configmaps".to_owned()),
        ("GET", "/apis/rbac.authorization.k8s.io/v1/namespaces/spillway/roles".to_owned()),
    ] {
        let body = if method == "PATCH" { &json!({ "metadata": {} }) } else { &none };
        let (status, said) = cluster.call(&token, method, &path, body);
        assert_eq!((status, &said["reason"]), (403, &json!("Forbidden")), "{method} {path}");
    }
    // Without the binding the missing right is named.
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/spillway/rolebindings";
    cluster.admin("DELETE", &format!("{bindings}/spillway-fleet"), &none);
    let refused = wait_for(Duration::from_secs(10), || node.coordinator.snapshot().err());
    let error = refused.expect("the rights are gone").to_string();
    assert!(error.contains(" refused: HTTP 403: leases.coordination.k8s.io is forbidden: "));
    assert!(error.ends_with("it needs the verb \"list\" on leases.coordination.k8s.io"), "{error}");
    let said = said("doctor");
    assert!(said.contains("bind the Role of configs/kubernetes/fleet.yaml"), "{said}");
    // A token that the server did not sign.
    let forged = token.replace('.', ".e");
    let (status, _) = cluster.call(&forged, "GET", LEASES, &none);
    assert_eq!(status, 401);
}

#[test]
fn agents_manifests_are_applied_and_its_role_reads_pods_alone() {
    let Some((_scratch, cluster)) = start("agent") else { return };
    for directory in ["agent", "enforce"] {
        cluster.apply(&kustomized(cluster.servers(), directory));
    }
    let daemons = "/apis/apps/v1/namespaces/spillway/daemonsets/spillway";
    let pod = &cluster.admin("GET", daemons, &Value::Null)["spec"]["template"]["spec"];
    let added = &pod["containers"][0]["securityContext"]["capabilities"]["add"];
    assert_eq!(added.as_array().and_then(|list| list.last()), Some(&json!("DAC_OVERRIDE")));
    let token = cluster.token("spillway");
    let pods = "/api/v1/pods?fieldSelector=spec.nodeName%3Dnode-1&resourceVersion=0";
    for (method, path, status) in [
        ("GET", pods, 200),
        ("GET", "/api/v1/namespaces/spillway/pods/x", 403),
        ("GET", "/api/v1/pods?watch=1", 403),
        ("DELETE", "/api/v1/namespaces/spillway/pods/x", 403),
        ("GET", "/api/v1/nodes", 403),
        ("GET", "/api/v1/secrets", 403),
        ("GET", "/api/v1/configmaps", 403),
        ("GET", LEASES, 403),
    ] {
        let (said, body) = cluster.call(&token, method, path, &Value::Null);
        assert_eq!(said, status, "{method} {path}: {body}");
    }
}

/// Applies the shipped receiver, and makes a node of this name.
fn with_node(cluster: &RealKubernetes, name: &str) -> Manifests {
    cluster.apply(&kustomized(cluster.servers(), "cordon"));
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name } });
    cluster.admin("POST", "/api/v1/nodes", &node);
    Manifests::read(cluster.servers(), "cordon")
}

#[test]
fn receiver_cordons_a_node_of_a_real_server() {
    let Some((scratch, cluster)) = start("cordon") else { return };
    let node = NODE;
    let manifests = with_node(&cluster, node);
    let keys = write_keys(&scratch);
    let account = scratch.0.join("cordon");
    cluster.service_account(&account, "spillway-cordon");
    let receiver = Receiver::start(&manifests, &keys, &account, RealKubernetes::port());
    let path = format!("/api/v1/nodes/{node}");
    let is_cordoned = || cluster.admin("GET", &path, &Value::Null)["spec"]["unschedulable"] == true;
    assert_eq!(receiver.ask("drain", "a"), (200, format!("{node} is cordoned")));
    assert!(is_cordoned());
    assert_eq!(receiver.ask("undrain", "b"), (200, format!("{node} is not cordoned")));
    assert!(!is_cordoned());
    cluster.admin("PATCH", &path, &json!({ "spec": { "unschedulable": true } }));
    let (status, said) = receiver.ask("drain", "c");
    assert!(status == 409 && said.contains("not by Spillway"), "{status} {said}");
    let token = cluster.token("spillway-cordon");
    for (method, path) in [
        ("GET", "/api/v1/nodes"),
        ("DELETE", "/api/v1/nodes/node-1.internal"),
        ("PATCH", "/api/v1/nodes/node-1.internal/status"),
        ("GET", "/api/v1/pods"),
        ("GET", LEASES),
    ] {
        let body = if method == "PATCH" { json!({ "metadata": {} }) } else { Value::Null };
        let (status, said) = cluster.call(&token, method, path, &body);
        assert_eq!((status, &said["reason"]), (403, &json!("Forbidden")), "{method} {path}");
    }
}

#[test]
fn evictions_as_the_receiver_describes_them_keep_a_budget() {
    let Some((_scratch, cluster)) = start("evict") else { return };
    let node = NODE;
    with_node(&cluster, node);
    let _controllers = cluster.controllers();
    let account = cluster.token("spillway-cordon");
    let evict = |pod: &str| {
        let eviction = json!({
            "apiVersion": "policy/v1beta1", "kind": "Eviction",
            "metadata": { "name": pod, "namespace": "spillway" },
        });
        let path = format!("/api/v1/namespaces/spillway/pods/{pod}/eviction");
        cluster.call(&account, "POST", &path, &eviction).0
    };
    let pods = "/api/v1/namespaces/spillway/pods";
    for pod in ["web-1", "web-2"] {
        let made = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": pod, "labels": { "app": "web" } },
            "spec": {
                "nodeName": node, "terminationGracePeriodSeconds": 0,
                "containers": [{ "name": "web", "image": "web" }],
                "tolerations": [{ "operator": "Exists" }],
            },
        });
        cluster.admin("POST", pods, &made);
        let ready = json!({ "status": {
            "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }],
        } });
        cluster.admin("PATCH", &format!("{pods}/{pod}/status"), &ready);
    }
    let budgets = "/apis/policy/v1beta1/namespaces/spillway/poddisruptionbudgets";
    let budget = json!({
        "apiVersion": "policy/v1beta1", "kind": "PodDisruptionBudget",
        "metadata": { "name": "web" },
        "spec": { "minAvailable": 1, "selector": { "matchLabels": { "app": "web" } } },
    });
    cluster.admin("POST", budgets, &budget);
    let allowed = || {
        let budget = cluster.admin("GET", &format!("{budgets}/web"), &Value::Null);
        budget["status"]["disruptionsAllowed"].as_i64()
    };
    let counted = wait_for(Duration::from_secs(60), || allowed().filter(|allowed| *allowed == 1));
    assert!(counted.is_some(), "the budget allows {:?}", allowed());
    assert_eq!(evict("web-1"), 403, "the shipped role evicts nothing");
    // The rights that cordon.py names for evictions.
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles/spillway-cordon";
    let mut role = cluster.admin("GET", roles, &Value::Null);
    let more = [("pods/eviction", "create"), ("pods", "list")];
    let more = more.map(
        |(resource, verb)| json!({ "apiGroups": [""], "resources": [resource], "verbs": [verb] }),
    );
    role["rules"].as_array_mut().expect("it has rules").extend(more);
    cluster.admin("PUT", roles, &role);
    let evicted = wait_for(Duration::from_secs(10), || match evict("web-1") {
        403 => None,
        status => Some(status),
    });
    assert_eq!(evicted, Some(201));
    sleep(Duration::from_secs(1));
    assert_eq!(evict("web-2"), 429, "one has to stay");
    let left = cluster.admin("GET", pods, &Value::Null);
    let running = left["items"].as_array().into_iter().flatten();
    let running: Vec<_> =
        running.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).collect();
    assert_eq!(running.len(), 1);
}
