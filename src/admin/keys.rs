//! Administration of keys.
//!
//! Each change is durable first and in force second; both before the method returns.

use serde_json::{Value, json};

use super::shown::shown_at;
use super::{Admin, AdminError, CreateKey, Page, RotateKey, UpdateKey};
use crate::input::{self, Given, InvalidInput};
use crate::limit::{self, Limit};
use crate::model::key_words::contains_key;
use crate::model::{Key, KeyId, KeyPrefix, OrgId, PlainKey, Scope};
use crate::net::CidrSet;
use crate::store::{KeyChange, NewCredential, NewKey, Rotation, Store};
use crate::time::Timestamp;

/// A key that was created or rotated, with its text.
#[derive(Debug)]
#[non_exhaustive]
pub struct CreatedKey {
    /// The key.
    pub key: Key,
    /// The text of the key. It is not stored and cannot be shown again.
    pub raw_key: PlainKey,
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
        let key = key.at(self.guard.now());
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
        let key = validated(request, per_minute, self.guard.now())?;
        let key = key(self.find_org(&request.org_name)?.id);
        Ok((key, generate(&prefix)?))
    }

    /// Returns a key by its id.
    ///
    /// # Errors
    /// [`AdminError::KeyNotFound`]
    pub fn get_key(&self, id: KeyId) -> Result<Key, AdminError> {
        let found = self.shown(vec![self.guard.store().key(id)?])?.pop();
        found.ok_or(AdminError::KeyNotFound(id))
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
        let mut found = self.shown(found)?;
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
        self.shown(self.guard.store().keys(org, page.after, page.limit)?)
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
            suspended: None,
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
        let was_expired = key.is_expired(now);
        let key = Key {
            shown_prefix: raw_key.shown_prefix().to_owned(),
            expires_at: request.expires_at.unwrap_or(key.expires_at),
            ..key
        };
        let old_text_until = (!was_expired).then(|| now.plus(request.grace));
        let key = shown_at(key, old_text_until, now);
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
        let credential = self.credential(&raw_key);
        let key = self.guard.change_key(id, |store| {
            store.add_credential(id, credential, rotation, &audit)
        })?;
        let key = self.shown_after_change(key);
        Ok(CreatedKey { key, raw_key })
    }

    /// Revokes a key permanently. Once this returns, no check admits it. Revoking it again changes nothing.
    ///
    /// # Errors
    /// [`AdminError::KeyNotFound`]
    pub fn revoke_key(&self, id: KeyId) -> Result<Key, AdminError> {
        let audit = self.audit_context("revoke_key", Some(id.0), json!({}));
        let revoke = |store: &dyn Store| store.revoke_key(id, &audit);
        Ok(self.shown_after_change(self.guard.change_key(id, revoke)?))
    }

    /// Refuses a key until [`Admin::resume_key`]. Requests get the same response as with a revoked key.
    ///
    /// # Errors
    /// [`AdminError::KeyNotFound`]; [`AdminError::KeyRevoked`].
    pub fn suspend_key(&self, id: KeyId) -> Result<Key, AdminError> {
        self.set_suspended(id, true, "suspend_key")
    }

    /// Accepts a suspended key again, unless it has expired meanwhile.
    ///
    /// # Errors
    /// [`AdminError::KeyNotFound`]; [`AdminError::KeyRevoked`].
    pub fn resume_key(&self, id: KeyId) -> Result<Key, AdminError> {
        self.set_suspended(id, false, "resume_key")
    }

    fn set_suspended(
        &self,
        id: KeyId,
        suspended: bool,
        action: &'static str,
    ) -> Result<Key, AdminError> {
        let change = KeyChange {
            suspended: Some(suspended),
            ..KeyChange::default()
        };
        self.change_key(id, change, action, json!({}))
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
        let update = |store: &dyn Store| store.update_key(id, change, &audit);
        Ok(self.shown_after_change(self.guard.change_key(id, update)?))
    }

    /// Refuses a time of expiry in the past: the caller may mean to revoke the key.
    fn check_expiry(&self, expires_at: Option<Timestamp>) -> Result<(), InvalidInput> {
        check_expiry(expires_at, self.guard.now())
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

impl CreateKey {
    /// Validates the request, and the name of an organization that will be created for it.
    #[cfg(feature = "cli")]
    pub(crate) fn validate_with_org(&self, now: Timestamp) -> Result<(), InvalidInput> {
        name("org_name", &self.org_name)?;
        let per_minute = self.rate_limit_per_minute.unwrap_or(1);
        if let Some(prefix) = &self.prefix {
            prefix.get()?;
        }
        validated(self, per_minute, now).map(drop)
    }
}

/// Validates a request for a key. Returns the key as a function of its organization.
fn validated(
    request: &CreateKey,
    per_minute: u32,
    now: Timestamp,
) -> Result<impl FnOnce(OrgId) -> NewKey + use<>, InvalidInput> {
    check_expiry(request.expires_at, now)?;
    let label = name("label", &request.label)?;
    let scopes = scopes(&request.scopes)?;
    let rate_limit_per_minute = input::limit("rate_limit_per_minute", per_minute)?;
    let limits = limits(&request.limits)?;
    let allowed_ips = allowed_ips(&request.allowed_ips)?;
    let expires_at = request.expires_at;
    Ok(move |org_id| NewKey {
        label,
        scopes,
        rate_limit_per_minute,
        limits,
        allowed_ips,
        created_at: now,
        expires_at,
        org_id,
    })
}

/// Refuses a time of expiry in the past: the caller may mean to revoke the key.
fn check_expiry(expires_at: Option<Timestamp>, now: Timestamp) -> Result<(), InvalidInput> {
    match expires_at.is_some_and(|at| at <= now) {
        false => Ok(()),
        true => Err(InvalidInput::new(
            "expires_at",
            "is in the past; give a later time, or revoke the key to refuse it from now on",
        )),
    }
}

fn generate(prefix: &KeyPrefix) -> Result<PlainKey, AdminError> {
    PlainKey::generate(prefix).map_err(|error| AdminError::Unavailable(error.into()))
}

fn scopes(given: &[Given<Scope>]) -> Result<Vec<Scope>, InvalidInput> {
    let mut scopes = Given::all(given)?;
    scopes.sort();
    scopes.dedup();
    if scopes.iter().any(|scope| contains_key(scope.as_str())) {
        let problem = "contain the text of a key; give other names";
        return Err(InvalidInput::new("scopes", problem));
    }
    let length = scopes.iter().map(|scope| scope.as_str().len() + 1);
    if length.sum::<usize>() > SCOPES_BYTES + 1 {
        let problem = format!("have more than {SCOPES_BYTES} characters together; give fewer");
        return Err(InvalidInput::new("scopes", problem));
    }
    Ok(scopes)
}

/// Validates a name or label. It appears in listings and in the audit log, which must not contain keys.
pub(super) fn name(field: &'static str, given: &str) -> Result<String, InvalidInput> {
    match contains_key(given) {
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
