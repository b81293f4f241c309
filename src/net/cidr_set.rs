//! Sets of client addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::ClientIp;
use super::client_ip::{embedded, well_known};
use crate::input::{self, InvalidInput, RequestField, try_from_text};
use crate::net::Nat64Prefixes;

/// A set of IP addresses, CIDR networks, and `local` for [`ClientIp::LOCAL`].
///
/// Created from text with commas, from a list of texts, or from addresses.
///
/// IPv6 addresses that embed an IPv4 address (see [`ClientIp`]) are treated as that address; `::/0`
/// contains no IPv4 address.
///
/// ```
/// use keyguard::CidrSet;
/// let office: CidrSet = "192.0.2.7, 10.0.0.0/8".parse()?;
/// assert!(office.contains(std::net::Ipv4Addr::new(10, 1, 2, 3)));
/// assert_eq!(CidrSet::try_from(["192.0.2.7", "10.0.0.0/8"])?, office);
/// assert!("10.1.2.3/8".parse::<CidrSet>().is_err());
/// # Ok::<(), keyguard::InvalidInput>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CidrSet {
    /// The members as given.
    nets: Vec<IpNet>,
    local: bool,
    /// The address ranges of the members, sorted, with gaps between them.
    v4: Vec<RangeInclusive<u128>>,
    v6: Vec<RangeInclusive<u128>>,
}

impl CidrSet {
    pub(crate) fn parse(
        field: &'static str,
        texts: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Self, InvalidInput> {
        let mut set = Self::default();
        for text in texts {
            match text.as_ref().trim_ascii() {
                "local" => set.local = true,
                text => set.nets.push(net(field, text)?),
            }
        }
        (set.v4, set.v6) = ranges(&set.nets);
        Ok(set)
    }

    /// The same set, with members under NAT64 prefixes replaced by the embedded IPv4 networks.
    pub(crate) fn translated(mut self, nat64: &Nat64Prefixes) -> Self {
        if !nat64.is_empty() {
            let nets = self.nets.iter().map(|net| nat64.canonical_net(*net));
            (self.v4, self.v6) = ranges(&nets.collect::<Vec<_>>());
        }
        self
    }

    /// Whether the set contains an address.
    #[must_use]
    pub fn contains(&self, address: impl Into<ClientIp>) -> bool {
        let (ranges, bits) = match address.into().ip() {
            None => return self.local,
            Some(IpAddr::V4(ip)) => (&self.v4, u128::from(ip.to_bits())),
            Some(IpAddr::V6(ip)) => (&self.v6, ip.to_bits()),
        };
        let at = ranges.partition_point(|range| *range.end() < bits);
        ranges.get(at).is_some_and(|range| range.contains(&bits))
    }

    /// Whether the set contains every address of another one.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let is_within = |ranges: &[RangeInclusive<u128>], range: &RangeInclusive<u128>| {
            let at = ranges.partition_point(|own| own.end() < range.start());
            ranges
                .get(at)
                .is_some_and(|own| own.contains(range.start()) && own.contains(range.end()))
        };
        (self.local || !other.local)
            && other.v4.iter().all(|range| is_within(&self.v4, range))
            && other.v6.iter().all(|range| is_within(&self.v6, range))
    }

    /// The families of which the set contains every address: `0.0.0.0/0` and `::/0`.
    pub(crate) fn whole_families(&self) -> Vec<&'static str> {
        let families = [
            (&self.v4, u128::from(u32::MAX), "0.0.0.0/0"),
            (&self.v6, u128::MAX, "::/0"),
        ];
        let whole = families
            .into_iter()
            .filter(|(ranges, last, _)| **ranges == [0..=*last]);
        whole.map(|(_, _, family)| family).collect()
    }

    /// The first member that has so many addresses that some are public: one wider than the largest private
    /// networks, `10.0.0.0/8` and `fc00::/7`.
    pub(crate) fn widest(&self) -> Option<String> {
        let is_wide = |net: &&IpNet| match net {
            IpNet::V4(net) => net.prefix_len() < 8,
            IpNet::V6(net) => net.prefix_len() < 7,
        };
        self.nets.iter().find(is_wide).map(ToString::to_string)
    }

    /// The number of members.
    pub(crate) fn len(&self) -> usize {
        self.nets.len() + usize::from(self.local)
    }

    /// Whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nets.is_empty() && !self.local
    }

    /// The members as text.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        let text = |net: &IpNet| {
            if net.prefix_len() == net.max_prefix_len() {
                net.addr().to_string()
            } else {
                net.to_string()
            }
        };
        let local = self.local.then(|| "local".to_owned());
        self.nets.iter().map(text).chain(local).collect()
    }
}

/// Parses an address or a network.
fn net(field: &'static str, text: &str) -> Result<IpNet, InvalidInput> {
    let unreadable = || {
        InvalidInput::of(
            field,
            text,
            "is not an IP address such as `192.0.2.7`, a network such as `10.0.0.0/8` or \
             `2001:db8::/32`, or `local`",
        )
    };
    let net = match text.parse::<IpAddr>() {
        Ok(ip) => IpNet::from(ip),
        Err(_) => text.parse().map_err(|_| unreadable())?,
    };
    let whole = net.trunc();
    let problem = format!(
        "`{net}` has bits set after the prefix; expected the network `{whole}` or a single address"
    );
    input::require(field, net == whole, problem)?;
    Ok(canonical(net))
}

/// The IPv4 network embedded in an IPv6 network, if any.
fn canonical(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net };
    let ip = v6.addr();
    let is_address = v6.prefix_len() == 128;
    let translated = well_known(ip).filter(|ip| !is_address || embedded(*ip).is_some());
    let inside = ip.to_ipv4_mapped().or(translated);
    match (inside, v6.prefix_len().checked_sub(96)) {
        (Some(ip), Some(len)) => IpNet::new(ip.into(), len).unwrap_or(net),
        _ => net,
    }
}

/// The ranges of the networks: IPv4 and IPv6.
fn ranges(nets: &[IpNet]) -> (Vec<RangeInclusive<u128>>, Vec<RangeInclusive<u128>>) {
    let is_ipv4 = |net: &&IpNet| matches!(net, IpNet::V4(_));
    let v4 = merged(nets.iter().filter(is_ipv4));
    (v4, merged(nets.iter().filter(|net| !is_ipv4(net))))
}

fn merged<'a>(nets: impl Iterator<Item = &'a IpNet>) -> Vec<RangeInclusive<u128>> {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => u128::from(Ipv4Addr::to_bits(ip)),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    let mut ranges: Vec<_> = nets
        .map(|net| bits(net.network())..=bits(net.broadcast()))
        .collect();
    ranges.sort_by_key(|range| *range.start());
    ranges.dedup_by(|next, range| {
        let is_joined = next.start().saturating_sub(1) <= *range.end();
        if is_joined {
            *range = *range.start()..=*range.end().max(next.end());
        }
        is_joined
    });
    ranges
}

/// Members are separated by commas.
impl std::str::FromStr for CidrSet {
    type Err = InvalidInput;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse("ip", text.split(',').filter(|part| !part.trim().is_empty()))
    }
}

try_from_text!(CidrSet);

impl<T: AsRef<str>> TryFrom<&[T]> for CidrSet {
    type Error = InvalidInput;

    fn try_from(texts: &[T]) -> Result<Self, Self::Error> {
        Self::parse("ip", texts)
    }
}

impl<T: AsRef<str>, const LEN: usize> TryFrom<[T; LEN]> for CidrSet {
    type Error = InvalidInput;

    fn try_from(texts: [T; LEN]) -> Result<Self, Self::Error> {
        Self::parse("ip", texts)
    }
}

impl<T: AsRef<str>> TryFrom<Vec<T>> for CidrSet {
    type Error = InvalidInput;

    fn try_from(texts: Vec<T>) -> Result<Self, Self::Error> {
        Self::parse("ip", texts)
    }
}

impl RequestField for CidrSet {
    type Json = Vec<String>;
    const NAME: &str = "allowed_ips";
}

impl<T: Into<ClientIp>> FromIterator<T> for CidrSet {
    fn from_iter<I: IntoIterator<Item = T>>(addresses: I) -> Self {
        let mut set = Self::default();
        for address in addresses {
            match address.into().ip() {
                None => set.local = true,
                Some(ip) => set.nets.push(ip.into()),
            }
        }
        (set.v4, set.v6) = ranges(&set.nets);
        set
    }
}

impl fmt::Display for CidrSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.texts().join(","))
    }
}

/// Serialized as a list of strings.
impl Serialize for CidrSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.texts())
    }
}

impl<'de> Deserialize<'de> for CidrSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        Self::parse("ip", texts).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(set: &str, address: &str) -> bool {
        let set: CidrSet = set.parse().unwrap();
        set.contains(address.parse::<ClientIp>().unwrap())
    }

    #[test]
    fn addresses_match_in_every_notation() {
        for (set, address) in [
            ("10.0.0.0/8", "10.255.255.255"),
            ("10.0.0.0/8", "::ffff:10.1.2.3"),
            ("::ffff:10.0.0.0/104", "10.1.2.3"),
            ("10.0.0.0/8", "64:ff9b::10.1.2.3"),
            ("64:ff9b::10.0.0.0/104", "10.1.2.3"),
            ("64:ff9b::10.1.2.3", "10.1.2.3"),
            ("64:ff9b::127.0.0.1", "64:ff9b::127.0.0.1"),
            ("::ffff:127.0.0.1", "127.0.0.1"),
            ("64:ff9b::/96", "192.0.2.7"),
            ("192.0.2.7", "192.0.2.7"),
            ("0.0.0.0/0", "255.255.255.255"),
            ("2001:db8::/32", "2001:db8:ffff::1"),
            ("::/0", "ffff::"),
            ("10.0.0.0/8,10.1.0.0/16,9.0.0.0/8", "10.200.0.1"),
            ("10.1.0.0/16, 10.3.0.0/16", "10.3.0.0"),
            ("local", "local"),
        ] {
            assert!(contains(set, address), "{set} {address}");
        }
        for (set, address) in [
            ("10.0.0.0/8", "11.0.0.0"),
            ("10.1.0.0/16, 10.3.0.0/16", "10.2.0.0"),
            ("::/0", "10.0.0.1"),
            ("0.0.0.0/0", "::1"),
            ("64:ff9b::127.0.0.1", "127.0.0.1"),
            ("64:ff9b::", "0.0.0.0"),
            ("0.0.0.0/0,::/0", "local"),
            ("", "10.0.0.1"),
        ] {
            assert!(!contains(set, address), "{set} {address}");
        }
    }

    #[test]
    fn addresses_make_a_set() {
        let addresses = [ClientIp::from(Ipv4Addr::new(192, 0, 2, 7)), ClientIp::LOCAL];
        let set = CidrSet::from_iter(addresses);
        assert_eq!(Ok(set), "192.0.2.7,local".parse());
    }

    #[test]
    fn invalid_networks_are_rejected() {
        for text in [
            "10.0.0.0/33",
            "10.9.9",
            "::/129",
            "example.com",
            "kg_live_x",
            "10.0.0.0/-1",
        ] {
            let error = text.parse::<CidrSet>().unwrap_err().to_string();
            assert!(
                error.contains(&format!("`{text}` is not an IP address")),
                "{error}"
            );
        }
        // The text may be a key.
        let long = "kg_live_".repeat(7);
        let error = long.parse::<CidrSet>().unwrap_err().to_string();
        assert!(!error.contains("kg_live_"), "{error}");
        let error = "10.1.2.3/8".parse::<CidrSet>().unwrap_err();
        assert!(error.to_string().contains("`10.0.0.0/8`"), "{error}");
    }

    #[test]
    fn displayed_sets_parse_back() {
        let text = "10.0.0.0/8,192.0.2.7,2001:db8::/32,local";
        assert_eq!(text.parse::<CidrSet>().unwrap().to_string(), text);
    }
}
