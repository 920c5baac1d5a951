//! Drains that cordon a Kubernetes node. The tests run the receiver of `configs/kubernetes/` as its
//! manifests specify, against an API that grants only the rights of its ClusterRole. Requests come
//! from the real agent and from an independent signer.

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::{self, sleep},
    time::Duration,
};

use serde_json::{Value, json};
use spillway_agent::clock::Clock;
use spillway_tests::{
    Running, Scratch, Servers, agent,
    api_nodes::NodeServer,
    api_server::HOST,
    http_get,
    manifests::{Manifests, read_shipped, shipped, strings},
    run_with, skip, wait_for,
};
use standardwebhooks::Webhook;

pub(crate) const NODE: &str = "node-1.internal";
const OTHER: &str = "node-2.internal";
const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOlsiYXBpIl19.c2ln";
const KEYS: [&str; 2] = [
    "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD4bZ4Y1qx2WQ=",
];
const MARK: &str = "spillway.io/cordoned-by";
const SOON: Duration = Duration::from_secs(15);

/// Reports whether `theirs` contains all of `ours`. It may contain more.
fn contains_all(theirs: &Value, ours: &Value) -> bool {
    match (theirs, ours) {
        (Value::Object(theirs), Value::Object(ours)) => ours
            .iter()
            .all(|(key, value)| theirs.get(key).is_some_and(|known| contains_all(known, value))),
        (Value::Array(theirs), Value::Array(ours)) => ours
            .iter()
            .enumerate()
            .all(|(nth, value)| theirs.get(nth).is_some_and(|known| contains_all(known, value))),
        _ => theirs == ours,
    }
}

/// Reports whether kubectl knows every field of a DaemonSet.
pub(crate) fn knows_every_field(servers: &Servers, daemons: &Value) -> bool {
    // Unlike other subcommands, this one parses the DaemonSet and drops unknown fields.
    let arguments = ["set", "env", "--local", "--filename=-", "--output=json", "READ_BY=kubectl"];
    let printed = servers.kubectl(&arguments, &daemons.to_string());
    contains_all(&serde_json::from_str(&printed).expect("kubectl prints JSON"), daemons)
}

#[test]
fn kubectl_knows_every_field_of_the_daemonset() {
    let Some(servers) = Servers::find_or_skip("cordon-fields") else { return };
    let mut daemons = Manifests::read(&servers, "cordon").one("DaemonSet").clone();
    assert!(knows_every_field(&servers, &daemons));
    daemons["spec"]["template"]["spec"]["hostNetwrk"] = true.into();
    assert!(!knows_every_field(&servers, &daemons), "an unknown field goes unnoticed");
}

#[test]
fn manifests_refer_only_to_existing_objects() {
    let Some(servers) = Servers::find_or_skip("cordon-manifests") else { return };
    let manifests = Manifests::read(&servers, "cordon");
    let (program, how) =
        (read_shipped("cordon/cordon.py"), read_shipped("cordon/kustomization.yaml"));
    let namespace = &manifests.one("Namespace")["metadata"]["name"];
    for object in &manifests.objects {
        let kind = object["kind"].as_str().expect("an object has a kind");
        let is_global = kind == "Namespace" || kind.starts_with("Cluster");
        let own = if is_global { &Value::Null } else { namespace };
        assert_eq!(object["metadata"]["namespace"], *own, "{object}");
    }
    // The account and its rights.
    let account = &manifests.one("ServiceAccount")["metadata"]["name"];
    assert_eq!(manifests.pod()["serviceAccountName"], *account);
    let binding = manifests.one("ClusterRoleBinding");
    assert_eq!(
        binding["subjects"],
        json!([{ "kind": "ServiceAccount", "name": account, "namespace": namespace }])
    );
    let role = &manifests.one("ClusterRole")["metadata"]["name"];
    let api_group = "rbac.authorization.k8s.io";
    assert_eq!(
        binding["roleRef"],
        json!({ "apiGroup": api_group, "kind": "ClusterRole", "name": role })
    );
    assert_eq!(
        manifests.rules(),
        json!([{ "apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "patch"] }])
    );
    let daemons = &manifests.one("DaemonSet")["spec"];
    assert_eq!(daemons["selector"]["matchLabels"], daemons["template"]["metadata"]["labels"]);
    // The program and the keys.
    let (program_at, config_map) = manifests.mounted("configMap");
    let made = manifests.one("ConfigMap");
    assert_eq!(config_map["name"], made["metadata"]["name"]);
    assert_eq!(made["data"], json!({ "cordon.py": program }));
    let command = strings(&manifests.container()["command"]);
    assert_eq!(command, ["python3", "-u", &format!("{program_at}/cordon.py")]);
    let (keys_at, secret) = manifests.mounted("secret");
    assert_eq!(manifests.env("KEYS_FILE")["value"], format!("{keys_at}/keys"));
    let [namespace, secret] =
        [namespace, &secret["secretName"]].map(|name| name.as_str().expect("an object has a name"));
    let make = format!("kubectl -n {namespace} create secret generic {secret} --from-file=keys");
    assert!(how.contains(&make), "{make}");
    assert_eq!(manifests.pod()["volumes"].as_array().map(Vec::len), Some(2));
    assert_eq!(manifests.container()["volumeMounts"].as_array().map(Vec::len), Some(2));
    // The environment.
    for variable in
        manifests.container()["env"].as_array().expect("the container has an environment")
    {
        let name = variable["name"].as_str().expect("a variable has a name");
        assert!(program.contains(&format!("os.environ.get(\"{name}\"")), "{name} is not read");
    }
    assert_eq!(manifests.env("NODE_NAME")["valueFrom"]["fieldRef"]["fieldPath"], "spec.nodeName");
    let listen = manifests.env("LISTEN")["value"].as_str().expect("LISTEN is set");
    assert!(
        listen.starts_with("127.0.0.1:") && manifests.pod()["hostNetwork"] == true,
        "the agent cannot reach {listen}"
    );
    assert!(how.contains(&format!("url = \"http://{listen}/\"")), "{listen}");
    for probe in ["readinessProbe", "livenessProbe"] {
        let asked = &manifests.container()[probe]["httpGet"];
        assert_eq!(
            format!("{}:{}", asked["host"].as_str().unwrap_or_default(), asked["port"]),
            listen
        );
    }
}

/// Receiver of a node. It ends with the test.
pub(crate) struct Receiver {
    child: Child,
    addr: SocketAddr,
}

impl Receiver {
    /// Starts the program as the manifest specifies, except for its port and the paths of its
    /// files. The API server is at this port.
    pub(crate) fn start(manifests: &Manifests, keys: &Path, account: &Path, api: u16) -> Self {
        let command = strings(&manifests.container()["command"]);
        let mut python = Command::new(command[0]);
        python.args(&command[1..command.len() - 1]).arg(shipped("cordon/cordon.py")).env_clear();
        python.env("PATH", env::var_os("PATH").unwrap_or_default());
        python.env("NODE_NAME", NODE).env("LISTEN", "127.0.0.1:0");
        python.env("KEYS_FILE", keys).env("ACCOUNT_DIR", account);
        // The kubelet sets these in every pod.
        python.env("KUBERNETES_SERVICE_HOST", HOST);
        python.env("KUBERNETES_SERVICE_PORT", api.to_string());
        python.env("PYTHONDONTWRITEBYTECODE", "1");
        let mut child = python
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the receiver starts");
        let mut log = BufReader::new(child.stderr.take().expect("stderr is a pipe")).lines();
        let line = log.next().and_then(Result::ok).expect("the receiver logs its address");
        let addr = line.rsplit(' ').next().and_then(|addr| addr.parse().ok());
        let addr = addr.unwrap_or_else(|| panic!("{line}"));
        thread::spawn(move || {
            log.map_while(Result::ok).for_each(|line| println!("receiver: {line}"))
        });
        Self { child, addr }
    }

    /// Sends a signed body. Returns the status and the text of the response.
    fn send(&self, key: &str, id: &str, late_secs: i64, body: &str) -> (u16, String) {
        let at = Clock::start().unix_ms() as i64 / 1_000 - late_secs;
        let signature = Webhook::new(key)
            .and_then(|key| key.sign(id, at, body.as_bytes()))
            .expect("the request can be signed");
        let mut stream = TcpStream::connect(self.addr).expect("the receiver listens");
        stream.set_read_timeout(Some(SOON)).expect("a timeout can be set");
        let head = format!(
            "POST / HTTP/1.1\r\nhost: localhost\r\nwebhook-id: {id}\r\nwebhook-timestamp: \
            {at}\r\nwebhook-signature: v1,AAAA \
             {signature}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream
            .write_all(format!("{head}{body}").as_bytes())
            .expect("the receiver reads the request");
        let mut said = String::new();
        stream.read_to_string(&mut said).expect("the receiver answers");
        let status = said
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .unwrap_or_else(|| panic!("{said}"));
        (status, said.lines().last().unwrap_or_default().to_owned())
    }

    /// Requests `what` as an agent does.
    pub(crate) fn ask(&self, what: &str, id: &str) -> (u16, String) {
        let body = json!({ "specversion": "1.0", "id": id, "type": format!("io.spillway.node.{what}.requested") });
        self.send(KEYS[0], id, 0, &body.to_string())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // The kubelet stops it like this.
        // SAFETY: signals a child that has not been reaped yet.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) };
        let ended = wait_for(Duration::from_secs(5), || self.child.try_wait().unwrap_or_default());
        let _ = self.child.kill();
        let _ = self.child.wait();
        assert!(ended.is_some_and(|status| status.success()) || thread::panicking(), "{ended:?}");
    }
}

/// Writes the keys of the receiver and its clients.
pub(crate) fn write_keys(scratch: &Scratch) -> PathBuf {
    let keys = scratch.file("keys", &KEYS.join("\n"));
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o600)).expect("the mode can be set");
    keys
}

struct Cluster {
    scratch: Scratch,
    api: NodeServer,
}

impl Cluster {
    fn start(test: &str, manifests: &Manifests) -> Self {
        let scratch = Scratch::make(&format!("cordon-{test}"));
        write_keys(&scratch);
        let api = NodeServer::start(&[NODE, OTHER], TOKEN, &manifests.user(), manifests.rules());
        let cluster = Self { scratch, api };
        cluster.api.service_account(&cluster.account(), TOKEN);
        cluster
    }

    fn receiver(&self, manifests: &Manifests) -> Receiver {
        let port = self.api.server.addr.port();
        Receiver::start(manifests, &self.keys(), &self.account(), port)
    }

    fn keys(&self) -> PathBuf {
        self.scratch.0.join("keys")
    }

    fn account(&self) -> PathBuf {
        self.scratch.0.join("serviceaccount")
    }

    fn is_cordoned(&self) -> bool {
        assert_eq!(
            self.api.node(OTHER)["metadata"]["resourceVersion"],
            "4242",
            "another node was changed"
        );
        self.api.node(NODE)["spec"]["unschedulable"] == true
    }

    fn mark(&self) -> Option<String> {
        self.api.node(NODE)["metadata"]["annotations"][MARK].as_str().map(str::to_owned)
    }

    fn version(&self) -> String {
        self.api.node(NODE)["metadata"]["resourceVersion"].to_string()
    }

    fn by_hand(&self, unschedulable: bool) {
        self.api.change(NODE, &json!({ "spec": { "unschedulable": unschedulable } }));
    }

    fn asked(&self) -> usize {
        self.api.server.received().len()
    }
}

/// Sets up a test of the receiver. Returns `None` and reports a skip if something is missing.
fn set(test: &str) -> Option<(Manifests, Cluster)> {
    let python = Command::new("python3").arg("--version").stdout(Stdio::null()).status();
    if !python.is_ok_and(|status| status.success()) {
        skip(test, "needs python3, which `cargo xtask test` installs if apt-get exists");
        return None;
    }
    let manifests = Manifests::read(&Servers::find_or_skip(test)?, "cordon");
    let cluster = Cluster::start(test, &manifests);
    Some((manifests, cluster))
}

#[test]
fn drain_cordons_the_node_and_undrain_uncordons_it() {
    let Some((manifests, cluster)) = set("cordon-agent") else { return };
    let receiver = cluster.receiver(&manifests);
    let config = cluster.scratch.file(
        "spillway.toml",
        &format!(
            "[serve]\nlisten = \"127.0.0.1:0\"\n[act.drain]\nurl = \"http://{}/\"\nsecret_file \
            = \"{}\"\ndwell = \"1s\"\n\
             drained_within = \"1s\"\nverify = \"1s\"\ndeadline = \"5s\"\n[record]\nstate_dir \
             = \"{}\"\n",
            receiver.addr,
            cluster.keys().display(),
            cluster.scratch.0.join("state").display()
        ),
    );
    let say = |word: &str, exits: i32| {
        let output =
            agent().args([word, "--config"]).arg(&config).output().expect("the agent runs");
        assert_eq!(output.status.code(), Some(exits), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let mut command = run_with(&config);
    command.arg("--json");
    let agent = Running::start(command);
    let until = |event: &str| {
        let line = wait_for(SOON, || agent.line_of("outcome", event, "node"));
        line.unwrap_or_else(|| panic!("no {event}: {}\n{}", agent.printed(), agent.log()))
    };

    say("drain", 0);
    until("draining");
    assert!(cluster.is_cordoned());
    assert!(cluster.mark().is_some_and(|mark| mark.starts_with("drain-")), "{:?}", cluster.mark());
    assert!(agent.get("/ready").starts_with("HTTP/1.1 503"));
    say("undrain", 0);
    until("undrained");
    assert!(!cluster.is_cordoned() && cluster.mark().is_none());
    assert!(agent.get("/ready").starts_with("HTTP/1.1 200"));

    // An operator cordoned it: the agent's request is refused and the node stays cordoned.
    cluster.by_hand(true);
    let told = say("drain", 1);
    assert!(told.contains("this node is not drained: refused: HTTP 409"), "{told}");
    let refused = until("drain_refused");
    let why = refused["why"].as_str().unwrap_or_default();
    assert!(why.contains("is cordoned already, and not by Spillway"), "{why}");
    say("undrain", 0);
    // The agent polls the operator's commands twice a second.
    sleep(Duration::from_millis(1_500));
    assert!(cluster.is_cordoned() && cluster.mark().is_none());
    agent.stop();
}

#[test]
fn requests_without_a_key_or_a_known_type_change_nothing() {
    let Some((manifests, cluster)) = set("cordon-keys") else { return };
    let receiver = cluster.receiver(&manifests);
    assert!(
        http_get(receiver.addr, "/healthz")
            .expect("the receiver answers")
            .starts_with("HTTP/1.0 200")
    );
    let drain = json!({ "type": "io.spillway.node.drain.requested" }).to_string();
    let stranger = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    for (key, late_secs, body, status) in [
        (stranger, 0, drain.as_str(), 401),
        (KEYS[0], 301, &drain, 401),
        (KEYS[0], -302, &drain, 401),
        (KEYS[0], 0, "{\"type\":\"io.spillway.node.reboot.requested\"}", 400),
        (KEYS[0], 0, "[]", 400),
        (KEYS[0], 0, "", 400),
        (KEYS[0], 0, "{\"type\":{}}", 400),
    ] {
        let (answered, said) = receiver.send(
            key,
            &format!("id{late_secs}{}{}", body.len(), key.len()),
            late_secs,
            body,
        );
        assert_eq!(answered, status, "{body}: {said}");
    }
    // Without a valid key in the file every request is refused.
    for none in ["", "whsec_\n", "whsec_%%%", "secret"] {
        fs::write(cluster.keys(), none).expect("the keys can be written");
        let (answered, said) = receiver.send(KEYS[0], "none", 0, &drain);
        assert_eq!(answered, 503, "{none}: {said}");
    }
    assert_eq!(cluster.asked(), 0, "a refused request reached the API");
    // Keys can be replaced while it runs, and any of them is accepted.
    fs::write(cluster.keys(), KEYS.join("\n")).expect("the keys can be written");
    assert_eq!(receiver.send(KEYS[1], "second", 290, &drain).0, 200);
    assert!(cluster.is_cordoned());
}

#[test]
fn foreign_cordon_is_kept_and_repeats_are_idempotent() {
    let Some((manifests, cluster)) = set("cordon-marks") else { return };
    let receiver = cluster.receiver(&manifests);
    cluster.by_hand(true);
    let before = cluster.version();
    for (what, id) in [("drain", "a"), ("undrain", "b")] {
        let (status, said) = receiver.ask(what, id);
        assert!(status == 409 && said.contains("not by Spillway"), "{status} {said}");
    }
    assert_eq!(cluster.version(), before);
    cluster.by_hand(false);
    assert_eq!(receiver.ask("undrain", "c").0, 200, "undrain without a cordon failed");

    assert_eq!(receiver.ask("drain", "d"), (200, format!("{NODE} is cordoned")));
    assert!(cluster.is_cordoned());
    assert_eq!(cluster.mark().as_deref(), Some("d"));
    let (version, asked) = (cluster.version(), cluster.asked());
    assert_eq!(receiver.ask("drain", "d").0, 200);
    assert_eq!(cluster.asked(), asked, "a repeat reached the API");
    // A restarted receiver recognizes its own cordon by the node's annotation.
    drop(receiver);
    let receiver = cluster.receiver(&manifests);
    assert_eq!((receiver.ask("drain", "d").0, receiver.ask("drain", "e").0), (200, 200));
    assert_eq!(cluster.version(), version, "a cordoned node was changed");
    assert_eq!(receiver.ask("undrain", "f"), (200, format!("{NODE} is not cordoned")));
    assert!(!cluster.is_cordoned() && cluster.mark().is_none());
    // A late repeat does not cordon the node again.
    assert_eq!(receiver.ask("drain", "e").0, 200);
    assert!(!cluster.is_cordoned());

    // A cordon by an operator is kept, even if the node was cordoned by Spillway before.
    assert_eq!(receiver.ask("drain", "g").0, 200);
    cluster.by_hand(false);
    assert_eq!(receiver.ask("undrain", "h").0, 200);
    assert!(!cluster.is_cordoned() && cluster.mark().is_none());
    cluster.by_hand(true);
    assert_eq!(receiver.ask("undrain", "i").0, 409);
    assert!(cluster.is_cordoned());
}

#[test]
fn failed_api_requests_can_be_retried() {
    let Some((manifests, cluster)) = set("cordon-api") else { return };
    let receiver = cluster.receiver(&manifests);
    // A node that changed since it was read is read again, three times at most. Then the client has
    // to retry.
    cluster.api.busy(3);
    let (status, said) = receiver.ask("drain", "a");
    assert!(
        status == 503 && said.contains("please apply your changes to the latest version"),
        "{status} {said}"
    );
    assert!(!cluster.is_cordoned());
    cluster.api.busy(2);
    assert_eq!(receiver.ask("drain", "a").0, 200, "an earlier failure was remembered");
    assert!(cluster.is_cordoned());
    // A right that the role lacks is an error.
    cluster
        .api
        .rules(json!([{ "apiGroups": [""], "resources": ["nodes"], "verbs": ["get"], "resourceNames": [NODE] }]));
    let (status, said) = receiver.ask("undrain", "b");
    let user = manifests.user();
    assert_eq!(status, 503, "{said}");
    assert!(
        said.contains(&format!(
            "nodes \"{NODE}\" is forbidden: User \"{user}\" cannot patch resource"
        )),
        "{said}"
    );
    let [verbs, names] = [json!(["get", "patch"]), json!([NODE])];
    cluster.api.rules(json!([{ "apiGroups": [""], "resources": ["nodes"], "verbs": verbs, "resourceNames": names }]));
    // A replaced token is read again.
    cluster.api.service_account(&cluster.account(), "another");
    let (status, said) = receiver.ask("undrain", "b");
    assert!(
        status == 503 && said.contains("401: Unauthorized") && !said.contains("another"),
        "{status} {said}"
    );
    cluster.api.service_account(&cluster.account(), TOKEN);
    assert_eq!(receiver.ask("undrain", "b").0, 200);
    assert!(!cluster.is_cordoned());
    // A server with another authority's certificate is refused.
    let elsewhere = Cluster::start("elsewhere", &manifests);
    fs::copy(elsewhere.account().join("ca.crt"), cluster.account().join("ca.crt"))
        .expect("the certificate can be copied");
    let asked = cluster.asked();
    let (status, said) = receiver.ask("drain", "c");
    assert!(status == 503 && said.contains("CERTIFICATE_VERIFY_FAILED"), "{status} {said}");
    assert_eq!(cluster.asked(), asked);
}
