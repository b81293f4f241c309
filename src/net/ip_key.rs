//! The unit in which clients are counted and locked.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::input::{InvalidInput, serde_as_text};
use crate::net::ClientIp;

/// The addresses that count as one client: a single IPv4 address, or the IPv6 /64 of a subscriber
/// (RFC 6177). Merged locks cover a /24 or /48.
///
/// ```
/// use keyguard::IpKey;
/// let network: IpKey = "2001:db8::17".parse()?;
/// assert_eq!(network.to_string(), "2001:db8::/64");
/// assert_eq!(network, "2001:db8::ffff".parse()?);
/// # Ok::<(), keyguard::InvalidInput>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpKey {
    /// The first address; IPv4 addresses are IPv4-mapped.
    bits: u128,
    /// Prefix length, out of 128 bits.
    prefix_len: u8,
}

const IPV4_LEN: u8 = 128;
const IPV4_PARENT_LEN: u8 = 96 + 24;
const IPV6_LEN: u8 = 64;
const IPV6_PARENT_LEN: u8 = 48;

impl IpKey {
    /// The key of a client address; `None` for [`ClientIp::LOCAL`].
    pub fn of(ip: ClientIp) -> Option<Self> {
        Some(match ip.ip()? {
            IpAddr::V4(ip) => Self::new(ip.to_ipv6_mapped(), IPV4_LEN),
            IpAddr::V6(ip) => Self::new(ip, IPV6_LEN),
        })
    }

    fn new(address: Ipv6Addr, prefix_len: u8) -> Self {
        let mask = u128::MAX << (128 - u32::from(prefix_len.clamp(1, 128)));
        Self {
            bits: address.to_bits() & mask,
            prefix_len,
        }
    }

    /// The surrounding /24 or /48. Returns itself if it is one.
    pub(crate) fn parent(self) -> Self {
        let len = match self.prefix_len {
            IPV4_LEN => IPV4_PARENT_LEN,
            IPV6_LEN => IPV6_PARENT_LEN,
            len => len,
        };
        Self::new(Ipv6Addr::from_bits(self.bits), len)
    }

    pub(crate) fn to_bytes(self) -> [u8; 17] {
        let mut bytes = [self.prefix_len; 17];
        bytes[1..].copy_from_slice(&self.bits.to_be_bytes());
        bytes
    }

    /// The inverse of [`IpKey::to_bytes`]; `None` for invalid bytes.
    pub(crate) fn from_bytes(bytes: [u8; 17]) -> Option<Self> {
        let [prefix_len, address @ ..] = bytes;
        let known = [IPV4_LEN, IPV4_PARENT_LEN, IPV6_LEN, IPV6_PARENT_LEN];
        let network = Self {
            bits: u128::from_be_bytes(address),
            prefix_len,
        };
        let address = Ipv6Addr::from_bits(network.bits);
        (known.contains(&prefix_len) && Self::new(address, prefix_len) == network)
            .then_some(network)
    }

    fn ipv4(self) -> Option<Ipv4Addr> {
        Ipv6Addr::from_bits(self.bits)
            .to_ipv4_mapped()
            .filter(|_| self.prefix_len > 96)
    }
}

impl fmt::Display for IpKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.ipv4(), self.prefix_len) {
            (Some(ip), IPV4_LEN) => ip.fmt(f),
            (Some(ip), len) => write!(f, "{ip}/{}", len - 96),
            (None, len) => write!(f, "{}/{len}", Ipv6Addr::from_bits(self.bits)),
        }
    }
}

/// Parses an address, or a network as displayed.
impl FromStr for IpKey {
    type Err = InvalidInput;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || {
            InvalidInput::of(
                "ip",
                text,
                "is neither an IPv4 or IPv6 address nor a network as `list-blocks` shows it",
            )
        };
        let Some((address, len)) = text.split_once('/') else {
            let ip: ClientIp = text.parse().map_err(|_| invalid())?;
            return Self::of(ip).ok_or_else(|| {
                InvalidInput::new(
                    "ip",
                    "`local` stands for every client of a Unix socket; \
                     give an IPv4 or IPv6 address",
                )
            });
        };
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        let network = match (address, len) {
            (IpAddr::V4(ip), "32") => Self::new(ip.to_ipv6_mapped(), IPV4_LEN),
            (IpAddr::V4(ip), "24") => Self::new(ip.to_ipv6_mapped(), IPV4_PARENT_LEN),
            (IpAddr::V6(ip), "64") => Self::new(ip, IPV6_LEN),
            (IpAddr::V6(ip), "48") => Self::new(ip, IPV6_PARENT_LEN),
            _ => return Err(invalid()),
        };
        Ok(network)
    }
}

serde_as_text!(IpKey);

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> IpKey {
        text.parse().unwrap()
    }

    #[test]
    fn ipv6_clients_count_by_64() {
        assert_eq!(network("2001:db8:1:2::3"), network("2001:db8:1:2:ffff::"));
        assert_ne!(network("2001:db8:1:2::3"), network("2001:db8:1:3::3"));
        assert_eq!(
            network("2001:db8:1:2::3").parent().to_string(),
            "2001:db8:1::/48"
        );
    }

    #[test]
    fn ipv4_clients_count_by_address_in_every_notation() {
        assert_eq!(network("::ffff:192.0.2.7"), network("192.0.2.7"));
        assert_ne!(network("192.0.2.7"), network("192.0.2.8"));
        assert_eq!(network("192.0.2.7").parent(), network("192.0.2.0/24"));
        assert_eq!(network("192.0.2.0/24").parent(), network("192.0.2.0/24"));
    }

    #[test]
    fn text_and_bytes_round_trip() {
        for text in [
            "192.0.2.7",
            "192.0.2.0/24",
            "2001:db8::/64",
            "2001:db8::/48",
            "::/64",
        ] {
            let network = network(text);
            assert_eq!(network.to_string(), text);
            assert_eq!(IpKey::from_bytes(network.to_bytes()), Some(network));
        }
        assert_eq!(IpKey::from_bytes([65; 17]), None);
        let mut stray = network("192.0.2.0/24").to_bytes();
        stray[16] = 1;
        assert_eq!(IpKey::from_bytes(stray), None);
    }

    #[test]
    fn invalid_keys_are_rejected() {
        for text in [
            "",
            "local",
            "192.0.2.0/16",
            "10.0.0.0/8",
            "::/0",
            "kg_live_x",
            "1.2.3",
        ] {
            assert!(text.parse::<IpKey>().is_err(), "{text}");
        }
    }
}
