//! Access control of requests: the bearer token and the `Host` header.
//!
//! The check of `Host` prevents DNS rebinding: a page in a browser on an allowed host could point
//! its own name at the agent's address and then read the responses. Such a request names the page's
//! host. Any IP address is accepted, because a page that was loaded from an IP address cannot move
//! to another. A request without the header is accepted too, because browsers always send it.

use std::net::IpAddr;

use hyper::{
    HeaderMap, Uri,
    header::{AUTHORIZATION, HOST},
};
use ring::{hmac, rand::SystemRandom};

use crate::net::secret::SecretSource;

/// Minimum length of a token: a shorter one could be guessed.
const TOKEN_BYTES_MIN: usize = 16;

/// Endpoints by the rights that they need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `/healthz` and `/ready`, for probes that cannot send a token.
    Probe,
    /// Pages with names and command lines of the host: for other hosts only with a token.
    Page,
    /// All others.
    Other,
}

/// Reason to refuse a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestRefusal {
    /// It has several `Host` headers, or one that is not text.
    BadHost,
    /// Another host is named in its `Host` header.
    OtherHost,
    /// It has no token, or a wrong one.
    NoToken,
}

/// Rules for requests.
pub struct Access {
    token: Option<Token>,
    names: Vec<String>,
}

/// A bearer token, compared in constant time.
pub struct Token {
    key: hmac::Key,
    tag: hmac::Tag,
}

impl Token {
    /// Reads a token from its file.
    ///
    /// # Errors
    ///
    /// Returns an error if the file is refused or has no valid token.
    pub fn read(secret: &SecretSource) -> Result<Self, String> {
        Self::new(&secret.read()?).map_err(|wrong| format!("{secret}: {wrong}"))
    }

    fn new(text: &str) -> Result<Self, &'static str> {
        const INVALID: &str = "it is not a token\n  hint: a token has 16 or more letters, digits \
                               and -._~+/=; `openssl rand -hex 32` makes one";
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
        if text.len() < TOKEN_BYTES_MIN || !text.bytes().all(is_part) {
            return Err(INVALID);
        }
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        let key = key.map_err(|_| "the system has no random numbers to compare tokens with")?;
        let tag = hmac::sign(&key, text.as_bytes());
        Ok(Self { key, tag })
    }

    /// Returns whether a request carries the token.
    fn is_in(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(AUTHORIZATION).map(|value| value.as_bytes()).unwrap_or_default();
        let Some((scheme, given)) = given.split_at_checked("Bearer ".len()) else { return false };
        scheme.eq_ignore_ascii_case(b"Bearer ")
            && hmac::verify(&self.key, given, self.tag.as_ref()).is_ok()
    }
}

impl Access {
    /// Accepts `token`, and `host_names` in addition to `localhost` and this host's own name.
    pub fn new(token: Option<Token>, host_names: &[String], own_name: &str) -> Self {
        let own = own_name.to_ascii_lowercase();
        let short = own.split('.').next().unwrap_or_default().to_owned();
        let mut names = vec!["localhost".to_owned(), own, short];
        names.extend_from_slice(host_names);
        names.retain(|name| !name.is_empty());
        Self { token, names }
    }

    /// Checks a request. `is_trusted` is set if its peer is this host or in an allowed network; for
    /// a page only if it is this host.
    ///
    /// # Errors
    ///
    /// Returns the reason if the request is refused.
    pub fn check(
        &self,
        uri: &Uri,
        headers: &HeaderMap,
        endpoint: Endpoint,
        is_trusted: bool,
    ) -> Result<(), RequestRefusal> {
        if self.token.as_ref().is_some_and(|token| token.is_in(headers)) {
            // A page in a browser does not know it.
            return Ok(());
        }
        let mut hosts = headers.get_all(HOST).iter();
        let header = hosts
            .next()
            .map(|host| host.to_str())
            .transpose()
            .map_err(|_| RequestRefusal::BadHost)?;
        if hosts.next().is_some() {
            return Err(RequestRefusal::BadHost);
        }
        let authority = uri.authority().map(|authority| authority.as_str());
        if ![header, authority].into_iter().flatten().all(|host| self.is_own(host)) {
            return Err(RequestRefusal::OtherHost);
        }
        match self.token {
            Some(_) if endpoint != Endpoint::Probe || !is_trusted => Err(RequestRefusal::NoToken),
            None if endpoint == Endpoint::Page && !is_trusted => Err(RequestRefusal::NoToken),
            _ => Ok(()),
        }
    }

    /// Returns whether `host`, with or without a port, is an IP address or one of the names.
    fn is_own(&self, host: &str) -> bool {
        let name = match host.rsplit_once(':') {
            Some((name, port))
                if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') =>
            {
                name
            }
            _ => host,
        };
        let address =
            name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        let name = name.strip_suffix('.').unwrap_or(name);
        host.is_empty()
            || address.parse::<IpAddr>().is_ok()
            || self.names.iter().any(|own| own.eq_ignore_ascii_case(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn access(token: Option<&str>) -> Access {
        let token = token.map(|token| Token::new(token).ok().unwrap());
        Access::new(token, &["node-1.example.com".to_owned()], "Node-1.internal")
    }

    fn check(
        access: &Access,
        fields: &[(&'static str, &str)],
        endpoint: Endpoint,
        trusted: bool,
    ) -> Result<(), RequestRefusal> {
        access.check(&"/x".parse().unwrap(), &headers(fields), endpoint, trusted)
    }

    #[test]
    fn request_for_another_host_is_refused() {
        let access = access(None);
        for host in [
            "127.0.0.1",
            "127.0.0.1:9646",
            "10.0.0.11:9646",
            "[::1]:9646",
            "[2001:db8::1]",
            "localhost",
            "LOCALHOST:1",
            "node-1",
            "node-1.internal:9646",
            "node-1.internal.",
            "Node-1.Example.com:9646",
            "",
        ] {
            assert_eq!(check(&access, &[("host", host)], Endpoint::Other, true), Ok(()), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:9646",
            "node-1.evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "127.0.0.1@evil.example",
            "[::1",
            "node-1.example.com.evil",
            "a b",
            ":",
            "::x",
        ] {
            let found = check(&access, &[("host", host)], Endpoint::Other, true);
            assert_eq!(found, Err(RequestRefusal::OtherHost), "{host}");
        }
        assert_eq!(
            check(&access, &[], Endpoint::Other, true),
            Ok(()),
            "HAProxy's httpchk sends none"
        );
        let twice = [("host", "localhost"), ("host", "localhost")];
        assert_eq!(check(&access, &twice, Endpoint::Other, true), Err(RequestRefusal::BadHost));
        let absolute = "http://evil.example/metrics".parse().unwrap();
        let found =
            access.check(&absolute, &headers(&[("host", "localhost")]), Endpoint::Other, true);
        assert_eq!(found, Err(RequestRefusal::OtherHost));
    }

    #[test]
    fn empty_host_name_is_not_accepted() {
        assert_eq!(Access::new(None, &[], "").names, ["localhost"]);
    }

    #[test]
    fn token_is_required_except_for_trusted_probes() {
        let access = access(Some(TOKEN));
        let with =
            |value: &str| check(&access, &[("authorization", value)], Endpoint::Other, false);
        assert_eq!(with(&format!("Bearer {TOKEN}")), Ok(()));
        assert_eq!(with(&format!("bearer {TOKEN}")), Ok(()));
        for wrong in [
            "",
            "Bearer",
            "Bearer ",
            TOKEN,
            "Bearer 0123456789abcdef0123456789abcdee",
            "Basic 0123456789abcdef",
        ] {
            assert_eq!(with(wrong), Err(RequestRefusal::NoToken), "{wrong}");
        }
        for (endpoint, trusted, found) in [
            (Endpoint::Probe, true, Ok(())),
            (Endpoint::Probe, false, Err(RequestRefusal::NoToken)),
            (Endpoint::Other, true, Err(RequestRefusal::NoToken)),
        ] {
            assert_eq!(check(&access, &[], endpoint, trusted), found, "{endpoint:?} {trusted}");
        }
        let rebound = [
            ("host", "evil.example"),
            ("authorization", "Bearer 0123456789abcdef0123456789abcdef"),
        ];
        assert_eq!(
            check(&access, &rebound, Endpoint::Other, false),
            Ok(()),
            "the token suffices, whatever the name"
        );
    }

    #[test]
    fn page_is_for_this_host_or_with_the_token() {
        let (open, guarded) = (access(None), access(Some(TOKEN)));
        assert_eq!(check(&open, &[], Endpoint::Page, true), Ok(()));
        assert_eq!(check(&open, &[], Endpoint::Page, false), Err(RequestRefusal::NoToken));
        assert_eq!(check(&guarded, &[], Endpoint::Page, true), Err(RequestRefusal::NoToken));
        let bearer = format!("Bearer {TOKEN}");
        let with = [("authorization", bearer.as_str())];
        assert_eq!(check(&guarded, &with, Endpoint::Page, false), Ok(()));
    }

    #[test]
    fn short_or_malformed_text_is_not_a_token() {
        for text in [
            "",
            "short",
            "0123456789abcdef\n0123456789abcdef",
            "0123456789 abcdef",
            "0123456789abcdé0123",
        ] {
            assert!(Token::new(text).is_err(), "{text}");
        }
    }
}
