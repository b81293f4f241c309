//! Which backends a guard stands on: a data file or PostgreSQL, memory or Redis.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::config::Config;
use super::key_cache::Revisions;
use super::lockouts::Lockouts;
use crate::input::InvalidInput;
#[cfg(feature = "redis")]
use crate::limiter::RedisLimiter;
use crate::limiter::{Limiter, MemoryLimiter};
use crate::model::Secret;
use crate::store::{ChangeEvent, OpenError, RedbStore, Store, StoreError};
#[cfg(feature = "postgres")]
use crate::store::{PostgresOptions, PostgresStore};
use crate::time::Clock;

/// Where organizations and keys are.
#[derive(Debug)]
pub(crate) enum Storage<'f> {
    File(&'f Path),
    /// The URL of a database, as its client reads it. It may hold a password.
    #[cfg_attr(not(feature = "postgres"), allow(dead_code))]
    Postgres(Secret),
}

impl<'f> Storage<'f> {
    /// The storage at a path, which may be a URL.
    ///
    /// # Errors
    /// [`OpenError::UnknownUrl`] for a URL of something else, and for what may be a mistyped URL.
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

    /// A name for errors: a URL may hold a password.
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
    Storage::of(path).is_ok_and(|place| place.is_server())
}

/// `postgres` or `postgresql`, in any case, alone or with the driver that SQLAlchemy takes.
fn is_postgres(scheme: &str) -> bool {
    let name = scheme.split('+').next().unwrap_or_default();
    let mut known = ["postgres", "postgresql"].into_iter();
    is_scheme(scheme) && known.any(|known| name.eq_ignore_ascii_case(known))
}

/// As RFC 3986 §3.1 writes it. One letter is a drive.
fn is_scheme(text: &str) -> bool {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
    text.len() > 1 && text.as_bytes()[0].is_ascii_alphabetic() && text.bytes().all(is_allowed)
}

/// Whether a text without `://` may be a mistyped URL, as `postgres:/user:password@host` and
/// `user:password@host` are, or a connection string of libpq, JDBC or .NET. A path that begins with
/// `/` or `.` is no URL.
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

/// Whether a text sets a field of a connection string: a name that is followed by `=`, with or without
/// blanks, in any case.
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

/// The fields of connection strings that name a server, or tell a password.
const FIELDS: [&str; 12] = [
    "host", "hostaddr", "server", "dbname", "database", "user", "username", "id", "uid",
    "password", "pwd", "passfile",
];

/// Nothing but a scheme is shown of a URL: all else may be a password.
fn unknown_url(scheme: Option<&str>) -> OpenError {
    OpenError::UnknownUrl {
        scheme: scheme.filter(|scheme| is_scheme(scheme)).map(str::to_owned),
    }
}

pub(super) fn store(
    place: &Storage<'_>,
    config: &Config,
    secret: &Secret,
) -> Result<Arc<dyn Store>, OpenError> {
    match place {
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

/// `leads` says whether the calendar is that of the limiter's server, as there is no other server.
pub(super) fn limiter(
    config: &Config,
    secret: &Secret,
    leads: bool,
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
    redis_limiter(&url, scheme, config, secret, memory, leads)
}

/// `redis` or `rediss`, alone or with what the servers are together.
fn redis_scheme(url: &str) -> Option<&str> {
    let (scheme, _) = url.split_once("://")?;
    let (client, together) = scheme.split_once('+').unwrap_or((scheme, ""));
    let is_known =
        matches!(client, "redis" | "rediss") && matches!(together, "" | "cluster" | "sentinel");
    is_known.then_some(scheme)
}

#[cfg(feature = "redis")]
fn redis_limiter(
    url: &str,
    _: &str,
    config: &Config,
    secret: &Secret,
    memory: MemoryLimiter,
    leads: bool,
) -> Result<Arc<dyn Limiter>, OpenError> {
    let (deadline, fallback) = (config.backend_deadline, config.limiter_fallback);
    let limiter = RedisLimiter::open(url, secret, deadline, fallback, memory)?;
    if leads {
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

/// The locks of a store. Those of a server that cannot be reached yet come later, with its changes.
pub(super) fn load_locks(
    lockouts: Lockouts,
    store: &dyn Store,
    clock: &Clock,
) -> Result<Lockouts, StoreError> {
    match store.locks() {
        Ok(locks) => lockouts.load(locks, clock.timestamp()),
        Err(StoreError::Unavailable(_)) if store.is_remote() => {}
        Err(error) => return Err(error),
    }
    Ok(lockouts)
}

/// Puts in force what others change in the store.
pub(super) fn follow(
    store: &dyn Store,
    revisions: Arc<Revisions>,
    lockouts: Arc<Lockouts>,
    clock: Clock,
) {
    store.subscribe(Box::new(move |change| match change {
        ChangeEvent::Key(id) => revisions.key_changed(id),
        ChangeEvent::Org(id) => revisions.org_changed(id),
        ChangeEvent::Locks(changes) => lockouts.apply(changes, clock.timestamp()),
        ChangeEvent::AllLocks(locks) => lockouts.apply_all(locks, clock.timestamp()),
        ChangeEvent::Everything => revisions.everything_changed(),
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_postgresql_is_a_database_whatever_its_driver() {
        for url in [
            "postgres://h/d",
            "postgresql://u:hunter2@h/d",
            "PostgreSQL://h/d",
            "postgresql+asyncpg://u:hunter2@h/d?sslmode=require",
            "postgres+psycopg2://h/d",
            " postgres://h/d\n",
        ] {
            let place = Storage::of(Path::new(url)).unwrap();
            assert!(!format!("{place:?}{:?}", place.shown()).contains("hunter2"));
            let Storage::Postgres(url) = place else {
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
    fn other_urls_are_neither_files_nor_shown() {
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
