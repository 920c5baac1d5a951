//! Name lookups by the C library, one at a time per name.
//!
//! `getaddrinfo` follows the host's configuration (nsswitch), but cannot be cancelled: with three
//! silent resolvers it takes half a minute. A caller leaves at its deadline, while the thread and
//! its sockets remain. So all lookups of a name share one thread: a caller that comes while it runs
//! waits for the same result, and may thus still receive one that was too late for the caller
//! before. Results are not cached.
//!
//! A static binary has to do without nsswitch ([`without_plugins`]).
//!
//! Failure: the C library's error; more than [`NAMES_MAX`] names at once are refused. Cold start:
//! no lookup is running.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    sync::{Mutex, PoisonError},
    thread,
};

use tokio::sync::watch;

/// Maximum number of names looked up at once: more than a configuration can name.
const NAMES_MAX: usize = 16;

/// Result of a lookup, for all callers that wait for it.
type Lookup = Result<Vec<IpAddr>, (io::ErrorKind, String)>;

/// Lookups by name. A lookup with a result, or whose sender is gone, has ended.
static LOOKUPS: Mutex<BTreeMap<String, watch::Receiver<Option<Lookup>>>> =
    Mutex::new(BTreeMap::new());

/// Makes every later lookup of a host use `/etc/hosts` and DNS alone, whatever nsswitch.conf says.
///
/// For a static binary: other services of nsswitch (`mdns4_minimal`, `myhostname`, `resolve`) are
/// shared libraries, which would load the host's C library beside the one that is linked in. If
/// their versions differ the process is killed: with glibc 2.36 linked in, by SIGFPE on Debian 13.
///
/// # Errors
///
/// Returns an error if the C library refuses.
#[cfg(target_env = "gnu")]
pub fn without_plugins() -> io::Result<()> {
    unsafe extern "C" {
        /// Replaces the services of one database of nsswitch; from `nss.h`.
        fn __nss_configure_lookup(
            database: *const libc::c_char,
            services: *const libc::c_char,
        ) -> libc::c_int;
    }
    // SAFETY: it reads two NUL-terminated strings, and takes a lock of its own.
    let status = unsafe { __nss_configure_lookup(c"hosts".as_ptr(), c"files dns".as_ptr()) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Returns the addresses of `host`, a name or an address, each with `port`. Waits for as long as
/// the host's resolver configuration allows, or until the future is dropped.
///
/// # Errors
///
/// Returns an error if the lookup fails or too many others are running.
pub async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(ip) = host.parse() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let mut receiver = start(host)?;
    let lookup = receiver.wait_for(Option::is_some).await.map_err(io::Error::other)?.clone();
    match lookup {
        Some(Ok(addresses)) => {
            Ok(addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
        }
        Some(Err((kind, why))) => Err(io::Error::new(kind, format!("{host}: {why}"))),
        None => Err(io::Error::other(format!("{host}: the lookup ended without a result"))),
    }
}

/// Starts a lookup, or joins the one that is running.
fn start(host: &str) -> io::Result<watch::Receiver<Option<Lookup>>> {
    let mut lookups = LOOKUPS.lock().unwrap_or_else(PoisonError::into_inner);
    // A lookup has ended once it has a result, even if its thread still runs: a new caller needs a
    // current one.
    lookups.retain(|_, lookup| lookup.borrow().is_none() && lookup.has_changed().is_ok());
    if let Some(lookup) = lookups.get(host) {
        return Ok(lookup.clone());
    }
    if lookups.len() >= NAMES_MAX {
        return Err(io::Error::other(format!(
            "{host}: {NAMES_MAX} other names are being looked up already\n  \
             hint: check the resolvers in /etc/resolv.conf"
        )));
    }
    let (sender, receiver) = watch::channel(None);
    let name = host.to_owned();
    thread::Builder::new().name("look-up".to_owned()).spawn(move || {
        let found = (name.as_str(), 0).to_socket_addrs();
        let found = found.map(|addresses| addresses.map(|address| address.ip()).collect());
        // Fails if every caller has left.
        let _ = sender.send(Some(found.map_err(|error| (error.kind(), error.to_string()))));
    })?;
    lookups.insert(host.to_owned(), receiver.clone());
    Ok(receiver)
}
