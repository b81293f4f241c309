//! NAT64: IPv4 addresses embedded in IPv6 addresses (RFC 6052).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Deserializer};

use super::client_ip::{ClientIp, embedded};
use crate::input::{self, InvalidInput};

/// The NAT64 prefixes of a network (RFC 6052), in addition to the well-known prefix, which
/// [`ClientIp`] handles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Nat64Prefixes(Vec<Ipv6Net>);

impl Nat64Prefixes {
    pub(crate) fn parse(
        texts: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Self, InvalidInput> {
        const MOST: usize = 16;
        let prefixes = texts.into_iter().map(|text| prefix(text.as_ref()));
        let prefixes: Vec<Ipv6Net> = prefixes.collect::<Result<_, _>>()?;
        let problem = format!("has more than {MOST} prefixes");
        input::require("nat64_prefixes", prefixes.len() <= MOST, problem)?;
        Ok(Self(prefixes))
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The embedded IPv4 address if the address is under one of the prefixes; otherwise the address
    /// itself.
    pub(crate) fn canonical(&self, ip: ClientIp) -> ClientIp {
        let Some(IpAddr::V6(v6)) = ip.ip() else {
            return ip;
        };
        let prefix = self.0.iter().find(|prefix| prefix.contains(&v6));
        let inside = prefix.and_then(|prefix| ipv4_in(v6, prefix.prefix_len()));
        inside.map_or(ip, |v4| IpAddr::V4(v4).into())
    }

    /// The embedded IPv4 network if the network equals or is under one of the prefixes; otherwise
    /// the network itself. A network that contains a prefix embeds no IPv4 address.
    pub(crate) fn canonical_net(&self, net: IpNet) -> IpNet {
        let IpNet::V6(v6) = net else {
            return net;
        };
        let prefix = self.0.iter().find(|prefix| prefix.contains(&v6));
        let inside = prefix.and_then(|prefix| net_in(v6, prefix.prefix_len()));
        inside.map_or(net, IpNet::V4)
    }

    /// Whether an address is under one of the prefixes.
    #[cfg(feature = "serve")]
    pub(crate) fn contains(&self, ip: Ipv6Addr) -> bool {
        self.0.iter().any(|prefix| prefix.contains(&ip))
    }

    /// The prefix that contains the network or is contained in it.
    pub(crate) fn overlapping(&self, net: Ipv6Net) -> Option<Ipv6Net> {
        let mut prefixes = self.0.iter();
        let overlaps = |prefix: &&Ipv6Net| prefix.contains(&net) || net.contains(*prefix);
        prefixes.find(overlaps).copied()
    }
}

/// Index of the reserved octet, which is 0 (RFC 6052 §2.2).
const RESERVED: usize = 8;

/// The IPv4 network after a prefix.
fn net_in(net: Ipv6Net, prefix_len: u8) -> Option<Ipv4Net> {
    let has_reserved = prefix_len <= 64;
    let bits = net.prefix_len() - prefix_len;
    let reserved = match has_reserved {
        true => net.prefix_len().saturating_sub(64).min(8),
        false => 0,
    };
    let bits = (bits - reserved).min(32);
    let inside = octets_in(net.addr(), prefix_len)?;
    if bits == 32 {
        embedded(inside)?;
    }
    Ipv4Net::new(inside, bits).ok().map(|net| net.trunc())
}

fn ipv4_in(ip: Ipv6Addr, prefix_len: u8) -> Option<Ipv4Addr> {
    embedded(octets_in(ip, prefix_len)?)
}

/// The IPv4 octets after a prefix.
fn octets_in(ip: Ipv6Addr, prefix_len: u8) -> Option<Ipv4Addr> {
    let octets = ip.octets();
    if octets[RESERVED] != 0 {
        return None;
    }
    let start = usize::from(prefix_len / 8);
    let mut behind = (start..octets.len()).filter(|at| *at != RESERVED);
    let mut next = || behind.next().map(|at| octets[at]);
    Some([next()?, next()?, next()?, next()?].into())
}

fn prefix(text: &str) -> Result<Ipv6Net, InvalidInput> {
    let invalid = |problem: &str| InvalidInput::new("nat64_prefixes", problem);
    let net: Ipv6Net = text.trim_ascii().parse().map_err(|_| {
        invalid("contains an invalid IPv6 prefix; expected for example `2001:db8:64::/96`")
    })?;
    if net.trunc() != net {
        return Err(invalid(
            "contains an address with host bits; expected the prefix alone",
        ));
    }
    if !matches!(net.prefix_len(), 32 | 40 | 48 | 56 | 64 | 96) {
        return Err(invalid(
            "expected prefixes of 32, 40, 48, 56, 64 or 96 bits (RFC 6052 §2.2)",
        ));
    }
    if net.addr().octets()[8] != 0 {
        return Err(invalid(
            "expected bits 64 to 71 of a prefix to be 0 (RFC 6052 §2.2)",
        ));
    }
    Ok(net)
}

impl<'de> Deserialize<'de> for Nat64Prefixes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        Self::parse(texts).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(prefix: &str, ip: &str) -> String {
        let prefixes = Nat64Prefixes::parse([prefix]).unwrap();
        prefixes.canonical(ip.parse().unwrap()).to_string()
    }

    /// The table of RFC 6052 §2.4.
    #[test]
    fn addresses_are_extracted_at_every_prefix_length() {
        for (prefix, ip) in [
            ("2001:db8::/32", "2001:db8:c000:221::"),
            ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
            ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
            ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
            ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
            ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
        ] {
            assert_eq!(canonical(prefix, ip), "192.0.2.33", "{prefix}");
        }
    }

    #[test]
    fn other_addresses_are_unchanged() {
        let prefix = "2001:db8:64::/96";
        for ip in [
            "2001:db8:65::c000:221",
            "192.0.2.1",
            "local",
            // Loopback and unspecified addresses.
            "2001:db8:64::127.0.0.1",
            "2001:db8:64::",
        ] {
            let itself: ClientIp = ip.parse().unwrap();
            assert_eq!(canonical(prefix, ip), itself.to_string());
        }
        let reserved = "2001:db8:c000:221:100::";
        assert_eq!(canonical("2001:db8::/32", reserved), reserved);
    }

    #[test]
    fn networks_are_extracted_at_every_prefix_length() {
        for (prefix, net, expected) in [
            ("2001:db8::/32", "2001:db8::/32", "0.0.0.0/0"),
            ("2001:db8::/32", "2001:db8:c000:200::/56", "192.0.2.0/24"),
            ("2001:db8:100::/40", "2001:db8:1c0:2::/68", "192.0.2.0/24"),
            (
                "2001:db8:100::/40",
                "2001:db8:1c0:2:21::/80",
                "192.0.2.33/32",
            ),
            (
                "2001:db8:122:344::/64",
                "2001:db8:122:344:c0::/81",
                "192.0.0.0/9",
            ),
            ("2001:db8:64::/96", "2001:db8:64::/97", "0.0.0.0/1"),
            (
                "2001:db8:64::/96",
                "2001:db8:64::192.0.2.33/128",
                "192.0.2.33/32",
            ),
            // Around the prefix, beside it, and loopback.
            ("2001:db8:64::/96", "2001:db8::/32", "2001:db8::/32"),
            ("2001:db8:64::/96", "2001:db8:65::/96", "2001:db8:65::/96"),
            (
                "2001:db8:64::/96",
                "2001:db8:64::7f00:1/128",
                "2001:db8:64::7f00:1/128",
            ),
            ("2001:db8:64::/96", "10.0.0.0/8", "10.0.0.0/8"),
        ] {
            let prefixes = Nat64Prefixes::parse([prefix]).unwrap();
            let found = prefixes.canonical_net(net.parse().unwrap());
            assert_eq!(found.to_string(), expected, "{prefix} {net}");
        }
    }

    #[test]
    fn networks_overlap_when_nested() {
        let prefixes = Nat64Prefixes::parse(["2001:db8:64::/96", "2001:db8:100::/40"]).unwrap();
        for (net, expected) in [
            ("2001:db8:64::/64", Some("2001:db8:64::/96")),
            ("2001:db8:1c0:2::/64", Some("2001:db8:100::/40")),
            ("2001:db8:65::/64", None),
        ] {
            let found = prefixes.overlapping(net.parse().unwrap());
            assert_eq!(found, expected.map(|text| text.parse().unwrap()), "{net}");
        }
    }

    #[test]
    fn invalid_prefixes_are_rejected() {
        for text in [
            "",
            "10.0.0.0/8",
            "2001:db8::1",
            "2001:db8::/33",
            "2001:db8::/128",
            "2001:db8::1/96",
            "2001:db8:0:0:ff00::/96",
        ] {
            assert!(Nat64Prefixes::parse([text]).is_err(), "{text}");
        }
        assert!(Nat64Prefixes::parse(vec!["2001:db8::/96"; 17]).is_err());
    }
}
