//! Standard Webhooks as its own library in Python reads it, which `cargo xtask test` downloads.
//! `SPILLWAY_WEBHOOKS` names the directory.

use std::{
    env,
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::json;

use crate::receiver::Call;

/// Exits 3 where the library does not verify what it is given.
const SCRIPT: &str = r#"
import json, sys
from standardwebhooks import Webhook, WebhookVerificationError
call = json.load(sys.stdin)
try:
    Webhook(call["key"]).verify(call["body"], call["headers"])
except WebhookVerificationError as error:
    print(error)
    sys.exit(3)
"#;

/// The library.
pub struct Reference(PathBuf);

impl Reference {
    /// Finds it.
    ///
    /// # Errors
    ///
    /// Why it cannot be used.
    pub fn find() -> Result<Self, String> {
        let dir = env::var_os("SPILLWAY_WEBHOOKS").map(PathBuf::from);
        dir.map(Self).ok_or_else(|| {
            "SPILLWAY_WEBHOOKS names no directory with Standard Webhooks' own library".to_owned()
        })
    }

    /// Whether whoever has this key takes a request for the agent's.
    ///
    /// # Errors
    ///
    /// What the library has against it.
    ///
    /// # Panics
    ///
    /// Where it does not run.
    pub fn verify(&self, key: &str, call: &Call) -> Result<(), String> {
        let body = str::from_utf8(&call.body).expect("JSON is text");
        let request = json!({"key": key, "headers": call.headers, "body": body});
        let mut python = Command::new("python3");
        python
            .args(["-c", SCRIPT])
            .env("PYTHONPATH", &self.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut running = python.spawn().expect("there is Python");
        let mut stdin = running.stdin.take().expect("it is piped");
        stdin.write_all(request.to_string().as_bytes()).expect("it reads");
        drop(stdin);
        let output = running.wait_with_output().expect("it ends");
        match output.status.code() {
            Some(0) => Ok(()),
            Some(3) => Err(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            other => panic!("the library ended with {other:?}"),
        }
    }

    /// That whoever has one of these keys takes a request, and not once its body, its time or its
    /// identity is another.
    ///
    /// # Panics
    ///
    /// Where that is not so.
    pub fn judge(&self, keys: &[&str], call: &Call) {
        let with = |name: &str, value: String| {
            let mut call = call.clone();
            call.request.headers.insert(name.to_owned(), value);
            call
        };
        let at: u64 = call.headers["webhook-timestamp"].parse().expect("it is in seconds");
        let mut other_body = call.clone();
        other_body.request.body.push(b' ');
        let other_time = with("webhook-timestamp", (at - 1).to_string());
        let other_id = with("webhook-id", format!("{}0", call.headers["webhook-id"]));
        // As it was an hour ago: it may have been sent by anybody who had listened.
        let old = with("webhook-timestamp", (at - 3_600).to_string());
        for key in keys {
            assert_eq!(self.verify(key, call), Ok(()), "{call:?}");
            for changed in [&other_body, &other_time, &other_id] {
                assert_eq!(
                    self.verify(key, changed),
                    Err("No matching signature found".to_owned())
                );
            }
            assert_eq!(self.verify(key, &old), Err("Message timestamp too old".to_owned()));
        }
    }
}
