//! Internet addresses as the kernel holds them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use libc::AF_INET6;

/// An address of words in network byte order, of which IPv4 uses the first, and a port in the
/// host's order.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_as_they_are_written() {
        let v4 = [0x7F00_0001_u32.to_be(), 0, 0, 0];
        assert_eq!(inet_addr(libc::AF_INET as u16, v4, 80).to_string(), "127.0.0.1:80");
        let v6 = [0, 0, 0, 1_u32.to_be()];
        assert_eq!(inet_addr(AF_INET6 as u16, v6, 8080).to_string(), "[::1]:8080");
        assert_eq!(inet_addr(AF_INET6 as u16, [0; 4], 8080).to_string(), "[::]:8080");
    }
}
