//! Keys that were found in public.

use serde_json::json;

use super::{Admin, AdminError};
use crate::guard::{WarningKind, stored_key};
use crate::input::text;
use crate::model::key_words::{quoted_without_keys, without_text};
use crate::model::{EventType, KeyId, KeyStatus, Mark, WebhookEvent};
use crate::store::webhooks::key_data;
use crate::store::{AuditContext, IdempotencyKey, Resolved, Store, StoreError};
use crate::time::Timestamp;

/// The largest numbers of characters of a URL and of a source in the audit log.
const URL_CHARS: usize = 1_024;
const SOURCE_CHARS: usize = 64;

/// The text of a key that was found in public, as a reporter sent it.
#[derive(Clone, Copy)]
pub(crate) struct Leak<'r> {
    pub(crate) token: &'r str,
    /// Where it was found; may be empty.
    pub(crate) url: &'r str,
    /// The kind of the place, such as `content` or `commit`; may be empty.
    pub(crate) source: &'r str,
}

/// What is done about a leaked key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnLeak {
    Revoke,
    Warn,
}

impl Admin {
    /// Revokes the key with a leaked text, or only warns of it. Returns whether there is such a key. A key that
    /// does not accept the text any more stays as it is, and so does one that is reported again.
    pub(crate) fn report_leak(&self, leak: Leak<'_>, on_leak: OnLeak) -> Result<bool, AdminError> {
        let Some(found) = stored_key(&self.guard, leak.token.as_bytes())? else {
            return Ok(false);
        };
        let now = self.guard.now();
        // An expired key may be reactivated, but a replaced text is never accepted again.
        let is_replaced = found.credential_expires_at.is_some_and(|at| at <= now);
        if !found.key.is_revoked() && !is_replaced {
            self.audit_leak(&found, leak, on_leak)?;
        }
        Ok(true)
    }

    /// Enters the leak of a key in the audit log, revokes the key in the same transaction if it is to be
    /// revoked, and warns. Does nothing if this find was entered within a day.
    fn audit_leak(
        &self,
        found: &Resolved,
        leak: Leak<'_>,
        on_leak: OnLeak,
    ) -> Result<(), AdminError> {
        let (key, id) = (&found.key, found.key.id);
        let url = shown(leak.url, leak.token, URL_CHARS);
        let source = shown(leak.source, leak.token, SOURCE_CHARS);
        let audit = |action| {
            let details = json!({ "source": source, "url": url });
            let audit = self.audit_context(action, Some(id.0), details);
            let event = leak_event(found, &source, &url, on_leak, audit.at);
            audit.announcing(event)
        };
        let outcome = match on_leak {
            OnLeak::Revoke => {
                let audit = audit("revoke_key");
                let revoke = |store: &dyn Store| store.revoke_key(id, &audit);
                self.guard.change_key(id, revoke)?;
                "is revoked: its owner needs another one".to_owned()
            }
            OnLeak::Warn => {
                let audit = AuditContext {
                    idempotency_key: Some(once_a_day(id, &url)),
                    ..audit("report_leak")
                };
                match self.guard.store().append_audit(&audit) {
                    Err(StoreError::AlreadyDone(_)) => return Ok(()),
                    appended => appended?,
                }
                let consequence = match key.status {
                    KeyStatus::Suspended => "will be accepted when it is resumed",
                    _ => "is still accepted",
                };
                format!("{consequence}: `keyguard rotate-key {id} --grace 0` replaces its text")
            }
        };
        let place = match url.as_str() {
            "" => "in public".to_owned(),
            url => format!("at {url}"),
        };
        let warning = format!("key {id} `{}` was found {place}, and {outcome}", key.label);
        let warnings = self.guard.warnings();
        warnings.add_of(WarningKind::LeakedKey, &warning);
        Ok(())
    }
}

/// The event of a find.
fn leak_event(
    found: &Resolved,
    source: &str,
    url: &str,
    on_leak: OnLeak,
    now: Timestamp,
) -> WebhookEvent {
    let mut data = key_data(&found.key, &found.org);
    data["source"] = json!(source);
    data["url"] = json!(url);
    data["revoked"] = json!(on_leak == OnLeak::Revoke);
    let mark = Mark {
        text: format!("key.leaked {} {url}", found.key.id),
        until: now.plus(IdempotencyKey::KEPT),
    };
    WebhookEvent::new(EventType::KeyLeaked, now, &data, mark)
}

/// Identifies the report of a key at a place, which is entered once a day at most.
fn once_a_day(id: KeyId, url: &str) -> IdempotencyKey {
    let mut hasher = blake3::Hasher::new_derive_key("keyguard 2026-11-27 leak report v1");
    hasher.update(&id.0.to_le_bytes()).update(url.as_bytes());
    let hash = *hasher.finalize().as_bytes();
    IdempotencyKey {
        name: hash,
        request: hash,
    }
}

/// Returns a text of a reporter for the audit log: without keys, in one line, with at most `most` characters.
fn shown(given: &str, token: &str, most: usize) -> String {
    // Ids of commits in a URL look like parts of keys, and stay whole.
    let without_keys = quoted_without_keys(without_text(given, token));
    text::escaped(&without_keys, most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{KeyPrefix, PlainKey};

    const COMMIT: &str = "https://example.com/blob/12345600b9cbe38a219f39a9941c9319b600c002/a.txt";

    fn key() -> String {
        let key = PlainKey::generate(&KeyPrefix::default()).unwrap();
        key.expose().to_owned()
    }

    #[test]
    fn the_place_of_a_find_is_shown_whole() {
        assert_eq!(shown(COMMIT, &key(), URL_CHARS), COMMIT);
    }

    #[test]
    fn keys_in_the_place_of_a_find_are_not_shown() {
        let (token, other) = (key(), key());
        let url = format!("{COMMIT}?q={token}&other={other}");
        let shown = shown(&url, &token, URL_CHARS);
        for hidden in [&token[12..], &other[12..]] {
            assert!(!shown.contains(hidden), "{shown}");
        }
        let encoded = format!("{COMMIT}?q={}", token.replace('_', "%5F"));
        assert!(!super::shown(&encoded, &token, URL_CHARS).contains(&token[12..]));
        // A key of the Python package may have any form.
        for url in ["/a?b=secret!1", "/a?b=secret%211", "/a?b=%73ecret%25211"] {
            assert_eq!(super::shown(url, "secret!1", 99), "/a?b=…");
        }
    }

    #[test]
    fn the_place_of_a_find_is_one_line_of_bounded_length() {
        let url = "https://example.com/\n\u{1b}[31m\u{202e}";
        let escaped = r"https://example.com/\n\u{1b}[31m\u{202e}";
        assert_eq!(shown(url, &key(), URL_CHARS), escaped);
        let long = shown(&"a/".repeat(URL_CHARS), &key(), URL_CHARS);
        assert_eq!(long.chars().count(), URL_CHARS + 1);
    }

    #[test]
    fn reports_differ_by_key_and_place() {
        let one = once_a_day(KeyId(1), "a");
        assert_eq!(one, once_a_day(KeyId(1), "a"));
        assert_ne!(one.name, once_a_day(KeyId(2), "a").name);
        assert_ne!(one.name, once_a_day(KeyId(1), "b").name);
    }
}
