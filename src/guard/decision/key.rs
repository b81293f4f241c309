//! Stage: the key, found by its text.

use std::num::NonZeroU32;
use std::sync::Arc;

use super::super::Guard;
use super::super::cached_key::{CachedKey, unavailable};
use super::super::grant::holds;
use super::super::key_cache::fingerprint::Fingerprint;
use super::super::request::Headers;
use super::KeySource;
use super::context::{RequestContext, ShadowLog};
use super::credential::{self, PresentedKey};
use super::proxy;
use crate::model::{HashedKey, KeyId, Reason, Scope, key_text};
use crate::policy::RouteRules;
use crate::store::Rehash;
#[cfg(feature = "serve")]
use crate::store::{Resolved, StoreError};
use crate::sys::Deadline;
#[cfg(feature = "serve")]
use crate::sys::block_on;

/// The result of [`find`].
pub(super) enum Lookup<'h> {
    Found(FoundKey),
    /// The key is to be loaded, if there is one.
    ToLoad(PresentedKey<'h>, Fingerprint),
}

/// A key, and why it is not in force.
pub(super) struct FoundKey {
    pub(super) key: Arc<CachedKey>,
    pub(super) refusal: Option<Reason>,
}

impl FoundKey {
    pub(super) fn now(guard: &Guard, key: Arc<CachedKey>) -> Self {
        let refusal = key.refusal_at(guard.now());
        Self { key, refusal }
    }
}

/// Finds the key of the request, unless it is to be loaded.
#[inline(always)]
pub(super) fn find<'h, 'c: 'h, H: Headers + ?Sized>(
    guard: &'h Guard,
    context: &mut RequestContext<'c, H>,
    source: KeySource,
) -> Result<Lookup<'h>, Reason> {
    context.is_key_reached = true;
    match source {
        KeySource::Presented => {
            let credential = credential::require(guard, context)?;
            match find_cached(guard, credential.text) {
                Ok(key) => Ok(Lookup::Found(key)),
                Err(fingerprint) => Ok(Lookup::ToLoad(credential, fingerprint)),
            }
        }
        KeySource::Key(id) => {
            let key = find_by_id(guard, id)?;
            Ok(Lookup::Found(FoundKey::now(guard, key)))
        }
    }
}

/// Returns the key of a text if it is in memory, else the fingerprint of the text.
#[inline(always)]
pub(super) fn find_cached(guard: &Guard, text: &[u8]) -> Result<FoundKey, Fingerprint> {
    let fingerprint = guard.key_cache.fingerprint(text);
    let mut refusal = None;
    let is_current = |key: &CachedKey| {
        let revisions = &guard.revisions;
        if !revisions.is_current(&key.freshness, || (key.key_id, key.org_id)) {
            return false;
        }
        if key.is_permanent {
            return true;
        }
        // One path for all keys that are refused, so that the time of a refusal does not tell why.
        let now = guard.now();
        refusal = key.refusal_at(now);
        now < key.reload_at
    };
    match guard.key_cache.get(&fingerprint, is_current) {
        Some(key) => Ok(FoundKey { key, refusal }),
        None => Err(fingerprint),
    }
}

/// Loads a key from the store. Malformed texts never cause a read, unless they may be keys of the
/// Python package.
#[cold]
pub(super) async fn load<H: Headers + ?Sized>(
    guard: &Guard,
    context: &mut RequestContext<'_, H>,
    credential: PresentedKey<'_>,
    fingerprint: Fingerprint,
) -> Result<FoundKey, Reason> {
    let PresentedKey { text, is_optional } = credential;
    let is_well_formed = key_text::is_well_formed(text);
    let legacy = guard.legacy.as_ref().filter(|_| !is_well_formed);
    if !is_well_formed && legacy.is_none() {
        return Err(Reason::MalformedKey);
    }
    let hash = guard.hasher.hash(text);
    if let Some(key) = load_stored(guard, fingerprint, &hash, &context.deadline).await? {
        if let Some(until) = key.record.old_text_until.filter(|_| !context.is_preview) {
            guard.recorder().note_old_text(key.key_id, until);
        }
        return Ok(FoundKey::now(guard, key));
    }
    let Some(hasher) = legacy else {
        return Err(Reason::UnknownKey);
    };
    let old = hasher.hash(text);
    match load_stored(guard, fingerprint, &old, &context.deadline).await? {
        Some(key) => {
            if !context.is_preview {
                guard.recorder().rehashing.add(Rehash { old, new: hash });
            }
            Ok(FoundKey::now(guard, key))
        }
        None if is_optional => Err(credential::missing(guard, context)),
        None => Err(Reason::MalformedKey),
    }
}

/// Returns the key of a text as it is stored, whatever its state. Like in [`load`], malformed texts cause a read
/// only if they may be keys of the Python package.
#[cfg(feature = "serve")]
pub(crate) fn stored_key(guard: &Guard, text: &[u8]) -> Result<Option<Resolved>, StoreError> {
    let is_well_formed = key_text::is_well_formed(text);
    let legacy = guard.legacy.as_ref().filter(|_| !is_well_formed);
    if !is_well_formed && legacy.is_none() {
        return Ok(None);
    }
    let stored = |hash| block_on(guard.store.resolve(&hash, &Deadline::default()).get());
    match (stored(guard.hasher.hash(text))?, legacy) {
        (None, Some(hasher)) => stored(hasher.hash(text)),
        (found, _) => Ok(found),
    }
}

/// Loads the key that is stored under `hash`, and caches it under the fingerprint of its text.
pub(super) async fn load_stored(
    guard: &Guard,
    fingerprint: Fingerprint,
    hash: &HashedKey,
    deadline: &Deadline,
) -> Result<Option<Arc<CachedKey>>, Reason> {
    let read = async |read_at| {
        let resolved = guard.store.resolve(hash, deadline).get().await;
        let resolved = resolved.map_err(unavailable)?;
        let key = resolved.map(|resolved| guard.cached_key(fingerprint, read_at, resolved));
        key.transpose()
    };
    guard.key_cache.load(&guard.revisions, read).await
}

/// Loads a key by its id, bypassing the cache.
#[cold]
fn find_by_id(guard: &Guard, id: KeyId) -> Result<Arc<CachedKey>, Reason> {
    let resolved = guard.store.resolve_id(id).map_err(unavailable)?;
    let resolved = resolved.ok_or(Reason::UnknownKey)?;
    let key = guard.cached_key(Fingerprint::default(), guard.revisions.all(), resolved)?;
    Ok(Arc::new(key))
}

/// Returns the key if it may make the request, limits apart; else the context has it.
#[inline(always)]
pub(super) fn authorize<H: Headers + ?Sized>(
    guard: &Guard,
    context: &mut RequestContext<'_, H>,
    FoundKey { key, refusal }: FoundKey,
) -> Result<Arc<CachedKey>, Reason> {
    if let Some(reason) = refusal.or_else(|| why_refused(context, &key)) {
        context.key = Some(key);
        return Err(reason);
    }
    proxy::observe_accepted(guard, context, &key);
    Ok(key)
}

/// Why a key in force may not make the request, limits apart.
#[inline(always)]
fn why_refused<H: ?Sized>(context: &mut RequestContext<'_, H>, key: &CachedKey) -> Option<Reason> {
    if key.is_ip_restricted && !key.record.key.allowed_ips.contains(context.ip) {
        return Some(Reason::IpNotAllowed);
    }
    if !holds_scopes(context, key) {
        return Some(Reason::MissingScope);
    }
    // No limit is below 1.
    let is_above = context.cost > NonZeroU32::MIN && is_cost_above_a_limit(context, key);
    is_above.then_some(Reason::CostAboveLimit)
}

/// Whether the key holds the scopes that the request and the routes require.
#[inline(always)]
fn holds_scopes<H: ?Sized>(context: &mut RequestContext<'_, H>, key: &CachedKey) -> bool {
    let holds_all_of = |route: &RouteRules| {
        let by_number = route.scope_set.and_then(|set| key.scope_set.includes(set));
        by_number.unwrap_or_else(|| holds_by_name(key, route.scopes.iter().map(Scope::as_str)))
    };
    let required = context.request.scopes;
    if !required.is_empty() && !holds_by_name(key, required.iter().copied()) {
        return false;
    }
    for route in &context.route.routes {
        if holds_all_of(route) {
            continue;
        }
        if !route.shadow {
            return false;
        }
        ShadowLog::deny(&mut context.shadow_log, route.name.to_string());
    }
    true
}

/// Not inlined, so that a decision without such scopes does not read the record of the key.
#[inline(never)]
fn holds_by_name<'s>(key: &CachedKey, mut scopes: impl Iterator<Item = &'s str>) -> bool {
    scopes.all(|scope| holds(&key.record.key, scope))
}

fn is_cost_above_a_limit<H: ?Sized>(context: &RequestContext<'_, H>, key: &CachedKey) -> bool {
    let routes = context.route.routes.iter();
    let rules = key
        .rules
        .iter()
        .chain(routes.flat_map(|route| &route.key_rules));
    let mut limits = rules.map(|rule| rule.limit);
    limits.any(|limit| {
        let cost = u64::from(limit.period.takes(context.cost).get());
        !limit.shadow && cost > limit.amount.get()
    })
}
