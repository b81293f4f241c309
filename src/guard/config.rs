//! Configuration of a guard.

use std::path::PathBuf;
use std::time::Duration;

use super::fields::RateLimitHeaders;
use super::warnings::WarningLog;
use crate::input::{self, FirstError, InvalidInput, require};
use crate::limiter::Fallback;
use crate::log::{Event, Log};
use crate::model::{KeyPrefix, Secret};
use crate::policy::Policy;
use crate::sink::{SharedSink, UsageSink};
use crate::time::{Clock, TimeZone};

/// The configuration of a [`KeyGuard`](crate::KeyGuard), checked when it is opened. Setters take values
/// or their text and never fail.
///
/// ```
/// use keyguard::Config;
/// let config = Config::new("a long random secret").default_rate_limit_per_minute(120);
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Config {
    pub(super) secret: Option<Secret>,
    #[cfg(feature = "legacy")]
    pub(super) legacy_secret: Option<Secret>,
    /// May contain a password.
    pub(super) redis_url: Option<Secret>,
    pub(super) backend_deadline: Duration,
    pub(super) max_key_staleness: Duration,
    pub(super) max_database_connections: usize,
    pub(super) limiter_fallback: Fallback,
    pub(super) admin_key: Option<Secret>,
    pub(super) secret_as_admin_key: bool,
    pub(crate) default_rate_limit_per_minute: u32,
    pub(super) lockout_threshold: u32,
    pub(crate) key_header: String,
    pub(crate) key_prefix: KeyPrefix,
    pub(super) rate_limit_headers: RateLimitHeaders,
    pub(super) record_usage: bool,
    pub(super) usage_retention: Duration,
    pub(super) usage_queue_capacity: usize,
    pub(super) usage_sink: Option<SharedSink>,
    pub(super) usage_sink_only: bool,
    pub(super) key_cache_capacity: usize,
    pub(super) max_tracked_keys: usize,
    pub(super) max_locks: usize,
    pub(super) max_tracked_ips: usize,
    pub(super) file_cache_bytes: usize,
    pub(super) time_zone: TimeZone,
    pub(super) quota_time_zone: TimeZone,
    pub(super) policy: Policy,
    pub(super) policy_file: Option<PathBuf>,
    pub(super) reload_on_hangup: bool,
    pub(super) on_warning: WarningLog,
    pub(super) log: Log,
    pub(crate) socket: bool,
    /// The URLs that get events.
    pub(crate) webhooks: Vec<String>,
    pub(super) clock: Clock,
    error: FirstError,
}

/// All defaults. [`KeyGuard::open`](crate::KeyGuard::open) documents where the secret is found.
impl Default for Config {
    fn default() -> Self {
        Self {
            secret: None,
            #[cfg(feature = "legacy")]
            legacy_secret: None,
            redis_url: None,
            backend_deadline: Duration::from_millis(50),
            max_key_staleness: Duration::from_secs(60),
            max_database_connections: 8,
            limiter_fallback: Fallback::Local,
            admin_key: None,
            secret_as_admin_key: false,
            default_rate_limit_per_minute: 60,
            lockout_threshold: 100,
            key_header: "X-API-Key".to_owned(),
            key_prefix: KeyPrefix::default(),
            rate_limit_headers: RateLimitHeaders::default(),
            record_usage: true,
            usage_retention: Duration::from_secs(30 * 86_400),
            usage_queue_capacity: 262_144,
            usage_sink: None,
            usage_sink_only: false,
            key_cache_capacity: 131_072,
            max_tracked_keys: 262_144,
            max_locks: 65_536,
            max_tracked_ips: 131_072,
            file_cache_bytes: 64 << 20,
            time_zone: TimeZone::system(),
            quota_time_zone: TimeZone::utc(),
            policy: Policy::default(),
            policy_file: None,
            reload_on_hangup: false,
            on_warning: WarningLog::new(|_| {}),
            log: Log::of_application(),
            socket: true,
            webhooks: Vec::new(),
            clock: Clock::system(),
            error: FirstError::default(),
        }
    }
}

impl Config {
    /// Creates a configuration with this secret and defaults for all other settings.
    pub fn new(secret: impl Into<Secret>) -> Self {
        Self {
            secret: Some(secret.into()),
            ..Self::default()
        }
    }

    /// The secret of the Python package of the same name, with which the hashes of imported keys were
    /// computed. These keys are accepted unchanged, in the key header or as a bearer token. Each is
    /// rehashed after its first use. Default: none.
    ///
    /// Imported keys have no checksum, so with this secret a malformed key costs up to two look-ups in
    /// the store, like an unknown key. Keep the secret while such keys are in use, even if all are
    /// rehashed: without it, they are refused as malformed. [Rotation](crate::Admin::rotate_key) replaces an
    /// imported key with one that does not need the secret.
    #[cfg(feature = "legacy")]
    #[cfg_attr(docsrs, doc(cfg(feature = "legacy")))]
    pub fn legacy_secret(mut self, secret: impl Into<Secret>) -> Self {
        self.legacy_secret = Some(secret.into());
        self
    }

    /// The Redis server for limits shared by several processes. Default: none; limits are kept in
    /// this process. Requires the feature `redis`.
    ///
    /// | URL | connects to |
    /// |---|---|
    /// | `redis://HOST:PORT/DB`, `rediss://…` with TLS | one server |
    /// | `redis+cluster://HOST:PORT,HOST:PORT`, `rediss+cluster://…` | a cluster, through any of these nodes |
    /// | `redis+sentinel://HOST:PORT,HOST:PORT/MASTER/DB`, `rediss+sentinel://…` | the master of this name, found through Sentinels |
    ///
    /// User name and password precede the first host: `redis://:PASSWORD@HOST`.
    pub fn redis_url(mut self, url: impl Into<String>) -> Self {
        self.redis_url = Some(Secret::from(url.into()));
        self
    }

    /// Maximum time that a decision waits for PostgreSQL and Redis together, at least 1 ms.
    /// Default: 50 ms. Has no effect without the features `postgres` and `redis`.
    pub fn backend_deadline(mut self, wait: Duration) -> Self {
        self.backend_deadline = wait;
        self
    }

    /// Maximum time that cached keys are accepted while PostgreSQL is unreachable, at least 1 s. A
    /// revocation by another process may be unknown for that long. Afterwards requests are refused
    /// with status 503. Default: 1 minute. Has no effect without the feature `postgres`.
    pub fn max_key_staleness(mut self, time: Duration) -> Self {
        self.max_key_staleness = time;
        self
    }

    /// Maximum number of connections to PostgreSQL for look-ups and changes, at least 1. One more
    /// connection listens for changes. Default: 8. Has no effect without the feature `postgres`.
    pub fn max_database_connections(mut self, most: usize) -> Self {
        self.max_database_connections = most;
        self
    }

    /// How limits are enforced while Redis does not respond in time. Default: [`Fallback::Local`].
    /// Has no effect without the feature `redis`.
    pub fn limiter_fallback(mut self, fallback: Fallback) -> Self {
        self.limiter_fallback = fallback;
        self
    }

    /// The key of the HTTP admin service, at least 16 bytes. Default: a key derived from the secret,
    /// which `keyguard admin-key` prints. Has no effect without the feature `http`.
    pub fn admin_key(mut self, key: impl Into<Secret>) -> Self {
        self.admin_key = Some(key.into());
        self
    }

    /// Whether the admin service also accepts the secret itself. Anyone who intercepts the secret can
    /// use it to verify guessed keys against a stolen data file. Default: `false`. Has no effect without
    /// the feature `http`.
    pub fn secret_as_admin_key(mut self, accept: bool) -> Self {
        self.secret_as_admin_key = accept;
        self
    }

    /// Requests admitted in any 60 seconds with keys that are created without a rate limit of their own,
    /// at least 1. Default: 60.
    pub fn default_rate_limit_per_minute(mut self, requests: u32) -> Self {
        self.default_rate_limit_per_minute = requests;
        self
    }

    /// Maximum number of failed authentications of an address per hour, at least 1. One more locks the
    /// address out for the first of [`Lockout::steps`](crate::Lockout::steps), by default 24 hours.
    /// [`Lockout::threshold`](crate::Lockout::threshold) overrides this setting. Default: 100.
    ///
    /// An address is an IPv4 address or an IPv6 /64. Malformed and unknown keys lock it out of all
    /// requests; requests without a key lock it out of further requests without a key. The two kinds
    /// are counted separately. Revoked and expired keys and browsers' preflight requests do not count.
    ///
    /// Two kinds of addresses are treated as proxies and not locked out: a private peer that sends
    /// forwarding headers while no proxy is trusted, and an address from which keys of two
    /// organizations were accepted, for different clients in the forwarding headers, within an hour of
    /// a failure. Forwarding headers alone are not enough, because attackers can send them.
    /// [`Stats::warnings`](crate::Stats::warnings) says how to trust the proxy in the policy. Then each
    /// client is counted and locked out separately.
    pub fn lockout_threshold(mut self, failures: u32) -> Self {
        self.lockout_threshold = failures;
        self
    }

    /// The header field that contains the key. Default: `X-API-Key`.
    pub fn key_header(mut self, name: impl Into<String>) -> Self {
        self.key_header = name.into();
        self
    }

    /// The prefix of keys created without a prefix of their own. Default: `kg_live_`.
    pub fn key_prefix(
        mut self,
        prefix: impl TryInto<KeyPrefix, Error: Into<InvalidInput>>,
    ) -> Self {
        let prefix = self.error.valid("key_prefix", prefix);
        self.key_prefix = prefix.unwrap_or_default();
        self
    }

    /// The header fields that tell clients about limits, in [`Grant::headers`](crate::Grant::headers) and
    /// [`Denial::headers`](crate::Denial::headers). `Retry-After` is always sent. Default:
    /// [`RateLimitHeaders::Both`].
    pub fn rate_limit_headers(mut self, headers: RateLimitHeaders) -> Self {
        self.rate_limit_headers = headers;
        self
    }

    /// Whether requests are recorded. Otherwise totals, `last_used_at` and metrics of decisions are not
    /// updated; limits and quotas are still enforced. Default: `true`.
    pub fn record_usage(mut self, record: bool) -> Self {
        self.record_usage = record;
        self
    }

    /// How long individual requests are kept, at least one minute. Totals are kept longer. Default: 30
    /// days.
    pub fn usage_retention(mut self, keep: Duration) -> Self {
        self.usage_retention = keep;
        self
    }

    /// Maximum number of requests waiting to be written, at least 1,024. Further ones are dropped and
    /// counted. Each takes about 100 bytes. While a full queue is written, memory holds up to twice as
    /// many. Each thread that records requests has 16 KiB in addition. Default: 262,144.
    pub fn usage_queue_capacity(mut self, requests: usize) -> Self {
        self.usage_queue_capacity = requests;
        self
    }

    /// A sink that also receives individual requests, including refusals without a known key. It does not
    /// change what the data file keeps. Default: none.
    pub fn usage_sink(mut self, sink: impl UsageSink + 'static) -> Self {
        self.usage_sink = Some(SharedSink::new(sink));
        self
    }

    /// Whether individual requests go only to the sink and not to the store. Then
    /// [`Admin::list_usage`](crate::Admin::list_usage) lists no new requests; totals are still kept.
    /// Requires [`Config::usage_sink`]. Default: `false`.
    pub fn usage_sink_only(mut self, only: bool) -> Self {
        self.usage_sink_only = only;
        self
    }

    /// Maximum number of cached keys, at least 16. Other keys are read from the file when used. Each
    /// takes about 500 bytes. Default: 131,072.
    pub fn key_cache_capacity(mut self, keys: usize) -> Self {
        self.key_cache_capacity = keys;
        self
    }

    /// Maximum number of keys, and organizations with limits, whose limits are tracked at a time, at
    /// least [`Config::key_cache_capacity`]. A key is tracked while one of its windows contains a hit.
    /// Requests beyond this capacity get status 503. Each entry takes about 250 bytes at a limit of 60
    /// per minute. Default: 262,144.
    pub fn max_tracked_keys(mut self, keys: usize) -> Self {
        self.max_tracked_keys = keys;
        self
    }

    /// Maximum number of locks, at least 16. When it is reached, the automatic locks of the /24 (IPv4)
    /// and /48 (IPv6) networks with the most of them, at least 8 each, are merged into one lock of the
    /// network, until a sixteenth of the capacity is free. Manual locks are not merged. If no locks can
    /// be merged, no further address is locked out, and [`Stats::rejected_locks`](crate::Stats) counts it.
    /// Each lock takes about 300 bytes. Default: 65,536.
    pub fn max_locks(mut self, locks: usize) -> Self {
        self.max_locks = locks;
        self
    }

    /// Maximum number of addresses tracked for limits and failed authentications, at least 16. New
    /// addresses evict those that are farthest from their limits, but never an address that a limit
    /// refuses, that has failures above half the threshold, or that is nearer to its limits than the
    /// new one. New addresses that can evict none share a budget of 8 times each limit and are not
    /// locked out for exceeding it. An address takes about 150 bytes, plus about 80 for each further
    /// limit that it has used, plus about 2 for each counted request.
    ///
    /// The number of windows is at most 9 times the number of addresses, or 8 times plus 1,024 if that
    /// is more, for any number of limits. In total this takes about 1,700 bytes per address (rounded up
    /// to a power of two) plus 170 KB, without the counted requests. When all windows are in use, a
    /// request that needs another one is refused with status 503 (`overloaded`). Failed
    /// authentications are always counted. Default: 131,072.
    pub fn max_tracked_ips(mut self, addresses: usize) -> Self {
        self.max_tracked_ips = addresses;
        self
    }

    /// The time zone of times of day in a [`LockDuration`](crate::LockDuration), for locks and
    /// overrides. Default: the system's.
    pub fn time_zone(mut self, zone: impl TryInto<TimeZone, Error: Into<InvalidInput>>) -> Self {
        if let Some(zone) = self.error.valid("time_zone", zone) {
            self.time_zone = zone;
        }
        self
    }

    /// The time zone of the days and months of quotas. A change takes effect after the current day or
    /// month. Default: UTC.
    pub fn quota_time_zone(
        mut self,
        zone: impl TryInto<TimeZone, Error: Into<InvalidInput>>,
    ) -> Self {
        if let Some(zone) = self.error.valid("quota_time_zone", zone) {
            self.quota_time_zone = zone;
        }
        self
    }

    /// Protected paths, routes, limits and trusted addresses. Default: every path is protected and no
    /// proxy is trusted.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// A TOML file of at most 4 MiB with the policy. Overrides [`Config::policy`]. Read when the guard is
    /// opened, by [`Admin::reload`](crate::Admin::reload), and by the command `keyguard reload`.
    pub fn policy_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.policy_file = Some(file.into());
        self
    }

    /// Whether SIGHUP reloads the policy file, within about 200 ms. An invalid file changes nothing and
    /// is reported in [`Stats::warnings`](crate::Stats::warnings). While the reload cannot be entered in the
    /// audit log, the policy in force stays. Default: `false`; the signal is not handled.
    pub fn reload_on_hangup(mut self, reload: bool) -> Self {
        self.reload_on_hangup = reload;
        self
    }

    /// A function that logs warnings. Called once for each new text of
    /// [`Stats::warnings`](crate::Stats::warnings) in this process, such as an invalid policy file, on
    /// a thread of its own, so it may block. Default: none. With the feature `tracing`, warnings are events,
    /// too.
    ///
    /// ```
    /// let config = keyguard::Config::default().on_warning(|text| eprintln!("warning: {text}"));
    /// ```
    pub fn on_warning(mut self, log: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.on_warning = WarningLog::new(log);
        self
    }

    /// Whether the command line can manage the data file while it is open, through a Unix socket that
    /// is private to the user. Has no effect on systems without Unix sockets. Default: `true`.
    ///
    /// The socket is `<file>.sock`. If that path is longer than about 95 bytes or its directory is not
    /// writable, the socket is in a private directory, `/run/user/<uid>` or `/tmp/keyguard-<uid>`. If
    /// neither can be used, [`Stats::warnings`](crate::Stats::warnings) reports it.
    pub fn socket(mut self, listen: bool) -> Self {
        self.socket = listen;
        self
    }

    /// The size of the page cache of the data file, in bytes. Default: 64 MiB.
    pub fn file_cache_bytes(mut self, bytes: usize) -> Self {
        self.file_cache_bytes = bytes;
        self
    }

    /// The clock. Default: the system's. Its calendar time follows PostgreSQL, or Redis without
    /// PostgreSQL, if these are used.
    pub fn clock(mut self, clock: impl Into<Clock>) -> Self {
        self.clock = clock.into();
        self
    }

    /// The log, in place of that of the application.
    #[cfg(feature = "serve")]
    pub(crate) fn log(mut self, log: Log) -> Self {
        self.log = log;
        self
    }

    /// The webhooks that get events. Only with a data file and limits in memory.
    #[cfg(feature = "serve")]
    pub(crate) fn webhooks(mut self, urls: Vec<String>) -> Self {
        self.webhooks = urls;
        self
    }

    /// Logs warnings by [`Config::on_warning`] and in the log.
    pub(super) fn warning_log(&self) -> WarningLog {
        let (on_warning, log) = (self.on_warning.clone(), self.log.clone());
        WarningLog::new(move |text| {
            log.emit(&Event::Warning { text });
            on_warning.log(text);
        })
    }

    pub(super) fn validate(&self) -> Result<(), InvalidInput> {
        const MILLISECOND: Duration = Duration::from_millis(1);
        const SECOND: Duration = Duration::from_secs(1);
        const MINUTE: Duration = Duration::from_secs(60);

        let per_minute = self.default_rate_limit_per_minute;
        let connections = self.max_database_connections;
        let admin_key = self.admin_key.as_ref().map(Secret::expose);
        self.error.check()?;
        input::limit("default_rate_limit_per_minute", per_minute)?;
        input::at_least_one("lockout_threshold", self.lockout_threshold)?;
        input::field_name("key_header", &self.key_header)?;
        require(
            "key_header",
            !self.key_header.eq_ignore_ascii_case("authorization"),
            "keys are always read from `Authorization: Bearer`; expected another field",
        )?;
        at_least(
            "backend_deadline",
            self.backend_deadline,
            MILLISECOND,
            "1 ms",
        )?;
        at_least("max_key_staleness", self.max_key_staleness, SECOND, "1 s")?;
        at_least("max_database_connections", connections, 1, "1")?;
        #[cfg(feature = "legacy")]
        require(
            "legacy_secret",
            !self.legacy_secret.as_ref().is_some_and(Secret::is_blank),
            "is blank; expected the secret of the Python package, or none",
        )?;
        require(
            "admin_key",
            admin_key.is_none_or(|key| key.len() >= 16),
            "expected at least 16 bytes, or none for a key derived from the secret",
        )?;
        require(
            "quota_time_zone",
            self.quota_time_zone.is_known(),
            "the system's time zone is unknown; expected a name such as `Europe/Berlin` or `UTC`",
        )?;
        at_least("usage_retention", self.usage_retention, MINUTE, "1 minute")?;
        require(
            "usage_sink_only",
            !self.usage_sink_only || self.usage_sink.is_some(),
            "would discard all requests; set `usage_sink`, or record them in the store",
        )?;
        at_least(
            "usage_queue_capacity",
            self.usage_queue_capacity,
            1_024,
            "1,024",
        )?;
        at_least("key_cache_capacity", self.key_cache_capacity, 16, "16")?;
        require(
            "max_tracked_keys",
            self.max_tracked_keys >= self.key_cache_capacity,
            "expected at least `key_cache_capacity`",
        )?;
        at_least("max_locks", self.max_locks, 16, "16")?;
        at_least("max_tracked_ips", self.max_tracked_ips, 16, "16")
    }
}

fn at_least<T: PartialOrd>(
    field: &'static str,
    value: T,
    least: T,
    shown: &str,
) -> Result<(), InvalidInput> {
    require(field, value >= least, format!("expected at least {shown}"))
}
