//! Client of the receiver of drain requests, on a thread of its own: one call at a time, so that a
//! drain and its undrain arrive in order.

use std::{
    sync::mpsc::{Receiver, Sender},
    time::Duration,
};

use super::request::{ReplyClass, echoes, meaning};
use crate::{
    clock::Clock,
    config::DrainConfig,
    net::{http_client, redact::Redactor, secret::SecretSource, webhook_signature::SigningKeys},
};

/// Timeout of one call, from the lookup of the name to the last byte of the reply.
pub const CALL_WITHIN: Duration = Duration::from_secs(10);

/// Maximum size of a reply in bytes. A longer one comes from something else.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Receiver of drain requests.
#[derive(Debug, Clone)]
pub struct DrainClient {
    url: String,
    keys: SecretSource,
    require_echo: bool,
    identity: http_client::TlsOptions,
}

/// One attempt at a request.
pub struct Call {
    /// Id of the request.
    pub id: String,
    /// Request to send.
    pub body: Vec<u8>,
    /// Set if a grant takes the node out of rotation, so that it has to carry the id.
    pub is_drain: bool,
    /// Timeout of the call.
    pub within: Duration,
}

/// Result of one call.
pub struct Attempt {
    /// Id of the request.
    pub id: String,
    /// Meaning of the reply.
    pub meaning: ReplyClass,
}

impl DrainClient {
    /// Creates the client; `None` if no receiver is configured.
    pub fn new(config: &DrainConfig) -> Option<Self> {
        let DrainConfig {
            url,
            secret_file,
            ca_file,
            client_cert_file,
            client_key_file,
            require_echo,
            ..
        } = config;
        let client = client_cert_file.clone().zip(client_key_file.clone());
        let client =
            client.map(|(cert_file, key_file)| http_client::ClientFiles { cert_file, key_file });
        let identity = http_client::TlsOptions { ca_file: ca_file.clone(), client };
        Some(Self {
            url: url.clone()?,
            keys: secret_file.clone()?,
            require_echo: *require_echo,
            identity,
        })
    }

    /// TLS options of the receiver.
    pub fn identity(&self) -> &http_client::TlsOptions {
        &self.identity
    }

    /// Makes one call. Changes of the secret and the certificates are followed, because they may be
    /// replaced while the agent runs.
    fn call(&self, call: Call, clock: Clock) -> ReplyClass {
        let later = |why: String| ReplyClass::Later(None, why);
        let read =
            |text: &str| SigningKeys::read(text).map_err(|error| format!("{}: {error}", self.keys));
        let (keys, hidden) = match self
            .keys
            .read()
            .and_then(|text| Ok((read(&text)?, Redactor::default().secret(&text))))
        {
            Ok((keys, hidden)) => (keys, hidden.url(&self.url)),
            Err(why) => return later(why),
        };
        let mut headers = vec![("content-type", super::request::CONTENT_TYPE.to_owned())];
        headers.extend(keys.headers(&call.id, clock.unix_ms() / 1_000, &call.body));
        let bounds =
            http_client::RequestLimits { timeout: call.within, body_bytes_max: ANSWER_BYTES_MAX };
        let answer = http_client::HttpClient::new(&self.identity)
            .and_then(|client| client.post(&self.url, &headers, call.body, bounds));
        match answer {
            Ok(answer) => {
                let echo =
                    answer.headers.get("webhook-id").map(|echo| echo.to_str().unwrap_or_default());
                let needs_echo = self.require_echo && call.is_drain;
                let is_proven = !needs_echo || echoes(echo, &answer.body, &call.id);
                let body = hidden.mask(&answer.body);
                meaning(
                    answer.status.as_u16(),
                    answer.retry_after(clock.unix_ms()),
                    &body,
                    is_proven,
                )
            }
            Err(error) => later(hidden.mask_text(&error.to_string())),
        }
    }
}

/// Makes calls until the channel closes.
pub fn run<T>(
    endpoint: &DrainClient,
    clock: Clock,
    calls: &Receiver<Call>,
    answers: &Sender<T>,
    told: impl Fn(Attempt) -> T,
) {
    while let Ok(call) = calls.recv() {
        let id = call.id.clone();
        let meaning = endpoint.call(call, clock);
        if answers.send(told(Attempt { id, meaning })).is_err() {
            return;
        }
    }
}
