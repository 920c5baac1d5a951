//! Server of a known capacity: threads that each serve one connection at a time and take a known
//! time for it.
//!
//! A connection that finds every thread busy waits in the accept queue, as with any pre-threaded
//! server. It answers one HTTP request and closes, so that any HTTP client can load it. Service
//! times are uniform between half and one and a half of their mean: with equal times all threads
//! would become free at once.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;

use super::sockets::listener;
use super::system::{Random, now, ready, wait_forever};

const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\nConnection: \
    close\r\n\r\nok\n";
/// Maximum size of a request; a client that sends more gets no answer.
const REQUEST_BYTES_MAX: usize = 4096;
/// Time that a thread waits for a client that has connected and sends nothing.
const REQUEST_WITHIN: Duration = Duration::from_secs(2);
/// Stack of a serving thread, generously: a thousand of them must not reserve gigabytes.
const STACK_BYTES: usize = 128 << 10;

/// Work of a thread while it serves.
#[derive(Debug, Clone, Copy)]
pub enum Service {
    /// Waits, as for a database: the capacity is the number of threads over this time, whatever the
    /// CPUs do.
    Wait(Duration),
    /// Computes.
    Burn(Duration),
}

/// Serves forever.
///
/// Each request leaves `leak` bytes behind.
pub fn serve(
    addr: SocketAddr,
    backlog: i32,
    threads: u32,
    service: Service,
    leak: u64,
) -> anyhow::Result<()> {
    let leak = usize::try_from(leak)?;
    let listener = Arc::new(listener(addr, backlog)?);
    for seed in 0..threads {
        let listener = listener.clone();
        let work = move || take_turns(&listener, service, Random(u64::from(seed) + 1), leak);
        thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn(work)
            .context("cannot start a thread")?;
    }
    ready(Some(listener.local_addr()?.to_string()))?;
    wait_forever()
}

fn take_turns(listener: &TcpListener, service: Service, mut random: Random, leak: usize) {
    loop {
        match listener.accept() {
            // A client may go away early.
            Ok((stream, _)) => answer(stream, service, &mut random, leak).unwrap_or(()),
            // Out of descriptors, or reset before it was accepted: the next one may succeed.
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn answer(
    mut stream: TcpStream,
    service: Service,
    random: &mut Random,
    leak: usize,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(REQUEST_WITHIN))?;
    let (mut request, mut length) = ([0; REQUEST_BYTES_MAX], 0);
    while !request[..length].windows(4).any(|window| window == b"\r\n\r\n") {
        match stream.read(&mut request[length..])? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            read => length += read,
        }
    }
    // Written, so that its pages are mapped.
    Vec::leak(vec![1_u8; leak]);
    match service {
        Service::Wait(mean) => thread::sleep(scattered(mean, random)),
        Service::Burn(mean) => {
            let (start, time) = (now(), scattered(mean, random));
            while start.elapsed() < time {}
        }
    }
    stream.write_all(ANSWER)?;
    stream.shutdown(Shutdown::Write)
}

fn scattered(mean: Duration, random: &mut Random) -> Duration {
    mean.mul_f64(0.5 + random.share())
}
