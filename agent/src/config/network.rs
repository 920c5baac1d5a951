//! IP networks in CIDR notation, and host names.

use std::{fmt, net::IpAddr};

/// Maximum length of a name in DNS.
const HOST_NAME_BYTES_MAX: usize = 253;

/// An IP network, as `10.0.0.0/8` or `fd00::/8`; a bare address is a network of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix_bits: u32,
}

impl Network {
    /// Parses a network.
    ///
    /// # Errors
    ///
    /// Returns the mistake, to follow the text in a sentence.
    pub fn new(text: &str) -> Result<Self, String> {
        let (address, bits) =
            text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| "is not an IP network".to_owned())?;
        if address.to_canonical() != address {
            return Err("is an IPv4 network written as IPv6".to_owned());
        }
        let width = width(address);
        let prefix_bits = match bits {
            None => width,
            // "+8" parses as a number, but is not CIDR notation.
            Some(bits) => bits
                .parse()
                .ok()
                .filter(|prefix| *prefix <= width && bits.bytes().all(|byte| byte.is_ascii_digit()))
                .ok_or_else(|| format!("has no prefix length between 0 and {width}"))?,
        };
        let network = Self { address, prefix_bits };
        if bits_of(address) & !network.mask() != 0 {
            return Err(format!(
                "is an address with a prefix length, not a network: the network is {}",
                network.base()
            ));
        }
        Ok(network)
    }

    /// Returns whether `peer` is in this network. IPv4 mapped to IPv6 counts as IPv4.
    pub fn contains(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        width(peer) == width(self.address) && bits_of(peer) & self.mask() == bits_of(self.address)
    }

    /// Returns the network mask, in the width of the address.
    fn mask(&self) -> u128 {
        let width = width(self.address);
        let all = u128::MAX.checked_shr(u128::BITS - width).unwrap_or(0);
        let host_bits =
            all.checked_shr(self.prefix_bits).filter(|_| self.prefix_bits < width).unwrap_or(0);
        all & !host_bits
    }

    fn base(&self) -> Self {
        let bits = bits_of(self.address) & self.mask();
        let address = match self.address {
            IpAddr::V4(_) => IpAddr::V4((bits as u32).into()),
            IpAddr::V6(_) => IpAddr::V6(bits.into()),
        };
        Self { address, ..*self }
    }
}

/// Parses a host name and returns it in lower case.
///
/// # Errors
///
/// Returns the mistake, to follow the text in a sentence.
pub fn host_name(text: &str) -> Result<String, String> {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if text.is_empty() || text.len() > HOST_NAME_BYTES_MAX || !text.bytes().all(is_part) {
        return Err("is not a host name".to_owned());
    }
    Ok(text.to_ascii_lowercase())
}

fn width(address: IpAddr) -> u32 {
    if address.is_ipv4() { u32::BITS } else { u128::BITS }
}

fn bits_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_contains_its_addresses_and_no_others() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("10.0.0.10", "10.0.0.10", "10.0.0.11"),
            ("192.0.2.128/25", "192.0.2.255", "192.0.2.127"),
            ("10.0.0.0/8", "::ffff:10.1.2.3", "::a01:203"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("2001:db8::1", "2001:db8::1", "2001:db8::2"),
            ("0.0.0.0/0", "203.0.113.9", "2001:db8::1"),
            ("::/0", "2001:db8::1", "203.0.113.9"),
        ] {
            let read = Network::new(network).unwrap();
            assert!(read.contains(inside.parse().unwrap()), "{network} {inside}");
            assert!(!read.contains(outside.parse().unwrap()), "{network} {outside}");
        }
    }

    #[test]
    fn a_wrong_network_is_refused_with_the_reason() {
        for text in [
            "",
            "10/8",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "::/129",
            "lb.internal",
            "10.0.0.0/8/8",
        ] {
            assert!(Network::new(text).is_err(), "{text}");
        }
        assert!(Network::new("10.0.0.5/8").unwrap_err().ends_with("the network is 10.0.0.0/8"));
        assert!(Network::new("fd00::1/64").unwrap_err().ends_with("the network is fd00::/64"));
        assert!(Network::new("::ffff:10.0.0.0/104").unwrap_err().contains("written as IPv6"));
    }

    #[test]
    fn a_host_name_has_no_port_and_no_space() {
        assert_eq!(host_name("Node-1.Example.com"), Ok("node-1.example.com".to_owned()));
        for text in ["", "node 1", "node:9646", "node/", &"a".repeat(254)] {
            assert!(host_name(text).is_err(), "{text}");
        }
    }
}
