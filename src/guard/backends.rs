//! Selection of the backends: a data file or PostgreSQL, memory or Redis.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::active_locks::ActiveLocks;
use super::config::Config;
use super::key_cache::Revisions;
use crate::input::InvalidInput;
#[cfg(feature = "redis")]
use crate::limiter::RedisLimiter;
use crate::limiter::{Limiter, MemoryLimiter};
use crate::model::Secret;
use crate::store::{ChangeEvent, OpenError, RedbStore, Store, StoreError};
#[cfg(feature = "postgres")]
use crate::store::{PostgresOptions, PostgresStore};
use crate::time::Clock;

/// The storage of organizations and keys.
#[derive(Debug)]
pub(crate) enum Storage<'f> {
    File(&'f Path),
    /// The URL of a database, in the form that its client accepts. It may contain a password.
    #[cfg_attr(not(feature = "postgres"), allow(dead_code))]
    Postgres(Secret),
}

impl<'f> Storage<'f> {
    /// Parses a path, which may be a URL.
    ///
    /// # Errors
    /// [`OpenError::UnknownUrl`] for other URLs, and for texts that may be mistyped URLs.
    pub(crate) fn of(path: &'f Path) -> Result<Self, OpenError> {
        let text = path.to_string_lossy();
        let text = text.trim();
        if let Some((scheme, rest)) = text.split_once("://") {
            return match is_postgres(scheme) {
                true => Ok(Self::Postgres(format!("postgresql://{rest}").into())),
                false => Err(unknown_url(Some(scheme))),
            };
        }
        match looks_like_url(text) {
            true => Err(unknown_url(None)),
            false => Ok(Self::File(path)),
        }
    }

    pub(crate) fn is_server(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }

    /// A name for errors, without the URL, which may contain a password.
    pub(crate) fn shown(&self) -> PathBuf {
        match self {
            Self::File(path) => (*path).into(),
            Self::Postgres(_) => "postgres:".into(),
        }
    }
}

/// Whether a path is the URL of a database.
#[cfg(any(unix, feature = "cli"))]
pub(crate) fn is_server(path: &Path) -> bool {
    Storage::of(path).is_ok_and(|storage| storage.is_server())
}

/// Whether a scheme is `postgres` or `postgresql`, in any case, with or without a driver of SQLAlchemy.
fn is_postgres(scheme: &str) -> bool {
    let name = scheme.split('+').next().unwrap_or_default();
    let mut known = ["postgres", "postgresql"].into_iter();
    is_scheme(scheme) && known.any(|known| name.eq_ignore_ascii_case(known))
}

/// Whether a text is a scheme (RFC 3986 §3.1). One letter is a drive.
fn is_scheme(text: &str) -> bool {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
    text.len() > 1 && text.as_bytes()[0].is_ascii_alphabetic() && text.bytes().all(is_allowed)
}

/// Whether a text without `://` may be a mistyped URL, such as `postgres:/user:password@host` or
/// `user:password@host`, or a connection string of libpq, JDBC or .NET. Paths that begin with `/` or `.`
/// are not URLs.
fn looks_like_url(text: &str) -> bool {
    let first = text.split('/').next().unwrap_or_default();
    let starts_with_scheme = first
        .split_once(':')
        .is_some_and(|(start, _)| is_scheme(start));
    let has_password = text
        .split_once(':')
        .is_some_and(|(_, rest)| rest.contains('@'));
    let is_explicit = text.starts_with(['/', '.']);
    starts_with_scheme || has_password && !is_explicit || is_connection_string(text)
}

/// Whether a text contains a field of a connection string: its name in any case, followed by `=`, with or
/// without blanks.
fn is_connection_string(text: &str) -> bool {
    let mut before = text.split('=').rev().skip(1);
    before.any(|before| {
        let words = before.trim_end().rsplit([' ', '\t', '\n', ';', '?', '&']);
        words.take(1).any(|name| {
            let mut known = FIELDS.iter();
            known.any(|known| name.eq_ignore_ascii_case(known))
        })
    })
}

/// The fields of connection strings that name a server or contain a password.
const FIELDS: [&str; 12] = [
    "host", "hostaddr", "server", "dbname", "database", "user", "username", "id", "uid",
    "password", "pwd", "passfile",
];

/// Shows only the scheme of a URL: the rest may contain a password.
fn unknown_url(scheme: Option<&str>) -> OpenError {
    OpenError::UnknownUrl {
        scheme: scheme.filter(|scheme| is_scheme(scheme)).map(str::to_owned),
    }
}

pub(super) fn store(
    storage: &Storage<'_>,
    config: &Config,
    secret: &Secret,
) -> Result<Arc<dyn Store>, OpenError> {
    match storage {
        Storage::File(file) => {
            let (fingerprint, cache) = (secret.fingerprint(), config.file_cache_bytes);
            Ok(Arc::new(RedbStore::open(
                file,
                fingerprint,
                &config.clock,
                cache,
            )?))
        }
        #[cfg(feature = "postgres")]
        Storage::Postgres(url) => {
            let url = String::from_utf8_lossy(url.expose());
            let options = PostgresOptions {
                deadline: config.backend_deadline,
                connections: config.max_database_connections,
                stale_for: config.max_key_staleness,
                clock: config.clock.clone(),
            };
            let store = PostgresStore::open(&url, secret.fingerprint(), options)?;
            Ok(Arc::new(store))
        }
        #[cfg(not(feature = "postgres"))]
        Storage::Postgres(_) => Err(missing("postgres", "postgres")),
    }
}

/// With `leads_clock`, the clock follows the calendar of the limiter's server.
pub(super) fn limiter(
    config: &Config,
    secret: &Secret,
    leads_clock: bool,
) -> Result<Arc<dyn Limiter>, OpenError> {
    let memory = MemoryLimiter::new(
        config.clock.clone(),
        config.quota_time_zone.clone(),
        config.max_tracked_keys,
        config.max_tracked_ips,
    );
    let Some(url) = &config.redis_url else {
        return Ok(Arc::new(memory));
    };
    let url = String::from_utf8_lossy(url.expose());
    let scheme = redis_scheme(&url).ok_or_else(|| {
        let problem = "starts with none of `redis://`, `rediss://`, `redis+cluster://`, \
            `rediss+cluster://`, `redis+sentinel://`, `rediss+sentinel://`";
        OpenError::Config(InvalidInput::new("redis_url", problem))
    })?;
    redis_limiter(&url, scheme, config, secret, memory, leads_clock)
}

/// Returns the scheme of a URL of Redis: `redis` or `rediss`, alone or with `+cluster` or `+sentinel`.
fn redis_scheme(url: &str) -> Option<&str> {
    let (scheme, _) = url.split_once("://")?;
    let (client, topology) = scheme.split_once('+').unwrap_or((scheme, ""));
    let is_known =
        matches!(client, "redis" | "rediss") && matches!(topology, "" | "cluster" | "sentinel");
    is_known.then_some(scheme)
}

#[cfg(feature = "redis")]
fn redis_limiter(
    url: &str,
    _: &str,
    config: &Config,
    secret: &Secret,
    memory: MemoryLimiter,
    leads_clock: bool,
) -> Result<Arc<dyn Limiter>, OpenError> {
    let (deadline, fallback) = (config.backend_deadline, config.limiter_fallback);
    let limiter = RedisLimiter::open(url, secret, deadline, fallback, memory)?;
    if leads_clock {
        limiter.sync_clock();
    }
    Ok(Arc::new(limiter))
}

#[cfg(not(feature = "redis"))]
fn redis_limiter(
    _: &str,
    scheme: &str,
    _: &Config,
    _: &Secret,
    _: MemoryLimiter,
    _: bool,
) -> Result<Arc<dyn Limiter>, OpenError> {
    Err(missing(scheme, "redis"))
}

#[cfg(not(all(feature = "redis", feature = "postgres")))]
fn missing(scheme: &str, feature: &'static str) -> OpenError {
    OpenError::MissingFeature {
        scheme: scheme.to_owned(),
        feature,
    }
}

/// Loads the stored locks. If a server is unavailable, they follow later, with its changes.
pub(super) fn load_locks(
    locks: &ActiveLocks,
    store: &dyn Store,
    clock: &Clock,
) -> Result<(), StoreError> {
    match store.locks() {
        Ok(stored) => locks.load(stored, clock.timestamp()),
        Err(StoreError::Unavailable(_)) if store.is_remote() => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Applies the changes of other processes.
pub(super) fn follow(
    store: &dyn Store,
    revisions: Arc<Revisions>,
    locks: Arc<ActiveLocks>,
    clock: Clock,
) {
    store.subscribe(Box::new(move |change| match change {
        ChangeEvent::Key(id) => revisions.key_changed(id),
        ChangeEvent::Org(id) => revisions.org_changed(id),
        ChangeEvent::Locks(changes) => locks.apply(changes, clock.timestamp()),
        ChangeEvent::AllLocks(stored) => locks.apply_all(stored, clock.timestamp()),
        ChangeEvent::Everything => revisions.everything_changed(),
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_postgresql_are_databases_with_any_driver() {
        for url in [
            "postgres://h/d",
            "postgresql://u:hunter2@h/d",
            "PostgreSQL://h/d",
            "postgresql+asyncpg://u:hunter2@h/d?sslmode=require",
            "postgres+psycopg2://h/d",
            " postgres://h/d\n",
        ] {
            let storage = Storage::of(Path::new(url)).unwrap();
            assert!(!format!("{storage:?}{:?}", storage.shown()).contains("hunter2"));
            let Storage::Postgres(url) = storage else {
                panic!("{url} is a file");
            };
            let url = String::from_utf8_lossy(url.expose()).into_owned();
            assert!(
                url.starts_with("postgresql://") && url.contains("h/d"),
                "{url}"
            );
        }
    }

    #[test]
    fn other_urls_are_rejected_and_not_shown() {
        for (url, scheme) in [
            ("mysql://u:hunter2@h/d", Some("mysql")),
            ("sqlite+aiosqlite:///hunter2.db", Some("sqlite+aiosqlite")),
            ("postgre://u:hunter2@h/d", Some("postgre")),
            ("redis://:hunter2@h", Some("redis")),
            ("\"postgres://u:hunter2@h/d\"", None),
            ("postgres:/u:hunter2@h/d", None),
            ("postgresql:u:hunter2@h/d", None),
            ("jdbc:postgresql://u:hunter2@h/d", None),
            ("u:hunter2@h/d", None),
            ("my_user:hunter2@h/d", None),
            ("host=h user=u password=hunter2", None),
            ("dbname = x password = hunter2", None),
            ("Host=h;Password=hunter2", None),
            ("Server = h; User Id = u; Pwd = hunter2", None),
            ("postgres//u:hunter2@h/d", None),
            ("a/b/u:hunter2@h", None),
            ("u:hunter2://h", None),
        ] {
            let error = Storage::of(Path::new(url)).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
            assert!(
                matches!(&error, OpenError::UnknownUrl { scheme: found } if found.as_deref() == scheme),
                "{error:?}"
            );
        }
    }

    #[test]
    fn paths_are_files() {
        for path in [
            "keyguard.redb",
            "./a:b",
            "/var/a:b/c",
            "/var/a:b@c/d",
            "./a:b@c",
            "a@b/c",
            "a=b/c = d",
            "C:\\kg.redb",
            "a b/c",
            "",
        ] {
            assert!(
                matches!(Storage::of(Path::new(path)), Ok(Storage::File(_))),
                "{path}"
            );
        }
    }
}
