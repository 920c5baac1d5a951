//! FleetLock: the HTTP protocol with which Zincati takes turns at rebooting, spoken by airlock and
//! others.
//!
//! A server only counts: it gives a group's slots to the nodes that ask first, and keeps no
//! reports. So there is no snapshot. A slot stays taken until its node returns it, whatever becomes
//! of the agent: a new run returns it, unless the node is out. Failure: only a status of 200 takes
//! a slot or returns it, and not if the body is that of something else.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::{
    coordinator::{Acquired, Coordinator, CoordinatorError, check_name},
    report::{NodeReport, NodeState},
    snapshot::Snapshot,
};
use crate::net::{
    http_client::{HttpClient, HttpError, RequestLimits, TlsOptions},
    redact::Redactor,
};

const NAME: &str = "fleetlock";

/// Timeout of a request.
const WITHIN: Duration = Duration::from_secs(5);

/// Maximum size of a reply. A real one has some hundred bytes.
const REPLY_BYTES_MAX: usize = 64 << 10;

/// Client of a FleetLock server, for one node.
#[derive(Debug)]
pub struct FleetLock {
    /// URL before `/v1/…`.
    base: String,
    /// URL as it may be shown.
    address: String,
    tls: TlsOptions,
    /// Body of all requests.
    body: String,
    /// Set once the server knows whether the node is out: its slot outlives a run of the agent.
    is_settled: bool,
}

/// Error of the server, as the protocol has it.
#[derive(Debug, PartialEq, Eq, Deserialize)]
struct FleetLockFault {
    kind: String,
    value: String,
}

/// Meaning of a reply.
#[derive(Debug, PartialEq, Eq)]
enum LockReply {
    /// The operation succeeded.
    Done,
    /// The server says why it failed.
    Denied(String),
    /// It failed without such an error.
    Failed(String),
    /// Something that is no server of this protocol replied.
    Foreign(String),
}

impl FleetLock {
    /// Creates a client of the server at `base_url` for `node` in `group`.
    ///
    /// # Errors
    ///
    /// Returns an error if a name is not allowed.
    pub fn new(
        base_url: &str,
        group: &str,
        node: &str,
        tls: TlsOptions,
    ) -> Result<Self, CoordinatorError> {
        check_name(NAME, "node", node)?;
        check_name(NAME, "group", group)?;
        if !group.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-')) {
            let why = format!(
                "the group's name is {group:?}\n  \
                 hint: FleetLock allows letters and digits of ASCII, dots and dashes"
            );
            return Err(CoordinatorError::Unusable { coordinator: NAME, why });
        }
        let base = base_url.trim_end_matches('/').to_owned();
        let address = Redactor::default().url(&base).line(&base);
        let body = json!({ "client_params": { "id": node, "group": group } }).to_string();
        Ok(Self { base, address, tls, body, is_settled: false })
    }

    fn ask(&self, operation: &str) -> Result<Result<(), String>, CoordinatorError> {
        let (coordinator, address) = (NAME, self.address.clone());
        let url = format!("{}/v1/{operation}", self.base);
        let headers = [
            ("fleet-lock-protocol", "true".to_owned()),
            ("content-type", "application/json".to_owned()),
        ];
        let limits = RequestLimits { timeout: WITHIN, body_bytes_max: REPLY_BYTES_MAX };
        let reply = HttpClient::new(&self.tls)
            .and_then(|client| client.post(&url, &headers, self.body.clone(), limits));
        let hidden = Redactor::default().url(&self.base);
        let reply = match reply {
            Ok(reply) => reply,
            Err(error @ (HttpError::File { .. } | HttpError::InvalidUrl)) => {
                return Err(CoordinatorError::Unusable { coordinator, why: error.to_string() });
            }
            Err(error @ HttpError::TooLarge(_)) => {
                let why = error.to_string();
                return Err(CoordinatorError::Invalid { coordinator, address, why });
            }
            Err(error) => {
                let why = hidden.mask_text(&error.to_string());
                return Err(CoordinatorError::Unreachable { coordinator, address, why });
            }
        };
        match meaning(reply.status.as_u16(), &reply.body, &hidden) {
            LockReply::Done => Ok(Ok(())),
            LockReply::Denied(why) => Ok(Err(why)),
            LockReply::Failed(why) => Err(CoordinatorError::Refused { coordinator, address, why }),
            LockReply::Foreign(why) => Err(CoordinatorError::Invalid { coordinator, address, why }),
        }
    }
}

impl Coordinator for FleetLock {
    fn name(&self) -> &'static str {
        NAME
    }

    /// Returns the slot of an earlier run, or takes it again: at the first report that says
    /// whether the node is out.
    fn publish(&mut self, report: &NodeReport) -> Result<(), CoordinatorError> {
        match report.state {
            _ if self.is_settled => {}
            NodeState::OutByOperator => return Ok(()),
            // Refused or not, the node is out.
            NodeState::Out => drop(self.acquire(None)?),
            NodeState::Serving | NodeState::Unwell => self.release()?,
        }
        self.is_settled = true;
        Ok(())
    }

    fn snapshot(&mut self) -> Result<Option<Snapshot>, CoordinatorError> {
        Ok(None)
    }

    fn acquire(&mut self, _: Option<&Snapshot>) -> Result<Acquired, CoordinatorError> {
        Ok(match self.ask("pre-reboot")? {
            Ok(()) => Acquired::Taken,
            Err(why) => Acquired::Denied(why),
        })
    }

    fn release(&mut self) -> Result<(), CoordinatorError> {
        self.ask("steady-state")?.map_err(|why| CoordinatorError::Refused {
            coordinator: NAME,
            address: self.address.clone(),
            why,
        })
    }
}

/// Classifies a reply.
fn meaning(status: u16, body: &[u8], hidden: &Redactor) -> LockReply {
    const HINT: &str = "hint: the URL is the base of a FleetLock server, without /v1";
    let fault = serde_json::from_slice::<FleetLockFault>(body).ok();
    if let Some(FleetLockFault { kind, value }) = fault.filter(FleetLockFault::is_complete) {
        // Even with a status of 200: only one of the two can be true.
        return LockReply::Denied(format!("{} ({})", hidden.line(&value), hidden.line(&kind)));
    }
    let text = String::from_utf8_lossy(body);
    match status {
        // A page of a proxy or of another server says nothing about a slot.
        200 if text.trim_start().starts_with('<') => {
            LockReply::Foreign(format!("HTTP 200 with a page\n  {HINT}"))
        }
        200 => LockReply::Done,
        _ if text.trim().is_empty() => LockReply::Failed(format!("HTTP {status}\n  {HINT}")),
        _ => LockReply::Failed(format!("HTTP {status}: {}\n  {HINT}", hidden.line(&text))),
    }
}

impl FleetLockFault {
    fn is_complete(&self) -> bool {
        !self.kind.is_empty() && !self.value.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TLS: TlsOptions = TlsOptions { ca_file: None, client: None };

    fn of(status: u16, body: &str) -> LockReply {
        meaning(status, body.as_bytes(), &Redactor::default())
    }

    #[test]
    fn only_a_plain_reply_of_200_takes_a_slot() {
        assert_eq!(of(200, ""), LockReply::Done);
        assert_eq!(of(200, "{}"), LockReply::Done);
        let full = r#"{"kind":"failed_lock_semaphore_full","value":"all slots are locked"}"#;
        for status in [200, 403, 409, 500] {
            let LockReply::Denied(why) = of(status, full) else { panic!("{status}") };
            assert_eq!(why, "all slots are locked (failed_lock_semaphore_full)");
        }
        let page = of(200, " <html>Please log in</html>");
        assert!(matches!(page, LockReply::Foreign(why) if why.starts_with("HTTP 200 with a page")));
        for (status, body) in [
            (201, ""),
            (204, ""),
            (302, ""),
            (404, "404 page not found"),
            (409, r#"{"kind":"","value":"full"}"#),
            (409, r#"{"kind":"full"}"#),
            (503, "null"),
        ] {
            let LockReply::Failed(why) = of(status, body) else { panic!("{status} {body}") };
            assert!(why.starts_with(&format!("HTTP {status}")), "{why}");
            assert!(why.ends_with(", without /v1") && why.lines().count() == 2, "{why}");
        }
    }

    #[test]
    fn names_that_the_protocol_does_not_allow_are_refused() {
        let new = |group: &str, node: &str| FleetLock::new("http://lock/base/", group, node, TLS);
        assert!(new("web-1.a", "node é").is_ok_and(|client| client.base == "http://lock/base"));
        let long = "a".repeat(254);
        for (group, node) in [
            ("", "a"),
            ("a/b", "a"),
            ("a_b", "a"),
            ("a", ""),
            ("a", "a\n"),
            ("a", "a/b"),
            ("a", &long),
        ] {
            let error = new(group, node).expect_err(group).to_string();
            assert!(error.starts_with("fleetlock cannot be used: the "), "{error}");
            assert!(error.contains("'s name is ") && error.contains("\n  hint: "), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_reply_makes_the_client_panic(
            status in 100..600_u16,
            body in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let is_done = meaning(status, &body, &Redactor::default()) == LockReply::Done;
            prop_assert!(!is_done || status == 200);
        }
    }
}
