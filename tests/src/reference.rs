//! Verification of webhooks by Standard Webhooks' own Python library, which `cargo xtask test`
//! downloads. `SPILLWAY_WEBHOOKS` names its directory.

use std::{
    env,
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::json;

use crate::receiver::Call;

/// Script that exits with 3 if the library does not verify its input.
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

/// Directory of the library.
pub struct Reference(PathBuf);

impl Reference {
    /// Finds the library.
    ///
    /// # Errors
    ///
    /// Returns an error if the library is not available.
    pub fn find() -> Result<Self, String> {
        let dir = env::var_os("SPILLWAY_WEBHOOKS").map(PathBuf::from);
        dir.map(Self).ok_or_else(|| {
            "SPILLWAY_WEBHOOKS names no directory with Standard Webhooks' own library".to_owned()
        })
    }

    /// Verifies a request with this key.
    ///
    /// # Errors
    ///
    /// Returns an error if the library rejects the request.
    ///
    /// # Panics
    ///
    /// Panics if Python cannot be run.
    pub fn verify(&self, key: &str, call: &Call) -> Result<(), String> {
        let body = str::from_utf8(&call.body).expect("the body should be UTF-8");
        let request = json!({"key": key, "headers": call.headers, "body": body});
        let mut python = Command::new("python3");
        python
            .args(["-c", SCRIPT])
            .env("PYTHONPATH", &self.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut running = python.spawn().expect("starting Python");
        let mut stdin = running.stdin.take().expect("stdin should be piped");
        stdin.write_all(request.to_string().as_bytes()).expect("writing the request to Python");
        drop(stdin);
        let output = running.wait_with_output().expect("waiting for Python");
        match output.status.code() {
            Some(0) => Ok(()),
            Some(3) => Err(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            other => panic!("the library ended with {other:?}"),
        }
    }

    /// Checks that each of these keys verifies a request, and that none does once its body, time or
    /// identity is changed.
    ///
    /// # Panics
    ///
    /// Panics if a check fails.
    pub fn judge(&self, keys: &[&str], call: &Call) {
        let with = |name: &str, value: String| {
            let mut call = call.clone();
            call.request.headers.insert(name.to_owned(), value);
            call
        };
        let at: u64 =
            call.headers["webhook-timestamp"].parse().expect("the timestamp should be in seconds");
        let mut other_body = call.clone();
        other_body.request.body.push(b' ');
        let other_time = with("webhook-timestamp", (at - 1).to_string());
        let other_id = with("webhook-id", format!("{}0", call.headers["webhook-id"]));
        // One hour old: anyone who recorded the request could have replayed it.
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
