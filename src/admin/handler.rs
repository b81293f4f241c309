//! The methods of [`Admin`] that manage organizations and keys.
//!
//! Each change is durable first and in force second; both before the method returns.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    Admin, AdminError, CreateKey, CreatedKey, ListKeys, ListUsage, RotateKey, Stats, TopKey,
    UpdateKey, UsageList,
};
use crate::input::text;
use crate::input::{self, InvalidInput};
use crate::limit;
use crate::model::Scope;
use crate::model::{AuditEntry, Key, KeyId, Org, OrgId, OrgStatus, Reason};
use crate::model::{KeyPrefix, PlainKey, key_text};
use crate::net::CidrSet;
use crate::store::{KeyChange, NewCredential, NewKey, OrgChange, Rotation, StoreError};
use crate::time::Timestamp;

impl Admin {
    /// Creates an organization with a unique name of 1 to 255 visible characters and spaces. Names that
    /// look alike, by their skeletons of Unicode Technical Standard 39, are one.
    ///
    /// # Errors
    /// [`AdminError::Invalid`] for the name, [`AdminError::Conflict`] if it or one like it is taken.
    pub fn create_org(&self, name: &str) -> Result<Org, AdminError> {
        let name = self::name("org_name", name)?;
        let audit = self.audit_context("create_org", None, json!({ "org_name": name }));
        Ok(self.guard.store().create_org(&name, &audit)?)
    }

    /// An organization by its id.
    ///
    /// # Errors
    /// [`AdminError::NotFound`]
    pub fn org(&self, id: OrgId) -> Result<Org, AdminError> {
        Ok(self.guard.store().org(id)?)
    }

    /// An organization by its name.
    ///
    /// # Errors
    /// [`AdminError::NotFound`]
    pub fn org_named(&self, name: &str) -> Result<Org, AdminError> {
        let name = text::normalized(name);
        Ok(self.guard.store().org_named(&name)?)
    }

    /// At most `limit` organizations, by id, with ids above `after`.
    ///
    /// # Errors
    /// [`AdminError::Unavailable`]
    pub fn list_orgs(&self, after: Option<OrgId>, limit: usize) -> Result<Vec<Org>, AdminError> {
        Ok(self.guard.store().orgs(after, limit)?)
    }

    /// Refuses all keys of an organization until it is resumed.
    ///
    /// # Errors
    /// [`AdminError::NotFound`]
    pub fn suspend_org(&self, id: OrgId) -> Result<Org, AdminError> {
        self.set_org_status(id, OrgStatus::Suspended, "suspend_org")
    }

    /// Accepts the keys of a suspended organization again.
    ///
    /// # Errors
    /// [`AdminError::NotFound`]
    pub fn resume_org(&self, id: OrgId) -> Result<Org, AdminError> {
        self.set_org_status(id, OrgStatus::Active, "resume_org")
    }

    fn set_org_status(
        &self,
        id: OrgId,
        status: OrgStatus,
        action: &'static str,
    ) -> Result<Org, AdminError> {
        let change = OrgChange {
            status: Some(status),
            ..OrgChange::default()
        };
        self.change_org(id, change, action, json!({}))
    }

    pub(super) fn change_org(
        &self,
        id: OrgId,
        change: OrgChange,
        action: &'static str,
        details: Value,
    ) -> Result<Org, AdminError> {
        let audit = self.audit_context(action, Some(id.0), details);
        let org = self.guard.store().update_org(id, change, &audit)?;
        self.guard.org_changed(id);
        Ok(org)
    }

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
        Ok(self.seen(key))
    }

    /// A stored key as it is now.
    fn seen(&self, key: Key) -> Key {
        key.seen_at(self.guard.now())
    }

    /// A key that has expired from the start, or whose owner means to revoke it.
    fn check_expiry(&self, expires_at: Option<Timestamp>) -> Result<(), InvalidInput> {
        match expires_at.is_some_and(|at| at <= self.guard.now()) {
            false => Ok(()),
            true => Err(InvalidInput::new(
                "expires_at",
                "is in the past; give a later time, or revoke the key to refuse it from now on",
            )),
        }
    }

    /// Creates a key and returns its text, for the only time.
    ///
    /// # Errors
    /// [`AdminError::Invalid`] for a field, [`AdminError::NotFound`] for the organization.
    pub fn create_key(&self, request: CreateKey) -> Result<CreatedKey, AdminError> {
        let (key, raw_key) = self.new_key(&request)?;
        let audit = self.audit_context("create_key", None, without_nulls(json!(request)));
        let credential = self.credential(&raw_key);
        let key = self.guard.store().create_key(key, credential, &audit)?;
        let key = self.seen(key);
        Ok(CreatedKey { key, raw_key })
    }

    /// Creates many keys in one change, all or none, in the order given.
    ///
    /// # Errors
    /// As [`Admin::create_key`].
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
            .unwrap_or(config.default_rate_limit);
        let prefix: KeyPrefix = match &request.prefix {
            Some(prefix) => prefix.parse()?,
            None => config.key_prefix.clone(),
        };
        self.check_expiry(request.expires_at)?;
        let key = NewKey {
            label: name("label", &request.label)?,
            scopes: scopes(&request.scopes)?,
            rate_limit_per_minute: input::limit("rate_limit_per_minute", per_minute)?,
            limits: limit::list(&request.limits)?,
            allowed_ips: allowed_ips(&request.allowed_ips)?,
            created_at: self.guard.now(),
            expires_at: request.expires_at,
            org_id: self.org_named(&request.org_name)?.id,
        };
        Ok((key, generate(&prefix)?))
    }

    /// A key by its id.
    ///
    /// # Errors
    /// [`AdminError::NotFound`]
    pub fn key(&self, id: KeyId) -> Result<Key, AdminError> {
        Ok(self.seen(self.guard.store().key(id)?))
    }

    /// The key with this id, or with this prefix as listings show it.
    ///
    /// A prefix is given whole and must be the start of no other key: a shorter one may fit one key
    /// today and another one tomorrow.
    ///
    /// # Errors
    /// [`AdminError::Invalid`] for an empty text, [`AdminError::NotFound`], and
    /// [`AdminError::Ambiguous`], with the keys that start with the text, if it is not the whole prefix
    /// of exactly one of them.
    pub fn find_key(&self, text: &str) -> Result<Key, AdminError> {
        if text.trim().is_empty() {
            let problem = "is empty; give the id of a key, or its whole prefix as listings show it";
            return Err(InvalidInput::new("key", problem).into());
        }
        if let Ok(id) = text.parse() {
            return self.key(id);
        }
        let found = self.guard.store().keys_with_prefix(text, MOST_CANDIDATES)?;
        let mut found: Vec<_> = found.into_iter().map(|key| self.seen(key)).collect();
        found.sort_by_key(|key| key.id);
        match found.as_slice() {
            [] => Err(AdminError::NotFound(
                "no key has this id or prefix; keys go by the id or the whole prefix that listings \
                 show, never by their text"
                    .into(),
            )),
            [only] if only.prefix == text => Ok(found.remove(0)),
            _ => Err(AdminError::Ambiguous {
                prefix: text.to_owned(),
                candidates: found,
            }),
        }
    }

    /// A page of keys, by id.
    ///
    /// # Errors
    /// [`AdminError::NotFound`] for the organization.
    pub fn list_keys(&self, request: ListKeys) -> Result<Vec<Key>, AdminError> {
        let store = self.guard.store();
        let keys = store.keys(request.org_id, request.after, request.limit)?;
        Ok(keys.into_iter().map(|key| self.seen(key)).collect())
    }

    /// Changes a key. A tightened limit is in force when this returns.
    ///
    /// # Errors
    /// [`AdminError::Invalid`] for a field, [`AdminError::NotFound`] for the key,
    /// [`AdminError::Conflict`] if it is revoked, or has expired and gets a new time of expiry without
    /// [`UpdateKey::reactivate`].
    pub fn update_key(&self, request: UpdateKey) -> Result<Key, AdminError> {
        let details = without_nulls(json!(request));
        let change = KeyChange {
            label: request
                .label
                .map(|label| name("label", &label))
                .transpose()?,
            scopes: request.scopes.map(|list| scopes(&list)).transpose()?,
            rate_limit_per_minute: request
                .rate_limit_per_minute
                .map(|limit| input::limit("rate_limit_per_minute", limit))
                .transpose()?,
            limits: request.limits.map(limit::list).transpose()?,
            allowed_ips: request
                .allowed_ips
                .map(|list| allowed_ips(&list))
                .transpose()?,
            limit_override: None,
            expires_at: request.expires_at,
            unless_expired_at: (request.expires_at.is_some() && !request.reactivate)
                .then(|| self.guard.now()),
        };
        self.check_expiry(request.expires_at.flatten())?;
        self.change_key(request.id, change, "update_key", details)
    }

    /// Gives a key a new text. Limits, quota and usage carry on; the old text is accepted for
    /// `grace` more, zero for no longer, or until the key itself expires.
    ///
    /// # Errors
    /// As [`Admin::rotate`].
    pub fn rotate_key(&self, id: KeyId, grace: Duration) -> Result<CreatedKey, AdminError> {
        self.rotate(RotateKey {
            grace,
            ..RotateKey::new(id)
        })
    }

    /// Gives a key a new text, and a new time of expiry if the request has one, which a key that has
    /// expired needs. Limits, quota and usage carry on.
    ///
    /// # Errors
    /// [`AdminError::NotFound`]; [`AdminError::Conflict`] if the key is revoked, or has expired and
    /// gets no new time of expiry; [`AdminError::Invalid`] for a time in the past.
    pub fn rotate(&self, request: RotateKey) -> Result<CreatedKey, AdminError> {
        let raw_key = self.prepare_rotation(request)?.raw_key;
        self.rotate_to(request, raw_key)
    }

    /// A new text for a key, which [`Admin::rotate_to`] puts in force, and the key as it will be.
    pub(super) fn prepare_rotation(&self, request: RotateKey) -> Result<CreatedKey, AdminError> {
        let key = self.guard.store().key(request.id)?;
        self.check_expiry(request.expires_at.flatten())?;
        if !key.active {
            return Err(StoreError::Revoked(key.id).into());
        }
        let now = self.guard.now();
        if request.expires_at.is_none() && key.is_expired(now) {
            return Err(StoreError::Expired(key.id).into());
        }
        let shown = &key.prefix;
        let prefix = shown
            .get(..shown.len().saturating_sub(4))
            .unwrap_or_default()
            .parse();
        // A key of the Python package may have started with anything.
        let prefix = prefix.unwrap_or_else(|_| self.guard.config().key_prefix.clone());
        let raw_key = generate(&prefix)?;
        let key = Key {
            prefix: raw_key.shown_prefix().to_owned(),
            expires_at: request.expires_at.unwrap_or(key.expires_at),
            ..key
        };
        let key = key.seen_at(now);
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
        let key = self.seen(key);
        Ok(CreatedKey { key, raw_key })
    }

    /// Refuses a key from now on, for good: once this has returned no check admits it.
    ///
    /// # Errors
    /// [`AdminError::NotFound`]; revoking a revoked key again changes nothing.
    pub fn revoke_key(&self, id: KeyId) -> Result<Key, AdminError> {
        let audit = self.audit_context("revoke_key", Some(id.0), json!({}));
        let key = self.guard.store().revoke_key(id, &audit)?;
        self.guard.key_changed(id);
        Ok(self.seen(key))
    }

    /// Changes with ids below `before`, at most `limit`, the latest first. Every change to
    /// organizations, keys, limits and manual locks is entered together with the change itself, and
    /// none is ever taken out.
    ///
    /// # Errors
    /// [`AdminError::Unavailable`]
    pub fn audit(&self, before: Option<u64>, limit: usize) -> Result<Vec<AuditEntry>, AdminError> {
        Ok(self.guard.store().audit_log(before, limit)?)
    }

    /// Recorded requests by known keys, in the order they were recorded.
    ///
    /// # Errors
    /// [`AdminError::Unavailable`]
    pub fn usage(&self, request: ListUsage) -> Result<UsageList, AdminError> {
        self.store_usage()?;
        Ok(self
            .guard
            .store()
            .usage(request.key_id, request.from, request.limit)?)
    }

    /// Counts of all there is, up to now. Reads a bounded number of records.
    ///
    /// # Errors
    /// [`AdminError::Unavailable`]
    pub fn stats(&self) -> Result<Stats, AdminError> {
        self.store_usage()?;
        let totals = self.guard.store().totals(self.guard.now())?;
        let refused = totals
            .refused
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0);
        let top_keys = totals.top_keys.into_iter();
        Ok(Stats {
            organizations: totals.orgs,
            total_keys: totals.keys,
            active_keys: totals.active_keys,
            requests: totals.all_time.requests,
            errors: totals.all_time.errors,
            requests_1h: totals.last_hour.requests,
            errors_1h: totals.last_hour.errors,
            refused: refused
                .filter_map(|(code, count)| Some((Reason::from_code(code as u8)?, *count)))
                .collect(),
            dropped: totals.dropped,
            shadowed: totals.shadowed.into_iter().collect(),
            locks: self.locks().len() as u64,
            unlocked: self.guard.lockouts().unlocked(),
            sink_failures: self.guard.recorder().sink_failures(),
            warnings: self.guard.warnings(),
            top_keys: top_keys
                .map(|(key, org, requests)| TopKey {
                    key: self.seen(key),
                    org_name: org.name,
                    requests,
                })
                .collect(),
        })
    }

    /// Stores usage before it is read. While changes are refused it is read as far as it is stored.
    fn store_usage(&self) -> Result<(), AdminError> {
        match self.guard.recorder().flush_store() {
            Err(_) if self.guard.store().fault().is_some() => Ok(()),
            stored => Ok(stored?),
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

/// The longest that the scopes of a key are as text, with a space between them. The fields that
/// `/auth` answers with have less than 8 KiB then: of those that nginx takes, the name of the
/// organization has up to 3,060.
const SCOPES_BYTES: usize = 4_096;

/// The most addresses and networks that a key is accepted from.
const ALLOWED_IPS: usize = 256;

/// How many keys an ambiguous prefix is answered with.
const MOST_CANDIDATES: usize = 20;

fn generate(prefix: &KeyPrefix) -> Result<PlainKey, AdminError> {
    PlainKey::generate(prefix).map_err(|error| AdminError::Unavailable(error.into()))
}

fn scopes(texts: &[String]) -> Result<Vec<Scope>, InvalidInput> {
    let mut scopes = texts
        .iter()
        .map(|text| text.parse())
        .collect::<Result<Vec<_>, _>>()?;
    scopes.sort();
    scopes.dedup();
    let length = scopes.iter().map(|scope: &Scope| scope.as_str().len() + 1);
    if length.sum::<usize>() > SCOPES_BYTES + 1 {
        let problem = format!("have more than {SCOPES_BYTES} characters together; give fewer");
        return Err(InvalidInput::new("scopes", problem));
    }
    Ok(scopes)
}

/// A name or label. It is listed and entered in the audit log, where no key belongs.
fn name(field: &'static str, given: &str) -> Result<String, InvalidInput> {
    match key_text::is_within(given) {
        true => Err(InvalidInput::new(
            field,
            "holds the text of a key; give another",
        )),
        false => input::name(field, given),
    }
}

fn allowed_ips(texts: &[String]) -> Result<CidrSet, InvalidInput> {
    if texts.len() > ALLOWED_IPS {
        let problem = format!("expected at most {ALLOWED_IPS}; use networks instead of addresses");
        return Err(InvalidInput::new("allowed_ips", problem));
    }
    CidrSet::parse("allowed_ips", texts)
}

/// The fields that are given.
fn without_nulls(mut value: Value) -> Value {
    if let Value::Object(fields) = &mut value {
        fields.retain(|_, value| !value.is_null());
    }
    value
}
