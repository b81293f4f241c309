//! Client addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use crate::input::serde_as_text;

/// The address of a client: an IP address, or [`ClientIp::LOCAL`] for a Unix socket.
///
/// IPv4-mapped IPv6 addresses and addresses under the well-known NAT64 prefix `64:ff9b::/96` (RFC
/// 6052) become the IPv4 address that they embed, so that a client has one address.
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
    /// A peer without a network address, such as the peer of a Unix socket.
    pub const LOCAL: Self = Self(None);

    /// The IP address; `None` for [`ClientIp::LOCAL`].
    pub fn ip(self) -> Option<IpAddr> {
        self.0
    }
}

impl From<IpAddr> for ClientIp {
    #[inline]
    fn from(ip: IpAddr) -> Self {
        Self(Some(match ip {
            IpAddr::V4(_) => ip,
            IpAddr::V6(ip) => without_v4_prefix(ip),
        }))
    }
}

/// Returns the IPv4 address that an IPv6 address embeds, else the IPv6 address.
fn without_v4_prefix(ip: Ipv6Addr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => well_known(v6)
            .and_then(embedded)
            .map_or(ip.into(), IpAddr::V4),
        v4 => v4,
    }
}

/// The IPv4 address under the well-known NAT64 prefix.
pub(crate) fn well_known(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    match ip.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => Some(Ipv4Addr::from_bits(ip.to_bits() as u32)),
        _ => None,
    }
}

/// The embedded IPv4 address, if a NAT64 translator can have produced it (not loopback, not
/// unspecified).
pub(crate) fn embedded(ip: Ipv4Addr) -> Option<Ipv4Addr> {
    (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
}

impl From<Ipv4Addr> for ClientIp {
    fn from(ip: Ipv4Addr) -> Self {
        IpAddr::V4(ip).into()
    }
}

impl From<Ipv6Addr> for ClientIp {
    fn from(ip: Ipv6Addr) -> Self {
        IpAddr::V6(ip).into()
    }
}

impl From<SocketAddr> for ClientIp {
    fn from(address: SocketAddr) -> Self {
        address.ip().into()
    }
}

/// `None`, which servers report for Unix sockets, is [`ClientIp::LOCAL`].
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

/// The text is neither an IP address nor `local`. The message does not quote it because it may be a
/// key.
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

serde_as_text!(ClientIp);
