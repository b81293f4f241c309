//! Requests for changes to keys.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::input::{Given, InvalidInput};
use crate::limit::Limit;
use crate::model::{KeyId, KeyPrefix, Scope};
use crate::net::CidrSet;
use crate::time::Timestamp;

/// A key to create, for [`Admin::create_key`](crate::Admin::create_key), which reports invalid values.
/// Setters take values or their text.
///
/// ```
/// use keyguard::CreateKey;
/// let key = CreateKey::new("acme", "web shop")
///     .scopes(["orders:read"])
///     .limits(["10/s", "100000 monthly"]);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(example = json!({
    "org_name": "acme",
    "label": "web shop",
    "rate_limit_per_minute": 600,
    "limits": ["10/s", "500000 monthly"],
    "scopes": ["orders:read"],
})))]
#[must_use]
pub struct CreateKey {
    /// The name of the organization that owns the key.
    pub(crate) org_name: String,
    /// The label: 1 to 255 visible characters and spaces.
    pub(crate) label: String,
    /// The scopes. Joined by spaces, they have at most 4,096 characters. Default: none.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub(crate) scopes: Vec<Given<Scope>>,
    /// Requests admitted in any 60 seconds, at least 1. Default: the server's.
    pub(crate) rate_limit_per_minute: Option<u32>,
    /// Further limits: `10/s`, `500000 monthly`. Default: none.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub(crate) limits: Vec<Given<Limit>>,
    /// IP addresses, CIDR networks and `local` (Unix sockets) from which the key is accepted; at most 256.
    /// Default: all.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub(crate) allowed_ips: Given<CidrSet>,
    /// Expiry time, in the future. Default: never.
    pub(crate) expires_at: Option<Timestamp>,
    /// The prefix of the key. Default: the server's.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub(crate) prefix: Option<Given<KeyPrefix>>,
}

impl CreateKey {
    /// Creates a request for a key of the organization named `org_name`. The label has 1 to 255 visible
    /// characters and spaces.
    pub fn new(org_name: impl Into<String>, label: impl Into<String>) -> Self {
        Self {
            org_name: org_name.into(),
            label: label.into(),
            ..Self::default()
        }
    }

    /// The scopes of the key. Joined by spaces, they have at most 4,096 characters. Default: none.
    pub fn scopes(
        mut self,
        scopes: impl IntoIterator<Item: TryInto<Scope, Error: Into<InvalidInput>>>,
    ) -> Self {
        self.scopes = Given::list(scopes);
        self
    }

    /// Requests admitted in any 60 seconds, at least 1. Default:
    /// [`Config::default_rate_limit_per_minute`](crate::Config::default_rate_limit_per_minute).
    pub fn rate_limit_per_minute(mut self, requests: u32) -> Self {
        self.rate_limit_per_minute = Some(requests);
        self
    }

    /// Further [limits](Limit), such as `10/s` and `500000 monthly`: at most 8, each with a counter of
    /// its own. Default: none.
    pub fn limits(
        mut self,
        limits: impl IntoIterator<Item: TryInto<Limit, Error: Into<InvalidInput>>>,
    ) -> Self {
        self.limits = Given::list(limits);
        self
    }

    /// IP addresses, CIDR networks and `local` (Unix sockets) from which the key is accepted; at most 256.
    /// Default: all.
    pub fn allowed_ips(mut self, ips: impl TryInto<CidrSet, Error: Into<InvalidInput>>) -> Self {
        self.allowed_ips = Given::new(ips);
        self
    }

    /// Expiry time, in the future. Default: never.
    pub fn expires_at(mut self, time: impl Into<Option<Timestamp>>) -> Self {
        self.expires_at = time.into();
        self
    }

    /// The prefix of the key. Default: [`Config::key_prefix`](crate::Config::key_prefix).
    pub fn prefix(mut self, prefix: impl TryInto<KeyPrefix, Error: Into<InvalidInput>>) -> Self {
        self.prefix = Some(Given::new(prefix));
        self
    }
}

/// A change to a key, for [`Admin::update_key`](crate::Admin::update_key), which reports invalid values.
/// Fields that are not set stay as they are. Setters take values or their text.
///
/// ```
/// use keyguard::{Key, KeyId, UpdateKey};
/// let change = UpdateKey::new(KeyId(7)).label("till").limits(["10/s"]).expires_at(None);
///
/// /// Gives a key the scopes and limits of another.
/// fn like(key: KeyId, other: &Key) -> UpdateKey {
///     UpdateKey::new(key).scopes(&other.scopes).limits(&other.limits).allowed_ips(&other.allowed_ips)
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(example = json!({
    "label": "till",
    "rate_limit_per_minute": 300,
    "limits": ["10/s"],
})))]
#[must_use]
pub struct UpdateKey {
    pub(crate) id: KeyId,
    /// The label: 1 to 255 visible characters and spaces.
    pub(crate) label: Option<String>,
    /// Scopes; they replace the existing ones.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Vec<String>>))]
    pub(crate) scopes: Option<Vec<Given<Scope>>>,
    /// The number of requests admitted in any 60 seconds.
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    pub(crate) rate_limit_per_minute: Option<u32>,
    /// Further limits; they replace the existing ones.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Vec<String>>))]
    pub(crate) limits: Option<Vec<Given<Limit>>>,
    /// IP addresses and networks from which the key is accepted; empty for all.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Vec<String>>))]
    pub(crate) allowed_ips: Option<Given<CidrSet>>,
    /// The time of expiry, in the future; null for never.
    #[serde(default, with = "nullable", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Timestamp>))]
    pub(crate) expires_at: Option<Option<Timestamp>>,
    /// Whether to accept an expired key again. Its text may have leaked since; rotation replaces it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) reactivate: bool,
}

impl UpdateKey {
    /// Creates a change that sets no field.
    pub fn new(id: KeyId) -> Self {
        Self {
            id,
            label: None,
            scopes: None,
            rate_limit_per_minute: None,
            limits: None,
            allowed_ips: None,
            expires_at: None,
            reactivate: false,
        }
    }

    /// Replaces the label: 1 to 255 visible characters and spaces.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Replaces the scopes. Joined by spaces, they have at most 4,096 characters.
    pub fn scopes(
        mut self,
        scopes: impl IntoIterator<Item: TryInto<Scope, Error: Into<InvalidInput>>>,
    ) -> Self {
        self.scopes = Some(Given::list(scopes));
        self
    }

    /// Replaces the limit in any 60 seconds, at least 1. Requests admitted before still count.
    pub fn rate_limit_per_minute(mut self, requests: u32) -> Self {
        self.rate_limit_per_minute = Some(requests);
        self
    }

    /// Replaces the further [limits](Limit): at most 8, each with a counter of its own. Requests
    /// admitted under an earlier limit of the same kind still count; requests admitted while there was
    /// none do not.
    pub fn limits(
        mut self,
        limits: impl IntoIterator<Item: TryInto<Limit, Error: Into<InvalidInput>>>,
    ) -> Self {
        self.limits = Some(Given::list(limits));
        self
    }

    /// Replaces the IP addresses, CIDR networks and `local` (Unix sockets) from which the key is accepted;
    /// at most 256, empty for all.
    pub fn allowed_ips(mut self, ips: impl TryInto<CidrSet, Error: Into<InvalidInput>>) -> Self {
        self.allowed_ips = Some(Given::new(ips));
        self
    }

    /// Replaces the expiry time, in the future; `None` for never. An expired key also needs
    /// [`UpdateKey::reactivate`].
    pub fn expires_at(mut self, time: impl Into<Option<Timestamp>>) -> Self {
        self.expires_at = Some(time.into());
        self
    }

    /// Whether to accept an expired key again. Its text may have leaked; prefer [rotation](RotateKey),
    /// which replaces it. Default: `false`.
    pub fn reactivate(mut self, reactivate: bool) -> Self {
        self.reactivate = reactivate;
        self
    }
}

/// A rotation: a new text for a key, for [`Admin::rotate_key`](crate::Admin::rotate_key).
///
/// ```
/// use std::time::Duration;
/// use keyguard::{KeyId, RotateKey};
/// let leaked = RotateKey::new(KeyId(7)).grace(Duration::ZERO);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct RotateKey {
    pub(crate) id: KeyId,
    pub(crate) grace: Duration,
    pub(crate) expires_at: Option<Option<Timestamp>>,
}

impl RotateKey {
    /// A rotation that ends the old text in an hour and keeps the time of expiry.
    pub fn new(id: KeyId) -> Self {
        Self {
            id,
            grace: Duration::from_secs(3_600),
            expires_at: None,
        }
    }

    /// How much longer the old text is accepted, at most until the key expires. The old text of an
    /// expired key is not accepted again. Default: one hour.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Replaces the expiry time, in the future; `None` for never. An expired key needs a new one.
    pub fn expires_at(mut self, time: impl Into<Option<Timestamp>>) -> Self {
        self.expires_at = Some(time.into());
        self
    }
}

/// Serializes a field that is absent, null, or has a value.
pub(super) mod nullable {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<T: Serialize, S: Serializer>(
        field: &Option<Option<T>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        field
            .as_ref()
            .and_then(Option::as_ref)
            .serialize(serializer)
    }

    pub(crate) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Option<T>>, D::Error> {
        Option::deserialize(deserializer).map(Some)
    }
}
