//! Addresses that an operator names, and which of them may be spoken to in the open.

use std::net::IpAddr;

use hyper::Uri;

/// Where plain HTTP is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plain {
    /// On this host alone: what is sent is a secret, or moves something.
    Loopback,
    /// Anywhere: what is sent is neither.
    Anywhere,
}

/// Whether `text` is an address that may be spoken to.
///
/// # Errors
///
/// What is wrong with it.
pub fn check(text: &str, plain: Plain) -> Result<(), &'static str> {
    let uri: Uri = text.parse().map_err(|_| "is not an address")?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err("is not an address with its scheme and host");
    };
    if authority.as_str().contains('@') {
        return Err("carries a name or password, which would be in the open here");
    }
    match scheme {
        "https" => Ok(()),
        "http" if plain == Plain::Anywhere || is_loopback(authority.host()) => Ok(()),
        "http" => Err("is in the open: https is needed beyond this host"),
        _ => Err("is neither http nor https"),
    }
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_secret_stays_on_this_host_or_is_encrypted() {
        for text in [
            "https://events.pagerduty.com/v2/enqueue",
            "http://127.0.0.1:8080/",
            "http://[::1]/",
            "http://localhost/",
        ] {
            assert_eq!(check(text, Plain::Loopback), Ok(()), "{text}");
        }
        for text in [
            "http://alertmanager:9093/",
            "ftp://a/",
            "/path",
            "a",
            "",
            "https://me:secret@a/",
            "http://127.0.0.1.a/",
        ] {
            assert!(check(text, Plain::Loopback).is_err(), "{text}");
        }
        assert_eq!(check("http://alertmanager:9093/api/v2/alerts", Plain::Anywhere), Ok(()));
    }
}
