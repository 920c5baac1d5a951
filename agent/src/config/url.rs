//! URLs in the configuration, and the condition for plain HTTP.

use std::net::IpAddr;

use hyper::Uri;

/// Hosts to which plain HTTP is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plain {
    /// Only this host: the content is secret, or causes an action.
    Loopback,
    /// Any host: the content is neither.
    Anywhere,
}

/// Checks that `text` is a URL that may be used.
///
/// # Errors
///
/// Returns the mistake, to follow the text in a sentence.
pub fn check(text: &str, plain: Plain) -> Result<(), &'static str> {
    let uri: Uri = text.parse().map_err(|_| "is not a URL")?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err("is not a URL with scheme and host");
    };
    if authority.as_str().contains('@') {
        return Err(
            "contains a user name or password, which anyone who can read this file would see",
        );
    }
    match scheme {
        "https" => Ok(()),
        "http" if plain == Plain::Anywhere || is_loopback(authority.host()) => Ok(()),
        "http" => Err("is not encrypted: https is required except to this host"),
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
    fn secrets_stay_on_this_host_or_are_encrypted() {
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
