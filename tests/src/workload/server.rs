//! A server of a known capacity: so many threads, each of which serves one connection at a time and
//! takes a known time for it.
//!
//! A connection that finds every thread busy waits in the accept queue, as before any pre-threaded
//! server. It answers one HTTP request and closes, so that any HTTP client can load it. Times of
//! service scatter evenly between half and one and a half of their mean: threads that are busy for
//! exactly as long would all come free at once.

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
/// Longest request that is read; a client that sends more is not answered.
const REQUEST_BYTES_MAX: usize = 4096;
/// How long a thread waits for a client that has connected and says nothing.
const REQUEST_WITHIN: Duration = Duration::from_secs(2);
/// What a serving thread needs of stack, generously: a thousand of them must not reserve gigabytes.
const STACK_BYTES: usize = 128 << 10;

/// What a thread does while it serves.
#[derive(Debug, Clone, Copy)]
pub enum Service {
    /// Waits, as for a database: the capacity is the number of threads over this time, whatever the
    /// CPUs do.
    Wait(Duration),
    /// Computes.
    Burn(Duration),
}

/// Serves for ever.
///
/// Each request leaves so many bytes of `leak` behind.
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
            .context("a thread cannot be started")?;
    }
    ready(Some(listener.local_addr()?.to_string()))?;
    wait_forever()
}

fn take_turns(listener: &TcpListener, service: Service, mut random: Random, leak: usize) {
    loop {
        match listener.accept() {
            // A client that goes away early is its own affair.
            Ok((stream, _)) => answer(stream, service, &mut random, leak).unwrap_or(()),
            // Out of descriptors, or reset before it was accepted: the next one may fare better.
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
    // Written, so that it is there.
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
