//! Strict Kubernetes API server over TLS for the leases of one namespace. Like the real one, it
//! refuses clients without a valid token or the right, writes of a version that is not the last,
//! objects that are not valid leases, and pages of lists that have expired. [`conforming`] is a
//! sequence of requests to which both give the same answers.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::sleep,
    time::{Duration, UNIX_EPOCH},
};

use serde_json::{Value, json};
use spillway_agent::clock::Clock;

use crate::{
    api_server::{HOST, service_account},
    http_server::{Request, reset, respond},
    tls::{Answering, Authority, TlsServer},
};

/// Namespace whose leases the server has.
pub const NAMESPACE: &str = "spillway";

const GROUP: &str = "coordination.k8s.io";
const ANNOTATIONS_BYTES_MAX: usize = 256 << 10;

/// Fault with which the server answers, once for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseFault {
    /// None.
    Nothing,
    /// The request is carried out, and the connection reset.
    LosesReply,
    /// The request is carried out by another client's write in between.
    Busy,
    /// The server has too many requests.
    TooMany,
    /// The server never answers.
    Hangs,
    /// Pages of earlier lists have expired.
    Expires,
    /// The server sends an endless answer.
    Floods,
    /// A proxy answers, without the header `Date`.
    WithoutDate,
}

/// Answers to [`conforming`].
pub const CONFORMING: [&str; 19] = [
    "get a missing one: 404 NotFound",
    "create one: 201",
    "create it again: 409 AlreadyExists",
    "create one with a version: 500",
    "create one with a bad name: 422 Invalid",
    "create one that lasts no time: 422 Invalid",
    "create one with too long an annotation: 422 Invalid",
    "create one with no time as a time: 400 BadRequest",
    "update the last version: 200",
    "update the version before: 409 Conflict",
    "update it without a version: 422 Invalid",
    "update another uid: 409 Conflict",
    "delete the version before: 409 Conflict",
    "create another: 201",
    "list one of two: 200 with more",
    "list with garbage as a token: 400 BadRequest",
    "delete the last version: 200",
    "delete a missing one: 404 NotFound",
    "update the deleted one: 409 Conflict",
];

/// Sends requests to an API server without leases. `send` takes a method, the rest of the URL
/// after `leases`, and a body; it returns the status and the body.
pub fn conforming(send: &mut dyn FnMut(&str, &str, &Value) -> (u16, Value)) -> Vec<String> {
    let mut answers = Vec::new();
    let mut ask = |what: &str, method: &str, rest: &str, body: &Value| {
        let (status, said) = send(method, rest, body);
        let reason = said["reason"].as_str().filter(|reason| !reason.is_empty());
        let reason = reason.map(|reason| format!(" {reason}"));
        let more = said["metadata"]["continue"].is_string().then(|| " with more".to_owned());
        let rest = reason.or(more).unwrap_or_default();
        answers.push(format!("{what}: {status}{rest}"));
        said
    };
    let lease = |name: &str| {
        json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": { "name": name, "labels": { "spillway.io/group": "conforming" } },
            "spec": { "holderIdentity": "7", "renewTime": "2026-11-01T08:00:00.250000Z" },
        })
    };
    let with = |pointer: [&str; 2], value: Value| {
        let mut lease = lease("conforming-2");
        lease[pointer[0]][pointer[1]] = value;
        lease
    };
    let none = Value::Null;
    ask("get a missing one", "GET", "/conforming-1", &none);
    let first = ask("create one", "POST", "", &lease("conforming-1"));
    ask("create it again", "POST", "", &lease("conforming-1"));
    let versioned = with(["metadata", "resourceVersion"], "1".into());
    ask("create one with a version", "POST", "", &versioned);
    ask("create one with a bad name", "POST", "", &with(["metadata", "name"], "a_b".into()));
    let timeless = with(["spec", "leaseDurationSeconds"], 0.into());
    ask("create one that lasts no time", "POST", "", &timeless);
    let long = json!({ "a": "a".repeat(ANNOTATIONS_BYTES_MAX) });
    let long = with(["metadata", "annotations"], long);
    ask("create one with too long an annotation", "POST", "", &long);
    let garbage = with(["spec", "renewTime"], "yesterday".into());
    ask("create one with no time as a time", "POST", "", &garbage);
    let mut next = first.clone();
    next["spec"]["holderIdentity"] = "8".into();
    let last = ask("update the last version", "PUT", "/conforming-1", &next);
    ask("update the version before", "PUT", "/conforming-1", &first);
    ask("update it without a version", "PUT", "/conforming-1", &lease("conforming-1"));
    let mut other = last.clone();
    other["metadata"]["uid"] = "2f1c8a52-6d0e-4a57-9f0b-1b7f9b1f0c11".into();
    ask("update another uid", "PUT", "/conforming-1", &other);
    let options = |lease: &Value| {
        let metadata = &lease["metadata"];
        json!({
            "kind": "DeleteOptions", "apiVersion": "v1",
            "preconditions": {
                "uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"],
            },
        })
    };
    ask("delete the version before", "DELETE", "/conforming-1", &options(&first));
    ask("create another", "POST", "", &lease("conforming-2"));
    let list = "?labelSelector=spillway.io%2Fgroup%3Dconforming&limit=1";
    ask("list one of two", "GET", list, &none);
    ask("list with garbage as a token", "GET", &format!("{list}&continue=garbage"), &none);
    ask("delete the last version", "DELETE", "/conforming-1", &options(&last));
    ask("delete a missing one", "DELETE", "/conforming-1", &options(&last));
    ask("update the deleted one", "PUT", "/conforming-1", &last);
    answers
}

/// Server that ends when it is dropped.
pub struct LeaseServer {
    /// HTTPS side: its address and the requests it received.
    pub server: TlsServer,
    authority: Authority,
    store: Arc<Mutex<Store>>,
}

struct Store {
    leases: BTreeMap<String, Value>,
    version: u64,
    /// Lists that were begun, by their versions.
    lists: BTreeMap<u64, Vec<Value>>,
    token: String,
    rules: Value,
    faults: Vec<(&'static str, LeaseFault)>,
    /// Seconds by which the server's clock is ahead of the host's.
    ahead_secs: i64,
    clock: Clock,
}

/// Status, reason, message, and name of the lease.
type Refusal = (u16, &'static str, String, String);

impl LeaseServer {
    /// Starts a server without leases, whose clock is three hours ahead. Its only client has this
    /// token and the rights that the rules of a Role grant.
    ///
    /// # Panics
    ///
    /// Panics if it cannot listen.
    pub fn start(token: &str, rules: Value) -> Self {
        let authority = Authority::make();
        let store = Arc::new(Mutex::new(Store {
            leases: BTreeMap::new(),
            version: 4_711,
            lists: BTreeMap::new(),
            token: token.to_owned(),
            rules,
            faults: Vec::new(),
            ahead_secs: 3 * 3_600,
            clock: Clock::start(),
        }));
        let shared = store.clone();
        let server = TlsServer::start(&authority, &[HOST], None, move |request, stream| {
            act(&shared, request, stream)
        });
        Self { server, authority, store }
    }

    /// URL of the server.
    pub fn url(&self) -> String {
        format!("https://{HOST}:{}", self.server.addr.port())
    }

    /// Writes the directory of a service account, as a pod finds it.
    ///
    /// # Panics
    ///
    /// Panics if it cannot be written.
    pub fn service_account(&self, directory: &Path, token: &str) {
        service_account(&self.authority, directory, token);
        fs::write(directory.join("namespace"), NAMESPACE).expect("the file can be written");
    }

    /// Replaces the token that is valid.
    pub fn takes(&self, token: &str) {
        lock(&self.store).token = token.to_owned();
    }

    /// Makes lists expire once this number of pages was read, this number of times.
    pub fn expires_after(&self, pages: usize, times: usize) {
        let mut store = lock(&self.store);
        let each = std::iter::repeat_n(("GET", LeaseFault::Nothing), pages)
            .chain([("GET", LeaseFault::Expires)]);
        let all: Vec<_> = std::iter::repeat_n((), times).flat_map(|()| each.clone()).collect();
        store.faults.extend(all);
    }

    /// Replaces the rules.
    pub fn rules(&self, rules: Value) {
        lock(&self.store).rules = rules;
    }

    /// Makes the next request with a method go wrong.
    pub fn fails(&self, method: &'static str, fault: LeaseFault) {
        lock(&self.store).faults.push((method, fault));
    }

    /// Sets the server's clock forward, or back.
    pub fn passes(&self, secs: i64) {
        lock(&self.store).ahead_secs += secs;
    }

    /// Leases, by name.
    pub fn leases(&self) -> BTreeMap<String, Value> {
        lock(&self.store).leases.clone()
    }

    /// Changes the first lease whose name begins so, as a client with every right does. A lease
    /// that is `None` afterwards is deleted.
    ///
    /// # Panics
    ///
    /// Panics if there is no such lease.
    pub fn change(&self, start: &str, change: impl FnOnce(&mut Value)) {
        let mut store = lock(&self.store);
        let name = store.leases.keys().find(|name| name.starts_with(start)).cloned();
        let name = name.unwrap_or_else(|| panic!("no lease {start}"));
        let mut lease = store.leases.remove(&name).unwrap_or_default();
        change(&mut lease);
        if !lease.is_null() {
            store.keep(lease);
        }
    }

    /// Adds a lease, as a client with every right does.
    pub fn add(&self, lease: Value) {
        lock(&self.store).keep(lease);
    }
}

impl Store {
    /// Stores a lease as its next version.
    fn keep(&mut self, mut lease: Value) -> Value {
        self.version += 1;
        let name = lease["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        lease["metadata"]["resourceVersion"] = self.version.to_string().into();
        lease["metadata"]["namespace"] = NAMESPACE.into();
        if lease["metadata"]["uid"].is_null() {
            lease["metadata"]["uid"] =
                format!("2f1c8a52-6d0e-4a57-9f0b-{:012}", self.version).into();
        }
        self.leases.insert(name, lease.clone());
        lease
    }

    fn carry_out(&mut self, request: &Request) -> Result<(u16, Value), Refusal> {
        let refuse =
            |code, reason, message: &str| Err((code, reason, message.to_owned(), String::new()));
        if request.header("authorization") != Some(&format!("Bearer {}", self.token)) {
            return refuse(401, "Unauthorized", "Unauthorized");
        }
        let (method, target) = request.method_and_target();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let place = format!("/apis/{GROUP}/v1/namespaces/{NAMESPACE}/leases");
        let Some(name) = path.strip_prefix(&place).map(|rest| rest.trim_start_matches('/')) else {
            return refuse(404, "NotFound", "the server could not find the requested resource");
        };
        let verb = match (method, name) {
            ("GET", "") => "list",
            ("GET", _) => "get",
            ("POST", "") => "create",
            ("PUT", name) if !name.is_empty() => "update",
            ("DELETE", name) if !name.is_empty() => "delete",
            _ => {
                let message = "the server does not allow this method on the requested resource";
                return refuse(405, "MethodNotAllowed", message);
            }
        };
        if !self.lets(verb) {
            let message = format!(
                "leases.{GROUP} is forbidden: User \"system:serviceaccount:spillway:spillway-fleet\" \
                 cannot {verb} resource \"leases\" in API group \"{GROUP}\" in the namespace \
                 \"{NAMESPACE}\""
            );
            return Err((403, "Forbidden", message, name.to_owned()));
        }
        if !request.header("accept").is_some_and(|types| types.contains("application/json")) {
            return refuse(406, "NotAcceptable", "only application/json is served");
        }
        let has_body = !matches!(verb, "get" | "list");
        if has_body && request.header("content-type") != Some("application/json") {
            return refuse(415, "UnsupportedMediaType", "the body is in an unknown format");
        }
        let body: Value = match has_body {
            true => serde_json::from_slice(&request.body)
                .map_err(|error| (400, "BadRequest", error.to_string(), String::new()))?,
            false => Value::Null,
        };
        match verb {
            "list" => self.list(query),
            "get" => Ok((200, self.existing(name)?.clone())),
            "create" => self.create(body),
            "update" => self.update(name, body),
            _ => self.delete(name, &body),
        }
    }

    fn lets(&self, verb: &str) -> bool {
        let has = |list: &Value, wanted: &str| {
            list.as_array().is_some_and(|list| list.iter().any(|one| one == wanted))
        };
        self.rules.as_array().is_some_and(|rules| {
            rules.iter().any(|rule| {
                has(&rule["apiGroups"], GROUP)
                    && has(&rule["resources"], "leases")
                    && has(&rule["verbs"], verb)
            })
        })
    }

    fn existing(&self, name: &str) -> Result<&Value, Refusal> {
        let missing = || {
            let message = format!("leases.{GROUP} \"{name}\" not found");
            (404, "NotFound", message, name.to_owned())
        };
        self.leases.get(name).ok_or_else(missing)
    }

    fn create(&mut self, lease: Value) -> Result<(u16, Value), Refusal> {
        let name = valid(&lease)?;
        if self.leases.contains_key(&name) {
            let message = format!("leases.{GROUP} \"{name}\" already exists");
            return Err((409, "AlreadyExists", message, name));
        }
        if !lease["metadata"]["resourceVersion"].is_null() {
            let message = "resourceVersion should not be set on objects to be created".to_owned();
            return Err((500, "", message, String::new()));
        }
        Ok((201, self.keep(lease)))
    }

    fn update(&mut self, name: &str, mut lease: Value) -> Result<(u16, Value), Refusal> {
        if lease["metadata"]["name"] != name {
            let message = "the name of the object does not match the name on the URL".to_owned();
            return Err((400, "BadRequest", message, String::new()));
        }
        let conflict = |why: &str| {
            let message =
                format!("Operation cannot be fulfilled on leases.{GROUP} \"{name}\": {why}");
            Err((409, "Conflict", message, name.to_owned()))
        };
        let sent = lease["metadata"].clone();
        let Some(last) = self.leases.get(name).cloned() else {
            if !sent["uid"].is_null() {
                return conflict("StorageError: invalid object, Code: 4, Precondition failed");
            }
            valid(&lease)?;
            return Ok((201, self.keep(lease)));
        };
        if !sent["uid"].is_null() && sent["uid"] != last["metadata"]["uid"] {
            return conflict("Precondition failed: UID in precondition");
        }
        if sent["resourceVersion"].is_null() {
            let message = format!(
                "Lease.{GROUP} \"{name}\" is invalid: metadata.resourceVersion: must be specified \
                 for an update"
            );
            return Err((422, "Invalid", message, name.to_owned()));
        }
        if sent["resourceVersion"] != last["metadata"]["resourceVersion"] {
            return conflict(
                "the object has been modified; please apply your changes to the latest version \
                 and try again",
            );
        }
        valid(&lease)?;
        lease["metadata"]["uid"] = last["metadata"]["uid"].clone();
        Ok((200, self.keep(lease)))
    }

    fn delete(&mut self, name: &str, options: &Value) -> Result<(u16, Value), Refusal> {
        let metadata = self.existing(name)?["metadata"].clone();
        for field in ["uid", "resourceVersion"] {
            let wanted = &options["preconditions"][field];
            if !wanted.is_null() && *wanted != metadata[field] {
                let message = format!(
                    "Operation cannot be fulfilled on leases.{GROUP} \"{name}\": the {field} in \
                     the precondition does not match"
                );
                return Err((409, "Conflict", message, name.to_owned()));
            }
        }
        self.leases.remove(name);
        self.version += 1;
        Ok((200, json!({ "kind": "Status", "apiVersion": "v1", "status": "Success" })))
    }

    fn list(&mut self, query: &str) -> Result<(u16, Value), Refusal> {
        let bad = |message: &str| Err((400, "BadRequest", message.to_owned(), String::new()));
        let fields: BTreeMap<_, _> =
            query.split('&').filter_map(|one| one.split_once('=')).collect();
        let Some(selector) = fields.get("labelSelector").and_then(|one| one.split_once("%3D"))
        else {
            return bad("unable to parse the label selector");
        };
        let (label, value) = (selector.0.replace("%2F", "/"), selector.1);
        let limit = fields.get("limit").and_then(|limit| limit.parse::<usize>().ok());
        let Some(limit) = limit.filter(|limit| *limit > 0) else { return bad("limit") };
        let (version, start) = match fields.get("continue").map(|token| token.split_once('.')) {
            None => {
                let is_one = |lease: &&Value| lease["metadata"]["labels"][&label] == value;
                let all = self.leases.values().filter(is_one).cloned().collect();
                self.lists.insert(self.version, all);
                (self.version, 0)
            }
            Some(token) => {
                let numbers = token.and_then(|(version, start)| {
                    Some((version.parse().ok()?, start.parse().ok()?))
                });
                let Some(numbers) = numbers else { return bad("continue key is not valid") };
                numbers
            }
        };
        let Some(all) = self.lists.get(&version) else {
            let message = "The provided continue parameter is too old to display a consistent \
                           list result.";
            return Err((410, "Expired", message.to_owned(), String::new()));
        };
        let items = &all[start.min(all.len())..(start + limit).min(all.len())];
        let mut metadata = json!({ "resourceVersion": version.to_string() });
        if start + limit < all.len() {
            metadata["continue"] = format!("{version}.{}", start + limit).into();
            metadata["remainingItemCount"] = (all.len() - start - limit).into();
        }
        let kind = json!({ "kind": "LeaseList", "apiVersion": format!("{GROUP}/v1") });
        Ok((200, merged(kind, json!({ "metadata": metadata, "items": items }))))
    }
}

fn merged(mut one: Value, other: Value) -> Value {
    if let (Some(one), Value::Object(other)) = (one.as_object_mut(), other) {
        one.extend(other);
    }
    one
}

/// Returns the name of a lease that the API allows.
fn valid(lease: &Value) -> Result<String, Refusal> {
    let metadata = &lease["metadata"];
    let name = metadata["name"].as_str().unwrap_or_default().to_owned();
    let bad = |message: String| Err((400, "BadRequest", message, String::new()));
    if lease["kind"] != "Lease" || lease["apiVersion"] != format!("{GROUP}/v1") {
        return bad(format!("{} {} is no lease", lease["apiVersion"], lease["kind"]));
    }
    let invalid = |field: &str| {
        let message = format!("Lease.{GROUP} \"{name}\" is invalid: {field}");
        Err((422, "Invalid", message, name.clone()))
    };
    let is_alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_label = |label: &str| {
        label.starts_with(is_alphanumeric)
            && label.ends_with(is_alphanumeric)
            && label.chars().all(|c| is_alphanumeric(c) || c == '-')
    };
    if name.len() > 253 || !name.split('.').all(is_label) {
        return invalid("metadata.name: a lowercase RFC 1123 subdomain");
    }
    let texts = |field: &str| -> Option<Vec<(String, String)>> {
        let all = metadata[field].as_object().into_iter().flatten();
        all.map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
    };
    let (Some(labels), Some(annotations)) = (texts("labels"), texts("annotations")) else {
        return bad("labels and annotations are texts".to_owned());
    };
    let is_value = |value: &str| {
        value.len() <= 63
            && value.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            && value.starts_with(|c: char| c.is_ascii_alphanumeric())
            && value.ends_with(|c: char| c.is_ascii_alphanumeric())
    };
    if !labels.iter().all(|(_, value)| value.is_empty() || is_value(value)) {
        return invalid("metadata.labels: a valid label");
    }
    let bytes: usize = annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > ANNOTATIONS_BYTES_MAX {
        return invalid("metadata.annotations: Too long: must have at most 262144 bytes");
    }
    let spec = &lease["spec"];
    if spec["leaseDurationSeconds"].as_i64().is_some_and(|secs| secs <= 0) {
        return invalid("spec.leaseDurationSeconds: must be greater than 0");
    }
    if !spec["renewTime"].is_null() {
        let time = spec["renewTime"].as_str().and_then(|time| humantime::parse_rfc3339(time).ok());
        if time.is_none() {
            return bad(format!("parsing time {}", spec["renewTime"]));
        }
    }
    Ok(name)
}

fn act(store: &Mutex<Store>, request: &Request, stream: &mut Answering) -> io::Result<()> {
    let (method, _) = request.method_and_target();
    let (answer, fault, date) = {
        let mut store = lock(store);
        let nth = store.faults.iter().position(|(fails, _)| *fails == method);
        let fault = nth.map(|nth| store.faults.remove(nth).1);
        match fault {
            Some(LeaseFault::Busy) => {
                for lease in store.leases.clone().into_values() {
                    store.keep(lease);
                }
            }
            Some(LeaseFault::Expires) => store.lists.clear(),
            _ => {}
        }
        let answer = match fault {
            Some(LeaseFault::TooMany) => {
                Err((429, "TooManyRequests", "too many requests".to_owned(), String::new()))
            }
            _ => store.carry_out(request),
        };
        let secs = store.clock.unix_ms() as i64 / 1_000 + store.ahead_secs;
        let date = UNIX_EPOCH + Duration::from_secs(u64::try_from(secs).unwrap_or_default());
        (answer, fault, httpdate::fmt_http_date(date))
    };
    match fault {
        Some(LeaseFault::Hangs) => {
            sleep(Duration::from_secs(600));
            return Ok(());
        }
        Some(LeaseFault::Floods) => {
            write!(stream, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
            let spaces = " ".repeat(1 << 20);
            loop {
                write!(stream, "{:x}\r\n{spaces}\r\n", spaces.len())?;
            }
        }
        Some(LeaseFault::LosesReply) => {
            reset(&stream.sock)?;
            return Err(io::ErrorKind::Other.into());
        }
        _ => {}
    }
    let (code, body) = answer.unwrap_or_else(|(code, reason, message, name)| {
        let details = json!({ "name": name, "group": GROUP, "kind": "leases" });
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": reason, "details": details, "code": code,
        });
        (code, status)
    });
    let date = match fault {
        Some(LeaseFault::WithoutDate) => String::new(),
        _ => format!("date: {date}\r\n"),
    };
    let headers = format!("content-type: application/json\r\n{date}");
    respond(stream, &format!("{code} Status"), &headers, body.to_string().as_bytes())
}

fn lock(store: &Mutex<Store>) -> MutexGuard<'_, Store> {
    store.lock().unwrap_or_else(PoisonError::into_inner)
}
