//! Real Kubernetes API server with its etcd, in a directory and a network namespace of the test.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use hyper::{Method, Request, body::Bytes};
use serde_json::{Value, json};
use spillway_agent::net::http_client::{HttpClient, RequestLimits, TlsOptions};

use crate::{Program, Servers, etcd::Etcd, is_root, own_network, skip, tls::Authority, wait_for};

/// Name under which skipped tests are reported.
const SKIPPED: &str = "real_kubernetes";

/// Port of the API server.
const PORT: u16 = 6_443;

/// Token of an administrator.
const ADMIN: &str = "admin-token-of-the-test";

/// API server that ends when it is dropped.
pub struct RealKubernetes {
    // Ends before the etcd that it asks.
    _server: Program,
    _etcd: Etcd,
    servers: Servers,
    programs: PathBuf,
    dir: PathBuf,
    authority: Authority,
}

impl RealKubernetes {
    /// Starts an API server with its files in `dir`. Returns `None` and reports a skip if something
    /// is missing.
    ///
    /// # Panics
    ///
    /// Panics if it is not ready within a minute.
    pub fn start(dir: &Path) -> Option<Self> {
        let Some(programs) = env::var_os("SPILLWAY_KUBERNETES").map(PathBuf::from) else {
            skip(SKIPPED, "needs the programs that `cargo xtask test --kubernetes` builds");
            return None;
        };
        let servers = Servers::find().inspect_err(|reason| skip(SKIPPED, reason)).ok()?;
        if !is_root(SKIPPED) {
            return None;
        }
        own_network().expect("root can make a network namespace");
        let authority = Authority::make();
        let file = |name: &str| dir.join(name);
        fs::write(file("ca.crt"), authority.pem()).expect("writing a file");
        authority.files("127.0.0.1", &file("server.crt"), &file("server.key"));
        let tokens = format!("{ADMIN},admin,1,system:masters\n");
        fs::write(file("tokens.csv"), tokens).expect("writing a file");
        let etcd = Etcd::start(&servers, dir, &[]);
        let mut command = Command::new(programs.join("kube-apiserver"));
        let path = |option: &str, name: &str| format!("--{option}={}", file(name).display());
        command.args([
            format!("--etcd-servers={}", etcd.url()),
            format!("--secure-port={PORT}"),
            path("cert-dir", "certs"),
            path("tls-cert-file", "server.crt"),
            path("tls-private-key-file", "server.key"),
            path("token-auth-file", "tokens.csv"),
            // A key is a key: that of the server signs tokens as well.
            path("service-account-key-file", "server.crt"),
            path("service-account-signing-key-file", "server.key"),
        ]);
        command.args([
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            "--service-cluster-ip-range=10.96.0.0/24",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--authorization-mode=RBAC",
            // Pods of the tests belong to the account that they name.
            "--disable-admission-plugins=ServiceAccount",
        ]);
        let log = fs::File::create(file("apiserver.log")).expect("creating a log");
        command.stderr(log.try_clone().expect("sharing the log")).stdout(log);
        let server = Program::start(&mut command);
        let dir = dir.to_path_buf();
        let cluster = Self { _server: server, _etcd: etcd, servers, programs, dir, authority };
        let ready = wait_for(Duration::from_secs(60), || {
            let client = HttpClient::new(&cluster.tls()).ok()?;
            let request = Request::get(format!("{}/readyz", Self::url()));
            let request = request.header("authorization", format!("Bearer {ADMIN}"));
            let request = request.body(Bytes::new()).expect("a request");
            let limits = RequestLimits { timeout: Duration::from_secs(2), body_bytes_max: 1 << 20 };
            client.send(request, limits).ok().filter(|reply| reply.status == 200).map(drop)
        });
        let log = || fs::read_to_string(cluster.dir.join("apiserver.log")).unwrap_or_default();
        assert!(ready.is_some(), "the API server is not ready: {}", log());
        Some(cluster)
    }

    /// Starts its controllers.
    ///
    /// # Panics
    ///
    /// Panics if they cannot be started.
    pub fn controllers(&self) -> Program {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test", "cluster": {
                "server": Self::url(), "certificate-authority": self.ca_file(),
            } }],
            "users": [{ "name": "admin", "user": { "token": ADMIN } }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "admin" } }],
        });
        let path = self.dir.join("admin.conf");
        fs::write(&path, config.to_string()).expect("writing a file");
        let mut command = Command::new(self.programs.join("kube-controller-manager"));
        command.arg(format!("--kubeconfig={}", path.display()));
        command.args(["--controllers=disruption", "--leader-elect=false", "--port=0"]);
        command.args(["--bind-address=127.0.0.1", "--secure-port=0"]);
        let log = fs::File::create(self.dir.join("controllers.log")).expect("creating a log");
        command.stderr(log.try_clone().expect("sharing the log")).stdout(log);
        Program::start(&mut command)
    }

    /// URL of the API server.
    pub fn url() -> String {
        format!("https://127.0.0.1:{PORT}")
    }

    /// Port of the API server, on 127.0.0.1.
    pub fn port() -> u16 {
        PORT
    }

    /// Path of its CA certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    fn tls(&self) -> TlsOptions {
        TlsOptions { ca_file: Some(self.ca_file()), client: None }
    }

    /// Sends a request with a token. Returns the status and the body, if it is JSON.
    ///
    /// # Panics
    ///
    /// Panics if there is no reply.
    pub fn call(&self, token: &str, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let kind = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let request = Request::builder()
            .method(method.parse::<Method>().expect("a method"))
            .uri(format!("{}{path}", Self::url()))
            .header("authorization", format!("Bearer {token}"))
            .header("accept", "application/json")
            .header("content-type", kind)
            .body(Bytes::from(text))
            .expect("a request");
        let limits = RequestLimits { timeout: Duration::from_secs(10), body_bytes_max: 16 << 20 };
        let reply = HttpClient::new(&self.tls()).and_then(|client| client.send(request, limits));
        let reply = reply.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        (reply.status.as_u16(), serde_json::from_slice(&reply.body).unwrap_or_default())
    }

    /// Sends a request as an administrator.
    ///
    /// # Panics
    ///
    /// Panics if it is refused.
    pub fn admin(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, said) = self.call(ADMIN, method, path, body);
        assert!((200..300).contains(&status), "{method} {path}: {status} {said}");
        said
    }

    /// Sends a request as an administrator. Returns the status and the body.
    pub fn ask_as_admin(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        self.call(ADMIN, method, path, body)
    }

    /// Creates a namespace.
    pub fn namespace(&self, name: &str) {
        let namespace =
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
        self.admin("POST", "/api/v1/namespaces", &namespace);
    }

    /// Applies manifests with kubectl.
    pub fn apply(&self, manifests: &str) {
        let (server, token) = (format!("--server={}", Self::url()), format!("--token={ADMIN}"));
        let authority = format!("--certificate-authority={}", self.ca_file().display());
        self.servers.kubectl(&["apply", "--filename=-", &server, &token, &authority], manifests);
    }

    /// Programs beside it.
    pub fn servers(&self) -> &Servers {
        &self.servers
    }

    /// Token of a service account in the namespace `spillway`, as a pod gets it.
    ///
    /// # Panics
    ///
    /// Panics if there is no such account.
    pub fn token(&self, account: &str) -> String {
        let path = format!("/api/v1/namespaces/spillway/serviceaccounts/{account}/token");
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": { "expirationSeconds": 3_600 },
        });
        let said = self.admin("POST", &path, &request);
        said["status"]["token"].as_str().expect("it is a token").to_owned()
    }

    /// Writes the directory of a service account, as a pod finds it, with its token.
    ///
    /// # Panics
    ///
    /// Panics if it cannot be written.
    pub fn service_account(&self, directory: &Path, account: &str) {
        crate::api_server::service_account(&self.authority, directory, &self.token(account));
        fs::write(directory.join("namespace"), "spillway").expect("the file can be written");
    }
}
