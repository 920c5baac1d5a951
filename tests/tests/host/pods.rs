//! Limits on cgroups of pods. The cgroups have the names that a kubelet gives them. The agent finds
//! the pod's namespace and labels as it does in a pod: in directories, in the environment, and from
//! an API over TLS. A cgroup is not limited if its pod is protected or cannot be identified.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use serde_json::{Value, json};
use spillway_agent::{
    act::{
        OutcomeKind, Pause,
        limit::{ActiveLimits, PodLookup},
    },
    config::Pattern,
    decide::IncidentId,
    net::kubernetes::Api,
};
use spillway_tests::{
    Running, Workload,
    api_server::{ApiServer, Conduct, HOST, NODE, PodOf},
    is_root,
    limit_live::{Programs, Stage, is_alive, life},
    run_with, skip, wait_for,
};

const API: [&str; 3] = ["shop", "api-6d4b", "5af2b6f4-1c0e-4d0f-9d3c-0f6a5b7c8d9e"];
const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOlsiYXBpIl19.c2ln";
const MIB: u64 = 1 << 20;

/// Node with one pod.
struct Node {
    stage: Stage,
    api: ApiServer,
}

impl Node {
    /// Sets up a node. Returns `None` and reports a skip if no cgroup can be limited on this host.
    fn set(test: &str, below: &[&str]) -> Option<Self> {
        if !is_root(test) {
            return None;
        }
        let (workload, crash_target) =
            (env!("CARGO_BIN_EXE_workload").into(), env!("CARGO_BIN_EXE_crash_target").into());
        let stage = Stage::set_below(test, below, Programs { workload, crash_target });
        let stage = stage.map_err(|reason| skip(test, &reason)).ok()?;
        let pods = vec![
            PodOf::with(API, json!({ "app": "api", "tier": "web" })),
            PodOf::with(
                ["shop", "db-0", "9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d"],
                json!({ "app": "db" }),
            ),
        ];
        let node = Self { stage, api: ApiServer::start(pods, Conduct::Forbids) };
        node.api.takes(TOKEN);
        node.api.service_account(&node.service_account(), TOKEN);
        fs::create_dir(node.logs()).expect("the directory can be created");
        Some(node)
    }

    /// Sets up a node whose pod's cgroup has the name that the systemd driver or the cgroupfs
    /// driver gives it.
    fn with_pod(test: &str) -> Option<Self> {
        let slice = format!("kubepods-burstable-pod{}.slice", API[2].replace('-', "_"));
        let pod = format!("pod{}", API[2]);
        let below = match test.ends_with("slice") {
            true => {
                ["kubepods.slice", "kubepods-burstable.slice", &slice, "cri-containerd-0a1b.scope"]
            }
            false => ["kubepods", "burstable", &pod, "0a1b"],
        };
        Self::set(test, &below)
    }

    fn logs(&self) -> PathBuf {
        self.stage.scratch.0.join("pods")
    }

    fn service_account(&self) -> PathBuf {
        self.stage.scratch.0.join("serviceaccount")
    }

    /// Replaces the kubelet's log directory of the pod with one in this namespace.
    fn is_in(&self, namespace: &str) {
        fs::remove_dir_all(self.logs()).expect("the directory can be removed");
        fs::create_dir_all(self.logs().join(format!("{namespace}_{}_{}", API[1], API[2])))
            .expect("the directory can be created");
    }

    /// Configuration with these decisions and the paths of this node.
    fn config(&self, decide: &str) -> String {
        format!(
            "{decide}\n[kubernetes]\npod_logs_dir = \"{}\"\nservice_account_dir = \"{}\"\n",
            self.logs().display(),
            self.service_account().display()
        )
    }

    /// Sets the environment of a pod.
    fn equip(&self, command: &mut Command) {
        command.env("KUBERNETES_SERVICE_HOST", HOST);
        command.env("KUBERNETES_SERVICE_PORT", self.api.server.addr.port().to_string());
        command.env("NODE_NAME", NODE);
    }

    /// Limits the cgroup of a process as the agent does. Returns the reason if it is refused.
    fn limit(
        &self,
        pid: u32,
        decide: &str,
        change: impl FnOnce(&mut Command),
    ) -> Result<(), String> {
        let config =
            self.stage.scratch.file("spillway.toml", &self.config(&format!("[decide]\n{decide}")));
        let mut command = self.stage.contain(life(pid), false);
        command.arg("--config").arg(config);
        self.equip(&mut command);
        change(&mut command);
        let before = self.stage.state();
        let done = command.output().expect("the command runs");
        // The state is the same if it was limited and restored, or never limited.
        assert_eq!(self.stage.state(), before);
        if done.status.success() {
            return Ok(());
        }
        let outcome: Value = serde_json::from_slice(&done.stdout)
            .unwrap_or_else(|error| panic!("{error}: {done:?}"));
        assert_eq!(outcome["outcome"], "refused", "{outcome}");
        Err(outcome["why"].as_str().expect("the outcome has a reason").to_owned())
    }

    fn asked(&self) -> usize {
        self.api.server.received().len()
    }
}

fn refusals(node: &Node) {
    let leak = node.stage.workload(&["touch", "--anon-bytes=8MiB"]);
    let limit = |decide: &str| node.limit(leak.pid(), decide, |_| {});
    let reason = |refused: Result<(), String>| {
        refused.expect_err("the limit is refused").replace(&node.api.server.addr.to_string(), "API")
    };

    // The namespace is unknown.
    let refused = reason(limit(""));
    assert!(
        refused.starts_with(&format!("cannot look up the namespace of pod {}: ", API[2])),
        "{refused}"
    );
    assert!(
        refused.contains("has no directory for it\n  hint: set kubernetes.pod_logs_dir to "),
        "{refused}"
    );

    node.is_in("shop");
    assert_eq!(limit(""), Ok(()));
    for namespace in ["kube-system", "kube-node-lease", "kube-public"] {
        node.is_in(namespace);
        let wanted = format!(
            "pod {namespace}/api-6d4b is protected by decide.protected \
             (namespace:{namespace})"
        );
        assert_eq!(reason(limit("")), wanted);
        // An allow-list does not change that.
        assert_eq!(reason(limit(&format!("allow = [\"namespace:{namespace}\"]"))), wanted);
    }
    node.is_in("shop");
    assert_eq!(
        reason(limit("protected = ['namespace:sh*']")),
        "pod shop/api-6d4b is protected by decide.protected (namespace:sh*)"
    );
    assert_eq!(limit("protected = ['namespace:other']"), Ok(()));
    assert_eq!(limit("allow = ['namespace:shop']"), Ok(()));
    let refused = reason(limit("allow = ['namespace:other']"));
    assert!(refused.ends_with(" is not on the allow-list decide.allow"), "{refused}");
    assert_eq!(node.asked(), 0, "labels were requested without need");

    assert_eq!(
        reason(limit("protected = ['pod:app=a?i']")),
        "pod shop/api-6d4b is protected by decide.protected (pod:app=a?i)"
    );
    assert_eq!(limit("protected = ['pod:app=db', 'pod:spillway=*']"), Ok(()));
    assert_eq!(limit("allow = ['pod:app=db', 'pod:tier=web']"), Ok(()));
    let refused = reason(limit("allow = ['pod:app=db']"));
    assert!(refused.ends_with(" is not on the allow-list decide.allow"), "{refused}");
    assert_eq!(
        reason(limit("allow = ['namespace:shop']\nprotected = ['pod:app=api']")),
        "pod shop/api-6d4b is protected by decide.protected (pod:app=api)"
    );
    assert_eq!(node.asked(), 5);

    // Without an answer from the API the cgroup is limited only if the labels do not matter.
    node.api.conduct(Conduct::Forbids);
    let refused = reason(limit("protected = ['pod:app=db']"));
    assert!(
        refused.starts_with(
            "cannot look up the labels of pod shop/api-6d4b: the Kubernetes API at API returned \
             403 Forbidden"
        ),
        "{refused}"
    );
    assert!(
        refused
            .ends_with("hint: bind a ClusterRole that lists pods to the agent's service account"),
        "{refused}"
    );
    assert!(reason(limit("allow = ['pod:app=api']")).contains("403 Forbidden"));
    assert_eq!(node.asked(), 7);
    assert_eq!(limit("allow = ['namespace:shop', 'pod:app=db']"), Ok(()));
    assert_eq!(
        reason(limit("protected = ['namespace:shop', 'pod:app=db']")),
        "pod shop/api-6d4b is protected by decide.protected (namespace:shop)"
    );
    assert_eq!(node.asked(), 7);

    node.api.takes(TOKEN);
    for (variable, hint) in [
        ("KUBERNETES_SERVICE_HOST", "every pod has it"),
        ("KUBERNETES_SERVICE_PORT", "every pod has it"),
        ("NODE_NAME", "in a pod's manifest take it from spec.nodeName by a fieldRef"),
    ] {
        let without = |command: &mut Command| {
            command.env_remove(variable);
        };
        let refused = reason(node.limit(leak.pid(), "protected = ['pod:app=db']", without));
        let wanted = format!(
            "cannot look up the labels of pod shop/api-6d4b: {variable} is not set\n  hint: {hint}"
        );
        assert!(refused.starts_with(&wanted), "{refused}");
        // Not needed if no pattern is about labels.
        assert_eq!(node.limit(leak.pid(), "", without), Ok(()));
    }
    leak.stop();
}

#[test]
fn pod_is_limited_only_if_known_to_be_unprotected() {
    if let Some(node) = Node::with_pod("pods-files") {
        refusals(&node);
    }
}

#[test]
fn pod_with_a_systemd_cgroup_is_identified() {
    if let Some(node) = Node::with_pod("pods-slice") {
        refusals(&node);
    }
}

#[test]
fn kubernetes_cgroup_without_a_pod_is_refused() {
    let Some(node) = Node::set("pods-unnamed", &["kubepods", "burstable", "0a1b"]) else { return };
    node.is_in("shop");
    let leak = node.stage.workload(&["touch", "--anon-bytes=8MiB"]);
    let refused = node.limit(leak.pid(), "", |_| {}).expect_err("the limit is refused");
    assert!(refused.starts_with("the cgroup belongs to Kubernetes but names no pod"), "{refused}");
    leak.stop();
}

#[test]
fn pod_lookup_is_retried_until_the_incident_ends() {
    let Some(node) = Node::with_pod("pods-again") else { return };
    node.is_in("shop");
    node.api.conduct(Conduct::Forbids);
    let leak = node.stage.workload(&["touch", "--anon-bytes=8MiB"]);
    let mut config = node.stage.config.clone();
    config.decide.protected = vec![Pattern::new("pod:app=db").expect("the pattern is valid")];
    let api = Api::new(HOST, node.api.server.addr.port(), NODE.to_owned(), node.service_account());
    let pods = PodLookup::new(node.logs(), api.map_err(|error| error.to_string()));
    let mut limits = ActiveLimits::with(&config, Ok(node.stage.journal()), pods);
    let before = node.stage.state();
    let limit = |limits: &mut ActiveLimits, t: f64, id: &str| {
        limits
            .limit(
                t,
                &IncidentId::from(id),
                &node.stage.cgroup.path.as_str().into(),
                life(leak.pid()),
            )
            .event
    };
    assert_eq!((limit(&mut limits, 0.0, "leak-1-1"), node.asked()), (OutcomeKind::Refused, 1));
    assert_eq!((limits.look(29.0).len(), node.asked()), (0, 1));
    assert_eq!((limits.look(30.0).len(), node.asked()), (0, 2), "not retried, or reported again");
    let pause = Pause::below(&config.record.state_dir);
    pause.turn_on().expect("the pause can be set");
    assert_eq!((limits.look(60.0).len(), node.asked()), (0, 2));
    pause.turn_off().expect("the pause can be lifted");
    assert_eq!(node.stage.state(), before);
    node.api.takes(TOKEN);
    let outcomes = limits.look(61.0);
    assert!(
        matches!(&outcomes[..], [one] if one.event == OutcomeKind::Limited && one.cause == IncidentId::from("leak-1-1").into()),
        "{outcomes:?}"
    );
    assert_ne!(node.stage.state(), before);
    assert_eq!((limits.look(100.0).len(), node.asked()), (0, 3), "retried although limited");
    assert_eq!(limits.undo_all(101.0).len(), 1);
    assert_eq!(node.stage.state(), before);

    node.api.conduct(Conduct::Forbids);
    assert_eq!((limit(&mut limits, 300.0, "leak-1-2"), node.asked()), (OutcomeKind::Refused, 4));
    limits.end(&IncidentId::from("leak-1-2"));
    assert_eq!((limits.look(400.0).len(), node.asked()), (0, 4), "retried after the incident");
    leak.stop();
}

#[test]
fn agent_in_a_pod_does_not_limit_itself() {
    let Some(node) = Node::with_pod("pods-own") else { return };
    node.is_in("shop");
    let leak = node.stage.workload(&["touch", "--anon-bytes=8MiB"]);
    let within = |command: &mut Command| drop(node.stage.cgroup.admit(command).map(|_| ()));
    assert_eq!(
        node.limit(leak.pid(), "", within),
        Err("the agent itself runs in this cgroup".to_owned())
    );
    leak.stop();
}

/// Starts an agent in a pod of the node, and a leaker in another pod. Only the leaker's cgroup may
/// be limited.
fn running(node: &Node, decide: &str) -> (Running, Workload) {
    // A limit that the leak will soon reach, so that there is a forecast.
    let file = if node.stage.is_v1 { "memory.limit_in_bytes" } else { "memory.max" };
    node.stage.cgroup.set(file, 512 * MIB).expect("the limit can be set");
    let config = node.config(&node.stage.quick(decide));
    let mut command = run_with(&node.stage.scratch.file("spillway.toml", &config));
    node.equip(command.arg("--json"));
    (Running::start(command), node.stage.workload(&["leak", "--rate=8MiB", "--limit=400MiB"]))
}

#[test]
fn agent_looks_up_labels_before_it_limits() {
    for (is_allowed, event) in [(false, "refused"), (true, "limited")] {
        let Some(node) = Node::with_pod("pods-agent") else { return };
        node.is_in("shop");
        let decide = match is_allowed {
            true => "allow = ['pod:app=api']".to_owned(),
            false => format!("protected = ['pod:app=api']\n{}", node.stage.only_this()),
        };
        let (running, leak) = running(&node, &decide);
        let before = node.stage.state();
        let outcome = wait_for(Duration::from_secs(60), || {
            running.line_of("outcome", event, &node.stage.cgroup.path)
        });
        let outcome =
            outcome.unwrap_or_else(|| panic!("no {event}: {}{}", running.printed(), running.log()));
        assert_eq!(node.asked(), 1, "{outcome}");
        let decision = running
            .line_of("decision", "limit", &node.stage.cgroup.path)
            .expect("there is a decision");
        let took_secs =
            outcome["t"].as_f64().zip(decision["t"].as_f64()).map(|(after, before)| after - before);
        println!(
            "{event} {:.0} ms after the decision",
            took_secs.expect("both lines have a time") * 1e3
        );
        if !is_allowed {
            assert_eq!(
                outcome["why"],
                "pod shop/api-6d4b is protected by decide.protected (pod:app=api)"
            );
            assert_eq!(node.stage.state(), before);
        }
        let (code, log) = running.stop();
        assert_eq!(code, Some(0), "{log}");
        assert_eq!(node.stage.state(), before);
        assert!(is_alive(leak.pid()));
        assert_eq!(node.stage.killed(), 0);
        leak.stop();
    }
}

#[test]
fn hanging_api_delays_neither_the_loop_nor_the_stop() {
    let Some(node) = Node::with_pod("pods-hang") else { return };
    node.is_in("shop");
    node.api.conduct(Conduct::Hangs);
    let decide = format!("protected = ['pod:app=db']\n{}", node.stage.only_this());
    let (running, leak) = running(&node, &decide);
    assert!(
        wait_for(Duration::from_secs(60), || (node.asked() == 1).then_some(())).is_some(),
        "{}",
        running.printed()
    );
    assert!(running.is_well());
    let refused = wait_for(Duration::from_secs(10), || {
        running.line_of("outcome", "refused", &node.stage.cgroup.path)
    });
    let refused =
        refused.unwrap_or_else(|| panic!("no refusal: {}{}", running.printed(), running.log()));
    let why = refused["why"].as_str().expect("the outcome has a reason");
    assert!(why.contains("timed out after 3 s while waiting for the response\n  hint: "), "{why}");
    // A refusal that the operator configured does not page.
    assert!(
        running.line_of("outcome", "failed", &node.stage.cgroup.path).is_none(),
        "{}",
        running.printed()
    );
    let (code, log) = running.stop();
    assert_eq!(code, Some(0), "{log}");
    leak.stop();
}
