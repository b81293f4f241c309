//! The clients that a change concerns.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::Admin;
use crate::input::{self, InvalidInput, try_from_text};
use crate::net::{ClientIp, IpKey};

/// The address of a client, or a network as [`Admin::list_blocks`] shows it.
///
/// ```
/// use keyguard::IpTarget;
///
/// let client: IpTarget = "192.0.2.7".parse()?;
/// let network: IpTarget = "2001:db8::/48".parse()?;
/// # Ok::<(), keyguard::InvalidInput>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpTarget(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Client(ClientIp),
    IpKey(IpKey),
}

impl From<ClientIp> for IpTarget {
    fn from(ip: ClientIp) -> Self {
        Self(Kind::Client(ip))
    }
}

impl From<IpAddr> for IpTarget {
    fn from(ip: IpAddr) -> Self {
        ClientIp::from(ip).into()
    }
}

impl From<Ipv4Addr> for IpTarget {
    fn from(ip: Ipv4Addr) -> Self {
        ClientIp::from(ip).into()
    }
}

impl From<Ipv6Addr> for IpTarget {
    fn from(ip: Ipv6Addr) -> Self {
        ClientIp::from(ip).into()
    }
}

impl From<SocketAddr> for IpTarget {
    fn from(address: SocketAddr) -> Self {
        ClientIp::from(address).into()
    }
}

impl From<IpKey> for IpTarget {
    fn from(ip_key: IpKey) -> Self {
        Self(Kind::IpKey(ip_key))
    }
}

impl FromStr for IpTarget {
    type Err = InvalidInput;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(ClientIp::LOCAL) | Err(_) => text.parse().map(|ip_key: IpKey| ip_key.into()),
            Ok(ip) => Ok(ip.into()),
        }
    }
}

try_from_text!(IpTarget);

impl fmt::Display for IpTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Kind::Client(ip) => ip.fmt(f),
            Kind::IpKey(ip_key) => ip_key.fmt(f),
        }
    }
}

impl Admin {
    /// Returns the network under which a client is counted and locked.
    pub(super) fn ip_key(
        &self,
        ip: impl TryInto<IpTarget, Error: Into<InvalidInput>>,
    ) -> Result<IpKey, InvalidInput> {
        match input::valid::<IpTarget>(ip)?.0 {
            Kind::IpKey(ip_key) => Ok(ip_key),
            Kind::Client(ip) => {
                let ip = self.guard.compiled().source.nat64_prefixes.canonical(ip);
                IpKey::of(ip).ok_or_else(|| {
                    InvalidInput::new(
                        "ip",
                        "`local` stands for every client of a Unix socket; give an IPv4 or IPv6 \
                         address",
                    )
                })
            }
        }
    }

    /// Returns the network to lock. Refuses a network whose clients count as the IPv4 addresses in it.
    pub(super) fn lockable_ip_key(&self, ip: IpTarget) -> Result<IpKey, InvalidInput> {
        let key = self.ip_key(ip)?;
        let compiled = self.guard.compiled();
        let net = match ip.0 {
            Kind::IpKey(ip_key) => ip_key.to_string().parse().ok(),
            Kind::Client(_) => None,
        };
        match net.and_then(|net| compiled.source.nat64_prefixes.overlapping(net)) {
            None => Ok(key),
            Some(prefix) => Err(InvalidInput::new(
                "ip",
                format!("clients under `{prefix}` count as IPv4 addresses; give one of those"),
            )),
        }
    }
}
