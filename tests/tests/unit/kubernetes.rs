//! Requests to the Kubernetes API, the use of its responses, and errors as the only effect of bad
//! ones.

use std::{fs, path::PathBuf, time::Duration};

use serde_json::json;
use spillway_agent::{
    act::limit::PodLookup,
    net::kubernetes::{Api, Pod},
};
use spillway_tests::{
    Scratch,
    api_server::{ApiServer, Conduct, HOST, NODE, PodOf},
    now,
    tls::Authority,
};

const API: [&str; 3] = ["shop", "api-6d4b", "5af2b6f4-1c0e-4d0f-9d3c-0f6a5b7c8d9e"];
const STATIC: [&str; 3] = ["shop", "cache-node-1", "9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d"];
const HASH: &str = "81cdabfc720501d9e81b425b15921b4d";
const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOlsiYXBpIl19.c2ln";

struct Cluster {
    scratch: Scratch,
    server: ApiServer,
}

impl Cluster {
    fn start(test: &str, conduct: Conduct) -> Self {
        let pods = vec![
            PodOf::with(
                API,
                json!({ "app": "api", "app.kubernetes.io/part-of": "shop", "empty": "" }),
            ),
            PodOf { mirrored: Some(HASH), ..PodOf::with(STATIC, json!({})) },
        ];
        let cluster =
            Self { scratch: Scratch::make(test), server: ApiServer::start(pods, conduct) };
        cluster.server.service_account(&cluster.directory(), TOKEN);
        cluster
    }

    fn lists(test: &str, is_partial: bool) -> Self {
        Self::start(test, Conduct::Lists { token: TOKEN.to_owned(), is_partial })
    }

    fn directory(&self) -> PathBuf {
        self.scratch.0.join("serviceaccount")
    }

    fn api(&self) -> Api {
        Api::new(HOST, self.server.server.addr.port(), NODE.to_owned(), self.directory())
            .expect("the node name should be valid")
    }

    /// Error of a request for the pods, with the address replaced.
    fn refused(&self) -> String {
        let error = self.api().pods().expect_err("the request should fail").to_string();
        assert!(!error.contains(TOKEN), "{error}");
        assert!(error.contains("\n  hint: "), "{error}");
        error.replace(&self.server.server.addr.to_string(), "ADDRESS")
    }
}

#[test]
fn pods_of_this_node_are_listed_with_labels() {
    for is_partial in [true, false] {
        let cluster = Cluster::lists("k8s-list", is_partial);
        let before = now();
        let pods = cluster.api().pods().expect("listing the pods");
        println!("listed in {:.1} ms", before.elapsed().as_secs_f64() * 1e3);
        let labels = [("app", "api"), ("app.kubernetes.io/part-of", "shop"), ("empty", "")];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        assert_eq!(
            pods,
            [
                Pod { uid: API[2].to_owned(), kubelet_uid: None, labels },
                Pod {
                    uid: STATIC[2].to_owned(),
                    kubelet_uid: Some(HASH.to_owned()),
                    labels: [].into()
                },
            ]
        );
    }
}

#[test]
fn rotated_token_is_reread() {
    let cluster = Cluster::lists("k8s-token", true);
    assert!(cluster.api().pods().is_ok());
    cluster.server.takes("another");
    assert_eq!(
        cluster.refused(),
        "the Kubernetes API at ADDRESS returned 401 Unauthorized: Unauthorized\n  \
         hint: the token in kubernetes.service_account_dir has to belong to this cluster and not be \
         expired"
    );
    // Ends as written by the kubelet or by an editor.
    fs::write(cluster.directory().join("token"), "another\n").expect("writing a test file");
    assert!(cluster.api().pods().is_ok());
}

#[test]
fn bad_response_is_reported_with_a_hint() {
    let cluster = Cluster::start("k8s-bad", Conduct::Forbids);
    assert_eq!(
        cluster.refused(),
        "the Kubernetes API at ADDRESS returned 403 Forbidden: pods is forbidden: User \
         \"system:serviceaccount:spillway:spillway\" cannot list resource \"pods\" in API \
         group \"\" at the cluster scope\n  \
         hint: bind a ClusterRole that lists pods to the agent's service account"
    );
    for response in [
        "",
        "<html>Please log in</html>",
        "null",
        "{\"kind\":\"PodList\"",
        "{\"kind\":\"PodList\",\"items\":null}",
        "{\"kind\":\"PodList\",\"items\":[{\"metadata\":{\"name\":\"without-a-uid\"}}]}",
        "{\"kind\":\"ServiceList\",\"items\":[]}",
        "{\"kind\":\"PodList\",\"items\":[{\"metadata\":{\"uid\":\"1\",\"labels\":{\"app\":1}}}]}",
    ] {
        cluster.server.conduct(Conduct::Says(response.to_owned()));
        let error = cluster.refused();
        assert!(
            error.starts_with("the Kubernetes API at ADDRESS returned no list of pods: "),
            "{response}: {error}"
        );
        assert!(error.lines().count() == 2 && error.len() < 1_000, "{error}");
    }
    // A server that sends the token back.
    let token = fs::read_to_string(cluster.directory().join("token")).expect("reading a test file");
    cluster
        .server
        .conduct(Conduct::Says(format!("{{\"kind\":\"Bearer {}\",\"items\":[]}}", token.trim())));
    let error = cluster.refused();
    assert!(
        error.contains("kind is \"Bearer [secret]\"") && !error.contains(token.trim()),
        "{error}"
    );
    cluster.server.conduct(Conduct::Resets);
    assert!(
        cluster.refused().starts_with("the Kubernetes API at ADDRESS: failed while "),
        "{}",
        cluster.refused()
    );
    // On a machine that needs more than three seconds to read this much, the timeout comes first.
    cluster.server.conduct(Conduct::Floods);
    let error = cluster.refused();
    let is_it = |why: &str| error.starts_with(&format!("the Kubernetes API at ADDRESS: {why}\n"));
    assert!(
        is_it("the response is larger than 16777216 bytes")
            || is_it("timed out after 3 s while reading the response"),
        "{error}"
    );
}

#[test]
fn hanging_server_times_out() {
    let cluster = Cluster::start("k8s-hangs", Conduct::Hangs);
    let before = now();
    let error = cluster.refused();
    // Three seconds, plus slack for a loaded machine.
    assert!(before.elapsed() < Duration::from_secs(10), "{:?}", before.elapsed());
    assert!(
        error.starts_with(
            "the Kubernetes API at ADDRESS: timed out after 3 s while waiting for the response\n"
        ),
        "{error}"
    );
}

#[test]
fn no_request_without_token_or_trusted_certificate() {
    let cluster = Cluster::lists("k8s-trust", true);
    let token = cluster.directory().join("token");
    for (text, why) in [
        ("", "the file is empty"),
        (" \n", "the file is empty"),
        ("a\nb", "it has characters that are invalid in an HTTP header"),
    ] {
        fs::write(&token, text).expect("writing a test file");
        let error = cluster.refused();
        assert!(error.starts_with(&token.display().to_string()) && error.contains(why), "{error}");
    }
    fs::remove_file(&token).expect("removing a test file");
    assert!(cluster.refused().contains("No such file"), "{}", cluster.refused());
    cluster.server.service_account(&cluster.directory(), TOKEN);
    assert!(cluster.api().pods().is_ok());
    let asked = cluster.server.server.received().len();
    fs::write(cluster.directory().join("ca.crt"), Authority::make().pem())
        .expect("writing a test file");
    let error = cluster.refused();
    assert!(error.contains("failed while negotiating TLS: invalid peer certificate: "), "{error}");
    fs::remove_file(cluster.directory().join("ca.crt")).expect("removing a test file");
    assert!(cluster.refused().contains("ca.crt: No such file"), "{}", cluster.refused());
    assert_eq!(cluster.server.server.received().len(), asked);
}

#[test]
fn labels_are_cached_for_five_seconds() {
    let cluster = Cluster::lists("k8s-cache", true);
    let logs = cluster.scratch.0.join("pods");
    for [namespace, name, uid] in [API, ["shop", "cache-node-1", HASH], ["shop", "new", "0000"]] {
        fs::create_dir_all(logs.join(format!("{namespace}_{name}_{uid}")))
            .expect("making a directory");
    }
    let mut pods = PodLookup::new(logs, Ok(cluster.api()));
    let asked = || cluster.server.server.received().len();
    let mut labels = |t: f64, uid: &str| {
        let name = pods.name(uid).expect("the pod should have a directory");
        pods.labels(t, uid, &name).map(|labels| labels.len()).map_err(|refusal| refusal.to_string())
    };
    assert_eq!((labels(0.0, API[2]), asked()), (Ok(3), 1));
    // A pod from a file is known by its hash.
    assert_eq!((labels(4.9, HASH), asked()), (Ok(0), 1));
    // Later changes are not known.
    cluster.server.takes("another");
    let unknown = labels(4.9, "0000").unwrap_err();
    assert!(unknown.starts_with(
        "cannot look up the labels of pod shop/new: the Kubernetes API has 2 pods on node"
    ));
    assert_eq!((labels(4.9, API[2]), asked()), (Ok(3), 1));
    // They are seen once the cache is too old; then a failure is reported and nothing older is
    // used.
    let refused = labels(5.0, API[2]).unwrap_err();
    assert!(refused.contains("returned 401 Unauthorized"), "{refused}");
    cluster.server.takes(TOKEN);
    assert_eq!((labels(9.9, API[2]), asked()), (Err(refused), 2));
    assert_eq!((labels(10.0, API[2]), asked()), (Ok(3), 3));
}

#[test]
fn pod_posing_as_another_gets_no_labels() {
    let impostor =
        PodOf { mirrored: Some(API[2]), ..PodOf::with(STATIC, json!({ "app": "allowed" })) };
    let scratch = Scratch::make("k8s-impostor");
    let pods = vec![PodOf::with(API, json!({ "app": "db" })), impostor];
    let server =
        ApiServer::start(pods, Conduct::Lists { token: TOKEN.to_owned(), is_partial: true });
    server.service_account(&scratch.0, TOKEN);
    fs::create_dir(scratch.0.join(API.join("_"))).expect("making a directory");
    let api = Api::new(HOST, server.server.addr.port(), NODE.to_owned(), scratch.0.clone())
        .expect("the node name should be valid");
    let mut pods = PodLookup::new(scratch.0.clone(), Ok(api));
    let name = pods.name(API[2]).expect("the pod should have a directory");
    let refused = pods.labels(0.0, API[2], &name).unwrap_err().to_string();
    assert_eq!(
        refused,
        format!(
            "cannot look up the labels of pod shop/api-6d4b: several pods claim the uid {}",
            API[2]
        )
    );
}

#[test]
fn a_pod_without_a_directory_is_unknown() {
    let scratch = Scratch::make("k8s-logs");
    let pods = |directory: PathBuf| PodLookup::new(directory, Err("not needed".to_owned()));
    fs::create_dir(scratch.0.join(API.join("_"))).expect("making a directory");
    assert_eq!(
        pods(scratch.0.clone()).name(API[2]).map(|name| name.to_string()),
        Ok("shop/api-6d4b".to_owned())
    );
    for (directory, why) in
        [(scratch.0.clone(), "has no directory for it"), (scratch.0.join("none"), "No such file")]
    {
        let refused = pods(directory).name(STATIC[2]).unwrap_err().to_string();
        assert!(
            refused.starts_with(&format!("cannot look up the namespace of pod {}: ", STATIC[2])),
            "{refused}"
        );
        assert!(refused.contains(why) && refused.contains("\n  hint: "), "{refused}");
    }
}
