//! Keys and messages of etcd's JSON gateway.
//!
//! Pure. Keys and values are in base64, and 64-bit numbers are strings. Replies and what others
//! wrote are hostile: anything unexpected is an error, an unreadable member, or ignored.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::{Value, json};

use crate::fleet::{
    coordinator::PageSubject,
    report::{NodeReport, is_key_name},
    snapshot::{Member, Snapshot},
};

/// Start of all keys, with the version of their layout.
const ROOT: &str = "/spillway/v1/";

/// Keys of one node in its group.
#[derive(Debug, Clone)]
pub struct NodeKeys {
    group: String,
    /// Start of all keys of the group.
    prefix: String,
    /// Report, under the member lease.
    pub report: String,
    /// Number of the run, while the node renews it.
    pub alive: String,
    /// Slot, while the node holds it and renews it.
    pub slot: String,
    /// Last grant in the group.
    pub turn: String,
    /// Start of the keys of the nodes that page for the group.
    page: String,
}

/// Meaning of a key.
#[derive(Debug, PartialEq, Eq)]
enum Place<'a> {
    Report(&'a str),
    Alive(&'a str),
    Slot(&'a str),
    Turn,
    Page,
    Unknown,
}

/// Reply to a range.
#[derive(Debug, Deserialize)]
pub struct RangeReply {
    /// Header.
    #[serde(default)]
    pub header: EtcdHeader,
    /// Keys with their values.
    #[serde(default)]
    pub kvs: Vec<KeyValue>,
    /// Set if there are further keys.
    #[serde(default)]
    pub more: bool,
}

/// Header of a reply.
#[derive(Debug, Default, Deserialize)]
pub struct EtcdHeader {
    /// Revision of the store.
    #[serde(default, deserialize_with = "int64")]
    pub revision: i64,
}

/// Key with its value.
#[derive(Debug, Deserialize)]
pub struct KeyValue {
    /// Key.
    #[serde(deserialize_with = "bytes")]
    pub key: Vec<u8>,
    /// Value.
    #[serde(default, deserialize_with = "bytes")]
    pub value: Vec<u8>,
    /// Revision of the last write.
    #[serde(default, deserialize_with = "int64")]
    pub mod_revision: i64,
    /// Lease that it goes with; 0 if it stays.
    #[serde(default, deserialize_with = "int64")]
    pub lease: i64,
}

/// Reply to a transaction.
#[derive(Debug, Deserialize)]
pub struct TxnReply {
    /// Set if all comparisons held.
    #[serde(default)]
    pub succeeded: bool,
    #[serde(default)]
    responses: Vec<OperationReply>,
}

#[derive(Debug, Deserialize)]
struct OperationReply {
    response_range: Option<RangeReply>,
}

/// Reply to the grant of a lease.
#[derive(Debug, Deserialize)]
pub struct GrantReply {
    /// Number of the lease.
    #[serde(rename = "ID", deserialize_with = "int64")]
    pub id: i64,
}

/// Reply to the renewal of a lease.
#[derive(Debug, Deserialize)]
pub struct RenewalReply {
    /// Renewed lease.
    pub result: RenewedLease,
}

/// Renewed lease.
#[derive(Debug, Deserialize)]
pub struct RenewedLease {
    /// Time until it expires, in seconds; 0 if it has expired.
    #[serde(rename = "TTL", default, deserialize_with = "int64")]
    pub ttl_secs: i64,
}

/// Reply to a user's password.
#[derive(Debug, Deserialize)]
pub struct TokenReply {
    /// Token for further requests.
    pub token: String,
}

/// Keys of a group, gathered page by page.
#[derive(Debug)]
pub struct Listing<'a> {
    keys: &'a NodeKeys,
    members: BTreeMap<String, MemberKeys>,
    grant_revision: i64,
    /// Keys that do not fit the layout.
    pub unknown: usize,
}

#[derive(Debug, Default)]
struct MemberKeys {
    report: Option<Result<NodeReport, String>>,
    alive: Option<Vec<u8>>,
    has_slot: bool,
}

impl NodeKeys {
    /// Returns the keys of `node` in `group`.
    pub fn new(group: &str, node: &str) -> Self {
        let prefix = format!("{ROOT}{group}/");
        Self {
            group: group.to_owned(),
            report: format!("{prefix}node/{node}"),
            alive: format!("{prefix}alive/{node}"),
            slot: format!("{prefix}slot/{node}"),
            turn: format!("{prefix}turn"),
            page: format!("{prefix}page/"),
            prefix,
        }
    }

    /// Returns the key of the node that pages for a subject.
    pub fn page_for(&self, PageSubject { cause, is_critical }: &PageSubject) -> String {
        let severity = if *is_critical { "critical" } else { "warning" };
        format!("{}{severity}/{cause}", self.page)
    }

    /// Returns a request for the keys of the group from `from` on, all of them if that is `None`,
    /// as they were at `revision`; 0 is now.
    pub fn page(&self, from: Option<&[u8]>, revision: i64, limit: usize) -> Value {
        let mut end = self.prefix.clone().into_bytes();
        // The first key after all that have the prefix.
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        let from = from.unwrap_or(self.prefix.as_bytes());
        json!({
            "key": STANDARD.encode(from),
            "range_end": STANDARD.encode(end),
            "limit": limit.to_string(),
            "revision": revision.to_string(),
        })
    }

    fn place<'a>(&self, key: &'a [u8]) -> Place<'a> {
        let key = key.strip_prefix(self.prefix.as_bytes()).map(str::from_utf8);
        let Some(Ok(key)) = key else { return Place::Unknown };
        match key.split_once('/') {
            None if key == "turn" => Place::Turn,
            Some(("page", _)) => Place::Page,
            Some((_, name)) if !is_key_name(name) => Place::Unknown,
            Some(("node", name)) => Place::Report(name),
            Some(("alive", name)) => Place::Alive(name),
            Some(("slot", name)) => Place::Slot(name),
            _ => Place::Unknown,
        }
    }
}

/// Returns the key after `key`.
pub fn following(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

impl<'a> Listing<'a> {
    /// Creates an empty listing of the group of `keys`.
    pub fn new(keys: &'a NodeKeys) -> Self {
        Self { keys, members: BTreeMap::new(), grant_revision: 0, unknown: 0 }
    }

    /// Adds a key.
    pub fn add(&mut self, KeyValue { key, value, mod_revision, .. }: KeyValue) {
        let mut of = |node: &str, change: &dyn Fn(&mut MemberKeys)| {
            change(self.members.entry(node.to_owned()).or_default());
        };
        match self.keys.place(&key) {
            Place::Report(node) => {
                let report = NodeReport::parse(&value, node, &self.keys.group);
                let report = report.map_err(|error| error.to_string());
                of(node, &|keys| keys.report = Some(report.clone()));
            }
            Place::Alive(node) => of(node, &|keys| keys.alive = Some(value.clone())),
            Place::Slot(node) => of(node, &|keys| keys.has_slot = true),
            Place::Turn => self.grant_revision = mod_revision,
            Place::Page => {}
            Place::Unknown => self.unknown += 1,
        }
    }

    /// Returns the snapshot.
    pub fn into_snapshot(self) -> Snapshot {
        let members = self.members.into_iter().map(|(node, keys)| {
            let MemberKeys { report, alive, has_slot } = keys;
            // A run speaks for itself only.
            let is_alive = match (&report, &alive) {
                (Some(Ok(report)), Some(run)) => *run == report.run.to_string().into_bytes(),
                (_, run) => run.is_some(),
            };
            let report = report.unwrap_or_else(|| Err("it has no report".to_owned()));
            Member { node, is_alive, has_slot, report }
        });
        Snapshot { members: members.collect(), grant_revision: self.grant_revision }
    }
}

impl TxnReply {
    /// Returns the key that the only range of the transaction found, if there is one.
    pub fn found(&self) -> Option<&KeyValue> {
        self.responses.iter().find_map(|reply| reply.response_range.as_ref()?.kvs.first())
    }

    /// Returns the same, by value.
    pub fn into_found(self) -> Option<KeyValue> {
        self.responses.into_iter().find_map(|reply| reply.response_range?.kvs.into_iter().next())
    }
}

/// Returns a transaction.
pub fn txn(compare: &[Value], success: &[Value], failure: &[Value]) -> Value {
    json!({ "compare": compare, "success": success, "failure": failure })
}

/// Comparison of the revision of a key's last write; 0 if there is no such key.
pub fn at_revision(key: &str, revision: i64) -> Value {
    json!({
        "key": STANDARD.encode(key), "target": "MOD", "result": "EQUAL",
        "mod_revision": revision.to_string(),
    })
}

/// Comparison of a key's value.
pub fn has_value(key: &str, value: &str) -> Value {
    json!({
        "key": STANDARD.encode(key), "target": "VALUE", "result": "EQUAL",
        "value": STANDARD.encode(value),
    })
}

/// Comparison of a key's lease.
pub fn has_lease(key: &str, lease: i64) -> Value {
    json!({
        "key": STANDARD.encode(key), "target": "LEASE", "result": "EQUAL",
        "lease": lease.to_string(),
    })
}

/// Operation that writes a key under a lease; 0 is none.
pub fn put(key: &str, value: impl AsRef<[u8]>, lease: i64) -> Value {
    json!({ "request_put": {
        "key": STANDARD.encode(key), "value": STANDARD.encode(value), "lease": lease.to_string(),
    } })
}

/// Operation that reads a key.
pub fn get(key: &str) -> Value {
    json!({ "request_range": { "key": STANDARD.encode(key) } })
}

/// Operation that deletes a key.
pub fn delete(key: &str) -> Value {
    json!({ "request_delete_range": { "key": STANDARD.encode(key) } })
}

/// Returns the name of a node that a value is.
pub fn node_in(value: &[u8]) -> Option<&str> {
    str::from_utf8(value).ok().filter(|name| is_key_name(name))
}

/// Reads a 64-bit number: a string, as the JSON form of protocol buffers has it.
fn int64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

/// Reads base64.
fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    STANDARD.decode(String::deserialize(deserializer)?).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys() -> NodeKeys {
        NodeKeys::new("web", "web-1")
    }

    fn written(key: &str, value: impl Into<Vec<u8>>) -> KeyValue {
        let key = format!("/spillway/v1/web/{key}").into_bytes();
        KeyValue { key, value: value.into(), mod_revision: 9, lease: 0 }
    }

    fn listed(all: impl IntoIterator<Item = KeyValue>) -> (Snapshot, usize) {
        let keys = keys();
        let mut listing = Listing::new(&keys);
        all.into_iter().for_each(|one| listing.add(one));
        let unknown = listing.unknown;
        (listing.into_snapshot(), unknown)
    }

    #[test]
    fn members_are_put_together_from_their_keys() {
        let report = NodeReport::new("web-1", "web", 7, 1);
        let (snapshot, unknown) = listed([
            written("node/web-1", report.to_json()),
            written("alive/web-1", "7"),
            written("slot/web-1", "7"),
            written("node/web-2", NodeReport::new("web-2", "web", 8, 1).to_json()),
            written("turn", "web-1 7"),
        ]);
        assert_eq!((unknown, snapshot.grant_revision), (0, 9));
        let (node, report) = ("web-1".to_owned(), Ok(report));
        assert_eq!(snapshot.members[0], Member { node, is_alive: true, has_slot: true, report });
        assert!(!snapshot.members[1].is_alive && !snapshot.members[1].has_slot);
    }

    #[test]
    fn keys_in_part_or_of_another_run_never_count_in_favour() {
        let (snapshot, unknown) = listed([
            written("node/web-1", NodeReport::new("web-1", "web", 7, 1).to_json()),
            written("alive/web-1", "8"),
            written("slot/web-2", "garbage"),
            written("alive/web-3", "9"),
            written("node/web-4", "garbage"),
            written("node/web-5", NodeReport::new("web-6", "web", 7, 1).to_json()),
        ]);
        assert_eq!(unknown, 0);
        let [other_run, slot, no_report, garbage, misnamed] = &snapshot.members[..] else {
            panic!("{snapshot:?}")
        };
        assert!(other_run.report.is_ok() && !other_run.is_alive);
        assert!(slot.has_slot && slot.report == Err("it has no report".to_owned()));
        assert!(no_report.is_alive && no_report.report.is_err());
        assert!(garbage.report.as_ref().is_err_and(|why| why.starts_with("it is no report")));
        assert!(misnamed.report.as_ref().is_err_and(|why| why.starts_with("it names node")));
    }

    #[test]
    fn keys_that_do_not_fit_the_layout_are_counted() {
        let long = format!("node/{}", "a".repeat(254));
        let names = ["", "turns", "turn/a", "node", "node/", "node/a/b", "slot/a\n", "x/a", &long];
        let (snapshot, unknown) = listed(names.map(|name| written(name, "7")));
        assert_eq!((snapshot, unknown), (Snapshot::default(), names.len()));
        let foreign = [&b"/spillway/v1/other/node/a"[..], b"/spillway/v1/web/node/\xff", b""];
        let foreign = foreign.map(|key| KeyValue {
            key: key.to_vec(),
            value: Vec::new(),
            mod_revision: 1,
            lease: 0,
        });
        assert_eq!(listed(foreign), (Snapshot::default(), 3));
    }

    #[test]
    fn page_covers_the_group_and_no_other() {
        let page = keys().page(None, 0, 10);
        let decoded = |field: &str| STANDARD.decode(page[field].as_str().unwrap()).unwrap();
        assert_eq!(decoded("key"), b"/spillway/v1/web/");
        assert_eq!(decoded("range_end"), b"/spillway/v1/web0");
        assert_eq!((&page["limit"], &page["revision"]), (&json!("10"), &json!("0")));
        assert_eq!(keys().page(Some(&following(b"a")), 5, 1)["key"], STANDARD.encode(b"a\0"));
    }

    proptest! {
        #[test]
        fn no_reply_makes_the_client_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
            read_all(&body);
        }

        #[test]
        fn changed_replies_are_read_or_refused(at in 0..400_usize, byte in any::<u8>()) {
            let whole = json!({
                "header": { "revision": "12" },
                "succeeded": true, "ID": "77", "token": "t", "result": { "TTL": "5" }, "more": true,
                "kvs": [{ "key": STANDARD.encode("/spillway/v1/web/node/a"), "value": "eyJ2IjoxfQ==",
                    "mod_revision": "4" }],
                "responses": [{ "response_range": { "kvs": [{ "key": "YQ==" }] } }],
            });
            let mut body = whole.to_string().into_bytes();
            let at = at % body.len();
            body[at] = byte;
            read_all(&body);
        }

        #[test]
        fn no_keys_make_a_listing_panic(
            pairs in prop::collection::vec(("[nasltu/\\PC]{0,12}", "\\PC{0,40}"), 0..8),
        ) {
            let count = pairs.len();
            let (snapshot, unknown) =
                listed(pairs.into_iter().map(|(key, value)| written(&key, value)));
            prop_assert!(snapshot.members.len() + unknown <= count);
        }
    }

    fn read_all(body: &[u8]) {
        if let Ok(RangeReply { kvs, .. }) = serde_json::from_slice(body) {
            let _ = listed(kvs);
        }
        if let Ok(reply) = serde_json::from_slice::<TxnReply>(body) {
            let _ = reply.found();
        }
        let _ = serde_json::from_slice::<GrantReply>(body);
        let _ = serde_json::from_slice::<RenewalReply>(body);
        let _ = serde_json::from_slice::<TokenReply>(body);
    }
}
