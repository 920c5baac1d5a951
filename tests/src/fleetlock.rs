//! Strict FleetLock server over TLS: a number of slots for each group. It refuses whatever the
//! protocol does not allow.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, PoisonError},
    thread::sleep,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    http_server::{Request, respond},
    tls::{Answering, Authority, TlsServer},
};

/// Name in the server's certificate.
const HOST: &str = "127.0.0.1";

/// Path before that of the protocol.
const BASE: &str = "/base";

/// Behaviour of the server.
#[derive(Debug, Clone)]
pub enum LockConduct {
    /// Follows the protocol.
    Counts,
    /// Sends this status and body, whatever is requested.
    Says(&'static str, String),
    /// Never answers.
    Hangs,
}

/// Holders of slots, by group.
type Holders = BTreeMap<String, BTreeSet<String>>;

/// Server that ends when it is dropped.
pub struct FleetLockServer {
    /// HTTPS side: its address and the requests it received.
    pub server: TlsServer,
    /// Authority of its certificate.
    pub authority: Authority,
    state: Arc<Mutex<(LockConduct, Holders)>>,
}

impl FleetLockServer {
    /// Starts a server with this number of slots in each group.
    ///
    /// # Panics
    ///
    /// Panics if it cannot listen.
    pub fn start(slots: usize) -> Self {
        let authority = Authority::make();
        let state = Arc::new(Mutex::new((LockConduct::Counts, Holders::new())));
        let shared = state.clone();
        let server = TlsServer::start(&authority, &[HOST], None, move |request, stream| {
            let conduct = shared.lock().unwrap_or_else(PoisonError::into_inner).0.clone();
            match conduct {
                LockConduct::Counts => {
                    let holders = &mut shared.lock().unwrap_or_else(PoisonError::into_inner).1;
                    let fault = operate(request, slots, holders).err();
                    say(stream, fault)
                }
                LockConduct::Says(status, body) => respond(stream, status, "", body.as_bytes()),
                LockConduct::Hangs => {
                    sleep(Duration::from_secs(600));
                    Ok(())
                }
            }
        });
        Self { server, authority, state }
    }

    /// Base URL of the server.
    pub fn url(&self) -> String {
        format!("https://{HOST}:{}{BASE}", self.server.addr.port())
    }

    /// Changes the server's behaviour from now on.
    pub fn conduct(&self, conduct: LockConduct) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0 = conduct;
    }

    /// Nodes that hold a slot of a group.
    pub fn holders(&self, group: &str) -> Vec<String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.1.get(group).into_iter().flatten().cloned().collect()
    }
}

/// Error of the protocol: status, kind and value.
type Fault = (&'static str, &'static str, String);

fn say(stream: &mut Answering, fault: Option<Fault>) -> io::Result<()> {
    match fault {
        None => respond(stream, "200 OK", "", b""),
        Some((status, kind, value)) => {
            let body = json!({ "kind": kind, "value": value }).to_string();
            respond(stream, status, "content-type: application/json\r\n", body.as_bytes())
        }
    }
}

/// Carries out a request, if it follows the protocol to the letter.
fn operate(request: &Request, slots: usize, all: &mut Holders) -> Result<(), Fault> {
    let bad = |value: &str| ("400 Bad Request", "bad_request", value.to_owned());
    let (method, target) = request.method_and_target();
    let operation = target.strip_prefix(BASE).and_then(|path| path.strip_prefix("/v1/"));
    let Some(operation @ ("pre-reboot" | "steady-state")) = operation else {
        return Err(("404 Not Found", "not_found", target.to_owned()));
    };
    if method != "POST" {
        return Err(("405 Method Not Allowed", "not_allowed", method.to_owned()));
    }
    if request.header("fleet-lock-protocol") != Some("true") {
        return Err(bad("the header fleet-lock-protocol is missing"));
    }
    let body: Value = serde_json::from_slice(&request.body).map_err(|_| bad("no JSON"))?;
    let text = |field: &str| body["client_params"][field].as_str().unwrap_or_default().to_owned();
    let (id, group) = (text("id"), text("group"));
    if body != json!({ "client_params": { "id": id, "group": group } }) || id.is_empty() {
        return Err(bad("unexpected fields"));
    }
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
    if group.is_empty() || !group.chars().all(is_allowed) {
        return Err(bad("group"));
    }
    let holders = all.entry(group).or_default();
    if operation == "steady-state" {
        holders.remove(&id);
    } else if !holders.contains(&id) {
        if holders.len() >= slots {
            let value = "all slots are locked already".to_owned();
            return Err(("403 Forbidden", "failed_lock_semaphore_full", value));
        }
        holders.insert(id);
    }
    Ok(())
}
