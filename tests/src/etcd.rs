//! Real etcd of one member or three on loopback, in a directory of the test. Its ports are fixed:
//! the test has a network namespace of its own.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::body::Bytes;
use serde_json::{Value, json};
use spillway_agent::net::http_client::{HttpClient, RequestLimits, TlsOptions};

use crate::{Program, Servers, http_get, wait_for};

/// Member of an etcd cluster. It ends when it is dropped.
pub struct Etcd {
    program: Program,
    addr: SocketAddr,
    url: String,
}

impl Etcd {
    /// Starts an etcd of one member with these further arguments.
    ///
    /// # Panics
    ///
    /// Panics if it is not healthy within half a minute.
    pub fn start(servers: &Servers, dir: &Path, arguments: &[&str]) -> Self {
        let etcd = Self::member(servers, dir, 0, 1, arguments);
        etcd.until_healthy();
        etcd
    }

    /// Starts an etcd of three members.
    ///
    /// # Panics
    ///
    /// Panics if they are not healthy within half a minute.
    pub fn cluster(servers: &Servers, dir: &Path) -> [Self; 3] {
        let members = [0, 1, 2].map(|nth| Self::member(servers, dir, nth, 3, &[]));
        members.iter().for_each(Self::until_healthy);
        members
    }

    fn member(servers: &Servers, dir: &Path, nth: u16, of: u16, arguments: &[&str]) -> Self {
        let peer = |nth: u16| format!("http://127.0.0.1:{}", 2_400 + nth);
        let cluster: Vec<_> = (0..of).map(|nth| format!("m{nth}={}", peer(nth))).collect();
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 2_300 + nth));
        let has = |option: &str| arguments.iter().any(|argument| argument.starts_with(option));
        // With certificates, loopback without TLS has to be asked for.
        let has_tls = has("--cert-file") && !has("--listen-client-urls");
        let client = format!("http{}://{addr}", if has_tls { "s" } else { "" });
        let mut command = servers.etcd();
        command.arg("--data-dir").arg(dir.join(format!("m{nth}")));
        command.args([
            format!("--name=m{nth}"),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={}", peer(nth)),
            format!("--initial-advertise-peer-urls={}", peer(nth)),
            format!("--initial-cluster={}", cluster.join(",")),
            format!("--listen-metrics-urls=http://127.0.0.1:{}", 2_500 + nth),
        ]);
        // A lease may be as short as one and a half elections.
        command.args(["--heartbeat-interval=50", "--election-timeout=500", "--log-level=error"]);
        let log = fs::File::create(dir.join(format!("m{nth}.log"))).expect("creating a log");
        command.args(arguments).stderr(log.try_clone().expect("sharing the log")).stdout(log);
        Self { program: Program::start(&mut command), addr, url: client }
    }

    fn until_healthy(&self) {
        let metrics = SocketAddr::from((Ipv4Addr::LOCALHOST, self.addr.port() + 200));
        let is_healthy = || {
            let health = http_get(metrics, "/health").ok()?;
            health.contains("\"health\":\"true\"").then_some(())
        };
        // A busy machine takes its time to elect a leader.
        let healthy = wait_for(Duration::from_secs(30), is_healthy);
        assert!(healthy.is_some(), "etcd at {} did not become healthy", self.addr);
    }

    /// URL for clients.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// Kills the member, as a crash does.
    pub fn kill(&mut self) {
        // SAFETY: a signal to a child that was not waited for yet.
        unsafe { libc::kill(self.program.pid() as i32, libc::SIGKILL) };
        let gone = wait_for(Duration::from_secs(5), || (!self.program.is_running()).then_some(()));
        assert!(gone.is_some(), "etcd at {} did not end", self.addr);
    }

    /// Sends a request to the JSON gateway, with the fields of its JSON form.
    ///
    /// # Panics
    ///
    /// Panics if etcd refuses it.
    pub fn call(&self, path: &str, request: &Value) -> Value {
        let client = HttpClient::new(&TlsOptions { ca_file: None, client: None });
        let client = client.expect("a client without files");
        let limits = RequestLimits { timeout: Duration::from_secs(5), body_bytes_max: 1 << 20 };
        let url = format!("{}/v3/{path}", self.url);
        let reply = client.post(&url, &[], Bytes::from(request.to_string()), limits);
        let reply = reply.unwrap_or_else(|error| panic!("{path}: {error}"));
        let text = String::from_utf8_lossy(&reply.body);
        assert!(reply.status.is_success(), "{path}: {} {text}", reply.status);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}"))
    }

    /// Operation of a transaction that writes a key without a lease.
    pub fn put_operation(key: &str, value: &[u8]) -> Value {
        json!({ "request_put": { "key": STANDARD.encode(key), "value": STANDARD.encode(value) } })
    }

    /// Writes a key without a lease.
    pub fn put(&self, key: &str, value: &[u8]) {
        self.call("kv/txn", &json!({ "success": [Self::put_operation(key, value)] }));
    }

    /// Deletes a key.
    pub fn delete(&self, key: &str) {
        self.call("kv/deleterange", &json!({ "key": STANDARD.encode(key) }));
    }

    /// Value and revision of the last write of a key; `None` if there is none.
    ///
    /// # Panics
    ///
    /// Panics if the reply is not one of etcd.
    pub fn get(&self, key: &str) -> Option<(String, i64)> {
        let found = self.call("kv/range", &json!({ "key": STANDARD.encode(key) }));
        let found = found["kvs"].as_array()?.first()?.clone();
        let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
        let value = STANDARD.decode(text("value")).expect("values are in base64");
        let revision = text("mod_revision").parse().expect("a revision is a number");
        Some((String::from_utf8_lossy(&value).into_owned(), revision))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // An orderly end takes seconds without the other members.
        if self.program.is_running() {
            self.kill();
        }
    }
}
