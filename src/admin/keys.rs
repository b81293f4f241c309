//! Administration of keys.
//!
//! Each change is durable first and in force second; both before the method returns.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Admin, AdminError, Page};
use crate::input::{self, Given, InvalidInput};
use crate::limit::{self, Limit};
use crate::model::{Key, KeyId, KeyPrefix, OrgId, PlainKey, Scope, key_text};
use crate::net::CidrSet;
use crate::store::{KeyChange, NewCredential, NewKey, Rotation};
use crate::time::Timestamp;

/// A key to create, for [`Admin::create_key`], which reports invalid values. Setters take values or
/// their text.
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
#[must_use]
pub struct CreateKey {
    /// The name of the organization that owns the key.
    #[cfg_attr(feature = "openapi", schema(example = "acme"))]
    pub(crate) org_name: String,
    /// The label: 1 to 255 visible characters and spaces.
    #[cfg_attr(feature = "openapi", schema(example = "web shop"))]
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

/// A key that was created or rotated, with its text.
#[derive(Debug)]
#[non_exhaustive]
pub struct CreatedKey {
    /// The key.
    pub key: Key,
    /// The text of the key. It is not stored and cannot be shown again.
    pub raw_key: PlainKey,
}

/// A change to a key, for [`Admin::update_key`], which reports invalid values. Fields that are not set
/// stay as they are. Setters take values or their text.
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

/// A rotation: a new text for a key, for [`Admin::rotate_key`].
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

impl Admin {
    /// Creates a key and returns its text, which cannot be retrieved again.
    ///
    /// # Errors
    /// [`AdminError::Invalid`] for a field; [`AdminError::OrgNameNotFound`].
    pub fn create_key(&self, request: CreateKey) -> Result<CreatedKey, AdminError> {
        let (key, raw_key) = self.new_key(&request)?;
        let audit = self.audit_context("create_key", None, without_nulls(json!(request)));
        let credential = self.credential(&raw_key);
        let key = self.guard.store().create_key(key, credential, &audit)?;
        let key = self.shown(key);
        Ok(CreatedKey { key, raw_key })
    }

    /// Creates many keys in one change, all or none, in the given order.
    ///
    /// # Errors
    /// Like [`Admin::create_key`].
    pub fn create_keys(&self, requests: &[CreateKey]) -> Result<Vec<CreatedKey>, AdminError> {
        let mut keys = Vec::with_capacity(requests.len());
        let mut raw_keys = Vec::with_capacity(requests.len());
        for request in requests {
            let (key, raw_key) = self.new_key(request)?;
            keys.push((key, self.credential(&raw_key)));
            raw_keys.push(raw_key);
        }
        let audit = self.audit_context("create_keys", None, json!({ "keys": keys.len() }));
        let keys = self.guard.store().create_keys(keys, &audit)?.into_iter();
        Ok(keys
            .zip(raw_keys)
            .map(|(key, raw_key)| CreatedKey { key, raw_key })
            .collect())
    }

    fn new_key(&self, request: &CreateKey) -> Result<(NewKey, PlainKey), AdminError> {
        let config = self.guard.config();
        let per_minute = request
            .rate_limit_per_minute
            .unwrap_or(config.default_rate_limit_per_minute);
        let prefix = match &request.prefix {
            Some(prefix) => prefix.get()?,
            None => config.key_prefix.clone(),
        };
        self.check_expiry(request.expires_at)?;
        let key = NewKey {
            label: name("label", &request.label)?,
            scopes: scopes(&request.scopes)?,
            rate_limit_per_minute: input::limit("rate_limit_per_minute", per_minute)?,
            limits: limits(&request.limits)?,
            allowed_ips: allowed_ips(&request.allowed_ips)?,
            created_at: self.guard.now(),
            expires_at: request.expires_at,
            org_id: self.find_org(&request.org_name)?.id,
        };
        Ok((key, generate(&prefix)?))
    }

    /// Returns a key by its id.
    ///
    /// # Errors
    /// [`AdminError::KeyNotFound`]
    pub fn get_key(&self, id: KeyId) -> Result<Key, AdminError> {
        Ok(self.shown(self.guard.store().key(id)?))
    }

    /// Returns a key by its id, or by its whole [`Key::shown_prefix`].
    ///
    /// A shorter prefix is refused: it may match one key today and another one tomorrow.
    ///
    /// # Errors
    /// [`AdminError::Invalid`] for an empty text; [`AdminError::KeyNotFound`];
    /// [`AdminError::KeyPrefixNotFound`]; [`AdminError::Ambiguous`] if the text is not the whole prefix of exactly one key.
    pub fn find_key(&self, text: &str) -> Result<Key, AdminError> {
        if text.trim().is_empty() {
            let problem = "is empty; give the id of a key, or its whole prefix as listings show it";
            return Err(InvalidInput::new("key", problem).into());
        }
        if let Ok(id) = text.parse() {
            return self.get_key(id);
        }
        let found = self.guard.store().keys_with_prefix(text, MAX_CANDIDATES)?;
        let mut found: Vec<_> = found.into_iter().map(|key| self.shown(key)).collect();
        found.sort_by_key(|key| key.id);
        // The whole prefix of a key may also be the start of a longer one.
        let is_whole = |key: &Key| key.shown_prefix == text;
        if found.iter().any(is_whole) {
            found.retain(is_whole);
        }
        match found.as_slice() {
            [] => Err(AdminError::KeyPrefixNotFound),
            [only] if is_whole(only) => Ok(found.remove(0)),
            _ => Err(AdminError::Ambiguous {
                prefix: text.to_owned(),
                candidates: found,
            }),
        }
    }

    /// Returns a page of keys, of one organization or of all, by ascending id.
    ///
    /// # Errors
    /// [`AdminError::OrgNotFound`]
    pub fn list_keys(&self, org: Option<OrgId>, page: Page<KeyId>) -> Result<Vec<Key>, AdminError> {
        let keys = self.guard.store().keys(org, page.after, page.limit)?;
        Ok(keys.into_iter().map(|key| self.shown(key)).collect())
    }

    /// Changes a key.
    ///
    /// # Errors
    /// [`AdminError::Invalid`] for a field; [`AdminError::KeyNotFound`]; [`AdminError::KeyRevoked`];
    /// [`AdminError::KeyExpired`] for a new time of expiry without [`UpdateKey::reactivate`].
    pub fn update_key(&self, request: UpdateKey) -> Result<Key, AdminError> {
        let label = request.label.as_deref();
        let per_minute = request.rate_limit_per_minute;
        let change = KeyChange {
            label: label.map(|label| name("label", label)).transpose()?,
            scopes: request.scopes.as_deref().map(scopes).transpose()?,
            rate_limit_per_minute: per_minute
                .map(|limit| input::limit("rate_limit_per_minute", limit))
                .transpose()?,
            limits: request.limits.as_deref().map(limits).transpose()?,
            allowed_ips: request.allowed_ips.as_ref().map(allowed_ips).transpose()?,
            limit_override: None,
            expires_at: request.expires_at,
            unless_expired_at: (request.expires_at.is_some() && !request.reactivate)
                .then(|| self.guard.now()),
        };
        self.check_expiry(request.expires_at.flatten())?;
        let details = without_nulls(json!(request));
        self.change_key(request.id, change, "update_key", details)
    }

    /// Replaces the text of a key. Its limits, quotas and usage are kept.
    ///
    /// # Errors
    /// [`AdminError::KeyNotFound`]; [`AdminError::KeyRevoked`]; [`AdminError::KeyExpired`] without a new
    /// time of expiry; [`AdminError::Invalid`] for a time in the past.
    pub fn rotate_key(&self, request: RotateKey) -> Result<CreatedKey, AdminError> {
        let raw_key = self.prepare_rotation(request)?.raw_key;
        self.rotate_to(request, raw_key)
    }

    /// Returns a new text for a key, which [`Admin::rotate_to`] puts in force, and the key as it will
    /// be.
    pub(super) fn prepare_rotation(&self, request: RotateKey) -> Result<CreatedKey, AdminError> {
        let key = self.guard.store().key(request.id)?;
        self.check_expiry(request.expires_at.flatten())?;
        if key.is_revoked() {
            return Err(AdminError::KeyRevoked(key.id));
        }
        let now = self.guard.now();
        if request.expires_at.is_none() && key.is_expired(now) {
            return Err(AdminError::KeyExpired(key.id));
        }
        let shown = &key.shown_prefix;
        let prefix = shown
            .get(..shown.len().saturating_sub(4))
            .unwrap_or_default()
            .parse();
        // A key of the Python package may have started with anything.
        let prefix = prefix.unwrap_or_else(|_| self.guard.config().key_prefix.clone());
        let raw_key = generate(&prefix)?;
        let key = Key {
            shown_prefix: raw_key.shown_prefix().to_owned(),
            expires_at: request.expires_at.unwrap_or(key.expires_at),
            ..key
        };
        let key = key.at(now);
        Ok(CreatedKey { key, raw_key })
    }

    /// Puts a prepared text in force.
    pub(super) fn rotate_to(
        &self,
        request: RotateKey,
        raw_key: PlainKey,
    ) -> Result<CreatedKey, AdminError> {
        let RotateKey {
            id,
            grace,
            expires_at,
        } = request;
        self.check_expiry(expires_at.flatten())?;
        let now = self.guard.now();
        let rotation = Rotation {
            now,
            retire_at: now.plus(grace),
            expires_at,
        };
        let mut details = json!({ "old_until": rotation.retire_at });
        if let Some(expires_at) = expires_at {
            details["expires_at"] = json!(expires_at);
        }
        let audit = self.audit_context("rotate_key", Some(id.0), details);
        let store = self.guard.store();
        let key = store.add_credential(id, self.credential(&raw_key), rotation, &audit)?;
        self.guard.key_changed(id);
        let key = self.shown(key);
        Ok(CreatedKey { key, raw_key })
    }

    /// Revokes a key permanently. Once this returns, no check admits it. Revoking it again changes nothing.
    ///
    /// # Errors
    /// [`AdminError::KeyNotFound`]
    pub fn revoke_key(&self, id: KeyId) -> Result<Key, AdminError> {
        let audit = self.audit_context("revoke_key", Some(id.0), json!({}));
        let key = self.guard.store().revoke_key(id, &audit)?;
        self.guard.key_changed(id);
        Ok(self.shown(key))
    }

    /// Stores a change, and puts it in force.
    pub(super) fn change_key(
        &self,
        id: KeyId,
        change: KeyChange,
        action: &'static str,
        details: Value,
    ) -> Result<Key, AdminError> {
        let audit = self.audit_context(action, Some(id.0), details);
        let key = self.guard.store().update_key(id, change, &audit)?;
        self.guard.key_changed(id);
        Ok(self.shown(key))
    }

    /// The key as it is shown now.
    pub(super) fn shown(&self, key: Key) -> Key {
        key.at(self.guard.now())
    }

    /// Refuses a time of expiry in the past: the caller may mean to revoke the key.
    fn check_expiry(&self, expires_at: Option<Timestamp>) -> Result<(), InvalidInput> {
        match expires_at.is_some_and(|at| at <= self.guard.now()) {
            false => Ok(()),
            true => Err(InvalidInput::new(
                "expires_at",
                "is in the past; give a later time, or revoke the key to refuse it from now on",
            )),
        }
    }

    fn credential(&self, key: &PlainKey) -> NewCredential {
        NewCredential {
            hash: self.guard.hasher().hash(key.expose().as_bytes()),
            shown_prefix: key.shown_prefix().to_owned(),
            created_at: self.guard.now(),
        }
    }
}

/// The maximum length of all scopes of a key as text, with a space between them. It keeps the header
/// fields of `/auth` below 8 KiB, as nginx requires; the name of the organization takes up to 3,060
/// bytes of them.
const SCOPES_BYTES: usize = 4_096;

/// The maximum number of addresses and networks that a key is accepted from.
const ALLOWED_IPS: usize = 256;

/// The maximum number of keys in [`AdminError::Ambiguous`].
const MAX_CANDIDATES: usize = 20;

fn generate(prefix: &KeyPrefix) -> Result<PlainKey, AdminError> {
    PlainKey::generate(prefix).map_err(|error| AdminError::Unavailable(error.into()))
}

fn scopes(given: &[Given<Scope>]) -> Result<Vec<Scope>, InvalidInput> {
    let mut scopes = Given::all(given)?;
    scopes.sort();
    scopes.dedup();
    let length = scopes.iter().map(|scope| scope.as_str().len() + 1);
    if length.sum::<usize>() > SCOPES_BYTES + 1 {
        let problem = format!("have more than {SCOPES_BYTES} characters together; give fewer");
        return Err(InvalidInput::new("scopes", problem));
    }
    Ok(scopes)
}

/// Validates a name or label. It appears in listings and in the audit log, which must not contain keys.
pub(super) fn name(field: &'static str, given: &str) -> Result<String, InvalidInput> {
    match key_text::is_within(given) {
        true => Err(InvalidInput::new(
            field,
            "contains the text of a key; give another name",
        )),
        false => input::name(field, given),
    }
}

pub(super) fn limits(given: &[Given<Limit>]) -> Result<Vec<Limit>, InvalidInput> {
    limit::list("limits", Given::all(given)?)
}

fn allowed_ips(given: &Given<CidrSet>) -> Result<CidrSet, InvalidInput> {
    let ips = given.get()?;
    if ips.len() > ALLOWED_IPS {
        let problem = format!("expected at most {ALLOWED_IPS}; use networks instead of addresses");
        return Err(InvalidInput::new("allowed_ips", problem));
    }
    Ok(ips)
}

/// Removes fields that are null.
fn without_nulls(mut value: Value) -> Value {
    if let Value::Object(fields) = &mut value {
        fields.retain(|_, value| !value.is_null());
    }
    value
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
