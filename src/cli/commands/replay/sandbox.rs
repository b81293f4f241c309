//! A private guard for a replay.

use std::collections::BTreeMap;
use std::time::Duration;

use tempfile::TempDir;

use super::access_log::LoggedRequest;
use crate::admin::command::KeyReply;
use crate::admin::{CreateKey, UpdateOrg};
use crate::cli::connection::GuardConnection;
use crate::cli::private_dir::private_dir;
use crate::cli::{error::CliError, pages, settings::Cli};
use crate::guard::{Config, Denial, Grant, Request};
use crate::keyguard::KeyGuard;
use crate::model::key_text::shown_part;
use crate::model::key_words::without_keys;
use crate::model::{Key, KeyId, KeyStatus, OrgStatus};
use crate::policy::Policy;
use crate::time::{ManualClock, Timestamp};

/// A guard in a temporary directory with copies of the current keys, whose clock is set from the log.
pub(super) struct Sandbox {
    guard: KeyGuard,
    clock: ManualClock,
    now: Timestamp,
    /// By id and by prefix. `None` for a prefix that several keys share.
    keys: BTreeMap<String, Option<KnownKey>>,
    /// Dropped after the guard.
    _directory: TempDir,
}

/// A key and its copy.
#[derive(Clone, Copy)]
struct KnownKey {
    id: KeyId,
    copy: KeyId,
}

/// The time between the creation of the keys and the first request of the log.
const LEAD: Duration = Duration::from_secs(1);

impl Sandbox {
    /// Creates a sandbox for a log that begins at `begin`.
    pub(super) fn new(cli: &Cli, policy: Policy, begin: Timestamp) -> Result<Self, CliError> {
        let directory = private_dir("keyguard-replay-")?;
        let now = begin.minus(LEAD);
        let clock = ManualClock::starting_at(now);
        // The copies have new texts, so that the secret protects nothing.
        let config = Config::new("replay")
            .policy(policy)
            .clock(clock.clone())
            .record_usage(false)
            .socket(false);
        let guard = KeyGuard::open(directory.path().join("replay.redb"), config)?;
        let mut sandbox = Self {
            guard,
            clock,
            now,
            keys: BTreeMap::new(),
            _directory: directory,
        };
        if cli.has_data() {
            sandbox.copy_all(&mut cli.connect()?)?;
        }
        Ok(sandbox)
    }

    fn copy_all(&mut self, connection: &mut GuardConnection) -> Result<(), CliError> {
        let mut suspended = Vec::new();
        for listed in pages::orgs(connection, None) {
            let org = listed?.org;
            let id = self.guard.admin().create_org(&org.name)?.id;
            let change = UpdateOrg::new(id).limits(org.limits);
            self.guard.admin().update_org(change)?;
            if org.status == OrgStatus::Suspended {
                suspended.push(id);
            }
        }
        for page in pages::keys(connection, None, None) {
            self.copy_keys(&page?)?;
        }
        for id in suspended {
            self.guard.admin().suspend_org(id)?;
        }
        Ok(())
    }

    fn copy_keys(&mut self, page: &[KeyReply]) -> Result<(), CliError> {
        let requests: Vec<CreateKey> = page
            .iter()
            .map(|KeyReply { key, org_name, .. }| {
                CreateKey::new(org_name, &key.label)
                    .scopes(&key.scopes)
                    .rate_limit_per_minute(key.rate_limit_per_minute.get())
                    .limits(&key.limits)
                    .allowed_ips(&key.allowed_ips)
                    .expires_at(self.expiry(key))
            })
            .collect();
        let copies = self.guard.admin().create_keys(&requests)?;
        for (KeyReply { key, .. }, copy) in page.iter().zip(copies) {
            let (id, copy) = (key.id, copy.key.id);
            match key.status {
                KeyStatus::Revoked => drop(self.guard.admin().revoke_key(copy)?),
                KeyStatus::Suspended => drop(self.guard.admin().suspend_key(copy)?),
                KeyStatus::Active | KeyStatus::Expired => {}
            }
            let known = KnownKey { id, copy };
            // An id takes precedence over an equal prefix.
            self.keys.insert(id.to_string(), Some(known));
            self.keys
                .entry(key.shown_prefix.clone())
                .and_modify(|other| {
                    *other = other.filter(|other| other.id.to_string() == key.shown_prefix)
                })
                .or_insert(Some(known));
        }
        Ok(())
    }

    /// Returns the expiry of a copy. A key that expired before the log begins expires just before it:
    /// a key cannot be created expired.
    fn expiry(&self, key: &Key) -> Option<Timestamp> {
        let earliest = self.now.plus(LEAD / 2);
        key.expires_at.map(|expires_at| expires_at.max(earliest))
    }

    pub(super) fn decide(&mut self, logged: &LoggedRequest<'_>) -> Result<Grant, Denial> {
        // Lines are written as requests end, so some are slightly out of order.
        self.clock.advance(logged.time.since(self.now));
        self.now = self.now.max(logged.time);
        let no_headers: [(&str, &str); 0] = [];
        let request = Request::new(&no_headers, logged.ip, logged.target).method(logged.method);
        match self.find(logged) {
            Some(known) => self.guard.decide_as(known.copy, request),
            None => self.guard.decide(request),
        }
    }

    /// Returns a name for the key of a request: its id if it is known.
    pub(super) fn key_name(&self, logged: &LoggedRequest<'_>) -> Option<String> {
        let user = logged.user?;
        Some(match self.find(logged) {
            Some(known) => known.id.to_string(),
            None => without_keys(listed_prefix(user)),
        })
    }

    fn find(&self, logged: &LoggedRequest<'_>) -> Option<KnownKey> {
        *self.keys.get(listed_prefix(logged.user?))?
    }
}

/// Returns the listed prefix if `user` is the whole text of a key, else `user` unchanged.
fn listed_prefix(user: &str) -> &str {
    shown_part(user).unwrap_or(user)
}
