//! Who is asking: the network address a decision is made for.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The address of a client: an IP address, or [`ClientIp::LOCAL`] for a Unix socket.
///
/// An IPv4-mapped IPv6 address is the IPv4 address it maps, so that one client has one address.
///
/// ```
/// use std::net::IpAddr;
/// use keyguard::ClientIp;
///
/// let mapped: ClientIp = "::ffff:192.0.2.7".parse().unwrap();
/// assert_eq!(mapped, ClientIp::from(IpAddr::from([192, 0, 2, 7])));
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
        Self(Some(ip.to_canonical()))
    }
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
