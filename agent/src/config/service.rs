//! Patterns for services, which may cause critical pages and drain the node.

use std::{fmt, net::SocketAddr, path::Path};

use super::pattern::Pattern;

/// Prefixes of a listener's address.
const TCP: &str = "tcp:";
const UNIX: &str = "unix:";

/// A service: units, cgroups or pods as in [`Pattern`], or a listener by its address, such as
/// `tcp:0.0.0.0:443`, `tcp:[::]:443` or `unix:/run/app.sock`.
#[derive(Debug, Clone, PartialEq)]
pub enum ServicePattern {
    /// A workload in a unit, a cgroup or a pod.
    Workload(Pattern),
    /// A listener by its address as it is reported: `0.0.0.0:443`, `unix:/run/app.sock`.
    Listener(String),
}

impl ServicePattern {
    /// Parses a pattern.
    ///
    /// # Errors
    ///
    /// Returns the mistake, to follow the text in a sentence.
    pub fn new(text: &str) -> Result<Self, String> {
        if let Some(address) = text.strip_prefix(TCP) {
            let address: SocketAddr = address
                .parse()
                .map_err(|_| "is not an address and port, such as tcp:0.0.0.0:443".to_owned())?;
            return Ok(Self::Listener(address.to_string()));
        }
        if let Some(path) = text.strip_prefix(UNIX) {
            let is_name = path.strip_prefix('@').is_some_and(|name| !name.is_empty());
            if !is_name && !Path::new(path).is_absolute() {
                return Err(
                    "is neither a path, such as unix:/run/app.sock, nor an abstract name, such as \
                     unix:@app"
                        .to_owned(),
                );
            }
            return Ok(Self::Listener(text.to_owned()));
        }
        let pattern = Pattern::new(text)?;
        if pattern.is_program() {
            return Err("names a program: use its unit, cgroup, pod or address instead".to_owned());
        }
        Ok(Self::Workload(pattern))
    }

    /// Returns the pattern if it matches pods, by namespace or label, which takes more than their
    /// cgroup.
    pub fn pods(&self) -> Option<&Pattern> {
        match self {
            Self::Workload(pattern) if pattern.is_pods() => Some(pattern),
            Self::Workload(_) | Self::Listener(_) => None,
        }
    }
}

impl fmt::Display for ServicePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(pattern) => pattern.fmt(f),
            Self::Listener(addr) if addr.starts_with(UNIX) => f.write_str(addr),
            Self::Listener(addr) => write!(f, "{TCP}{addr}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_units_cgroups_pods_and_addresses() {
        for text in [
            "api.service",
            "/kubepods.slice/*",
            "pod:app=web",
            "namespace:shop",
            "tcp:0.0.0.0:443",
            "tcp:[::]:443",
            "unix:/run/app.sock",
            "unix:@app",
        ] {
            assert_eq!(ServicePattern::new(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn mistakes_are_described() {
        for (text, wrong) in [
            ("tcp:443", "is not an address and port"),
            ("tcp:0.0.0.0", "is not an address and port"),
            ("unix:run/app.sock", "is neither a path"),
            ("unix:@", "is neither a path"),
            ("exe:/usr/bin/api", "names a program"),
            ("udp:0.0.0.0:53", "begins with an unknown prefix"),
            ("", "is empty"),
        ] {
            let error = ServicePattern::new(text).unwrap_err();
            assert!(error.contains(wrong), "{text}: {error}");
        }
    }
}
