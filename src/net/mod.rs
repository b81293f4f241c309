//! Network addresses: clients, proxies, and sets of networks.

mod cidr_set;
mod client_ip;
pub(crate) mod forwarded;
mod ip_key;
mod nat64;
#[cfg(feature = "serve")]
mod public;

pub use self::cidr_set::CidrSet;
pub use self::client_ip::{ClientIp, InvalidClientIp};
pub use self::ip_key::IpKey;

pub(crate) use self::forwarded::{ClientIpHeader, NamedClient, UnreadableClient};
pub(crate) use self::nat64::Nat64Prefixes;
#[cfg(feature = "serve")]
pub(crate) use self::public::is_public;
