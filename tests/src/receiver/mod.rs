//! Somebody who is told of incidents, on this host: takes what a real receiver takes, refuses what
//! it refuses, and may be slow, down or a liar.

mod pagerduty;
mod served;

use std::{
    collections::BTreeMap,
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use hyper::header::{HeaderMap, HeaderName};
pub use pagerduty::PAGERDUTY_KEY;
use serde_json::Value;

/// What it answers next.
#[derive(Debug, Clone)]
pub enum Manner {
    /// What a receiver of this form answers to what it was sent.
    Well,
    /// This status, with these headers and this body, whatever it was sent.
    Answers(u16, &'static str, Vec<u8>),
    /// This status and this body, with the request's identity as one that grants has it.
    Echoes(u16, Vec<u8>),
    /// As when all is well, after so long.
    Slow(Duration),
    /// Nothing, for a minute.
    Hangs,
    /// The connection is reset once the request came.
    Resets,
}

/// In which form it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// PagerDuty's events.
    PagerDuty,
    /// Slack's incoming webhooks.
    Slack,
    /// CloudEvents, signed; who signed them the test looks at.
    Webhook,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Call {
    /// Its path.
    pub path: String,
    /// Its headers, by name in small letters.
    pub headers: BTreeMap<String, String>,
    /// Its body.
    pub body: Vec<u8>,
    /// The status that it got; 0 where it got none.
    pub status: u16,
}

/// A receiver; it ends with the process.
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
    /// Starts one on a port of loopback.
    ///
    /// # Panics
    ///
    /// Where there is none.
    pub fn start(form: Form) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a port");
        let addr = listener.local_addr().expect("it has an address");
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

    /// Where it is reached.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// Has it answer so from now on.
    pub fn behaves(&self, manner: Manner) {
        lock(&self.shared).manner = manner;
    }

    /// Every call so far.
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.shared).calls.clone()
    }

    /// What was taken, in its order.
    pub fn taken(&self) -> Vec<Call> {
        self.calls().into_iter().filter(|call| (200..300).contains(&call.status)).collect()
    }

    /// Connections that it has now.
    pub fn open(&self) -> usize {
        lock(&self.shared).open
    }

    /// Most connections that it had at once.
    pub fn most_open(&self) -> usize {
        lock(&self.shared).most_open
    }
}

impl Call {
    /// Its headers, as libraries take them.
    ///
    /// # Panics
    ///
    /// Where one is none.
    pub fn header_map(&self) -> HeaderMap {
        let header = |(name, value): (&String, &String)| {
            (name.parse::<HeaderName>().expect("a name"), value.parse().expect("a value"))
        };
        self.headers.iter().map(header).collect()
    }

    /// Its body as JSON.
    ///
    /// # Panics
    ///
    /// Where it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }
}

fn serve(form: Form, mut stream: TcpStream, shared: &Mutex<Shared>) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut call = served::read(&mut stream)?;
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
        return served::reset(&stream);
    };
    call.status = status;
    // It has it before it says so, as real ones do: who is killed in between tells it again.
    lock(shared).calls.push(call);
    served::answer(&mut stream, status, &headers, &body)
}

fn well(form: Form, call: &Call) -> (u16, String, Vec<u8>) {
    let (status, headers, body) = match form {
        Form::PagerDuty => pagerduty::answer(call),
        Form::Slack => match call.json()["text"].as_str() {
            Some(text) if !text.is_empty() => (200, "", b"ok".to_vec()),
            _ => (400, "", b"no_text".to_vec()),
        },
        Form::Webhook => return (204, echo(call), Vec::new()),
    };
    (status, headers.to_owned(), body)
}

/// The request's identity as a header, which proves that it was read.
fn echo(call: &Call) -> String {
    call.headers.get("webhook-id").map_or_else(String::new, |id| format!("webhook-id: {id}\r\n"))
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
