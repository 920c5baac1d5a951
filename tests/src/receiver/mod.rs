//! Receiver of notifications on loopback. It accepts and refuses the same requests as a real one,
//! and can be slow, unavailable or dishonest.

mod pagerduty;

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use hyper::header::{HeaderMap, HeaderName};
pub use pagerduty::PAGERDUTY_KEY;
use serde_json::Value;

use crate::http_server::{Request, reset, respond};

/// Behaviour of a receiver.
#[derive(Debug, Clone)]
pub enum Manner {
    /// Answers as a receiver of this form does.
    Well,
    /// Answers any request with this status, these headers and this body.
    Answers(u16, &'static str, Vec<u8>),
    /// Answers with this status and body, and echoes the request's id, as a receiver that grants a
    /// request does.
    Echoes(u16, Vec<u8>),
    /// Answers correctly after this delay.
    Slow(Duration),
    /// Does not answer for a minute.
    Hangs,
    /// Resets the connection once the request has arrived.
    Resets,
}

/// Form of the notifications.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// PagerDuty's events.
    PagerDuty,
    /// Slack's incoming webhooks.
    Slack,
    /// Signed CloudEvents; the tests verify the signatures.
    Webhook,
    /// Telemetry by OTLP; the tests decode it.
    Telemetry,
}

/// Request, with the status of its answer.
#[derive(Debug, Clone)]
pub struct Call {
    /// The request.
    pub request: Request,
    /// Status, or 0 if there was no answer.
    pub status: u16,
}

impl Deref for Call {
    type Target = Request;

    fn deref(&self) -> &Request {
        &self.request
    }
}

/// Receiver that ends with the process.
pub struct Receiver {
    addr: SocketAddr,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    manner: Manner,
    calls: Vec<Call>,
    open: usize,
    most_open: usize,
}

impl Receiver {
    /// Starts a receiver on a loopback port.
    ///
    /// # Panics
    ///
    /// Panics if no port is free.
    pub fn start(form: Form) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
        let addr = listener.local_addr().expect("a listener has an address");
        let shared = Shared { manner: Manner::Well, calls: Vec::new(), open: 0, most_open: 0 };
        let shared = Arc::new(Mutex::new(shared));
        let serves = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = serves.clone();
                thread::spawn(move || {
                    {
                        let mut shared = lock(&shared);
                        shared.open += 1;
                        shared.most_open = shared.most_open.max(shared.open);
                    }
                    let served = serve(form, stream, &shared);
                    lock(&shared).open -= 1;
                    served
                });
            }
        });
        Self { addr, shared }
    }

    /// URL of a path on this receiver.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// Changes the receiver's behaviour from now on.
    pub fn behaves(&self, manner: Manner) {
        lock(&self.shared).manner = manner;
    }

    /// Calls so far, in order.
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.shared).calls.clone()
    }

    /// Accepted calls, in order.
    pub fn taken(&self) -> Vec<Call> {
        self.calls().into_iter().filter(|call| (200..300).contains(&call.status)).collect()
    }

    /// Open connections.
    pub fn open(&self) -> usize {
        lock(&self.shared).open
    }

    /// Maximum number of connections that were open at once.
    pub fn most_open(&self) -> usize {
        lock(&self.shared).most_open
    }
}

impl Call {
    /// Headers in the type that libraries use.
    ///
    /// # Panics
    ///
    /// Panics if one is invalid.
    pub fn header_map(&self) -> HeaderMap {
        let header = |(name, value): (&String, &String)| {
            (
                name.parse::<HeaderName>().expect("the header name is valid"),
                value.parse().expect("the header value is valid"),
            )
        };
        self.headers.iter().map(header).collect()
    }

    /// Body as JSON.
    ///
    /// # Panics
    ///
    /// Panics if it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }
}

fn serve(form: Form, mut stream: TcpStream, shared: &Mutex<Shared>) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut call = Call { request: Request::read(&mut stream)?, status: 0 };
    let manner = lock(shared).manner.clone();
    let answer = match manner {
        Manner::Well => Some(well(form, &call)),
        Manner::Slow(for_long) => {
            thread::sleep(for_long);
            Some(well(form, &call))
        }
        Manner::Answers(status, headers, body) => Some((status, headers.to_owned(), body)),
        Manner::Echoes(status, body) => Some((status, echo(&call), body)),
        Manner::Hangs => {
            lock(shared).calls.push(call);
            thread::sleep(Duration::from_secs(60));
            return Ok(());
        }
        Manner::Resets => None,
    };
    let Some((status, headers, body)) = answer else {
        lock(shared).calls.push(call);
        return reset(&stream);
    };
    call.status = status;
    // Like a real receiver it stores the call before it answers: an agent that is killed in between
    // sends it again.
    lock(shared).calls.push(call);
    respond(&mut stream, &format!("{status} Reason"), &headers, &body)
}

fn well(form: Form, call: &Call) -> (u16, String, Vec<u8>) {
    let (status, headers, body) = match form {
        Form::PagerDuty => pagerduty::answer(call),
        Form::Slack => match call.json()["text"].as_str() {
            Some(text) if !text.is_empty() => (200, "", b"ok".to_vec()),
            _ => (400, "", b"no_text".to_vec()),
        },
        Form::Webhook => return (204, echo(call), Vec::new()),
        Form::Telemetry => (200, "content-type: application/x-protobuf\r\n", Vec::new()),
    };
    (status, headers.to_owned(), body)
}

/// Header that echoes the request's id, which proves that the request was read.
fn echo(call: &Call) -> String {
    call.headers.get("webhook-id").map_or_else(String::new, |id| format!("webhook-id: {id}\r\n"))
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
