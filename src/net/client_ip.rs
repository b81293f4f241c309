//! Who is asking: the network address a decision is made for.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The address of a client: an IP address, or [`ClientIp::LOCAL`] for a Unix socket.
///
/// An IPv6 address that stands for an IPv4 address is that address, so that one client has one: an
/// IPv4-mapped one, and one under the well-known prefix of translators, `64:ff9b::/96` (RFC 6052).
///
/// ```
/// use std::net::IpAddr;
/// use keyguard::ClientIp;
///
/// let mapped: ClientIp = "::ffff:192.0.2.7".parse().unwrap();
/// assert_eq!(mapped, ClientIp::from(IpAddr::from([192, 0, 2, 7])));
/// assert_eq!("64:ff9b::192.0.2.7".parse(), Ok(mapped));
/// assert_eq!("local".parse(), Ok(ClientIp::LOCAL));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientIp(Option<IpAddr>);

impl ClientIp {
    /// A peer without a network address, such as the other side of a Unix socket.
    pub const LOCAL: Self = Self(None);

    /// The IP address; `None` for [`ClientIp::LOCAL`].
    pub fn ip(self) -> Option<IpAddr> {
        self.0
    }
}

impl From<IpAddr> for ClientIp {
    fn from(ip: IpAddr) -> Self {
        Self(Some(match ip.to_canonical() {
            IpAddr::V6(v6) => well_known(v6).and_then(embedded).map_or(ip, IpAddr::V4),
            v4 => v4,
        }))
    }
}

/// The IPv4 address under the well-known prefix of translators.
pub(crate) fn well_known(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    match ip.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => Some(Ipv4Addr::from_bits(ip.to_bits() as u32)),
        _ => None,
    }
}

/// An IPv4 address that a translator can have written: of a client on a network.
pub(crate) fn embedded(ip: Ipv4Addr) -> Option<Ipv4Addr> {
    (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
}

impl From<SocketAddr> for ClientIp {
    fn from(address: SocketAddr) -> Self {
        address.ip().into()
    }
}

/// An absent address, as servers report it for a Unix socket, is [`ClientIp::LOCAL`].
impl From<Option<SocketAddr>> for ClientIp {
    fn from(address: Option<SocketAddr>) -> Self {
        address.map_or(Self::LOCAL, Self::from)
    }
}

impl fmt::Display for ClientIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(ip) => ip.fmt(f),
            None => f.write_str("local"),
        }
    }
}

/// The text is neither an IP address nor `local`. It is not shown: who mixes up two fields may have
/// given a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an address: expected an IPv4 address, an IPv6 address or `local`")]
pub struct InvalidClientIp(());

impl FromStr for ClientIp {
    type Err = InvalidClientIp;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "local" {
            return Ok(Self::LOCAL);
        }
        let ip = text.parse::<IpAddr>();
        ip.map(Self::from).map_err(|_| InvalidClientIp(()))
    }
}

impl Serialize for ClientIp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ClientIp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}
