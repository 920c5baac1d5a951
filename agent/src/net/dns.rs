//! Names, looked up as this host looks them up, by threads that do not pile up.
//!
//! The C library asks for as long as its configuration says, which is half a minute for a name
//! where three resolvers are silent, and nothing ends it sooner. Who waits for it goes at his
//! deadline; the thread and its sockets stay. So one thread looks a name up, whoever asks and
//! however often: who asks while it is at it waits for the same answer, and so hears of an answer
//! that came too late for the one before. Failure: what the C library says. It refuses more than
//! [`NAMES_MAX`] names at once. Nothing is remembered: what was found is asked for anew the next
//! time. Cold start: nothing is being looked up.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    sync::{Mutex, PoisonError},
    thread,
};

use tokio::sync::watch;

/// Names that are looked up at once: more than an agent is configured to speak to.
const NAMES_MAX: usize = 16;

/// Result of a lookup, for all callers that wait for it.
type Lookup = Result<Vec<IpAddr>, (io::ErrorKind, String)>;

/// What is being looked up, by name; one that has its answer, or whose sender is gone, is done
/// with.
static LOOK_UPS: Mutex<BTreeMap<String, watch::Receiver<Option<Lookup>>>> =
    Mutex::new(BTreeMap::new());

/// The addresses of `host`, a name or an address, each with this port. Waits for as long as the
/// host's configuration says, or until it is dropped.
///
/// # Errors
///
/// Returns an error if the name is not known, or nobody says so; where too many are looked up at
/// once.
pub async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(ip) = host.parse() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let mut answer = begin(host)?;
    let found = answer.wait_for(Option::is_some).await.map_err(io::Error::other)?.clone();
    match found {
        Some(Ok(addresses)) => {
            Ok(addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
        }
        Some(Err((kind, why))) => Err(io::Error::new(kind, why)),
        None => Err(io::Error::other("it ended without an answer")),
    }
}

fn begin(host: &str) -> io::Result<watch::Receiver<Option<Lookup>>> {
    let mut look_ups = LOOK_UPS.lock().unwrap_or_else(PoisonError::into_inner);
    // One that has its answer is done, before its thread has ended: who asks now wants to know how
    // it is now.
    look_ups.retain(|_, answer| answer.borrow().is_none() && answer.has_changed().is_ok());
    if let Some(answer) = look_ups.get(host) {
        return Ok(answer.clone());
    }
    if look_ups.len() >= NAMES_MAX {
        return Err(io::Error::other(format!(
            "{NAMES_MAX} other names are being looked up already"
        )));
    }
    let (tells, answer) = watch::channel(None);
    let name = host.to_owned();
    thread::Builder::new().name("look-up".to_owned()).spawn(move || {
        let found = (name.as_str(), 0).to_socket_addrs();
        let found = found.map(|addresses| addresses.map(|address| address.ip()).collect());
        // Nobody may wait for it any more.
        let _ = tells.send(Some(found.map_err(|error| (error.kind(), error.to_string()))));
    })?;
    look_ups.insert(host.to_owned(), answer.clone());
    Ok(answer)
}
