//! Addresses of the public Internet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{ClientIp, Nat64Prefixes};

/// Whether an address is one of the public Internet: not of this machine, a private or shared network, a link, a
/// multicast group, a documentation, or reserved. IPv6 addresses that embed an IPv4 address (IPv4-mapped, NAT64,
/// 6to4) count as that address.
pub(crate) fn is_public(ip: IpAddr, nat64: &Nat64Prefixes) -> bool {
    match nat64.canonical(ClientIp::from(ip)).ip() {
        Some(IpAddr::V4(ip)) => is_public_v4(ip),
        Some(IpAddr::V6(ip)) => !nat64.contains(ip) && is_public_v6(ip),
        None => false,
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let is_special = match ip.octets() {
        // This network; shared by the customers of a carrier (RFC 6598); IETF protocols; benchmarks; reserved.
        [0 | 240..=255, ..] | [100, 64..=127, ..] | [192, 0, 0, _] | [198, 18 | 19, ..] => true,
        // Relays of 6to4.
        [192, 88, 99, _] => true,
        _ => false,
    };
    !(is_special
        || ip.is_loopback()
        || ip.is_private()
        || ip.is_link_local()
        || ip.is_multicast()
        || ip.is_documentation())
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    match ip.segments() {
        // IETF protocols, among them Teredo; documentation.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => false,
        // 6to4.
        [0x2002, high, low, ..] => {
            is_public_v4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
        }
        // All other global unicast addresses are in 2000::/3.
        [first, ..] => first >> 13 == 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_public_under(prefix: &str, ip: &str) -> bool {
        let nat64 = Nat64Prefixes::parse(prefix.split_whitespace()).unwrap();
        is_public(ip.parse().unwrap(), &nat64)
    }

    #[test]
    fn addresses_of_the_internet_are_public() {
        for ip in [
            "1.1.1.1",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.1",
            "198.17.255.255",
            "223.255.255.255",
            "2606:4700:4700::1111",
            "2001:4860:4860::8888",
            "::ffff:1.1.1.1",
            "64:ff9b::1.1.1.1",
            "2002:101:101::1",
        ] {
            assert!(is_public_under("", ip), "{ip}");
        }
    }

    #[test]
    fn all_other_addresses_are_not() {
        for ip in [
            "0.0.0.0",
            "0.1.2.3",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.8.9.10",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::127.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::1.1.1.1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "2002:a00:1::1",
            "3fff::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public_under("", ip), "{ip}");
        }
    }

    #[test]
    fn addresses_behind_a_translator_count_as_what_they_embed() {
        let prefix = "2001:4860:64::/96";
        assert!(is_public_under(prefix, "2001:4860:64::1.1.1.1"));
        for ip in ["10.0.0.1", "127.0.0.1", "169.254.169.254", "0.0.0.0"] {
            let ip = format!("2001:4860:64::{ip}");
            assert!(!is_public_under(prefix, &ip), "{ip}");
            assert!(is_public_under("", &ip), "{ip}");
        }
    }
}
