//! Socket addresses in the form in which facts carry them.
//!
//! A UNIX socket is written `unix:/run/api.sock`, or `unix:@api` if its name is abstract. Its name
//! may hold any byte: one that is not printable ASCII becomes `\xNN`, and a backslash is doubled,
//! so that no two names read the same.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use libc::AF_INET6;

/// Builds an address from words in network byte order, of which IPv4 uses the first, and a port in
/// host byte order.
pub(super) fn inet_addr(family: u16, addr: [u32; 4], port: u16) -> SocketAddr {
    let ip = if family == AF_INET6 as u16 {
        let mut bytes = [0; 16];
        bytes
            .chunks_exact_mut(4)
            .zip(addr)
            .for_each(|(to, word)| to.copy_from_slice(&word.to_ne_bytes()));
        IpAddr::V6(Ipv6Addr::from(bytes))
    } else {
        IpAddr::V4(Ipv4Addr::from(addr[0].to_ne_bytes()))
    };
    SocketAddr::new(ip, port)
}

/// Writes the path of a UNIX socket, with or without its terminating NUL.
pub(super) fn unix_path(path: &[u8]) -> Arc<str> {
    let end = path.iter().position(|&byte| byte == 0).unwrap_or(path.len());
    escaped("unix:", &path[..end])
}

/// Writes the abstract name of a UNIX socket, without its leading NUL.
pub(super) fn unix_abstract(name: &[u8]) -> Arc<str> {
    escaped("unix:@", name)
}

/// Writes `sun_path` as the kernel keeps it: a path, or a NUL and an abstract name.
pub(super) fn unix_addr(name: &[u8]) -> Arc<str> {
    match name.split_first() {
        Some((0, name)) => unix_abstract(name),
        _ => unix_path(name),
    }
}

fn escaped(prefix: &str, name: &[u8]) -> Arc<str> {
    let mut text = String::from(prefix);
    for &byte in name {
        match byte {
            b'\\' => text.push_str("\\\\"),
            b' '..=b'~' => text.push(char::from(byte)),
            // Writing to a string cannot fail.
            _ => write!(text, "\\x{byte:02x}").unwrap_or_default(),
        }
    }
    Arc::from(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn internet_addresses_are_read_in_network_byte_order() {
        let v4 = [0x7F00_0001_u32.to_be(), 0, 0, 0];
        assert_eq!(inet_addr(libc::AF_INET as u16, v4, 80).to_string(), "127.0.0.1:80");
        let v6 = [0, 0, 0, 1_u32.to_be()];
        assert_eq!(inet_addr(AF_INET6 as u16, v6, 8080).to_string(), "[::1]:8080");
        assert_eq!(inet_addr(AF_INET6 as u16, [0; 4], 8080).to_string(), "[::]:8080");
    }

    #[test]
    fn unix_paths_and_abstract_names_differ() {
        assert_eq!(&*unix_addr(b"/run/api.sock\0"), "unix:/run/api.sock");
        assert_eq!(&*unix_addr(b"\0api"), "unix:@api");
        assert_eq!(&*unix_addr(b""), "unix:");
    }

    #[test]
    fn unprintable_bytes_are_escaped_unambiguously() {
        assert_eq!(&*unix_abstract(b"a\0b \x1b\xff"), "unix:@a\\x00b \\x1b\\xff");
        assert_ne!(unix_abstract(b"\\x00"), unix_abstract(b"\0"));
        assert!(unix_abstract(&[0xFF; 108]).len() <= 512, "longer than a trace accepts");
    }
}
